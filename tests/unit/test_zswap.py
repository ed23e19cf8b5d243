# SPDX-License-Identifier: LGPL-2.1-or-later
"""What becomes of zswap: decided by table and on random trees, and done on machines that react."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hibprep import plan as planning
from hibprep import prepare as engine
from hibprep import session, zswap
from hibprep.amount import for_reclaim
from hibprep.config import Config
from hibprep.kernel.cgroup import find_cgroup2
from hibprep.kernel.cgrouplook import read_zswap
from hibprep.kernel.knobs import KnobJournal
from hibprep.machine import Machine
from hibprep.model import (
    MACHINE,
    BackendName,
    Kind,
    KnobChange,
    Limits,
    Memory,
    Plan,
    Rates,
    Scope,
    ScopeKind,
    Snapshot,
    Stage,
    Step,
    Target,
    TargetKind,
    ZswapCgroup,
    ZswapUse,
)
from hibprep.rules import covers
from hibprep.stepknobs import StepKnobs
from tests.fakes.harness import FakeClock, FakeStop, Harness
from tests.fakes.machine import FakeMachine, FakeRoot
from tests.fakes.state import GIB, MIB, PAGE, AnonSet, FakeCgroup, FakeSwap
from tests.fakes.texts import CGROUPS

from .examples import SNAPSHOT

RESUME = "254:16"
ENABLED = "/sys/module/zswap/parameters/enabled"
BROWSER = "/user.slice/browser.scope"
DATABASE = "/system.slice/database.service"
ALL = Target(TargetKind.MIN)


def machine(**changes: object) -> FakeMachine:
    def group(path: str) -> FakeCgroup:
        return FakeCgroup(
            path,
            anon=[AnonSet(600 * MIB, idle_seconds=5000), AnonSet(200 * MIB, idle_seconds=1)],
            file_bytes=50 * MIB,
        )

    fake = FakeMachine(
        total_bytes=4 * GIB,
        cgroups=[group(BROWSER), group(DATABASE)],
        swaps=[FakeSwap("/dev/vdb", 8 * GIB, device=RESUME)],
        resume_device=RESUME,
        zswap=True,
    )
    for name, value in changes.items():
        setattr(fake, name, value)
    return fake


def snapshot_of(harness: Harness) -> Snapshot:
    assert harness.tree is not None
    return replace(harness.snapshot(), zswap_cgroups=read_zswap(harness.tree))


def step(stage: Stage, age: float = 0.0, backend: BackendName = BackendName.MEMCG) -> Step:
    return Step(
        stage=stage,
        kind=Kind.ANON if stage in (Stage.ANON, Stage.COLD_ANON) else Kind.FILE,
        scope=MACHINE,
        amount_bytes=MIB,
        backend=backend,
        min_age_seconds=age,
    )


COLD, REST = step(Stage.COLD_ANON, 10.0), step(Stage.ANON)


def group(path: str, *, writeback: bool = True) -> ZswapCgroup:
    max_file = f"{CGROUPS}{path}/memory.zswap.max"
    return ZswapCgroup(path=path, max_file=max_file, writeback=writeback)


def with_zswap(*groups: ZswapCgroup) -> Snapshot:
    return replace(SNAPSHOT, zswap_enabled=True, zswap_cgroups=groups)


def changed(snapshot: Snapshot, limits: Limits, *steps: Step) -> dict[str, str]:
    return {each.path: each.value for each in zswap.changes(snapshot, steps, limits)}


# --- what is decided ------------------------------------------------------------------------------


def test_the_whole_machine_is_kept_away_by_the_switch() -> None:
    snapshot = with_zswap(group("/a"), group("/b"))
    assert changed(snapshot, Limits(), COLD, REST) == {ENABLED: "N"}
    assert changed(with_zswap(), Limits(), REST) == {ENABLED: "N"}


def test_one_cgroup_is_kept_away_by_its_own_limit() -> None:
    snapshot = with_zswap(group("/a"), group("/a/b"), group("/c"))
    limits = Limits(scope=Scope(ScopeKind.CGROUP, "/a"))
    assert changed(snapshot, limits, REST) == {f"{CGROUPS}/a/memory.zswap.max": "0"}
    old = Limits(scope=Scope(ScopeKind.CGROUP, "/elsewhere"))  # a kernel before 5.19
    assert changed(snapshot, old, REST) == {ENABLED: "N"}


def test_who_may_not_write_to_a_disk_is_not_overruled() -> None:
    snapshot = with_zswap(
        group("/a"), group("/a/b", writeback=False), group("/a/c"), group("/a/c/d"), group("/e")
    )
    assert changed(snapshot, Limits(), REST) == {
        f"{CGROUPS}/a/c/memory.zswap.max": "0",
        f"{CGROUPS}/e/memory.zswap.max": "0",
    }
    assert [each.name for each in zswap.notes(snapshot, Limits())] == ["memory.zswap.writeback"]
    assert zswap.notes(snapshot, Limits(scope=Scope(ScopeKind.CGROUP, "/e"))) == ()


@pytest.mark.parametrize(
    ("use", "steps", "expected"),
    [
        (ZswapUse.AVOID, (COLD, REST), ()),
        (ZswapUse.LESS_COLD, (COLD, REST), (Stage.COLD_ANON,)),
        (ZswapUse.LESS_COLD, (COLD,), ()),
        (ZswapUse.LESS_COLD, (REST,), None),
        (ZswapUse.LESS_COLD, (step(Stage.ANON, 600.0),), ()),
        (ZswapUse.LESS_COLD, (step(Stage.ANON, 5.0),), None),
        (ZswapUse.LEAVE, (COLD, REST), None),
        (ZswapUse.AVOID, (step(Stage.CACHE),), None),
        (ZswapUse.AVOID, (step(Stage.COLD_ANON, 10.0, BackendName.COLDPGS),), None),
    ],
)
def test_which_steps_go_to_the_disk(
    use: ZswapUse, steps: tuple[Step, ...], expected: tuple[Stage, ...] | None
) -> None:
    found = zswap.changes(with_zswap(), steps, Limits(zswap=use))
    assert [each.stages for each in found] == ([] if expected is None else [expected])
    assert zswap.changes(SNAPSHOT, steps, Limits(zswap=use)) == ()  # where it is off


@st.composite
def forests(draw: st.DrawFn) -> tuple[ZswapCgroup, ...]:
    paths = st.lists(st.sampled_from("ab"), min_size=1, max_size=4).map(lambda p: "/" + "/".join(p))
    found: dict[str, bool] = {}
    for path in draw(st.lists(paths, max_size=12)):
        steps = path.strip("/").split("/")
        found |= {"/" + "/".join(steps[: n + 1]): True for n in range(len(steps))}
    off = draw(st.sets(st.sampled_from(sorted(found)))) if found else set()
    return tuple(
        group(path, writeback=not any(covers(each, path) for each in off)) for path in sorted(found)
    )


@given(forests(), st.sampled_from(["/", "/a", "/a/b", "/b"]))
def test_every_cgroup_is_kept_away_once_and_none_is_overruled(
    groups: tuple[ZswapCgroup, ...], top: str
) -> None:
    scope = MACHINE if top == "/" else Scope(ScopeKind.CGROUP, top)
    limits = Limits(scope=scope)
    found = changed(with_zswap(*groups), limits, REST)
    bound = [each for each in groups if not each.writeback]
    if ENABLED in found:
        assert found == {ENABLED: "N"}
        assert not bound
        return
    at = [each.path for each in groups if each.max_file in found]
    assert len(at) == len(found)
    for each in groups:
        by = [path for path in at if covers(path, each.path)]
        if not covers(top, each.path):
            assert top == "/" or not by or bound  # nothing beside the scope without need
            continue
        near = any(covers(b.path, each.path) or covers(each.path, b.path) for b in bound)
        if scope is MACHINE or any(each.path == top for each in groups):
            assert len(by) == (0 if near else 1)
        assert not (by and not each.writeback)


@given(
    st.integers(0, 4 * GIB),
    st.integers(0, 4 * GIB),
    st.sampled_from(ZswapUse),
    st.integers(0, GIB),
    st.integers(0, 4 * GIB),
)
def test_amounts_count_what_stays_in_the_pool(
    cold: int, rest: int, use: ZswapUse, pool: int, pooled: int
) -> None:
    memory = Memory(
        total_bytes=8 * GIB, free_bytes=0, zswap_bytes=min(pool, pooled), zswapped_bytes=pooled
    )
    snapshot = replace(with_zswap(), memory=memory)
    limits = Limits(zswap=use)
    stays = zswap.stays_bytes(snapshot, limits, cold_bytes=cold, anon_bytes=rest)
    assert 0 <= stays <= 0.9 * (cold + rest) + 1
    if use is ZswapUse.AVOID:
        assert stays == 0
    wanted = zswap.wanted_bytes(snapshot, limits, Stage.ANON, rest)
    freed = wanted - zswap.stays_bytes(snapshot, limits, cold_bytes=0, anon_bytes=wanted)
    assert abs(freed - rest) <= 10


# --- what comes of it -----------------------------------------------------------------------------


def run(fake: FakeMachine, use: ZswapUse, target: Target = ALL) -> tuple[Plan, FakeMachine]:
    harness = Harness(fake, Limits(zswap=use))
    snapshot = snapshot_of(harness)
    plan = planning.make(snapshot, harness.capabilities(), target, harness.limits, Rates())
    harness.run(plan)
    return plan, fake


def pooled(fake: FakeMachine, path: str) -> list[int]:
    return [each.zswapped_bytes for each in fake.cgroup(path).anon]


def swapped(fake: FakeMachine, path: str) -> list[int]:
    return [each.swapped_bytes for each in fake.cgroup(path).anon]


def test_nothing_goes_into_the_pool() -> None:
    _, fake = run(machine(), ZswapUse.AVOID)
    assert fake.zswapped_bytes == 0
    assert sum(swapped(fake, BROWSER)) > 700 * MIB


def test_left_alone_it_takes_all_and_the_plan_knows() -> None:
    plan, fake = run(machine(), ZswapUse.LEAVE)
    assert fake.zswapped_bytes == fake.swap_used_bytes > 0
    assert "zswap" in {limit.name for limit in plan.limits}
    avoided, _ = run(machine(), ZswapUse.AVOID)
    assert plan.after.saveable_bytes > avoided.after.saveable_bytes + 400 * MIB


def test_the_cold_goes_to_the_disk_and_the_less_cold_into_the_pool() -> None:
    fake = machine()
    for path in (BROWSER, DATABASE):
        fake.cgroup(path).anon[1].hot = True
    plan, _ = run(fake, ZswapUse.LESS_COLD)
    assert [each.stages for each in plan.knobs if "zswap" in each.path] == [(Stage.COLD_ANON,)]
    for path in (BROWSER, DATABASE):
        cold, _ = fake.cgroup(path).anon
        assert (cold.zswapped_bytes, cold.size_bytes) == (0, 0)
    # what was in use went into the pool, and came back out of it
    assert fake.events["zswpout"] > 0
    assert fake.events["pswpout"] * PAGE == 1200 * MIB


def test_a_cgroup_that_may_not_write_to_a_disk_does_not() -> None:
    fake = machine()
    fake.cgroup(DATABASE).zswap_writeback = False
    run(fake, ZswapUse.AVOID)
    assert pooled(fake, DATABASE) == swapped(fake, DATABASE)
    assert sum(pooled(fake, BROWSER)) == 0
    assert sum(swapped(fake, BROWSER)) > 700 * MIB
    assert fake.zswap


def test_an_amount_of_what_is_old_enough_goes_to_the_disk() -> None:
    harness = Harness(machine(), Limits(zswap=ZswapUse.LESS_COLD))
    for age, expected in ((600.0, True), (2.0, False)):
        plans = for_reclaim(
            snapshot_of(harness),
            harness.capabilities(),
            kind=Kind.ANON,
            amount_bytes=MIB,
            min_age_seconds=age,
            limits=harness.limits,
            rates=Rates(),
        )
        assert any(each.path == ENABLED for plan in plans for each in plan.knobs) is expected


@settings(max_examples=25, deadline=None)
@given(
    st.sampled_from(ZswapUse),
    st.sets(st.sampled_from([BROWSER, DATABASE, "/user.slice", "/system.slice"])),
    st.sampled_from([(6, 1), (6, 12), (7, 3)]),
)
def test_on_any_machine_the_pool_holds_what_it_was_left_for(
    use: ZswapUse, off: set[str], kernel: tuple[int, int]
) -> None:
    fake = machine()
    fake.kernel = kernel
    for path in off:
        fake.cgroup(path).zswap_writeback = False
    fake._list_files()
    run(fake, use)
    for path in (BROWSER, DATABASE):
        bound = kernel >= (6, 8) and any(covers(each, path) for each in off)
        for anon in fake.cgroup(path).anon:
            if bound:
                assert anon.zswapped_bytes == anon.swapped_bytes
            elif use is ZswapUse.AVOID:
                assert anon.zswapped_bytes == 0


# --- settings for some steps ----------------------------------------------------------------------


def fake_journal(fake: FakeMachine, directory: Path) -> KnobJournal:
    return KnobJournal(FakeRoot(fake, directory))


def plan_with(*knobs: KnobChange) -> Plan:
    harness = Harness(machine())
    plan = harness.plan(ALL)
    return replace(plan, knobs=knobs)


def test_a_setting_for_some_stages_is_in_force_for_these_alone(tmp_path: Path) -> None:
    fake = machine()
    journal, words = fake_journal(fake, tmp_path), list[str]()
    change = KnobChange(path=ENABLED, value="N", reason="r", stages=(Stage.COLD_ANON,))
    entering = StepKnobs(plan_with(change), journal, words)
    seen = []
    for each in (Stage.CACHE, Stage.COLD_ANON, Stage.COLD_ANON, Stage.ANON, Stage.COLD_ANON):
        entering.enter(step(each))
        seen.append(fake.zswap)
    assert seen == [True, False, False, True, False]
    assert words == [f"{ENABLED} was set to N: r", f"{ENABLED} put back to Y"]
    assert journal.restore_all() == [f"{ENABLED} put back to Y"]
    assert fake.zswap is True
    assert not list((tmp_path / "run/hibprep").glob("knobs-*"))


def test_a_setting_that_cannot_be_changed_is_told_and_stops_nothing(tmp_path: Path) -> None:
    fake = machine()
    journal, words = fake_journal(fake, tmp_path), list[str]()
    change = KnobChange(path="/sys/nothing", value="0", reason="r", stages=(Stage.ANON,))
    entering = StepKnobs(plan_with(change), journal, words)
    entering.enter(REST)
    assert len(words) == 1
    assert "was left as it is" in words[0]


def test_a_whole_run_puts_everything_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = machine()
    fake.cgroup(DATABASE).zswap_writeback = False
    fake.cgroup(BROWSER).anon[1].hot = True
    root = FakeRoot(fake, tmp_path)
    tree = find_cgroup2(root).tree
    config = Config.model_validate({"reclaim": {"zswap": "less-cold"}})
    opened = Machine(root, config, FakeClock(fake), tree, "")
    harness = Harness(fake)
    monkeypatch.setattr(session, "ProcessWorker", lambda *_: harness.worker)
    plan = engine.make_plan(opened, ALL, config.limits())
    report = engine.prepare(opened, plan, stop=FakeStop(fake))
    assert "memory.zswap.writeback" in {each.name for each in report.limits}
    assert fake.cgroup("/user.slice").zswap_max == "max"
    told = [words for words in report.knobs if "memory.zswap.max" in words]
    file = f"{CGROUPS}/user.slice/memory.zswap.max"
    reason = "zswap would keep in memory, compressed, what is meant for the disk"
    assert told == [f"{file} was set to 0: {reason}", f"{file} put back to max"]
    cold, _ = fake.cgroup(BROWSER).anon
    assert (cold.zswapped_bytes, cold.size_bytes) == (0, 0)
