# SPDX-License-Identifier: LGPL-2.1-or-later
"""The same commands on every kernel of the lab, and what each of them has and has not."""

from __future__ import annotations

import pytest

from bench.lab import Workload
from tests.vm.conftest import MIB, Boot

LRU_GEN = "/sys/kernel/mm/lru_gen/enabled"
FEATURES = {
    "bookworm": ["vm-swappiness"],
    "trixie": ["swappiness"],
    "backports": ["swappiness", "swappiness-max"],
}


@pytest.mark.parametrize("suite", sorted(FEATURES))
def test_commands_do_what_they_say(boot: Boot, suite: str) -> None:
    machine = boot(suite)
    workload = Workload(machine.guest, cold_bytes=900 * MIB, warm_bytes=64 * MIB)
    workload.start()
    swappiness = machine.guest.read("/proc/sys/vm/swappiness")
    lru_gen = machine.guest.read(LRU_GEN)

    backends = {item["backend"]: item for item in machine.hibprep("backends")["backends"]}
    assert sorted(backends["memcg"]["features"]) == FEATURES[suite]
    assert backends["lrugen"]["available"]
    assert backends["dropcaches"]["available"]
    assert backends["node"]["available"] is (suite == "backports")
    check = machine.hibprep("check")
    assert check["possible"], check

    machine.guest.run(["sh", "-c", "find / -xdev -type f -size +40k -exec cat {} + > /dev/null"])
    cached = machine.hibprep("reclaim", "100M", "--type", "file")
    assert cached["freed"]["file_bytes"] == pytest.approx(100 * MIB, rel=0.25)
    assert cached["freed"]["anon_bytes"] < 5 * MIB

    anon = machine.hibprep("reclaim", "200M", "--type", "anon")
    assert anon["freed"]["anon_bytes"] == pytest.approx(200 * MIB, rel=0.25)

    report = machine.hibprep("prepare", "--target", "min", codes=(0, 3), timeout=600)
    cold = next(step for step in report["steps"] if step["stage"] == "cold-anon")
    residency = workload.residency()
    print(suite, report["seconds"], cold, residency)
    assert cold["backend"] == "lrugen"
    assert residency.cold_share <= 0.05
    # every setting is back
    assert machine.guest.read("/proc/sys/vm/swappiness") == swappiness
    assert machine.guest.read(LRU_GEN) == lru_gen

    slab = machine.hibprep("reclaim", "max", "--type", "slab")
    assert slab["steps"][0]["backend"] == "dropcaches"

    how = ["--direct"] if suite == "backports" else []
    cycle = machine.cycle("hibprep", "hibernate", *how, "--json")
    print(suite, cycle)
    assert cycle.report["hibernation"]["how"] == ("direct" if how else "logind")
    assert cycle.report["hibernation"]["slept"]
    verified = workload.verify()
    assert verified["ok"], verified


def test_a_killed_run_is_put_right_by_the_next(boot: Boot) -> None:
    """bookworm has the multi-gen LRU built and switched off: a run switches it on."""
    machine = boot("bookworm")
    workload = Workload(machine.guest, cold_bytes=700 * MIB)
    workload.start()
    before = machine.guest.read(LRU_GEN)
    assert int(before, 16) == 0
    machine.guest.run(
        ["systemd-run", "--quiet", "--unit=run", "--", "hibprep", "prepare", "--target", "min"],
        check=True,
    )
    switched_on = f'i=0; until [ "$(cat {LRU_GEN})" != "{before.strip()}" ]; do sleep 0.1; '
    switched_on += "i=$((i + 1)); [ $i -lt 600 ] || exit 1; done"
    machine.guest.run(["sh", "-c", switched_on], timeout=120, check=True)
    machine.guest.run(["systemctl", "kill", "--signal=KILL", "run"], check=True)
    assert int(machine.guest.read(LRU_GEN), 16) != 0
    machine.hibprep("plan")
    assert machine.guest.read(LRU_GEN) == before
