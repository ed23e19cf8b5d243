# SPDX-License-Identifier: LGPL-2.1-or-later
"""By a deadline, on a fake machine and on the command line."""

from __future__ import annotations

import contextlib
import json
import re
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import hibprep.machine
from hibprep import bydeadline, cli, rates, session
from hibprep import prepare as engine
from hibprep.bydeadline import Settled, prepare_by, settle_by
from hibprep.cli import by_deadline, common
from hibprep.cli.by_deadline import parse_deadline, running_seconds
from hibprep.clock import SystemClock
from hibprep.config import Config
from hibprep.deadline import Verdict
from hibprep.kernel.cgroup import find_cgroup2
from hibprep.kernel.root import KernelRoot
from hibprep.machine import Machine
from hibprep.model import Ending, Limits, Plan, Report, Stage, Target, TargetKind
from tests.fakes.harness import FakeClock, FakeStop, FakeWorker
from tests.fakes.machine import FakeMachine, FakeRoot
from tests.fakes.state import GIB, AnonSet, FakeCgroup, FakeSwap
from tests.unit.examples import AFTER, BEFORE, FIT, PLAN, UNFIT
from tests.unit.examples import REPORT as UNFITTING

REPORT = replace(UNFITTING, fit_after=FIT)

# --- when it is -----------------------------------------------------------------------------------

NOW = datetime(2026, 11, 22, 4, 0, tzinfo=UTC)


@dataclass
class Clock:
    def monotonic(self) -> float:
        return 1000.0

    def boottime(self) -> float:
        return 1000.0

    def now(self) -> datetime:
        return NOW


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90", 90),
        (" 90s ", 90),
        ("2min", 120),
        ("0.5", 0.5),
        ("2026-11-22T04:01:00Z", 60),
        ("2026-11-22T05:01:30+01:00", 90),
        ("2026-11-22 04:00:00.5+00:00", 0.5),
    ],
)
def test_a_deadline_is_seconds_from_now_or_a_moment(text: str, seconds: float) -> None:
    assert parse_deadline(text, Clock()) == pytest.approx(1000 + seconds)


def test_seconds_count_from_the_start_of_the_command_and_a_moment_does_not() -> None:
    assert parse_deadline("90", Clock(), 2.0) == 1088
    assert parse_deadline("2026-11-22T04:01:00Z", Clock(), 2.0) == 1060


WRONG = [
    ("0", "is no deadline; give seconds from now, such as 90, or a time with its zone"),
    ("-5", "is no deadline"),
    ("nan", "is no deadline"),
    ("soon", "'soon' is no deadline"),
    ("2026-11-22", "is no deadline"),
    ("2026-13-22T04:01:00Z", "is no deadline"),
    ("2026-11-22T04:01:00", "has no time zone; add Z for UTC"),
    ("2026-11-22T03:59:00Z", "is past by 60 s; give a time that is to come"),
    ("2026-11-22T04:00:00Z", "is past by 0 s"),
    ("2029-11-22T04:00:00Z", "is more than a year away"),
]


@pytest.mark.parametrize(("text", "expected"), WRONG)
def test_what_is_none_is_told_with_a_remedy(text: str, expected: str) -> None:
    with pytest.raises(ValueError, match=re.escape(expected)):
        parse_deadline(text, Clock())


@given(st.text(st.characters(codec="ascii")) | st.text())
def test_any_text_is_a_deadline_or_a_value_error(text: str) -> None:
    with contextlib.suppress(ValueError):
        assert 1000 < parse_deadline(text, Clock()) <= 1000 + common.LONGEST_SECONDS


def test_this_process_has_been_running_for_a_while() -> None:
    first = running_seconds(SystemClock())
    assert 0 < first <= running_seconds(SystemClock())


# --- on a fake machine ----------------------------------------------------------------------------


@dataclass
class Bench:
    fake: FakeMachine
    machine: Machine
    stop: FakeStop

    def settle(self, seconds: float) -> Settled:
        return settle_by(self.machine, Limits(), self.fake.now + seconds, measure=False)


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    cold = FakeCgroup("/user.slice", anon=[AnonSet(4 * GIB, idle_seconds=3000)], file_bytes=GIB)
    fake = FakeMachine(
        cgroups=[cold],
        swaps=[FakeSwap("/dev/vdb", 16 * GIB, device="254:16")],
        resume_device="254:16",
        bytes_per_second=300e6,
    )
    root = FakeRoot(fake, tmp_path)
    monkeypatch.setattr(session, "ProcessWorker", lambda *_: FakeWorker(root, fake))
    speeds = {"disk_write_bytes_per_second": 300e6, "shrink_bytes_per_second": 30e6}
    config = Config.model_validate({"rates": speeds})
    machine = Machine(root, config, FakeClock(fake), find_cgroup2(root).tree, "no v2")
    return Bench(fake, machine, FakeStop(fake))


