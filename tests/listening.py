# SPDX-License-Identifier: LGPL-2.1-or-later
"""A source of signals that runs for the length of a test, and waiting for what it tells."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Iterable
from typing import TypeVar

from hibprep.events import Signal
from hibprep.signals.base import Source
from tests.waiting import GENEROUS_SECONDS

Value = TypeVar("Value")
Kind = TypeVar("Kind")


async def until_told(condition: Callable[[], Value | None], what: str) -> Value:
    """As `tests.waiting.until`, with the loop going on meanwhile."""
    deadline = time.monotonic() + GENEROUS_SECONDS
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() >= deadline:
            raise AssertionError(f"waited {GENEROUS_SECONDS:g} s in vain until {what}")
        await asyncio.sleep(0.001)


def only(kind: type[Kind], told: Iterable[Signal]) -> list[Kind]:
    """The signals of that kind, in order."""
    return [each for each in told if isinstance(each, kind)]


@contextlib.asynccontextmanager
async def listening(source: Source) -> AsyncIterator[list[Signal]]:
    """What `source` tells, from its first word on; it must run until it is cancelled."""
    told: list[Signal] = []
    task = asyncio.create_task(source.run(told.append))
    try:
        await until_told(lambda: told or task.done(), "the source says something")
        yield told
        if task.done():
            task.result()
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
