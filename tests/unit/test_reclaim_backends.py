# SPDX-License-Identifier: LGPL-2.1-or-later
"""Each back-end by itself on a fake kernel: what it writes, and what it makes of the answers."""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hibprep.kernel.lrugen import ENABLED_FILE
from hibprep.kernel.process import MAX_RANGES
from hibprep.kernel.root import KernelRoot
from hibprep.model import (
    MACHINE,
    BackendName,
    Capability,
    Kind,
    Limits,
    Scope,
    ScopeKind,
    Stage,
    Step,
    Target,
    TargetKind,
)
from hibprep.reclaim.base import Backend, Budget, Outcome, Status
from hibprep.reclaim.madvise import Madvise
from hibprep.reclaim.memcg import SWAPPINESS_FILE
from tests.fakes.commands import write_node_reclaim
from tests.fakes.harness import FakeWorker, Harness
from tests.fakes.machine import FakeMachine
from tests.fakes.state import GIB, MIB, PAGE, AnonSet, FakeCgroup, FakeSwap

RECLAIM = "/sys/fs/cgroup/memory.reclaim"
GENERATIONS = "/sys/kernel/debug/lru_gen"
APP = "/user.slice/app.service"
OTHER = "/system.slice/db.service"


def machine(kernel: tuple[int, int] = (6, 12), **changes: object) -> FakeMachine:
    """Two cgroups with anonymous memory of two ages and some cache each, and swap for all of it."""
    settings_: dict[str, object] = {
        "total_bytes": 4 * GIB,
        "kernel": kernel,
        "cgroups": [
            FakeCgroup(
                path,
                anon=[AnonSet(300 * MIB, idle_seconds=900), AnonSet(100 * MIB, hot=True)],
                file_bytes=100 * MIB,
                slab_bytes=20 * MIB,
                pids=[1000 + number],
            )
            for number, path in enumerate((APP, OTHER))
        ],
        "swaps": [FakeSwap("/dev/vdb", 8 * GIB, device="254:16")],
        "resume_device": "254:16",
    }
    return FakeMachine(**{**settings_, **changes})  # type: ignore[arg-type]


def step(
    kind: Kind,
    *,
    scope: Scope = MACHINE,
    age: float = 0.0,
    backend: BackendName = BackendName.MEMCG,
) -> Step:
    stage = {Kind.FILE: Stage.CACHE, Kind.SLAB: Stage.SLAB}.get(kind, Stage.ANON)
    return Step(
        stage=stage,
        kind=kind,
        scope=scope,
        amount_bytes=8 * GIB,
        backend=backend,
        min_age_seconds=age,
    )


def chunk(
    harness: Harness, name: BackendName, wanted: Step, amount_bytes: int = 64 * MIB
) -> Outcome:
    return harness.backends[name].run(wanted, Budget(amount_bytes, 0.1), harness.stop)


def finish(harness: Harness, backend: Backend, wanted: Step, rounds: int = 500) -> Outcome:
    """Chunk after chunk until it says that there is no more, waiting where it says so."""
    for _ in range(rounds):
        outcome = backend.run(wanted, Budget(64 * MIB, 0.1), harness.stop)
        if outcome.status is Status.WAIT:
            harness.stop.wait(outcome.wait_seconds)
        elif outcome.status not in (Status.OK, Status.AGAIN):
            return outcome
    raise AssertionError("it never ends")


def cgroup(path: str) -> Scope:
    return Scope(ScopeKind.CGROUP, path)


# --- all of them --------------------------------------------------------------------------------

KERNELS = [(5, 10), (6, 1), (6, 12), (6, 18), (7, 3)]


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("version", [2, 1, 0])
def test_a_probe_changes_nothing(kernel: tuple[int, int], version: int) -> None:
    fake = machine(kernel, cgroup_version=version)
    harness = Harness(fake)
    state = {path: fake.read_file(path) for path in ("/proc/meminfo", "/proc/swaps")}
    knobs = fake.swappiness, fake.lru_gen, fake.zswap, fake.image_size_bytes
    found = harness.capabilities()
    assert {path: fake.read_file(path) for path in state} == state
    assert (fake.swappiness, fake.lru_gen, fake.zswap, fake.image_size_bytes) == knobs
    assert fake.events == {}
    assert all(text.split()[0] == "0" for _, text in fake.writes), fake.writes
    assert harness.worker.requests == []
    for name, capability in found.items():
        assert capability.backend is name
        assert capability.reason
        assert capability.since


