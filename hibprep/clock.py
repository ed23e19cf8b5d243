# SPDX-License-Identifier: LGPL-2.1-or-later
"""The only reader of time, so that everything else can be given another one in tests."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Protocol


class Clock(Protocol):
    """What the rest of the project knows of time."""

    def monotonic(self) -> float:
        """Seconds that do not count sleep (CLOCK_MONOTONIC)."""

    def boottime(self) -> float:
        """Seconds that do count suspend and hibernation (CLOCK_BOOTTIME)."""

    def now(self) -> datetime:
        """The time of day, UTC."""


class SystemClock:
    """The real one."""

    def monotonic(self) -> float:
        """See `Clock.monotonic`."""
        return time.monotonic()

    def boottime(self) -> float:
        """See `Clock.boottime`."""
        return time.clock_gettime(time.CLOCK_BOOTTIME)

    def now(self) -> datetime:
        """See `Clock.now`."""
        return datetime.now(tz=UTC)
