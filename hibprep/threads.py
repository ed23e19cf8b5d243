# SPDX-License-Identifier: LGPL-2.1-or-later
"""Calls that block, in threads of their own, awaited from an event loop."""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
from collections.abc import Callable
from typing import TypeVar

Value = TypeVar("Value")


class Worker:
    """A thread for calls one after another, begun with the first. For what is called again and
    again: a new thread for each costs as much as the call of a few system calls itself."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._calls: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._begun = False

    def call(self, function: Callable[[], Value]) -> asyncio.Future[Value]:
        """What `function` will return or raise, without a deadline: whoever awaits it may be
        cancelled, and the thread is then left to itself, where one of asyncio's own would be waited
        for in the end. On the event loop."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Value] = loop.create_future()

        def settle(value: list[Value], error: BaseException | None) -> None:
            if future.done():
                return  # cancelled meanwhile
            if error is not None:
                future.set_exception(error)
            else:
                future.set_result(value[0])

        def run() -> None:
            answers: list[Value] = []
            problem: BaseException | None = None
            try:
                answers.append(function())
            except BaseException as error:  # noqa: BLE001 - raised again by the future
                problem = error
            # a loop that has ended waits for nothing any more
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(settle, answers, problem)

        if not self._begun:
            self._begun = True
            threading.Thread(target=self._work, name=self._name, daemon=True).start()
        self._calls.put(run)
        return future

    def end(self) -> None:
        """Nothing more is called; the thread ends after what it is at."""
        self._calls.put(None)

    def _work(self) -> None:
        while (call := self._calls.get()) is not None:
            call()


async def in_thread(function: Callable[[], Value], name: str) -> Value:
    """`Worker.call` in a thread for this one call."""
    worker = Worker(name)
    try:
        return await worker.call(function)
    finally:
        worker.end()
