# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the kernel says of a machine, and what the rules for cgroups keep of it."""

from __future__ import annotations

from dataclasses import dataclass

from hibprep.model.words import Limit, Stage


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """`/proc/meminfo` in bytes (Documentation/filesystems/proc.rst). Fields that this kernel does
    not print are 0."""

    total_bytes: int
    free_bytes: int
    available_bytes: int = 0
    buffers_bytes: int = 0
    cached_bytes: int = 0
    swap_cached_bytes: int = 0
    active_anon_bytes: int = 0
    inactive_anon_bytes: int = 0
    active_file_bytes: int = 0
    inactive_file_bytes: int = 0
    unevictable_bytes: int = 0
    mlocked_bytes: int = 0
    dirty_bytes: int = 0
    writeback_bytes: int = 0
    anon_pages_bytes: int = 0
    mapped_bytes: int = 0
    shmem_bytes: int = 0
    slab_reclaimable_bytes: int = 0
    slab_unreclaimable_bytes: int = 0
    kernel_stack_bytes: int = 0
    page_tables_bytes: int = 0
    percpu_bytes: int = 0
    vmalloc_used_bytes: int = 0
    hugetlb_bytes: int = 0
    zswap_bytes: int = 0  # the compressed pool, in RAM
    zswapped_bytes: int = 0  # what was put into it
    swap_total_bytes: int = 0
    swap_free_bytes: int = 0

    @property
    def anon_lru_bytes(self) -> int:
        """What the anon LRU holds: anonymous memory and shmem, both in need of swap."""
        return self.active_anon_bytes + self.inactive_anon_bytes

    @property
    def file_lru_bytes(self) -> int:
        """Page cache on the LRU, clean and dirty, shmem not included."""
        return self.active_file_bytes + self.inactive_file_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Zone:
    """One populated zone of `/proc/zoneinfo`, in pages."""

    node: int
    name: str
    present_pages: int
    managed_pages: int
    spanned_pages: int
    free_pages: int
    high_pages: int  # high watermark, boost included
    protection_pages: tuple[int, ...] = ()
    per_cpu_pages: int = 0  # sum of the pagesets' counts: free, yet not on the free lists


@dataclass(frozen=True, slots=True, kw_only=True)
class SwapArea:
    """One line of `/proc/swaps` with what identifies it as a resume device."""

    path: str
    is_file: bool
    size_bytes: int
    used_bytes: int
    priority: int
    device: str = ""  # "MAJ:MIN" of the partition, or of the file system that holds the file
    offset_pages: int | None = None  # first physical page of a swap file; None for a partition
    is_zram: bool = False
    encrypted: bool | None = None  # None: could not be told

    @property
    def free_bytes(self) -> int:
        """Room left in this area."""
        return max(0, self.size_bytes - self.used_bytes)


