# SPDX-License-Identifier: LGPL-2.1-or-later
"""Plans: what must hold on every machine, and one example for each thing that may bind them."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hibprep import fitting, predict
from hibprep import plan as planning
from hibprep.amount import for_reclaim
from hibprep.choice import KNOW_AGES
from hibprep.coldfirst import cold_bytes
from hibprep.model import (
    BackendName,
    Capability,
    Generation,
    GenerationList,
    Kind,
    Limits,
    Memory,
    Plan,
    Power,
    Rates,
    Scope,
    ScopeKind,
    ScopeMemory,
    Snapshot,
    Stage,
    SwapArea,
    Target,
    TargetKind,
    Zone,
)
from tests.unit.strategies import GIB, MIB, PAGE, RATES, saveable_bytes, snapshots

STAGES = tuple(Stage)
ANON_STAGES = (Stage.COLD_ANON, Stage.ANON)


def able(*names: BackendName) -> dict[BackendName, Capability]:
    """Those are available, the others are not, each with a reason."""
    return {
        name: Capability(
            name,
            available=name in names,
            reason=f"{name} works" if name in names else f"{name} is missing: get a newer kernel",
            since="6.1",
        )
        for name in BackendName
    }


ALL = able(*BackendName)

CAPABILITIES = st.sets(st.sampled_from(list(BackendName))).map(lambda names: able(*names))
TARGETS = st.one_of(
    st.just(Target(TargetKind.IMAGE_SIZE)),
    st.just(Target(TargetKind.MIN)),
    st.integers(1, 8 * GIB).map(lambda size: Target(TargetKind.SIZE, size_bytes=size)),
    st.floats(0.5, 300).map(lambda seconds: Target(TargetKind.WITHIN, seconds=seconds)),
)
LIMITS = st.builds(
    Limits,
    stages=st.sets(st.sampled_from(STAGES), min_size=1).map(
        lambda some: tuple(stage for stage in STAGES if stage in some)
    ),
    cold_age_seconds=st.floats(1, 1000),
    backend=st.sampled_from([None, None, None, *BackendName]),
)


# --- on every machine ---------------------------------------------------------------------------


@settings(max_examples=300)
@given(snapshot=snapshots(), found=CAPABILITIES, target=TARGETS, limits=LIMITS, rates=RATES)
def test_what_holds_for_every_plan(
    snapshot: Snapshot,
    found: dict[BackendName, Capability],
    target: Target,
    limits: Limits,
    rates: Rates,
) -> None:
    plan = planning.make(snapshot, found, target, limits, rates)
    memory = snapshot.memory
    stages = [step.stage for step in plan.steps]
    assert stages == sorted(stages, key=STAGES.index)
    assert set(stages) <= set(limits.stages)
    supply = {
        Stage.SYNC: memory.dirty_bytes + memory.writeback_bytes,
        Stage.CACHE: memory.file_lru_bytes,
        Stage.SLAB: memory.slab_reclaimable_bytes,
        Stage.COLD_ANON: min(memory.anon_lru_bytes, plan.swap_budget_bytes),
        Stage.ANON: min(memory.anon_lru_bytes, plan.swap_budget_bytes),
    }
    for step in plan.steps:
        assert PAGE <= step.amount_bytes <= supply[step.stage]
        assert found[step.backend].available
        assert limits.backend in (None, step.backend) or step.stage is Stage.SYNC
        assert step.reason
    assert plan.goal_bytes >= 0
    assert plan.swap_budget_bytes >= 0
    before, after = plan.before, plan.after
    assert after.saveable_bytes <= before.saveable_bytes
    assert after.image_bytes <= before.image_bytes
    assert after.hibernate_seconds <= before.hibernate_seconds * (1 + 1e-9)
    assert after.resume_seconds <= before.resume_seconds
    assert all(limit.text and limit.name and limit.bytes >= 0 for limit in plan.limits)
    assert all(size > 0 for size in plan.irreducible.values())
    assert all(knob.reason for knob in plan.knobs)


@settings(max_examples=300)
@given(snapshot=snapshots(roomy=True), found=CAPABILITIES, target=TARGETS, limits=LIMITS)
def test_no_plan_makes_an_accepted_hibernation_refused(
    snapshot: Snapshot, found: dict[BackendName, Capability], target: Target, limits: Limits
) -> None:
    plan = planning.make(snapshot, found, target, limits, Rates())
    if plan.fit_before.ok:
        assert plan.fit_after.ok, plan.fit_after.reason


@given(snapshot=snapshots(), found=CAPABILITIES, limits=LIMITS)
def test_image_size_is_never_undercut_by_more_than_its_headroom(
    snapshot: Snapshot, found: dict[BackendName, Capability], limits: Limits
) -> None:
    plan = planning.make(snapshot, found, Target(), limits, Rates())
    target = predict.target_pages(snapshot) * PAGE
    lowest = target - planning.headroom_bytes(snapshot)
    assert lowest <= plan.goal_bytes <= target
    total = snapshot.memory.total_bytes
    assert planning.headroom_bytes(snapshot) <= max(24 * MIB, total // 20)
    if saveable_bytes(snapshot) > plan.goal_bytes:
        # and what is planned stops there
        assert plan.after.saveable_bytes >= min(plan.goal_bytes, saveable_bytes(snapshot)) - PAGE


@given(snapshot=snapshots(), target=TARGETS, rates=RATES)
def test_a_stage_that_is_wanted_and_cannot_be_done_is_explained(
    snapshot: Snapshot, target: Target, rates: Rates
) -> None:
    with_all = planning.make(snapshot, ALL, target, Limits(), rates)
    with_none = planning.make(snapshot, able(), target, Limits(), rates)
    assert with_none.steps == ()
    for step in with_all.steps:
        texts = [limit.text for limit in with_none.limits if limit.name == f"stage-{step.stage}"]
        assert len(texts) == 1
        assert "get a newer kernel" in texts[0]


@given(snapshot=snapshots(), target=TARGETS, rates=RATES)
def test_a_target_that_is_out_of_reach_is_said_to_be(
    snapshot: Snapshot, target: Target, rates: Rates
) -> None:
    plan = planning.make(snapshot, ALL, target, Limits(), rates)
    short = plan.after.saveable_bytes - plan.goal_bytes
    if short > snapshot.memory.total_bytes // 50 + 8 * MIB and target.kind is not TargetKind.MIN:
        assert "goal" in names(plan)


@given(snapshot=snapshots(roomy=True), rates=RATES, seconds=st.floats(0.5, 300))
def test_a_goal_for_a_time_keeps_within_it(
    snapshot: Snapshot, rates: Rates, seconds: float
) -> None:
    plan = planning.make(snapshot, ALL, Target(TargetKind.WITHIN, seconds=seconds), Limits(), rates)
    takes = predict.predict(snapshot, rates, saveable_bytes=plan.goal_bytes, dirty_bytes=0)
    assert takes.hibernate_seconds <= seconds or "time" in names(plan)


# --- examples -----------------------------------------------------------------------------------

DISK = SwapArea(
    path="/dev/vdb", is_file=False, size_bytes=16 * GIB, used_bytes=0, priority=-2, device="254:16"
)
ZRAM = replace(DISK, path="/dev/zram0", device="252:0", priority=100, is_zram=True)


def machine(**changes: object) -> Snapshot:
    """8 GiB with 4 GiB of anon (a quarter of it active), 1 GiB of cache, 256 MiB of slab."""
    total, free = 8 * GIB // PAGE, 2 * GIB // PAGE
    snapshot = Snapshot(
        page_size=PAGE,
        memory=Memory(
            total_bytes=8 * GIB,
            free_bytes=2 * GIB,
            active_anon_bytes=GIB,
            inactive_anon_bytes=3 * GIB,
            active_file_bytes=256 * MIB,
            inactive_file_bytes=768 * MIB,
            mapped_bytes=100 * MIB,
            dirty_bytes=20 * MIB,
            slab_reclaimable_bytes=256 * MIB,
            slab_unreclaimable_bytes=64 * MIB,
        ),
        zones=(
            Zone(
                node=0,
                name="Normal",
                present_pages=total,
                managed_pages=total,
                spanned_pages=total,
                free_pages=free,
                high_pages=10_000,
            ),
        ),
        swaps=(DISK,),
        power=Power(available=True, image_size_bytes=3 * GIB, resume_device="254:16"),
        lru_gen_enabled=True,
    )
    return replace(snapshot, **changes)  # type: ignore[arg-type]


def make(
    snapshot: Snapshot,
    kind: TargetKind = TargetKind.MIN,
    limits: Limits | None = None,
    found: dict[BackendName, Capability] | None = None,
    *,
    size_bytes: int = 0,
    seconds: float = 0.0,
) -> Plan:
    target = Target(kind, size_bytes=size_bytes, seconds=seconds)
    return planning.make(
        snapshot, ALL if found is None else found, target, limits or Limits(), Rates()
    )


def amounts(plan: Plan) -> dict[Stage, int]:
    return {step.stage: step.amount_bytes for step in plan.steps}


def names(plan: Plan) -> set[str]:
    return {limit.name for limit in plan.limits}


def test_min_takes_everything_in_order_with_the_best_back_end_of_each() -> None:
    plan = make(machine())
    assert amounts(plan) == {
        Stage.SYNC: 20 * MIB,
        Stage.CACHE: GIB,
        Stage.SLAB: 256 * MIB,
        Stage.COLD_ANON: 4 * GIB,
        Stage.ANON: 4 * GIB,
    }
    assert [step.backend for step in plan.steps] == [
        BackendName.WRITEBACK,
        BackendName.MEMCG,
        BackendName.DROPCACHES,
        BackendName.LRUGEN,
        BackendName.MEMCG,
    ]
    assert plan.goal_bytes == 0
    assert plan.limits == ()


def test_running_programs_are_spared_unless_it_is_to_be_as_small_as_possible() -> None:
    assert amounts(make(machine()))[Stage.CACHE] == GIB
    small = make(machine(), TargetKind.SIZE, size_bytes=512 * MIB)
    assert amounts(small)[Stage.CACHE] == GIB - 100 * MIB


def test_a_size_is_reached_with_the_cheaper_stages_where_they_are_enough() -> None:
    snapshot = machine(power=replace(machine().power, image_size_bytes=6 * GIB))
    goal = saveable_bytes(snapshot) - 500 * MIB
    most = predict.max_image_pages(snapshot) * PAGE
    assert goal > most  # and a goal above the largest image is no goal
    plan = make(snapshot, TargetKind.SIZE, size_bytes=goal)
    assert "max-image" in names(plan)
    assert plan.goal_bytes == most - planning.headroom_bytes(snapshot)
    plan = make(snapshot, TargetKind.IMAGE_SIZE)
    assert amounts(plan)[Stage.CACHE] == GIB - 100 * MIB
    rest = plan.need_bytes - amounts(plan)[Stage.CACHE] - amounts(plan)[Stage.SLAB]
    assert amounts(plan)[Stage.ANON] == rest
    assert amounts(plan)[Stage.COLD_ANON] == rest


@pytest.mark.parametrize(
    ("kind", "whole"),
    [(TargetKind.MIN, True), (TargetKind.WITHIN, True), (TargetKind.IMAGE_SIZE, False)],
)
def test_all_that_is_cold_goes_once_anything_has_to_for_min_and_a_time(
    kind: TargetKind, *, whole: bool
) -> None:
    plan = make(machine(), kind, seconds=30.0)
    step = next(step for step in plan.steps if step.stage is Stage.COLD_ANON)
    assert step.min_age_seconds == Limits().cold_age_seconds
    if whole:
        assert step.amount_bytes == 4 * GIB
        assert step.goal_bytes == 0
    else:
        assert step.amount_bytes < 4 * GIB
        assert step.goal_bytes == plan.goal_bytes


def test_nothing_is_cold_enough_to_go_when_nothing_has_to() -> None:
    plan = make(machine(), TargetKind.WITHIN, seconds=3600.0)
    most = predict.max_image_pages(machine()) * PAGE
    assert plan.goal_bytes == most - planning.headroom_bytes(machine())
    roomy = machine(
        memory=replace(machine().memory, inactive_anon_bytes=0),
        zones=(replace(machine().zones[0], free_pages=5 * GIB // PAGE),),
    )
    assert amounts(make(roomy, TargetKind.WITHIN, seconds=3600.0)) == {Stage.SYNC: 20 * MIB}


def test_a_time_that_is_too_short_for_anything_is_told() -> None:
    plan = make(machine(), TargetKind.WITHIN, seconds=1.0)
    assert plan.goal_bytes == 0
    assert "3.0 s are fixed" in next(each.text for each in plan.limits if each.name == "time")


def test_only_the_stages_asked_for() -> None:
    plan = make(machine(), limits=Limits(stages=(Stage.SYNC, Stage.CACHE)))
    assert set(amounts(plan)) == {Stage.SYNC, Stage.CACHE}
    assert plan.after.saveable_bytes == saveable_bytes(machine()) - GIB


def test_a_cgroup_alone() -> None:
    scope = Scope(ScopeKind.CGROUP, "/user.slice")
    snapshot = machine(
        scope=ScopeMemory(
            anon_bytes=300 * MIB, file_bytes=100 * MIB, mapped_bytes=10 * MIB, dirty_bytes=5 * MIB
        )
    )
    plan = make(snapshot, limits=Limits(scope=scope))
    assert amounts(plan) == {
        Stage.CACHE: 100 * MIB,
        Stage.COLD_ANON: 300 * MIB,
        Stage.ANON: 300 * MIB,
    }
    assert all(step.scope == scope for step in plan.steps)
    texts = {limit.name: limit.text for limit in plan.limits}
    assert "whole machine only" in texts["stage-sync"]
    assert "whole machine only" in texts["stage-slab"]


def test_without_swap_anon_stays_and_is_named() -> None:
    plan = make(machine(swaps=()))
    assert not set(amounts(plan)) & set(ANON_STAGES)
    assert "no-swap" in names(plan)
    assert plan.irreducible["anonymous memory without room in swap"] == 4 * GIB
    assert not plan.fit_after.ok


@pytest.mark.parametrize("priority", [100, -2], ids=["before the disk", "beside it"])
def test_zram_before_the_disk_would_keep_it_all_in_memory(priority: int) -> None:
    plan = make(machine(swaps=(DISK, replace(ZRAM, priority=priority))))
    assert not set(amounts(plan)) & set(ANON_STAGES)
    assert "zram" in names(plan)


def test_zram_behind_the_disk_or_full_is_in_nobodys_way() -> None:
    behind = make(machine(swaps=(DISK, replace(ZRAM, priority=-9))))
    full = make(machine(swaps=(DISK, replace(ZRAM, used_bytes=ZRAM.size_bytes))))
    assert amounts(behind)[Stage.ANON] == amounts(full)[Stage.ANON] == 4 * GIB


def test_a_small_swap_is_kept_for_the_image() -> None:
    plan = make(machine(swaps=(replace(DISK, size_bytes=3 * GIB),)))
    limit = next(each for each in plan.limits if each.name == "swap-reserve")
    assert limit.bytes == plan.swap_budget_bytes < 4 * GIB
    anon = {stage: size for stage, size in amounts(plan).items() if stage in ANON_STAGES}
    assert all(size <= plan.swap_budget_bytes for size in anon.values())


def test_memory_min_is_taken_off_the_cheaper_kind_first() -> None:
    plan = make(machine(protected_bytes=1536 * MIB))
    assert Stage.CACHE not in amounts(plan)
    assert amounts(plan)[Stage.ANON] == 4 * GIB - 512 * MIB
    assert "memory.min" in names(plan)
    assert plan.irreducible["protected by memory.min"] == 1536 * MIB


def test_memory_that_may_not_be_swapped_stays() -> None:
    plan = make(machine(swap_barred_bytes=GIB))
    assert amounts(plan)[Stage.ANON] == 3 * GIB
    assert next(each.bytes for each in plan.limits if each.name == "memory.swap.max") == GIB


def tight() -> Snapshot:
    """The kernel would accept, and systemd would not if all anonymous memory were active."""
    return machine(
        swaps=(replace(DISK, size_bytes=4352 * MIB),),
        power=Power(available=True, image_size_bytes=3584 * MIB, resume_device="254:16"),
    )


def test_what_would_be_refused_is_cured_by_leaving_the_kernel_nothing_to_shrink() -> None:
    """The kernel's own shrinking would take the slots that the image then lacks."""
    small = machine(swaps=(replace(DISK, size_bytes=4352 * MIB),))
    assert not fitting.fit(small, Limits()).ok
    budget = fitting.swap_budget_bytes(small, Limits())
    assert budget > 0
    assert fitting.fit(small, Limits(), swapped_bytes=budget).ok


