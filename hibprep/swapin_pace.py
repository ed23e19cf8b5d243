# SPDX-License-Identifier: LGPL-2.1-or-later
"""How much may be brought back now, and how fast: nobody may be pushed out for it.

Memory pressure alone says little after a resume: who waits for a page of his from swap counts as
waiting for memory (Documentation/accounting/psi.rst), and that is what bringing memory back cures.
So what is likely to be needed goes on as long as nobody has to reclaim; for the rest others come
first.
"""

from __future__ import annotations

from collections.abc import Iterable

from hibprep.clock import Clock
from hibprep.errors import KernelFileError
from hibprep.kernel.cgroup import CgroupTree
from hibprep.kernel.meminfo import read_meminfo
from hibprep.kernel.psi import read_stall_counters
from hibprep.kernel.root import KernelRoot
from hibprep.kernel.zoneinfo import read_zoneinfo
from hibprep.model import Memory, Zone
from hibprep.reclaim.base import Stop
from hibprep.reclaim.pressure import PressureGauge
from hibprep.swaporder import Part

RESERVE_SHARE = 0.05
SMALLEST_CHUNK_BYTES = 1 << 20
LARGEST_CHUNK_BYTES = 64 << 20

_RESERVE_MARKS = 2
_FIRST_CHUNK_BYTES = 4 << 20
_LONGEST_BRAKE_SECONDS = 1.0
_MOST_BRAKES = 20  # in a row, with others having to reclaim


def reserve_bytes(memory: Memory, zones: Iterable[Zone], page: int) -> int:
    """Free memory that is left alone: 5 %, and twice the high watermarks, above which the kernel
    reclaims nothing."""
    marks = _RESERVE_MARKS * sum(zone.high_pages for zone in zones) * page
    return max(int(memory.total_bytes * RESERVE_SHARE) // page * page, marks)


def adapted(chunk_bytes: int, seconds: float, aim_seconds: float) -> int:
    """The next chunk's size, from how long one of `chunk_bytes` took."""
    factor = min(2.0, max(0.25, aim_seconds / max(seconds, 1e-6)))
    return max(SMALLEST_CHUNK_BYTES, min(LARGEST_CHUNK_BYTES, int(chunk_bytes * factor)))


class Pace:
    """The bounds of one run. Raises KernelFileError when the kernel's files are not there."""

    def __init__(
        self,
        root: KernelRoot,
        tree: CgroupTree | None,
        clock: Clock,
        *,
        page: int,
        chunk_seconds: float,
        pressure_limit: float,
    ) -> None:
        self._root = root
        self._tree = tree
        self._chunk_seconds = chunk_seconds
        self._pressure_limit = pressure_limit
        self._gauge = PressureGauge(root, tree, clock)
        self._gauge.sample()
        self._direct = self._direct_reclaims()
        self._brakes = 0
        self.reserve_bytes = reserve_bytes(read_meminfo(root), read_zoneinfo(root), page)
        self.chunk_bytes = _FIRST_CHUNK_BYTES

    def room_bytes(self) -> int:
        """Of free memory; 0 when there is none but the reserve."""
        return max(0, read_meminfo(self._root).free_bytes - self.reserve_bytes)

    def cgroup_room_bytes(self, path: str) -> int | None:
        """Under the limits of that cgroup; None where there are none, and where none is known."""
        if self._tree is None or not path:
            return None
        try:
            return self._tree.room_bytes(path)
        except KernelFileError:
            return None

    def took(self, chunk_bytes: int, seconds: float) -> None:
        """A chunk was brought back in so long. One that was cut short tells little of longer ones,
        unless it was slow."""
        if chunk_bytes * 2 >= self.chunk_bytes or seconds > self._chunk_seconds:
            self.chunk_bytes = adapted(min(chunk_bytes, self.chunk_bytes), seconds,
                                       self._chunk_seconds)  # fmt: skip

    def give_way(self, part: Part, stop: Stop) -> bool:
        """Wait a little where others are in need; False when they stay so for too long."""
        pressure = self._gauge.sample()
        direct = self._direct_reclaims()
        reclaiming, self._direct = direct > self._direct, direct
        if pressure <= self._pressure_limit:
            self._brakes = 0
            return True
        if reclaiming:
            self._brakes += 1
        elif part is not Part.REST:
            return True
        wait = self._chunk_seconds * pressure / max(self._pressure_limit, 0.01)
        stop.wait(min(_LONGEST_BRAKE_SECONDS, wait))
        return self._brakes < _MOST_BRAKES

    def _direct_reclaims(self) -> int:
        return read_stall_counters(self._root).direct_reclaims
