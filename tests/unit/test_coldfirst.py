# SPDX-License-Identifier: LGPL-2.1-or-later
"""The oldest goes, the rest stays: the threshold that a plan finds in the age histogram."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hibprep import coldfirst, predict
from hibprep import plan as planning
from hibprep.coldness import histogram
from hibprep.model import (
    BackendName,
    Capability,
    First,
    Generation,
    GenerationList,
    Kept,
    Limits,
    Plan,
    Rates,
    Rules,
    Scope,
    ScopeKind,
    ScopeMemory,
    Snapshot,
    Stage,
    Step,
    Target,
    TargetKind,
)
from hibprep.rules import is_spared
from tests.unit.strategies import GIB, MIB, PAGE, RATES, pages, snapshots
from tests.unit.test_plan import ALL, TARGETS, machine, make

OLD, MIDDLE, YOUNG = "/old.slice", "/middle.slice", "/young.slice"
BOUND = (TargetKind.SIZE, TargetKind.IMAGE_SIZE)


def listed(path: str, *generations: tuple[float, int], file_mib: int = 0) -> GenerationList:
    """(age, MiB of anonymous memory), from the oldest."""
    return GenerationList(
        memcg_id=hash(path) % 1000,
        path=path,
        node=0,
        generations=tuple(
            Generation(
                sequence=index,
                age_seconds=age,
                anon_pages=pages(mib * MIB),
                file_pages=pages(file_mib * MIB),
            )
            for index, (age, mib) in enumerate(generations)
        ),
    )


# 4 GiB as in `machine()`: 1 GiB idle for an hour, 1 GiB for ten minutes, 1 GiB for half a minute
KNOWN = (
    listed(OLD, (9000, 1024), (3600, 0), (30, 0), (5, 256)),
    listed(MIDDLE, (3000, 1024), (600, 0), (30, 0), (5, 256), file_mib=64),
    listed(YOUNG, (600, 512), (30, 512), (30, 256), (5, 256)),
)


def aged(**changes: object) -> Snapshot:
    return machine(generations=KNOWN, **changes)


def cold_steps(plan: Plan) -> list[Step]:
    return [step for step in plan.steps if step.stage is Stage.COLD_ANON]


def planned_for(anon_mib: int, kind: TargetKind = TargetKind.SIZE) -> Plan:
    """A plan in which so much anonymous memory has to go."""
    snapshot = aged()
    saveable = predict.saveable_pages(snapshot) * PAGE
    cheaper = GIB - 100 * MIB + 256 * MIB  # cache and slab
    goal = saveable - cheaper - anon_mib * MIB
    size = goal + planning.headroom_bytes(snapshot)
    if kind is TargetKind.SIZE:
        return make(snapshot, kind, size_bytes=size)
    takes = predict.predict(snapshot, Rates(), saveable_bytes=size, dirty_bytes=0)
    return make(snapshot, kind, seconds=takes.hibernate_seconds)


def shown(plan: Plan) -> list[tuple[int, float]]:
    return [(step.amount_bytes // MIB, step.min_age_seconds) for step in cold_steps(plan)]


def known(parts: Iterable[coldfirst.Part]) -> list[tuple[int, float]]:
    return [(part.amount_bytes // MIB, part.min_age_seconds) for part in parts if not part.waits]


@pytest.mark.parametrize(
    ("anon_mib", "steps"),
    [
        (1600, [(1024, 3600), (576, 600), (1600, 10)]),
        (2048, [(1024, 3600), (1024, 600), (2048, 10)]),
        (2100, [(2048, 600), (52, 30), (2100, 10)]),
        # more than is known to be cold: what proves so for ten seconds, while memory is aged
        (3200, [(3200, 10)]),
    ],
)
def test_for_a_size_the_oldest_go_and_no_byte_more(
    anon_mib: int, steps: list[tuple[int, float]]
) -> None:
    plan = planned_for(anon_mib)
    assert shown(plan) == steps
    assert all(step.goal_bytes == plan.goal_bytes for step in cold_steps(plan))
    *before, last = cold_steps(plan)
    assert not any(step.waits for step in before)
    # where what was counted as old was touched meanwhile
    assert last.waits
    assert last.reason.startswith("where that falls short: ") == bool(before)


def test_for_a_time_the_oldest_go_by_whole_generations() -> None:
    plan = planned_for(1600, TargetKind.WITHIN)
    assert shown(plan) == [(2048, 600), (1600, 10)]
    step, last = cold_steps(plan)
    assert (step.goal_bytes, step.waits) == (0, False)
    assert (last.goal_bytes, last.waits) == (plan.goal_bytes, True)
    assert "not touched for 600 s: the oldest there is, and enough" in step.reason
    assert plan.after.saveable_bytes <= plan.goal_bytes


def test_for_a_time_that_asks_for_more_than_is_known_all_that_proves_cold_goes() -> None:
    (step,) = cold_steps(planned_for(3200, TargetKind.WITHIN))
    assert (step.amount_bytes, step.min_age_seconds, step.waits) == (4 * GIB, 10.0, True)


def test_min_takes_all_that_is_cold_whatever_is_known() -> None:
    (step,) = cold_steps(make(aged()))
    assert (step.amount_bytes, step.min_age_seconds, step.waits) == (4 * GIB, 10.0, True)


@pytest.mark.parametrize("kind", [*BOUND, TargetKind.WITHIN])
def test_where_cache_and_slab_are_enough_nothing_that_is_cold_goes(kind: TargetKind) -> None:
    assert coldfirst.parts_of(aged(), Limits(), kind, rest_bytes=0, most_bytes=4 * GIB) == ()


def test_what_is_left_from_before_it_was_switched_off_is_no_knowledge() -> None:
    plan = make(aged(lru_gen_enabled=False), TargetKind.WITHIN, seconds=20.0)
    assert plan.ages == ()
    assert [step.waits for step in cold_steps(plan)] == [True]


def test_memory_that_a_rule_keeps_is_not_counted_on() -> None:
    kept = Kept(paths=(OLD,), anon_bytes=1280 * MIB)
    snapshot = aged(rules=Rules(cold=kept, anon=kept))
    parts = coldfirst.parts_of(
        snapshot, Limits(), TargetKind.SIZE, rest_bytes=GIB, most_bytes=3 * GIB
    )
    assert known(parts) == [(1024, 600)]


def test_a_cgroup_alone() -> None:
    limits = Limits(scope=Scope(ScopeKind.CGROUP, YOUNG))
    parts = coldfirst.parts_of(
        aged(), limits, TargetKind.SIZE, rest_bytes=600 * MIB, most_bytes=GIB
    )
    assert known(parts) == [(600, 30)]


def test_a_cgroup_that_comes_first_has_its_own_threshold() -> None:
    first = First(path=YOUNG, memory=ScopeMemory(anon_bytes=GIB, file_bytes=0), rules=Rules())
    snapshot = aged(rules=Rules(first=(first,)))
    steps = cold_steps(make(snapshot, TargetKind.SIZE, size_bytes=GIB + 512 * MIB))
    assert steps[0].scope.path == YOUNG


def test_the_budget_of_swap_holds() -> None:
    small = aged(swaps=(replace(machine().swaps[0], size_bytes=3 * GIB),))
    plan = make(small, TargetKind.WITHIN, seconds=5.0)
    assert plan.swap_budget_bytes < 4 * GIB
    assert all(step.amount_bytes <= plan.swap_budget_bytes for step in cold_steps(plan))
    goes = sum(share.anon_goes_bytes for share in plan.ages)
    assert goes <= plan.swap_budget_bytes


# --- what the plan says ---------------------------------------------------------------------------


def test_how_much_of_each_age_goes_and_stays() -> None:
    plan = planned_for(1600)
    rows = {
        share.at_least_seconds: (share.anon_goes_bytes // MIB, share.anon_stays_bytes // MIB)
        for share in plan.ages
    }
    assert rows == {3600.0: (1024, 0), 600.0: (576, 448), 10.0: (0, 1024), 0.0: (0, 1024)}
    assert sum(share.file_goes_bytes for share in plan.ages) == 4 * 64 * MIB
    assert [share.at_least_seconds for share in plan.ages] == sorted(rows, reverse=True)
    costs = [(share.hibernate_seconds, share.resume_seconds) for share in plan.ages]
    assert costs[0] == (0.0, 0.0)  # nothing of it stays
    rates = Rates()
    # 1 GiB of image, compressed to half of it, at the disk's speed
    assert costs[2][1] == pytest.approx(
        GIB * rates.compression_ratio / rates.disk_read_bytes_per_second, rel=0.01
    )
    together = sum(hibernate for hibernate, _ in costs)
    assert 0 < together < plan.after.hibernate_seconds


def test_a_plan_that_takes_nothing_says_what_stays_nevertheless() -> None:
    roomy = aged(zones=(replace(machine().zones[0], free_pages=5 * GIB // PAGE),))
    plan = make(roomy, TargetKind.WITHIN, seconds=3600.0)
    assert not cold_steps(plan)
    assert sum(share.anon_stays_bytes for share in plan.ages) == 4 * GIB
    assert all(share.anon_goes_bytes == 0 for share in plan.ages)


# --- on every machine -----------------------------------------------------------------------------

PATHS = (OLD, MIDDLE, YOUNG, "/old.slice/below.service")


@st.composite
def known_machines(draw: st.DrawFn) -> Snapshot:
    """Random machines with much swap, and up to four cgroups of known ages."""
    snapshot = draw(snapshots(zram=False, roomy=True))
    paths = draw(st.sets(st.sampled_from(PATHS), min_size=1))
    anon = snapshot.memory.anon_lru_bytes // len(paths)
    file = snapshot.memory.file_lru_bytes // len(paths)
    lists: list[GenerationList] = []
    for path in sorted(paths):
        ages = sorted(draw(st.lists(st.integers(0, 9000), min_size=2, max_size=4)), reverse=True)
        weights = draw(st.lists(st.integers(0, 5), min_size=len(ages), max_size=len(ages)))
        whole = max(1, sum(weights))
        lists.append(
            GenerationList(
                memcg_id=len(lists) + 1,
                path=path,
                node=0,
                generations=tuple(
                    Generation(
                        sequence=index,
                        age_seconds=float(age),
                        anon_pages=pages(anon * weight // whole),
                        file_pages=pages(file * weight // whole),
                    )
                    for index, (age, weight) in enumerate(zip(ages, weights, strict=True))
                ),
            )
        )
    spared = draw(st.sets(st.sampled_from(PATHS), max_size=1))
    kept = Kept(paths=tuple(spared))
    return replace(
        snapshot,
        generations=tuple(lists),
        lru_gen_enabled=True,
        rules=Rules(cold=kept, anon=kept),
    )


def evictable(snapshot: Snapshot) -> list[tuple[float, int, str]]:
    """(age, bytes, cgroup) of what could go, spared cgroups left out."""
    return [
        (row.at_least_seconds, row.anon_bytes, ages.path)
        for ages in histogram(snapshot.generations, snapshot.page_size)
        for row in ages.rows
        if row.evictable and not is_spared(ages.path, snapshot.rules.cold.paths)
    ]


@settings(max_examples=300)
@given(
    snapshot=known_machines(),
    kind=st.sampled_from(TargetKind),
    rest=st.integers(1, 4 * GIB),
    most=st.integers(0, 8 * GIB),
)
def test_the_threshold_takes_the_oldest_and_no_more_than_a_generation_too_much(
    snapshot: Snapshot, kind: TargetKind, rest: int, most: int
) -> None:
    limits = Limits()
    every = coldfirst.parts_of(snapshot, limits, kind, rest_bytes=rest, most_bytes=most)
    need = min(rest, most)
    if not need:
        assert not every or kind is TargetKind.MIN
    if not every:
        assert not most
        return
    *parts, last_resort = every
    assert last_resort.waits
    assert last_resort.min_age_seconds == limits.cold_age_seconds
    total = sum(part.amount_bytes for part in parts)
    assert max(total, last_resort.amount_bytes) <= most
    there = evictable(snapshot)
    if not parts:
        old_enough = sum(size for age, size, _ in there if age >= limits.cold_age_seconds)
        assert kind is TargetKind.MIN or old_enough < need
        return
    assert last_resort.amount_bytes == need
    assert not last_resort.whole
    assert total == need if kind in BOUND else total >= need
    for part in parts:
        assert not part.waits
        assert part.min_age_seconds >= limits.cold_age_seconds
        known = sum(size for age, size, _ in there if age >= part.min_age_seconds)
        older = sum(size for age, size, _ in there if age > part.min_age_seconds)
        # it proves to be there, and all that is older is not enough for what has to go
        assert part.amount_bytes <= known
        assert older < need
    if len(parts) > 1:
        # what is older than the last threshold goes as a whole, before any of that age
        first, last = parts
        assert first.min_age_seconds > last.min_age_seconds
        assert first.amount_bytes == sum(
            size for age, size, _ in there if age > last.min_age_seconds
        )


@settings(max_examples=200)
@given(snapshot=known_machines(), target=TARGETS, rates=RATES)
def test_what_goes_and_what_stays_is_what_there_is(
    snapshot: Snapshot, target: Target, rates: Rates
) -> None:
    plan = planning.make(snapshot, ALL, target, Limits(), rates)
    page = snapshot.page_size
    generations = [each for entry in snapshot.generations for each in entry.generations]
    assert sum(share.anon_goes_bytes + share.anon_stays_bytes for share in plan.ages) == sum(
        each.anon_pages * page for each in generations
    )
    assert sum(share.file_goes_bytes + share.file_stays_bytes for share in plan.ages) == sum(
        each.file_pages * page for each in generations
    )
    for share in plan.ages:
        assert min(share.anon_goes_bytes, share.anon_stays_bytes) >= 0
        assert min(share.file_goes_bytes, share.file_stays_bytes) >= 0
        assert share.hibernate_seconds >= 0
        assert share.resume_seconds >= 0
    goes = sum(share.anon_goes_bytes for share in plan.ages)
    assert goes <= min(coldfirst.most_anon_bytes(plan.steps), plan.swap_budget_bytes)
    together = sum(share.hibernate_seconds for share in plan.ages)
    assert together <= plan.after.hibernate_seconds * (1 + 1e-9) + 1e-6


@settings(max_examples=200)
@given(snapshot=known_machines(), target=TARGETS)
def test_nothing_younger_goes_while_older_that_could_go_stays(
    snapshot: Snapshot, target: Target
) -> None:
    quiet = replace(snapshot, rules=Rules(), protected_bytes=0, swap_barred_bytes=0)
    plan = planning.make(quiet, ALL, target, Limits(), Rates())
    steps = [step for step in cold_steps(plan) if not step.waits]
    if not steps:
        return
    stays = False
    evictable_from = min(step.min_age_seconds for step in steps)
    for share in plan.ages:
        if share.at_least_seconds < evictable_from:
            break
        if stays:
            assert share.anon_goes_bytes == 0
        stays = stays or share.anon_stays_bytes > _not_evictable(quiet, share.at_least_seconds)


def _not_evictable(snapshot: Snapshot, from_seconds: float) -> int:
    """In the two youngest generations, which nothing can take before memory is aged."""
    return sum(
        row.anon_bytes
        for ages in histogram(snapshot.generations, snapshot.page_size)
        for row in ages.rows
        if not row.evictable and row.at_least_seconds >= from_seconds
    )


def test_without_the_back_end_nothing_is_promised_by_age() -> None:
    found = {
        name: Capability(name, available=name is BackendName.MEMCG, reason="so", since="6.1")
        for name in BackendName
    }
    plan = make(aged(), TargetKind.WITHIN, found=found, seconds=20.0)
    assert not cold_steps(plan)
    assert plan.ages


@settings(max_examples=100)
@given(snapshot=known_machines(), target=TARGETS)
def test_without_time_to_wait_nothing_waits_and_as_much_goes(
    snapshot: Snapshot, target: Target
) -> None:
    patient, at_once = Limits(), Limits(cold_wait_seconds=0.0)
    plan = planning.make(snapshot, ALL, target, at_once, Rates())
    assert not any(step.waits for step in plan.steps if step.stage is Stage.COLD_ANON)
    waiting = planning.make(snapshot, ALL, target, patient, Rates())
    assert plan.after.saveable_bytes <= waiting.after.saveable_bytes
