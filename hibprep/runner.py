# SPDX-License-Identifier: LGPL-2.1-or-later
"""One reclaim at a time for the daemon, in a thread beside the event loop.

The thread works through `hibprep.prepare` as the command line does: same lock, same journal, same
child process that may block in the kernel. What becomes of it is told on the loop as `RunEnded`,
when nothing writes any more and every setting is back.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass, replace

from hibprep import prepare as engine
from hibprep.config import Config
from hibprep.errors import HibprepError
from hibprep.events import RunBegan, RunEnded, Signal
from hibprep.kernel.cpu import process_ticks
from hibprep.kernel.process import child_pids
from hibprep.kernel.root import KernelRoot
from hibprep.machine import Machine, open_machine
from hibprep.model import Ending, Limits, Plan, Progress, Report, Stage, Step, Target
from hibprep.reclaim.base import Stop
from hibprep.reclaim.worker import ProcessWorker
from hibprep.rules import Tree, is_spared
from hibprep.settings_daemon import CgroupSettings
from hibprep.state import Decision

log = logging.getLogger(__name__)

_WRITING = (Stage.COLD_ANON, Stage.ANON)

# Through these the daemon hears of a key press. Were they in swap themselves, they would have to be
# read back before anything is told: half a second to two on a slow disk, against 0.1 s. And its own
# unit: the daemon is locked in memory, the child that writes to the kernel for it is not.
_ANSWERING = (
    "/system.slice/hibprep.service",
    "/system.slice/dbus.service",
    "/system.slice/dbus-broker.service",
    "/system.slice/systemd-logind.service",
)


@dataclass(frozen=True, slots=True)
class Result:
    """What a run came to; `report` is None when it failed before there was one."""

    ended: RunEnded
    report: Report | None = None


Tell = Callable[[Progress], None]
Work = Callable[[str, Decision, Config, Stop, Tell], Result]


class Runner:
    """Starts, stops and tells of runs. All methods are called on the event loop."""

    def __init__(
        self, root_prefix: str, emit: Callable[[Signal], None], work: Work | None = None
    ) -> None:
        self._prefix = root_prefix
        self._root = KernelRoot("/")  # of this process, wherever the machine is
        self._emit = emit
        self._reclaiming = Reclaiming()
        self._work = self._reclaiming if work is None else work
        self._stop: Stop | None = None
        self._task: asyncio.Task[None] | None = None
        self.progress: Progress | None = None
        self.report: Report | None = None

    @property
    def busy(self) -> bool:
        """Whether a run is under way."""
        return self._task is not None

    @property
    def task(self) -> asyncio.Task[None] | None:
        """What ends with the run that is under way."""
        return self._task

    def start(
        self, decision: Decision, config: Config, after: asyncio.Task[None] | None = None
    ) -> None:
        """Begin, once `after` has ended; `RunEnded` is emitted when it is over, however it ends."""
        if self._task is not None:
            raise RuntimeError("a run is under way")
        self._stop = Stop()
        self._task = asyncio.create_task(self._run(decision, config, self._stop, after), name="run")
        self._emit(RunBegan(decision.stages))

    def stop(self, reason: str) -> None:
        """Raise the flag; the end is told by `RunEnded`."""
        if self._stop is not None:
            self._stop.request(reason)

    async def closed(self) -> None:
        """Stop and wait until nothing writes to the kernel."""
        self.stop("the daemon ends")
        if self._task is not None:
            await asyncio.shield(self._task)
        self._reclaiming.close()

    async def _run(
        self, decision: Decision, config: Config, stop: Stop, after: asyncio.Task[None] | None
    ) -> None:
        loop = asyncio.get_running_loop()

        def tell(progress: Progress) -> None:
            loop.call_soon_threadsafe(self._told, progress)

        try:
            if after is not None:
                await asyncio.wait((after,))
            before = self._cpu_seconds()
            result = await asyncio.to_thread(self._try, decision, config, stop, tell)
        finally:
            self._stop = self._task = self.progress = None
            stop.close()
        self.report = result.report or self.report
        self._emit(replace(result.ended, cpu_seconds=self._cpu_seconds() - before))

    def _try(self, decision: Decision, config: Config, stop: Stop, tell: Tell) -> Result:
        """In the thread. A run that cannot be is an answer like any other."""
        try:
            return self._work(self._prefix, decision, config, stop, tell)
        except (HibprepError, OSError) as error:
            return Result(RunEnded(ending=Ending.FAILED, reason=str(error)))
        except Exception as error:
            # a defect of ours must not leave the daemon waiting for an end that never comes
            log.exception("a run failed")
            return Result(RunEnded(ending=Ending.FAILED, reason=f"{type(error).__name__}: {error}"))

    def _cpu_seconds(self) -> float:
        """Processor time of this process and of its children, also of those that have ended."""
        pid = os.getpid()
        ticks = process_ticks(self._root, (pid, *child_pids(self._root, pid)))
        return ticks / os.sysconf("SC_CLK_TCK")

    def _told(self, progress: Progress) -> None:
        if self._task is not None:
            self.progress = progress


class Reclaiming:
    """The work of a run. From round to round of a trickle the process that writes to the kernel is
    kept: to start it anew costs several times what a round does."""

    def __init__(self) -> None:
        self._worker: ProcessWorker | None = None

    def __call__(
        self, prefix: str, decision: Decision, config: Config, stop: Stop, tell: Tell
    ) -> Result:
        """Carry out `decision`: plan, run, report. Raises HibprepError and OSError."""
        if decision.amount_bytes is None:
            self.close()
        elif self._worker is None:
            self._worker = ProcessWorker(prefix)
        return reclaim(prefix, decision, config, stop, tell, worker=self._worker)

    def close(self) -> None:
        """End the process that was kept. Raises WriterStuckError."""
        worker, self._worker = self._worker, None
        if worker is not None:
            worker.close()


def reclaim(
    prefix: str,
    decision: Decision,
    config: Config,
    stop: Stop,
    tell: Tell,
    *,
    worker: ProcessWorker | None = None,
) -> Result:
    """Carry out `decision`: plan, run, report. Raises HibprepError and OSError."""
    machine = replace(open_machine(prefix, config), worker=worker)
    if machine.tree is not None:
        cgroups = keep_answering(config.cgroups, machine.tree)
        machine = replace(machine, config=config.model_copy(update={"cgroups": cgroups}))
    usual = config.limits()
    limits = replace(
        usual,
        stages=tuple(stage for stage in usual.stages if stage in decision.stages),
        cold_wait_seconds=decision.cold_wait_seconds,
    )
    if decision.older_than_seconds:
        plans = engine.make_age_plans(machine, decision.older_than_seconds, limits)
    else:
        plans = [engine.make_plan(machine, decision.target or Target(), limits)]
    plans = bounded(plans, decision.write_bytes)
    plan = plans[0]
    if not any(each.steps for each in plans):
        reached = plan.before.saveable_bytes <= plan.goal_bytes
        words = "; ".join(dict.fromkeys(limit.text for each in plans for limit in each.limits))
        return Result(
            RunEnded(
                ending=Ending.DONE,
                reason="nothing has to go" if reached else words or "there is nothing to take",
                goal_reached=reached,
            )
        )
    report = _report(machine, plans, limits, decision, stop=stop, tell=tell)
    freed = report.freed
    return Result(
        RunEnded(
            ending=report.ending,
            reason=report.reason,
            goal_reached=report.goal_reached,
            freed_bytes=freed.reclaimed_bytes,
            refaulted_bytes=freed.swapped_in_bytes + freed.refaulted_file_bytes,
            swapped_out_bytes=freed.swapped_out_bytes,
        ),
        report,
    )


def keep_answering(rules: CgroupSettings, tree: Tree) -> CgroupSettings:
    """The rules, with `cache_only` for the bus and logind, where no rule is for them."""
    named = {*rules.cold_only, *rules.first}
    added = tuple(
        path
        for path in _ANSWERING
        if path not in named
        and tree.exists(path)
        and not is_spared(path, (*rules.protect, *rules.cache_only))
    )
    return rules.model_copy(update={"cache_only": (*rules.cache_only, *added)})


def _report(
    machine: Machine,
    plans: list[Plan],
    limits: Limits,
    decision: Decision,
    *,
    stop: Stop,
    tell: Tell,
) -> Report:
    report = engine.run_plan(
        machine,
        plans,
        limits,
        stop,
        timeout_seconds=decision.timeout_seconds,
        progress=tell,
        command="run",
        amount_bytes=decision.amount_bytes,
    )
    # a trickle would push everything else out of the history
    return report if decision.amount_bytes is not None else engine.keep(machine, report)


def bounded(plans: list[Plan], write_bytes: int | None) -> list[Plan]:
    """The plans with no more than `write_bytes` of anonymous memory in all of them."""
    if write_bytes is None:
        return plans
    left = write_bytes
    found = []
    for plan in plans:
        steps: list[Step] = []
        for step in plan.steps:
            if step.stage not in _WRITING:
                steps.append(step)
            elif left > 0:
                amount = min(step.amount_bytes, left)
                left -= amount
                steps.append(replace(step, amount_bytes=amount))
        found.append(replace(plan, steps=tuple(steps)))
    return found
