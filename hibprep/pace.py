# SPDX-License-Identifier: LGPL-2.1-or-later
"""Pure: how fast the policy `continuous` may take memory from a machine that is at work.

The amount of one round is the allowed rate times the round's length, less in proportion to the
pressure on others (as TMO, ASPLOS 2022: `max(0, 1 - pressure / threshold)`), and the rate itself
learns: memory that comes straight back halves it and makes a pause, rounds without harm raise it
again slowly.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from hibprep.events import RunEnded

_RAISE = 1.1
_CUT = 0.5
_LEAST_SHARE = 1 / 64  # of the allowed rate: never so slow that it never finds out
_NOTICEABLE_BYTES = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class PacePolicy:
    """The bounds; shares are 0 to 1."""

    bytes_per_second: float = 20e6
    memory_pressure_share: float = 0.01
    io_pressure_share: float = 0.01
    refault_share: float = 0.05  # of what was taken; more of it coming back is harm
    pause_seconds: float = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """What was learnt. `share` of the allowed rate; nothing before `not_before_seconds`."""

    share: float = 0.25
    not_before_seconds: float = 0.0
    reason: str = ""


def amount_bytes(
    pace: Pace, policy: PacePolicy, seconds: float, *, memory: float, io: float
) -> int:
    """How much may go in a round of `seconds`, with those shares of time lost to pressure by
    others; 0: nothing now."""
    brake = max(0.0, 1 - memory / policy.memory_pressure_share)
    brake *= max(0.0, 1 - io / policy.io_pressure_share)
    return int(policy.bytes_per_second * pace.share * brake * seconds)


def learn(pace: Pace, policy: PacePolicy, ended: RunEnded, at_seconds: float) -> Pace:
    """The pace after a round that went as `ended` says."""
    if ended.freed_bytes < _NOTICEABLE_BYTES:
        return pace
    back = ended.refaulted_bytes / ended.freed_bytes
    if back > policy.refault_share:
        return Pace(
            share=max(_LEAST_SHARE, pace.share * _CUT),
            not_before_seconds=at_seconds + policy.pause_seconds,
            reason=f"{100 * back:.0f} % of what was taken came back",
        )
    return replace(pace, share=min(1.0, pace.share * _RAISE), reason="")