@pytest.mark.parametrize(
    ("kernel", "version", "available"),
    [
        ((5, 10), 2, {BackendName.DROPCACHES}),
        ((6, 1), 2, {BackendName.DROPCACHES, BackendName.MEMCG, BackendName.LRUGEN}),
        ((6, 18), 1, {BackendName.DROPCACHES, BackendName.NODE, BackendName.LRUGEN}),
        ((6, 12), 0, {BackendName.DROPCACHES, BackendName.LRUGEN}),
    ],
)
def test_what_a_kernel_offers(
    kernel: tuple[int, int], version: int, available: set[BackendName]
) -> None:
    lru_gen = True if kernel >= (6, 1) else None
    found = Harness(machine(kernel, cgroup_version=version, lru_gen=lru_gen)).capabilities()
    assert {name for name, each in found.items() if each.available} == {
        BackendName.WRITEBACK,
        *available,
    }


@pytest.mark.parametrize("name", list(set(BackendName) - {BackendName.MADVISE}))
def test_a_raised_stop_flag_writes_nothing(name: BackendName) -> None:
    harness = Harness(machine((6, 18)))
    harness.capabilities()
    before = len(harness.machine.writes)
    harness.stop.request("Ctrl-C")
    kind = Kind.ANON if name is not BackendName.DROPCACHES else Kind.FILE
    assert chunk(harness, name, step(kind)).status is Status.STOPPED
    assert len(harness.machine.writes) == before


# --- memcg --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kernel", "kind", "text"),
    [
        ((6, 1), Kind.FILE, "67108864"),
        ((6, 1), Kind.ANON, "67108864"),
        ((6, 12), Kind.FILE, "67108864 swappiness=0"),
        ((6, 12), Kind.ANON, "67108864 swappiness=200"),
        ((6, 18), Kind.FILE, "67108864 swappiness=0"),
        ((6, 18), Kind.ANON, "67108864 swappiness=max"),
        ((6, 1), Kind.ANY, "67108864"),
        ((6, 18), Kind.ANY, "67108864"),
    ],
)
def test_memcg_says_the_kind_as_the_kernel_understands_it(
    kernel: tuple[int, int], kind: Kind, text: str
) -> None:
    harness = Harness(machine(kernel))
    assert chunk(harness, BackendName.MEMCG, step(kind)).status is Status.OK
    assert harness.worker.requests == [(RECLAIM, text)]


@pytest.mark.parametrize(
    ("kernel", "features"),
    [
        ((6, 1), {"vm-swappiness"}),
        ((6, 12), {"swappiness"}),
        ((6, 18), {"swappiness", "swappiness-max"}),
    ],
)
def test_memcg_finds_out_which_words_are_known(kernel: tuple[int, int], features: set[str]) -> None:
    assert Harness(machine(kernel)).backends[BackendName.MEMCG].probe().features == features


@pytest.mark.parametrize(("kind", "value"), [(Kind.FILE, "0"), (Kind.ANON, "200")])
def test_memcg_journals_vm_swappiness_where_that_is_the_only_way(kind: Kind, value: str) -> None:
    old = Harness(machine((6, 1), swappiness=60))
    chunk(old, BackendName.MEMCG, step(kind))
    assert old.knobs == {SWAPPINESS_FILE: "60"}  # the old value, to be put back
    assert str(old.machine.swappiness) == value
    new = Harness(machine((6, 12)))
    chunk(new, BackendName.MEMCG, step(kind))
    assert new.knobs == {}


@pytest.mark.parametrize("kernel", [(6, 1), (6, 12), (6, 18)])
def test_memcg_takes_the_kind_that_was_asked_for(kernel: tuple[int, int]) -> None:
    for kind in (Kind.FILE, Kind.ANON):
        harness = Harness(machine(kernel))
        chunk(harness, BackendName.MEMCG, step(kind))
        events = harness.machine.events
        taken, other = ("file", "anon") if kind is Kind.FILE else ("anon", "file")
        assert events.get(f"pgsteal_{taken}", 0) > 0
        assert events.get(f"pgsteal_{other}", 0) == 0


def test_memcg_takes_from_the_cgroup_named_alone() -> None:
    harness = Harness(machine())
    before = harness.machine.current_bytes(OTHER)
    wanted = step(Kind.ANON, scope=cgroup("/user.slice"))
    assert chunk(harness, BackendName.MEMCG, wanted).status is Status.OK
    path, _ = harness.worker.requests[0]
    assert path == "/sys/fs/cgroup/user.slice/memory.reclaim"
    assert harness.machine.current_bytes(OTHER) == before