def test_memory_is_not_aged_where_systemd_might_refuse_for_it() -> None:
    snapshot = tight()
    assert not fitting.safe_to_age(snapshot, Limits())
    plan = make(snapshot)
    assert Stage.COLD_ANON not in amounts(plan)
    assert "aging" in names(plan)


def test_nor_by_the_stage_that_takes_the_rest() -> None:
    snapshot = tight()
    plan = make(snapshot, found=able(BackendName.LRUGEN))
    assert not plan.steps
    assert "aging" in next(each.text for each in plan.limits if each.name == "stage-anon")


@pytest.mark.parametrize(
    ("ages", "cold_pages"),
    [
        ((100.0, 50.0, 20.0, 5.0), 2000),  # the two oldest; the two youngest never count
        ((100.0, 9.0, 5.0, 1.0), 0),  # touched up to 9 s ago, as far as is known
        ((100.0, 10.0, 5.0, 1.0), 1000),
        ((100.0, 50.0), 0),
        ((100.0, 50.0, 40.0), 1000),
        ((), 0),
    ],
)
def test_cold_is_what_the_next_younger_generation_proves(
    ages: tuple[float, ...], cold_pages: int
) -> None:
    generations = tuple(
        Generation(sequence=index, age_seconds=age, anon_pages=1000, file_pages=7)
        for index, age in enumerate(ages)
    )
    one = GenerationList(memcg_id=1, path="/", node=0, generations=generations)
    snapshot = machine(generations=(one, replace(one, memcg_id=2)))
    assert cold_bytes(snapshot, 10.0) == 2 * cold_pages * PAGE


