# SPDX-License-Identifier: LGPL-2.1-or-later
"""Waiting for a guest: always with a deadline, and most of the time until somebody says stop."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Protocol, TypeVar

from hibprep.clock import Clock

Value = TypeVar("Value")
LOOK_SECONDS = 0.1  # between two looks at what changes within a second


class Stopping(Protocol):
    """What is needed here of the stop flag (`hibprep.reclaim.base.Stop`)."""

    reason: str

    def requested(self) -> bool:
        """Whether it is raised."""

    def wait(self, seconds: float) -> bool:
        """Wait at most so long; True when it is raised."""


class Uninterrupted:
    """A stop flag that nobody raises: what is put back is put back to the end."""

    reason = ""

    def __init__(self) -> None:
        self._never = threading.Event()

    def requested(self) -> bool:
        """Never."""
        return False

    def wait(self, seconds: float) -> bool:
        """All of it."""
        return self._never.wait(max(0.0, seconds))


def until(
    ask: Callable[[], Value | None],
    *,
    clock: Clock,
    stop: Stopping,
    seconds: float,
    every_seconds: float = LOOK_SECONDS,
) -> Value | None:
    """Ask until something other than None is answered; None when the time is over or the stop flag
    is raised. It is asked once at least, and once more at the end."""
    end = clock.monotonic() + seconds
    while True:
        answer = ask()
        left = end - clock.monotonic()
        if answer is not None or left <= 0 or stop.wait(min(every_seconds, left)):
            return answer
