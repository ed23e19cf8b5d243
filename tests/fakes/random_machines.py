# SPDX-License-Identifier: LGPL-2.1-or-later
"""Fake machines of any kind, for properties that hold on all of them."""

from __future__ import annotations

from random import Random

from tests.fakes.machine import FakeMachine
from tests.fakes.state import GIB, MIB, AnonSet, FakeCgroup, FakeSwap, whole


def random_machine(random: Random) -> FakeMachine:
    """Any machine: all versions, layouts and states, within what is possible."""
    total = random.choice([512 * MIB, GIB, 2 * GIB, 4 * GIB, 8 * GIB, 64 * GIB])
    left = total - 256 * MIB

    def some(share: float) -> int:
        nonlocal left
        size = whole(random.random() * share * left)
        left -= size
        return size

    unevictable = some(0.1)
    paths = random.sample(
        ["/", "/init.scope", "/system.slice/a.service", "/system.slice/b.service",
         "/user.slice", "/user.slice/user-1000.slice/app.slice/x.scope", "/machine.slice/vm.scope"],
        random.randint(1, 6),
    )  # fmt: skip
    cgroups = []
    for number, path in enumerate(paths):
        anon = [
            AnonSet(
                some(0.3),
                idle_seconds=random.choice([0.0, 5.0, 30.0, 300.0, 86400.0]),
                hot=random.random() < 0.3,
                shmem=random.random() < 0.2,
            )
            for _ in range(random.randint(0, 3))
        ]
        cgroups.append(
            FakeCgroup(
                path,
                anon=anon,
                file_bytes=some(0.3),
                dirty_bytes=some(0.1),
                mapped_bytes=some(0.1),
                slab_bytes=some(0.1),
                min_bytes=random.choice([0, 0, 0, 64 * MIB, total]),
                swap_max_bytes=random.choice([None, None, None, 0, 128 * MIB]),
                pids=[1000 + number],
            )
        )
    swaps = [
        FakeSwap(f"/dev/vda{2 + number}", whole(random.random() * total), priority=-2 - number,
                 device=f"254:{2 + number}")
        for number in range(random.randint(0, 2))
    ]  # fmt: skip
    if random.random() < 0.2:
        swaps.append(FakeSwap("/dev/zram0", total // 2, priority=100, is_zram=True, device="252:0"))
    kernel = random.choice([(5, 10), (6, 1), (6, 12), (6, 17), (6, 18), (7, 3)])
    return FakeMachine(
        total_bytes=total,
        kernel=kernel,
        cgroups=cgroups,
        swaps=swaps,
        cgroup_version=random.choice([2, 2, 2, 2, 1, 0]),
        unevictable_bytes=unevictable,
        lru_gen=random.choice([True, True, False, None]) if kernel >= (6, 1) else None,
        generation_ages_seconds=random.choice([(600.0, 600.0), (900.0, 120.0, 20.0, 5.0)]),
        debugfs=random.random() < 0.8,
        psi=random.random() < 0.9,
        numa=random.random() < 0.9,
        swappiness=random.choice([0, 10, 60, 100, 200]),
        hibernation=random.random() < 0.9,
        resume_device=swaps[0].device if swaps and not swaps[0].is_zram else "",
        again_every=random.choice([0, 0, 1, 3]),
        swap_delay_seconds=random.choice([0.0, 0.0, 0.5]),
    )