@pytest.mark.parametrize(
    ("found", "backend"),
    [
        (able(BackendName.MEMCG, BackendName.NODE), BackendName.MEMCG),
        (able(BackendName.NODE, BackendName.MADVISE), BackendName.NODE),
        (able(BackendName.LRUGEN, BackendName.MADVISE), BackendName.LRUGEN),
        (able(BackendName.MADVISE), BackendName.MADVISE),
    ],
)
def test_the_rest_of_anon_goes_by_the_best_there_is(
    found: dict[BackendName, Capability], backend: BackendName
) -> None:
    step = next(each for each in make(machine(), found=found).steps if each.stage is Stage.ANON)
    assert step.backend is backend


def test_one_back_end_alone_and_what_it_cannot_do_is_left_out() -> None:
    plan = make(machine(), limits=Limits(backend=BackendName.DROPCACHES))
    assert {step.backend for step in plan.steps} == {BackendName.WRITEBACK, BackendName.DROPCACHES}
    assert set(amounts(plan)) == {Stage.SYNC, Stage.CACHE, Stage.SLAB}


def knobs(plan: Plan) -> dict[str, str]:
    return {change.path.rpartition("/")[2]: change.value for change in plan.knobs}


def test_settings_that_would_defeat_the_steps_are_changed() -> None:
    snapshot = machine(zswap_enabled=True, laptop_mode=5, lru_gen_enabled=False)
    plan = make(snapshot)
    assert [change.path for change in plan.knobs] == [
        "/sys/kernel/mm/lru_gen/enabled",
        "/sys/module/zswap/parameters/enabled",
        "/proc/sys/vm/laptop_mode",
    ]
    node = make(machine(), found=able(BackendName.NODE))
    assert knobs(node) == {"min_unmapped_ratio": "0", "min_slab_ratio": "0"}


