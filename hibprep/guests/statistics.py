# SPDX-License-Identifier: LGPL-2.1-or-later
"""Statistics of a guest that are of now.

What a guest tells of its memory is as old as its period, right after a migration it is that of the
source, and without a period it is never told at all: so nothing is computed from it before
`last_update` has moved.
"""

from __future__ import annotations

from hibprep.clock import Clock
from hibprep.guests.port import Domain, MemoryStats
from hibprep.guests.waiting import Stopping, until

OUR_PERIOD_SECONDS = 1
FRESH_SECONDS = 5.0  # a guest that has told nothing by then does not tell


def ask_at_once(domain: Domain) -> None:
    """Have the guest asked for its statistics now, and every second from now on. QEMU asks at once
    when the asking is switched on, and only after a period when the period is changed
    (balloon_stats_set_poll_interval() in hw/virtio/virtio-balloon.c)."""
    domain.set_stats_period(0)
    domain.set_stats_period(OUR_PERIOD_SECONDS)


def fresh(
    domain: Domain, *, clock: Clock, stop: Stopping, seconds: float = FRESH_SECONDS
) -> MemoryStats | None:
    """Statistics that the guest has told after this was called; None when it told none in time, or
    the stop flag was raised."""
    before = domain.memory_stats().last_update

    def ask() -> MemoryStats | None:
        stats = domain.memory_stats()
        return stats if stats.last_update != before and stats.told_by_guest else None

    return until(ask, clock=clock, stop=stop, seconds=seconds)
