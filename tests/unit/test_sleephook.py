# SPDX-License-Identifier: LGPL-2.1-or-later
"""Around a sleep: the last pass, what is held, and what is told of it, on a fake machine."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from hibprep import session
from hibprep.config import Config
from hibprep.kernel.cgroup import find_cgroup2
from hibprep.kernel.lock import RunLock
from hibprep.machine import Machine
from hibprep.model import BackendName, Ending, Kind, Report, Stage, Step
from hibprep.sleephook import Before, Leg, after, before, close_lost, worthwhile
from hibprep.sleeprecord import RecordFile
from tests.fakes.harness import FakeClock, FakeStop, FakeWorker
from tests.fakes.machine import FakeMachine, FakeRoot
from tests.fakes.state import GIB, AnonSet, FakeCgroup, FakeSwap
from tests.unit.examples import PLAN


class SleepingClock(FakeClock):
    """CLOCK_BOOTTIME goes on while the machine is asleep."""

    asleep_seconds = 0.0

    def boottime(self) -> float:
        return self.machine.now + self.asleep_seconds


@dataclass
class Sleeper:
    """The machine, and the daemon's or the hook's side of it."""

    fake: FakeMachine
    root: FakeRoot
    clock: SleepingClock
    config: dict[str, object] = field(default_factory=dict)

    @property
    def machine(self) -> Machine:
        tree = find_cgroup2(self.root).tree
        config = Config.model_validate(self.config)
        return Machine(self.root, config, self.clock, tree, "no v2")

    def before(self, leg: Leg = Leg.HIBERNATE) -> Before:
        return before(self.machine, leg, FakeStop(self.fake))

    def kept(self) -> tuple[Report, ...]:
        return self.machine.history.read().reports

    @property
    def record(self) -> RecordFile:
        return RecordFile(str(self.root.prefix))


def sleeper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, **state: object) -> Sleeper:
    cold = FakeCgroup("/user.slice", anon=[AnonSet(4 * GIB, idle_seconds=3000)], file_bytes=GIB)
    fake = FakeMachine(
        cgroups=[cold],
        swaps=[FakeSwap("/dev/vdb", 16 * GIB, device="254:16")],
        resume_device="254:16",
        bytes_per_second=400e6,
        **state,  # type: ignore[arg-type]
    )
    root = FakeRoot(fake, tmp_path)
    monkeypatch.setattr(session, "ProcessWorker", lambda *_: FakeWorker(root, fake))
    return Sleeper(fake, root, SleepingClock(fake))


@pytest.fixture
def asleep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Sleeper:
    return sleeper(tmp_path, monkeypatch)


def test_memory_goes_image_size_is_held_and_all_is_back_and_told_after_it(asleep: Sleeper) -> None:
    asleep.config = {"sleep": {"budget_seconds": 10}}
    usual, free = asleep.fake.image_size_bytes, asleep.fake.free_bytes
    done = asleep.before()
    assert asleep.fake.free_bytes > free + GIB
    held = asleep.fake.image_size_bytes
    assert held != usual
    assert done.journal is not None
    assert asleep.record.path.stat().st_mode & 0o777 == 0o600

    asleep.clock.asleep_seconds = 300
    report, words = after(asleep.machine, done.journal)
    assert asleep.fake.image_size_bytes == usual
    assert report is not None
    assert report.hibernation["slept"] is True
    assert report.hibernation["asleep_seconds"] == 300
    assert report.hibernation["image_size_held_bytes"] == held
    assert any("put back" in line for line in report.knobs)
    assert "back from hibernate, asleep for 300" in words[-1]
    assert [each.command for each in asleep.kept()] == ["sleep"]
    assert not asleep.record.path.exists()
    assert after(asleep.machine) == (None, [])


def test_the_last_pass_ends_with_its_time(asleep: Sleeper) -> None:
    begin = asleep.fake.now
    asleep.before()
    assert asleep.fake.now - begin < 5.5
    record = asleep.record.load()
    assert record is not None
    assert record.report.ending is Ending.DEADLINE


def test_without_any_time_nothing_is_taken_and_image_size_is_held_all_the_same(
    asleep: Sleeper,
) -> None:
    asleep.config = {"sleep": {"budget_seconds": 0}, "target": {"kind": "min"}}
    asleep.fake.swaps[0].size_bytes = 64 * GIB
    free = asleep.fake.free_bytes
    asleep.before()
    assert asleep.fake.free_bytes == free
    assert asleep.record.load() is not None


def test_a_sleep_that_was_refused(asleep: Sleeper) -> None:
    usual = asleep.fake.image_size_bytes
    done = asleep.before()
    report, words = after(asleep.machine, done.journal)
    assert report is not None
    assert report.ending is Ending.FAILED
    assert report.hibernation["slept"] is False
    assert "refused or broke it off" in report.reason
    assert words[-1].startswith("no hibernate: ")
    assert asleep.fake.image_size_bytes == usual
    assert asleep.kept()[-1].ending is Ending.FAILED


def test_a_machine_that_was_started_anew_says_so(asleep: Sleeper) -> None:
    asleep.before()
    assert close_lost(asleep.machine) == []  # it may be on its way
    asleep.fake.add_file("/proc/sys/kernel/random/boot_id", lambda: "another\n")
    (words,) = close_lost(asleep.machine)
    assert "started anew" in words
    assert asleep.kept()[-1].hibernation["slept"] is False
    assert close_lost(asleep.machine) == []


def test_a_record_that_nobody_closed_is_closed_by_the_next_sleep(asleep: Sleeper) -> None:
    asleep.before()
    asleep.before()
    assert len(asleep.kept()) == 1
    assert asleep.record.load() is not None


def test_before_a_suspend_only_what_is_cold_is_taken(asleep: Sleeper) -> None:
    asleep.config = {"target": {"kind": "min"}, "sleep": {"suspend_budget_seconds": 40}}
    warm = AnonSet(GIB, idle_seconds=0.0, hot=True)
    asleep.fake.by_path["/user.slice"].anon.append(warm)
    size = asleep.fake.image_size_bytes
    done = asleep.before(Leg.SUSPEND)
    assert done.journal is None
    assert asleep.fake.image_size_bytes == size
    record = asleep.record.load()
    assert record is not None
    assert Stage.ANON not in {step.stage for step in record.report.steps}
    assert record.report.freed.swapped_out_bytes > GIB
    asleep.clock.asleep_seconds = 60
    report, _ = after(asleep.machine, done.journal)
    assert report is not None
    assert report.hibernation["leg"] == "suspend"


def test_what_another_hibprep_prepares_stands(asleep: Sleeper) -> None:
    usual, free = asleep.fake.image_size_bytes, asleep.fake.free_bytes
    with RunLock(asleep.root):
        done = asleep.before()
    assert any("another hibprep is at work" in line for line in done.words)
    assert asleep.fake.free_bytes == free
    assert asleep.record.load() is None
    assert after(asleep.machine, done.journal)[0] is None
    assert asleep.fake.image_size_bytes == usual


def test_a_record_that_is_none_is_passed_over(asleep: Sleeper) -> None:
    for text in ("", "{", "[]", '{"version":2}', '{"version":1,"record":{"leg":7}}'):
        asleep.record.path.parent.mkdir(parents=True, exist_ok=True)
        asleep.record.path.write_text(text)
        assert asleep.record.load() is None
        assert after(asleep.machine)[0] is None


def test_swapping_out_pays_only_where_it_takes_less_time_than_it_saves() -> None:
    step = Step(
        stage=Stage.ANON, kind=Kind.ANON, scope=PLAN.steps[0].scope, amount_bytes=2 * GIB,
        backend=BackendName.MEMCG,
    )  # fmt: skip
    cache = replace(step, stage=Stage.CACHE, kind=Kind.FILE)
    slow = replace(PLAN.before, hibernate_seconds=80.0)
    plan = replace(
        PLAN, steps=(cache, step), before=slow, after=replace(PLAN.after, hibernate_seconds=14.0)
    )
    rates = replace(plan.rates, disk_write_bytes_per_second=100e6)
    pays, why = worthwhile(replace(plan, rates=rates))
    assert pays.steps == plan.steps
    assert "save 66.0 s for 21.5 s" in why
    rates = replace(plan.rates, disk_write_bytes_per_second=30e6)
    pays, why = worthwhile(replace(plan, rates=rates))
    assert [each.stage for each in pays.steps] == [Stage.CACHE]
    assert "71.6 s of writing would save 66.0 s" in why
    assert worthwhile(replace(plan, steps=(cache,))) == (replace(plan, steps=(cache,)), "")


@pytest.mark.parametrize(("kind", "taken"), [("image_size", False), ("min", True)])
def test_who_wants_a_small_image_has_not_asked_what_it_costs(
    asleep: Sleeper, kind: str, *, taken: bool
) -> None:
    asleep.config = {
        "target": {"kind": kind},
        "sleep": {"budget_seconds": 40},
        "rates": {"disk_write_bytes_per_second": 1e6},
    }
    words = asleep.before().words
    record = asleep.record.load()
    assert record is not None
    assert (record.report.freed.swapped_out_bytes > GIB) is taken
    assert any("nothing more is swapped out" in line for line in words) is not taken


def test_where_all_goes_nobody_waits_until_it_is_cold(asleep: Sleeper) -> None:
    asleep.config = {"target": {"kind": "min"}, "sleep": {"budget_seconds": 40}}
    asleep.before()
    record = asleep.record.load()
    assert record is not None
    stages = {step.stage for step in record.report.steps}
    assert Stage.ANON in stages
    assert Stage.COLD_ANON not in stages