@dataclass(frozen=True, slots=True, kw_only=True)
class Power:
    """`/sys/power` (Documentation/power/swsusp.rst, Documentation/ABI/testing/sysfs-power)."""

    available: bool  # this kernel has hibernation and it is not switched off
    image_size_bytes: int = 0
    reserved_size_bytes: int = 0
    resume_device: str = ""  # "MAJ:MIN"; empty when unset ("0:0") or not there
    resume_offset_pages: int = 0
    disk_modes: tuple[str, ...] = ()
    disk_mode: str = ""  # the selected one
    disabled_by: tuple[str, ...] = ()  # in words: lockdown, nohibernate, no such kernel option …
    lockdown: str = ""  # none | integrity | confidentiality | "" when the LSM is absent
    freeze_timeout_seconds: float = 20.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Generation:
    """One generation of the multi-gen LRU (Documentation/admin-guide/mm/multigen_lru.rst)."""

    sequence: int
    age_seconds: float  # since it was created
    anon_pages: int
    file_pages: int


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationList:
    """The generations of one memory cgroup on one node, oldest first."""

    memcg_id: int
    path: str
    node: int
    generations: tuple[Generation, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Cgroup:
    """One memory cgroup. `swap_max_bytes` and `high_bytes` are None for "max"."""

    path: str
    current_bytes: int
    min_bytes: int = 0
    low_bytes: int = 0
    swap_current_bytes: int = 0
    swap_max_bytes: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ScopeMemory:
    """What one cgroup's subtree holds that reclaim can find, from its `memory.stat`; bounds a plan
    for that cgroup."""

    anon_bytes: int  # shmem included
    file_bytes: int
    mapped_bytes: int = 0
    dirty_bytes: int = 0
    slab_reclaimable_bytes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """What the rules for cgroups keep from one stage: the cgroups (each with all below it) that its
    steps leave alone, and how much is out of their reach therefore."""

    paths: tuple[str, ...] = ()
    anon_bytes: int = 0  # shmem included
    file_bytes: int = 0
    mapped_bytes: int = 0  # of the file bytes

    @property
    def is_something(self) -> bool:
        """Whether any memory is kept; the cgroups may not be there."""
        return self.anon_bytes + self.file_bytes > 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """The rules for cgroups as they stand for one scope; what bound them is in `notes`."""

    cache: Kept = Kept()  # stages cache and slab
    cold: Kept = Kept()  # stage cold-anon
    anon: Kept = Kept()  # stage anon
    first: tuple[First, ...] = ()
    notes: tuple[Limit, ...] = ()

    def of(self, stage: Stage) -> Kept:
        """What is kept from a stage."""
        if stage in (Stage.CACHE, Stage.SLAB):
            return self.cache
        if stage is Stage.SYNC:
            return Kept()
        return self.cold if stage is Stage.COLD_ANON else self.anon


@dataclass(frozen=True, slots=True, kw_only=True)
class First:
    """A cgroup that is reclaimed before all others, with the rules as they stand inside it."""

    path: str
    memory: ScopeMemory
    rules: Rules


@dataclass(frozen=True, slots=True, kw_only=True)
class Zram:
    """One zram device."""

    name: str  # zram0
    original_bytes: int  # what was put into it, written back or not
    used_bytes: int  # the memory that it takes
    backing: str = ""  # the device behind it; "" when there is none
    written_bytes: int = 0  # what lies there
    limited: bool = False  # somebody keeps account of what is written there (writeback_limit)


@dataclass(frozen=True, slots=True, kw_only=True)
class ZswapCgroup:
    """One cgroup with a limit of its own for zswap (since 5.19)."""

    path: str
    max_file: str  # its memory.zswap.max, absolute, without the root prefix
    writeback: bool = True  # whether it may write to a disk (memory.zswap.writeback, since 6.8)


@dataclass(frozen=True, slots=True, kw_only=True)
class Label:
    """What a cgroup's folder carries in the extended attribute `user.hibprep.rule`."""

    text: str
    by_root: bool  # nobody but root may have written it


@dataclass(frozen=True, slots=True, kw_only=True)
class Holder:
    """Who keeps memory that nothing can reclaim: a process, or a cgroup (`pid` 0) with what is
    charged to it and to those below it that hold little each."""

    name: str  # of the process; the path of a cgroup
    pid: int = 0
    locked_bytes: int = 0  # mlock(2), memfd_secret(2), pinned; of a cgroup all that is unevictable
    huge_bytes: int = 0  # hugetlb; not told by cgroup

    @property
    def held_bytes(self) -> int:
        """Both together."""
        return self.locked_bytes + self.huge_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Vmstat:
    """The counters of `/proc/vmstat` that tell what was reclaimed; events in pages."""

    pgsteal_anon: int = 0
    pgsteal_file: int = 0
    pswpout: int = 0
    pswpin: int = 0
    zswpout: int = 0
    swpout_zero: int = 0
    workingset_refault_anon: int = 0
    workingset_refault_file: int = 0
    drop_pagecache: int = 0
    drop_slab: int = 0
    slabs_scanned: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Pressure:
    """One `some`/`full` pair of a PSI file (Documentation/accounting/psi.rst): cumulative stall
    times and the ten-second averages in percent."""

    some_total_seconds: float = 0.0
    full_total_seconds: float = 0.0
    some_avg10: float = 0.0
    full_avg10: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """Everything a plan is made from, read at one moment."""

    page_size: int
    memory: Memory
    zones: tuple[Zone, ...]
    swaps: tuple[SwapArea, ...]
    power: Power
    generations: tuple[GenerationList, ...] = ()
    protected_bytes: int = 0  # memory.min that reclaim from the root cannot touch
    swap_barred_bytes: int = 0  # memory of cgroups that may not use swap (memory.swap.max)
    zram_used_bytes: int = 0  # RAM that the zram devices hold
    zswap_enabled: bool = False
    zswap_cgroups: tuple[ZswapCgroup, ...] = ()  # looked at where zswap is on
    lru_gen_enabled: bool | None = None  # None: not built
    damon_stat: bool = False  # DAMON_STAT runs, and clears accessed bits
    kidled_period_seconds: int = 0  # 0: off, or a kernel without
    laptop_mode: int = 0
    cpus: int = 1
    scope: ScopeMemory | None = None  # set when the plan is for one cgroup
    rules: Rules = Rules()
    holders: tuple[Holder, ...] = ()  # of what cannot be reclaimed, where that is much
    own_bytes: int = 0  # private memory of this process, which ends before the hibernation begins
