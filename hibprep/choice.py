# SPDX-License-Identifier: LGPL-2.1-or-later
"""Which back-end does a stage: what can, the best first, what stands in its way here, and which
settings have to be changed meanwhile. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from hibprep import fitting, zswap
from hibprep.coldness import DAMON_STAT_HIDES
from hibprep.model import (
    BackendName,
    Capability,
    Kind,
    KnobChange,
    Limit,
    Limits,
    ScopeKind,
    Snapshot,
    Stage,
    Step,
)

Capabilities = Mapping[BackendName, Capability]

# Which back-ends can do a stage, the best first. For what is cold those that know it, the one with
# the finer ages first; for the rest LRU order under pressure is what remains.
CHOICES: Mapping[Stage, tuple[BackendName, ...]] = {
    Stage.SYNC: (BackendName.WRITEBACK,),
    Stage.CACHE: (
        BackendName.MEMCG,
        BackendName.SWAPRECLAIM,
        BackendName.NODE,
        BackendName.DROPCACHES,
    ),
    Stage.SLAB: (BackendName.DROPCACHES,),
    Stage.COLD_ANON: (BackendName.COLDPGS, BackendName.LRUGEN),
    Stage.ANON: (
        BackendName.MEMCG,
        BackendName.SWAPRECLAIM,
        BackendName.NODE,
        BackendName.LRUGEN,
        BackendName.MADVISE,
    ),
}
KINDS = {
    Stage.SYNC: Kind.FILE,
    Stage.CACHE: Kind.FILE,
    Stage.SLAB: Kind.SLAB,
    Stage.COLD_ANON: Kind.ANON,
    Stage.ANON: Kind.ANON,
}
# Those that know how old memory is.
AGED = (BackendName.COLDPGS, BackendName.LRUGEN)
# With those that have to be asked for by name.
KNOW_AGES = (*AGED, BackendName.DAMON)
_BY_NAME = {
    Stage.CACHE: (BackendName.LRUGEN, BackendName.COLDPGS, BackendName.DAMON),
    Stage.SLAB: (BackendName.COLDPGS,),
    Stage.COLD_ANON: (BackendName.DAMON,),
    Stage.ANON: (BackendName.COLDPGS, BackendName.DAMON),
}
_WHOLE_MACHINE_ONLY = {BackendName.NODE, BackendName.DROPCACHES, BackendName.WRITEBACK}
_SPARES_NOTHING = {BackendName.NODE, BackendName.DROPCACHES}


def choose(
    stage: Stage,
    snapshot: Snapshot,
    capabilities: Capabilities,
    limits: Limits,
    *,
    notes: list[Limit],
) -> BackendName | None:
    """The back-end for a stage of a plan, within `limits`."""
    allowed = (limits.backend, BackendName.WRITEBACK)
    names = tuple(name for name in CHOICES[stage] if limits.backend is None or name in allowed)
    age = limits.cold_age_seconds if stage is Stage.COLD_ANON else 0.0
    return choose_from(
        names, stage, snapshot, capabilities, limits, min_age_seconds=age, notes=notes
    )


def choose_from(
    names: tuple[BackendName, ...],
    stage: Stage,
    snapshot: Snapshot,
    capabilities: Capabilities,
    limits: Limits,
    *,
    min_age_seconds: float,
    notes: list[Limit],
) -> BackendName | None:
    """The first back-end that can do the stage here, for memory that was not used for so long; a
    note says why not, when none can."""
    reasons = []
    for name in names:
        if limits.scope.kind is not ScopeKind.MACHINE and name in _WHOLE_MACHINE_ONLY:
            words = f"{name} works on the whole machine only"
            if stage is Stage.SLAB:
                words += " (the slab of a cgroup goes with its page cache)"
            reasons.append(words)
            continue
        if name in _SPARES_NOTHING and snapshot.rules.of(stage).is_something:
            reasons.append(f"{name} knows no cgroups, and rules keep some of them")
            continue
        capability = capabilities.get(name)
        if (
            name is BackendName.LRUGEN
            and capability is not None
            and capability.available
            and not fitting.safe_to_age(snapshot, limits)
        ):
            reasons.append(
                "lrugen: aging would make what was touched count as active, and systemd would "
                "refuse to hibernate with more of it than swap"
            )
            continue
        if capability is None:
            continue
        if not capability.available:
            reasons.append(f"{name}: {capability.reason}")
        elif name is BackendName.COLDPGS and not _kidled_tells(snapshot, min_age_seconds):
            reasons.append(
                "coldpgs knows ages from one scan period of kidled on "
                f"({snapshot.kidled_period_seconds} s), and {min_age_seconds:g} s are less"
            )
        else:
            return name
    if reasons:
        notes.append(
            Limit(name=f"stage-{stage}", text=f"stage {stage} left out: {'; '.join(reasons)}")
        )
    return None


def _kidled_tells(snapshot: Snapshot, age_seconds: float) -> bool:
    return 0 < snapshot.kidled_period_seconds <= age_seconds


def able(stage: Stage) -> tuple[BackendName, ...]:
    """The back-ends that can do a stage when they are asked for by name."""
    return (*CHOICES[stage], *_BY_NAME.get(stage, ()))


def knob_changes(
    snapshot: Snapshot, steps: tuple[Step, ...], limits: Limits
) -> tuple[KnobChange, ...]:
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
    if snapshot.damon_stat and any(
        step.backend is BackendName.LRUGEN and step.waits for step in steps
    ):
        changes.append(
            KnobChange(
                path="/sys/module/damon_stat/parameters/enabled",
                value="N",
                reason=DAMON_STAT_HIDES,
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
    changes.extend(zswap.changes(snapshot, steps, limits))
    if snapshot.laptop_mode:
        changes.append(
            KnobChange(
                path="/proc/sys/vm/laptop_mode",
                value="0",
                reason="laptop mode keeps the kernel (up to 6.12) from swapping out",
            )
        )
    return tuple(changes)
