# SPDX-License-Identifier: LGPL-2.1-or-later
"""image_size honoured: as far as the kernel's own target, and no further."""

from __future__ import annotations

import re

from bench.lab import Workload
from tests.vm.conftest import GIB, MIB, Boot, Booted

RAM = 2 * GIB


def swapped_out_bytes(machine: Booted) -> int:
    found = re.search(r"^pswpout (\d+)", machine.guest.read("/proc/vmstat"), re.MULTILINE)
    assert found is not None
    return int(found[1]) * 4096


def test_the_plan_stops_at_the_kernels_target(boot: Boot) -> None:
    machine = boot("trixie", memory_bytes=RAM)
    workload = Workload(machine.guest, cold_bytes=1250 * MIB, warm_bytes=16 * MIB)
    workload.start()
    target = int(machine.guest.read("/sys/power/image_size"))

    report = machine.hibprep("prepare", "--target", "image_size")
    after = report["after"]["saveable_bytes"]
    print(f"target {target}, saveable {after}, {(target - after) / RAM:.1%} of RAM beyond")
    assert target - 0.05 * RAM <= after <= target

    out = swapped_out_bytes(machine)
    cycle = machine.cycle()
    more = swapped_out_bytes(machine) - out
    print(cycle, f"{more} bytes swapped out by the kernel itself")
    # no shrinking to speak of: it found what we left (less what our process itself held), and sent
    # next to nothing to swap
    assert cycle.facts.allocated_pages * 4096 >= after * 0.9
    assert more < 0.01 * RAM
    verified = workload.verify()
    assert verified["ok"], verified
