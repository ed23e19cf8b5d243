# SPDX-License-Identifier: LGPL-2.1-or-later
"""The daemon's side of coming back: `hibprep.swapin` in a thread beside the event loop, in nobody's
way. Whatever else the daemon begins waits for its end first (`stopped`)."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from hibprep import swapin, workingset
from hibprep.config import Config
from hibprep.errors import HibprepError
from hibprep.machine import open_machine
from hibprep.reclaim.base import Stop

log = logging.getLogger(__name__)


class BringBack:
    """One at a time. All methods are called on the event loop."""

    def __init__(self, root_prefix: str) -> None:
        self._prefix = root_prefix
        self._stop: Stop | None = None
        self._task: asyncio.Task[None] | None = None

    @property
    def task(self) -> asyncio.Task[None] | None:
        """What ends when memory is not brought back any more."""
        return self._task

    def start(self, config: Config, after: asyncio.Task[None] | None = None) -> None:
        """Begin, once `after` has ended; nothing where it is under way already."""
        if self._task is None:
            self._stop = Stop()
            self._task = asyncio.create_task(self._run(config, self._stop, after), name="swapin")

    def stop(self, reason: str) -> asyncio.Task[None] | None:
        """Raise the flag; what to wait for until nothing is read any more, None for nothing."""
        if self._stop is not None:
            self._stop.request(reason)
        return self._task

    def stop_then(self, reason: str, what: Callable[[], None]) -> None:
        """Stop, and do `what` once nothing is read any more."""
        task = self.stop(reason)
        if task is None:
            what()
        else:
            task.add_done_callback(lambda _: what())

    async def stopped(self, reason: str, seconds: float) -> bool:
        """Stop, and say whether it is known to have ended within `seconds`."""
        task = self.stop(reason)
        if task is not None:
            await asyncio.wait((task,), timeout=seconds)
        return self._task is None

    async def _run(self, config: Config, stop: Stop, after: asyncio.Task[None] | None) -> None:
        try:
            if after is not None:
                await asyncio.wait((after,))
            words = await asyncio.to_thread(self._bring, config, stop)
        finally:
            self._stop = self._task = None
            stop.close()
        log.info("%s", words)

    def _bring(self, config: Config, stop: Stop) -> str:
        """In the thread; what became of it, in words."""
        try:
            machine = open_machine(self._prefix, config)
            record = workingset.load(machine.root)
            report = swapin.run(machine, record, swapin.SwapInLimits(), stop)
        except (HibprepError, OSError) as error:
            return f"memory is not brought back: {error}"
        except Exception as error:
            # a defect of ours must not leave the daemon waiting for an end that never comes
            log.exception("bringing memory back failed")
            return f"memory is not brought back: {type(error).__name__}: {error}"
        return (
            f"brought back {report.read_bytes >> 20} MiB in {report.seconds:.1f} s, "
            f"{report.ending}: {report.reason}"
        )
