# SPDX-License-Identifier: LGPL-2.1-or-later
"""Preparing a machine, from the snapshot to the report: what `plan`, `prepare` and `reclaim` do."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace

from hibprep import fitting, predict, rates, workingset
from hibprep import plan as planning
from hibprep.amount import for_reclaim
from hibprep.clock import Clock, SystemClock
from hibprep.config import Config
from hibprep.errors import KernelFileError, NotPossibleError
from hibprep.history import History
from hibprep.kernel.cgroup import CgroupTree, find_cgroup2
from hibprep.kernel.knobs import KnobJournal, knob_name
from hibprep.kernel.lock import RunLock
from hibprep.kernel.root import KernelRoot
from hibprep.kernel.snapshot import read_snapshot
from hibprep.model import (
    BackendName,
    Capability,
    Ending,
    Kind,
    Limits,
    Plan,
    Progress,
    Rates,
    Report,
    Scope,
    ScopeKind,
    Snapshot,
    Target,
    TargetKind,
)
from hibprep.reclaim.base import Backend, Stop, Worker
from hibprep.reclaim.dropcaches import DropCaches
from hibprep.reclaim.executor import Executor, Run, Settings
from hibprep.reclaim.lrugen import LruGen
from hibprep.reclaim.madvise import Madvise
from hibprep.reclaim.memcg import Memcg
from hibprep.reclaim.node import Node
from hibprep.reclaim.observe import Observer
from hibprep.reclaim.pressure import PressureGauge
from hibprep.reclaim.worker import ProcessWorker
from hibprep.reclaim.writeback import Writeback
from hibprep.rules import rules_for, scope_memory

REPORT_VERSION = 1
Tell = Callable[[Progress], None] | None


@dataclass(frozen=True, slots=True)
class Machine:
    """The machine that is worked on, and how: its root, its cgroup tree, the configuration."""

    root: KernelRoot
    config: Config
    clock: Clock
    tree: CgroupTree | None
    tree_reason: str
    recovered: tuple[str, ...] = ()  # what an earlier, killed run had left changed

    @property
    def history(self) -> History:
        """Where its reports are kept."""
        return History(str(self.root.prefix), self.config.history.keep, self.clock)


def open_machine(root_prefix: str, config: Config) -> Machine:
    """Find out what there is; as root, first put back what a killed run left changed."""
    root = KernelRoot(root_prefix)
    recovered: tuple[str, ...] = ()
    if not root.is_real or os.geteuid() == 0:
        recovered = tuple(KnobJournal(root).recover())
    found = find_cgroup2(root)
    return Machine(root, config, SystemClock(), found.tree, found.reason, recovered)


def snapshot_of(machine: Machine, scope: Scope) -> Snapshot:
    """The snapshot that a plan for `scope` is made from."""
    snapshot = read_snapshot(machine.root, machine.tree)
    if scope.kind is not ScopeKind.CGROUP:
        return snapshot
    if machine.tree is None:
        raise NotPossibleError(f"cgroup {scope.path}", machine.tree_reason)
    stat = machine.tree.stat(machine.tree.validate(scope.path))
    return replace(snapshot, scope=scope_memory(stat))


def ruled_snapshot_of(machine: Machine, scope: Scope) -> Snapshot:
    """The same, with the rules for cgroups as they stand now."""
    rules = rules_for(machine.config.cgroups, scope, machine.tree, machine.tree_reason)
    return replace(snapshot_of(machine, scope), rules=rules)


def validated_scope(machine: Machine, path: str) -> Scope:
    """The scope for what a person called a cgroup; raises when there is none of that name."""
    if machine.tree is None:
        raise NotPossibleError(f"cgroup {path}", machine.tree_reason)
    return Scope(ScopeKind.CGROUP, machine.tree.validate(path))


def capabilities(machine: Machine) -> tuple[Capability, ...]:
    """What every back-end says of this kernel."""
    worker = ProcessWorker(str(machine.root.prefix))
    return tuple(backend.probe() for backend in _backends(machine, worker, _no_knob).values())


def make_plan(machine: Machine, target: Target, limits: Limits, *, measure: bool = False) -> Plan:
    """Plan for `target`; with `measure`, speeds that are not known yet are measured and kept."""
    snapshot = ruled_snapshot_of(machine, limits.scope)
    return planning.make(
        snapshot,
        {item.backend: item for item in capabilities(machine)},
        target,
        limits,
        _rates(machine, snapshot, measure=measure and target.kind is TargetKind.WITHIN),
    )


def _rates(machine: Machine, snapshot: Snapshot, *, measure: bool) -> Rates:
    known = rates.load(machine.root)
    if measure and "disk_write_bytes_per_second" not in known:
        found, _ = rates.measure(machine.root, snapshot, machine.clock)
        known |= found
        rates.save(machine.root, known)
    return rates.combine(known, machine.config.rates())


def prepare(
    machine: Machine,
    plan: Plan,
    *,
    stop: Stop,
    timeout_seconds: float | None = None,
    progress: Tell = None,
    command: str = "prepare",
    limits: Limits | None = None,
) -> Report:
    """Run the plan and report; the report is also kept in the history."""
    limits = limits or machine.config.limits()
    report = run_plan(
        machine, [plan], limits, stop, timeout_seconds=timeout_seconds, progress=progress,
        command=command,
    )  # fmt: skip
    return keep(machine, report)


def reclaim(
    machine: Machine,
    amount_bytes: int | None,
    scope: Scope,
    kind: Kind,
    *,
    min_age_seconds: float = 0.0,
    backend: BackendName | None = None,
    stop: Stop,
    timeout_seconds: float | None = None,
    progress: Tell = None,
) -> Report:
    """Reclaim so many bytes (None: all that can be had) of a kind, whatever the image would be."""
    limits = replace(machine.config.limits(), backend=backend, scope=scope)
    snapshot = ruled_snapshot_of(machine, scope)
    plans = for_reclaim(
        snapshot,
        {item.backend: item for item in capabilities(machine)},
        kind=kind,
        amount_bytes=amount_bytes,
        min_age_seconds=min_age_seconds,
        limits=limits,
        rates=_rates(machine, snapshot, measure=False),
    )
    report = run_plan(
        machine, plans, limits, stop, timeout_seconds=timeout_seconds, progress=progress,
        command="reclaim", amount_bytes=amount_bytes,
    )  # fmt: skip
    return keep(machine, report)


def keep(machine: Machine, report: Report) -> Report:
    """Append it to the history; a history that cannot be written is a note and no failure."""
    note = machine.history.append(report)
    return replace(report, notes=(*report.notes, note)) if note else report


def run_plan(
    machine: Machine,
    plans: list[Plan],
    limits: Limits,
    stop: Stop,
    *,
    timeout_seconds: float | None,
    progress: Tell,
    command: str,
    amount_bytes: int | None = None,
    remember: bool = True,
) -> Report:
    """Run plans one after the other, until `amount_bytes` are reclaimed in all when that is given.

    With `remember` what was in use is kept on record meanwhile (`hibprep.workingset`), for bringing
    it back first; not for an amount.

    Every setting that was changed is put back before this returns or raises, and the process that
    writes to the kernel is known to have ended.
    """
    started, begin = machine.clock.now(), machine.clock.monotonic()
    if timeout_seconds:
        stop.within(timeout_seconds)
    plan, run = plans[0], Run()
    knob_words: list[str] = []
    remember = remember and amount_bytes is None and machine.root.is_real
    with (
        RunLock(machine.root),
        session(machine, limits, knob_words) as tools,
        workingset.watching(machine.root, progress, clock=machine.clock, expired=stop.requested)
        if remember
        else nullcontext(progress) as tell,
    ):
        for part in plans if amount_bytes is None else _one_by_one(plans):
            if amount_bytes is not None:
                left = amount_bytes - run.freed.reclaimed_bytes
                if left < os.sysconf("SC_PAGE_SIZE"):
                    break
                part = _no_more_than(part, left)  # noqa: PLW2901
            knob_words += set_knobs(part, tools.journal.set)
            one = tools.executor.run(part, stop, tell)
            run.steps += one.steps
            run.ending, run.reason, run.last = one.ending, one.reason, one.last or run.last
            if one.ending in (Ending.INTERRUPTED, Ending.DEADLINE):
                break
        final = tools.observer.observe()
    snapshot = final.snapshot
    report = Report(
        version=REPORT_VERSION,
        started=started.isoformat(timespec="seconds"),
        seconds=machine.clock.monotonic() - begin,
        command=command,
        target=plan.target,
        ending=run.ending,
        reason=run.reason,
        freed=run.freed,
        steps=tuple(run.steps),
        before=plan.before,
        after=predict.predict(snapshot, plan.rates),
        fit_before=plan.fit_before,
        fit_after=fitting.fit(snapshot, limits),
        limits=tuple(dict.fromkeys(limit for part in plans for limit in part.limits)),
        irreducible=plan.irreducible,
        knobs=tuple(knob_words),
        goal_bytes=plan.goal_bytes,
        notes=machine.recovered,
    )
    return judged(report, asked=command == "reclaim")


def judged(report: Report, *, asked: bool) -> Report:
    """Say of a run that went to its end whether that was what was wanted.

    A preparation is measured by its target. With `asked` (an amount was asked for), doing nothing
    is a failure with a reason.
    """
    if report.ending not in (Ending.DONE, Ending.EXHAUSTED):
        return report
    limits = "; ".join(limit.text for limit in report.limits)
    if asked:
        if report.steps:
            return report
        return replace(report, ending=Ending.UNAVAILABLE, reason=limits or "nothing to reclaim")
    if report.target.kind is TargetKind.MIN:
        return replace(report, ending=Ending.DONE)
    if report.goal_reached:
        return replace(report, ending=Ending.DONE, reason="the target is reached")
    words = f"the target was not reached: {'; '.join(filter(None, (report.reason, limits)))}"
    return replace(report, ending=Ending.EXHAUSTED, reason=words)


def set_knobs(plan: Plan, set_knob: Callable[[str, str, str], None]) -> list[str]:
    """Change what the plan wants changed. What cannot be is no reason to do nothing: it is told."""
    words = []
    for change in plan.knobs:
        try:
            set_knob(change.path, change.value, change.reason)
        except KernelFileError as error:
            words.append(f"{knob_name(change.path)} was left as it is: {error}")
    return words


def _one_by_one(plans: list[Plan]) -> list[Plan]:
    """A plan for each step: what one has freed, the next need not."""
    found = []
    for plan in plans:
        found += [replace(plan, steps=(step,)) for step in plan.steps] or [plan]
    return found


def _no_more_than(plan: Plan, amount_bytes: int) -> Plan:
    return replace(
        plan,
        steps=tuple(
            replace(step, amount_bytes=min(step.amount_bytes, amount_bytes)) for step in plan.steps
        ),
    )


@dataclass(frozen=True, slots=True)
class Session:
    """What one run works with."""

    executor: Executor
    observer: Observer
    journal: KnobJournal


@contextmanager
def session(machine: Machine, limits: Limits, knob_words: list[str]) -> Iterator[Session]:
    """The worker and the journal for one run; both are closed whatever happens in it, the worker
    first: nothing may write to the kernel any more when the settings go back."""
    worker = ProcessWorker(str(machine.root.prefix), machine.clock)
    journal = KnobJournal(machine.root)
    base = snapshot_of(machine, limits.scope)
    observer = Observer(machine.root, base)
    executor = Executor(
        _backends(machine, worker, journal.set),
        observer=observer,
        gauge=PressureGauge(machine.root, machine.tree, machine.clock),
        clock=machine.clock,
        limits=limits,
        settings=Settings(
            chunk_seconds=machine.config.reclaim.chunk_seconds,
            pressure_limit=machine.config.reclaim.pressure_limit_percent / 100,
        ),
    )
    try:
        yield Session(executor, observer, journal)
    finally:
        try:
            worker.close()
        finally:
            changed = [
                f"{knob_name(change.path)} was set to {change.value}: {change.reason}"
                for change in journal.pending()
            ]
            knob_words += [*changed, *journal.restore_all()]


def _backends(
    machine: Machine, worker: Worker, set_knob: Callable[[str, str, str], None]
) -> Mapping[BackendName, Backend]:
    root, tree = machine.root, machine.tree
    found: tuple[Backend, ...] = (
        Writeback(worker),
        Memcg(root, tree, worker, set_knob, absent_reason=machine.tree_reason),
        LruGen(root, tree, worker, os.sysconf("SC_PAGE_SIZE")),
        Node(root, worker),
        DropCaches(root, worker),
        Madvise(root, tree, worker, frozenset({os.getpid(), os.getppid()})),
    )
    return {backend.name: backend for backend in found}


def _no_knob(path: str, value: str, reason: str) -> None:
    raise NotImplementedError(f"{path} = {value} ({reason}): a probe changes no settings")
