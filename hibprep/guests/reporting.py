# SPDX-License-Identifier: LGPL-2.1-or-later
"""Waiting until a guest has reported what it freed.

With free page reporting the guest's kernel tells the host of free page blocks 2 s after there were
some (PAGE_REPORTING_DELAY in mm/page_reporting.c, Linux 5.7), and QEMU gives them back. Nobody says
when that is done, so QEMU's size in memory is watched until it falls no more.
"""

from __future__ import annotations

from dataclasses import dataclass

from hibprep.clock import Clock
from hibprep.guests.port import Domain
from hibprep.guests.waiting import Stopping, until

LEAST_SECONDS = 3.0  # the guest's delay, and the time that the first round takes
QUIET_SECONDS = 2.5  # no fall for longer than the delay between two rounds
_NOISE_BYTES = 2 << 20
_LOOK_SECONDS = 0.25


@dataclass(frozen=True, slots=True, kw_only=True)
class Reported:
    """What QEMU's size in memory was when the wait began, the least it came to, and how long that
    took; None where the host does not tell it."""

    before_bytes: int | None
    after_bytes: int | None
    settled: bool
    seconds: float

    @property
    def given_back_bytes(self) -> int:
        """What the host got back while it was waited."""
        return max(0, (self.before_bytes or 0) - (self.after_bytes or 0))


def wait_reported(domain: Domain, *, clock: Clock, stop: Stopping, seconds: float) -> Reported:
    """Wait until it falls no more, for `seconds` at most."""
    began = clock.monotonic()
    before = lowest = domain.memory_stats().rss_bytes
    fell_at = began

    def ask() -> bool | None:
        nonlocal lowest, fell_at
        rss, now = domain.memory_stats().rss_bytes, clock.monotonic()
        if rss is not None and (lowest is None or rss < lowest - _NOISE_BYTES):
            lowest, fell_at = rss, now
        waited_enough = now - began >= LEAST_SECONDS and now - fell_at >= QUIET_SECONDS
        return True if waited_enough else None

    settled = until(ask, clock=clock, stop=stop, seconds=seconds, every_seconds=_LOOK_SECONDS)
    return Reported(
        before_bytes=before,
        after_bytes=lowest,
        settled=settled is True,
        seconds=clock.monotonic() - began,
    )
