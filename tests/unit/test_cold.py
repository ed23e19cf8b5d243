# SPDX-License-Identifier: LGPL-2.1-or-later
"""`hibprep cold` on a fake kernel: what it finds out, what it changes, how it ends."""

from __future__ import annotations

import errno
import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

import hibprep.machine
import hibprep.prepare
import hibprep.session
from hibprep import cli, cold
from hibprep.cold_report import ColdReport, cold_page, colder_than, span
from hibprep.coldness import AgeRow, CgroupAges, histogram
from hibprep.config import Config
from hibprep.errors import ExitCode, NotPossibleError
from hibprep.kernel.cgroup import find_cgroup2
from hibprep.kernel.damon_around import STAT_ENABLED
from hibprep.kernel.lock import LockedError, RunLock
from hibprep.kernel.lrugen import ENABLED_FILE, GENERATIONS_FILE
from hibprep.machine import Machine
from hibprep.model import MACHINE, Ending, Scope, ScopeKind
from hibprep.page import render
from tests.fakes.harness import FakeClock, FakeStop, FakeWorker
from tests.fakes.machine import FakeMachine, FakeRoot
from tests.fakes.state import GIB, MIB, AnonSet, FakeCgroup, FakeSwap

USERS = "/user.slice"
OLD, MIDDLE, ALWAYS = (f"{USERS}/{name}.service" for name in ("old", "middle", "always"))
SYSTEM = "/system.slice/db.service"


def machine(kernel: tuple[int, int] = (6, 12), **changes: object) -> FakeMachine:
    settings: dict[str, object] = {
        "total_bytes": 4 * GIB,
        "kernel": kernel,
        "cgroups": [
            FakeCgroup(OLD, anon=[AnonSet(300 * MIB, idle_seconds=5)], file_bytes=40 * MIB),
            FakeCgroup(MIDDLE, anon=[AnonSet(200 * MIB, idle_seconds=5)]),
            FakeCgroup(ALWAYS, anon=[AnonSet(100 * MIB, hot=True)]),
            FakeCgroup(SYSTEM, anon=[AnonSet(50 * MIB, idle_seconds=5)]),
        ],
        "swaps": [FakeSwap("/dev/vdb", 8 * GIB, device="254:16")],
        "resume_device": "254:16",
    }
    return FakeMachine(**{**settings, **changes})  # type: ignore[arg-type]


@dataclass
class Bench:
    """A machine, and its worker, which `cold.run` is given instead of a process."""

    fake: FakeMachine
    prefix: Path
    workers: list[FakeWorker] = field(default_factory=list)
    before_write: Callable[[str, str], None] | None = None

    def __post_init__(self) -> None:
        self.root = FakeRoot(self.fake, self.prefix)
        found = find_cgroup2(self.root)
        self.machine = Machine(self.root, Config(), FakeClock(self.fake), found.tree, found.reason)
        self.stop = FakeStop(self.fake)

    def worker(self, *_: object) -> FakeWorker:
        self.workers.append(FakeWorker(self.root, self.fake, self.before_write))
        return self.workers[-1]

    def run(
        self, scope: Scope = MACHINE, *, age: float | None = None, older: float | None = None
    ) -> ColdReport:
        return cold.run(self.machine, scope, self.stop, age_seconds=age, older_than_seconds=older)

    @property
    def agings(self) -> list[str]:
        return [text for path, text in self.fake.writes if path == GENERATIONS_FILE]


Make = Callable[..., Bench]


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Make:
    def bench(kernel: tuple[int, int] = (6, 12), **changes: object) -> Bench:
        found = Bench(machine(kernel, **changes), tmp_path)
        monkeypatch.setattr(cold, "ProcessWorker", found.worker)
        return found

    return bench


def of(report: ColdReport, path: str) -> CgroupAges:
    return next(each for each in report.cgroups if each.path == path)


def least(report: ColdReport, path: str) -> float:
    """From which age on all of the cgroup's anonymous memory is known to be idle."""
    (row,) = (row for row in of(report, path).rows if row.anon_bytes)
    return row.at_least_seconds


