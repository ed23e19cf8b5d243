# SPDX-License-Identifier: LGPL-2.1-or-later
"""The balloon: how far it may be inflated, and inflating and deflating it, verified.

The guest's driver takes pages from the guest and QEMU gives them back to the host (virtio 1.2,
5.5), so that they read as zeros and are not sent. It asks for them without having anybody killed
(__GFP_NORETRY in mm/balloon_compaction.c), but whoever else wants memory in the guest meanwhile is
left with what it leaves: hence the reserve.
"""

from __future__ import annotations

from dataclasses import dataclass

from hibprep.clock import Clock
from hibprep.guests.port import Domain, MemoryStats
from hibprep.guests.waiting import Stopping, until

SLACK_BYTES = 1 << 20  # a guest with larger pages ends a little beside what it was asked for
STALLED_SECONDS = 4.0  # the driver tries again after 0.2 s when it got no page ("Out of puff")
_AHEAD_SECONDS = 2.0  # until what the guest tells next is acted upon
_PACE_SECONDS = 2.0  # so long its pace is measured; the first half second it is slower
_ROUND_BYTES = 1 << 20
_LITTLE = 8  # this part of the reserve


@dataclass(frozen=True, slots=True)
class Reserve:
    """What is left to a guest beyond what it uses: a share of that, and no less than `least_bytes`;
    or `fixed_bytes`, if that is not 0."""

    share: float = 0.2
    least_bytes: int = 64 << 20
    fixed_bytes: int = 0

    def of(self, used_bytes: int) -> int:
        """In bytes, for a guest that uses so much."""
        return self.fixed_bytes or max(int(self.share * used_bytes), self.least_bytes)


@dataclass(frozen=True, slots=True, kw_only=True)
class Moved:
    """How far the balloon went. `actual_bytes` is what the guest has now; `why_short` is empty when
    it is what was asked for."""

    asked_bytes: int
    actual_bytes: int
    why_short: str = ""


DEFAULT_RESERVE = Reserve()


def used_bytes(stats: MemoryStats) -> int:
    """What the guest cannot give up without swapping: all but MemAvailable."""
    return max(0, stats.actual_bytes - (stats.usable_bytes or 0))


def target_bytes(stats: MemoryStats, reserve: Reserve) -> int:
    """What the balloon may leave to a guest with these (fresh) statistics, and no more than it
    has."""
    used = used_bytes(stats)
    wanted = -(-(used + reserve.of(used)) // _ROUND_BYTES) * _ROUND_BYTES
    return min(stats.actual_bytes, wanted)


class _Need:
    """What a guest comes to need while its balloon is inflated, by what it tells meanwhile."""

    def __init__(self, stats: MemoryStats, target: int, reserve_bytes: int) -> None:
        self._told = stats.last_update
        self._used = target - reserve_bytes
        self._reserve_bytes = reserve_bytes

    def update(self, stats: MemoryStats) -> int | None:
        """What it must be left with, if it has told anew. The balloon's size is of now and what the
        guest has told a moment older, so with a fast balloon this is a little too small; but a fast
        one is done before much can have changed, and looked at again then."""
        if stats.last_update == self._told or stats.usable_bytes is None:
            return None
        passed = max(1, stats.last_update - self._told) if self._told else 1
        used = used_bytes(stats)
        growth = max(0, used - self._used) // passed
        self._told, self._used = stats.last_update, used
        return used + self._reserve_bytes + int(_AHEAD_SECONDS * growth)


class _Pace:
    """How fast a balloon goes, from one stretch of time to the next."""

    def __init__(self, actual_bytes: int, clock: Clock) -> None:
        self._clock = clock
        self._actual_bytes, self._began = actual_bytes, clock.monotonic()

    def update(self, actual_bytes: int) -> float | None:
        """In bytes a second, at the end of every stretch; None meanwhile."""
        passed = self._clock.monotonic() - self._began
        if passed < _PACE_SECONDS:
            return None
        pace = (self._actual_bytes - actual_bytes) / passed
        self._actual_bytes, self._began = actual_bytes, self._clock.monotonic()
        return pace


def inflate(
    domain: Domain,
    target: int,
    reserve_bytes: int,
    *,
    clock: Clock,
    stop: Stopping,
    seconds: float,
    least_bytes_per_second: float = 0.0,
) -> Moved:
    """Have the guest come down to `target`, or to more where it tells meanwhile that it needs more;
    and hold it where it is when it does not get there in time, goes more slowly than
    `least_bytes_per_second`, or is stopped: a target that stays lower would go on taking memory."""
    need = _Need(domain.memory_stats(), target, reserve_bytes)
    domain.set_balloon(target)
    asked = target
    lowest, moved_at = domain.memory_stats().actual_bytes, clock.monotonic()
    pace = _Pace(lowest, clock)

    def ask() -> str | None:
        nonlocal asked, lowest, moved_at
        stats = domain.memory_stats()
        needed = need.update(stats)
        if needed is not None and needed > asked + SLACK_BYTES:
            asked = min(needed, stats.actual_bytes)
            domain.set_balloon(asked)
        if stats.actual_bytes <= asked + SLACK_BYTES:
            # others in the guest allocate and free all the time
            little = asked - target <= reserve_bytes // _LITTLE
            return "" if little else "the guest has come to need more"
        if stats.actual_bytes < lowest:
            lowest, moved_at = stats.actual_bytes, clock.monotonic()
        elif clock.monotonic() - moved_at >= STALLED_SECONDS:
            return "the guest gives no more"
        found = pace.update(stats.actual_bytes)
        if found is not None and found < least_bytes_per_second:
            return "the guest gives the rest more slowly than it can be sent"
        return None

    why = until(ask, clock=clock, stop=stop, seconds=seconds)
    if why is None:
        why = stop.reason if stop.requested() else f"not there after {seconds:.0f} s"
    actual = domain.memory_stats().actual_bytes
    if why and actual > asked:
        domain.set_balloon(actual)
    return Moved(asked_bytes=target, actual_bytes=actual, why_short=why)


def missing_bytes(stats: MemoryStats, reserve_bytes: int) -> int:
    """What an inflated guest lacks of its reserve, by fresh statistics; 0 where a little lacks,
    since others in the guest allocate and free all the time."""
    lacking = reserve_bytes - (stats.usable_bytes or 0)
    return lacking if lacking > max(reserve_bytes // _LITTLE, SLACK_BYTES) else 0


def deflate(
    domain: Domain, size_bytes: int, *, clock: Clock, stop: Stopping, seconds: float
) -> Moved:
    """Give memory back until the guest has `size_bytes`; says so when it has not in time. The order
    stays: a guest that is late gets there later."""
    domain.set_balloon(size_bytes)
    before = -1

    def ask() -> int | None:
        nonlocal before
        actual, last = domain.memory_stats().actual_bytes, before
        before = actual
        there = actual >= size_bytes or (actual == last and actual >= size_bytes - SLACK_BYTES)
        return actual if there else None

    actual = until(ask, clock=clock, stop=stop, seconds=seconds)
    if actual is not None:
        return Moved(asked_bytes=size_bytes, actual_bytes=actual)
    return Moved(
        asked_bytes=size_bytes,
        actual_bytes=domain.memory_stats().actual_bytes,
        why_short=f"the guest has not taken it back after {seconds:.0f} s",
    )