@pytest.mark.parametrize(
    ("number", "status"),
    [
        (errno.EAGAIN, Status.AGAIN),
        (errno.EINTR, Status.AGAIN),
        (errno.ENOENT, Status.GONE),
        (errno.ENODEV, Status.GONE),
        (errno.EACCES, Status.FAILED),
        (errno.EINVAL, Status.FAILED),
    ],
)
def test_memcg_understands_the_answer(number: int, status: Status) -> None:
    harness = Harness(machine())

    def answer(path: str, text: str) -> None:
        def refuse(_: str) -> None:
            raise OSError(number, os.strerror(number))

        harness.machine.writers[path] = refuse

    harness.worker.before_write = answer
    outcome = chunk(harness, BackendName.MEMCG, step(Kind.ANON))
    assert outcome.status is status
    if status is Status.FAILED:
        assert os.strerror(number) in outcome.note
        assert RECLAIM in outcome.note


def test_memcg_tells_again_although_half_of_it_was_done() -> None:
    harness = Harness(machine(again_every=1))
    assert chunk(harness, BackendName.MEMCG, step(Kind.ANON)).status is Status.AGAIN
    assert harness.machine.events["pswpout"] * PAGE == 32 * MIB


def test_memcg_of_a_cgroup_that_has_vanished() -> None:
    harness = Harness(machine())
    harness.machine.remove_cgroup(APP)
    outcome = chunk(harness, BackendName.MEMCG, step(Kind.ANON, scope=cgroup(APP)))
    assert outcome.status is Status.GONE
    assert APP in outcome.note


def test_memcg_knows_no_processes() -> None:
    wanted = step(Kind.ANON, scope=Scope(ScopeKind.PROCESS, pid=1))
    assert chunk(Harness(machine()), BackendName.MEMCG, wanted).status is Status.FAILED


def test_memcg_says_why_not() -> None:
    old = Harness(machine((5, 10))).backends[BackendName.MEMCG].probe()
    v1 = Harness(machine((6, 12), cgroup_version=1)).backends[BackendName.MEMCG].probe()
    assert "5.19" in old.reason
    assert "unified_cgroup_hierarchy" in v1.reason


# --- lrugen -------------------------------------------------------------------------------------


def sizes(fake: FakeMachine, path: str) -> list[int]:
    return [each.size_bytes for each in fake.cgroup(path).anon]


def test_lrugen_takes_the_cold_and_leaves_the_warm() -> None:
    harness = Harness(machine())
    outcome = finish(harness, harness.backends[BackendName.LRUGEN], step(Kind.ANON, age=10.0))
    assert outcome.status is Status.EXHAUSTED
    for path in (APP, OTHER):
        cold, warm = sizes(harness.machine, path)
        assert cold == 0
        assert warm == 100 * MIB


def commands(harness: Harness, sign: str) -> list[list[str]]:
    return [
        text.split()
        for path, text in harness.worker.requests
        if path == GENERATIONS and text.startswith(sign)
    ]


def test_lrugen_ages_before_it_evicts_what_was_never_aged() -> None:
    harness = Harness(machine(generation_ages_seconds=(600.0, 600.0)))
    finish(harness, harness.backends[BackendName.LRUGEN], step(Kind.ANON, age=10.0))
    # with two generations there is none that may be evicted; each list is aged on its own
    for memcg in {words[1] for words in commands(harness, "-")}:
        own = [
            text[0]
            for path, text in harness.worker.requests
            if path == GENERATIONS and text.split()[1] == memcg
        ]
        assert own.index("-") >= 1


def test_lrugen_evicts_at_once_what_is_known_to_be_old() -> None:
    harness = Harness(machine(generation_ages_seconds=(900.0, 800.0, 700.0, 600.0)))
    outcome = chunk(harness, BackendName.LRUGEN, step(Kind.ANON, age=10.0))
    assert outcome.status is Status.OK
    ((sign, _memcg, node, sequence, swappiness, pages),) = [
        text.split() for _, text in harness.worker.requests
    ]
    assert (sign, node, swappiness) == ("-", "0", "200")
    assert int(sequence) <= 1  # never the two youngest
    assert int(pages) * PAGE == 64 * MIB


def test_lrugen_takes_no_more_than_the_chunk() -> None:
    harness = Harness(machine(generation_ages_seconds=(900.0, 800.0, 700.0, 600.0)))
    before = harness.machine.anon_bytes
    chunk(harness, BackendName.LRUGEN, step(Kind.ANON, age=10.0), amount_bytes=MIB)
    assert before - harness.machine.anon_bytes == MIB