def test_who_clears_accessed_bits_is_switched_off_where_memory_is_aged() -> None:
    aged = make(machine(damon_stat=True), found=able(BackendName.LRUGEN))
    assert any(step.waits for step in aged.steps if step.backend is BackendName.LRUGEN)
    assert [change.path for change in aged.knobs] == ["/sys/module/damon_stat/parameters/enabled"]
    assert make(machine(), found=able(BackendName.LRUGEN)).knobs == ()
    other = make(machine(damon_stat=True), found=able(BackendName.MEMCG))
    assert other.knobs == ()


@pytest.mark.parametrize("stage", [Stage.CACHE, Stage.ANON])
def test_node_reclaim_has_its_two_settings_in_every_stage(stage: Stage) -> None:
    plan = make(machine(), found=able(BackendName.NODE), limits=Limits(stages=(stage,)))
    assert {step.backend for step in plan.steps} == {BackendName.NODE}
    assert knobs(plan) == {"min_unmapped_ratio": "0", "min_slab_ratio": "0"}


def test_settings_are_left_alone_where_no_anonymous_memory_is_taken() -> None:
    snapshot = machine(zswap_enabled=True, laptop_mode=5, lru_gen_enabled=False)
    assert make(snapshot, limits=Limits(stages=(Stage.CACHE, Stage.SLAB))).knobs == ()


