# SPDX-License-Identifier: LGPL-2.1-or-later
"""Preparing a machine, from the snapshot to the report: what `plan`, `prepare` and `reclaim` do."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace

from hibprep import fitting, predict, rates
from hibprep import plan as planning
from hibprep.amount import for_age, for_reclaim
from hibprep.bycgroup import freed_by_cgroup
from hibprep.errors import KernelFileError
from hibprep.kernel.cgrouplook import read_levels
from hibprep.kernel.knobs import knob_name
from hibprep.kernel.lock import RunLock
from hibprep.lookapart import LooksApart
from hibprep.machine import Machine, ruled_snapshot_of
from hibprep.model import (
    MACHINE,
    BackendName,
    Ending,
    Kind,
    Limits,
    Plan,
    Progress,
    Rates,
    Report,
    Scope,
    Snapshot,
    Target,
    TargetKind,
    ZramUse,
)
from hibprep.reclaim.base import Stop
from hibprep.reclaim.executor import Run
from hibprep.session import capabilities, session
from hibprep.stepknobs import StepKnobs
from hibprep.workingset import Looks, OwnLooks, watching

REPORT_VERSION = 1
Tell = Callable[[Progress], None] | None


def make_plan(
    machine: Machine,
    target: Target,
    limits: Limits,
    *,
    measure: bool = False,
    name_holders: bool = False,
) -> Plan:
    """Plan for `target`; with `measure`, speeds that are not known yet are measured and kept."""
    snapshot = ruled_snapshot_of(machine, limits.scope, name_holders=name_holders)
    return planning.make(
        snapshot,
        {item.backend: item for item in capabilities(machine)},
        target,
        limits,
        rates_of(machine, snapshot, measure=measure and target.kind is TargetKind.WITHIN),
    )


def make_age_plans(machine: Machine, min_age_seconds: float, limits: Limits) -> list[Plan]:
    """Plans for what is known to have been idle for so long, whatever a hibernation would be."""
    snapshot = ruled_snapshot_of(machine, limits.scope)
    return for_age(
        snapshot,
        {item.backend: item for item in capabilities(machine)},
        min_age_seconds=min_age_seconds,
        limits=limits,
        rates=rates_of(machine, snapshot, measure=False),
    )


def rates_of(machine: Machine, snapshot: Snapshot, *, measure: bool) -> Rates:
    """The speeds that are known; with `measure`, those of disk and CPU are measured where they are
    not, and kept."""
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
        rates=rates_of(machine, snapshot, measure=False),
    )
    before = read_levels(machine.tree, scope.path) if machine.tree else {}
    report = run_plan(
        machine, plans, limits, stop, timeout_seconds=timeout_seconds, progress=progress,
        command="reclaim", amount_bytes=amount_bytes,
    )  # fmt: skip
    after = read_levels(machine.tree, scope.path) if machine.tree else {}
    return keep(machine, replace(report, cgroups=freed_by_cgroup(before, after)))


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
    frozen: bool = False,
) -> Report:
    """Run plans one after the other, until `amount_bytes` are reclaimed in all when that is given.

    What was in use is kept on record meanwhile (`hibprep.workingset`), for bringing it back first;
    not for an amount. `frozen`: programs stand still, whatever they were at.

    Every setting that was changed is put back before this returns or raises, and the process that
    writes to the kernel is known to have ended.
    """
    started, begin = machine.clock.now(), machine.clock.monotonic()
    if timeout_seconds:
        stop.within(timeout_seconds)
    plan, run = plans[0], Run()
    knob_words: list[str] = []
    remember = amount_bytes is None and machine.root.is_real
    looks: Looks = OwnLooks(machine.root, clock=machine.clock, expired=stop.requested)
    if frozen:
        looks = LooksApart(machine.root, stop)
    with (
        RunLock(machine.root),
        session(machine, limits, knob_words) as tools,
        watching(looks, progress) if remember else nullcontext(progress) as tell,
    ):
        zram_words: list[str] = []
        if limits.zram is not ZramUse.LEAVE and plan.need_bytes and limits.scope == MACHINE:
            zram_words = tools.write_back.run(stop)
        for part in plans if amount_bytes is None else _one_by_one(plans):
            if amount_bytes is not None:
                left = amount_bytes - run.freed.reclaimed_bytes
                if left < os.sysconf("SC_PAGE_SIZE"):
                    break
                part = _no_more_than(part, left)  # noqa: PLW2901
            knob_words += set_knobs(part, tools.journal.set)
            step_knobs = StepKnobs(part, tools.journal, knob_words)
            one = tools.executor.run(part, stop, tell, step_knobs.enter)
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
        notes=(*machine.recovered, *zram_words, *looks.notes),
    )
    report = judged(report, asked=command == "reclaim")
    # a trickle takes too little at a time to learn from; what leaves zram is no step
    return _learn(machine, report) if amount_bytes is None and not zram_words else report


def _learn(machine: Machine, report: Report) -> Report:
    """Keep what a run tells of how fast this machine is prepared, for the next deadline."""
    known = rates.load(machine.root)
    found = rates.learnt(report, known, machine.clock.now().strftime("%Y-%m-%d"))
    note = rates.save(machine.root, known | found) if found else ""
    return replace(report, notes=(*report.notes, note)) if note else report


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
        if change.stages:
            continue  # for some of its steps: `hibprep.stepknobs`
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