def test_lrugen_primes_by_aging_and_takes_nothing() -> None:
    harness = Harness(machine())
    before = harness.machine.anon_bytes
    harness.backends[BackendName.LRUGEN].prime(step(Kind.ANON, age=10.0), harness.stop)
    assert commands(harness, "+")
    assert not commands(harness, "-")
    assert harness.machine.anon_bytes == before


def test_lrugen_waits_no_longer_than_the_age_it_has_to_prove() -> None:
    harness = Harness(machine())
    outcomes = []
    backend = harness.backends[BackendName.LRUGEN]
    for _ in range(200):
        outcome = backend.run(step(Kind.ANON, age=10.0), Budget(64 * MIB, 0.1), harness.stop)
        outcomes.append(outcome)
        if outcome.status is Status.EXHAUSTED:
            break
        harness.stop.wait(outcome.wait_seconds)
    waits = [each.wait_seconds for each in outcomes if each.status is Status.WAIT]
    assert max(waits) <= 10.0
    assert outcomes[-1].status is Status.EXHAUSTED


@dataclass
class Watch:
    """Looks at every set before and after each write: what left, and how long it had been idle."""

    harness: Harness
    least_idle_seconds: float = float("inf")

    def __post_init__(self) -> None:
        self._sizes: dict[int, int] = {}
        self._idle: dict[int, float] = {}
        self.harness.worker.before_write = lambda *_: self.look()

    def look(self) -> None:
        fake = self.harness.machine
        for group in fake.subtree("/"):
            for each in group.anon:
                was = self._sizes.get(id(each))
                if was is not None and each.size_bytes + each.in_flight_bytes < was:
                    self.least_idle_seconds = min(self.least_idle_seconds, self._idle[id(each)])
                self._sizes[id(each)] = each.size_bytes
                self._idle[id(each)] = fake.now - each.last_used


@settings(max_examples=80, deadline=None)
@given(
    idle=st.lists(st.floats(0, 200), min_size=1, max_size=6),
    hot=st.lists(st.booleans(), min_size=6, max_size=6),
    ages=st.lists(st.floats(0, 300), min_size=2, max_size=4),
    age=st.integers(10, 2000).map(lambda tenths: tenths / 10),
    kernel=st.sampled_from([(6, 1), (6, 12), (6, 18), (7, 3)]),
    primed=st.booleans(),
    was_on=st.booleans(),
)
def test_lrugen_never_takes_what_was_used_less_than_the_age_ago(
    *,
    idle: list[float],
    hot: list[bool],
    ages: list[float],
    age: float,
    kernel: tuple[int, int],
    primed: bool,
    was_on: bool,
) -> None:
    sets = [
        AnonSet(16 * MIB, idle_seconds=seconds, hot=is_hot)
        for seconds, is_hot in zip(idle, hot, strict=False)
    ]
    fake = machine(
        kernel,
        cgroups=[FakeCgroup(APP, anon=sets[::2]), FakeCgroup(OTHER, anon=sets[1::2])],
        generation_ages_seconds=tuple(sorted(ages, reverse=True)),
        bytes_per_second=50e6,
        lru_gen=was_on,
    )
    harness = Harness(fake)
    if not was_on:
        harness.set_knob(ENABLED_FILE, "y", "as a plan has it done")
    watch = Watch(harness)
    backend = harness.backends[BackendName.LRUGEN]
    wanted = step(Kind.ANON, age=age)
    if primed:
        backend.prime(wanted, harness.stop)
    outcome = finish(harness, backend, wanted)
    watch.look()
    assert outcome.status is Status.EXHAUSTED
    # the kernel tells ages in whole milliseconds
    assert watch.least_idle_seconds >= age - 0.001
    for each in sets:
        if was_on and not each.hot and each.idle_seconds > 300 + age:
            assert each.size_bytes == 0


def test_lrugen_leaves_what_memory_min_protects() -> None:
    fake = machine(
        generation_ages_seconds=(900.0, 800.0, 700.0, 600.0),
        cgroups=[
            FakeCgroup("/system.slice", min_bytes=200 * MIB),
            FakeCgroup(OTHER, anon=[AnonSet(300 * MIB, idle_seconds=5000)], min_bytes=200 * MIB),
        ],
    )
    harness = Harness(fake)
    finish(harness, harness.backends[BackendName.LRUGEN], step(Kind.ANON, age=10.0))
    assert sizes(fake, OTHER) == [200 * MIB]


