# SPDX-License-Identifier: LGPL-2.1-or-later
"""CPU time, of the CPUs and of processes (Documentation/filesystems/proc.rst, proc_stat(5),
proc_pid_stat(5)). All times are in clock ticks, SC_CLK_TCK of them a second."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from hibprep.errors import KernelFileMissing
from hibprep.kernel.root import KernelRoot
from hibprep.kernel.text import malformed, signed, unsigned

STAT = "/proc/stat"

_FEWEST_COLUMNS = 4  # user nice system idle: what all kernels have
_COLUMNS = 7  # … iowait irq softirq; steal, guest and guest_nice follow
_UTIME = 11  # field 14 of /proc/PID/stat, counted from the first behind the name
_CSTIME = 14  # utime stime cutime cstime


class CpuTimes(NamedTuple):
    """What one CPU has done since boot. Time in guests is in `user` and `nice` already; time that
    the hypervisor gave to others (steal) is nobody's and left out."""

    user: int = 0
    nice: int = 0
    system: int = 0
    idle: int = 0
    iowait: int = 0  # idle, with tasks of this CPU waiting for I/O; may go backwards
    irq: int = 0
    softirq: int = 0


def parse_stat(text: str) -> dict[int, CpuTimes]:
    """The times of each CPU that is online, by number, from the text of /proc/stat."""
    times: dict[int, CpuTimes] = {}
    for line in text.splitlines():
        name, *columns = line.split()[: _COLUMNS + 1] or [""]
        # the first line, "cpu", is the sum of all, with some that are offline in it
        if not name.startswith("cpu") or name == "cpu":
            continue
        if len(columns) < _FEWEST_COLUMNS:
            raise malformed(STAT, "four columns of times", line)
        number = unsigned(name.removeprefix("cpu"), STAT)
        times[number] = CpuTimes(*(unsigned(column, STAT) for column in columns))
    if not times:
        raise malformed(STAT, 'lines that start with "cpu0"', text)
    return times


def read_stat(root: KernelRoot) -> dict[int, CpuTimes]:
    """As it is now."""
    return parse_stat(root.read(STAT))


def parse_process_ticks(text: str, path: str = "/proc/PID/stat") -> int:
    """The time that a process and those of its children that have ended and were waited for have
    used, from the text of its stat file. The name before it may have spaces and brackets."""
    fields = text.rpartition(")")[2].split()
    if len(fields) <= _CSTIME:
        raise malformed(path, "17 fields", text)
    # the two of the children are printed as signed numbers
    return sum(signed(field, path) for field in fields[_UTIME : _CSTIME + 1])


def process_ticks(root: KernelRoot, pids: Iterable[int]) -> int:
    """The time that `pids` and the children they have waited for have used, all together.

    When a child ends its time passes to its parent, so that the sum over a process and its
    children only grows, whenever it is taken. One that is gone counts for nothing.
    """
    total = 0
    for pid in set(pids):
        path = f"/proc/{pid}/stat"
        try:
            text = root.read(path)
        except KernelFileMissing:
            continue
        total += parse_process_ticks(text, path)
    return total
