# SPDX-License-Identifier: LGPL-2.1-or-later
"""How idle the CPUs are when hibprep's own work is not counted.

Waiting for I/O counts as idle: the CPU is, and that the machine is not quiet is for the pressure
source to tell. Time that the hypervisor gave to others (steal) is neither busy nor idle and is left
out of the whole. What kernel threads do for hibprep (kswapd, the compression of zram, dm-crypt)
cannot be told from what they do for others and counts as work of others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

from hibprep.clock import Clock
from hibprep.events import Cpu, SourceChanged, SourceName
from hibprep.kernel.cpu import STAT, CpuTimes, process_ticks, read_stat
from hibprep.kernel.root import KernelRoot
from hibprep.signals.base import Emit
from hibprep.signals.running import Running


class Idleness(NamedTuple):
    """Shares of the time between two samples, 0 to 1."""

    idle_share: float  # of all CPUs together
    least_idle_share: float  # of the busiest


class _Spent(NamedTuple):
    busy: int
    idle: int

    @property
    def total(self) -> int:
        return self.busy + self.idle


class _Sample(NamedTuple):
    at_seconds: float
    cpus: Mapping[int, CpuTimes]
    own_ticks: int


def idleness(
    before: Mapping[int, CpuTimes], after: Mapping[int, CpuTimes], own_ticks: int
) -> Idleness | None:
    """How idle the CPUs were between two samples, `own_ticks` of the work being hibprep's own;
    None when no time has passed on any of them.

    On which CPU the own work was done is not known. For `least_idle_share` it is taken from the
    busiest; only what does not fit in there, and so was surely done elsewhere, from the next one.
    CPUs that are in one of the samples alone were off in between and are left out; a counter that
    went backwards has not moved.
    """
    spent = [_spent(before[number], after[number]) for number in before.keys() & after.keys()]
    spent = [each for each in spent if each.total]
    if not spent:
        return None
    total = sum(each.total for each in spent)
    busy = max(0, sum(each.busy for each in spent) - max(0, own_ticks))
    left = max(0, own_ticks)
    least = 1.0
    for each in sorted(spent, key=lambda one: one.busy, reverse=True):
        own = min(left, each.busy)
        left -= own
        least = min(least, 1 - (each.busy - own) / each.total)
    return Idleness(1 - busy / total, least)


def _spent(before: CpuTimes, after: CpuTimes) -> _Spent:
    moved = CpuTimes(*(max(0, new - old) for old, new in zip(before, after, strict=True)))
    idle = moved.idle + moved.iowait
    return _Spent(sum(moved) - idle, idle)


class CpuSource:
    """Samples /proc/stat when it is asked to, which wakes nobody up by itself.

    `own_pids` are this process and its children that live; what children that have ended used is
    known from their parent.
    """

    name = SourceName.CPU

    def __init__(
        self, root: KernelRoot, clock: Clock, own_pids: Callable[[], Iterable[int]]
    ) -> None:
        self._root = root
        self._clock = clock
        self._own_pids = own_pids
        self._running: Running | None = None
        self._last: _Sample | None = None

    async def run(self, emit: Emit) -> None:
        """Say that it works, and wait for `sample`. Raises what reading /proc/stat raises."""
        cpus = len(read_stat(self._root))
        running = self._running = Running(emit)
        try:
            emit(SourceChanged(self.name, works=True, reason=f"{cpus} CPUs, told by {STAT}"))
            await running.until_failed()
        finally:
            self._running = self._last = None

    def sample(self) -> None:
        """Tell how idle the CPUs were since the previous sample; the first one tells nothing.
        Nothing is done while the source does not run. What goes wrong ends `run`, not this."""
        if self._running is not None:
            self._running.attempt(self._sample)

    def _sample(self) -> None:
        now = _Sample(
            self._clock.monotonic(),
            read_stat(self._root),
            process_ticks(self._root, self._own_pids()),
        )
        last = self._last
        if last is None:
            self._last = now
            return
        found = idleness(last.cpus, now.cpus, now.own_ticks - last.own_ticks)
        seconds = now.at_seconds - last.at_seconds
        if found is None or seconds <= 0:
            # too soon, and the next sample tells of this time too; unless no CPU is the same
            if not last.cpus.keys() & now.cpus.keys():
                self._last = now
            return
        self._last = now
        if self._running is not None:
            self._running.emit(Cpu(**found._asdict(), seconds=seconds))