def test_what_cannot_be_freed_adds_up_to_what_is_left() -> None:
    snapshot = machine(swaps=(replace(DISK, size_bytes=3 * GIB),), zram_used_bytes=5 * MIB)
    plan = make(snapshot)
    memory = snapshot.memory
    freeable = memory.file_lru_bytes + memory.slab_reclaimable_bytes + plan.swap_budget_bytes
    assert sum(plan.irreducible.values()) == saveable_bytes(snapshot) - freeable
    assert plan.irreducible["zram pool"] == 5 * MIB
    assert plan.irreducible["kernel objects (slab)"] == 64 * MIB


# --- reclaim AMOUNT ---------------------------------------------------------------------------


def reclaim(
    snapshot: Snapshot,
    kind: Kind,
    *,
    amount_bytes: int | None = 100 * MIB,
    age: float = 0.0,
    backend: BackendName | None = None,
    found: dict[BackendName, Capability] | None = None,
) -> list[Plan]:
    return for_reclaim(
        snapshot,
        ALL if found is None else found,
        kind=kind,
        amount_bytes=amount_bytes,
        min_age_seconds=age,
        limits=Limits(backend=backend),
        rates=Rates(),
    )


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        (Kind.FILE, [(Stage.CACHE, BackendName.MEMCG)]),
        (Kind.SLAB, [(Stage.SLAB, BackendName.DROPCACHES)]),
        (Kind.ANON, [(Stage.ANON, BackendName.MEMCG)]),
        (Kind.ANY, [(Stage.CACHE, BackendName.MEMCG), (Stage.ANON, BackendName.MEMCG)]),
    ],
)
def test_an_amount_by_kind(kind: Kind, expected: list[tuple[Stage, BackendName]]) -> None:
    steps = [step for plan in reclaim(machine(), kind) for step in plan.steps]
    assert [(step.stage, step.backend) for step in steps] == expected
    assert {step.amount_bytes for step in steps} == {100 * MIB}
    assert {step.goal_bytes for step in steps} == {0}


