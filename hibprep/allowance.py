# SPDX-License-Identifier: LGPL-2.1-or-later
"""Pure: which stages may be used now, by what feeds the machine and by what was written today."""

from __future__ import annotations

from hibprep.events import PowerSupply
from hibprep.model import Stage
from hibprep.policy import Battery, Policy

_WRITING = frozenset({Stage.COLD_ANON, Stage.ANON})


def allowed(
    power: PowerSupply, written_bytes: int, policy: Policy
) -> tuple[tuple[Stage, ...], float, str]:
    """The stages that may be used now, what their delays are multiplied with, and why."""
    stages = tuple(stage for stage in Stage if stage in policy.delays_seconds)
    factor, words = 1.0, ""
    how, why = _power_rule(power, policy)
    if how is Battery.HOLD:
        return (), 1.0, f"; held back {why}"
    if how is Battery.CACHE_ONLY:
        stages = tuple(stage for stage in stages if stage not in _WRITING)
        words = f"; nothing is written {why}"
    if how is Battery.FORWARD:
        factor, words = policy.forward_factor, f"; earlier than usual {why}"
    if may_write_bytes(written_bytes, policy) == 0:
        stages = tuple(stage for stage in stages if stage not in _WRITING)
        words += "; today's write budget is spent"
    return stages, factor, words


def _power_rule(power: PowerSupply, policy: Policy) -> tuple[Battery, str]:
    on_battery = power.mains is False
    level = power.battery_percent
    if on_battery and level is not None and level <= policy.low_battery_percent:
        return policy.on_low_battery, f"(battery at {level:.0f} %)"
    if power.low_power and policy.on_low_power is not Battery.AS_USUAL:
        return policy.on_low_power, "(low-power mode)"
    if on_battery:
        return policy.on_battery, "(on battery)"
    return Battery.AS_USUAL, ""


def may_write_bytes(written_bytes: int, policy: Policy) -> int | None:
    """What today's budget leaves for swap; None: no budget."""
    if not policy.write_budget_bytes:
        return None
    return max(0, policy.write_budget_bytes - written_bytes)