def test_it_is_prepared_in_time_and_comes_as_promised(bench: Bench) -> None:
    begin = bench.fake.now
    needs = bench.settle(10_000).verdict.hibernate_seconds_now
    settled = bench.settle(needs * 0.7)
    verdict = settled.verdict
    assert verdict.fits, verdict.words
    report = prepare_by(bench.machine, settled, stop=bench.stop)
    assert report is not None
    spent = bench.fake.now - begin
    assert bench.fake.now <= settled.prepared_by
    assert spent + report.after.hibernate_seconds <= 1.15 * verdict.total_seconds
    assert report.after.hibernate_seconds == pytest.approx(verdict.hibernate_seconds_after, rel=0.1)
    assert [each.command for each in bench.machine.history.read().reports] == ["prepare"]
    # and how fast it went is kept for the next
    kept = rates.load(KernelRoot(str(bench.machine.root.prefix)))
    assert kept["swap_out_bytes_per_second"][0] == pytest.approx(300e6, rel=0.3)
    assert set(kept) >= {"fixed_prepare_seconds", "drop_bytes_per_second"}


def test_it_ends_by_then_whatever_is_left(bench: Bench) -> None:
    begin = bench.fake.now
    settled = bench.settle(6.0)
    assert not settled.verdict.fits
    report = prepare_by(bench.machine, settled, stop=bench.stop)
    assert report is not None
    assert bench.fake.now - begin <= 6.0
    assert report.ending is Ending.DEADLINE
    assert report.after.hibernate_seconds < settled.verdict.hibernate_seconds_now


def test_nothing_is_run_where_nothing_has_to_be(bench: Bench) -> None:
    settled = bench.settle(10_000)
    assert settled.verdict.target is None
    assert prepare_by(bench.machine, settled, stop=bench.stop) is None
    assert bench.machine.history.read().reports == ()


def test_the_time_between_settling_and_beginning_is_not_there_any_more(bench: Bench) -> None:
    settled = bench.settle(6.0)
    bench.fake.advance(4.0)
    prepare_by(bench.machine, settled, stop=bench.stop)
    assert bench.fake.now <= settled.prepared_by + 0.2


