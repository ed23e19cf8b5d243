# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the daemon does for a notice (`hibprep.noticedeeds.Hands`), through the parts that it does
everything else with."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from dataclasses import replace

from hibprep.bydeadline import settle_by
from hibprep.deadline import Verdict
from hibprep.errors import HibprepError
from hibprep.events import Request, RunEnded, Signal, Wish
from hibprep.hibernate import hibernate
from hibprep.machine import Machine
from hibprep.model import Report, Target, TargetKind
from hibprep.notices import Notice, ProviderName
from hibprep.parts import Parts
from hibprep.reclaim.base import Stop
from hibprep.signals.cloud.source import Cloud
from hibprep.threads import in_thread

_RELEASE_SECONDS = 2.0  # a chunk is of 0.1 s; the rest is for a busy machine


class NoticeHands:
    """See `hibprep.noticedeeds.Hands`."""

    def __init__(self, parts: Parts, cloud: Cloud, *, sync: Callable[[], None] = os.sync) -> None:
        self._parts = parts
        self._cloud = cloud
        self._sync = sync

    def emit(self, signal: Signal) -> None:
        """See `Hands.emit`."""
        self._parts.emit(signal)

    async def run_ended(self) -> RunEnded:
        """See `Hands.run_ended`."""
        return await self._parts.run_ended()

    @property
    def run(self) -> asyncio.Task[None] | None:
        """See `Hands.run`."""
        return self._parts.runner.task

    def provider(self) -> ProviderName | None:
        """See `Hands.provider`."""
        return self._cloud.provider

    async def acknowledge(self, notice: Notice) -> None:
        """See `Hands.acknowledge`."""
        await self._cloud.acknowledge(notice)

    async def settle(self, seconds: float, keep_seconds: float, *, hibernates: bool) -> Verdict:
        """See `Hands.settle`."""
        machine = self._machine()

        until = machine.clock.monotonic() + seconds

        def reckon() -> Verdict:
            return settle_by(
                machine,
                machine.config.limits(),
                until,
                keep_seconds=keep_seconds,
                hibernates=hibernates,
                measure=False,
            ).verdict

        return await in_thread(reckon, "what fits")

    async def swap_in(self, who: str) -> None:
        """See `Hands.swap_in`."""
        self.emit(Request(wish=Wish.SWAP_IN, who=who))
        task = self._parts.bringing.task
        if task is None:
            raise HibprepError("nothing is brought back now")
        try:
            await asyncio.wait((task,))
        finally:
            if not task.done():
                self._parts.bringing.stop(f"{who}: it is not wanted any more")

    async def hibernate(self) -> str:
        """See `Hands.hibernate`. The sleep hook that comes meanwhile finds all made ready."""
        stop = Stop()
        machine = self._machine()
        limits = replace(machine.config.limits(), stages=())

        def work() -> Report:
            return hibernate(
                machine, Target(TargetKind.IMAGE_SIZE), limits, direct=False, stop=stop
            )

        def ended(task: asyncio.Task[Report]) -> None:
            self._parts.around.made_ready = False
            stop.close()
            if not task.cancelled():
                task.exception()  # told by whoever waits, if somebody still does

        self._parts.around.made_ready = True
        task = asyncio.create_task(in_thread(work, "hibernation"), name="hibernation")
        task.add_done_callback(ended)
        try:
            report = await asyncio.shield(task)
        finally:
            if not task.done():
                stop.request("the notice is withdrawn, or the daemon ends")
        facts = report.hibernation or {}
        if not facts.get("slept"):
            raise HibprepError(str(facts.get("reason") or report.reason or "it did not sleep"))
        return f"slept for {facts.get('asleep_seconds')} s"

    async def step_aside(self, who: str, seconds: float) -> str:
        """See `Hands.step_aside`."""
        parts = self._parts
        self.emit(Request(wish=Wish.STOP, who=who))
        run = self.run
        if run is not None:
            await asyncio.wait((run,), timeout=min(seconds, _RELEASE_SECONDS))
        brought = await parts.bringing.stopped(who, min(seconds, _RELEASE_SECONDS))
        stopped = brought and (run is None or run.done())
        # also when not all has stopped: it will have by the time that it is in anybody's way
        parts.logind.release_lock()
        words = "nothing of ours runs" if stopped else "what was under way has not stopped yet"
        try:
            async with asyncio.timeout(seconds):
                await in_thread(self._sync, "sync")
        except TimeoutError:
            return f"{words}; dirty pages are still being written"
        return f"{words}; all is written"

    def step_back(self, who: str) -> None:
        """See `Hands.step_back`."""
        self.emit(Request(wish=Wish.TAKE_BACK, who=who))
        self._parts.logind.want_lock()

    def _machine(self) -> Machine:
        return replace(self._parts.machine, config=self._parts.config())
