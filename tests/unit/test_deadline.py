# SPDX-License-Identifier: LGPL-2.1-or-later
"""What is promised by a deadline, against a small machine of its own that lives through it with
speeds that are a little other than was believed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from hibprep import fitting, predict
from hibprep import plan as planning
from hibprep.deadline import MARGIN, Verdict, settle
from hibprep.model import (
    BackendName,
    Capability,
    Generation,
    GenerationList,
    Limits,
    Memory,
    Plan,
    Power,
    Rates,
    Snapshot,
    Stage,
    SwapArea,
    Target,
    TargetKind,
    Zone,
)
from tests.unit.strategies import GIB, MIB, PAGE, RATES, pages, saveable_bytes, snapshots
from tests.unit.test_plan import ALL, CAPABILITIES, LIMITS, able

LAZY = able(*(set(BackendName) - {BackendName.LRUGEN, BackendName.COLDPGS}))  # knows no ages
SPEEDS = (
    "disk_write_bytes_per_second",
    "compress_bytes_per_second",
    "shrink_bytes_per_second",
    "copy_bytes_per_second",
    "swap_out_bytes_per_second",
    "drop_bytes_per_second",
)
FIXED = ("fixed_hibernate_seconds", "fixed_prepare_seconds")


def machine(
    total: int = 8 * GIB,
    *,
    anon: float = 0.5,
    cache: float = 0.2,
    slab: float = 0.02,
    dirty: int = 0,
    swap: float = 2.0,
    image_size: float = 0.4,
    cold_seconds: float = 0.0,
) -> Snapshot:
    """Parts of memory; of what is in use a quarter is active, a fifth of the cache is mapped. With
    `cold_seconds` half of anonymous memory is known to have been idle for so long."""

    def part(share: float) -> int:
        return int(total * share) // PAGE * PAGE

    kernel = part(0.02)
    free = total - part(anon) - part(cache) - part(slab) - kernel
    generations: tuple[GenerationList, ...] = ()
    if cold_seconds:
        half = pages(part(anon)) // 2
        ages = ((cold_seconds + 1, half), (cold_seconds, 0), (1.0, half), (0.0, 0))
        generations = (
            GenerationList(
                memcg_id=1,
                path="/user.slice",
                node=0,
                generations=tuple(
                    Generation(sequence=index, age_seconds=age, anon_pages=count, file_pages=0)
                    for index, (age, count) in enumerate(ages)
                ),
            ),
        )
    return Snapshot(
        page_size=PAGE,
        memory=Memory(
            total_bytes=total,
            free_bytes=free,
            active_anon_bytes=part(anon / 4),
            inactive_anon_bytes=part(anon) - part(anon / 4),
            active_file_bytes=part(cache / 4),
            inactive_file_bytes=part(cache) - part(cache / 4),
            mapped_bytes=part(cache / 5),
            dirty_bytes=dirty,
            slab_reclaimable_bytes=part(slab),
            slab_unreclaimable_bytes=kernel,
        ),
        zones=(
            Zone(
                node=0,
                name="Normal",
                present_pages=pages(total),
                managed_pages=pages(total),
                spanned_pages=pages(total),
                free_pages=pages(free),
                high_pages=pages(total) // 200,
            ),
        ),
        swaps=(
            SwapArea(
                path="/dev/vdb",
                is_file=False,
                size_bytes=part(swap),
                used_bytes=0,
                priority=-2,
                device="254:16",
            ),
        ),
        power=Power(
            available=True,
            image_size_bytes=part(image_size),
            reserved_size_bytes=MIB,
            resume_device="254:16",
        ),
        generations=generations,
        lru_gen_enabled=True,
    )


@st.composite
def machines(draw: st.DrawFn) -> Snapshot:
    total = draw(st.sampled_from([GIB // 2, GIB, 2 * GIB, 8 * GIB, 32 * GIB, 128 * GIB, 512 * GIB]))
    anon = draw(st.floats(0.02, 0.8))
    cache = draw(st.floats(0.01, 0.9 - anon))
    return machine(
        total,
        anon=anon,
        cache=cache,
        slab=draw(st.floats(0, 0.05)),
        dirty=draw(st.sampled_from([0, 0, 1])) * int(total * cache * 0.3) // PAGE * PAGE,
        swap=draw(st.sampled_from([0.3, 0.6, 1.0, 2.0])),
        image_size=draw(st.sampled_from([0.0, 0.2, 0.4, 0.4, 1.0])),
        cold_seconds=draw(st.sampled_from([0.0, 0.0, 15.0, 900.0])),
    )


# speeds from an old laptop's to a large server's
SWEPT = st.builds(
    Rates,
    disk_write_bytes_per_second=st.floats(20e6, 3e9),
    compress_bytes_per_second=st.floats(50e6, 5e9),
    shrink_bytes_per_second=st.floats(20e6, 2e9),
    copy_bytes_per_second=st.floats(0.3e9, 1e10),
    swap_out_bytes_per_second=st.floats(20e6, 3e9),
    drop_bytes_per_second=st.floats(0.1e9, 1e10),
    compression_ratio=st.floats(0.2, 0.9),
    fixed_hibernate_seconds=st.floats(0.5, 10),
    fixed_prepare_seconds=st.floats(0.1, 3),
)
SECONDS = st.floats(0.5, 1800)


def by(
    snapshot: Snapshot, seconds: float, rates: Rates | None = None, *, keep: float = 0.0
) -> Verdict:
    return settle(
        snapshot, rates or Rates(), Limits(), ALL,
        seconds=seconds, keep_seconds=keep, hibernates=True,
    )  # fmt: skip


# --- a machine that lives through it --------------------------------------------------------------


@dataclass(frozen=True)
class Lived:
    """What happened."""

    prepare_seconds: float
    hibernate_seconds: float
    gone_bytes: int

    @property
    def total_seconds(self) -> float:
        return self.prepare_seconds + self.hibernate_seconds


def live(
    snapshot: Snapshot, plan: Plan | None, rates: Rates, budget: float, *, waits: float = 0.0
) -> Lived:
    """Go through the steps one by one with these speeds, as the executor does: each until it has
    its amount or the goal is reached, none for longer than the budget; then hibernate. `waits` are
    spent before what has to prove cold goes, and half of it does."""
    saveable, spent = saveable_bytes(snapshot), 0.0
    dirty = snapshot.memory.dirty_bytes
    anon_left = snapshot.memory.anon_lru_bytes
    clean_left = snapshot.memory.file_lru_bytes + snapshot.memory.slab_reclaimable_bytes

    def take(amount: float, speed: float) -> float:
        nonlocal spent
        amount = min(amount, max(0.0, budget - spent) * speed)
        spent += amount / speed
        return amount

    if plan is not None:
        take(rates.fixed_prepare_seconds, 1.0)
        for step in plan.steps:
            wanted = float(min(step.amount_bytes, max(0, saveable - step.goal_bytes)))
            if step.stage is Stage.SYNC:
                dirty -= int(take(dirty, rates.disk_write_bytes_per_second))
            elif step.stage in (Stage.CACHE, Stage.SLAB):
                # what is dirty does not go
                gone = take(min(wanted, clean_left - dirty), rates.drop_bytes_per_second)
                clean_left -= int(gone)
                saveable -= int(gone)
            else:
                if step.waits and step.stage is Stage.COLD_ANON:
                    take(waits, 1.0)
                    wanted /= 2
                speed = min(rates.swap_out_bytes_per_second, rates.disk_write_bytes_per_second)
                gone = take(min(wanted, anon_left), speed)
                anon_left -= int(gone)
                saveable -= int(gone)
    guess = predict.predict(snapshot, rates, saveable_bytes=saveable, dirty_bytes=dirty)
    gone_bytes = saveable_bytes(snapshot) - saveable
    return Lived(spent, guess.hibernate_seconds, gone_bytes)


def plan_of(snapshot: Snapshot, verdict: Verdict) -> Plan | None:
    if verdict.target is None:
        return None
    return planning.make(snapshot, ALL, verdict.target, verdict.limits, Rates())


def lived(snapshot: Snapshot, verdict: Verdict, rates: Rates, *, patience: float = 1.0) -> Lived:
    waits = patience * (verdict.limits.cold_wait_seconds or 0.0)
    plan = plan_of(snapshot, verdict)
    return live(snapshot, plan, rates, verdict.prepare_seconds, waits=waits)


def noisy(rates: Rates, noise: list[float]) -> Rates:
    """Every speed and every fixed time by so much more or less."""
    names = (*SPEEDS, *FIXED)
    changes = {
        name: getattr(rates, name) * factor for name, factor in zip(names, noise, strict=True)
    }
    return replace(rates, **changes)


NOISE = st.lists(st.floats(0.9, 1.1), min_size=8, max_size=8)


@settings(max_examples=600, deadline=None)
@given(
    snapshot=machines(), rates=SWEPT, times=st.tuples(SECONDS, st.sampled_from([0.0, 0.0, 20.0])),
    noise=NOISE, patience=st.floats(0, 1),
)  # fmt: skip
def test_what_is_promised_happens(
    snapshot: Snapshot,
    rates: Rates,
    times: tuple[float, float],
    noise: list[float],
    patience: float,
) -> None:
    seconds, keep = times
    verdict = by(snapshot, seconds, rates, keep=keep)
    happened = lived(snapshot, verdict, noisy(rates, noise), patience=patience)
    left = max(0.0, seconds - keep)
    assert happened.prepare_seconds <= left + 1e-6
    if verdict.fits or verdict.target is None:
        assert happened.total_seconds <= verdict.total_seconds * MARGIN + 1e-3
    if verdict.fits:
        assert happened.total_seconds <= left + 1e-3
        assert verdict.total_seconds * MARGIN <= left + 1e-3
    if verdict.target is None:
        assert verdict.prepare_bytes == 0
        assert verdict.prepare_seconds == 0
        assert verdict.hibernate_seconds_after == verdict.hibernate_seconds_now


@settings(max_examples=150, deadline=None)
@given(snapshot=machines(), rates=SWEPT, seconds=SECONDS)
def test_with_the_speeds_believed_in_it_comes_as_told(
    snapshot: Snapshot, rates: Rates, seconds: float
) -> None:
    verdict = by(snapshot, seconds, rates)
    happened = lived(snapshot, verdict, rates)
    assert happened.total_seconds == pytest.approx(verdict.total_seconds, rel=0.03, abs=0.1)
    assert happened.gone_bytes == pytest.approx(
        verdict.prepare_bytes, rel=0.02, abs=snapshot.memory.total_bytes / 200
    )


def ways(snapshot: Snapshot) -> list[Plan]:
    """Preparing less or more, page cache alone or all, in small portions."""
    now = saveable_bytes(snapshot)
    cheap = (Stage.SYNC, Stage.CACHE, Stage.SLAB)
    return [
        planning.make(
            snapshot,
            ALL,
            Target(TargetKind.SIZE, size_bytes=max(PAGE, now * part // 12)),
            Limits(stages=stages, cold_wait_seconds=0.0),
            Rates(),
        )
        for stages in (cheap, tuple(Stage))
        for part in range(12)
    ]


@settings(max_examples=60, deadline=None)
@given(snapshot=machines(), rates=SWEPT, seconds=st.floats(2, 300))
def test_nothing_that_fits_is_overlooked_and_no_more_is_taken_than_has_to_be(
    snapshot: Snapshot, rates: Rates, seconds: float
) -> None:
    verdict = by(snapshot, seconds, rates)
    speed = min(rates.swap_out_bytes_per_second, rates.disk_write_bytes_per_second)
    headroom = planning.headroom_bytes(snapshot)
    slack = headroom / speed + 0.01 * seconds  # the kernel's own goal is not split any further
    kernels = predict.target_pages(snapshot) * PAGE - headroom
    for plan in ways(snapshot):
        if not plan.fit_after.ok:
            continue
        other = live(snapshot, plan, rates, seconds)
        ends = other.prepare_seconds < seconds and other.total_seconds + slack <= seconds / MARGIN
        if not verdict.fits:
            assert not ends, (verdict.words, other, plan.goal_bytes)
        elif verdict.limits.cold_wait_seconds == 0 and kernels >= plan.after.saveable_bytes:
            less = verdict.prepare_bytes - other.gone_bytes
            assert not ends or less <= snapshot.memory.total_bytes / 30 + 2 * headroom, (
                verdict.words,
                other,
            )


@settings(max_examples=150, deadline=None)
@given(snapshot=machines(), rates=SWEPT, seconds=SECONDS, factor=st.floats(1, 5))
def test_more_time_is_never_worse(
    snapshot: Snapshot, rates: Rates, seconds: float, factor: float
) -> None:
    short, long = by(snapshot, seconds, rates), by(snapshot, seconds * factor, rates)
    if short.fits:
        assert long.fits
        if short.limits.cold_wait_seconds == long.limits.cold_wait_seconds:
            slack = snapshot.memory.total_bytes / 100 + planning.headroom_bytes(snapshot)
            assert long.prepare_bytes <= short.prepare_bytes + slack
    elif not long.fits and "refused" not in short.words + long.words:
        assert long.total_seconds <= short.total_seconds * (1 + 1e-6) + 1e-3


@settings(max_examples=150, deadline=None)
@given(
    snapshot=machines(), rates=SWEPT, seconds=SECONDS, factor=st.floats(1, 5),
    name=st.sampled_from(SPEEDS),
)  # fmt: skip
def test_a_faster_machine_is_never_worse(
    snapshot: Snapshot, rates: Rates, seconds: float, factor: float, name: str
) -> None:
    faster = replace(rates, **{name: getattr(rates, name) * factor})
    slow, fast = by(snapshot, seconds, rates), by(snapshot, seconds, faster)
    assert fast.fits or not slow.fits
    if not fast.fits and "refused" not in slow.words + fast.words:
        assert fast.total_seconds <= slow.total_seconds * (1 + 1e-6) + 1e-3


@settings(max_examples=150, deadline=None)
@given(snapshot=machines(), rates=SWEPT)
def test_nothing_is_prepared_where_it_fits_as_it_is(snapshot: Snapshot, rates: Rates) -> None:
    assume(fitting.fit(snapshot, Limits()).ok)
    needs = predict.predict(snapshot, rates).hibernate_seconds
    verdict = by(snapshot, needs * MARGIN * 1.001, rates)
    assert verdict.fits
    assert verdict.target is None
    assert verdict.words.endswith("nothing has to be prepared")


@settings(deadline=None)
@given(snapshot=snapshots(), rates=RATES, found=CAPABILITIES, limits=LIMITS, seconds=SECONDS)
def test_on_any_machine_it_is_no_worse_than_nothing_and_over_in_time(
    snapshot: Snapshot,
    rates: Rates,
    found: dict[BackendName, Capability],
    limits: Limits,
    seconds: float,
) -> None:
    verdict = settle(snapshot, rates, limits, found, seconds=seconds, hibernates=True)
    assert verdict.words
    assert verdict.expected_seconds * MARGIN <= seconds + 1e-6
    assert verdict.prepare_seconds <= seconds
    assert verdict.prepare_seconds >= verdict.expected_seconds
    assert verdict.limits.stages == limits.stages or set(verdict.limits.stages) < set(limits.stages)
    if fitting.fit(snapshot, limits).ok:
        assert verdict.total_seconds <= verdict.hibernate_seconds_now + 1e-6 or verdict.fits
    if not snapshot.power.available:
        assert verdict.target is None
        assert not verdict.fits
    if verdict.target is not None:
        plan = planning.make(snapshot, found, verdict.target, verdict.limits, rates)
        assert plan.steps
        if verdict.fits:
            assert plan.after.saveable_bytes == pytest.approx(
                saveable_bytes(snapshot) - verdict.prepare_bytes,
                abs=planning.headroom_bytes(snapshot) + 8 * PAGE,
            )


@settings(max_examples=50, deadline=None)
@given(snapshot=machines(), rates=SWEPT, seconds=SECONDS, keep=st.floats(0, 100))
def test_what_is_kept_for_others_is_not_there(
    snapshot: Snapshot, rates: Rates, seconds: float, keep: float
) -> None:
    kept = by(snapshot, seconds + keep, rates, keep=keep)
    alone = by(snapshot, seconds, rates)
    assert kept.left_seconds == pytest.approx(seconds)
    assert kept.prepare_seconds == pytest.approx(alone.prepare_seconds, rel=1e-3, abs=1e-3)


@settings(max_examples=150, deadline=None)
@given(snapshot=machines(), rates=SWEPT, part=st.floats(0.2, 1.5))
def test_what_is_slower_than_believed_goes_on_while_it_may_pay_and_no_longer(
    snapshot: Snapshot, rates: Rates, part: float
) -> None:
    seconds = part * MARGIN * predict.predict(snapshot, rates).hibernate_seconds
    verdict = by(snapshot, seconds, rates)
    if not verdict.fits or verdict.target is None:
        return
    spared = verdict.hibernate_seconds_now - verdict.hibernate_seconds_after
    promised = seconds - MARGIN * verdict.hibernate_seconds_after
    assert verdict.prepare_seconds >= min(seconds, spared / 2) - 1e-6
    assert verdict.prepare_seconds <= max(promised, spared / 2) + 1e-6


# --- without a hibernation ------------------------------------------------------------------------


@settings(deadline=None)
@given(snapshot=machines(), rates=SWEPT, seconds=SECONDS, noise=NOISE)
def test_without_a_hibernation_what_is_in_use_stays(
    snapshot: Snapshot, rates: Rates, seconds: float, noise: list[float]
) -> None:
    verdict = settle(snapshot, rates, Limits(), ALL, seconds=seconds, hibernates=False)
    assert verdict.hibernate_seconds_now == verdict.hibernate_seconds_after == 0
    assert verdict.expected_seconds * MARGIN <= seconds + 1e-6
    assert Stage.ANON not in verdict.limits.stages or verdict.target is None
    happened = lived(snapshot, verdict, noisy(rates, noise))
    assert happened.prepare_seconds <= seconds + 1e-6
    if verdict.fits and not verdict.limits.cold_wait_seconds:
        assert happened.gone_bytes == pytest.approx(
            verdict.prepare_bytes, rel=0.02, abs=snapshot.memory.total_bytes / 200
        )


def test_without_a_hibernation_the_words_say_how_far_it_gets() -> None:
    def words(seconds: float, **changes: float) -> str:
        snapshot = machine(**changes)  # type: ignore[arg-type]
        limits = Limits(cold_age_seconds=1000.0)
        return settle(
            snapshot, Rates(), limits, ALL, seconds=seconds, keep_seconds=5, hibernates=False
        ).words

    assert words(65, cold_seconds=2000.0) == (
        "60 s are left beside 5.0 s for what follows: preparing 3.7 GB without touching what is in "
        "use takes 24 s"
    )
    assert words(15, cold_seconds=2000.0).startswith("CANNOT BE MET: 10 s are left beside 5.0 s")
    assert words(5) == "0.0 s are left beside 5.0 s for what follows: nothing is prepared"


# --- examples -------------------------------------------------------------------------------------


def test_the_words(golden: Callable[[str, str], None]) -> None:
    slow = Rates(shrink_bytes_per_second=40e6)
    lines = []
    for name, snapshot in (
        ("full", machine(anon=0.7, cache=0.1)),
        ("cache", machine(anon=0.1, cache=0.6)),
        ("quiet", machine(anon=0.1, cache=0.05)),
        ("dirty", machine(anon=0.1, cache=0.4, dirty=2 * GIB)),
        ("no room", machine(anon=0.7, cache=0.2, swap=0.1)),
    ):
        for seconds in (10.0, 15.0, 30.0, 60.0, 120.0, 900.0):
            verdict = by(snapshot, seconds, slow, keep=5.0 if seconds == 60 else 0.0)
            lines.append(f"{name}, {seconds:g} s: {verdict.words}\n")
    golden("deadline.txt", "".join(lines))


def test_a_machine_that_cannot_hibernate_is_not_prepared_for_it() -> None:
    snapshot = replace(
        machine(), power=Power(available=False, disabled_by=("nohibernate is on the command line",))
    )
    verdict = by(snapshot, 60.0)
    assert not verdict.fits
    assert verdict.target is None
    assert verdict.words == (
        "CANNOT BE MET: hibernation would be refused: nohibernate is on the command line"
    )


def test_a_hibernation_that_would_be_refused_is_prepared_for_whatever_the_time() -> None:
    """systemd refuses with more active memory than room; a second area takes it away."""
    snapshot = machine(anon=0.7, cache=0.1, swap=0.15)
    other = SwapArea(
        path="/dev/vdc", is_file=False, size_bytes=16 * GIB, used_bytes=0, priority=5,
        device="254:32",
    )  # fmt: skip
    snapshot = replace(snapshot, swaps=(*snapshot.swaps, other))
    assert not fitting.fit(snapshot, Limits()).ok
    verdict = by(snapshot, 1000.0)
    assert verdict.fits
    assert verdict.target is not None
    assert verdict.words.startswith("hibernation would be refused as it is (")


def test_page_cache_alone_goes_where_that_is_enough() -> None:
    snapshot = machine(anon=0.1, cache=0.6)
    needs = predict.predict(snapshot, Rates()).hibernate_seconds
    verdict = by(snapshot, needs * 0.7)
    assert verdict.fits
    plan = plan_of(snapshot, verdict)
    assert plan is not None
    assert {step.stage for step in plan.steps} <= {Stage.SYNC, Stage.CACHE, Stage.SLAB}


def anon_steps(verdict: Verdict, snapshot: Snapshot) -> list[tuple[Stage, bool]]:
    plan = plan_of(snapshot, verdict)
    assert plan is not None
    return [
        (step.stage, step.waits)
        for step in plan.steps
        if step.stage in (Stage.COLD_ANON, Stage.ANON)
    ]


def test_what_is_known_to_be_cold_goes_and_nobody_waits() -> None:
    snapshot = machine(anon=0.7, cache=0.05, cold_seconds=900.0, image_size=0.4)
    rates = Rates(shrink_bytes_per_second=20e6)
    verdict = by(snapshot, 100.0, rates)
    assert verdict.fits
    assert verdict.limits.cold_wait_seconds == 0
    assert anon_steps(verdict, snapshot)[0] == (Stage.COLD_ANON, False)
    assert (Stage.COLD_ANON, True) not in anon_steps(verdict, snapshot)


@pytest.mark.parametrize(("seconds", "waits"), [(90.0, False), (200.0, True)])
def test_it_is_found_out_what_is_cold_where_there_is_time_for_it(
    seconds: float, *, waits: bool
) -> None:
    snapshot = machine(anon=0.7, cache=0.05)
    rates = Rates(shrink_bytes_per_second=10e6)
    verdict = by(snapshot, seconds, rates)
    assert verdict.fits, verdict.words
    assert (verdict.limits.cold_wait_seconds == 50.0) is waits
    assert ((Stage.COLD_ANON, True) in anon_steps(verdict, snapshot)) is waits
    # and where nobody knows ages, nobody waits for them
    plain = settle(snapshot, rates, Limits(), LAZY, seconds=seconds, hibernates=True)
    assert plain.limits.cold_wait_seconds == 0