def test_max_is_all_there_is() -> None:
    plans = reclaim(machine(), Kind.ANY, amount_bytes=None)
    assert [step.amount_bytes for plan in plans for step in plan.steps] == [GIB, 4 * GIB]


def test_an_amount_stays_within_the_budget_of_swap() -> None:
    (plan,) = reclaim(machine(swaps=(replace(DISK, size_bytes=3 * GIB),)), Kind.ANON)
    assert plan.swap_budget_bytes < 4 * GIB
    (plan,) = reclaim(machine(swaps=()), Kind.ANON)
    assert plan.steps == ()
    assert "no-swap" in names(plan)


@pytest.mark.parametrize("kind", [Kind.FILE, Kind.ANON])
def test_only_what_is_old_takes_what_knows_ages(kind: Kind) -> None:
    (plan,) = reclaim(machine(), kind, age=60.0)
    (step,) = plan.steps
    assert step.backend is BackendName.LRUGEN
    assert step.min_age_seconds == 60.0
    (plan,) = reclaim(machine(), kind, age=60.0, found=able(BackendName.MEMCG))
    assert plan.steps == ()
    assert any("lrugen is missing" in limit.text for limit in plan.limits)


@pytest.mark.parametrize("backend", [BackendName.MEMCG, BackendName.NODE, BackendName.MADVISE])
def test_an_age_is_never_promised_by_what_does_not_know_it(backend: BackendName) -> None:
    (plan,) = reclaim(machine(), Kind.ANON, age=60.0, backend=backend)
    assert plan.steps == ()
    assert "does not know what is old" in next(e.text for e in plan.limits if e.name == "age")


