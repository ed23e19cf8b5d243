# SPDX-License-Identifier: LGPL-2.1-or-later
"""The frozen values that travel from the kernel to the plan, the executor and the report.

Units are in the names: `_bytes`, `_pages` (of `Snapshot.page_size`), `_seconds`. Nothing here does
I/O, reads a clock or imports anything outside the standard library, so every layer may use it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum


class Stage(StrEnum):
    """What a step takes, in the order in which a plan takes it: the cheapest to lose first."""

    SYNC = "sync"  # dirty pages written back: hibernation would do it while the person waits
    CACHE = "cache"  # clean page cache
    SLAB = "slab"  # reclaimable kernel objects (dentries, inodes)
    COLD_ANON = "cold-anon"  # anonymous memory proven idle by its generation's age
    ANON = "anon"  # the rest of it, in LRU order


class Kind(StrEnum):
    """The kinds of memory a person may ask for (`reclaim --type`) and a report tells apart."""

    ANY = "any"
    FILE = "file"
    ANON = "anon"
    SLAB = "slab"


class BackendName(StrEnum):
    """The ways of asking the kernel; one file each in `hibprep.reclaim`."""

    WRITEBACK = "writeback"
    MEMCG = "memcg"
    LRUGEN = "lrugen"
    NODE = "node"
    DROPCACHES = "dropcaches"
    MADVISE = "madvise"


class ScopeKind(StrEnum):
    """What part of the machine a step works on."""

    MACHINE = "machine"
    CGROUP = "cgroup"
    PROCESS = "process"


@dataclass(frozen=True, slots=True)
class Scope:
    """The whole machine, one cgroup (`path`, "/" is the root) or one process (`pid`)."""

    kind: ScopeKind = ScopeKind.MACHINE
    path: str = "/"
    pid: int = 0

    def __str__(self) -> str:
        if self.kind is ScopeKind.CGROUP:
            return f"cgroup {self.path}"
        if self.kind is ScopeKind.PROCESS:
            return f"process {self.pid}"
        return "whole machine"


MACHINE = Scope()


@dataclass(frozen=True, slots=True)
class Capability:
    """Whether a back-end can be used here. `reason` always says why, and when not, what would
    make it available; `since` is the first kernel that has it; `features` its optional parts."""

    backend: BackendName
    available: bool
    reason: str
    since: str
    features: frozenset[str] = frozenset()


# --- what the kernel says -----------------------------------------------------------------------


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
    """What one cgroup's subtree holds, from its `memory.stat`; bounds a plan for that cgroup."""

    anon_bytes: int
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
    lru_gen_enabled: bool | None = None  # None: not built
    laptop_mode: int = 0
    cpus: int = 1
    scope: ScopeMemory | None = None  # set when the plan is for one cgroup
    rules: Rules = Rules()
    own_bytes: int = 0  # private memory of this process, which ends before the hibernation begins


# --- what is wanted -----------------------------------------------------------------------------


class TargetKind(StrEnum):
    """How the wanted size of the image was said."""

    IMAGE_SIZE = "image_size"  # exactly what the kernel would shrink to
    SIZE = "size"  # so many bytes
    MIN = "min"  # as small as it gets
    WITHIN = "within"  # whatever can be hibernated in so many seconds


