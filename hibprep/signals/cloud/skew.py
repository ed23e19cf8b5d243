# SPDX-License-Identifier: LGPL-2.1-or-later
"""Pure: from the provider's clock to this machine's CLOCK_MONOTONIC.

A machine whose own clock is minutes off still knows how much time is left: what a notice says and
the Date header of the answer that brought it are by one clock.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from hibprep.notices import Notice

# A Date header has whole seconds (RFC 9110, 5.6.7), and servers cut off what is more.
DATE_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Reading:
    """The provider's clock, read at a moment of this machine's CLOCK_MONOTONIC. It may have been
    `further_seconds` further than `now` says."""

    now: datetime
    at_seconds: float
    further_seconds: float = 0.0


def reading(told: datetime | None, own: datetime, at_seconds: float) -> Reading:
    """By what the server told (its Date header), else by this machine's own time of day."""
    if told is None:
        return Reading(own, at_seconds)
    return Reading(told, at_seconds, DATE_SECONDS)


def deadline_at_seconds(notice: Notice, read: Reading) -> float | None:
    """When it happens, on CLOCK_MONOTONIC; never later than it does, and in the past for what
    should have happened already. None where no time is told."""
    if notice.begun:
        return read.at_seconds
    if notice.at is not None:
        left = (notice.at - read.now).total_seconds() - read.further_seconds
        return read.at_seconds + left
    if notice.lead_seconds is not None:
        return read.at_seconds + notice.lead_seconds
    return None
