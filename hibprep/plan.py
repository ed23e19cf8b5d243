# SPDX-License-Identifier: LGPL-2.1-or-later
"""From a snapshot, what this kernel can do and what is wanted, to an ordered plan. Pure.

Stages come in the order of what is cheapest to lose. Each gets as much as the goal still asks for
and there is to be had; whatever held the plan back is in it, in words.
"""

from __future__ import annotations

from dataclasses import replace

from hibprep import fitting, predict
from hibprep.choice import KINDS, Capabilities, choose
from hibprep.model import (
    BackendName,
    Capability,
    Kind,
    KnobChange,
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
    notes = list(snapshot.rules.notes)
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
    after = _predict_after(snapshot, rates, target, whole, supply)
    if after.saveable_bytes > goal + _slack(snapshot) and target.kind is not TargetKind.MIN:
        notes.append(
            Limit(
                name="goal",
                text="the target is out of reach with what may be freed",
                bytes=after.saveable_bytes - goal,
            )
        )
    swapped = sum(step.amount_bytes for step in whole if step.kind is Kind.ANON)
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
        knobs=knob_changes(snapshot, steps),
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
    # With a time budget or "min", cold memory is worth nothing after the resume and only costs
    # time before it: once anything has to go, all of it goes.
    takes_all_cold = target.kind in (TargetKind.MIN, TargetKind.WITHIN)
    wants = {
        Stage.SYNC: supply.dirty,
        Stage.CACHE: min(need, supply.cache),
    }
    rest = need - wants[Stage.CACHE]
    wants[Stage.SLAB] = min(rest, supply.slab)
    if not snapshot.rules.of(Stage.SLAB).is_something:
        rest -= wants[Stage.SLAB]
    ageable = min(supply.by_age, supply.budget)
    wants[Stage.COLD_ANON] = min(ageable, ageable if takes_all_cold and need else rest)
    wants[Stage.ANON] = min(supply.anon, supply.budget, rest)
    if supply.by_age < _worth_aging_bytes(snapshot) and supply.cold == 0:
        wants[Stage.COLD_ANON] = 0
    if wants[Stage.COLD_ANON] and not fitting.safe_to_age(snapshot, limits):
        wants[Stage.COLD_ANON] = 0
        notes.append(
            Limit(
                name="aging",
                text="memory is not aged to find what is cold: what was touched would count as "
                "active, and systemd would refuse to hibernate with more of it than swap",
            )
        )
    steps = []
    for stage in Stage:
        if stage not in limits.stages or wants[stage] < snapshot.page_size:
            continue
        backend = choose(stage, snapshot, capabilities, limits, notes=notes)
        if backend is None:
            continue
        unbound = stage is Stage.SYNC or (stage is Stage.COLD_ANON and takes_all_cold)
        if stage is Stage.CACHE and backend is BackendName.DROPCACHES:
            notes.append(
                Limit(
                    name="drop_caches",
                    text="drop_caches takes the whole clean cache, also past the target: this "
                    "kernel has no way to say how much",
                    bytes=supply.cache,
                )
            )
        steps.append(
            Step(
                stage=stage,
                kind=KINDS[stage],
                scope=limits.scope,
                amount_bytes=wants[stage],
                backend=backend,
                goal_bytes=0 if unbound else goal,
                min_age_seconds=limits.cold_age_seconds if stage is Stage.COLD_ANON else 0.0,
                reason=_reason(stage, limits, capabilities[backend]),
                spared=snapshot.rules.of(stage).paths,
            )
        )
    return tuple(steps)


def _reason(stage: Stage, limits: Limits, capability: Capability) -> str:
    words = {
        Stage.SYNC: "the hibernation would write it while you wait",
        Stage.CACHE: "clean page cache can be read again",
        Stage.SLAB: "cached kernel objects can be read again",
        Stage.COLD_ANON: f"not touched for {limits.cold_age_seconds:g} s, as far as it proves so "
        "while memory is aged",
        Stage.ANON: "the rest, only as far as the target still asks for it",
    }
    return f"{words[stage]} ({capability.reason})"


def _predict_after(
    snapshot: Snapshot,
    rates: Rates,
    target: Target,
    steps: tuple[Step, ...],
    supply: Supply,
) -> Prediction:
    """Every step reaches its amount; what two steps may both take is counted once."""
    planned = {step.stage: step.amount_bytes for step in steps}
    file_and_slab = planned.get(Stage.CACHE, 0) + planned.get(Stage.SLAB, 0)
    # The cold step's amount is a ceiling; the anon step makes up for what does not prove cold.
    anon = planned.get(Stage.ANON, 0)
    if Stage.COLD_ANON in planned:
        sure = supply.cold if target.kind in (TargetKind.MIN, TargetKind.WITHIN) else 0
        anon = max(anon, min(planned[Stage.COLD_ANON], sure))
        if Stage.ANON not in planned:
            anon = max(anon, min(planned[Stage.COLD_ANON], supply.cold))
    now = predict.saveable_pages(snapshot) * snapshot.page_size
    saveable = max(0, now - file_and_slab - anon)
    dirty = 0 if Stage.SYNC in planned else None
    return predict.predict(snapshot, rates, saveable_bytes=saveable, dirty_bytes=dirty)


def knob_changes(snapshot: Snapshot, steps: tuple[Step, ...]) -> tuple[KnobChange, ...]:
    """Settings that would defeat the steps, to be changed while they run and put back after."""
    changes = []
    if any(step.backend is BackendName.LRUGEN for step in steps) and not snapshot.lru_gen_enabled:
        changes.append(
            KnobChange(
                path="/sys/kernel/mm/lru_gen/enabled",
                value="y",
                reason="the multi-gen LRU is built into this kernel and switched off",
            )
        )
    if any(step.backend is BackendName.NODE for step in steps):
        changes.extend(
            KnobChange(
                path=f"/proc/sys/vm/{name}",
                value="0",
                reason="node reclaim does nothing once page cache or slab is below this share",
            )
            for name in ("min_unmapped_ratio", "min_slab_ratio")
        )
    if not any(step.kind in (Kind.ANON, Kind.ANY) for step in steps):
        return tuple(changes)
    if snapshot.zswap_enabled:
        changes.append(
            KnobChange(
                path="/sys/module/zswap/parameters/enabled",
                value="N",
                reason="zswap would keep in memory, compressed, what is meant for the disk",
            )
        )
    if snapshot.laptop_mode:
        changes.append(
            KnobChange(
                path="/proc/sys/vm/laptop_mode",
                value="0",
                reason="laptop mode keeps the kernel (up to 6.12) from swapping out",
            )
        )
    return tuple(changes)
