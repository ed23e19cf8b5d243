# SPDX-License-Identifier: LGPL-2.1-or-later
"""Plans for an asked amount of memory, whatever a hibernation would be: `hibprep reclaim`. Pure."""

from __future__ import annotations

from dataclasses import replace

from hibprep import fitting, predict
from hibprep.choice import (
    AGED,
    CHOICES,
    KINDS,
    KNOW_AGES,
    Capabilities,
    able,
    choose_from,
    knob_changes,
)
from hibprep.model import (
    BackendName,
    Kind,
    Limit,
    Limits,
    Plan,
    Rates,
    Snapshot,
    Stage,
    Step,
    Target,
    TargetKind,
)
from hibprep.rules import parts
from hibprep.supply import irreducible, supply_of


def for_reclaim(
    snapshot: Snapshot,
    capabilities: Capabilities,
    *,
    kind: Kind,
    amount_bytes: int | None,
    min_age_seconds: float,
    limits: Limits,
    rates: Rates,
) -> list[Plan]:
    """Plans that free `amount_bytes` (None: all there is) of a kind, one for each stage that is
    needed, the cheaper to lose first. Empty plans say in their limits why there is no step."""
    stages = {
        Kind.FILE: (Stage.CACHE,),
        Kind.SLAB: (Stage.SLAB,),
        Kind.ANON: (Stage.ANON,),
        Kind.ANY: (Stage.CACHE, Stage.ANON),
    }[kind]
    plans = []
    for inside, own in parts(snapshot, limits):
        for stage in stages:
            plan = _for_stage(
                inside,
                capabilities,
                stage=stage,
                amount_bytes=amount_bytes,
                min_age_seconds=min_age_seconds,
                limits=own,
                rates=rates,
            )
            if inside is snapshot:
                plans.append(plan)
            elif plan.steps:
                # what bounds one that comes first bounds the whole, and is told there
                plans.append(replace(plan, limits=()))
    return plans


def for_age(
    snapshot: Snapshot,
    capabilities: Capabilities,
    *,
    min_age_seconds: float,
    limits: Limits,
    rates: Rates,
) -> list[Plan]:
    """Plans that let go what is known to have been idle for so long, without waiting for more of it
    to prove so: page cache, then anonymous memory, of the stages that `limits` allow."""
    return [
        _for_stage(
            inside,
            capabilities,
            stage=stage,
            amount_bytes=None,
            min_age_seconds=min_age_seconds,
            limits=own,
            rates=rates,
            waits=False,
        )
        for inside, own in parts(snapshot, limits)
        for stage in (Stage.CACHE, Stage.COLD_ANON)
        if stage in limits.stages
    ]


def _for_stage(
    snapshot: Snapshot,
    capabilities: Capabilities,
    *,
    stage: Stage,
    amount_bytes: int | None,
    min_age_seconds: float,
    limits: Limits,
    rates: Rates,
    waits: bool = True,
) -> Plan:
    target = Target(TargetKind.MIN)
    notes = list(snapshot.rules.notes)
    supply = supply_of(snapshot, target, limits, notes)
    if limits.backend is BackendName.DAMON:
        # it can only go by age
        min_age_seconds = min_age_seconds or limits.cold_age_seconds
    only_old = min_age_seconds > 0
    # What is old enough to be called cold may be taken where only the cold may.
    only_cold = min_age_seconds >= limits.cold_age_seconds
    kept_from = Stage.COLD_ANON if stage is Stage.ANON and only_cold else stage
    backend = None
    names = CHOICES[stage]
    if limits.backend is not None:
        names = (limits.backend,)
    elif only_old:
        names = tuple(name for name in AGED if name in able(stage))
    if only_old and limits.backend not in (None, *KNOW_AGES):
        notes.append(
            Limit(name="age", text=f"{limits.backend} does not know what is old; lrugen does")
        )
    elif limits.backend is not None and limits.backend not in able(stage):
        notes.append(
            Limit(
                name=f"stage-{stage}",
                text=f"{limits.backend} cannot free memory of kind {KINDS[stage]}",
            )
        )
    else:
        backend = choose_from(
            names,
            stage,
            snapshot,
            capabilities,
            limits,
            min_age_seconds=min_age_seconds,
            notes=notes,
        )
        if backend is None and only_old and stage is Stage.SLAB:
            notes.append(Limit(name="age", text="coldpgs alone knows how old kernel objects are"))
    if backend is BackendName.LRUGEN and not waits and not snapshot.lru_gen_enabled:
        backend = None
        notes.append(
            Limit(
                name="switched-off",
                text="the multi-gen LRU is switched off, and finds out how old memory is only "
                "while it is on: echo y > /sys/kernel/mm/lru_gen/enabled",
            )
        )
    if backend is BackendName.DAMON and not waits:
        backend = None
        notes.append(
            Limit(name="age", text="damon has to watch memory for as long as it is to be old")
        )
    locked, budget = 0, supply.budget
    if backend is not None and "mlocked" in capabilities[backend].features:
        # of which kind is not known, so it may be all of either
        locked = snapshot.memory.unevictable_bytes
        budget = fitting.swap_budget_bytes(_unlocked(snapshot), limits)
    anon = locked + (supply.by_age if kept_from is Stage.COLD_ANON else supply.anon)
    swappable = min(anon, budget)
    there = {
        Stage.CACHE: locked + supply.cache,
        Stage.SLAB: supply.slab,
        Stage.COLD_ANON: swappable,
        Stage.ANON: swappable,
    }[stage]
    # An amount may be more than is known to be there; only what is there is ever counted.
    amount = max(there, snapshot.page_size) if amount_bytes is None else amount_bytes
    steps: tuple[Step, ...] = ()
    if backend is not None and not (KINDS[stage] is Kind.ANON and swappable == 0):
        steps = (
            Step(
                stage=stage,
                kind=KINDS[stage],
                scope=limits.scope,
                amount_bytes=amount,
                backend=backend,
                min_age_seconds=min_age_seconds,
                reason=f"asked for ({capabilities[backend].reason})",
                spared=snapshot.rules.of(kept_from).paths,
                waits=waits,
            ),
        )
    now = predict.predict(snapshot, rates)
    fits = fitting.fit(snapshot, limits)
    return Plan(
        target=target,
        goal_bytes=0,
        steps=steps,
        before=now,
        after=now,
        fit_before=fits,
        fit_after=fits,
        limits=tuple(notes),
        irreducible=irreducible(snapshot, supply.budget),
        swap_budget_bytes=supply.budget,
        knobs=knob_changes(snapshot, steps, limits),
        rates=rates,
    )


def _unlocked(snapshot: Snapshot) -> Snapshot:
    """As if what is locked could be swapped out like any other."""
    memory = snapshot.memory
    inactive = memory.inactive_anon_bytes + memory.unevictable_bytes
    return replace(snapshot, memory=replace(memory, inactive_anon_bytes=inactive))
