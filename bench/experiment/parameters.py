# SPDX-License-Identifier: LGPL-2.1-or-later
"""Everything that a run of the experiment can be told; kept whole in its results file."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from bench.experiment.sample import Arrangement, Condition, WorkloadKind

MIB = 1 << 20
GIB = 1 << 30

DEFAULT_IMAGE_SIZE = "default"


class SwapKind(StrEnum):
    """What the guest swaps to and hibernates into."""

    PARTITION = "partition"
    FILE = "file"


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameters:
    """The reference experiment, with its values as the defaults.

    8 GB of memory, a disk of 100 MB/s, 85 % allocated, 60 s of rest: A. Righi, "PM: hibernate:
    opportunistic memory reclaim" (RFC v2, linux-pm, 2020).
    """

    recipe: str = "trixie"
    memory_bytes: int = 8 * GIB
    cpus: int = 2
    # of memory, the working set included
    fill_ratio: float = 0.85
    settle_seconds: float = 60.0
    disk_bytes_per_second: int = 100 * MIB
    # 0 for as many as it can: a disk without any latency, as the reference has it
    disk_requests_per_second: int = 0
    swap: SwapKind = SwapKind.PARTITION
    swap_bytes: int = 16 * GIB
    # None for the kernel's own choice
    compressor: str | None = None
    # "default" for what the kernel starts with (2/5 of memory), or bytes
    image_sizes: tuple[str, ...] = (DEFAULT_IMAGE_SIZE, "0")
    conditions: tuple[Condition, ...] = (
        Condition.IDLE,
        Condition.VANILLA,
        Condition.DROPCACHES,
        Condition.ONELINER,
        Condition.HIBPREP,
        Condition.HIBPREPD,
    )
    workloads: tuple[WorkloadKind, ...] = (WorkloadKind.COLD,)
    arrangements: tuple[Arrangement, ...] = (Arrangement.APART,)
    # the working set of the workloads that have one, by memory
    warm_ratios: tuple[float, ...] = (0.10,)
    # what hibprep is given where there is a working set, by the idle guest's time
    within_ratio: float = 2.0
    runs: int = 3
