# SPDX-License-Identifier: LGPL-2.1-or-later
"""Whose the memory is that nothing can reclaim."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hibprep.config import Config
from hibprep.errors import KernelFileMalformed
from hibprep.kernel.cgroup import CgroupTree, find_cgroup2
from hibprep.kernel.locked import WORTH_ASKING_BYTES, parse_sizes, read_holders
from hibprep.kernel.meminfo import read_meminfo
from hibprep.machine import Machine, ruled_snapshot_of
from hibprep.model import MACHINE, Holder, Memory
from tests.fakes.harness import FakeClock
from tests.fakes.machine import FakeMachine, FakeRoot
from tests.fakes.state import GIB, MIB, AnonSet, FakeCgroup

GUEST = "/machine.slice/guest.scope"
DATABASE = "/system.slice/database.service"


def machine(guest: int = 800 * MIB, database: int = 300 * MIB) -> FakeMachine:
    return FakeMachine(
        total_bytes=4 * GIB,
        cgroups=[
            FakeCgroup(GUEST, locked_bytes=guest, pids=[812, 813]),
            FakeCgroup(DATABASE, locked_bytes=database, pids=[40], anon=[AnonSet(100 * MIB)]),
            FakeCgroup("/user.slice", anon=[AnonSet(500 * MIB)], pids=[1000]),
        ],
    )


def held(fake: FakeMachine) -> tuple[Holder, ...]:
    root = FakeRoot(fake)
    return read_holders(root, find_cgroup2(root).tree, read_meminfo(root))


def test_the_largest_are_named_by_process_and_by_cgroup() -> None:
    assert held(machine()) == (
        Holder(name="process812", pid=812, locked_bytes=800 * MIB),
        Holder(name="process40", pid=40, locked_bytes=300 * MIB),
        Holder(name=GUEST, locked_bytes=800 * MIB),
        Holder(name=DATABASE, locked_bytes=300 * MIB),
    )


def test_who_holds_little_beside_another_is_not_named() -> None:
    assert [each.name for each in held(machine(database=8 * MIB))] == ["process812", GUEST]


def test_many_small_ones_are_told_by_the_cgroup_above_them() -> None:
    small = [FakeCgroup(f"/a.slice/b.slice/{n}.scope", locked_bytes=4 * MIB) for n in range(40)]
    fake = FakeMachine(total_bytes=4 * GIB, cgroups=small)
    assert held(fake) == (Holder(name="/a.slice/b.slice", locked_bytes=160 * MIB),)


def test_nobody_is_looked_at_where_little_is_locked() -> None:
    fake = machine(guest=WORTH_ASKING_BYTES // 2, database=0)
    asked: list[str] = []

    class Watched(FakeRoot):
        def raw_read(self, p: str) -> str:
            asked.append(p)
            return super().raw_read(p)

    root = Watched(fake)
    tree = find_cgroup2(root).tree
    memory = read_meminfo(root)
    asked.clear()
    assert read_holders(root, tree, memory) == ()
    assert asked == []
    more = replace(memory, mlocked_bytes=WORTH_ASKING_BYTES)
    read_holders(root, tree, more)
    assert asked


def test_locked_addresses_that_are_not_in_memory_do_not_count() -> None:
    fake = machine()
    fake.add_file("/proc/812/status", lambda: "VmLck:\t4194304 kB\nVmRSS:\t102400 kB\n")
    assert Holder(name="process812", pid=812, locked_bytes=100 * MIB) in held(fake)


def test_pinned_and_huge_pages_count_and_shared_ones_by_their_share() -> None:
    fake = machine()
    fake.add_file(
        "/proc/812/status",
        lambda: "VmLck:\t8 kB\nVmPin:\t409600 kB\nVmRSS:\t819200 kB\nHugetlbPages:\t1048576 kB\n",
    )
    fake.add_file("/proc/40/smaps_rollup", lambda: "5-7 ---p\nPss: 9 kB\nLocked:   153600 kB\n")
    found = {each.name: each for each in held(fake)}
    assert found["process812"].locked_bytes == 400 * MIB
    assert found["process812"].huge_bytes == GIB
    assert found["process812"].held_bytes == GIB + 400 * MIB
    assert found["process40"].locked_bytes == 150 * MIB


def test_without_cgroups_processes_are_named(tmp_path: Path) -> None:
    root = FakeRoot(machine())
    assert [each.pid for each in read_holders(root, None, read_meminfo(root))] == [812, 40]


@pytest.mark.parametrize("text", ["VmLck: 1x kB\n", "VmRSS:\n", "HugetlbPages: -1 kB\n"])
def test_a_size_that_is_none_is_malformed(text: str) -> None:
    with pytest.raises(KernelFileMalformed):
        parse_sizes(text)


@given(st.text())
def test_any_status_is_read_or_malformed(text: str) -> None:
    with contextlib.suppress(KernelFileMalformed):
        assert all(value >= 0 for value in parse_sizes(text).values())


@given(st.lists(st.integers(0, 300), max_size=8), st.integers(0, 2000))
def test_what_cgroups_are_said_to_hold_is_never_more_than_is_held(
    sizes: list[int], beside: int
) -> None:
    groups = [
        FakeCgroup(f"/s{n % 3}.slice/{n}.scope", locked_bytes=size * MIB, pids=[n + 1])
        for n, size in enumerate(sizes)
    ]
    fake = FakeMachine(total_bytes=8 * GIB, cgroups=groups, unevictable_bytes=beside * MIB)
    whole = sum(sizes) * MIB
    found = held(fake)
    for of in (True, False):
        assert sum(each.held_bytes for each in found if bool(each.pid) is of) <= whole
    for each in found:
        assert each.held_bytes * 20 >= whole + beside * MIB


def test_the_plan_names_them(tmp_path: Path) -> None:
    fake = machine()
    root = FakeRoot(fake, tmp_path)
    tree = find_cgroup2(root).tree
    opened = Machine(root, Config(), FakeClock(fake), tree, "")
    assert ruled_snapshot_of(opened, MACHINE).holders == ()  # for a hook, for the daemon
    holders = ruled_snapshot_of(opened, MACHINE, name_holders=True).holders
    assert [each.name for each in holders] == ["process812", "process40", GUEST, DATABASE]


def test_a_cgroup_that_ends_meanwhile_is_left_out() -> None:
    root = FakeRoot(machine())

    class Ending(CgroupTree):
        def children(self, path: str) -> list[str]:
            return [*super().children(path), f"{path.rstrip('/')}/gone.scope"]

    tree = find_cgroup2(root).tree
    assert tree is not None
    memory = Memory(total_bytes=4 * GIB, free_bytes=0, mlocked_bytes=GIB)
    found = read_holders(root, Ending(root, tree.mount), memory)
    assert [each.name for each in found if not each.pid] == [GUEST, DATABASE]