@pytest.mark.parametrize(("limit_mib", "left_mib"), [(0, 300), (100, 200), (None, 0)])
def test_lrugen_heeds_memory_swap_max(limit_mib: int | None, left_mib: int) -> None:
    fake = machine(
        generation_ages_seconds=(900.0, 800.0, 700.0, 600.0),
        cgroups=[
            FakeCgroup(
                OTHER,
                anon=[AnonSet(300 * MIB, idle_seconds=5000)],
                swap_max_bytes=None if limit_mib is None else limit_mib * MIB,
            )
        ],
    )
    harness = Harness(fake)
    finish(harness, harness.backends[BackendName.LRUGEN], step(Kind.ANON, age=10.0))
    assert sizes(fake, OTHER) == [left_mib * MIB]


def test_lrugen_takes_from_the_subtree_named_alone() -> None:
    fake = machine()
    fake = machine(
        cgroups=[
            *fake.cgroups,
            FakeCgroup("/user.slice-look-alike", anon=[AnonSet(50 * MIB, idle_seconds=5000)]),
        ]
    )
    harness = Harness(fake)
    wanted = step(Kind.ANON, scope=cgroup("/user.slice"), age=10.0)
    finish(harness, harness.backends[BackendName.LRUGEN], wanted)
    assert sizes(fake, APP)[0] == 0
    assert sizes(fake, OTHER) == [300 * MIB, 100 * MIB]
    assert sizes(fake, "/user.slice-look-alike") == [50 * MIB]
    touched = {words[1] for words in commands(harness, "+") + commands(harness, "-")}
    assert touched == {str(fake.cgroup(APP).memcg_id)}


def test_lrugen_reads_again_when_the_generations_moved_on_meanwhile() -> None:
    fake = machine(generation_ages_seconds=(900.0, 800.0, 700.0, 600.0))
    harness = Harness(fake)
    raced: list[str] = []

    def another_ager(path: str, text: str) -> None:
        if not raced and text.startswith("-"):
            raced.append(text)
            fake.remove_cgroup(APP)  # its number is no longer known: EINVAL

    harness.worker.before_write = another_ager
    first = chunk(harness, BackendName.LRUGEN, step(Kind.ANON, scope=cgroup(APP), age=10.0))
    assert raced
    assert first.status is Status.AGAIN
    outcome = finish(
        harness,
        harness.backends[BackendName.LRUGEN],
        step(Kind.ANON, scope=cgroup(APP), age=10.0),
    )
    assert outcome.status is Status.EXHAUSTED


def test_lrugen_does_not_wait_for_a_list_that_cannot_be_aged() -> None:
    fake = machine()
    harness = Harness(fake)

    def refuse(_: str) -> None:
        raise OSError(errno.EINVAL, "no")

    fake.writers[GENERATIONS] = refuse
    outcome = finish(harness, harness.backends[BackendName.LRUGEN], step(Kind.ANON, age=10.0))
    assert outcome.status is Status.EXHAUSTED


def test_lrugen_takes_cache_only_when_cache_is_meant() -> None:
    fake = machine(generation_ages_seconds=(900.0, 800.0, 700.0, 600.0))
    harness = Harness(fake)
    finish(harness, harness.backends[BackendName.LRUGEN], step(Kind.FILE, age=10.0))
    assert fake.events.get("pgsteal_anon", 0) == 0
    assert fake.events["pgsteal_file"] > 0
    assert all(words[4] == "0" for words in commands(harness, "-"))


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"lru_gen": None}, "CONFIG_LRU_GEN"),
        ({"debugfs": False}, "mount debugfs"),
    ],
)
def test_lrugen_says_why_not(changes: dict[str, object], word: str) -> None:
    capability = Harness(machine(**changes)).backends[BackendName.LRUGEN].probe()  # type: ignore[arg-type]
    assert not capability.available
    assert word in capability.reason


def test_lrugen_that_is_switched_off_can_be_used() -> None:
    capability = Harness(machine((6, 1), lru_gen=False)).backends[BackendName.LRUGEN].probe()
    assert capability.available
    assert "switched-off" in capability.features


def test_lrugen_knows_no_slab() -> None:
    outcome = chunk(Harness(machine()), BackendName.LRUGEN, step(Kind.SLAB))
    assert outcome.status is Status.FAILED


def test_lrugen_takes_both_kinds_when_both_are_meant() -> None:
    fake = machine(generation_ages_seconds=(900.0, 800.0, 700.0, 600.0))
    harness = Harness(fake)
    finish(harness, harness.backends[BackendName.LRUGEN], step(Kind.ANY, age=10.0))
    assert sizes(fake, APP) == [0, 100 * MIB]
    assert fake.cgroup(APP).file_bytes == 0
    assert {words[4] for words in commands(harness, "-")} == {"100"}