def test_the_age_of_kernel_objects_is_not_known() -> None:
    (plan,) = reclaim(machine(), Kind.SLAB, age=60.0)
    assert plan.steps == ()
    assert "age" in names(plan)


@pytest.mark.parametrize("age", [0.0, 60.0])
def test_an_amount_is_no_reason_to_age_where_systemd_might_refuse_for_it(age: float) -> None:
    snapshot = tight()
    (plan,) = reclaim(snapshot, Kind.ANON, age=age, backend=BackendName.LRUGEN)
    assert plan.steps == ()
    assert any("aging" in limit.text for limit in plan.limits)


@pytest.mark.parametrize(
    ("kind", "backend"),
    [
        (Kind.ANON, BackendName.DROPCACHES),
        (Kind.FILE, BackendName.MADVISE),
        (Kind.SLAB, BackendName.MEMCG),
        (Kind.ANON, BackendName.WRITEBACK),
    ],
)
def test_a_back_end_that_cannot_is_not_tried(kind: Kind, backend: BackendName) -> None:
    (plan,) = reclaim(machine(), kind, backend=backend)
    assert plan.steps == ()
    assert f"{backend} cannot free" in next(limit.text for limit in plan.limits)


@given(
    snapshot=snapshots(),
    found=CAPABILITIES,
    kind=st.sampled_from(list(Kind)),
    amount=st.one_of(st.none(), st.integers(PAGE, 16 * GIB)),
    age=st.sampled_from([0.0, 30.0]),
    backend=st.sampled_from([None, *BackendName]),
)
def test_every_amount_is_planned_or_refused_with_a_reason(
    *,
    snapshot: Snapshot,
    found: dict[BackendName, Capability],
    kind: Kind,
    amount: int | None,
    age: float,
    backend: BackendName | None,
) -> None:
    plans = reclaim(snapshot, kind, amount_bytes=amount, age=age, backend=backend, found=found)
    assert plans
    for plan in plans:
        for step in plan.steps:
            assert step.amount_bytes >= PAGE
            assert found[step.backend].available
            assert backend in (None, step.backend)
            assert not age or step.backend in KNOW_AGES
            assert kind in (Kind.ANY, step.kind)
            if step.kind is Kind.ANON:
                assert plan.swap_budget_bytes > 0
        nothing_there = not snapshot.memory.anon_lru_bytes
        assert plan.steps or plan.limits or nothing_there


def test_anonymous_memory_makes_up_for_cache_that_no_stage_may_take() -> None:
    """Of two stages the first one's share was once left out also where it was not to be used."""
    plan = make(machine(), TargetKind.SIZE, Limits(stages=(Stage.ANON,)), size_bytes=3 * GIB)
    assert plan.after.saveable_bytes <= plan.goal_bytes
    # nor where no back-end is there for slab
    plan = make(machine(), TargetKind.SIZE, found=able(BackendName.MEMCG), size_bytes=3 * GIB)
    assert "stage-slab" in names(plan)
    assert plan.after.saveable_bytes <= plan.goal_bytes
