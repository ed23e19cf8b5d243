# SPDX-License-Identifier: LGPL-2.1-or-later
"""A run under way, and as it went."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from hibprep.model.planned import Fit, Prediction, Target
from hibprep.model.words import Limit, Stage


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
class CgroupFreed:
    """What became less in one cgroup with all below it, in bytes; what programs did meanwhile is in
    it."""

    path: str
    anon_bytes: int = 0
    file_bytes: int = 0
    slab_bytes: int = 0
    swapped_out_bytes: int = 0
    own_bytes: int = 0  # of all kinds, without the cgroups below

    @property
    def freed_bytes(self) -> int:
        """All kinds together."""
        return self.anon_bytes + self.file_bytes + self.slab_bytes


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
    waited_seconds: float = 0.0  # of its time, for memory to prove idle


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
    cgroups: tuple[CgroupFreed, ...] = ()  # of `reclaim`; those with little are left out

    @property
    def goal_reached(self) -> bool:
        """Saveable memory ended at the goal (2 % or 8 MiB of slack: other programs go on)."""
        slack = max(8 << 20, self.goal_bytes // 50)
        return self.after.saveable_bytes <= self.goal_bytes + slack