def test_lrugen_takes_page_cache_of_those_that_may_not_swap() -> None:
    fake = machine(
        generation_ages_seconds=(900.0, 800.0, 700.0, 600.0),
        cgroups=[
            FakeCgroup(
                OTHER,
                anon=[AnonSet(300 * MIB, idle_seconds=5000)],
                file_bytes=50 * MIB,
                swap_max_bytes=0,
            )
        ],
    )
    harness = Harness(fake)
    finish(harness, harness.backends[BackendName.LRUGEN], step(Kind.ANY, age=10.0))
    assert sizes(fake, OTHER) == [300 * MIB]
    assert fake.cgroup(OTHER).file_bytes == 0
    assert {words[4] for words in commands(harness, "-")} == {"0"}


def test_lrugen_does_not_trust_ages_from_before_it_was_switched_on() -> None:
    fake = machine(
        (6, 1),
        lru_gen=False,
        generation_ages_seconds=(900.0, 800.0, 700.0, 600.0),
        cgroups=[FakeCgroup(APP, anon=[AnonSet(300 * MIB, idle_seconds=100)])],
    )
    harness = Harness(fake)
    harness.set_knob(ENABLED_FILE, "y", "as a plan has it done")
    backend = harness.backends[BackendName.LRUGEN]
    begin = fake.now
    while sizes(fake, APP) == [300 * MIB]:
        outcome = backend.run(step(Kind.ANON, age=20.0), Budget(64 * MIB, 0.1), harness.stop)
        assert outcome.status in (Status.OK, Status.WAIT)
        harness.stop.wait(outcome.wait_seconds)
    # the list says 700 s from the start; what is known is what was seen since
    assert fake.now - begin >= 20.0


@pytest.mark.parametrize("kernel", [(6, 12), (7, 3)])
def test_lrugen_goes_on_when_the_kernel_ages_first(kernel: tuple[int, int]) -> None:
    fake = machine(
        kernel,
        cgroups=[
            FakeCgroup(
                path, anon=[AnonSet(300 * MIB, idle_seconds=5), AnonSet(100 * MIB, hot=True)]
            )
            for path in (APP, OTHER)
        ],
    )
    harness = Harness(fake)
    raced: list[str] = []

    def another_ager(path: str, text: str) -> None:
        if text.startswith("+"):
            raced.append(text)
            group = next(e for e in fake.subtree("/") if e.memcg_id == int(text.split()[1]))
            if len(raced) % 2:
                fake.age(group, group.max_generation)

    harness.worker.before_write = another_ager
    outcome = finish(harness, harness.backends[BackendName.LRUGEN], step(Kind.ANON, age=10.0))
    assert raced
    assert outcome.status is Status.EXHAUSTED
    assert sizes(fake, APP) == sizes(fake, OTHER) == [0, 100 * MIB]


@pytest.mark.parametrize("number", [errno.EPERM, errno.ENOENT])
def test_lrugen_says_that_debugfs_was_closed_meanwhile(number: int) -> None:
    fake = machine()
    harness = Harness(fake)

    def refuse(_: str) -> None:
        raise OSError(number, "no")

    fake.writers[GENERATIONS] = refuse
    begin = fake.now
    outcome = finish(harness, harness.backends[BackendName.LRUGEN], step(Kind.ANON, age=10.0))
    assert outcome.status is Status.FAILED
    assert os.strerror(number) in outcome.note
    assert fake.now == begin


def test_lrugen_ages_a_cgroup_that_has_the_number_of_one_that_is_gone() -> None:
    fake = machine()
    harness = Harness(fake)
    backend = harness.backends[BackendName.LRUGEN]
    finish(harness, backend, step(Kind.ANON, age=10.0))
    reborn = fake.cgroup(APP)
    fake.remove_cgroup(APP)
    reborn.path = "/user.slice/next.service"
    reborn.anon = [AnonSet(200 * MIB, last_used=fake.now, generation=reborn.max_generation)]
    fake.by_path[reborn.path] = reborn
    fake._list_files()
    finish(harness, backend, step(Kind.ANON, age=10.0))
    assert sizes(fake, reborn.path) == [0]


