# SPDX-License-Identifier: LGPL-2.1-or-later
"""Who is there and what time it is, for tests of what is decided."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from hibprep.events import Moment, Session
from hibprep.model import Stage

START = 1000.0  # of the clock, when it is noon
NOON = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
WRITING = {Stage.COLD_ANON, Stage.ANON}
ADA = Session(id="2", user="ada", session_class="user", session_type="wayland", seat="seat0")


def moment_at(seconds: float, asleep_seconds: float = 0.0) -> Moment:
    """So long after START, in which the machine has slept for so long; it was not counted."""
    boottime = START + seconds + asleep_seconds
    return Moment(START + seconds, boottime, NOON + timedelta(seconds=boottime - START))