def test_speeds_are_measured_where_they_are_not_known(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[bool] = []
    known = engine.rates_of

    def look(machine: Machine, snapshot: Any, *, measure: bool) -> Any:  # noqa: ANN401
        asked.append(measure)
        return known(machine, snapshot, measure=False)

    monkeypatch.setattr(engine, "rates_of", look)
    settle_by(bench.machine, Limits(), bench.fake.now + 60)
    assert asked == [True]


# --- on the command line --------------------------------------------------------------------------

VERDICT = Verdict(
    fits=True,
    target=Target(TargetKind.SIZE, size_bytes=GIB),
    limits=Limits(cold_wait_seconds=0.0),
    left_seconds=30.0,
    prepare_seconds=17.0,
    expected_seconds=8.0,
    prepare_bytes=2 * GIB,
    hibernate_seconds_now=41.0,
    hibernate_seconds_after=12.0,
    words="hibernation needs 41 s, 30 s are left",
)
HOPELESS = replace(VERDICT, fits=False, words="CANNOT BE MET")
NOTHING = replace(VERDICT, target=None, prepare_bytes=0, words="nothing has to be prepared")


@dataclass
class Desk:
    """What was asked, and what is answered."""

    calls: list[tuple[str, dict[str, Any]]]
    verdict: Verdict = VERDICT
    report: Report = REPORT

    def names(self) -> list[str]:
        return [name for name, _ in self.calls]


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Desk:
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/meminfo").write_text("MemTotal: 8388608 kB\nMemFree: 4194304 kB\n")
    monkeypatch.setenv(common.ROOT_VARIABLE, str(tmp_path))
    monkeypatch.setattr(by_deadline, "running_seconds", lambda _clock: 0.0)
    desk = Desk([])

    def open_machine(prefix: str, config: Config) -> SimpleNamespace:
        root = KernelRoot(prefix)
        return SimpleNamespace(root=root, config=config, recovered=(), clock=SystemClock())

    def settle(_machine: object, limits: Limits, deadline: float, **more: Any) -> Settled:  # noqa: ANN401
        seconds = deadline - SystemClock().monotonic()
        desk.calls.append(("settle", {"limits": limits, "seconds": seconds, **more}))
        return Settled(verdict=desk.verdict, prepared_by=deadline)

    def prepare(_machine: object, settled: Settled, **more: Any) -> Report | None:  # noqa: ANN401
        desk.calls.append(("prepare", {"settled": settled, **more}))
        return desk.report if settled.verdict.target is not None else None

    def make_plan(_machine: object, target: Target, limits: Limits, **more: Any) -> Plan:  # noqa: ANN401
        desk.calls.append(("plan", {"target": target, "limits": limits, **more}))
        return PLAN

    monkeypatch.setattr(hibprep.machine, "open_machine", open_machine)
    monkeypatch.setattr(bydeadline, "settle_by", settle)
    monkeypatch.setattr(bydeadline, "prepare_by", prepare)
    monkeypatch.setattr(engine, "make_plan", make_plan)
    return desk


Capture = pytest.CaptureFixture[str]


def test_prepare_says_first_what_fits_and_then_does_it(desk: Desk, capsys: Capture) -> None:
    assert cli.run(["prepare", "--deadline", "90", "--stages", "sync,cache"]) == 0
    out, err = capsys.readouterr()
    assert out.splitlines()[0] == VERDICT.words
    assert "reclaimed in" in out
    assert err == ""
    asked = desk.calls[0][1]
    assert asked["seconds"] == pytest.approx(90, abs=5)
    assert asked["limits"].stages == (Stage.SYNC, Stage.CACHE)
    assert desk.names() == ["settle", "prepare"]


def test_a_moment_is_taken_as_well(desk: Desk) -> None:
    when = (datetime.now(tz=UTC) + timedelta(seconds=300)).isoformat()
    assert cli.run(["prepare", "--deadline", when, "--json"]) == 0
    assert desk.calls[0][1]["seconds"] == pytest.approx(300, abs=10)


def test_json_has_the_verdict_in_it(desk: Desk, capsys: Capture) -> None:
    assert cli.run(["prepare", "--deadline", "90", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["verdict"]["words"] == VERDICT.words
    assert found["verdict"]["total_seconds"] == 20.0
    assert found["freed"]["anon_bytes"] == REPORT.freed.anon_bytes
    desk.verdict = NOTHING
    assert cli.run(["prepare", "--deadline", "90", "--json"]) == 0
    assert list(json.loads(capsys.readouterr().out)) == ["verdict"]


@pytest.mark.parametrize("command", ["prepare", "prepare --dry-run", "plan"])
def test_what_cannot_be_met_is_3_and_done_as_well_as_can_be(
    command: str, desk: Desk, capsys: Capture
) -> None:
    desk.verdict = HOPELESS
    assert cli.run([*command.split(), "--deadline", "15"]) == 3
    assert capsys.readouterr().out.startswith("CANNOT BE MET\n")
    assert ("prepare" in desk.names()) is (command == "prepare")


@pytest.mark.parametrize("command", ["plan", "prepare --dry-run"])
def test_a_plan_by_a_deadline_changes_and_measures_nothing(
    command: str, desk: Desk, capsys: Capture
) -> None:
    assert cli.run([*command.split(), "--deadline", "30"]) == 0
    out = capsys.readouterr().out
    assert out.startswith(VERDICT.words + "\n")
    assert "Steps:" in out
    assert desk.names() == ["settle", "plan"]
    assert desk.calls[0][1]["measure"] is False
    assert desk.calls[1][1]["target"] == VERDICT.target
    assert desk.calls[1][1]["limits"] == VERDICT.limits
    desk.verdict = NOTHING
    assert cli.run([*command.split(), "--deadline", "30"]) == 0
    assert capsys.readouterr().out == NOTHING.words + "\n"


@pytest.mark.parametrize(
    ("report", "code", "said"),
    [
        (REPORT, 0, ""),
        # the goal was missed by a little, and the hibernation is in time all the same
        (
            replace(REPORT, ending=Ending.EXHAUSTED, after=replace(AFTER, saveable_bytes=3 * GIB)),
            0,
            "",
        ),
        (replace(REPORT, ending=Ending.DEADLINE, after=BEFORE), 3, "hibernation needs 81.5 s"),
        (replace(REPORT, fit_after=UNFIT), 3, UNFIT.reason),
        (replace(REPORT, ending=Ending.INTERRUPTED), 130, ""),
        (replace(REPORT, ending=Ending.UNAVAILABLE), 4, ""),
    ],
)
def test_what_came_otherwise_is_told(
    report: Report, code: int, said: str, desk: Desk, capsys: Capture
) -> None:
    desk.report = report
    assert cli.run(["prepare", "--deadline", "60"]) == code
    err = capsys.readouterr().err
    assert said in err
    assert ("did not come as expected" in err) is bool(said)


BAD = [
    ("prepare --deadline 5 --within 5", "--deadline and --within exclude each other: give one"),
    ("prepare --deadline 5 --target min", "--deadline and --target exclude each other"),
    ("prepare --deadline 5 --timeout 5", "--deadline and --timeout exclude each other"),
    ("prepare --deadline 5 --zram writeback", "--deadline and --zram exclude each other"),
    ("plan --deadline 5 --target min", "--deadline and --target exclude each other"),
    ("plan --deadline 0", "'0' is no deadline; give seconds from now"),
    ("prepare --deadline -1", "'-1' is no deadline"),
    ("prepare --deadline 2026-11-22T04:00:00", "has no time zone; add Z for UTC"),
    ("prepare --deadline 2001-01-01T00:00:00Z", "give a time that is to come"),
]


@pytest.mark.parametrize(("line", "expected"), BAD)
def test_bad_input_is_one_line_and_nothing_is_done(
    line: str, expected: str, desk: Desk, capsys: Capture
) -> None:
    assert cli.run(line.split()) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert expected in err
    assert err.count("\n") == 1
    assert desk.calls == []
