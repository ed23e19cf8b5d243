# SPDX-License-Identifier: LGPL-2.1-or-later
"""Which back-end does a stage: what can, the best first, and what stands in its way here. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from hibprep import fitting
from hibprep.model import (
    BackendName,
    Capability,
    Kind,
    Limit,
    Limits,
    ScopeKind,
    Snapshot,
    Stage,
)

Capabilities = Mapping[BackendName, Capability]

# Which back-ends can do a stage, the best first. lrugen for what is cold, because it alone knows;
# for the rest LRU order under pressure is what remains.
CHOICES: Mapping[Stage, tuple[BackendName, ...]] = {
    Stage.SYNC: (BackendName.WRITEBACK,),
    Stage.CACHE: (BackendName.MEMCG, BackendName.NODE, BackendName.DROPCACHES),
    Stage.SLAB: (BackendName.DROPCACHES,),
    Stage.COLD_ANON: (BackendName.LRUGEN,),
    Stage.ANON: (
        BackendName.MEMCG,
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
    return choose_from(names, stage, snapshot, capabilities, limits, notes=notes)


def choose_from(
    names: tuple[BackendName, ...],
    stage: Stage,
    snapshot: Snapshot,
    capabilities: Capabilities,
    limits: Limits,
    *,
    notes: list[Limit],
) -> BackendName | None:
    """The first back-end that can do the stage here; a note says why not, when none can."""
    reasons = []
    for name in names:
        if limits.scope.kind is not ScopeKind.MACHINE and name in _WHOLE_MACHINE_ONLY:
            reasons.append(f"{name} works on the whole machine only")
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
        if capability is not None and capability.available:
            return name
        if capability is not None:
            reasons.append(f"{name}: {capability.reason}")
    if reasons:
        notes.append(
            Limit(name=f"stage-{stage}", text=f"stage {stage} left out: {'; '.join(reasons)}")
        )
    return None


def able(stage: Stage) -> tuple[BackendName, ...]:
    """The back-ends that can do a stage when they are asked for by name."""
    extra = (BackendName.LRUGEN,) if stage is Stage.CACHE else ()
    return (*CHOICES[stage], *extra)
