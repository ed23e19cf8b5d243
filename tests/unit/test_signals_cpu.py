# SPDX-License-Identifier: LGPL-2.1-or-later
"""The CPU source: shares whatever the counters do, own work taken out."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hibprep.errors import KernelFileMalformed, KernelFileMissing
from hibprep.events import Cpu, SourceChanged, SourceName
from hibprep.kernel.cpu import CpuTimes, parse_process_ticks, parse_stat, process_ticks
from hibprep.kernel.root import KernelRoot
from hibprep.signals.cpu import CpuSource, idleness
from tests.fakes.clock import HandClock
from tests.listening import listening, only

STAT = """\
cpu  1000 0 500 8000 100 10 20 300 400 0
cpu0 600 0 300 4000 50 5 10 150 400 0
cpu1 400 0 200 4000 50 5 10 150 0 0
intr 1 2 3
ctxt 5
"""
OWN = 4711


class FakeCpus:
    """/proc/stat and the stat files of processes, that move when they are told to."""

    def __init__(self, directory: Path, cpus: int = 2) -> None:
        self.proc = directory / "proc"
        self.proc.mkdir()
        self.root = KernelRoot(directory)
        self.clock = HandClock()
        self.cpus = dict.fromkeys(range(cpus), CpuTimes())
        self.own: dict[int, tuple[int, int, int, int]] = {OWN: (0, 0, 0, 0)}
        self.pids = [OWN]
        self.write()

    def write(self) -> None:
        lines = ["cpu  0 0 0 0 0 0 0 0 0 0"]
        lines += [
            f"cpu{number} {' '.join(map(str, times))} 0 0 0" for number, times in self.cpus.items()
        ]
        (self.proc / "stat").write_text("\n".join(lines) + "\n")
        for pid, times in self.own.items():
            (self.proc / str(pid)).mkdir(exist_ok=True)
            (self.proc / f"{pid}/stat").write_text(process_stat(pid, *times))

    def pass_time(self, seconds: float, busy: dict[int, float], own: float = 0.0) -> None:
        """Each CPU is busy for a share of the time; `own` CPU seconds of it are hibprep's."""
        self.clock.seconds += seconds
        ticks = round(seconds * 100)
        for number, times in self.cpus.items():
            used = round(ticks * busy.get(number, 0.0))
            self.cpus[number] = times._replace(
                user=times.user + used, idle=times.idle + ticks - used
            )
        user, system, *reaped = self.own[OWN]
        self.own[OWN] = (user, system + round(own * 100), reaped[0], reaped[1])
        self.write()

    def source(self) -> CpuSource:
        return CpuSource(self.root, self.clock, lambda: self.pids)


def process_stat(pid: int, *ticks: int) -> str:
    times = " ".join(map(str, ticks))
    return f"{pid} (a (b) c) S 1 1 1 0 -1 4194560 1 1 0 0 {times} 20 0 1 0 99 1 1\n"


def test_the_times_of_each_cpu() -> None:
    times = parse_stat(STAT)
    assert times == {
        0: CpuTimes(600, 0, 300, 4000, 50, 5, 10),
        1: CpuTimes(400, 0, 200, 4000, 50, 5, 10),
    }


@pytest.mark.parametrize("text", ["", "cpu  1 2 3 4\n", "cpu0 1 2\n", "cpu0 1 2 x 4\n", "cpux 1"])
def test_what_is_no_stat_is_said_to_be_none(text: str) -> None:
    with pytest.raises(KernelFileMalformed, match="/proc/stat"):
        parse_stat(text)


def test_the_ticks_of_a_process_and_its_ended_children() -> None:
    assert parse_process_ticks(process_stat(1, 10, 20, 300, 4000)) == 4330
    with pytest.raises(KernelFileMalformed):
        parse_process_ticks("1 (a) S 1")


def test_a_process_that_is_gone_counts_for_nothing(tmp_path: Path) -> None:
    fake = FakeCpus(tmp_path)
    fake.own = {1: (1, 2, 0, 0), 2: (3, 4, 0, 0)}
    fake.write()
    assert process_ticks(fake.root, [1, 2, 2, 3]) == 10


def test_idle_and_waiting_for_io_are_idle() -> None:
    before = {0: CpuTimes(), 1: CpuTimes()}
    after = {0: CpuTimes(user=10, idle=50, iowait=40), 1: CpuTimes(idle=100)}
    found = idleness(before, after, 0)
    assert found is not None
    assert found == pytest.approx((0.95, 0.9))


def test_own_work_is_taken_from_the_busiest_and_what_does_not_fit_from_the_next() -> None:
    before = dict.fromkeys(range(3), CpuTimes())
    after = {
        0: CpuTimes(user=60, idle=40),
        1: CpuTimes(user=50, idle=50),
        2: CpuTimes(user=20, idle=80),
    }
    assert idleness(before, after, 60) == pytest.approx((1 - 70 / 300, 0.5))
    assert idleness(before, after, 110) == pytest.approx((1 - 20 / 300, 0.8))
    assert idleness(before, after, 500) == pytest.approx((1.0, 1.0))


