# SPDX-License-Identifier: LGPL-2.1-or-later
"""Statistics of a guest that are of now.

What a guest tells of its memory is as old as its period, right after a migration it is that of the
source, and without a period it is never told at all: so nothing is computed from it before
the guest has told them anew.
"""

from __future__ import annotations

from dataclasses import replace

from hibprep.clock import Clock
from hibprep.guests.port import Domain, MemoryStats
from hibprep.guests.waiting import Stopping, until

OUR_PERIOD_SECONDS = 1
FRESH_SECONDS = 5.0  # a guest that has told nothing by then does not tell


def fresh(
    domain: Domain,
    *,
    clock: Clock,
    stop: Stopping,
    seconds: float = FRESH_SECONDS,
    at_once: bool = False,
) -> MemoryStats | None:
    """Statistics that the guest has told after this was called; None when it told none in time, or
    the stop flag was raised.

    With `at_once` it is asked now, and every `OUR_PERIOD_SECONDS` from now on, whatever the period
    was. QEMU asks at once when the asking is switched on, and only after a period when the period
    is changed (balloon_stats_set_poll_interval() in hw/virtio/virtio-balloon.c). The time that it
    notes has whole seconds, so what differs in one and the same second is new as well.
    """
    before = _told(domain.memory_stats())
    if at_once:
        domain.set_stats_period(0)
        domain.set_stats_period(OUR_PERIOD_SECONDS)

    def ask() -> MemoryStats | None:
        stats = domain.memory_stats()
        return stats if stats.told_by_guest and _told(stats) != before else None

    return until(ask, clock=clock, stop=stop, seconds=seconds)


def _told(stats: MemoryStats) -> MemoryStats:
    """What of it is the guest's word; the rest is the host's, and of now."""
    return replace(stats, actual_bytes=0, rss_bytes=None)
