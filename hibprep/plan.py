# SPDX-License-Identifier: LGPL-2.1-or-later
"""From a snapshot, what this kernel can do and what is wanted, to an ordered plan. Pure.

Stages come in the order of what is cheapest to lose. Each gets as much as the goal still asks for
and there is to be had; whatever held the plan back is in it, in words.
"""

from __future__ import annotations

from dataclasses import replace

from hibprep import coldfirst, fitting, predict, zswap
from hibprep.choice import KINDS, Capabilities, choose, knob_changes
from hibprep.model import (
    BackendName,
    Capability,
    Limit,
    Limits,
    Plan,
    Prediction,
    Rates,
    Snapshot,
    Stage,
    Step,
    Target,
    TargetKind,
)
from hibprep.rules import parts
from hibprep.supply import Supply, irreducible, supply_of


def make(
    snapshot: Snapshot,
    capabilities: Capabilities,
    target: Target,
    limits: Limits,
    rates: Rates,
) -> Plan:
    """Plan how saveable memory gets down to what `target` asks for, within `limits`."""
    notes = [*snapshot.rules.notes, *zswap.notes(snapshot, limits)]
    goal = _goal_bytes(snapshot, target, rates, notes)
    supply = supply_of(snapshot, target, limits, notes)
    whole = _steps(
        snapshot,
        capabilities=capabilities,
        target=target,
        limits=limits,
        goal=goal,
        supply=supply,
        notes=notes,
    )
    steps = _in_order([*_first_steps(snapshot, capabilities, target, limits, goal=goal), *whole])
    before = predict.predict(snapshot, rates)
    # What comes first is in the amounts of the whole: it only comes earlier.
    taken = _taken(target, whole, supply)
    after = _predict_after(snapshot, limits, rates, whole, taken)
    if after.saveable_bytes > goal + _slack(snapshot) and target.kind is not TargetKind.MIN:
        notes.append(
            Limit(
                name="goal",
                text="the target is out of reach with what may be freed",
                bytes=after.saveable_bytes - goal,
            )
        )
    swapped = coldfirst.most_anon_bytes(whole)
    dropped = sum(step.amount_bytes for step in whole if step.stage in (Stage.CACHE, Stage.SLAB))
    return Plan(
        target=target,
        goal_bytes=goal,
        steps=steps,
        before=before,
        after=after,
        fit_before=fitting.fit(snapshot, limits),
        fit_after=fitting.fit(
            snapshot,
            limits,
            saveable_bytes=max(0, before.saveable_bytes - dropped),
            swapped_bytes=min(swapped, supply.by_age, supply.budget),
        ),
        limits=tuple(notes),
        irreducible=irreducible(snapshot, supply.budget),
        swap_budget_bytes=supply.budget,
        knobs=knob_changes(snapshot, steps, limits),
        ages=coldfirst.shares(
            snapshot, limits, rates, whole, taken=taken, saveable_bytes=after.saveable_bytes
        ),
        holders=snapshot.holders,
        rates=rates,
    )


