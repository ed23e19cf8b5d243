# SPDX-License-Identifier: LGPL-2.1-or-later
"""Plans for an asked amount of memory, whatever a hibernation would be: `hibprep reclaim`. Pure."""

from __future__ import annotations

from dataclasses import replace

from hibprep import fitting, predict
from hibprep.choice import CHOICES, KINDS, Capabilities, able, choose_from
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
from hibprep.plan import knob_changes
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


def _for_stage(
    snapshot: Snapshot,
    capabilities: Capabilities,
    *,
    stage: Stage,
    amount_bytes: int | None,
    min_age_seconds: float,
    limits: Limits,
    rates: Rates,
) -> Plan:
    target = Target(TargetKind.MIN)
    notes = list(snapshot.rules.notes)
    supply = supply_of(snapshot, target, limits, notes)
    only_old = min_age_seconds > 0
    # What is old enough to be called cold may be taken where only the cold may.
    only_cold = min_age_seconds >= limits.cold_age_seconds
    kept_from = Stage.COLD_ANON if stage is Stage.ANON and only_cold else stage
    backend = None
    if only_old and stage is Stage.SLAB:
        notes.append(Limit(name="age", text="the age of kernel objects is not known"))
    elif only_old and limits.backend not in (None, BackendName.LRUGEN):
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
        names = CHOICES[stage]
        if only_old or limits.backend is not None:
            names = (limits.backend or BackendName.LRUGEN,)
        backend = choose_from(names, stage, snapshot, capabilities, limits, notes=notes)
    anon = supply.by_age if kept_from is Stage.COLD_ANON else supply.anon
    swappable = min(anon, supply.budget)
    there = {Stage.CACHE: supply.cache, Stage.SLAB: supply.slab, Stage.ANON: swappable}[stage]
    # An amount may be more than is known to be there; only what is there is ever counted.
    amount = max(there, snapshot.page_size) if amount_bytes is None else amount_bytes
    steps: tuple[Step, ...] = ()
    if backend is not None and not (stage is Stage.ANON and swappable == 0):
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
        knobs=knob_changes(snapshot, steps),
        rates=rates,
    )
