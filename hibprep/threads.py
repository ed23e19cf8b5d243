# SPDX-License-Identifier: LGPL-2.1-or-later
"""Calls that block, in threads of their own, awaited from an event loop."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from typing import TypeVar

Value = TypeVar("Value")


async def in_thread(function: Callable[[], Value], name: str) -> Value:
    """What `function` returns or raises, without a deadline: whoever awaits it may be cancelled,
    and the thread is then left to itself, where one of asyncio's own would be waited for in the
    end."""
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

    threading.Thread(target=run, name=name, daemon=True).start()
    return await future
