# SPDX-License-Identifier: LGPL-2.1-or-later
"""A small swap: plain reclaim makes systemd refuse to hibernate, hibprep does not."""

from __future__ import annotations

import pytest

from bench.lab import HibernationRefused, Workload
from tests.vm.conftest import GIB, MIB, Boot, Booted

SWAP = 700 * MIB
AGE = """
import re, time
def lists():
    found, memcg = [], ""
    for line in open("/sys/kernel/debug/lru_gen"):
        words = line.split()
        if words[0] == "memcg":
            memcg = words[1]
        elif words[0] == "node":
            found.append([memcg, words[1], 0])
        else:
            found[-1][2] = int(words[0])
    return found
# Several agings, each after the warm part had time to be touched: what is not touched gets old,
# and with the multi-gen LRU only the two youngest generations count as active.
for _ in range(3):
    for memcg, node, youngest in lists():
        try:
            with open("/sys/kernel/debug/lru_gen", "w") as commands:
                commands.write(f"+ {memcg} {node} {youngest} 1 1")
        except OSError:
            pass
    time.sleep(3)
"""


def filled(boot: Boot) -> tuple[Booted, Workload]:
    machine = boot("trixie", memory_bytes=2 * GIB, swap_bytes=SWAP)
    workload = Workload(machine.guest, cold_bytes=450 * MIB, warm_bytes=250 * MIB)
    workload.start()
    # the kernel has room for all of it, and so no shrinking of its own
    machine.setting("/sys/power/image_size", str(1500 * MIB))
    machine.guest.run(["python3", "-c", AGE], timeout=120, check=True)
    return machine, workload


def test_plain_reclaim_makes_hibernation_refused(boot: Boot) -> None:
    """Not of hibprep: it shows that there is a harm to be done."""
    machine, _ = filled(boot)
    fit = machine.hibprep("plan")["fit_before"]
    assert fit["systemd_ok"], fit
    machine.guest.run(
        ["sh", "-c", "echo '500M swappiness=200' > /sys/fs/cgroup/memory.reclaim"], timeout=120
    )
    print(machine.guest.read("/proc/meminfo")[:600], machine.guest.read("/proc/swaps"))
    assert not machine.hibprep("plan")["fit_before"]["systemd_ok"]
    with pytest.raises(HibernationRefused) as refused:
        machine.guest.hibernate(timeout=120)
    assert "swap" in refused.value.result.error_text.lower()


def test_preparing_leaves_it_accepted(boot: Boot) -> None:
    machine, workload = filled(boot)
    before = machine.hibprep("plan")["fit_before"]
    assert before["ok"], before
    report = machine.hibprep("prepare", "--target", "min", codes=(0, 3))
    print(report["reason"], report["limits"], report["fit_after"])
    # something went, then the rule said stop: there was memory left to take
    assert report["freed"]["swapped_out_bytes"] > 0
    assert report["ending"] == "limit", report["reason"]
    assert report["fit_after"]["ok"], report["fit_after"]
    cycle = machine.cycle()
    print(cycle)
    verified = workload.verify()
    assert verified["ok"], verified
