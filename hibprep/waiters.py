# SPDX-License-Identifier: LGPL-2.1-or-later
"""Those who wait for the next time that something happens."""

from __future__ import annotations

import asyncio
from typing import Generic, TypeVar

T = TypeVar("T")


class Waiters(Generic[T]):
    """Wakes everybody who waits, with a value; who comes later waits for the next one."""

    def __init__(self) -> None:
        self._waiting: list[asyncio.Future[T]] = []

    async def wait(self) -> T:
        """Listens from its first step on."""
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._waiting.append(future)
        return await future

    def wake(self, value: T) -> None:
        """Called on the event loop."""
        waiting, self._waiting = self._waiting, []
        for future in waiting:
            if not future.done():
                future.set_result(value)
