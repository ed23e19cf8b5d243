# SPDX-License-Identifier: LGPL-2.1-or-later
"""What preparing is worth: a full guest hibernates like an idle one."""

from __future__ import annotations

from bench.lab import Workload
from tests.vm.conftest import GIB, MIB, Boot

AS_IDLE = 1.25


def test_a_full_guest_hibernates_like_an_idle_one(boot: Boot) -> None:
    machine = boot("trixie", memory_bytes=2 * GIB)
    idle = machine.cycle()
    idle_by_us = machine.cycle("hibprep", "hibernate", "--json")

    # 70 % of memory; what the idle guest has is in it
    workload = Workload(machine.guest, cold_bytes=1250 * MIB, warm_bytes=16 * MIB)
    workload.start()
    machine.hibprep("prepare", "--target", "min", codes=(0, 3))
    prepared = machine.cycle()
    print("idle", idle, "\nidle, hibprep", idle_by_us, "\nprepared", prepared)
    assert prepared.image_pages <= AS_IDLE * idle.image_pages
    assert prepared.hibernate_seconds <= AS_IDLE * idle.hibernate_seconds

    # With image_size 0 the kernel would allocate and clear nearly all of memory for nothing.
    machine.setting("/sys/power/image_size", "0")
    machine.hibprep("prepare", "--target", "min", codes=(0, 3))
    held = machine.cycle("hibprep", "hibernate", "--json")
    print("image_size 0", held)
    assert held.image_pages <= AS_IDLE * idle.image_pages
    assert held.hibernate_seconds <= AS_IDLE * idle_by_us.hibernate_seconds
    assert machine.guest.read("/sys/power/image_size").strip() == "0"
    verified = workload.verify()
    assert verified["ok"], verified
