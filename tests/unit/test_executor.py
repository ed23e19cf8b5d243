# SPDX-License-Identifier: LGPL-2.1-or-later
"""The executor with the real back-ends, on machines that react."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hibprep import fitting, predict
from hibprep.model import BackendName, Ending, Kind, Limits, Stage, Target, TargetKind
from tests.fakes.harness import Harness
from tests.fakes.machine import FakeMachine
from tests.fakes.state import GIB, MIB, AnonSet, FakeCgroup, FakeSwap

RESUME = "254:16"


def machine(
    *,
    kernel: tuple[int, int] = (6, 12),
    lru_gen: bool | None = True,
    cold_mib: int = 2600,
    warm_mib: int = 400,
    swap_mib: int = 8192,
    image_size_bytes: int = -1,
    again_every: int = 0,
) -> FakeMachine:
    return FakeMachine(
        total_bytes=4 * GIB,
        kernel=kernel,
        lru_gen=lru_gen,
        image_size_bytes=image_size_bytes,
        again_every=again_every,
        bytes_per_second=100e6,
        cgroups=[
            FakeCgroup(
                "/user.slice/app.service",
                anon=[
                    AnonSet(cold_mib * MIB, idle_seconds=30),
                    AnonSet(warm_mib * MIB, hot=True),
                ],
                file_bytes=100 * MIB,
                mapped_bytes=30 * MIB,
                dirty_bytes=5 * MIB,
                slab_bytes=20 * MIB,
            ),
        ],
        swaps=[FakeSwap("/dev/vdb", swap_mib * MIB, device=RESUME)],
        resume_device=RESUME,
    )


def resident(fake: FakeMachine) -> tuple[int, int]:
    cold, warm = fake.cgroup("/user.slice/app.service").anon
    return cold.size_bytes, warm.size_bytes


@pytest.mark.parametrize("kernel", [(6, 1), (6, 12), (6, 18), (7, 3)])
def test_within_a_time_the_cold_goes_and_the_warm_stays(kernel: tuple[int, int]) -> None:
    fake = machine(kernel=kernel)
    harness = Harness(fake)
    plan = harness.plan(Target(TargetKind.WITHIN, seconds=12.0))
    run = harness.run(plan)
    cold, warm = resident(fake)
    assert cold <= 2600 * MIB * 0.05
    assert warm >= 400 * MIB * 0.95
    assert fake.saveable_bytes <= plan.goal_bytes
    assert run.ending is Ending.DONE, run


def test_image_size_is_honoured() -> None:
    fake = machine()
    harness = Harness(fake)
    snapshot = harness.snapshot()
    target = predict.target_pages(snapshot) * snapshot.page_size
    harness.run(harness.plan(Target(TargetKind.IMAGE_SIZE)))
    assert target - 0.05 * fake.total_bytes <= fake.saveable_bytes <= target


def test_nothing_to_do_when_the_target_is_met() -> None:
    fake = machine(cold_mib=100, warm_mib=100)
    harness = Harness(fake)
    plan = harness.plan(Target(TargetKind.IMAGE_SIZE))
    assert [step.stage for step in plan.steps] == [Stage.SYNC]
    before = resident(fake)
    harness.run(plan)
    assert resident(fake) == before
    assert fake.cgroup("/user.slice/app.service").dirty_bytes == 0


@pytest.mark.parametrize("kernel", [(6, 1), (6, 12), (6, 18)])
@pytest.mark.parametrize("lru_gen", [True, False, None])
def test_min_takes_all_that_may_go(kernel: tuple[int, int], *, lru_gen: bool | None) -> None:
    fake = machine(kernel=kernel, lru_gen=lru_gen, again_every=3)
    harness = Harness(fake)
    before = fake.saveable_bytes
    run = harness.run(harness.plan(Target(TargetKind.MIN)))
    cold, _warm = resident(fake)
    assert cold <= 2600 * MIB * 0.02
    assert run.freed.anon_bytes >= 2500 * MIB
    assert before - fake.saveable_bytes >= 2600 * MIB
    # and the working set, which only comes back, is not sent to the disk again and again
    assert run.freed.swapped_in_bytes <= 600 * MIB


def test_stop_ends_within_the_chunk_and_reports() -> None:
    fake = machine()
    harness = Harness(fake)
    seen = []

    def interrupt(path: str, text: str) -> None:
        seen.append((path, text))
        if len(seen) == 12:
            harness.stop.request("Ctrl-C")

    harness.worker.before_write = interrupt
    run = harness.run(harness.plan(Target(TargetKind.MIN)))
    assert run.ending is Ending.INTERRUPTED
    assert run.reason == "Ctrl-C"
    assert len(seen) == 12
    assert run.steps[-1].ending is Ending.INTERRUPTED


def test_deadline_ends_with_what_was_done() -> None:
    fake = machine()
    harness = Harness(fake)
    harness.stop.within(8.0)
    begin = fake.now
    run = harness.run(harness.plan(Target(TargetKind.MIN)))
    assert run.ending is Ending.DEADLINE
    assert fake.now - begin <= 8.0 + 0.5
    assert run.freed.reclaimed_bytes > 0


def test_protected_memory_is_left_alone_by_generation_eviction() -> None:
    fake = machine()
    kept = FakeCgroup(
        "/system.slice/agent.service",
        anon=[AnonSet(64 * MIB, idle_seconds=600)],
        min_bytes=64 * MIB,
    )
    fake = FakeMachine(
        total_bytes=4 * GIB,
        bytes_per_second=100e6,
        cgroups=[*fake.cgroups, kept, FakeCgroup("/system.slice", min_bytes=64 * MIB)],
        swaps=fake.swaps,
        resume_device=RESUME,
    )
    harness = Harness(fake)
    harness.run(harness.plan(Target(TargetKind.MIN)))
    assert kept.anon[0].size_bytes == 64 * MIB


def test_a_cgroup_that_ends_meanwhile_ends_its_step_only() -> None:
    fake = machine()
    harness = Harness(fake)
    count = 0

    def vanish(path: str, text: str) -> None:
        nonlocal count
        count += 1
        if count == 8:
            fake.remove_cgroup("/user.slice/app.service")

    harness.worker.before_write = vanish
    run = harness.run(harness.plan(Target(TargetKind.MIN)))
    assert run.ending in (Ending.DONE, Ending.EXHAUSTED)


def test_pressure_of_others_slows_it_down() -> None:
    calm, busy = machine(), machine()
    busy.pressure["memory"] = 80.0
    times = []
    for fake in (calm, busy):
        harness = Harness(fake)
        begin = fake.now
        harness.run(harness.plan(Target(TargetKind.MIN)))
        times.append(fake.now - begin)
    assert times[1] > times[0] * 1.5


def test_small_swap_with_much_inactive_memory_stays_accepted() -> None:
    """Much anonymous memory, half of it inactive, and a swap that cannot take it all: in LRU order
    systemd would come to refuse (sleep path of systemd: Active(anon) against what is free)."""
    fake = FakeMachine(
        total_bytes=8 * GIB,
        lru_gen=False,
        cgroups=[
            FakeCgroup(
                "/user.slice",
                anon=[AnonSet(900 * MIB, idle_seconds=900), AnonSet(900 * MIB, hot=True)],
            )
        ],
        swaps=[FakeSwap("/dev/vdb", 1500 * MIB, device=RESUME)],
        resume_device=RESUME,
    )
    harness = Harness(fake)
    assert fitting.fit(harness.snapshot(), Limits()).ok
    run = harness.run(harness.plan(Target(TargetKind.MIN)))
    after = fitting.fit(harness.snapshot(), Limits())
    assert after.ok, after
    assert any(step.ending is Ending.LIMIT for step in run.steps) or fake.swap_used_bytes == 0


MIB_AMOUNTS = st.integers(min_value=0, max_value=3000).map(lambda amount: amount * MIB)


@st.composite
def machines(draw: st.DrawFn) -> FakeMachine:
    total = draw(st.sampled_from([1, 2, 4, 8])) * GIB
    left = total - 300 * MIB

    def take(ceiling: int) -> int:
        nonlocal left
        amount = min(left, draw(st.integers(0, max(0, ceiling // MIB))) * MIB)
        left -= amount
        return amount

    cgroups = [
        FakeCgroup(
            f"/slice{index}.slice",
            anon=[
                AnonSet(
                    take(total // 2),
                    idle_seconds=draw(st.floats(0, 1000)),
                    hot=draw(st.booleans()),
                    shmem=draw(st.booleans()),
                )
                for _ in range(draw(st.integers(0, 3)))
            ],
            file_bytes=take(total // 4),
            mapped_bytes=take(total // 16),
            dirty_bytes=take(total // 32),
            slab_bytes=take(total // 32),
            min_bytes=draw(st.sampled_from([0, 0, 64 * MIB])),
            swap_max_bytes=draw(st.sampled_from([None, None, 0, 100 * MIB])),
        )
        for index in range(draw(st.integers(1, 3)))
    ]
    swaps = [
        FakeSwap(
            f"/dev/vd{'bcd'[index]}",
            draw(st.integers(64, 6000)) * MIB,
            priority=draw(st.integers(-3, 5)),
            device=f"254:{16 * (index + 1)}",
        )
        for index in range(draw(st.integers(0, 3)))
    ]
    if draw(st.booleans()):
        swaps.append(FakeSwap("/dev/zram0", GIB, priority=draw(st.integers(-3, 100)), is_zram=True))
    resume = draw(st.sampled_from(["", *[swap.device for swap in swaps if not swap.is_zram]]))
    return FakeMachine(
        total_bytes=total,
        kernel=draw(st.sampled_from([(6, 1), (6, 12), (6, 18), (7, 3)])),
        lru_gen=draw(st.sampled_from([True, False, None])),
        debugfs=draw(st.booleans()),
        cgroup_version=draw(st.sampled_from([2, 2, 1])),
        cgroups=cgroups,
        swaps=swaps,
        resume_device=resume,
        image_size_bytes=draw(st.sampled_from([-1, 0, 500 * MIB])),
        again_every=draw(st.sampled_from([0, 2, 5])),
        swap_delay_seconds=draw(st.sampled_from([0.0, 0.3])),
        bytes_per_second=100e6,
    )


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    fake=machines(),
    kind=st.sampled_from([TargetKind.MIN, TargetKind.IMAGE_SIZE, TargetKind.WITHIN]),
    seconds=st.floats(3, 60),
)
def test_no_chunk_turns_an_accepted_hibernation_into_a_refused_one(
    fake: FakeMachine, kind: TargetKind, seconds: float
) -> None:
    harness = Harness(fake)
    limits = harness.limits
    accepted = fitting.fit(harness.snapshot(), limits).ok
    refused_at: list[str] = []

    def check(path: str, text: str) -> None:
        if accepted and not fitting.fit(harness.snapshot(), limits).ok:
            refused_at.append(text)

    plan = harness.plan(Target(kind, seconds=seconds))
    memory = harness.snapshot().memory
    cache_before, slab_before = memory.file_lru_bytes, memory.slab_reclaimable_bytes
    harness.worker.before_write = check
    run = harness.run(plan)
    check("", "the end")
    assert not refused_at, (refused_at[0], fitting.fit(harness.snapshot(), limits))
    assert fake.free_bytes >= 0
    if kind is TargetKind.IMAGE_SIZE and plan.need_bytes > 0:
        # drop_caches knows no amount: where there is nothing better, what it takes it takes whole
        whole = sum(
            memory
            for step in plan.steps
            if step.backend is BackendName.DROPCACHES
            for memory in (cache_before if step.stage is Stage.CACHE else slab_before,)
        )
        assert fake.saveable_bytes >= plan.goal_bytes - whole - 0.05 * fake.total_bytes
    assert all(step.kind in Kind for step in plan.steps)
    assert run.last is not None or not plan.steps


def test_the_wait_for_what_proves_cold_ends_with_its_time() -> None:
    """Nothing is known when it begins: agings, ten seconds apart, would tell."""
    for most, gone in ((5.0, False), (40.0, True)):
        fake = machine()
        harness = Harness(fake, Limits(cold_wait_seconds=most, stages=(Stage.COLD_ANON,)))
        run = harness.run(harness.plan(Target(TargetKind.MIN)))
        (step,) = run.steps
        assert step.waited_seconds <= most
        assert (run.freed.anon_bytes > 2000 * MIB) is gone
        if not gone:
            assert step.reason == "there is no more time to wait for what proves cold"
            assert step.ending is Ending.DONE


def test_a_wait_that_the_runs_own_time_cuts_off_is_not_begun() -> None:
    for most, gone in ((8.0, False), (40.0, True)):
        fake = machine()
        harness = Harness(fake, Limits(stages=(Stage.COLD_ANON,)))
        harness.stop.within(most)
        begin = fake.now
        run = harness.run(harness.plan(Target(TargetKind.MIN)))
        (step,) = run.steps
        assert (run.freed.anon_bytes > 2000 * MIB) is gone
        if not gone:
            assert step.ending is Ending.DONE
            assert fake.now - begin < 2.0


def test_without_time_to_wait_the_rest_goes_at_once() -> None:
    fake = machine()
    harness = Harness(fake, Limits(cold_wait_seconds=0.0))
    plan = harness.plan(Target(TargetKind.SIZE, size_bytes=2 * GIB))
    assert not any(step.waits for step in plan.steps if step.stage is Stage.COLD_ANON)
    run = harness.run(plan)
    assert fake.saveable_bytes <= plan.goal_bytes
    assert all(step.waited_seconds == 0 for step in run.steps)
