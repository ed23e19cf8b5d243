# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a fake machine is made of: memory in cgroups, swap areas, generations, settings; no files.

Sizes in bytes, rounded down to pages; every figure is a sum of what is kept here.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field

PAGE = 4096
KIB = 1 << 10
MIB = 1 << 20
GIB = 1 << 30

_RECENT_SECONDS = 60.0  # what the classic LRU would have on its active list


def failure(number: int) -> OSError:
    """The error that a kernel would answer with."""
    return OSError(number, os.strerror(number))


def pages(size_bytes: int) -> int:
    """So many bytes in pages."""
    return size_bytes // PAGE


def whole(size_bytes: float) -> int:
    """Rounded down to pages."""
    return int(size_bytes) // PAGE * PAGE


@dataclass
class AnonSet:
    """Anonymous memory (or shmem) that is used alike. `size_bytes` is what is resident."""

    size_bytes: int
    idle_seconds: float = 0.0  # at the start
    hot: bool = False  # touched all the time: comes back when it is swapped out
    shmem: bool = False
    swapped_bytes: int = 0
    zswapped_bytes: int = 0  # of them, in zswap's pool
    last_used: float = 0.0
    generation: int = 0
    in_flight_bytes: int = 0  # resident, being written to swap


@dataclass
class FakeCgroup:
    """One cgroup and the memory charged to it (not to those below it)."""

    path: str
    anon: list[AnonSet] = field(default_factory=list)
    file_bytes: int = 0  # clean, unmapped
    dirty_bytes: int = 0
    mapped_bytes: int = 0  # clean, mapped
    slab_bytes: int = 0
    locked_bytes: int = 0  # by its first process
    min_bytes: int = 0
    low_bytes: int = 0
    swap_max_bytes: int | None = None
    pids: list[int] = field(default_factory=list)
    zswap_max: str = "max"
    zswap_writeback: bool = True
    memcg_id: int = 0
    max_generation: int = 1
    births: dict[int, float] = field(default_factory=dict)
    looked: float = 0.0  # when the other LRU cleared its accessed bits last

    @property
    def anon_bytes(self) -> int:
        return sum(each.size_bytes for each in self.anon)

    @property
    def page_cache_bytes(self) -> int:
        return self.file_bytes + self.dirty_bytes + self.mapped_bytes

    @property
    def resident_bytes(self) -> int:
        return self.anon_bytes + self.page_cache_bytes + self.slab_bytes + self.locked_bytes

    @property
    def swapped_bytes(self) -> int:
        return sum(each.swapped_bytes for each in self.anon)

    @property
    def oldest_generation(self) -> int:
        return min(self.births)


@dataclass
class FakeSwap:
    """One swap area."""

    path: str
    size_bytes: int
    priority: int = -2
    used_bytes: int = 0
    is_zram: bool = False
    is_file: bool = False
    device: str = "254:1"
    # of zram:
    backing: str = ""
    backing_free_bytes: int = 0
    idle_bytes: int = 0
    written_bytes: int = 0  # to the device behind it
    writeback_limit: int = 0  # in units of 4096
    writeback_limited: bool = False
    leaving: bool = False  # being switched off: nothing new goes there

    @property
    def free_bytes(self) -> int:
        return 0 if self.leaving else self.size_bytes - self.used_bytes


@dataclass
class InFlight:
    """Memory on its way to swap: resident until it is written."""

    due: float
    cgroup: FakeCgroup
    anon: AnonSet
    size_bytes: int