@pytest.mark.parametrize(("aging_seconds", "apart"), [(0.01, 10.0), (0.25, 25.0), (30.0, 30.0)])
def test_lrugen_ages_no_oftener_than_it_can_afford(aging_seconds: float, apart: float) -> None:
    fake = machine(cgroups=[each for each in machine().cgroups if each.path != "/"])
    harness = Harness(fake)
    moments: dict[str, list[float]] = {}

    def slow(path: str, text: str) -> None:
        if text.startswith("+"):
            moments.setdefault(text.split()[1], []).append(fake.now)

    harness.worker.before_write = slow
    write = fake.writers[GENERATIONS]

    def takes_its_time(text: str) -> None:
        write(text)
        if text.startswith("+"):
            fake.advance(aging_seconds)

    fake.writers[GENERATIONS] = takes_its_time
    finish(harness, harness.backends[BackendName.LRUGEN], step(Kind.ANON, age=10.0))
    gaps = [later - one for times in moments.values() for one, later in pairwise(times[1:])]
    assert gaps
    # two lists are aged; the share is that of both
    assert min(gaps) >= apart - 0.002
    if aging_seconds < 1:
        assert max(gaps) <= apart + 2 * aging_seconds + 0.002


# --- node ---------------------------------------------------------------------------------------


def anon_only() -> FakeMachine:
    """No page cache, no slab to speak of (none at all there never is), and no cgroup v2 memory."""
    return FakeMachine(
        total_bytes=4 * GIB,
        kernel=(6, 18),
        cgroup_version=1,
        lru_gen=None,
        cgroups=[FakeCgroup(APP, anon=[AnonSet(GIB, idle_seconds=900)], slab_bytes=MIB)],
        swaps=[FakeSwap("/dev/vdb", 8 * GIB, device="254:16")],
        resume_device="254:16",
    )


def test_node_is_trapped_where_there_is_anon_alone() -> None:
    harness = Harness(anon_only())
    assert chunk(harness, BackendName.NODE, step(Kind.ANON)).status is Status.AGAIN
    assert harness.machine.anon_bytes == GIB


def test_node_is_cured_by_the_plan_and_the_settings_are_known_for_putting_back() -> None:
    fake = anon_only()
    harness = Harness(fake, Limits(stages=(Stage.ANON,)))
    plan = harness.plan(Target(TargetKind.MIN))
    (only,) = plan.steps
    assert only.backend is BackendName.NODE
    run = harness.run(plan)
    assert fake.anon_bytes == 0
    assert run.freed.anon_bytes == GIB
    assert harness.knobs == {
        "/proc/sys/vm/min_unmapped_ratio": "1",
        "/proc/sys/vm/min_slab_ratio": "5",
    }


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        (Kind.FILE, "67108864 swappiness=0"),
        (Kind.ANON, "67108864 swappiness=max"),
        (Kind.ANY, "67108864"),
    ],
)
def test_node_says_the_kind(kind: Kind, text: str) -> None:
    harness = Harness(machine((6, 18), cgroup_version=1))
    chunk(harness, BackendName.NODE, step(kind))
    assert harness.worker.requests == [("/sys/devices/system/node/node0/reclaim", text)]


def test_node_takes_turns() -> None:
    fake = machine((6, 18))
    fake.add_file("/sys/devices/system/node/node1/reclaim", None, partial(write_node_reclaim, fake))
    harness = Harness(fake)
    for _ in range(3):
        chunk(harness, BackendName.NODE, step(Kind.FILE), amount_bytes=MIB)
    nodes = [path.split("/")[5] for path, _ in harness.worker.requests]
    assert nodes == ["node0", "node1", "node0"]


def test_node_says_since_when() -> None:
    capability = Harness(machine((6, 12))).backends[BackendName.NODE].probe()
    assert not capability.available
    assert "6.17" in capability.reason


def test_node_cannot_take_slab() -> None:
    harness = Harness(machine((6, 18)))
    assert chunk(harness, BackendName.NODE, step(Kind.SLAB)).status is Status.FAILED


# --- dropcaches and writeback ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "text", "cache_mib", "slab_mib"),
    [(Kind.FILE, "1", 0, 40), (Kind.SLAB, "2", 200, 0), (Kind.ANY, "3", 0, 0)],
)
def test_dropcaches_by_kind(kind: Kind, text: str, cache_mib: int, slab_mib: int) -> None:
    harness = Harness(machine())
    outcome = chunk(harness, BackendName.DROPCACHES, step(kind))
    assert outcome.status is Status.EXHAUSTED  # a second one would find nothing
    assert harness.worker.requests == [("/proc/sys/vm/drop_caches", text)]
    groups = harness.machine.subtree("/")
    assert sum(group.file_bytes for group in groups) == cache_mib * MIB
    assert sum(group.slab_bytes for group in groups) == slab_mib * MIB


