# SPDX-License-Identifier: LGPL-2.1-or-later
"""The daemon's side of the sleep hook: `hibprep.sleephook` in a thread beside the event loop."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from hibprep.config import Config
from hibprep.errors import HibprepError
from hibprep.kernel.knobs import KnobJournal
from hibprep.machine import open_machine
from hibprep.reclaim.base import Stop
from hibprep.sleephook import Leg, after, before

log = logging.getLogger(__name__)

_LET_GO_SECONDS = 2.0  # a chunk is of 0.1 s; the rest is for a busy machine


class AroundSleep:
    """What is held over a sleep, and what is under way for it. One thing at a time: a hook that
    was killed leaves its work running, and the next one waits for it."""

    def __init__(self, root_prefix: str) -> None:
        self._prefix = root_prefix
        self._journal: KnobJournal | None = None
        self._stop: Stop | None = None
        self._task: asyncio.Task[list[str]] | None = None
        self.made_ready = False  # the daemon itself hibernates the machine, and has done it all

    async def before(self, leg: Leg, config: Config, seconds: float) -> list[str]:
        """Make ready for a sleep within `seconds`; what was done, in words."""
        if self.made_ready:
            return ["all is made ready: the daemon itself has asked for it"]

        def work(stop: Stop) -> list[str]:
            self._put_back()  # of a sleep that nobody told the end of
            done = before(open_machine(self._prefix, config), leg, stop)
            self._journal = done.journal
            return list(done.words)

        return await self._do(work, seconds)

    async def after(self, config: Config, seconds: float) -> list[str]:
        """Put back what is held and close the record within `seconds`; in words."""

        def work(_stop: Stop) -> list[str]:
            journal, self._journal = self._journal, None
            _, words = after(open_machine(self._prefix, config), journal)
            return words

        return await self._do(work, seconds)

    async def closed(self) -> None:
        """Stop, and put everything back."""
        if self._stop is not None:
            self._stop.request("the daemon ends")
        if self._task is not None:
            await asyncio.wait((self._task,))
        await asyncio.to_thread(self._put_back)

    def _put_back(self) -> None:
        if self._journal is not None:
            for words in self._journal.restore_all():
                log.info("%s", words)
            self._journal = None

    async def _do(self, work: Callable[[Stop], list[str]], seconds: float) -> list[str]:
        earlier = self._task
        if earlier is not None:
            if self._stop is not None:
                self._stop.request("another hook has come")
            await asyncio.wait((earlier,), timeout=seconds)
            if not earlier.done():
                return ["what an earlier hook asked for has not ended"]
        stop = Stop()
        task = asyncio.create_task(self._run(work, stop), name="around a sleep")
        self._task, self._stop = task, stop
        await asyncio.wait((task,), timeout=seconds)
        if not task.done():
            stop.request(f"it took longer than {seconds:g} s")
            await asyncio.wait((task,), timeout=_LET_GO_SECONDS)
        return task.result() if task.done() else [f"it does not end after {seconds:g} s"]

    async def _run(self, work: Callable[[Stop], list[str]], stop: Stop) -> list[str]:
        def attempt() -> list[str]:
            try:
                return work(stop)
            except (HibprepError, OSError) as error:
                return [str(error)]
            except Exception as error:
                # a defect of ours must not keep anybody from sleeping
                log.exception("the work around a sleep failed")
                return [f"{type(error).__name__}: {error}"]

        try:
            words = await asyncio.to_thread(attempt)
        finally:
            self._task = self._stop = None
            stop.close()
        for line in words:
            log.info("%s", line)
        return words
