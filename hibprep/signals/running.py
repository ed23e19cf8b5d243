# SPDX-License-Identifier: LGPL-2.1-or-later
"""One run of a source whose work is done in callbacks and in calls by the daemon's tick."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from hibprep.signals.base import Emit


class Running:
    """From the start of a source's `run` to its end: whom it tells, and how what goes wrong in a
    callback gets out of `run`, to the supervisor."""

    def __init__(self, emit: Emit) -> None:
        self.emit = emit
        self.loop = asyncio.get_running_loop()
        self._failed: asyncio.Future[None] = self.loop.create_future()

    def attempt(self, call: Callable[[], None]) -> None:
        """Do it; what it raises ends the run. Nothing is done once something has gone wrong."""
        if self._failed.done():
            return
        try:
            call()
        except Exception as error:  # noqa: BLE001 - raised again by `until_failed`
            self._failed.set_exception(error)

    async def until_failed(self) -> None:
        """Wait; raises what an `attempt` has raised."""
        await self._failed
