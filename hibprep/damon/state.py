# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the kernel tells of DAMON_RECLAIM at one moment, and of what is around it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from hibprep.damon.parameters import Value
from hibprep.damon.valid import PAGE, Range


@dataclass(frozen=True, slots=True, kw_only=True)
class ReclaimState:
    """The module's files. `inputs` holds the parameters that this kernel has; `committing` is
    commit_inputs, which reads N once they were read again; `kdamond_pid` is -1 without one."""

    inputs: Mapping[str, Value]
    enabled: bool
    committing: bool
    kdamond_pid: int
    statistics: Mapping[str, int]

    @property
    def tried_bytes(self) -> int:
        """What was found cold and was to go."""
        return self.statistics["bytes_reclaim_tried_regions"]

    @property
    def reclaimed_bytes(self) -> int:
        """What of it went."""
        return self.statistics["bytes_reclaimed_regions"]


@dataclass(frozen=True, slots=True)
class Holder:
    """Another user of DAMON that runs. The kernel's own modules are exclusive: beside one of them
    nothing else can be started, and none of them beside anything else (damon_start())."""

    name: str
    pid: int = -1  # of its kdamond, where the kernel tells
    switch: str = ""  # the file that switches it off, by writing N to it


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What decides whether DAMON_RECLAIM does anything, beside its parameters."""

    kernel: tuple[int, int]
    total_bytes: int
    free_bytes: int
    swap_free_bytes: int
    page: int = PAGE
    ram: tuple[Range, ...] = ()  # empty: not known, it takes root to read
    holders: tuple[Holder, ...] = ()
    running_seconds: float | None = None  # None: its kdamond is not there
    committed: Mapping[str, Value] | None = field(default=None)  # what hibprep had it read last

    @property
    def free_per_mille(self) -> int:
        """As the kernel compares it with the watermarks (damos_get_wmark_metric_value())."""
        return self.free_bytes * 1000 // self.total_bytes if self.total_bytes else 0
