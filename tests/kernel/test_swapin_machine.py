# SPDX-License-Identifier: LGPL-2.1-or-later
"""Bringing memory back on the kernel of this machine: whoever touches it then waits for no disk."""

from __future__ import annotations

import contextlib
import errno
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.load import Filler
from bench.stopping import run as run_command
from hibprep import swapin, workingset
from hibprep.config import Config
from hibprep.errors import KernelFileError
from hibprep.kernel.areas import read_areas
from hibprep.kernel.meminfo import read_meminfo
from hibprep.kernel.pagemap import PAGE, Pagemap, Wanted, can_search
from hibprep.kernel.process import (
    MADV_PAGEOUT,
    open_pidfd,
    pageout_ranges,
    process_madvise,
    start_time,
)
from hibprep.machine import open_machine
from hibprep.model import Ending, Scope, ScopeKind
from hibprep.ranges import Range, intersect, total_bytes
from hibprep.reclaim.base import Stop, WriteResult
from hibprep.reclaim.worker import ProcessWorker
from hibprep.remembered import Record, Who
from hibprep.swapin_report import SwapInReport
from tests.kernel.conftest import ROOT

pytestmark = [pytest.mark.kernel, pytest.mark.timeout(300)]
MIB = 1 << 20
FILLED_BYTES = 96 * MIB  # less than a quarter of the swap file: more, and its places are not kept
FEW = 40  # pages that something else may need: the interpreter's own, a race with the kernel
_STAT_MAJOR_FAULTS = 9


@pytest.fixture
def filler(swap_file: Path) -> Iterator[Filler]:
    if read_meminfo(ROOT).available_bytes < 8 * FILLED_BYTES:
        pytest.skip("too little memory is available")
    with Filler(FILLED_BYTES) as made:
        yield made


@pytest.fixture
def stop() -> Iterator[Stop]:
    made = Stop()
    yield made
    made.close()


def page_out(pid: int, ranges: tuple[tuple[int, int], ...]) -> None:
    pidfd = open_pidfd(pid)
    try:
        process_madvise(pidfd, ranges, MADV_PAGEOUT)
    finally:
        os.close(pidfd)


def push_out(filler: Filler) -> None:
    """Have all of it in swap and none in the swap cache: what was written stays there until it is
    reclaimed once more, and what is only read does not have to be written again."""
    ranges = pageout_ranges(ROOT, filler.pid)
    page_out(filler.pid, ranges)
    assert filler.intact()
    page_out(filler.pid, ranges)
    assert filler.swapped_bytes() >= 0.9 * filler.size_bytes


def major_faults(pid: int) -> int:
    stat = Path(f"/proc/{pid}/stat").read_text()
    return int(stat.rpartition(")")[2].split()[_STAT_MAJOR_FAULTS])


def faults_of_reading(filler: Filler) -> int:
    before = major_faults(filler.pid)
    assert filler.intact()
    return major_faults(filler.pid) - before


def bring(
    pid: int, stop: Stop, record: Record | None = None, limit_bytes: int | None = None
) -> SwapInReport:
    machine = open_machine("/", Config())
    limits = swapin.SwapInLimits(
        scope=Scope(ScopeKind.PROCESS, pid=pid), limit_bytes=limit_bytes, timeout_seconds=120
    )
    return swapin.run(machine, record, limits, stop)


# --- finding --------------------------------------------------------------------------------------


def find(pid: int, wanted: Wanted, *, scan: bool) -> list[Range]:
    with Pagemap(ROOT, pid, scan=scan) as pagemap:
        return pagemap.find(wanted, lambda: read_areas(ROOT, pid, {}))


def test_both_ways_find_the_same(filler: Filler) -> None:
    if not can_search(ROOT):
        pytest.skip("no PAGEMAP_SCAN: a kernel from 6.7 on has it")
    ranges = pageout_ranges(ROOT, filler.pid)
    largest = max(ranges, key=lambda each: each[1])
    page_out(filler.pid, tuple((largest[0] + at, 3 * PAGE) for at in range(0, MIB, 8 * PAGE)))
    swapped = find(filler.pid, Wanted.SWAPPED, scan=True)
    assert total_bytes(swapped) >= MIB // 8 * 3
    assert find(filler.pid, Wanted.SWAPPED, scan=False) == swapped
    anon = find(filler.pid, Wanted.ANON, scan=True)
    assert total_bytes(anon) >= FILLED_BYTES - 2 * MIB
    # the page of zeroes, which belongs to nobody, is told from others by the search alone
    assert intersect(find(filler.pid, Wanted.ANON, scan=False), anon) == anon
    files = find(filler.pid, Wanted.FILE, scan=True)
    assert total_bytes(files) >= MIB  # the interpreter
    assert total_bytes(intersect(find(filler.pid, Wanted.FILE, scan=False), files)) >= MIB


