# SPDX-License-Identifier: LGPL-2.1-or-later
"""What is wanted, and the plan for it."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from hibprep.model.machine import Holder
from hibprep.model.words import (
    MACHINE,
    BackendName,
    Kind,
    Limit,
    Scope,
    Stage,
    ZramUse,
    ZswapUse,
)


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
    swap_out_bytes_per_second: float = 300e6  # reclaiming anonymous memory; the disk bounds it too
    drop_bytes_per_second: float = 1e9  # reclaiming clean page cache and slab
    fixed_prepare_seconds: float = 0.5  # of a preparation, beside its steps
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
    zswap: ZswapUse = ZswapUse.AVOID
    zram: ZramUse = ZramUse.LEAVE
    # How long stage cold-anon may wait for memory to prove idle; None: as long as that takes.
    cold_wait_seconds: float | None = None


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
class KnobChange:
    """A setting that is changed while the plan runs and put back after it."""

    path: str  # absolute, without the root prefix
    value: str
    reason: str
    stages: tuple[Stage, ...] = ()  # only while a step of these runs; none: all the while


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
    # Whether to wait until memory proves to be `min_age_seconds` old. Otherwise what proves so now
    # goes, and memory is aged only where that was not done for half of this time.
    waits: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class AgeShare:
    """Memory that has been idle for at least so long (and for less than the row before): what goes
    of it, what stays in the image, and how much longer the latter makes both ways."""

    at_least_seconds: float
    anon_goes_bytes: int
    anon_stays_bytes: int
    file_goes_bytes: int
    file_stays_bytes: int
    hibernate_seconds: float
    resume_seconds: float


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
    ages: tuple[AgeShare, ...] = ()  # from the oldest; none where ages are not known
    holders: tuple[Holder, ...] = ()  # whose the locked memory and huge pages are, the most first
    rates: Rates = field(default_factory=Rates)

    @property
    def need_bytes(self) -> int:
        """How much has to go to reach the goal."""
        return max(0, self.before.saveable_bytes - self.goal_bytes)
