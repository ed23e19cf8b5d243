# SPDX-License-Identifier: LGPL-2.1-or-later
"""Pure: the policies, as far as they decide; `hibprep.config` makes one of the configuration."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType

from hibprep.idleness import IdlePolicy
from hibprep.model import Stage, Target
from hibprep.pace import PacePolicy


class Kind(StrEnum):
    """The policies."""

    IDLE = "idle"
    CONTINUOUS = "continuous"
    ON_REQUEST = "on-request"


class Battery(StrEnum):
    """What changes on battery, below a level, or in low-power mode."""

    AS_USUAL = "as-usual"
    CACHE_ONLY = "cache-only"  # nothing is written
    HOLD = "hold"
    FORWARD = "forward"  # earlier: this machine will have to sleep soon


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """The configuration, as far as it decides."""

    kind: Kind = Kind.IDLE
    target: Target = field(default_factory=Target)
    idle: IdlePolicy = field(default_factory=IdlePolicy)
    after_seconds: float = 60.0  # less is not idle at all
    delays_seconds: Mapping[Stage, float] = field(
        default_factory=lambda: MappingProxyType(
            {
                Stage.SYNC: 60.0,
                Stage.CACHE: 120.0,
                Stage.SLAB: 120.0,
                Stage.COLD_ANON: 300.0,
                Stage.ANON: 900.0,
            }
        )
    )
    check_again_seconds: float = 300.0  # when Ready; doubled up to an hour
    settle_seconds: float = 60.0  # after a resume
    swap_in: bool = False
    on_battery: Battery = Battery.AS_USUAL
    low_battery_percent: float = 20.0
    on_low_battery: Battery = Battery.FORWARD
    on_low_power: Battery = Battery.AS_USUAL
    forward_factor: float = 0.25
    write_budget_bytes: int = 0  # a day; 0: no limit
    continuous_seconds: float = 10.0  # the hibernation is to take no longer
    period_seconds: float = 10.0
    older_than_seconds: float = 0.0  # what is idle for longer goes in any case; 0: it may stay
    pace: PacePolicy = field(default_factory=PacePolicy)