@pytest.mark.parametrize("kernel", [(6, 1), (6, 12), (6, 18), (7, 3)])
@pytest.mark.parametrize("was_on", [True, False])
def test_what_is_touched_at_a_known_moment_is_found_there(
    make: Make, kernel: tuple[int, int], *, was_on: bool
) -> None:
    bench = make(kernel, lru_gen=was_on)

    def touch(_path: str, _text: str) -> None:
        # after the first aging of all, before the second
        if len(bench.agings) == 5:
            bench.fake.cgroup(MIDDLE).anon[0].last_used = bench.fake.now

    bench.before_write = touch
    begin = bench.fake.now
    report = bench.run(age=60.0)
    assert report.ending is Ending.DONE
    assert report.agings == cold.AGINGS
    assert 60.0 <= bench.fake.now - begin <= 61.0
    assert 60.0 <= least(report, OLD) <= 61.0
    assert 60.0 <= least(report, SYSTEM) <= 61.0
    assert 30.0 <= least(report, MIDDLE) < 60.0
    assert least(report, ALWAYS) == 0.0
    assert bench.fake.lru_gen is was_on
    assert bench.workers[0].closed


def with_damon_stat(fake: FakeMachine) -> list[str]:
    """DAMON_STAT runs, as it does by default from 6.17 on; what its switch was set to."""
    written = ["Y"]
    fake.readers[STAT_ENABLED] = lambda: f"{written[-1]}\n"
    fake.writers[STAT_ENABLED] = lambda text: written.append(text.strip())
    return written


def test_who_clears_accessed_bits_is_switched_off_meanwhile(make: Make) -> None:
    bench = make((7, 3))
    switch = with_damon_stat(bench.fake)
    while_aging: list[str] = []

    def look(path: str, _text: str) -> None:
        if path == GENERATIONS_FILE:
            while_aging.append(switch[-1])
            # another one would put it back in the middle
            with pytest.raises(LockedError):
                RunLock(bench.root).acquire()

    bench.before_write = look
    report = bench.run(age=60.0)
    assert len(while_aging) == len(bench.agings) > 0
    assert set(while_aging) == {"N"}
    assert switch == ["Y", "N", "Y"]
    assert any("DAMON_STAT" in note for note in report.notes)


def test_who_clears_accessed_bits_is_left_alone_by_reading(make: Make) -> None:
    bench = make((7, 3))
    switch = with_damon_stat(bench.fake)
    bench.run()
    assert switch == ["Y"]


def test_reading_changes_nothing(make: Make) -> None:
    bench = make(generation_ages_seconds=(900.0, 800.0, 700.0, 600.0))
    report = bench.run(older=700.0)
    assert not bench.fake.writes
    assert report.agings == 0
    assert report.cgroups == histogram(cold.lists_of(bench.root, "/"), 4096)
    assert not (bench.prefix / "run").exists()


def test_a_subtree_alone_is_aged_and_told(make: Make) -> None:
    bench = make()
    report = bench.run(Scope(ScopeKind.CGROUP, USERS), age=10.0)
    assert {each.path for each in report.cgroups} == {USERS, OLD, MIDDLE, ALWAYS}
    wanted = {bench.fake.cgroup(path).memcg_id for path in (OLD, MIDDLE, ALWAYS)}
    assert {int(text.split()[1]) for text in bench.agings} == wanted


def test_where_it_is_off_that_is_told_and_what_would_help(make: Make) -> None:
    bench = make((6, 1), lru_gen=False)
    with pytest.raises(NotPossibleError, match=r"switched off.*--age") as caught:
        bench.run()
    assert caught.value.exit_code is ExitCode.IMPOSSIBLE
    assert not bench.fake.writes


def test_where_it_was_off_no_more_is_known_than_was_seen(make: Make) -> None:
    bench = make((6, 1), lru_gen=False, generation_ages_seconds=(900.0, 900.0, 900.0, 900.0))
    report = bench.run(age=20.0)
    assert max(row.at_least_seconds for each in report.cgroups for row in each.rows) <= 21.0
    assert any(ENABLED_FILE in note and "put back" in note for note in report.notes)


@pytest.mark.parametrize(
    ("changes", "words"),
    [({"lru_gen": None}, "CONFIG_LRU_GEN"), ({"debugfs": False}, "mount debugfs")],
)
def test_why_nothing_is_known(make: Make, changes: dict[str, object], words: str) -> None:
    bench = make(**changes)
    with pytest.raises(NotPossibleError, match=words):
        bench.run()


def test_lockdown_is_named(make: Make) -> None:
    bench = make()

    def locked() -> str:
        raise OSError(errno.EPERM, "Operation not permitted")

    bench.fake.readers[GENERATIONS_FILE] = locked
    with pytest.raises(NotPossibleError, match="lockdown"):
        bench.run()


