# SPDX-License-Identifier: LGPL-2.1-or-later
"""Pure: how fast the policy `continuous` may take memory from a machine that is at work.

The amount of one round is the allowed rate times the round's length, less in proportion to the
pressure on others (as TMO, ASPLOS 2022: `max(0, 1 - pressure / threshold)`), and the rate itself
learns: memory that comes straight back halves it and makes a pause, rounds without harm raise it
again slowly. And the work takes no more than a small share of the CPUs: a round that took much of
them is followed by a longer rest, which the next one makes up for.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from hibprep.events import RunEnded

_RAISE = 1.1
_CUT = 0.5
_LEAST_SHARE = 1 / 64  # of the allowed rate: never so slow that it never finds out
_NOTICEABLE_BYTES = 1 << 20
_LONGEST_REST_SECONDS = 600.0  # a preparation that was asked for may take all there is
_LONGEST_MADE_UP_SECONDS = 60.0  # a round is to stay one, and no preparation


@dataclass(frozen=True, slots=True, kw_only=True)
class PacePolicy:
    """The bounds; shares are 0 to 1."""

    bytes_per_second: float = 20e6
    memory_pressure_share: float = 0.01
    io_pressure_share: float = 0.01
    refault_share: float = 0.05  # of what was taken; more of it coming back is harm
    pause_seconds: float = 60.0
    cpu_share: float = 0.01  # of all CPUs, on average


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """What was learnt. `share` of the allowed rate; nothing before `not_before_seconds`."""

    share: float = 0.25
    not_before_seconds: float = 0.0
    rested_seconds: float = 0.0  # for the sake of the CPUs; the next round makes up for them
    reason: str = ""


def amount_bytes(
    pace: Pace, policy: PacePolicy, seconds: float, *, memory: float, io: float
) -> int:
    """How much may go in a round of `seconds`, with those shares of time lost to pressure by
    others; 0: nothing now."""
    brake = max(0.0, 1 - memory / policy.memory_pressure_share)
    brake *= max(0.0, 1 - io / policy.io_pressure_share)
    since = max(seconds, min(pace.rested_seconds, _LONGEST_MADE_UP_SECONDS))
    return int(policy.bytes_per_second * pace.share * brake * since)


def learn(pace: Pace, policy: PacePolicy, ended: RunEnded, at_seconds: float) -> Pace:
    """The pace after a round that went as `ended` says."""
    rest = min(_LONGEST_REST_SECONDS, ended.cpu_seconds / policy.cpu_share)
    pace = replace(
        pace,
        not_before_seconds=at_seconds + rest,
        rested_seconds=rest,
        reason=f"the last round took {ended.cpu_seconds:.2f} s of all CPUs",
    )
    if ended.freed_bytes < _NOTICEABLE_BYTES:
        return pace
    back = ended.refaulted_bytes / ended.freed_bytes
    if back > policy.refault_share:
        return Pace(
            share=max(_LEAST_SHARE, pace.share * _CUT),
            not_before_seconds=at_seconds + max(rest, policy.pause_seconds),
            reason=f"{100 * back:.0f} % of what was taken came back",
        )
    return replace(pace, share=min(1.0, pace.share * _RAISE))
