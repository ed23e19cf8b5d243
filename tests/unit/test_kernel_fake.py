# SPDX-License-Identifier: LGPL-2.1-or-later
"""The fake kernel behaves as the documents say that kernels do."""

from __future__ import annotations

import contextlib
import errno
import time
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hibprep.errors import KernelFileError
from hibprep.kernel.lrugen import aging_command, eviction_command, read_generations
from hibprep.kernel.snapshot import read_snapshot
from hibprep.kernel.vmstat import read_vmstat
from tests.fakes.machine import FakeMachine, FakeRoot
from tests.fakes.random_machines import random_machine
from tests.fakes.state import GIB, MIB, PAGE, AnonSet, FakeCgroup, FakeSwap
from tests.fakes.texts import CGROUPS

RECLAIM = f"{CGROUPS}/memory.reclaim"
NODE = "/sys/devices/system/node/node0/reclaim"
LRU_GEN = "/sys/kernel/debug/lru_gen"


def machine(kernel: tuple[int, int] = (6, 18), **changes: object) -> FakeMachine:
    values: dict[str, object] = {
        "kernel": kernel,
        "cgroups": [
            FakeCgroup("/a", anon=[AnonSet(GIB, idle_seconds=900)], file_bytes=GIB),
            FakeCgroup("/b", anon=[AnonSet(GIB // 2, hot=True)], dirty_bytes=64 * MIB),
        ],
        "swaps": [FakeSwap("/dev/vda2", 4 * GIB)],
    }
    return FakeMachine(**(values | changes))  # type: ignore[arg-type]  # a table of defaults


def answer(fake: FakeMachine, path: str, text: str) -> int:
    try:
        FakeRoot(fake).raw_write(path, text)
    except OSError as error:
        return error.errno or -1
    return 0


@pytest.mark.parametrize(
    ("kernel", "text", "number"),
    [
        ((6, 1), "0", 0),
        ((6, 1), "0 swappiness=0", errno.EINVAL),
        ((6, 12), "0 swappiness=200", 0),
        ((6, 12), "0 swappiness=max", errno.EINVAL),
        ((6, 12), "0 swappiness=201", errno.EINVAL),
        ((6, 16), "0 swappiness=max", 0),
        ((6, 16), "max", errno.EINVAL),
        ((6, 16), "1M zswap=1", errno.EINVAL),
        ((5, 10), "0", errno.ENOENT),
    ],
)
def test_what_each_version_takes(kernel: tuple[int, int], text: str, number: int) -> None:
    fake = machine(kernel)
    before = fake.free_bytes
    assert answer(fake, RECLAIM, text) == number
    assert fake.free_bytes == before


def test_swappiness_0_takes_file_and_max_takes_anon() -> None:
    fake = machine()
    assert answer(fake, RECLAIM, "64M swappiness=0") == 0
    counters = read_vmstat(FakeRoot(fake))
    assert (counters.pgsteal_anon, counters.pgsteal_file) == (0, 64 * MIB // PAGE)
    assert answer(fake, RECLAIM, "64M swappiness=max") == 0
    counters = read_vmstat(FakeRoot(fake))
    assert counters.pgsteal_anon == counters.pswpout == 64 * MIB // PAGE


def test_the_global_swappiness_counts_where_the_key_is_not_known() -> None:
    fake = machine((6, 1))
    FakeRoot(fake).write("/proc/sys/vm/swappiness", "0")
    assert answer(fake, RECLAIM, "64M") == 0
    assert fake.events.get("pgsteal_anon", 0) == 0


def test_the_idle_goes_before_the_hot() -> None:
    fake = machine()
    assert answer(fake, RECLAIM, "1G swappiness=max") == 0
    assert fake.cgroup("/a").anon_bytes == 0
    assert fake.cgroup("/b").anon_bytes == GIB // 2


def test_more_than_there_is_is_taken_in_part_and_refused() -> None:
    fake = machine()
    assert answer(fake, f"{CGROUPS}/a/memory.reclaim", "8G swappiness=0") == errno.EAGAIN
    assert fake.cgroup("/a").file_bytes == 0


def test_again_after_half() -> None:
    fake = machine(again_every=1)
    before = fake.free_bytes
    assert answer(fake, RECLAIM, "64M swappiness=0") == errno.EAGAIN
    assert fake.free_bytes - before == 32 * MIB


def test_disk_swap_frees_when_it_is_written() -> None:
    fake = machine(swap_delay_seconds=0.5)
    before = fake.free_bytes
    assert answer(fake, RECLAIM, "64M swappiness=max") == errno.EAGAIN
    assert fake.free_bytes == before
    assert fake.events["pswpout"] == 64 * MIB // PAGE
    fake.advance(1)
    assert fake.free_bytes - before == 64 * MIB
    assert fake.events["pgsteal_anon"] == 64 * MIB // PAGE


def test_the_higher_priority_is_filled_first() -> None:
    low, high = FakeSwap("/dev/vda2", GIB, priority=-2), FakeSwap("/dev/vdb", MIB, priority=10)
    fake = machine(swaps=[low, high])
    assert answer(fake, RECLAIM, "4M swappiness=max") == 0
    assert (high.used_bytes, low.used_bytes) == (MIB, 3 * MIB)


def test_zram_costs_memory() -> None:
    fake = machine(swaps=[FakeSwap("/dev/zram0", GIB, is_zram=True)])
    before = fake.free_bytes
    assert answer(fake, RECLAIM, "3M swappiness=max") == 0
    assert fake.free_bytes - before == 2 * MIB


def test_memory_min_is_honoured_from_above_and_not_by_the_cgroup_itself() -> None:
    fake = machine()
    FakeRoot(fake).write(f"{CGROUPS}/a/memory.min", str(4 * GIB))
    assert answer(fake, RECLAIM, "64M swappiness=0") == errno.EAGAIN
    assert answer(fake, f"{CGROUPS}/a/memory.reclaim", "64M swappiness=0") == 0


def test_swap_max_is_honoured() -> None:
    fake = machine()
    FakeRoot(fake).write(f"{CGROUPS}/a/memory.swap.max", str(MIB))
    assert answer(fake, f"{CGROUPS}/a/memory.reclaim", "64M swappiness=max") == errno.EAGAIN
    assert fake.cgroup("/a").swapped_bytes == MIB


def test_hot_memory_comes_back() -> None:
    fake = machine()
    assert answer(fake, f"{CGROUPS}/b/memory.reclaim", "64M swappiness=max") == 0
    fake.advance(1)
    assert fake.cgroup("/b").swapped_bytes == 0
    assert fake.events["workingset_refault_anon"] == 64 * MIB // PAGE


def test_drop_caches_leaves_the_dirty_until_it_is_synced() -> None:
    fake = machine()
    assert answer(fake, "/proc/sys/vm/drop_caches", "3") == 0
    assert fake.cgroup("/a").file_bytes == 0
    assert fake.cgroup("/b").dirty_bytes == 64 * MIB
    fake.sync()
    assert answer(fake, "/proc/sys/vm/drop_caches", "1") == 0
    assert fake.cgroup("/b").page_cache_bytes == 0
    assert fake.events["drop_pagecache"] == 2
    assert answer(fake, "/proc/sys/vm/drop_caches", "5") == errno.EINVAL


def test_node_reclaim_does_nothing_for_anon_without_page_cache() -> None:
    fake = machine()
    fake.sync()
    assert answer(fake, NODE, "64M swappiness=max") == 0
    assert answer(fake, "/proc/sys/vm/drop_caches", "3") == 0
    before = fake.free_bytes
    assert answer(fake, NODE, "64M swappiness=max") == errno.EAGAIN
    assert fake.free_bytes == before
    assert answer(machine((6, 12)), NODE, "64M") == errno.ENOENT


@pytest.mark.parametrize(
    ("cache", "slab", "ratios", "expected"),
    [
        (0, 0, {}, errno.EAGAIN),
        (10, 50, {}, errno.EAGAIN),  # not above: exactly 1 and 5 percent
        (11, 50, {}, 0),
        (10, 51, {}, 0),
        (11, 50, {"min_unmapped_ratio": "2"}, errno.EAGAIN),
        (1, 0, {"min_unmapped_ratio": "0"}, 0),
        (0, 1, {"min_slab_ratio": "0"}, 0),
        (0, 0, {"min_unmapped_ratio": "0", "min_slab_ratio": "0"}, errno.EAGAIN),
    ],
)
def test_node_reclaim_wants_more_than_its_two_ratios(
    cache: int, slab: int, ratios: dict[str, str], expected: int
) -> None:
    fake = machine(
        total_bytes=1000 * MIB,
        cgroups=[
            FakeCgroup(
                "/a", anon=[AnonSet(500 * MIB)], file_bytes=cache * MIB, slab_bytes=slab * MIB
            )
        ],
    )
    for name, value in ratios.items():
        assert answer(fake, f"/proc/sys/vm/{name}", value) == 0
        assert fake.read_file(f"/proc/sys/vm/{name}") == f"{value}\n"
    before = fake.anon_bytes
    assert answer(fake, NODE, "64M swappiness=max") == expected
    assert before - fake.anon_bytes == (0 if expected else 64 * MIB)


def test_the_two_ratios_are_percentages_and_there_with_numa_alone() -> None:
    fake = machine()
    assert fake.read_file("/proc/sys/vm/min_unmapped_ratio") == "1\n"
    assert fake.read_file("/proc/sys/vm/min_slab_ratio") == "5\n"
    for text in ("101", "-1", "x"):
        assert answer(fake, "/proc/sys/vm/min_slab_ratio", text) == errno.EINVAL
    assert answer(machine(numa=False), "/proc/sys/vm/min_slab_ratio", "0") == errno.ENOENT


def test_aging_and_eviction_take_the_cold_alone() -> None:
    fake = machine(
        cgroups=[FakeCgroup("/a", anon=[AnonSet(GIB, idle_seconds=60), AnonSet(GIB, hot=True)])]
    )
    root = FakeRoot(fake)
    listed = next(each for each in read_generations(root) if each.path == "/a")
    assert answer(fake, LRU_GEN, eviction_command(listed.memcg_id, 0, 0, swappiness=200, pages=1))
    for _ in range(3):
        listed = next(each for each in read_generations(root) if each.path == "/a")
        newest = listed.generations[-1].sequence
        root.write(LRU_GEN, aging_command(listed.memcg_id, 0, newest))
        fake.advance(6)
    listed = next(each for each in read_generations(root) if each.path == "/a")
    newest = listed.generations[-1].sequence
    command = eviction_command(
        listed.memcg_id, 0, newest - 2, swappiness=200, pages=2 * GIB // PAGE
    )
    root.write(LRU_GEN, command)
    cold, hot = fake.cgroup("/a").anon
    assert (cold.size_bytes, hot.size_bytes) == (0, GIB)


def test_image_size_is_read_as_the_kernel_does() -> None:
    fake = machine()
    FakeRoot(fake).write("/sys/power/image_size", "1G")
    assert fake.image_size_bytes == 1


def test_errors_are_translated() -> None:
    with pytest.raises(KernelFileError) as caught:
        FakeRoot(machine()).write(RECLAIM, "nonsense")
    assert caught.value.errno == errno.EINVAL


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 10_000), st.lists(st.integers(0, 4096), max_size=8))
def test_no_byte_is_lost(seed: int, amounts: list[int]) -> None:
    fake = random_machine(Random(seed))  # noqa: S311 - machines, not secrets
    root = FakeRoot(fake)
    for amount in amounts:
        content = fake.anon_bytes + sum(each.swapped_bytes for each in fake.cgroups)
        with contextlib.suppress(KernelFileError):
            root.write(RECLAIM, f"{amount}M")
        assert content == fake.anon_bytes + sum(each.swapped_bytes for each in fake.cgroups)
        fake.advance(0.3)
        snapshot = read_snapshot(root)
        assert snapshot.memory.free_bytes == fake.free_bytes >= 0
        assert sum(zone.free_pages for zone in snapshot.zones) * PAGE == fake.free_bytes
        assert all(0 <= area.used_bytes <= area.size_bytes for area in fake.swaps)


def test_two_hundred_machines_are_quick() -> None:
    begun = time.monotonic()
    for seed in range(200):
        read_snapshot(FakeRoot(random_machine(Random(seed))))  # noqa: S311 - as above
    assert time.monotonic() - begun < 5