def test_cpus_that_come_and_go_are_left_out_and_none_in_common_tells_nothing() -> None:
    busy, idle = CpuTimes(user=100), CpuTimes(idle=100)
    assert idleness({0: CpuTimes(), 1: busy}, {0: idle, 2: busy}, 0) == pytest.approx((1, 1))
    assert idleness({0: idle}, {1: busy}, 0) is None


ticks = st.integers(min_value=0, max_value=2**64 - 1)
times = st.builds(CpuTimes, *[ticks] * 7)
cpus = st.dictionaries(st.integers(0, 7), times, min_size=1)


@given(cpus, cpus, st.integers(-(2**64), 2**64))
def test_shares_are_shares_whatever_the_counters_do(
    before: dict[int, CpuTimes], after: dict[int, CpuTimes], own: int
) -> None:
    found = idleness(before, after, own)
    if found is not None:
        assert 0 <= found.idle_share <= 1
        assert 0 <= found.least_idle_share <= 1


small = st.integers(min_value=0, max_value=10_000)


@given(
    st.lists(st.builds(CpuTimes, *[small] * 7), min_size=1, max_size=8),
    st.integers(0, 1000),
    st.integers(0, 1000),
)
def test_more_own_work_never_makes_it_look_busier(
    after: list[CpuTimes], own: int, more: int
) -> None:
    before = dict.fromkeys(range(len(after)), CpuTimes())
    now = dict(enumerate(after))
    less_idle, more_idle = (idleness(before, now, each) for each in (own, own + more))
    if less_idle is not None and more_idle is not None:
        assert more_idle.idle_share >= less_idle.idle_share
        assert more_idle.least_idle_share >= less_idle.least_idle_share
        # the busiest one is no more idle than all of them, as long as they run equally long
        totals = {sum(each) for each in after}
        if len(totals) == 1:
            assert less_idle.least_idle_share <= less_idle.idle_share + 1e-9


def test_the_source_tells_from_the_second_sample_on(tmp_path: Path) -> None:
    async def scenario() -> None:
        fake = FakeCpus(tmp_path)
        source = fake.source()
        source.sample()  # not running: nothing
        async with listening(source) as told:
            assert told == [
                SourceChanged(SourceName.CPU, works=True, reason="2 CPUs, told by /proc/stat")
            ]
            source.sample()
            assert len(told) == 1
            fake.pass_time(10, {0: 0.5, 1: 0.1}, own=5.0)
            source.sample()
            assert told[-1] == Cpu(idle_share=0.95, least_idle_share=0.9, seconds=10.0)
            source.sample()  # no time has passed
            assert len(only(Cpu, told)) == 1
            fake.pass_time(20, {0: 1.0, 1: 1.0})
            source.sample()
            assert told[-1] == Cpu(idle_share=0.0, least_idle_share=0.0, seconds=20.0)
        before = list(told)
        fake.pass_time(10, {})
        source.sample()
        assert told == before

    asyncio.run(scenario())


def test_the_time_of_a_child_is_counted_once_though_it_passes_to_its_parent(tmp_path: Path) -> None:
    async def scenario() -> None:
        fake = FakeCpus(tmp_path)
        child = OWN + 1
        fake.own[child] = (0, 0, 0, 0)
        fake.pids = [OWN, child]
        fake.write()
        source = fake.source()
        async with listening(source) as told:
            source.sample()
            fake.own[child] = (100, 400, 0, 0)
            fake.pass_time(10, {0: 0.5})
            source.sample()
            assert only(Cpu, told)[-1].idle_share == pytest.approx(1.0)
            # it works for another second, ends, and was waited for
            (fake.proc / f"{child}/stat").unlink()
            del fake.own[child]
            fake.own[OWN] = (0, 0, 100, 500)
            fake.pass_time(10, {0: 0.5})
            source.sample()
            assert only(Cpu, told)[-1].idle_share == pytest.approx(1 - 4 / 20)

    asyncio.run(scenario())


def test_other_cpus_than_before_begin_anew(tmp_path: Path) -> None:
    async def scenario() -> None:
        fake = FakeCpus(tmp_path, cpus=1)
        source = fake.source()
        async with listening(source) as told:
            source.sample()
            fake.cpus = {3: CpuTimes(user=1000)}
            fake.pass_time(10, {})
            source.sample()
            assert not only(Cpu, told)
            fake.pass_time(10, {3: 0.25})
            source.sample()
            assert only(Cpu, told) == [Cpu(idle_share=0.75, least_idle_share=0.75, seconds=10.0)]

    asyncio.run(scenario())


def test_what_cannot_be_read_ends_the_run_and_not_the_sample(tmp_path: Path) -> None:
    async def scenario() -> None:
        fake = FakeCpus(tmp_path)
        source = fake.source()
        task = asyncio.create_task(source.run(lambda _: None))
        await asyncio.sleep(0)
        (fake.proc / "stat").unlink()
        source.sample()
        source.sample()
        with pytest.raises(KernelFileMissing, match="/proc/stat"):
            await task
        with pytest.raises(KernelFileMissing):
            await source.run(lambda _: None)

    asyncio.run(scenario())