def test_debugfs_that_is_closed_meanwhile_is_told_and_the_setting_put_back(make: Make) -> None:
    bench = make((6, 1), lru_gen=False)

    def refuse(_: str) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    bench.fake.writers[GENERATIONS_FILE] = refuse
    with pytest.raises(NotPossibleError, match="cannot be aged"):
        bench.run(age=10.0)
    assert bench.fake.lru_gen is False
    assert bench.workers[0].closed


def test_the_setting_is_on_record_before_it_is_changed(make: Make) -> None:
    bench = make((6, 1), lru_gen=False)
    on_record: list[str] = []
    write = bench.fake.writers[ENABLED_FILE]

    def look(text: str) -> None:
        on_record.extend(path.read_text() for path in bench.prefix.glob("run/hibprep/knobs-*.json"))
        write(text)

    bench.fake.writers[ENABLED_FILE] = look
    bench.run(age=2.0)
    assert json.loads(on_record[0])["entries"][0]["old"] == "0x0000"
    assert not list(bench.prefix.glob("run/hibprep/knobs-*"))


def test_interrupted_it_says_what_is_known_by_then(make: Make) -> None:
    bench = make((6, 1), lru_gen=False)

    def stop(_path: str, text: str) -> None:
        if len(bench.agings) == 6:
            bench.stop.request("interrupted by SIGINT")

    bench.before_write = stop
    report = bench.run(age=600.0)
    assert report.ending is Ending.INTERRUPTED
    assert report.reason == "interrupted by SIGINT"
    assert report.agings == 1
    assert bench.fake.lru_gen is False
    assert report.cgroups


def test_memory_is_not_aged_where_that_might_have_a_hibernation_refused(make: Make) -> None:
    bench = make(swaps=[FakeSwap("/dev/vdb", 500 * MIB, device="254:16")])
    with pytest.raises(NotPossibleError, match="systemd would refuse"):
        bench.run(age=10.0)
    assert not bench.fake.writes
    assert bench.run().cgroups


@pytest.mark.parametrize("was_on", [True, False])
def test_two_at_once(make: Make, *, was_on: bool) -> None:
    bench = make(lru_gen=was_on)
    with RunLock(bench.root), pytest.raises(LockedError):
        bench.run(age=10.0)
    assert not bench.fake.writes


@pytest.mark.parametrize("was_on", [True, False])
def test_others_may_prepare_between_two_agings(make: Make, *, was_on: bool) -> None:
    """Unless a setting of theirs would be put back under their feet."""
    bench = make(lru_gen=was_on)
    free: list[bool] = []
    wait = bench.stop.wait

    def look(seconds: float) -> bool:
        try:
            with RunLock(bench.root):
                free.append(True)
        except LockedError:
            free.append(False)
        return wait(seconds)

    bench.stop.wait = look  # type: ignore[method-assign]
    bench.run(age=600.0)
    assert free == [was_on, was_on]


# --- what a person reads --------------------------------------------------------------------------


def row(at_least: float, anon_mib: int, file_mib: int = 0, *, evictable: bool = True) -> AgeRow:
    return AgeRow(
        at_least_seconds=at_least,
        at_most_seconds=None,
        anon_bytes=anon_mib * MIB,
        file_bytes=file_mib * MIB,
        evictable=evictable,
    )


CGROUPS = (
    CgroupAges(path="/", rows=(row(4000.0, 0),), looked_seconds=5.0),
    CgroupAges(
        path=SYSTEM,
        rows=(row(90000.0, 20, 300), row(70.0, 30), row(0.0, 7, 9, evictable=False)),
        looked_seconds=12.0,
    ),
    CgroupAges(
        path=OLD,
        rows=(row(400.0, 3000, 1), row(12.0, 50), row(5.0, 8, evictable=False)),
        looked_seconds=5.0,
    ),
)
REPORT = ColdReport(
    version=1,
    taken="2026-11-21T14:02:00+00:00",
    scope="whole machine",
    ending=Ending.DONE,
    reason="",
    aged_seconds=0.0,
    agings=0,
    round_seconds=0.0,
    older_than_seconds=None,
    colder=(),
    cgroups=CGROUPS,
)
AGED = replace(
    REPORT,
    aged_seconds=60.0,
    agings=3,
    round_seconds=0.12,
    cgroups=(
        CgroupAges(
            path=OLD,
            rows=(row(60.1, 3000, 1), row(30.1, 50), row(0.0, 8, evictable=False)),
        ),
    ),
    notes=("/sys/kernel/mm/lru_gen/enabled put back to 0x0000",),
)
OLDER = replace(REPORT, older_than_seconds=5.0, colder=colder_than(CGROUPS, 5.0))
PAGES = {"cold": REPORT, "cold-aged": AGED, "cold-older": OLDER}