@dataclass
class MachineState:
    """How the machine is built and what state it is in. Sizes are rounded down to pages."""

    total_bytes: int = 8 * GIB
    kernel: tuple[int, int] = (6, 12)
    cgroups: list[FakeCgroup] = field(default_factory=list)
    swaps: list[FakeSwap] = field(default_factory=list)
    cgroup_version: int = 2  # 2, 1 or 0 (no memory controller at all)
    kernel_bytes: int = 256 * MIB  # neither reclaimable nor on an LRU
    unevictable_bytes: int = 0
    lru_gen: bool | None = True  # None: not built
    generation_ages_seconds: tuple[float, ...] = (600.0, 600.0)  # oldest first
    debugfs: bool = True
    psi: bool = True
    numa: bool = True
    swappiness: int = 60
    laptop_mode: int = 0
    min_unmapped_ratio: int = 1  # percent, as min_slab_ratio: node reclaim wants more than that
    min_slab_ratio: int = 5
    zswap: bool | None = False  # None: not built
    hibernation: bool = True
    lockdown: str = "none"
    command_line: str = "root=/dev/vda1 ro quiet"
    image_size_bytes: int = -1  # two fifths
    reserved_size_bytes: int = MIB
    resume_device: str = ""
    resume_offset_pages: int = 0
    cpus: int = 4
    again_every: int = 0  # every n-th reclaim does half of it and answers EAGAIN
    swap_delay_seconds: float = 0.0  # of disk swap: freed only when written
    bytes_per_second: float = 0.0  # of reclaim; 0: it takes no time
    zram_ratio: float = 3.0
    pressure: dict[str, float] = field(default_factory=dict)  # resource -> some avg10, percent
    attributes: dict[tuple[str, str], str] = field(default_factory=dict)  # by file and name
    delegated: tuple[str, ...] = ()  # cgroups that users may change
    now: float = 10_000.0
    writes: list[tuple[str, str]] = field(default_factory=list)  # all that were tried, in order

    def __post_init__(self) -> None:
        self.total_bytes = whole(self.total_bytes)
        if self.image_size_bytes < 0:
            self.image_size_bytes = whole(self.total_bytes * 2 / 5)
        self.events: dict[str, int] = {}
        self.in_flight: list[InFlight] = []
        self.reclaims = 0
        self.stall_seconds: dict[str, float] = {}
        self.by_path: dict[str, FakeCgroup] = {}
        for cgroup in self.cgroups:
            self.by_path[cgroup.path] = cgroup
        for path in [each.path for each in self.cgroups]:
            parts = path.strip("/").split("/")[:-1]
            for depth in range(len(parts)):
                above = "/" + "/".join(parts[: depth + 1])
                self.by_path.setdefault(above, FakeCgroup(above))
        self.by_path.setdefault("/", FakeCgroup("/"))
        for number, path in enumerate(sorted(self.by_path), start=1):
            self._begin(self.by_path[path], number)
        for swap in self.swaps:
            swap.size_bytes, swap.used_bytes = whole(swap.size_bytes), whole(swap.used_bytes)
        if self.free_bytes < 0:
            raise ValueError(f"{-self.free_bytes} bytes more than there is memory")

    def _begin(self, cgroup: FakeCgroup, number: int) -> None:
        cgroup.memcg_id = number
        for name in ("file_bytes", "dirty_bytes", "mapped_bytes", "slab_bytes"):
            setattr(cgroup, name, whole(getattr(cgroup, name)))
        cgroup.births = {
            index: self.now - age for index, age in enumerate(self.generation_ages_seconds)
        }
        cgroup.max_generation = max(cgroup.births)
        for each in cgroup.anon:
            each.size_bytes = whole(each.size_bytes)
            each.swapped_bytes = whole(each.swapped_bytes)
            each.last_used = self.now - (0.0 if each.hot else each.idle_seconds)
            each.generation = max(
                (index for index, birth in cgroup.births.items() if birth <= each.last_used),
                default=0,
            )

    # --- figures --------------------------------------------------------------------------------

    @property
    def used_bytes(self) -> int:
        """All that is not free."""
        resident = sum(each.resident_bytes for each in self.by_path.values())
        pools = self.zram_pool_bytes + self.zswap_pool_bytes
        return self.kernel_bytes + self.unevictable_bytes + pools + resident

    @property
    def free_bytes(self) -> int:
        return self.total_bytes - self.used_bytes

    @property
    def present_bytes(self) -> int:
        """With the memory map, which the kernel takes for itself at boot."""
        return self.total_bytes + whole(self.total_bytes / 64)

    @property
    def saveable_bytes(self) -> int:
        """What the kernel would put in the image, as far as zones tell."""
        return self.present_bytes - self.free_bytes

    @property
    def zram_pool_bytes(self) -> int:
        stored = sum(each.used_bytes - each.written_bytes for each in self.swaps if each.is_zram)
        return whole(stored / self.zram_ratio)

    @property
    def zswapped_bytes(self) -> int:
        groups = self.by_path.values()
        return sum(anon.zswapped_bytes for each in groups for anon in each.anon)

    @property
    def zswap_pool_bytes(self) -> int:
        return whole(self.zswapped_bytes / self.zram_ratio)

    @property
    def swap_used_bytes(self) -> int:
        return sum(each.used_bytes for each in self.swaps)

    @property
    def swap_free_bytes(self) -> int:
        return sum(each.free_bytes for each in self.swaps)

    @property
    def anon_bytes(self) -> int:
        return sum(each.anon_bytes for each in self.by_path.values())

    @property
    def active_anon_bytes(self) -> int:
        return sum(
            anon.size_bytes
            for cgroup in self.by_path.values()
            for anon in cgroup.anon
            if self.is_active(cgroup, anon)
        )

    def cgroup(self, path: str) -> FakeCgroup:
        """The cgroup of that path."""
        return self.by_path[path]

    def subtree(self, path: str) -> list[FakeCgroup]:
        """The cgroup and all below it, in the order of their names."""
        start = path.rstrip("/") + "/"
        return [
            self.by_path[each]
            for each in sorted(self.by_path)
            if each == path or each.startswith(start)
        ]

    def current_bytes(self, path: str) -> int:
        """Its memory.current."""
        return sum(each.resident_bytes for each in self.subtree(path))

    def is_active(self, cgroup: FakeCgroup, anon: AnonSet) -> bool:
        if self.lru_gen:
            return anon.generation >= cgroup.max_generation - 1
        return anon.hot or self.now - anon.last_used < _RECENT_SECONDS

    def count(self, name: str, pages: int) -> None:
        self.events[name] = self.events.get(name, 0) + pages
