# SPDX-License-Identifier: LGPL-2.1-or-later
"""Pure: how fast the policy `continuous` may take memory from a machine that is at work.

By the law `share` the amount of one round is the allowed rate times the round's length, less in
proportion to the pressure on others, and the rate itself learns: memory that comes straight back
halves it, rounds without harm raise it again slowly. The laws of others are in `hibprep.laws`; the
allowed rate and the thresholds of pressure bound them too. By every law memory that comes straight
back makes a pause, and the work takes no more than a small share of the CPUs: a round that took
much of them is followed by a longer rest, which the next one makes up for.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from hibprep.events import RunEnded
from hibprep.laws import INTERVAL_SECONDS, Law, senpai_bytes, tmo_bytes

_RAISE = 1.1
_CUT = 0.5
_LEAST_SHARE = 1 / 64  # of the allowed rate: never so slow that it never finds out
_NOTICEABLE_BYTES = 1 << 20
_LONGEST_REST_SECONDS = 600.0  # a preparation that was asked for may take all there is
_LONGEST_MADE_UP_SECONDS = 60.0  # a round is to stay one, and no preparation
_MICROSECONDS = 1e6


@dataclass(frozen=True, slots=True, kw_only=True)
class PacePolicy:
    """The bounds; shares are 0 to 1."""

    law: Law = Law.SHARE
    bytes_per_second: float = 20e6
    memory_pressure_share: float = 0.01
    io_pressure_share: float = 0.01
    refault_share: float = 0.05  # of what was taken; more of it coming back is harm
    pause_seconds: float = 60.0
    # Of one CPU's time, on average. What reclaims is in the kernel and not always left at once, so
    # that as large a share of what others want may meet it: a hundredth is where a p99 begins.
    cpu_share: float = 0.005


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """What was learnt. `share` of the allowed rate; nothing before `not_before_seconds`."""

    share: float = 0.25
    not_before_seconds: float = 0.0
    rested_seconds: float = 0.0  # for the sake of the CPUs; the next round makes up for them
    found: bool = True  # whether the last round had anything to take
    reason: str = ""


def amount_bytes(
    pace: Pace,
    policy: PacePolicy,
    seconds: float,
    *,
    memory: float,
    io: float,
    in_use_bytes: int,
) -> int:
    """How much may go in a round of `seconds`, with those shares of time lost to pressure by
    others, and so much memory in use; 0: nothing now."""
    brake = max(0.0, 1 - memory / policy.memory_pressure_share)
    brake *= max(0.0, 1 - io / policy.io_pressure_share)
    since = max(seconds, min(pace.rested_seconds, _LONGEST_MADE_UP_SECONDS))
    most = policy.bytes_per_second * since
    if policy.law is Law.SHARE:
        return int(most * pace.share * brake)
    if not brake:
        return 0
    if policy.law is Law.SENPAI:
        stalled = memory * INTERVAL_SECONDS * _MICROSECONDS
        one = senpai_bytes(in_use_bytes, stalled)
    else:
        one = tmo_bytes(in_use_bytes, memory=memory, io=io)
    # a round that is longer than their interval stands for several
    return int(min(most, one * since / INTERVAL_SECONDS))


def learn(pace: Pace, policy: PacePolicy, ended: RunEnded, at_seconds: float) -> Pace:
    """The pace after a round that went as `ended` says."""
    rest = min(_LONGEST_REST_SECONDS, ended.cpu_seconds / policy.cpu_share)
    pace = replace(
        pace,
        found=ended.freed_bytes >= _NOTICEABLE_BYTES,
        not_before_seconds=at_seconds + rest,
        rested_seconds=rest,
        reason=f"the last round took {ended.cpu_seconds:.2f} s of a CPU",
    )
    if ended.freed_bytes < _NOTICEABLE_BYTES:
        return pace
    back = ended.refaulted_bytes / ended.freed_bytes
    if back > policy.refault_share:
        return Pace(
            share=max(_LEAST_SHARE, pace.share * _CUT),
            not_before_seconds=at_seconds + max(rest, policy.pause_seconds),
            found=True,
            reason=f"{100 * back:.0f} % of what was taken came back",
        )
    return replace(pace, share=min(1.0, pace.share * _RAISE))