def headroom_bytes(snapshot: Snapshot) -> int:
    """How far below the kernel's own target a plan aims: programs go on allocating until they are
    frozen, and one page too many makes the kernel shrink after all."""
    return max(24 << 20, snapshot.memory.total_bytes * 3 // 200)


def _worth_aging_bytes(snapshot: Snapshot) -> int:
    """Less anonymous memory than this is not worth the wait for what of it is cold: a hibernation
    writes it in less time than two agings take."""
    return max(64 << 20, snapshot.memory.total_bytes // 50)


def _slack(snapshot: Snapshot) -> int:
    return max(8 << 20, snapshot.memory.total_bytes // 200)


def _goal_bytes(snapshot: Snapshot, target: Target, rates: Rates, notes: list[Limit]) -> int:
    page = snapshot.page_size
    most = predict.max_image_pages(snapshot) * page
    if target.kind is TargetKind.MIN:
        return 0
    if target.kind is TargetKind.SIZE:
        goal = target.size_bytes
    elif target.kind is TargetKind.WITHIN:
        goal = predict.largest_saveable_within(snapshot, rates, target.seconds)
        if goal == 0:
            notes.append(
                Limit(
                    name="time",
                    text=f"even an empty image takes longer than {target.seconds:g} s here "
                    f"({rates.fixed_hibernate_seconds:.1f} s are fixed)",
                )
            )
    else:
        goal = predict.target_pages(snapshot) * page
    ceiling = min(goal, most)
    if goal > most:
        notes.append(
            Limit(
                name="max-image",
                text="the kernel has room for an image of about half of memory and no more",
                bytes=most,
            )
        )
    return max(0, ceiling - headroom_bytes(snapshot))


def _first_steps(
    snapshot: Snapshot,
    capabilities: Capabilities,
    target: Target,
    limits: Limits,
    *,
    goal: int,
) -> tuple[Step, ...]:
    """The steps for the cgroups that come first. What bounds them bounds the whole and is told
    there; what is the whole machine's business (sync, slab) is left to it."""
    steps: list[Step] = []
    unheard: list[Limit] = []
    alone = tuple(stage for stage in limits.stages if stage not in (Stage.SYNC, Stage.SLAB))
    for inside, own in parts(snapshot, replace(limits, stages=alone))[:-1]:
        steps += _steps(
            inside,
            capabilities=capabilities,
            target=target,
            limits=own,
            goal=goal,
            supply=replace(supply_of(inside, target, own, unheard), slab=0),
            notes=unheard,
        )
    return tuple(steps)


def _in_order(steps: list[Step]) -> tuple[Step, ...]:
    """Dirty pages are written back before anything: what comes first may be among them."""
    return tuple(sorted(steps, key=lambda step: step.stage is not Stage.SYNC))


def _steps(
    snapshot: Snapshot,
    *,
    capabilities: Capabilities,
    target: Target,
    limits: Limits,
    goal: int,
    supply: Supply,
    notes: list[Limit],
) -> tuple[Step, ...]:
    need = max(0, predict.saveable_pages(snapshot) * snapshot.page_size - goal)

    def goes(stage: Stage) -> int:
        """What is not going to be taken is not counted on: the stages after it make up for it."""
        if stage not in limits.stages:
            return 0
        known = choose(stage, snapshot, capabilities, limits, notes=[])
        return 0 if known is None else wants[stage]

    wants = {Stage.SYNC: supply.dirty, Stage.CACHE: min(need, supply.cache)}
    rest = need - goes(Stage.CACHE)
    wants[Stage.SLAB] = min(rest, supply.slab)
    rest -= goes(Stage.SLAB)
    ageable = min(supply.by_age, supply.budget)
    cold = coldfirst.parts_of(
        snapshot,
        limits,
        target.kind,
        rest_bytes=zswap.wanted_bytes(snapshot, limits, Stage.COLD_ANON, rest) if need else 0,
        most_bytes=ageable,
    )
    if supply.by_age < _worth_aging_bytes(snapshot) and supply.cold == 0:
        cold = ()
    wants[Stage.ANON] = min(
        supply.anon, supply.budget, zswap.wanted_bytes(snapshot, limits, Stage.ANON, rest)
    )
    if cold and not fitting.safe_to_age(snapshot, limits):
        cold = ()
        notes.append(
            Limit(
                name="aging",
                text="memory is not aged to find what is cold: what was touched would count as "
                "active, and systemd would refuse to hibernate with more of it than swap",
            )
        )
    wants[Stage.COLD_ANON] = max((part.amount_bytes for part in cold), default=0)
    steps = []
    for stage in Stage:
        if stage not in limits.stages or wants[stage] < snapshot.page_size:
            continue
        backend = choose(stage, snapshot, capabilities, limits, notes=notes)
        if backend is None:
            continue
        if stage is Stage.CACHE and backend is BackendName.DROPCACHES:
            notes.append(
                Limit(
                    name="drop_caches",
                    text="drop_caches takes the whole clean cache, also past the target: this "
                    "kernel has no way to say how much",
                    bytes=supply.cache,
                )
            )
        step = Step(
            stage=stage,
            kind=KINDS[stage],
            scope=limits.scope,
            amount_bytes=wants[stage],
            backend=backend,
            goal_bytes=0 if stage is Stage.SYNC else goal,
            reason=f"{_WORDS.get(stage, '')} ({capabilities[backend].reason})",
            spared=snapshot.rules.of(stage).paths,
        )
        if stage is Stage.COLD_ANON:
            steps += [
                _by_age(step, part, capabilities[backend], stands_in=index > 0)
                for index, part in enumerate(cold)
                if part.amount_bytes >= snapshot.page_size
            ]
        else:
            steps.append(step)
    return tuple(steps)


def _by_age(step: Step, part: coldfirst.Part, capability: Capability, *, stands_in: bool) -> Step:
    """The step of stage cold-anon for one part of it."""
    words = f"not touched for {part.min_age_seconds:.0f} s"
    if part.waits:
        words += ", as far as it proves so while memory is aged"
        if stands_in:
            words = f"where that falls short: {words}"
    else:
        words += ": the oldest there is, and enough"
    return replace(
        step,
        amount_bytes=part.amount_bytes,
        goal_bytes=0 if part.whole else step.goal_bytes,
        min_age_seconds=part.min_age_seconds,
        waits=part.waits,
        reason=f"{words} ({capability.reason})",
    )


_WORDS = {
    Stage.SYNC: "the hibernation would write it while you wait",
    Stage.CACHE: "clean page cache can be read again",
    Stage.SLAB: "cached kernel objects can be read again",
    Stage.ANON: "the rest, only as far as the target still asks for it",
}


def _taken(target: Target, steps: tuple[Step, ...], supply: Supply) -> coldfirst.Taken:
    """Every step reaches its amount; what two steps may both take is counted once."""

    def planned(stage: Stage, *, waits: bool = True) -> int:
        return sum(
            step.amount_bytes for step in steps if step.stage is stage and step.waits is waits
        )

    anon, cold = planned(Stage.ANON), planned(Stage.COLD_ANON, waits=False)
    # The amount of a step that waits is a ceiling; stage anon makes up for what does not prove cold
    if not cold and (not anon or target.kind in (TargetKind.MIN, TargetKind.WITHIN)):
        cold = min(planned(Stage.COLD_ANON), supply.cold)
    return coldfirst.Taken(anon=max(anon, cold), cold=cold, file=planned(Stage.CACHE))


def _predict_after(
    snapshot: Snapshot,
    limits: Limits,
    rates: Rates,
    steps: tuple[Step, ...],
    taken: coldfirst.Taken,
) -> Prediction:
    slab = sum(step.amount_bytes for step in steps if step.stage is Stage.SLAB)
    now = predict.saveable_pages(snapshot) * snapshot.page_size
    stays = zswap.stays_bytes(
        snapshot, limits, cold_bytes=taken.cold, anon_bytes=taken.anon - taken.cold
    )
    saveable = max(0, now - taken.file - slab - taken.anon + stays)
    dirty = 0 if any(step.stage is Stage.SYNC for step in steps) else None
    return predict.predict(snapshot, rates, saveable_bytes=saveable, dirty_bytes=dirty)
