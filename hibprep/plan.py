# SPDX-License-Identifier: LGPL-2.1-or-later
"""From a snapshot, what this kernel can do and what is wanted, to an ordered plan. Pure.

Stages come in the order of what is cheapest to lose. Each gets as much as the goal still asks for
and there is to be had; whatever held the plan back is in it, in words.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

from hibprep import predict
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
    ScopeKind,
    Snapshot,
    Stage,
    Step,
    Target,
    TargetKind,
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
_KINDS = {
    Stage.SYNC: Kind.FILE,
    Stage.CACHE: Kind.FILE,
    Stage.SLAB: Kind.SLAB,
    Stage.COLD_ANON: Kind.ANON,
    Stage.ANON: Kind.ANON,
}
_WHOLE_MACHINE_ONLY = {BackendName.NODE, BackendName.DROPCACHES, BackendName.WRITEBACK}


@dataclass(frozen=True, slots=True)
class _Supply:
    """What there is to be had, by kind, in bytes."""

    dirty: int
    cache: int
    slab: int
    anon: int
    cold: int  # known now from the generations' ages; more may prove cold while the plan runs
    budget: int  # of swap


def make(
    snapshot: Snapshot,
    capabilities: Capabilities,
    target: Target,
    limits: Limits,
    rates: Rates,
) -> Plan:
    """Plan how saveable memory gets down to what `target` asks for, within `limits`."""
    notes: list[Limit] = []
    goal = _goal_bytes(snapshot, target, rates, notes)
    supply = _supply(snapshot, target, limits, notes)
    steps = _steps(
        snapshot,
        capabilities=capabilities,
        target=target,
        limits=limits,
        goal=goal,
        supply=supply,
        notes=notes,
    )
    before = predict.predict(snapshot, rates)
    after = _predict_after(snapshot, rates, target, steps, supply)
    if after.saveable_bytes > goal + _slack(snapshot) and target.kind is not TargetKind.MIN:
        notes.append(
            Limit(
                name="goal",
                text="the target is out of reach with what may be freed",
                bytes=after.saveable_bytes - goal,
            )
        )
    swapped = sum(step.amount_bytes for step in steps if step.kind is Kind.ANON)
    dropped = sum(step.amount_bytes for step in steps if step.stage in (Stage.CACHE, Stage.SLAB))
    return Plan(
        target=target,
        goal_bytes=goal,
        steps=steps,
        before=before,
        after=after,
        fit_before=predict.fit(snapshot, limits),
        fit_after=predict.fit(
            snapshot,
            limits,
            saveable_bytes=max(0, before.saveable_bytes - dropped),
            swapped_bytes=min(swapped, supply.anon, supply.budget),
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


def _supply(snapshot: Snapshot, target: Target, limits: Limits, notes: list[Limit]) -> _Supply:
    memory, scope = snapshot.memory, snapshot.scope
    # Mapped file pages are running programs: only "as small as possible" asks for them too.
    spared = 0 if target.kind is TargetKind.MIN else memory.mapped_bytes
    cache = max(0, memory.file_lru_bytes - spared)
    slab, anon = memory.slab_reclaimable_bytes, memory.anon_lru_bytes
    dirty = memory.dirty_bytes + memory.writeback_bytes
    if scope is not None:
        spared = 0 if target.kind is TargetKind.MIN else scope.mapped_bytes
        cache = min(cache, max(0, scope.file_bytes - spared))
        anon, dirty = min(anon, scope.anon_bytes), min(dirty, scope.dirty_bytes)
    if snapshot.protected_bytes:
        notes.append(
            Limit(
                name="memory.min",
                text="memory.min keeps part of memory from being reclaimed",
                bytes=snapshot.protected_bytes,
            )
        )
        # Which kind the protected memory is of is not known; the cheaper one is less missed.
        cache_held = min(cache, snapshot.protected_bytes)
        cache -= cache_held
        anon = max(0, anon - (snapshot.protected_bytes - cache_held))
    if snapshot.swap_barred_bytes:
        notes.append(
            Limit(
                name="memory.swap.max",
                text="some cgroups may not use swap; their anonymous memory stays",
                bytes=snapshot.swap_barred_bytes,
            )
        )
        anon = max(0, anon - snapshot.swap_barred_bytes)
    budget = _swap_budget(snapshot, limits, anon, notes)
    return _Supply(
        dirty=dirty,
        cache=cache,
        slab=slab,
        anon=anon,
        cold=min(anon, cold_bytes(snapshot, limits.cold_age_seconds)),
        budget=budget,
    )


def _swap_budget(snapshot: Snapshot, limits: Limits, anon: int, notes: list[Limit]) -> int:
    disks = [area for area in snapshot.swaps if not area.is_zram]
    if not disks:
        notes.append(
            Limit(
                name="no-swap",
                text="there is no swap on a disk: anonymous memory cannot leave",
                bytes=anon,
            )
        )
        return 0
    first_disk = max(area.priority for area in disks)
    if any(
        area.is_zram and area.free_bytes and area.priority >= first_disk for area in snapshot.swaps
    ):
        notes.append(
            Limit(
                name="zram",
                text="zram comes before the disk: what is swapped out stays in memory, compressed, "
                "and goes into the image; give the disk the higher priority to change that",
                bytes=anon,
            )
        )
        return 0
    budget = predict.swap_budget_bytes(snapshot, limits)
    if budget < anon:
        notes.append(
            Limit(
                name="swap-reserve",
                text="the rest of the swap is kept for the image and for systemd's check",
                bytes=budget,
            )
        )
    return budget


def cold_bytes(snapshot: Snapshot, min_age_seconds: float) -> int:
    """Anonymous memory in generations whose pages are known to be idle for so long: the next
    younger generation is at least that old (multigen_lru.rst; the two youngest do not count)."""
    pages = 0
    for entry in snapshot.generations:
        for older, younger in pairwise(entry.generations[:-1]):
            if younger.age_seconds >= min_age_seconds:
                pages += older.anon_pages
    return pages * snapshot.page_size


def _steps(
    snapshot: Snapshot,
    *,
    capabilities: Capabilities,
    target: Target,
    limits: Limits,
    goal: int,
    supply: _Supply,
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
    rest -= wants[Stage.SLAB]
    swappable = min(supply.anon, supply.budget)
    wants[Stage.COLD_ANON] = min(swappable, swappable if takes_all_cold and need else rest)
    wants[Stage.ANON] = min(swappable, rest)
    if supply.anon < _worth_aging_bytes(snapshot) and supply.cold == 0:
        wants[Stage.COLD_ANON] = 0
    if wants[Stage.COLD_ANON] and not predict.safe_to_age(snapshot, limits):
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
        backend = _choose(stage, snapshot, capabilities, limits, notes=notes)
        if backend is None:
            continue
        unbound = stage is Stage.SYNC or (stage is Stage.COLD_ANON and takes_all_cold)
        steps.append(
            Step(
                stage=stage,
                kind=_KINDS[stage],
                scope=limits.scope,
                amount_bytes=wants[stage],
                backend=backend,
                goal_bytes=0 if unbound else goal,
                min_age_seconds=limits.cold_age_seconds if stage is Stage.COLD_ANON else 0.0,
                reason=_reason(stage, limits, capabilities[backend]),
            )
        )
    return tuple(steps)


def _choose(
    stage: Stage,
    snapshot: Snapshot,
    capabilities: Capabilities,
    limits: Limits,
    *,
    notes: list[Limit],
) -> BackendName | None:
    allowed = (limits.backend, BackendName.WRITEBACK)
    names = tuple(name for name in CHOICES[stage] if limits.backend is None or name in allowed)
    return _choose_from(names, stage, snapshot, capabilities, limits, notes=notes)


def _choose_from(
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
        capability = capabilities.get(name)
        if (
            name is BackendName.LRUGEN
            and capability is not None
            and capability.available
            and not predict.safe_to_age(snapshot, limits)
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
    supply: _Supply,
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


def irreducible(snapshot: Snapshot, swap_budget: int) -> dict[str, int]:
    """What no plan can free, by kind, in bytes; kinds that are 0 are left out."""
    memory, page = snapshot.memory, snapshot.page_size
    reserved = sum(zone.present_pages - zone.managed_pages for zone in snapshot.zones) * page
    parts = {
        "unevictable and mlocked": max(memory.unevictable_bytes, memory.mlocked_bytes),
        "kernel objects (slab)": memory.slab_unreclaimable_bytes,
        "kernel stacks": memory.kernel_stack_bytes,
        "page tables": memory.page_tables_bytes,
        "per-CPU areas": memory.percpu_bytes,
        "huge pages": memory.hugetlb_bytes,
        "kernel image and page structures": reserved,
        "zram pool": snapshot.zram_used_bytes,
        "zswap pool": memory.zswap_bytes,
        "protected by memory.min": snapshot.protected_bytes,
        "anonymous memory without room in swap": max(0, memory.anon_lru_bytes - swap_budget),
    }
    known = sum(parts.values())
    now = predict.saveable_pages(snapshot) * page
    lru = memory.file_lru_bytes + memory.slab_reclaimable_bytes
    freeable = lru + min(memory.anon_lru_bytes, swap_budget)
    parts["other kernel and driver memory"] = max(0, now - freeable - known)
    return {name: value for name, value in parts.items() if value > 0}


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
    if any(step.backend is BackendName.NODE for step in steps):
        changes.extend(
            KnobChange(
                path=f"/proc/sys/vm/{name}",
                value="0",
                reason="node reclaim does nothing once page cache or slab is below this share",
            )
            for name in ("min_unmapped_ratio", "min_slab_ratio")
        )
    return tuple(changes)


def _able(stage: Stage) -> tuple[BackendName, ...]:
    """The back-ends that can do a stage when they are asked for by name."""
    extra = (BackendName.LRUGEN,) if stage is Stage.CACHE else ()
    return (*CHOICES[stage], *extra)


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
    target = Target(TargetKind.MIN)
    plans = []
    for stage in stages:
        notes: list[Limit] = []
        supply = _supply(snapshot, target, limits, notes)
        only_old = min_age_seconds > 0
        backend = None
        if only_old and stage is Stage.SLAB:
            notes.append(Limit(name="age", text="the age of kernel objects is not known"))
        elif only_old and limits.backend not in (None, BackendName.LRUGEN):
            notes.append(
                Limit(name="age", text=f"{limits.backend} does not know what is old; lrugen does")
            )
        elif limits.backend is not None and limits.backend not in _able(stage):
            notes.append(
                Limit(
                    name=f"stage-{stage}",
                    text=f"{limits.backend} cannot free memory of kind {_KINDS[stage]}",
                )
            )
        else:
            names = CHOICES[stage]
            if only_old or limits.backend is not None:
                names = (limits.backend or BackendName.LRUGEN,)
            backend = _choose_from(names, stage, snapshot, capabilities, limits, notes=notes)
        swappable = min(supply.anon, supply.budget)
        there = {Stage.CACHE: supply.cache, Stage.SLAB: supply.slab, Stage.ANON: swappable}[stage]
        # An amount may be more than is known to be there; only what is there is ever counted.
        amount = max(there, snapshot.page_size) if amount_bytes is None else amount_bytes
        steps: tuple[Step, ...] = ()
        if backend is not None and not (stage is Stage.ANON and swappable == 0):
            steps = (
                Step(
                    stage=stage,
                    kind=_KINDS[stage],
                    scope=limits.scope,
                    amount_bytes=amount,
                    backend=backend,
                    min_age_seconds=min_age_seconds,
                    reason=f"asked for ({capabilities[backend].reason})",
                ),
            )
        now = predict.predict(snapshot, rates)
        fits = predict.fit(snapshot, limits)
        plans.append(
            Plan(
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
        )
    return plans