def test_a_kernel_thread_has_nothing() -> None:
    if os.geteuid() != 0:
        pytest.skip("must be root")
    # a container of its own has no such process, or one that is closed
    with contextlib.suppress(KernelFileError):
        assert find(2, Wanted.ANON, scan=True) == []


# --- bringing back --------------------------------------------------------------------------------


def test_without_it_every_page_is_waited_for(filler: Filler) -> None:
    """Else the tests below would prove nothing."""
    push_out(filler)
    assert faults_of_reading(filler) >= filler.size_bytes / PAGE / 64


def test_a_process_that_was_brought_back_waits_for_no_disk(filler: Filler, stop: Stop) -> None:
    push_out(filler)
    report = bring(filler.pid, stop)
    assert (report.ending, report.reason) == (Ending.DONE, "all that there was")
    assert report.asked_bytes >= 0.9 * filler.size_bytes
    assert report.read_bytes >= 0.9 * filler.size_bytes
    (brought,) = report.processes
    assert (brought.pid, brought.left_bytes) == (filler.pid, 0)
    # the places in swap are kept until it is written to
    assert filler.swapped_bytes() >= 0.9 * filler.size_bytes
    assert faults_of_reading(filler) <= FEW


def test_the_same_by_command(filler: Filler, workspace: Path) -> None:
    push_out(filler)
    done = run_command(["swapin", "--pid", str(filler.pid), "--json"], workspace)
    assert done.code == 0, done.stderr
    assert done.report["ending"] == "done"
    assert done.report["asked_bytes"] >= 0.9 * filler.size_bytes
    assert faults_of_reading(filler) <= FEW


def test_as_on_old_kernels(filler: Filler, stop: Stop, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before 6.7 words are read, before 5.15 pages are touched one by one."""
    push_out(filler)
    monkeypatch.setattr(Pagemap, "_searched", lambda *_arguments: None)
    fetch = ProcessWorker.fetch

    def refused(self: ProcessWorker, *arguments: object, touch: bool = False) -> object:
        if not touch:
            return WriteResult(errno=errno.EINVAL, seconds=0.0)
        return fetch(self, *arguments, touch=True)  # type: ignore[arg-type]

    monkeypatch.setattr(ProcessWorker, "fetch", refused)
    report = bring(filler.pid, stop)
    assert report.ending is Ending.DONE
    assert any("page by page" in note for note in report.notes)
    assert faults_of_reading(filler) <= FEW


def test_no_more_than_the_limit(filler: Filler, stop: Stop) -> None:
    push_out(filler)
    report = bring(filler.pid, stop, limit_bytes=24 * MIB)
    assert report.reason == "as much as was asked for"
    assert report.asked_bytes == 24 * MIB
    assert report.left_bytes >= filler.size_bytes // 2
    assert faults_of_reading(filler) >= filler.size_bytes / PAGE / 128


def test_what_survived_longest_comes_first(filler: Filler, stop: Stop) -> None:
    """A look when the first half has gone already: with room for half, the other one comes."""
    ranges = pageout_ranges(ROOT, filler.pid)
    start, length = max(ranges, key=lambda each: each[1])
    half = length // 2 // PAGE * PAGE
    page_out(filler.pid, ((start, half),))
    record = workingset.take(ROOT, None, 60.0, look="half of anon", files=False)
    assert Who(filler.pid, start_time(ROOT, filler.pid) or 0) in record.processes
    push_out(filler)
    report = bring(filler.pid, stop, record, limit_bytes=filler.size_bytes // 2)
    assert report.asked_bytes >= 0.9 * filler.size_bytes // 2
    assert report.record.startswith("1 look, ")
    before = read_meminfo(ROOT).swap_cached_bytes
    assert before >= 0.9 * filler.size_bytes // 2
    # what was brought back is touched through another's eyes: no page of it is waited for
    later = _touched_faults(filler.pid, start + half + MIB, length - half - MIB)
    first = _touched_faults(filler.pid, start, half - MIB)
    assert later <= FEW
    assert first >= half / PAGE / 64


def _touched_faults(pid: int, start: int, length: int) -> int:
    """Major faults that reading the range of another process takes; they are the reader's."""
    program = (
        "import os, resource, sys; pid, start, end, page = map(int, sys.argv[1:]);"
        "memory = os.open(f'/proc/{pid}/mem', os.O_RDONLY);"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_majflt;"
        "[os.pread(memory, 1, at) for at in range(start, end, page)];"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_majflt - before)"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", program, *map(str, (pid, start, start + length, PAGE))],
        check=True, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    return int(done.stdout)


