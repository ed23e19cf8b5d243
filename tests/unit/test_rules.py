# SPDX-License-Identifier: LGPL-2.1-or-later
"""The rules for cgroups: what they come to, and whole runs on machines that react."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hibprep import plan as planning
from hibprep import prepare as engine
from hibprep import session
from hibprep.amount import for_reclaim
from hibprep.config import Config
from hibprep.errors import HibprepError, KernelFileMissing
from hibprep.kernel.root import KernelRoot
from hibprep.machine import Machine
from hibprep.model import (
    MACHINE,
    BackendName,
    Capability,
    Ending,
    Kind,
    Label,
    Limits,
    Plan,
    Rates,
    Rules,
    Scope,
    ScopeKind,
    Snapshot,
    Stage,
    Step,
    Target,
    TargetKind,
)
from hibprep.reclaim.base import Budget, Status
from hibprep.reclaim.executor import Run
from hibprep.reclaim.madvise import Madvise
from hibprep.rules import covers, is_spared, reach, rules_for, scope_memory
from tests.fakes.harness import FakeClock, FakeStop, FakeWorker, Harness
from tests.fakes.machine import FakeMachine, FakeRoot
from tests.fakes.random_machines import random_machine
from tests.fakes.state import GIB, MIB, AnonSet, FakeCgroup, FakeSwap

RESUME = "254:16"
DATABASE = "/system.slice/database.service"
INDEXER = "/system.slice/indexer.service"
BROWSER = "/user.slice/user-1000.slice/app.slice/browser.scope"
EDITOR = "/user.slice/user-1000.slice/app.slice/editor.scope"
KERNELS = [(6, 1), (6, 12), (6, 18), (7, 3)]
ALL = Target(TargetKind.MIN)


@dataclass(frozen=True)
class Given:
    """Rules as the configuration would have them."""

    protect: tuple[str, ...] = ()
    cache_only: tuple[str, ...] = ()
    cold_only: tuple[str, ...] = ()
    first: tuple[str, ...] = ()


def group(path: str) -> FakeCgroup:
    return FakeCgroup(
        path,
        anon=[AnonSet(150 * MIB, idle_seconds=5000), AnonSet(50 * MIB, hot=True)],
        file_bytes=60 * MIB,
        dirty_bytes=5 * MIB,
        mapped_bytes=20 * MIB,
        slab_bytes=10 * MIB,
        pids=[1000 + len(path)],
    )


def machine(kernel: tuple[int, int] = (6, 12), *extra: FakeCgroup, version: int = 2) -> FakeMachine:
    return FakeMachine(
        total_bytes=4 * GIB,
        kernel=kernel,
        cgroup_version=version,
        cgroups=[*(group(path) for path in (DATABASE, INDEXER, BROWSER, EDITOR)), *extra],
        swaps=[FakeSwap("/dev/vdb", 8 * GIB, device=RESUME)],
        resume_device=RESUME,
        bytes_per_second=100e6,
    )


def ruled(harness: Harness, given_rules: Given, scope: Scope = MACHINE) -> Snapshot:
    rules = rules_for(given_rules, scope, harness.tree, "no cgroup v2 here")
    return replace(harness.snapshot(), rules=rules)


def plan_of(harness: Harness, given_rules: Given, target: Target = ALL) -> Plan:
    snapshot = ruled(harness, given_rules)
    return planning.make(snapshot, harness.capabilities(), target, harness.limits, Rates())


def run(harness: Harness, given_rules: Given, target: Target = ALL) -> Run:
    return harness.run(plan_of(harness, given_rules, target))


def held(fake: FakeMachine, path: str) -> int:
    return fake.current_bytes(path)


def resident(fake: FakeMachine, path: str) -> list[int]:
    return [each.size_bytes for each in fake.cgroup(path).anon]


def names(plan_limits: Plan) -> set[str]:
    return {limit.name for limit in plan_limits.limits}


def named_in_eviction(fake: FakeMachine) -> set[str]:
    """The cgroups that were named when something was to be taken, with all that this covers."""
    found: set[str] = set()
    by_id = {str(each.memcg_id): each.path for each in fake.by_path.values()}
    for path, text in fake.writes:
        if path.endswith("/memory.reclaim") and text.split()[0] != "0":
            top = path.removeprefix("/sys/fs/cgroup").removesuffix("/memory.reclaim") or "/"
            found |= {each for each in fake.by_path if covers(top, each)}
        if path == "/sys/kernel/debug/lru_gen" and text.startswith("-"):
            found.add(by_id[text.split()[1]])
        if path == "/proc/sys/vm/drop_caches" or (path.endswith("/reclaim") and "/node" in path):
            found |= set(fake.by_path)
    return found


def settings_written(fake: FakeMachine) -> list[str]:
    files = ("memory.min", "memory.low", "memory.swap.max", "memory.high", "memory.max")
    return [path for path, _ in fake.writes if path.endswith(files)]


# --- what may be named ----------------------------------------------------------------------------


class Drawn:
    """A tree of names, each with a figure of its own."""

    def __init__(self, paths: set[str], closed: set[str]) -> None:
        self.paths, self.closed = paths, closed
        self.own = {path: 1 << number for number, path in enumerate(sorted(paths))}

    def exists(self, path: str) -> bool:
        return path in self.paths

    def children(self, path: str) -> list[str]:
        depth = 1 if path == "/" else path.count("/") + 1
        return sorted(
            each for each in self.paths - {"/"} if covers(path, each) and each.count("/") == depth
        )

    def validate(self, path: str) -> str:
        if path not in self.paths or path in self.closed:
            raise KernelFileMissing(path, "is not there, or has no memory controller")
        return path

    def stat(self, path: str) -> dict[str, int]:
        if path not in self.paths:
            raise KernelFileMissing(path, "is gone")
        total = sum(size for each, size in self.own.items() if covers(path, each))
        return {
            "active_anon": total // 2,
            "inactive_anon": total - total // 2,
            "active_file": total,
            "inactive_file": total,
            "file_mapped": total,
        }

    def label(self, path: str) -> Label | None:  # noqa: ARG002 - there are none
        return None


@st.composite
def paths(draw: st.DrawFn) -> str:
    return "/" + "/".join(draw(st.lists(st.sampled_from("ab"), min_size=1, max_size=4)))


@st.composite
def trees(draw: st.DrawFn) -> Drawn:
    found = {"/"}
    for path in draw(st.sets(paths(), max_size=8)):
        names = path.split("/")
        found |= {"/".join(names[:depth]) for depth in range(2, len(names) + 1)}
    closed = draw(st.sets(st.sampled_from(sorted(found)), max_size=2)) - {"/"}
    return Drawn(found, closed)


@given(trees(), st.lists(paths(), max_size=3), st.just("/") | paths())
def test_reach_is_all_that_is_beside_what_is_spared(
    tree: Drawn, spared: list[str], scope: str
) -> None:
    found = reach(scope, spared, tree)
    there = [each for each in spared if tree.exists(each)]
    for path in found:
        assert covers(scope, path)
        assert not any(covers(path, each) or covers(each, path) for each in there)
        assert not any(covers(path, other) for other in found if other != path)
    if not tree.exists(scope):
        return
    for path in tree.paths:
        if not covers(scope, path):
            continue
        above_spared = any(covers(path, each) for each in there)
        assert is_spared(path, found) != (above_spared or is_spared(path, there))


@given(
    trees(),
    st.builds(
        Given,
        protect=st.lists(paths(), max_size=2).map(tuple),
        cache_only=st.lists(paths(), max_size=2).map(tuple),
        cold_only=st.lists(paths(), max_size=2).map(tuple),
        first=st.lists(paths(), max_size=2).map(tuple),
    ),
    st.sampled_from([MACHINE, Scope(ScopeKind.CGROUP, "/a"), Scope(ScopeKind.CGROUP, "/a/b")]),
)
def test_rules_of_any_tree(tree: Drawn, wanted: Given, scope: Scope) -> None:
    if not tree.exists(scope.path):
        return
    rules = rules_for(wanted, scope, tree, "")
    whole = tree.stat(scope.path)
    for kept in (rules.cache, rules.cold, rules.anon):
        assert 0 <= kept.anon_bytes <= whole["active_anon"] + whole["inactive_anon"]
        assert (
            0
            <= kept.mapped_bytes
            <= kept.file_bytes
            <= whole["active_file"] + whole["inactive_file"]
        )
        assert all(covers(scope.path, path) for path in kept.paths)
    assert rules.cache.anon_bytes <= rules.anon.anon_bytes
    assert rules.cold.anon_bytes <= rules.anon.anon_bytes
    for path in wanted.protect:
        if tree.exists(path) and path not in tree.closed and scope is MACHINE:
            for stage in set(Stage) - {Stage.SYNC}:
                assert is_spared(path, rules.of(stage).paths)
    for first in rules.first:
        assert covers(scope.path, first.path)
        assert not is_spared(first.path, rules.cache.paths)
        assert first.rules.anon.anon_bytes <= first.memory.anon_bytes
    for note in rules.notes:
        assert note.text.isprintable()


def test_without_rules_there_is_nothing_to_tell() -> None:
    tree = Harness(machine()).tree
    assert rules_for(Given(), MACHINE, tree, "") == Rules()
    assert rules_for(Given(protect=("/a",)), Scope(ScopeKind.PROCESS, pid=7), tree, "") == Rules()


def test_rules_need_cgroup_v2_and_say_so() -> None:
    harness = Harness(machine(version=1))
    plan = plan_of(harness, Given(protect=(DATABASE,)))
    (note,) = [limit for limit in plan.limits if limit.name == "rules"]
    assert "need cgroup v2 with the memory controller" in note.text
    assert "no cgroup v2 here" in note.text
    assert plan.steps
    assert not any(step.spared for step in plan.steps)


@pytest.mark.parametrize("name", ["/nowhere.slice", "/a/../b", "/a\nb"])
def test_a_rule_for_what_is_not_there_is_told(name: str) -> None:
    harness = Harness(machine())
    plan = plan_of(harness, Given(protect=(name,), first=(name,)))
    assert {"rule-protect", "rule-first"} <= names(plan)
    assert {step.scope for step in plan.steps} == {MACHINE}
    # nothing of it is there: nothing is left out for it
    assert Stage.SLAB in {step.stage for step in plan.steps}
    run(harness, Given(protect=(name,)))
    assert held(harness.machine, DATABASE) < 60 * MIB


def test_a_cgroup_without_memory_controller_is_kept_with_the_one_that_has_its_memory() -> None:
    tree = Drawn({"/", "/a", "/a/b", "/a/b/c", "/d"}, closed={"/a/b/c"})
    rules = rules_for(Given(protect=("/a/b/c",)), MACHINE, tree, "")
    assert rules.cache.paths == ("/a/b",)
    assert any("holds for /a/b" in note.text for note in rules.notes)
    within = rules_for(Given(protect=("/a/b/c",)), Scope(ScopeKind.CGROUP, "/a/b"), tree, "")
    assert within.cache.paths == ()


@pytest.mark.parametrize("rule", ["protect", "cache_only", "cold_only"])
def test_who_asks_for_a_cgroup_by_name_gets_it_and_is_told(rule: str) -> None:
    harness = Harness(machine())
    wanted = Given(**{rule: (DATABASE, "/user.slice")})
    for scope in (DATABASE, BROWSER):
        rules = rules_for(wanted, Scope(ScopeKind.CGROUP, scope), harness.tree, "")
        (note,) = rules.notes
        assert note.name == "asked-by-name"
        assert scope in note.text
        assert f"cgroups.{rule}" in note.text
        assert not rules.anon.paths
    above = rules_for(wanted, Scope(ScopeKind.CGROUP, "/system.slice"), harness.tree, "")
    assert above.anon.paths == (DATABASE,)


# --- whole runs -----------------------------------------------------------------------------------


@pytest.mark.parametrize("kernel", KERNELS)
def test_a_protected_cgroup_keeps_all(kernel: tuple[int, int]) -> None:
    fake = machine(kernel)
    before = held(fake, DATABASE), resident(fake, DATABASE)
    harness = Harness(fake)
    plan = plan_of(harness, Given(protect=(DATABASE,)))
    assert {"rule-protect", "stage-slab"} <= names(plan)
    assert Stage.SLAB not in {step.stage for step in plan.steps}
    harness.run(plan)
    assert (held(fake, DATABASE), resident(fake, DATABASE)) == before
    assert DATABASE not in named_in_eviction(fake)
    for other in (INDEXER, BROWSER, EDITOR):
        assert resident(fake, other)[0] == 0
        assert fake.cgroup(other).file_bytes < 10 * MIB
    assert settings_written(fake) == []


def test_a_slice_is_protected_with_all_below_it() -> None:
    fake = machine()
    before = held(fake, "/user.slice")
    run(Harness(fake), Given(protect=("/user.slice",)))
    assert held(fake, "/user.slice") == before
    assert resident(fake, INDEXER)[0] == 0


def test_what_a_protected_cgroup_gets_meanwhile_stays_too() -> None:
    fake = machine()
    harness = Harness(fake)
    grown = 0

    def grow(path: str, text: str) -> None:
        nonlocal grown
        if grown < 200 * MIB:
            fake.cgroup(DATABASE).anon[0].size_bytes += MIB
            grown += MIB

    harness.worker.before_write = grow
    run(harness, Given(protect=(DATABASE,)))
    assert grown > 10 * MIB
    assert resident(fake, DATABASE) == [150 * MIB + grown, 50 * MIB]


@pytest.mark.parametrize("kernel", KERNELS)
def test_of_a_cache_only_cgroup_nothing_goes_to_swap(kernel: tuple[int, int]) -> None:
    fake = machine(kernel)
    plan = plan_of(Harness(fake), Given(cache_only=(BROWSER,)))
    assert "rule-cache_only" in names(plan)
    harness = Harness(fake)
    harness.run(plan)
    assert resident(fake, BROWSER) == [150 * MIB, 50 * MIB]
    assert fake.cgroup(BROWSER).swapped_bytes == 0
    assert fake.cgroup(BROWSER).file_bytes < 10 * MIB
    assert resident(fake, EDITOR)[0] == 0
    assert settings_written(fake) == []


@pytest.mark.parametrize("kernel", KERNELS)
def test_of_a_cold_only_cgroup_the_warm_stays(kernel: tuple[int, int]) -> None:
    fake = machine(kernel)
    fake.cgroup(BROWSER).anon[1].hot = False  # not used meanwhile, and yet not proven cold
    fake.cgroup(BROWSER).anon[1].last_used = fake.now + 1e6
    harness = Harness(fake)
    plan = plan_of(harness, Given(cold_only=(BROWSER,)))
    assert "rule-cold_only" in names(plan)
    harness.run(plan)
    assert resident(fake, BROWSER) == [0, 50 * MIB]
    assert fake.cgroup(BROWSER).anon[1].swapped_bytes == 0


def test_without_generations_nothing_of_a_cold_only_cgroup_proves_cold() -> None:
    fake = machine()
    fake.lru_gen = None
    fake._list_files()
    run(Harness(fake), Given(cold_only=(BROWSER,)))
    assert resident(fake, BROWSER) == [150 * MIB, 50 * MIB]
    assert resident(fake, EDITOR)[0] == 0


@pytest.mark.parametrize("kernel", KERNELS)
def test_the_first_go_before_all_others(kernel: tuple[int, int]) -> None:
    fake = machine(kernel)
    harness = Harness(fake)
    wanted = Given(first=(INDEXER, BROWSER))
    plan = plan_of(harness, wanted)
    order = [step.scope.path for step in plan.steps if step.stage is not Stage.SYNC]
    assert list(dict.fromkeys(order)) == [INDEXER, BROWSER, "/"]
    assert plan.steps[0].stage is Stage.SYNC
    inner = [step.stage for step in plan.steps if step.scope.path == INDEXER]
    assert inner == [Stage.CACHE, Stage.COLD_ANON, Stage.ANON]
    # less has to go than the first one has
    others = [held(fake, path) for path in (DATABASE, BROWSER, EDITOR)]
    harness.limits = Limits(stages=(Stage.CACHE, Stage.COLD_ANON, Stage.ANON))
    enough = Target(TargetKind.SIZE, size_bytes=fake.saveable_bytes - 20 * MIB)
    plan = plan_of(harness, wanted, enough)
    harness.run(plan)
    assert [held(fake, path) for path in (DATABASE, BROWSER, EDITOR)] == others
    assert fake.saveable_bytes <= plan.goal_bytes + MIB


def test_the_amounts_do_not_count_on_what_the_rules_keep() -> None:
    harness = Harness(machine())
    free = {step.stage: step.amount_bytes for step in plan_of(harness, Given()).steps}
    wanted = Given(protect=(DATABASE,), cache_only=(INDEXER,), cold_only=(BROWSER,))
    plan = plan_of(harness, wanted)
    kept = {step.stage: step.amount_bytes for step in plan.steps}
    assert kept[Stage.CACHE] == free[Stage.CACHE] - 85 * MIB
    assert kept[Stage.COLD_ANON] == free[Stage.COLD_ANON] - 400 * MIB
    assert kept[Stage.ANON] == free[Stage.ANON] - 600 * MIB
    assert plan.irreducible["kept by the rules for cgroups"] == 485 * MIB
    assert plan.after.saveable_bytes > plan_of(harness, Given()).after.saveable_bytes


def test_what_cannot_be_named_is_told() -> None:
    fake = machine((6, 12), FakeCgroup("/system.slice", file_bytes=100 * MIB))
    harness = Harness(fake)
    plan = plan_of(harness, Given(protect=(DATABASE,)))
    (note,) = [limit for limit in plan.limits if limit.name == "rule-beside"]
    assert note.bytes == 100 * MIB
    harness.run(plan)
    assert fake.cgroup("/system.slice").file_bytes == 100 * MIB


def test_memory_min_and_low_of_the_neighbours_are_heeded() -> None:
    fake = machine()
    fake.cgroup(INDEXER).min_bytes = 290 * MIB
    fake.cgroup("/user.slice").low_bytes = 500 * MIB
    harness = Harness(fake, Limits(stages=(Stage.CACHE, Stage.ANON)))
    run(harness, Given(protect=(DATABASE,)))
    assert held(fake, INDEXER) == 290 * MIB
    assert held(fake, "/user.slice") == 500 * MIB


def test_everyone_loses_in_proportion_to_what_he_has() -> None:
    fake = machine((6, 12), FakeCgroup("/large.slice", file_bytes=600 * MIB))
    harness = Harness(fake)
    wanted = step(Kind.FILE, harness, Given(protect=(DATABASE,)))
    asked = harness.backends[BackendName.MEMCG].run(
        replace(wanted, amount_bytes=GIB), Budget(300 * MIB, 1e9), harness.stop
    )
    assert asked.status is Status.OK
    assert 0 < fake.cgroup("/large.slice").file_bytes < 600 * MIB


def test_a_chunk_ends_with_its_time() -> None:
    fake = machine()
    harness = Harness(fake)
    wanted = step(Kind.FILE, harness, Given(protect=(DATABASE,)))
    backend = harness.backends[BackendName.MEMCG]
    before = fake.free_bytes
    backend.run(wanted, Budget(GIB, 0.1), harness.stop)
    # one request takes longer here: no second one follows it
    assert len(harness.worker.requests) == 1
    assert fake.free_bytes > before
    outcomes = [backend.run(wanted, Budget(GIB, 0.1), harness.stop) for _ in range(20)]
    assert outcomes[-1].status is Status.EXHAUSTED
    assert "rules" in outcomes[-1].note
    assert len(harness.worker.requests) < 20


def step(kind: Kind, harness: Harness, given_rules: Given) -> Step:
    rules = rules_for(given_rules, MACHINE, harness.tree, "")
    stage = Stage.CACHE if kind is Kind.FILE else Stage.ANON
    return Step(
        stage=stage,
        kind=kind,
        scope=MACHINE,
        amount_bytes=4 * GIB,
        backend=BackendName.MEMCG,
        spared=rules.of(stage).paths,
    )


def test_writeback_that_is_under_way_is_waited_for() -> None:
    fake = machine((6, 1))
    fake.lru_gen = None
    fake.swap_delay_seconds = 0.3
    fake._list_files()
    run(Harness(fake), Given(protect=(DATABASE,)))
    assert resident(fake, DATABASE) == [150 * MIB, 50 * MIB]
    for other in (INDEXER, BROWSER, EDITOR):
        assert resident(fake, other)[0] == 0


def test_a_cgroup_that_ends_meanwhile_is_no_reason_to_stop() -> None:
    fake = machine()
    harness = Harness(fake)
    writes = 0

    def end(path: str, text: str) -> None:
        nonlocal writes
        writes += 1
        if writes == 4:
            fake.remove_cgroup(INDEXER)

    harness.worker.before_write = end
    run(harness, Given(protect=(DATABASE,)))
    assert held(fake, DATABASE) == 295 * MIB
    assert resident(fake, EDITOR)[0] == 0


@pytest.mark.parametrize("left", [BackendName.DROPCACHES, BackendName.NODE])
def test_what_knows_no_cgroups_is_not_used_beside_protected_ones(left: BackendName) -> None:
    harness = Harness(machine((6, 18)))
    alone = {left: Capability(left, available=True, reason="there", since="1.0")}
    for wanted, barred in ((Given(protect=(DATABASE,)), True), (Given(first=(DATABASE,)), False)):
        snapshot = ruled(harness, wanted)
        plan = planning.make(snapshot, alone, ALL, Limits(), Rates())
        assert (Stage.CACHE not in {each.stage for each in plan.steps}) == barred
        told = [each.text for each in plan.limits if f"{left} knows no cgroups" in each.text]
        assert bool(told) == barred
    # cache may be taken of these
    plan = planning.make(ruled(harness, Given(cache_only=(EDITOR,))), alone, ALL, Limits(), Rates())
    assert {each.stage for each in plan.steps} >= {Stage.CACHE}
    assert Stage.ANON not in {each.stage for each in plan.steps}


def test_madvise_leaves_the_processes_of_kept_cgroups_alone() -> None:
    fake = machine()
    harness = Harness(fake)
    backend = Madvise(harness.root, harness.tree, harness.worker, frozenset())
    wanted = replace(
        step(Kind.ANON, harness, Given(protect=(DATABASE,), cache_only=("/user.slice",))),
        backend=BackendName.MADVISE,
    )
    while backend.run(wanted, Budget(GIB, 1.0), harness.stop).status is Status.OK:
        pass
    assert resident(fake, DATABASE) == [150 * MIB, 50 * MIB]
    assert resident(fake, EDITOR) == [150 * MIB, 50 * MIB]
    assert resident(fake, INDEXER) != [150 * MIB, 50 * MIB]
    # another step begins anew
    other = replace(wanted, spared=())
    assert backend.run(other, Budget(GIB, 1.0), harness.stop).status is Status.OK


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.integers(min_value=0, max_value=2**32), st.data())
def test_on_any_machine_what_is_kept_is_kept(seed: int, data: st.DataObject) -> None:
    fake = random_machine(Random(seed))  # noqa: S311 - to be found again by its seed
    kept = st.lists(st.sampled_from(sorted(set(fake.by_path) - {"/"}) or ["/x"]), max_size=2)
    wanted = Given(
        protect=tuple(data.draw(kept)),
        cache_only=tuple(data.draw(kept)),
        first=tuple(data.draw(kept)),
    )
    harness = Harness(fake)
    before = {path: held(fake, path) for path in wanted.protect}
    anon = {path: [resident(fake, each.path) for each in fake.subtree(path)]
            for path in (*wanted.protect, *wanted.cache_only)}  # fmt: skip
    run(harness, wanted)
    if harness.tree is None:
        return
    assert {path: held(fake, path) for path in wanted.protect} == before
    for path, sizes in anon.items():
        assert [resident(fake, each.path) for each in fake.subtree(path)] == sizes
    touched = named_in_eviction(fake)
    for path in wanted.protect:
        if held(fake, path):
            assert not touched & {each for each in fake.by_path if covers(path, each)}
    assert settings_written(fake) == []


# --- amounts --------------------------------------------------------------------------------------


def reclaim_plans(harness: Harness, given_rules: Given, **more: object) -> list[Plan]:
    arguments: dict[str, object] = {
        "kind": Kind.ANY, "amount_bytes": 100 * MIB, "min_age_seconds": 0.0,
        "limits": harness.limits, "rates": Rates(),
    }  # fmt: skip
    call: Callable[..., list[Plan]] = for_reclaim
    return call(ruled(harness, given_rules), harness.capabilities(), **{**arguments, **more})


def test_an_amount_is_asked_of_the_first_first() -> None:
    harness = Harness(machine())
    plans = reclaim_plans(harness, Given(first=(BROWSER,), protect=(DATABASE,)))
    asked = [(each.scope.path, each.stage, each.spared) for plan in plans for each in plan.steps]
    assert asked == [
        (BROWSER, Stage.CACHE, ()),
        (BROWSER, Stage.ANON, ()),
        ("/", Stage.CACHE, (DATABASE,)),
        ("/", Stage.ANON, (DATABASE,)),
    ]


@pytest.mark.parametrize(("age", "spared"), [(0.0, True), (5.0, True), (10.0, False)])
def test_what_is_old_enough_may_be_taken_of_the_cold_only(age: float, spared: bool) -> None:  # noqa: FBT001
    harness = Harness(machine())
    (plan,) = reclaim_plans(
        harness, Given(cold_only=(BROWSER,)), kind=Kind.ANON, min_age_seconds=age
    )
    (only,) = plan.steps
    assert (only.spared == (BROWSER,)) == spared


def test_slab_is_not_dropped_beside_a_protected_cgroup() -> None:
    harness = Harness(machine())
    (plan,) = reclaim_plans(harness, Given(protect=(DATABASE,)), kind=Kind.SLAB)
    assert not plan.steps
    assert "dropcaches knows no cgroups" in " ".join(limit.text for limit in plan.limits)


# --- through the engine ---------------------------------------------------------------------------


@dataclass
class Bench:
    """The engine on a fake machine, with its journal, its lock and its history on a disk."""

    fake: FakeMachine
    root: FakeRoot
    worker: FakeWorker
    stop: FakeStop

    def machine(self, **rules: list[str]) -> Machine:
        harness = Harness(self.fake)
        config = Config.model_validate({"cgroups": rules})
        return Machine(self.root, config, FakeClock(self.fake), harness.tree, "no v2")


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    fake = machine((6, 1))
    root = FakeRoot(fake, tmp_path)
    worker = FakeWorker(root, fake)
    monkeypatch.setattr(session, "ProcessWorker", lambda *_: worker)
    return Bench(fake, root, worker, FakeStop(fake))


def test_the_engine_keeps_the_rules_and_puts_everything_back(bench: Bench) -> None:
    held_before = bench.machine(protect=[DATABASE], cache_only=[BROWSER], first=[INDEXER])
    plan = engine.make_plan(held_before, ALL, Limits())
    swappiness = bench.fake.swappiness
    report = engine.prepare(held_before, plan, stop=bench.stop, limits=Limits())
    assert held(bench.fake, DATABASE) == 295 * MIB
    assert resident(bench.fake, BROWSER) == [150 * MIB, 50 * MIB]
    assert resident(bench.fake, INDEXER)[0] == 0
    assert {"rule-protect", "rule-cache_only"} <= {limit.name for limit in report.limits}
    assert bench.fake.swappiness == swappiness
    assert settings_written(bench.fake) == []
    assert not list(KernelRoot(str(bench.root.prefix)).path("/run/hibprep").glob("knobs-*"))


def test_a_stop_leaves_nothing_changed(bench: Bench) -> None:
    ruled_machine = bench.machine(protect=[DATABASE], cold_only=[BROWSER])
    swappiness = bench.fake.swappiness
    writes = 0

    def stop(path: str, text: str) -> None:
        nonlocal writes
        writes += 1
        if writes == 12:
            bench.stop.request("somebody is back")

    bench.worker.before_write = stop
    plan = engine.make_plan(ruled_machine, ALL, Limits())
    report = engine.prepare(ruled_machine, plan, stop=bench.stop, limits=Limits())
    assert report.ending is Ending.INTERRUPTED
    assert held(bench.fake, DATABASE) == 295 * MIB
    assert bench.fake.swappiness == swappiness
    assert settings_written(bench.fake) == []


def test_an_amount_is_an_amount_over_all_steps(bench: Bench) -> None:
    ruled_machine = bench.machine(first=[INDEXER], protect=[DATABASE])
    plan = engine.make_plan(ruled_machine, ALL, Limits())
    before = held(bench.fake, "/user.slice")
    report = engine.run_plan(
        ruled_machine, [plan], Limits(), bench.stop, timeout_seconds=None, progress=None,
        command="run", amount_bytes=30 * MIB,
    )  # fmt: skip
    assert 30 * MIB <= report.freed.reclaimed_bytes < 45 * MIB
    assert held(bench.fake, "/user.slice") == before


def test_reclaim_by_name_goes_before_the_rule(bench: Bench) -> None:
    ruled_machine = bench.machine(protect=[DATABASE])
    report = engine.reclaim(
        ruled_machine, 50 * MIB, Scope(ScopeKind.CGROUP, DATABASE), Kind.FILE, stop=bench.stop
    )
    assert report.freed.file_bytes >= 50 * MIB
    assert "asked-by-name" in {limit.name for limit in report.limits}
    whole = engine.reclaim(ruled_machine, None, MACHINE, Kind.FILE, stop=bench.stop)
    assert "rule-protect" in {limit.name for limit in whole.limits}


def test_a_tree_that_fails_is_told_and_not_raised() -> None:
    class Broken(Drawn):
        def stat(self, path: str) -> dict[str, int]:
            raise HibprepError(f"no figures of {path}")

    tree = Broken({"/", "/a", "/b"}, set())
    rules = rules_for(Given(protect=("/a",), first=("/b",)), MACHINE, tree, "")
    assert rules.cache.paths == ("/a",)
    assert [first.path for first in rules.first] == ["/b"]


def test_what_is_mlocked_is_not_among_what_a_cgroup_keeps_from_reclaim() -> None:
    """As a daemon that has locked itself shows it: it is not on the LRU of the machine either."""
    found = scope_memory(
        {
            "anon": 34 * MIB, "file": 9 * MIB, "shmem": 0, "unevictable": 40 * MIB,
            "inactive_anon": MIB, "active_anon": 0, "inactive_file": 2 * MIB, "active_file": 0,
        }
    )  # fmt: skip
    assert (found.anon_bytes, found.file_bytes) == (MIB, 2 * MIB)
