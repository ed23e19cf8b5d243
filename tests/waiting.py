# SPDX-License-Identifier: LGPL-2.1-or-later
"""Waiting for what another process or the kernel does, with a deadline and no fixed sleeps."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

Value = TypeVar("Value")

GENEROUS_SECONDS = 30.0  # for what takes milliseconds: machines with other work to do are slow


def until(
    condition: Callable[[], Value | None],
    what: str,
    seconds: float = GENEROUS_SECONDS,
    *,
    pause_seconds: float = 0.005,
) -> Value:
    """The first true value of `condition`; fails the test, saying `what`, when none comes. Where
    looking costs more than it finds out (in an emulated guest), `pause_seconds` is longer."""
    deadline = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() >= deadline:
            raise AssertionError(f"waited {seconds:g} s in vain until {what}")
        time.sleep(pause_seconds)
