# SPDX-License-Identifier: LGPL-2.1-or-later
"""A clock that stands still between two words of a test."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

START = datetime(2026, 3, 1, 12, tzinfo=UTC)


@dataclass
class HandClock:
    """Time goes on when it is told to; `seconds` and the time of day may be set apart."""

    seconds: float = 1000.0
    wall: datetime = START

    def monotonic(self) -> float:
        return self.seconds

    def boottime(self) -> float:
        return self.seconds

    def now(self) -> datetime:
        return self.wall

    def go_on(self, seconds: float) -> None:
        self.seconds += seconds
        self.wall += timedelta(seconds=seconds)
