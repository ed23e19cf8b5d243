# SPDX-License-Identifier: LGPL-2.1-or-later
"""Bringing memory back: what is asked for, in which order, and where it ends. Processes are files,
and whoever reads takes what it is asked for out of free memory."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hibprep import swapin
from hibprep.config import Config
from hibprep.errors import NotPossibleError, UsageError
from hibprep.kernel.cgroup import CgroupTree, find_cgroup2
from hibprep.kernel.members import read_members
from hibprep.kernel.pagemap import PAGE
from hibprep.kernel.root import KernelRoot
from hibprep.machine import Machine
from hibprep.model import MACHINE, Ending, Memory, Scope, ScopeKind, Zone
from hibprep.page import render
from hibprep.ranges import Range, intersect, ordered, subtract, total_bytes
from hibprep.reclaim.base import Stop, WriteResult
from hibprep.remembered import Record, Remembered, Who
from hibprep.report import to_plain
from hibprep.swapin import Bringing, SwapInLimits
from hibprep.swapin_pace import Pace, adapted, reserve_bytes
from hibprep.swapin_report import VERSION, Brought, SwapInProgress, SwapInReport, swapin_page
from hibprep.swapin_survey import Survey, members_of, swap_is_memory
from hibprep.swaporder import Part, Turn
from tests.fakes.clock import HandClock
from tests.fakes.machine import FakeMachine
from tests.fakes.processes import FakeProcess, Mapped
from tests.fakes.state import FakeCgroup, FakeSwap

MIB = 1 << 20
ANNAS = "/user.slice/user-1000.slice/session-1.scope"
ANNA = FakeProcess(7, (Mapped(16, "ssass"), Mapped(100, "sf", "fe:01", 5, "/usr/bin/anna")))
BERT = FakeProcess(8, (Mapped(16, "sss"),), name="bert", cgroup="/system.slice/bert.service")


@dataclass
class FreePace(Pace):
    """Free memory that is told by the test."""

    room: int = 1 << 40
    chunk_bytes: int = 1 << 40
    reserve_bytes: int = 5 * MIB
    own: dict[str, int] = field(default_factory=dict)
    in_need: Callable[[Part], bool] = lambda _part: False
    took_bytes: list[int] = field(default_factory=list)

    def room_bytes(self) -> int:
        return self.room

    def cgroup_room_bytes(self, path: str) -> int | None:
        return self.own.get(path)

    def took(self, chunk_bytes: int, seconds: float) -> None:
        assert seconds >= 0
        self.took_bytes.append(chunk_bytes)

    def give_way(self, part: Part, stop: Stop) -> bool:
        assert not stop.requested()
        return not self.in_need(part)


@dataclass
class Reader:
    """Stands for the child process; `answer` may be another than success."""

    pace: FreePace
    answer: Callable[[int, bool], WriteResult | None] = lambda _pid, _touch: None
    asked: list[tuple[int, list[Range], bool]] = field(default_factory=list)
    least_room: int = 1 << 40

    def fetch(
        self, pid: int, start: int, ranges: Sequence[Range], stop: Stop, *, touch: bool = False
    ) -> WriteResult:
        assert start == 100
        assert ranges
        assert not stop.requested()
        other = self.answer(pid, touch)
        if other is not None:
            return other
        self.asked.append((pid, list(ranges), touch))
        amount = total_bytes(ranges)
        self.pace.room -= amount
        self.least_room = min(self.least_room, self.pace.room)
        return WriteResult(errno=0, seconds=0.01, value=amount)

    def of(self, pid: int, *, touch: bool | None = None) -> list[Range]:
        return ordered(
            each
            for who, ranges, touched in self.asked
            for each in ranges
            if who == pid and touch in (None, touched)
        )


@pytest.fixture
def stop() -> Iterator[Stop]:
    made = Stop(HandClock())
    yield made
    made.close()


def survey_of(root: Path, processes: Sequence[FakeProcess], record: Record | None = None) -> Survey:
    for process in processes:
        process.write(root)
    kernel = KernelRoot(root)
    members = read_members(kernel, [process.pid for process in processes])
    return Survey(kernel, {member.pid: member for member in members}, record)


def record_of(anon: dict[int, Sequence[Sequence[Range]]], **files: Sequence[Range]) -> Record:
    return Record(
        boot="boot",
        taken="2026-01-01T00:00:00+00:00",
        looks=tuple(f"look {index}" for index in range(max(map(len, anon.values()), default=1))),
        processes={
            Who(pid, 100): Remembered(
                name="",
                cgroup="",
                anon=tuple(tuple(part) for part in parts),
                files=tuple(tuple(ranges) for name, ranges in files.items() if name == f"of{pid}"),
            )
            for pid, parts in anon.items()
        },
    )


def pages(*numbers: int) -> list[Range]:
    return ordered((number * PAGE, (number + 1) * PAGE) for number in numbers)


def bring(
    survey: Survey,
    stop: Stop,
    *,
    pace: FreePace | None = None,
    reader: Reader | None = None,
    limits: SwapInLimits | None = None,
    tell: swapin.Tell | None = None,
) -> tuple[Bringing, Reader, swapin.End]:
    pace = pace or FreePace()
    reader = reader or Reader(pace)
    made = Bringing(survey, pace, reader, limits=limits or SwapInLimits(), stop=stop, tell=tell)
    return made, reader, made.run()


# --- what is asked for ----------------------------------------------------------------------------


def test_all_that_is_in_swap(tmp_path: Path, stop: Stop) -> None:
    made, reader, end = bring(survey_of(tmp_path, [ANNA, BERT]), stop)
    assert end == (Ending.DONE, "all that there was")
    # small gaps are asked for too; what was written over a file cannot be had by MADV_WILLNEED
    assert reader.of(7, touch=False) == [(16 * PAGE, 21 * PAGE)]
    assert reader.of(7, touch=True) == pages(100)
    assert reader.of(8) == [(16 * PAGE, 19 * PAGE)]
    assert [pid for pid, _, _ in reader.asked] == [7, 7, 8]  # people before the system
    assert {each.pid: each.left_bytes for each in made.processes()} == {7: 0, 8: 0}


def test_nothing_to_do(tmp_path: Path, stop: Stop) -> None:
    made, reader, end = bring(survey_of(tmp_path, [FakeProcess(7, (Mapped(16, "aa"),))]), stop)
    assert end == (Ending.DONE, "there was nothing to do")
    assert (reader.asked, made.processes()) == ([], ())


def test_the_working_set_is_first_and_the_rest_is_without_it(tmp_path: Path, stop: Stop) -> None:
    process = FakeProcess(7, (Mapped(16, "s" * 40),))
    record = record_of({7: [pages(30), pages(20, 21)]})
    _, reader, _ = bring(survey_of(tmp_path, [process, BERT], record), stop)
    assert [(pid, ranges) for pid, ranges, _ in reader.asked] == [
        (7, pages(30)),
        (7, pages(20, 21)),
        (7, subtract([(16 * PAGE, 56 * PAGE)], pages(20, 21, 30))),
        (8, [(16 * PAGE, 19 * PAGE)]),
    ]


def test_what_has_come_back_by_itself_is_not_asked_for(tmp_path: Path, stop: Stop) -> None:
    process = FakeProcess(7, (Mapped(16, "a" * 20 + "s"),))
    _, reader, _ = bring(
        survey_of(tmp_path, [process], record_of({7: [pages(*range(16, 37))]})), stop
    )
    assert reader.of(7) == pages(36)


def test_a_number_that_was_used_again_has_no_working_set(tmp_path: Path, stop: Stop) -> None:
    record = record_of({7: [pages(30)]}, of7=pages(100))
    survey = survey_of(tmp_path, [FakeProcess(7, (Mapped(16, "s" * 40),), start=101)], record)
    (candidate,) = survey.candidates()
    assert (candidate.looks, candidate.files) == ((), False)


def test_files_that_are_not_there_any_more(tmp_path: Path, stop: Stop) -> None:
    process = FakeProcess(
        7,
        (
            Mapped(16, "s"),
            Mapped(100, "f" + "." * 20, "fe:01", 5, "/usr/bin/anna", "r-xp"),
            Mapped(200, "....", "00:2b", 6, "/run/user/1000/doc", "r--p"),  # some FUSE
        ),
    )
    record = record_of({7: [pages(16)]}, of7=pages(*range(100, 110), *range(200, 204), 300))
    made, reader, end = bring(survey_of(tmp_path, [process], record), stop)
    assert [ranges for _, ranges, _ in reader.asked] == [pages(16), pages(*range(101, 110))]
    (brought,) = made.processes()
    assert (brought.asked_bytes, brought.file_asked_bytes) == (PAGE, 9 * PAGE)
    assert end[0] is Ending.DONE


def test_files_alone_when_swap_is_in_memory(tmp_path: Path, stop: Stop) -> None:
    process = FakeProcess(
        7, (Mapped(16, "s"), Mapped(100, "..", "fe:01", 5, "/usr/bin/anna", "r-xp"))
    )
    record = record_of({7: [pages(16)]}, of7=pages(100))
    pace = FreePace()
    reader = Reader(pace)
    made = Bringing(
        survey_of(tmp_path, [process], record), pace, reader, limits=SwapInLimits(), stop=stop
    )
    assert made.run(anon=False)[0] is Ending.DONE
    assert [ranges for _, ranges, _ in reader.asked] == [pages(100)]


# --- where it ends --------------------------------------------------------------------------------


def test_a_limit(tmp_path: Path, stop: Stop) -> None:
    limits = SwapInLimits(limit_bytes=6 * PAGE + 5)
    made, reader, end = bring(survey_of(tmp_path, [ANNA, BERT]), stop, limits=limits)
    assert end == (Ending.DONE, "as much as was asked for")
    assert made.asked_bytes == 6 * PAGE
    assert reader.of(8) == []


def test_free_memory(tmp_path: Path, stop: Stop) -> None:
    made, reader, end = bring(survey_of(tmp_path, [ANNA, BERT]), stop, pace=FreePace(3 * PAGE))
    assert end == (Ending.LIMIT, "no more than 5 MiB are free, which are left alone")
    assert made.asked_bytes == 3 * PAGE
    assert reader.least_room == 0


def test_a_cgroup_at_its_own_limit_stops_nobody_else(tmp_path: Path, stop: Stop) -> None:
    pace = FreePace(own={ANNAS: 0})
    made, reader, end = bring(survey_of(tmp_path, [ANNA, BERT]), stop, pace=pace)
    assert end[0] is Ending.EXHAUSTED
    assert "limit of memory" in end[1]
    assert (reader.of(7), reader.of(8)) == ([], [(16 * PAGE, 19 * PAGE)])
    assert [each.why_left for each in made.processes()] == [
        "its cgroup is at its own limit of memory", "",
    ]  # fmt: skip


def test_asked_to_stop(tmp_path: Path, stop: Stop) -> None:
    told: list[SwapInProgress] = []

    def tell(progress: SwapInProgress) -> None:
        told.append(progress)
        stop.request("enough")

    made, reader, end = bring(
        survey_of(tmp_path, [BERT]), stop, pace=_Patient(chunk_bytes=2 * PAGE), tell=tell
    )
    assert end == (Ending.INTERRUPTED, "enough")
    assert reader.of(8) == pages(16, 17)
    assert made.asked_bytes == 2 * PAGE
    assert [(each.name, each.done_bytes, each.amount_bytes) for each in told] == [
        ("bert", 2 * PAGE, 3 * PAGE)
    ]


class _Patient(FreePace):
    """Looks away when the stop comes in between."""

    def give_way(self, part: Part, stop: Stop) -> bool:  # noqa: ARG002
        return True


def test_a_reader_that_was_killed_for_the_stop(tmp_path: Path, stop: Stop) -> None:
    def killed(_pid: int, _touch: bool) -> WriteResult:  # noqa: FBT001
        stop.request("enough")
        return WriteResult(errno=0, seconds=0.1, stopped=True)

    pace = FreePace()
    made, _, end = bring(survey_of(tmp_path, [BERT]), stop, reader=Reader(pace, killed), pace=pace)
    assert end == (Ending.INTERRUPTED, "enough")
    assert made.asked_bytes == 0


def test_a_time_that_is_over(tmp_path: Path) -> None:
    clock = HandClock()
    stop = Stop(clock)
    stop.within(5.0)
    clock.go_on(6.0)
    _, reader, end = bring(survey_of(tmp_path, [BERT]), stop)
    stop.close()
    assert end[0] is Ending.DEADLINE
    assert reader.asked == []


def test_others_in_need(tmp_path: Path, stop: Stop) -> None:
    pace = FreePace(in_need=lambda part: part is Part.REST)
    record = record_of({7: [pages(16, 17)]})
    _, reader, end = bring(survey_of(tmp_path, [ANNA, BERT], record), stop, pace=pace)
    assert end == (Ending.LIMIT, "others have to wait for memory")
    assert reader.of(7) >= pages(16, 17)
    assert reader.of(8) == []


def answer(number: int, *, of: int) -> Callable[[int, bool], WriteResult | None]:
    def say(pid: int, _touch: bool) -> WriteResult | None:  # noqa: FBT001
        return WriteResult(errno=number, seconds=0.0) if pid == of else None

    return say


def test_a_process_that_ends_meanwhile_is_not_told_of(tmp_path: Path, stop: Stop) -> None:
    pace = FreePace()
    reader = Reader(pace, answer(errno.ESRCH, of=7))
    made, _, end = bring(survey_of(tmp_path, [ANNA, BERT]), stop, pace=pace, reader=reader)
    assert end[0] is Ending.DONE
    assert [each.pid for each in made.processes()] == [8]


def test_one_that_has_ended_before_its_turn(tmp_path: Path, stop: Stop) -> None:
    survey = survey_of(tmp_path, [ANNA, BERT])
    (tmp_path / "proc/7/maps").unlink()
    made, reader, end = bring(survey, stop)
    assert end[0] is Ending.DONE
    assert [each.pid for each in made.processes()] == [8]
    assert reader.of(8)


def test_one_that_is_closed_to_us(tmp_path: Path, stop: Stop) -> None:
    pace = FreePace()
    reader = Reader(pace, answer(errno.EPERM, of=7))
    made, _, end = bring(survey_of(tmp_path, [ANNA, BERT]), stop, pace=pace, reader=reader)
    assert end == (Ending.EXHAUSTED, "not all could be brought back: Operation not permitted")
    assert [each.asked_bytes for each in made.processes()] == [0, 3 * PAGE]


def test_a_kernel_without_batches(tmp_path: Path, stop: Stop) -> None:
    def old(_pid: int, touch: bool) -> WriteResult | None:  # noqa: FBT001
        return None if touch else WriteResult(errno=errno.EINVAL, seconds=0.0)

    pace = FreePace()
    made, reader, end = bring(
        survey_of(tmp_path, [ANNA, BERT]), stop, pace=pace, reader=Reader(pace, old)
    )
    assert end[0] is Ending.DONE
    assert reader.of(7, touch=True) == [(16 * PAGE, 21 * PAGE), *pages(100)]
    assert reader.of(8, touch=True) == [(16 * PAGE, 19 * PAGE)]
    assert made.notes == ["this kernel reads page by page: in batches from 5.15 on"]


STATES = st.text("as.", min_size=1, max_size=60)


@settings(max_examples=60, deadline=None)
@given(
    states=st.lists(STATES, min_size=1, max_size=3),
    remembered=st.lists(st.lists(st.sets(st.integers(16, 76)), max_size=3), max_size=3),
    room=st.integers(0, 100),
    limit=st.none() | st.integers(1, 100),
    chunk=st.integers(1, 20),
)
def test_bounds(
    tmp_path_factory: pytest.TempPathFactory,
    *,
    states: list[str],
    remembered: list[list[set[int]]],
    room: int,
    limit: int | None,
    chunk: int,
) -> None:
    root = tmp_path_factory.mktemp("root")
    processes = [FakeProcess(7 + at, (Mapped(16, text),)) for at, text in enumerate(states)]
    tiers: dict[int, Sequence[Sequence[Range]]] = {}
    for at, looks in enumerate(remembered):
        found: list[list[Range]] = []
        for look in looks:
            before = ordered(each for part in found for each in part)
            found.append(subtract(pages(*look), before))
        tiers[7 + at] = found
    survey = survey_of(root, processes, record_of(tiers))
    stop = Stop(HandClock())
    pace = FreePace(room * PAGE, chunk_bytes=chunk * PAGE)
    limits = SwapInLimits(limit_bytes=None if limit is None else limit * PAGE)
    made, reader, (ending, _) = bring(survey, stop, pace=pace, limits=limits)
    stop.close()

    asked = sum(total_bytes(ranges) for _, ranges, _ in reader.asked)
    assert asked == made.asked_bytes <= room * PAGE
    assert limit is None or asked <= limit * PAGE
    assert all(total_bytes(ranges) <= chunk * PAGE for _, ranges, _ in reader.asked)
    for process in processes:
        of_it = [ranges for pid, ranges, _ in reader.asked if pid == process.pid]
        swapped = process.ranges("s")
        # no page twice; what is in memory only within small gaps
        assert sum(map(total_bytes, of_it)) == total_bytes(reader.of(process.pid))
        if ending is Ending.DONE and made.asked_bytes != limits.limit_bytes:
            assert intersect(reader.of(process.pid), swapped) == swapped
        for tier, part in enumerate(tiers.get(process.pid, ())):
            turn = Turn(process.pid, Part.WORKING_SET, tier)
            (anon, touched) = survey.pieces(turn)
            assert not touched.ranges
            assert subtract(anon.ranges, part) == []


# --- the pace -------------------------------------------------------------------------------------


def machine(tmp_path: Path, fake: FakeMachine | None = None) -> tuple[KernelRoot, CgroupTree]:
    (fake or FakeMachine()).render(tmp_path)
    root = KernelRoot(tmp_path)
    tree = find_cgroup2(root).tree
    assert tree is not None
    return root, tree


def pace_of(root: KernelRoot, tree: CgroupTree | None, clock: HandClock) -> Pace:
    return Pace(root, tree, clock, page=PAGE, chunk_seconds=0.1, pressure_limit=0.2)


def test_the_reserve_is_what_is_more() -> None:
    memory = Memory(total_bytes=1000 * MIB, free_bytes=0)
    assert reserve_bytes(memory, (), PAGE) == 50 * MIB
    zones = [zone(high_pages=10_000), zone(high_pages=2_000)]
    assert reserve_bytes(memory, zones, PAGE) == 24_000 * PAGE


def zone(high_pages: int) -> Zone:
    return Zone(
        node=0, name="Normal", present_pages=1, managed_pages=1, spanned_pages=1, free_pages=1,
        high_pages=high_pages,
    )  # fmt: skip


@settings(deadline=None)
@given(st.integers(1, 1 << 40), st.floats(0, 100), st.floats(0.01, 1))
def test_chunks_stay_within_bounds(chunk: int, seconds: float, aim: float) -> None:
    found = adapted(chunk, seconds, aim)
    assert MIB <= found <= 64 * MIB
    if seconds > aim:
        assert found <= max(chunk, MIB)


def test_what_is_free_above_the_reserve(tmp_path: Path) -> None:
    root, tree = machine(tmp_path)
    pace = pace_of(root, tree, HandClock())
    meminfo = tmp_path / "proc/meminfo"
    meminfo.write_text(f"MemTotal: 8388608 kB\nMemFree: {(pace.reserve_bytes >> 10) + 100} kB\n")
    assert pace.room_bytes() == 100 << 10
    meminfo.write_text("MemTotal: 8388608 kB\nMemFree: 4 kB\n")
    assert pace.room_bytes() == 0


def test_the_limits_of_cgroups(tmp_path: Path) -> None:
    fake = FakeMachine(
        cgroups=[FakeCgroup("/user.slice", file_bytes=90 * MIB), FakeCgroup("/user.slice/a")]
    )
    root, tree = machine(tmp_path, fake)
    pace = pace_of(root, tree, HandClock())
    assert pace.cgroup_room_bytes("/user.slice/a") is None
    (tmp_path / "sys/fs/cgroup/user.slice/memory.high").write_text(f"{100 * MIB}\n")
    (tmp_path / "sys/fs/cgroup/user.slice/a/memory.max").write_text("max\n")
    assert pace.cgroup_room_bytes("/user.slice/a") == 10 * MIB
    (tmp_path / "sys/fs/cgroup/user.slice/a/memory.max").write_text(f"{4 * MIB}\n")
    assert pace.cgroup_room_bytes("/user.slice/a") == 4 * MIB
    (tmp_path / "sys/fs/cgroup/user.slice/memory.high").write_text("0\n")
    assert pace.cgroup_room_bytes("/user.slice/a") == 0
    assert pace.cgroup_room_bytes("") is None
    assert pace_of(root, None, HandClock()).cgroup_room_bytes("/user.slice/a") is None


class CountingStop(Stop):
    """Waiting is told of and takes no time."""

    def __init__(self, clock: HandClock) -> None:
        super().__init__(clock)
        self.waited: list[float] = []

    def wait(self, seconds: float) -> bool:
        self.waited.append(seconds)
        return self.requested()


@pytest.fixture
def under_pressure(tmp_path: Path) -> Iterator[tuple[Callable[..., bool], CountingStop]]:
    """A second in which somebody was stalled for half of it, with or without direct reclaim."""
    root, _ = machine(tmp_path)
    clock = HandClock()
    pace = pace_of(root, None, clock)
    stop = CountingStop(clock)
    state = {"total": 0, "stall": 0}

    def second(part: Part, *, stalled: float, reclaiming: bool) -> bool:
        clock.go_on(1.0)
        state["total"] += int(stalled * 1e6)
        state["stall"] += reclaiming
        line = f"avg10=0.00 avg60=0.00 avg300=0.00 total={state['total']}\n"
        (tmp_path / "proc/pressure/memory").write_text(f"some {line}full {line}")
        vmstat = (tmp_path / "proc/vmstat").read_text().split("allocstall_normal")[0]
        (tmp_path / "proc/vmstat").write_text(f"{vmstat}allocstall_normal {state['stall']}\n")
        return pace.give_way(part, stop)

    second(Part.REST, stalled=0.0, reclaiming=False)
    yield second, stop
    stop.close()


Second = tuple[Callable[..., bool], CountingStop]


def test_waiting_for_swap_is_no_reason_to_stop_reading_it(under_pressure: Second) -> None:
    second, stop = under_pressure
    for _ in range(50):
        assert second(Part.WORKING_SET, stalled=0.9, reclaiming=False)
    assert stop.waited == []


def test_the_rest_gives_way_to_everybody(under_pressure: Second) -> None:
    second, stop = under_pressure
    assert second(Part.REST, stalled=0.1, reclaiming=False)
    assert stop.waited == []
    for _ in range(50):
        assert second(Part.REST, stalled=0.4, reclaiming=False)
    assert stop.waited == [pytest.approx(0.2)] * 50


def test_who_has_to_reclaim_is_waited_for_and_in_the_end_it_is_over(
    under_pressure: Second,
) -> None:
    second, stop = under_pressure
    goes_on = [second(Part.WORKING_SET, stalled=0.9, reclaiming=True) for _ in range(30)]
    assert goes_on.count(True) >= 10
    assert not goes_on[-1]
    assert len(stop.waited) == 30
    assert second(Part.WORKING_SET, stalled=0.0, reclaiming=False)
    assert second(Part.WORKING_SET, stalled=0.9, reclaiming=True)


# --- a whole run ----------------------------------------------------------------------------------


def test_another_root_has_no_processes(tmp_path: Path, stop: Stop) -> None:
    root, tree = machine(tmp_path)
    made = Machine(root, Config(), HandClock(), tree, "")
    with pytest.raises(NotPossibleError, match="leave --root out"):
        swapin.run(made, None, SwapInLimits(), stop)


def test_who_is_in_a_scope(tmp_path: Path) -> None:
    fake = FakeMachine(cgroups=[FakeCgroup("/user.slice", pids=[7]), FakeCgroup("/x", pids=[8])])
    root, tree = machine(tmp_path, fake)
    for process in (ANNA, BERT):
        process.write(tmp_path)
    assert set(members_of(root, tree, MACHINE)) == {7, 8}
    assert set(members_of(root, tree, Scope(ScopeKind.CGROUP, "/x"))) == {8}
    assert set(members_of(root, tree, Scope(ScopeKind.CGROUP, "/"))) == {7, 8}
    assert set(members_of(root, None, Scope(ScopeKind.PROCESS, pid=7))) == {7}
    with pytest.raises(UsageError, match="no process 99"):
        members_of(root, tree, Scope(ScopeKind.PROCESS, pid=99))
    with pytest.raises(NotPossibleError, match="cgroup /x: there is none"):
        members_of(root, None, Scope(ScopeKind.CGROUP, "/x"), "there is none")


@pytest.mark.parametrize(
    ("swaps", "expected"),
    [
        ([], False),
        ([FakeSwap("/dev/zram0", 100 * MIB, is_zram=True)], False),
        ([FakeSwap("/dev/zram0", 100 * MIB, used_bytes=MIB, is_zram=True)], True),
        (
            [
                FakeSwap("/dev/zram0", 100 * MIB, used_bytes=MIB, is_zram=True),
                FakeSwap("/dev/vdb", 100 * MIB),
            ],
            True,
        ),
        (
            [
                FakeSwap("/dev/zram0", 100 * MIB, used_bytes=MIB, is_zram=True),
                FakeSwap("/dev/vdb", 100 * MIB, used_bytes=MIB),
            ],
            False,
        ),
    ],
)
def test_what_is_in_zram_is_in_memory(
    tmp_path: Path,
    swaps: list[FakeSwap],
    expected: bool,  # noqa: FBT001
) -> None:
    root, _ = machine(tmp_path, FakeMachine(swaps=swaps))
    assert swap_is_memory(root) is expected


# --- the report -----------------------------------------------------------------------------------

REPORT = SwapInReport(
    version=VERSION,
    started="2026-01-01T00:00:00+00:00",
    seconds=2.5,
    ending=Ending.LIMIT,
    reason="no more than 51 MiB are free, which are left alone",
    asked_bytes=30 * MIB,
    read_bytes=29 * MIB,
    file_read_bytes=2 * MIB,
    reserve_bytes=51 * MIB,
    processes=(
        Brought(pid=7, name="anna", cgroup="/a", swapped_bytes=20 * MIB, asked_bytes=21 * MIB),
        Brought(
            pid=8, name="bert", cgroup="/a", swapped_bytes=20 * MIB, asked_bytes=9 * MIB,
            file_asked_bytes=MIB, why_left="not today",
        ),
        Brought(pid=9, name="carl", cgroup="", swapped_bytes=5 * MIB),
    ),
    record="2 looks",
    notes=("a note",),
)  # fmt: skip


def test_what_a_program_is_told() -> None:
    found = to_plain(REPORT)
    assert isinstance(found, dict)
    assert found["left_bytes"] == 16 * MIB
    assert found["ending"] == "limit"
    assert [each["left_bytes"] for each in found["processes"]] == [0, 11 * MIB, 5 * MIB]
    (one, other) = found["cgroups"]
    assert (one["cgroup"], one["swapped_bytes"], one["asked_bytes"]) == ("/a", 40 * MIB, 29 * MIB)
    assert (one["left_bytes"], one["why_left"]) == (11 * MIB, "not today")
    assert (other["cgroup"], other["left_bytes"]) == ("", 5 * MIB)


def test_what_a_person_is_told() -> None:
    text = render(swapin_page(REPORT))
    assert text.startswith(
        "swapin: 29.0 MiB read from swap, 2.0 MiB of files in 2.5 s; limit: no more than 51 MiB "
        "are free, which are left alone; 16.0 MiB are left in swap\n"
    )
    assert "note: working set: 2 looks" in text
    assert "note: a note" in text
    assert "bert (8)" in text
    assert "carl" not in text  # nothing was asked for of it
