# SPDX-License-Identifier: LGPL-2.1-or-later
"""Pauses of the poller that end when a test says so."""

from __future__ import annotations

import asyncio

from tests.fakes.clock import HandClock
from tests.listening import until_told


class Pauses:
    """Pauses that last until a test goes on; then the clock has gone on by the longest of them."""

    def __init__(self, clock: HandClock) -> None:
        self.clock = clock
        self.told: list[tuple[str, float]] = []  # whose, and how long
        self._waiting: list[tuple[float, asyncio.Future[None]]] = []

    async def sleep(self, seconds: float) -> None:
        task = asyncio.current_task()
        self.told.append((task.get_name() if task is not None else "", seconds))
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((seconds, future))
        await future

    async def all_rest(self, count: int = 1) -> None:
        """Until so many are in a pause."""
        await until_told(lambda: len(self._open()) >= count, f"{count} pauses have begun")

    def go_on(self) -> None:
        waiting, self._waiting = self._open(), []
        self.clock.go_on(max(seconds for seconds, _ in waiting))
        for _, future in waiting:
            future.set_result(None)

    async def round(self, count: int = 1) -> None:
        """One more look at each place."""
        self.go_on()
        await self.all_rest(count)

    def any_rests(self) -> bool:
        return bool(self._open())

    def of(self, name: str) -> list[float]:
        return [seconds for whose, seconds in self.told if name in whose]

    def _open(self) -> list[tuple[float, asyncio.Future[None]]]:
        return [each for each in self._waiting if not each[1].done()]
