# SPDX-License-Identifier: LGPL-2.1-or-later
"""What everything else speaks of: stages, kinds, back-ends, scopes, what bounds something."""

from __future__ import annotations

from dataclasses import dataclass
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
    DAMON = "damon"
    COLDPGS = "coldpgs"
    SWAPRECLAIM = "swapreclaim"


class ZswapUse(StrEnum):
    """What becomes of zswap, where it is on, while memory is swapped out."""

    AVOID = "avoid"  # everything goes to the disk
    LESS_COLD = "less-cold"  # to the disk what is known to be cold, the rest to zswap
    LEAVE = "leave"


class ZramUse(StrEnum):
    """What becomes of swap on zram before a hibernation."""

    LEAVE = "leave"
    WRITEBACK = "writeback"  # to the device behind it, where there is one
    OUT = "out"  # switched off until the resume, where that is safe; else written back


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """One thing that bound the plan, in words that a person understands."""

    name: str
    text: str
    bytes: int = 0