def test_dropcaches_has_nothing_for_anon() -> None:
    harness = Harness(machine())
    assert chunk(harness, BackendName.DROPCACHES, step(Kind.ANON)).status is Status.FAILED
    assert harness.worker.requests == []


def test_writeback_leaves_nothing_dirty() -> None:
    harness = Harness(machine(cgroups=[FakeCgroup(APP, dirty_bytes=50 * MIB)]))
    outcome = chunk(harness, BackendName.WRITEBACK, step(Kind.FILE))
    assert outcome.status is Status.EXHAUSTED
    assert harness.machine.cgroup(APP).dirty_bytes == 0
    assert harness.machine.cgroup(APP).file_bytes == 50 * MIB


# --- madvise ------------------------------------------------------------------------------------


def madvise(harness: Harness, *own: int) -> Madvise:
    return Madvise(harness.root, harness.tree, harness.worker, frozenset(own))


def test_madvise_of_this_kernel_is_told_by_ebadf_without_touching_anybody() -> None:
    worker = FakeWorker(Harness(machine()).root, machine())
    found: Capability = Madvise(KernelRoot(), None, worker, frozenset()).probe()
    assert found.backend is BackendName.MADVISE
    assert found.reason
    assert worker.requests == []


def test_madvise_does_not_reach_into_another_root() -> None:
    capability = madvise(Harness(machine())).probe()
    assert not capability.available
    assert capability.reason


def test_madvise_goes_through_all_processes_but_its_own() -> None:
    harness = Harness(machine((5, 10), lru_gen=None))
    backend = madvise(harness, 1001)
    outcome = finish(harness, backend, step(Kind.ANON))
    assert outcome.status is Status.EXHAUSTED
    assert sum(sizes(harness.machine, APP)) <= 400 * MIB // 100
    assert sizes(harness.machine, OTHER) == [300 * MIB, 100 * MIB]


@pytest.mark.parametrize(
    "scope", [Scope(ScopeKind.PROCESS, pid=1001), cgroup("/system.slice")], ids=str
)
def test_madvise_of_one_process_or_cgroup(scope: Scope) -> None:
    harness = Harness(machine())
    finish(harness, madvise(harness), step(Kind.ANON, scope=scope))
    assert sizes(harness.machine, APP) == [300 * MIB, 100 * MIB]
    assert sum(sizes(harness.machine, OTHER)) <= 400 * MIB // 100


def test_madvise_takes_no_more_than_the_chunk() -> None:
    harness = Harness(machine())
    before = harness.machine.anon_bytes
    outcome = madvise(harness).run(step(Kind.ANON), Budget(MIB, 0.1), harness.stop)
    assert outcome.status is Status.OK
    assert before - harness.machine.anon_bytes == MIB


def test_madvise_reports_what_it_had_to_skip() -> None:
    harness = Harness(machine())
    harness.machine.remove_cgroup(OTHER)
    backend = madvise(harness)
    first = backend.run(step(Kind.ANON), Budget(MIB, 0.1), harness.stop)
    assert first.skipped_bytes == 0
    harness.machine.cgroup(APP).pids.clear()  # it ends: ESRCH from here on
    last = finish(harness, backend, step(Kind.ANON))
    assert last.status is Status.EXHAUSTED
    assert last.skipped_bytes == 399 * MIB
    assert f"{399 * MIB} bytes were skipped" in last.note


def test_madvise_of_many_small_ranges_stays_within_what_one_call_takes() -> None:
    harness = Harness(machine())

    def maps() -> str:
        return "".join(
            f"{start:x}-{start + PAGE:x} rw-p 00000000 00:00 0 \n"
            for start in range(0x10000, 0x10000 + 3000 * 2 * PAGE, 2 * PAGE)
        )

    for pid in (1000, 1001):
        harness.machine.readers[f"/proc/{pid}/maps"] = maps
    calls: list[int] = []
    pageout = harness.machine.pageout

    def counted(pid: int, ranges: tuple[tuple[int, int], ...]) -> int:
        calls.append(len(ranges))
        return pageout(pid, ranges)

    harness.machine.pageout = counted  # type: ignore[method-assign,assignment]
    finish(harness, madvise(harness), step(Kind.ANON))
    assert max(calls) <= MAX_RANGES
    assert sum(calls) == 6000


def test_madvise_takes_anonymous_memory_only() -> None:
    harness = Harness(machine())
    outcome = madvise(harness).run(step(Kind.FILE), Budget(MIB, 0.1), harness.stop)
    assert outcome.status is Status.FAILED
