# SPDX-License-Identifier: LGPL-2.1-or-later
"""Rounds that let go what is old and wait for nothing, as the policy `continuous` makes them: on a
fake kernel whose generations are as the real one's."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hibprep import plan as planning
from hibprep import predict
from hibprep.amount import for_age
from hibprep.model import (
    MACHINE,
    BackendName,
    Ending,
    Kept,
    Kind,
    Limits,
    Rates,
    Rules,
    Stage,
    Step,
    StepReport,
    Target,
    TargetKind,
)
from hibprep.runner import bounded
from tests.fakes.harness import Harness
from tests.fakes.machine import FakeMachine
from tests.fakes.state import GIB, MIB, PAGE, AnonSet, FakeCgroup, FakeSwap

APP, OTHER = "/user.slice/app.service", "/system.slice/db.service"
GENERATIONS = "/sys/kernel/debug/lru_gen"
AGE = 60.0


def machine(*cold: AnonSet, **changes: object) -> FakeMachine:
    """An app with 100 MiB in use and what is given; a service with 50 MiB in use."""
    given_: dict[str, object] = {
        "total_bytes": 4 * GIB,
        "kernel": (6, 12),
        "cgroups": [
            FakeCgroup(APP, anon=[AnonSet(100 * MIB, hot=True), *cold]),
            FakeCgroup(OTHER, anon=[AnonSet(50 * MIB, hot=True)]),
        ],
        "swaps": [FakeSwap("/dev/vdb", 8 * GIB, device="254:16")],
        "resume_device": "254:16",
    }
    return FakeMachine(**{**given_, **changes})  # type: ignore[arg-type]


def round_of(fake: FakeMachine, limits: Limits | None = None) -> tuple[Harness, list[StepReport]]:
    """One round, with back-ends that know nothing of the ones before."""
    harness = Harness(fake, limits)
    plans = for_age(
        harness.snapshot(),
        harness.capabilities(),
        min_age_seconds=AGE,
        limits=harness.limits,
        rates=Rates(),
    )
    reports = [each for plan in plans for each in harness.run(plan).steps]
    return harness, reports


def agings(harness: Harness) -> int:
    return sum(
        path == GENERATIONS and text.startswith("+") for path, text in harness.worker.requests
    )


def test_memory_that_falls_idle_goes_after_one_to_one_and_a_half_of_the_age() -> None:
    once_used = AnonSet(400 * MIB)
    fake = machine(once_used)
    begin, gone_after = fake.now, None
    for _ in range(40):
        before = fake.now
        _, reports = round_of(fake)
        assert fake.now - before < 5.0  # nothing was waited for
        assert all(each.ending is Ending.DONE for each in reports if each.stage is Stage.COLD_ANON)
        if gone_after is None and once_used.size_bytes == 0:
            gone_after = fake.now - begin
        fake.advance(AGE / 4)
    assert gone_after is not None
    assert AGE <= gone_after <= 1.75 * AGE  # a look is a quarter of the age apart
    assert fake.cgroup(APP).anon_bytes == 100 * MIB
    assert fake.cgroup(OTHER).anon_bytes == 50 * MIB


@settings(max_examples=40, deadline=None)
@given(
    idle=st.lists(st.floats(0, 300), min_size=1, max_size=5),
    gap=st.sampled_from([5.0, 15.0, 30.0, 90.0]),
    kernel=st.sampled_from([(6, 1), (6, 12), (6, 18), (7, 3)]),
)
def test_it_never_takes_what_was_used_less_than_the_age_ago(
    idle: list[float], gap: float, kernel: tuple[int, int]
) -> None:
    cold = [AnonSet(32 * MIB, idle_seconds=seconds) for seconds in idle]
    fake = machine(*cold, kernel=kernel)
    begin = fake.now
    for _ in range(12):
        before = [each.size_bytes for each in cold]
        round_of(fake)
        for each, seconds, was in zip(cold, idle, before, strict=True):
            if each.size_bytes < was:
                assert fake.now - begin + seconds >= AGE - 0.01
        fake.advance(gap)
    assert fake.cgroup(APP).anon[0].size_bytes == 100 * MIB


def test_memory_is_aged_once_in_half_of_the_age_however_often_it_is_looked_at() -> None:
    fake = machine(AnonSet(400 * MIB))
    round_of(fake)
    walks = 0
    for _ in range(24):  # two minutes
        fake.advance(5.0)
        walks += agings(round_of(fake)[0])
    assert walks == 2 * 4  # of each of two cgroups, once in 30 s


def test_what_is_known_to_be_old_goes_at_once_and_without_an_aging_first() -> None:
    fake = machine(
        AnonSet(300 * MIB, idle_seconds=900), generation_ages_seconds=(900.0, 800.0, 700.0, 600.0)
    )
    harness, reports = round_of(fake)
    (step,) = [each for each in reports if each.stage is Stage.COLD_ANON]
    assert step.freed.anon_bytes == 300 * MIB
    signs = [text[0] for path, text in harness.worker.requests if path == GENERATIONS]
    assert signs[0] == "-"


def test_a_step_that_does_not_wait_is_not_primed() -> None:
    harness = Harness(machine(AnonSet(300 * MIB)))
    step = Step(
        stage=Stage.COLD_ANON,
        kind=Kind.ANON,
        scope=MACHINE,
        amount_bytes=GIB,
        backend=BackendName.LRUGEN,
        min_age_seconds=AGE,
    )
    backend = harness.backends[BackendName.LRUGEN]
    backend.prime(replace(step, waits=False), harness.stop)
    assert agings(harness) == 0
    backend.prime(step, harness.stop)
    assert agings(harness) > 0


def test_cache_that_is_old_goes_too() -> None:
    fake = machine(
        cgroups=[FakeCgroup(APP, anon=[AnonSet(100 * MIB, hot=True)], file_bytes=200 * MIB)],
        generation_ages_seconds=(900.0, 800.0, 700.0, 600.0),
    )
    _, reports = round_of(fake)
    assert [each.stage for each in reports] == [Stage.CACHE, Stage.COLD_ANON]
    assert {each.backend for each in reports} == {"lrugen"}
    assert fake.events["pgsteal_file"] > 0


@pytest.mark.parametrize("stage", [Stage.CACHE, Stage.COLD_ANON])
def test_only_the_stages_that_may_be_used(stage: Stage) -> None:
    _, reports = round_of(machine(AnonSet(100 * MIB)), Limits(stages=(stage, Stage.ANON)))
    assert [each.stage for each in reports] == [stage]


def test_where_it_is_switched_off_nothing_proves_old_and_a_plan_says_so() -> None:
    harness = Harness(machine(AnonSet(100 * MIB), kernel=(6, 1), lru_gen=False))
    plans = for_age(
        harness.snapshot(),
        harness.capabilities(),
        min_age_seconds=AGE,
        limits=Limits(),
        rates=Rates(),
    )
    assert not any(plan.steps for plan in plans)
    assert any("switched off" in limit.text for plan in plans for limit in plan.limits)


def test_rules_and_the_days_budget_are_kept() -> None:
    harness = Harness(machine(AnonSet(100 * MIB)))
    kept = Kept(paths=(OTHER,))
    plans = for_age(
        replace(harness.snapshot(), rules=Rules(cold=kept, anon=kept)),
        harness.capabilities(),
        min_age_seconds=AGE,
        limits=Limits(),
        rates=Rates(),
    )
    cache, anon = (step for plan in plans for step in plan.steps)
    assert cache.spared == ()
    assert anon.spared == (OTHER,)
    assert [cache.waits, anon.waits] == [False, False]
    few = [step for plan in bounded([*plans, *plans], 3 * MIB) for step in plan.steps]
    assert [step.amount_bytes for step in few if step.stage is Stage.COLD_ANON] == [3 * MIB]
    assert bounded(plans, None) == plans


# --- the same in a preparation --------------------------------------------------------------------


def two_ages(**changes: object) -> FakeMachine:
    """300 MiB idle for two hours and as much for ten minutes, and what is in use."""
    cgroups = [
        FakeCgroup(
            APP, anon=[AnonSet(100 * MIB, hot=True), AnonSet(300 * MIB, idle_seconds=600.0)]
        ),
        FakeCgroup(
            OTHER, anon=[AnonSet(50 * MIB, hot=True), AnonSet(300 * MIB, idle_seconds=7200.0)]
        ),
    ]
    given_ = {"generation_ages_seconds": (9000.0, 5000.0, 100.0, 50.0), **changes}
    return machine(cgroups=cgroups, **given_)


def to_lose(harness: Harness, amount_mib: int) -> Target:
    saveable = predict.saveable_pages(harness.snapshot()) * PAGE
    headroom = planning.headroom_bytes(harness.snapshot())
    return Target(TargetKind.SIZE, size_bytes=saveable - amount_mib * MIB + headroom)


def test_the_oldest_of_all_cgroups_goes_and_memory_is_not_aged_for_it() -> None:
    fake = two_ages()
    harness = Harness(fake, Limits(stages=(Stage.COLD_ANON,)))
    plan = harness.plan(to_lose(harness, 400))
    assert [step.waits for step in plan.steps] == [False, False, True]
    harness.run(plan)
    assert agings(harness) == 0
    assert fake.cgroup(OTHER).anon[1].size_bytes == 0
    assert fake.cgroup(APP).anon[1].size_bytes == pytest.approx(200 * MIB, abs=MIB)
    assert fake.cgroup(APP).anon[0].size_bytes == 100 * MIB


def test_what_was_touched_since_is_made_up_for_by_what_is_next_in_age() -> None:
    fake = two_ages()
    harness = Harness(fake, Limits(stages=(Stage.COLD_ANON,)))
    plan = harness.plan(to_lose(harness, 250))
    assert not plan.steps[0].waits
    used_again = fake.cgroup(OTHER).anon[1]
    used_again.hot = True
    fake.advance(1.0)
    run = harness.run(plan)
    assert run.freed.anon_bytes == pytest.approx(250 * MIB, abs=2 * MIB)
    assert used_again.size_bytes == 300 * MIB
    assert fake.cgroup(APP).anon[1].size_bytes == pytest.approx(50 * MIB, abs=2 * MIB)