@dataclass(frozen=True, slots=True)
class Target:
    """What the plan aims at: `size_bytes` with SIZE, `seconds` with WITHIN."""

    kind: TargetKind = TargetKind.IMAGE_SIZE
    size_bytes: int = 0
    seconds: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """The speeds the time model works with, and where each came from ("default", "configured",
    "measured 2026-…"), so that a prediction can be judged."""

    disk_write_bytes_per_second: float = 100e6
    disk_read_bytes_per_second: float = 100e6
    compress_bytes_per_second: float = 400e6  # of uncompressed bytes, all threads together
    decompress_bytes_per_second: float = 800e6
    shrink_bytes_per_second: float = 50e6  # the kernel's own shrinking, one thread
    copy_bytes_per_second: float = 2e9  # the atomic copy and its allocation
    compression_ratio: float = 0.5  # compressed ÷ uncompressed
    fixed_hibernate_seconds: float = 3.0  # freeze, devices, power-off
    fixed_resume_seconds: float = 6.0  # firmware, boot kernel, devices
    sources: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What the person or the configuration allows."""

    stages: tuple[Stage, ...] = tuple(Stage)
    cold_age_seconds: float = 10.0
    swap_reserve_ratio: float = 0.6  # image bytes × this are kept free on the resume device
    systemd_margin: float = 0.95  # of systemd's 0.98, so that a little activity does no harm
    backend: BackendName | None = None  # only this one
    scope: Scope = MACHINE


# --- the plan -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """What a hibernation would be, had it to begin at this moment."""

    saveable_bytes: int
    image_bytes: int  # uncompressed, as the kernel would copy it
    compressed_bytes: int
    shrink_bytes: int  # what the kernel would have to shrink first
    hibernate_seconds: float
    resume_seconds: float
    parts_seconds: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """Whether the hibernation would be accepted, by systemd and by the kernel, in numbers."""

    resume_path: str  # "" when there is none
    systemd_ok: bool
    systemd_needs_bytes: int
    systemd_has_bytes: int
    kernel_ok: bool
    kernel_needs_bytes: int
    kernel_has_bytes: int
    reason: str  # in words; what is wrong and by how much, or "fits"

    @property
    def ok(self) -> bool:
        """Both accept."""
        return self.systemd_ok and self.kernel_ok


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """One thing that bound the plan, in words that a person understands."""

    name: str
    text: str
    bytes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class KnobChange:
    """A setting that is changed while the plan runs and put back after it."""

    path: str  # absolute, without the root prefix
    value: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One thing to do. It ends when `amount_bytes` are done, or when saveable memory is at
    `goal_bytes` (0: not bound by a goal), or when nothing moves any more."""

    stage: Stage
    kind: Kind
    scope: Scope
    amount_bytes: int
    backend: BackendName
    goal_bytes: int = 0
    min_age_seconds: float = 0.0
    reason: str = ""
    spared: tuple[str, ...] = ()  # cgroups that are left alone, each with all below it


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What would be done, what it would gain, and what held it back."""

    target: Target
    goal_bytes: int  # saveable memory to end with
    steps: tuple[Step, ...]
    before: Prediction
    after: Prediction
    fit_before: Fit
    fit_after: Fit
    limits: tuple[Limit, ...]
    irreducible: dict[str, int]  # kind -> bytes
    swap_budget_bytes: int
    knobs: tuple[KnobChange, ...] = ()
    rates: Rates = field(default_factory=Rates)

    @property
    def need_bytes(self) -> int:
        """How much has to go to reach the goal."""
        return max(0, self.before.saveable_bytes - self.goal_bytes)


# --- what is done ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a run is, for a progress bar."""

    stage: Stage
    step: int  # from 1
    steps: int
    done_bytes: int
    amount_bytes: int
    saveable_bytes: int
    goal_bytes: int
    seconds: float
    note: str = ""


class Ending(StrEnum):
    """Why a step or a run ended."""

    DONE = "done"  # its amount or its goal is reached
    EXHAUSTED = "exhausted"  # nothing moves any more
    LIMIT = "limit"  # a safety rule said no
    DEADLINE = "deadline"
    INTERRUPTED = "interrupted"
    UNAVAILABLE = "unavailable"
    FAILED = "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Freed:
    """What left memory, from counters and free memory, in bytes."""

    file_bytes: int = 0
    anon_bytes: int = 0
    slab_bytes: int = 0
    free_gain_bytes: int = 0  # MemFree after − before; other programs' doings included
    swapped_out_bytes: int = 0
    swapped_in_bytes: int = 0
    refaulted_file_bytes: int = 0  # page cache that was taken and had to be read again

    @property
    def reclaimed_bytes(self) -> int:
        """All kinds together."""
        return self.file_bytes + self.anon_bytes + self.slab_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class StepReport:
    """One step as it went."""

    stage: Stage
    scope: str
    backend: str
    asked_bytes: int
    freed: Freed
    seconds: float
    chunks: int
    ending: Ending
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """One run as it went; what `prepare --json` prints and the history keeps."""

    version: int
    started: str  # ISO 8601, UTC
    seconds: float
    command: str
    target: Target
    ending: Ending
    reason: str
    freed: Freed
    steps: tuple[StepReport, ...]
    before: Prediction
    after: Prediction
    fit_before: Fit
    fit_after: Fit
    limits: tuple[Limit, ...]
    irreducible: dict[str, int]
    knobs: tuple[str, ...] = ()  # what was changed and put back, in words
    goal_bytes: int = 0
    notes: tuple[str, ...] = ()
    hibernation: dict[str, object] = field(default_factory=dict)

    @property
    def goal_reached(self) -> bool:
        """Saveable memory ended at the goal (2 % or 8 MiB of slack: other programs go on)."""
        slack = max(8 << 20, self.goal_bytes // 50)
        return self.after.saveable_bytes <= self.goal_bytes + slack