@pytest.mark.parametrize("name", PAGES)
def test_plain_lines(name: str, golden: Callable[[str, str], None]) -> None:
    golden(f"{name}.txt", render(cold_page(PAGES[name])))


@pytest.mark.parametrize("name", PAGES)
def test_tables(name: str, golden: Callable[[str, str], None]) -> None:
    text = render(cold_page(PAGES[name]), terminal=True, color=False, width=140)
    golden(f"{name}.table", "\n".join(line.rstrip() for line in text.splitlines()) + "\n")


def test_an_old_look_is_told() -> None:
    stale = replace(REPORT, cgroups=(replace(CGROUPS[1], looked_seconds=4000.0),))
    assert "up to 67 min ago" in render(cold_page(stale))


def test_nothing_at_all_is_a_page_too() -> None:
    assert render(cold_page(replace(REPORT, cgroups=()))).startswith(
        "cold (whole machine): 0 Bytes"
    )


@pytest.mark.parametrize(
    ("value", "text"), [(10.0, "10 s"), (2.5, "2.5 s"), (90.0, "90 s"), (300.0, "5 min"),
                        (7200.0, "2 h"), (86400.0, "1 d")],
)  # fmt: skip
def test_spans(value: float, text: str) -> None:
    assert span(value) == text


# --- the command ----------------------------------------------------------------------------------


@pytest.fixture
def typed(make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    """`hibprep cold` on that machine."""
    bench = make()
    monkeypatch.setenv("HIBPREP_ROOT", str(tmp_path))
    monkeypatch.setattr(hibprep.machine, "open_machine", lambda *_: bench.machine)
    return bench


Capture = pytest.CaptureFixture[str]


def test_one_object(typed: Bench, capsys: Capture) -> None:
    assert cli.run(["cold", "--older-than", "1min", "--json"]) == ExitCode.DONE
    found = json.loads(capsys.readouterr().out)
    assert found["older_than_seconds"] == 60.0
    rows = {each["path"]: each["rows"] for each in found["cgroups"]}
    assert sum(each["anon_bytes"] for each in rows[OLD]) == 300 * MIB
    assert all(isinstance(each["anon_bytes"], int) for each in rows[OLD])


def test_one_cgroup(typed: Bench, capsys: Capture) -> None:
    assert cli.run(["cold", "--cgroup", USERS, "--json"]) == ExitCode.DONE
    found = json.loads(capsys.readouterr().out)
    assert {each["path"] for each in found["cgroups"]} == {USERS, OLD, MIDDLE, ALWAYS}
    assert cli.run(["cold", "--cgroup", "/none"]) == ExitCode.IMPOSSIBLE


@pytest.mark.parametrize(
    ("arguments", "said"),
    [(["--age", "0.5"], "too short"), (["--older-than", "soon"], "'soon' is not a time")],
)
def test_what_is_refused(typed: Bench, capsys: Capture, arguments: list[str], said: str) -> None:
    assert cli.run(["cold", *arguments]) == ExitCode.USAGE
    assert said in capsys.readouterr().err
    assert not typed.fake.writes


def test_exit_codes(typed: Bench, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> ColdReport:
        return replace(REPORT, ending=Ending.INTERRUPTED)

    assert cli.run(["cold"]) == ExitCode.DONE
    typed.fake.readers.pop(GENERATIONS_FILE)
    typed.fake.writers.pop(GENERATIONS_FILE)
    assert cli.run(["cold"]) == ExitCode.IMPOSSIBLE
    assert "mount debugfs" in capsys.readouterr().err
    monkeypatch.setattr(cold, "run", interrupted)
    assert cli.run(["cold"]) == ExitCode.INTERRUPTED


def test_a_stop_before_the_first_aging(make: Make) -> None:
    bench = make()
    bench.stop.request("interrupted by SIGTERM")
    report = bench.run(age=10.0)
    assert report.ending is Ending.INTERRUPTED
    assert not bench.agings