def test_a_stop_that_was_raised_before(filler: Filler, stop: Stop) -> None:
    push_out(filler)
    stop.request("enough")
    report = bring(filler.pid, stop)
    assert (report.ending, report.reason, report.asked_bytes) == (Ending.INTERRUPTED, "enough", 0)


def test_nothing_is_touched_of_who_is_somebody_else(filler: Filler, stop: Stop) -> None:
    worker = ProcessWorker()
    try:
        start = start_time(ROOT, filler.pid)
        assert start is not None
        (at, _) = max(pageout_ranges(ROOT, filler.pid), key=lambda each: each[1])
        right = worker.fetch(filler.pid, start, [(at, at + PAGE)], stop)
        wrong = worker.fetch(filler.pid, start + 1, [(at, at + PAGE)], stop)
    finally:
        worker.close()
    assert (right.errno, right.value) == (0, PAGE)
    assert wrong.errno == errno.ESRCH


def test_ranges_that_are_gone_are_passed_over(filler: Filler, stop: Stop) -> None:
    (at, length) = max(pageout_ranges(ROOT, filler.pid), key=lambda each: each[1])
    # at the lowest addresses nothing is ever mapped
    hole = (PAGE, 3 * PAGE)
    good = [(at, at + PAGE), (at + 8 * PAGE, at + length)]
    worker = ProcessWorker()
    try:
        start = start_time(ROOT, filler.pid) or 0
        batched = worker.fetch(filler.pid, start, [hole, good[0], hole, good[1]], stop)
        touched = worker.fetch(filler.pid, start, [hole, good[0], hole, good[0]], stop, touch=True)
    finally:
        worker.close()
    assert (batched.errno, batched.value) == (0, total_bytes(good))
    assert (touched.errno, touched.value) == (0, 2 * PAGE)


# --- files ----------------------------------------------------------------------------------------

_MAPPER = """
import mmap, os, resource, sys
path, write = sys.argv[1], sys.argv[2] == "write"
with open(path, "r+b") as file:
    memory = mmap.mmap(file.fileno(), 0, flags=mmap.MAP_PRIVATE)
memory.madvise(mmap.MADV_RANDOM)
def read():
    return sum(memory[at] for at in range(0, len(memory), mmap.PAGESIZE))
if write:
    for at in range(0, len(memory), mmap.PAGESIZE):
        memory[at] = 7
read()
print("ready", flush=True)
for line in sys.stdin:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_majflt
    read()
    print(resource.getrusage(resource.RUSAGE_SELF).ru_majflt - before, flush=True)
"""
MAPPED_BYTES = 16 * MIB


class Mapper:
    """A process that has a file mapped privately, and has written over all of it or not."""

    def __init__(self, path: Path, how: str) -> None:
        self.path = path
        self.process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", _MAPPER, str(path), how],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True,
        )  # fmt: skip
        assert self._answer() == "ready"

    def faults(self) -> int:
        assert self.process.stdin is not None
        self.process.stdin.write("again\n")
        self.process.stdin.flush()
        return int(self._answer())

    def push_out(self) -> None:
        """Out of memory, and out of the caches."""
        text = Path(f"/proc/{self.process.pid}/maps").read_text()
        (line,) = [each for each in text.splitlines() if each.endswith(str(self.path))]
        start, end = (int(each, 16) for each in line.split()[0].split("-"))
        page_out(self.process.pid, ((start, end - start),))
        self.faults()
        page_out(self.process.pid, ((start, end - start),))

    def close(self) -> None:
        self.process.kill()
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            pipe.close()
        self.process.wait(60)

    def _answer(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()


@pytest.fixture(params=["write", "read"])
def mapper(request: pytest.FixtureRequest, swap_file: Path, workspace: Path) -> Iterator[Mapper]:
    path = workspace / "mapped"
    with path.open("wb") as file:
        file.write(os.urandom(MAPPED_BYTES))
        os.fsync(file.fileno())
    made = Mapper(path, request.param)
    yield made
    made.close()


def test_files_that_are_mapped(mapper: Mapper, stop: Stop) -> None:
    """Those that were written over come from swap, the others from their disk, by the record."""
    record = workingset.take(ROOT, None, 60.0, look="before cache")
    mapper.push_out()
    assert mapper.faults() >= MAPPED_BYTES / PAGE / 64
    mapper.push_out()
    report = bring(mapper.process.pid, stop, record)
    assert report.ending is Ending.DONE
    (brought,) = report.processes
    assert brought.asked_bytes + brought.file_asked_bytes >= 0.9 * MAPPED_BYTES
    assert mapper.faults() <= FEW
