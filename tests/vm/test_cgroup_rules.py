# SPDX-License-Identifier: LGPL-2.1-or-later
"""The rules for cgroups, on kernels that find their own ways to get at memory."""

from __future__ import annotations

import pytest

from bench.lab import Workload
from tests.vm.conftest import GIB, MIB, Boot, Booted

SETTINGS = ("memory.min", "memory.low", "memory.swap.max")
RULES = """[cgroups]
protect = ["/system.slice/kept.service"]
cache_only = ["/system.slice/cached.service"]
cold_only = ["/system.slice/warm.service"]
first = ["/user.slice/early.service"]
"""


def counter(machine: Booted, unit: Workload, slice_name: str, name: str) -> int:
    """One figure of the unit's memory.stat."""
    text = machine.guest.read(f"/sys/fs/cgroup/{slice_name}/{unit.unit}/memory.stat")
    return int(dict(line.split() for line in text.splitlines())[name])


def limits_of(machine: Booted) -> str:
    """What is set on all cgroups, in one text."""
    found = machine.guest.run(
        ["grep", "-r", "", "/sys/fs/cgroup", *(f"--include={name}" for name in SETTINGS)],
        timeout=60,
    ).text
    # grep has no order of its own, and units of the guest come and go
    wanted = ("kept.service", "cached.service", "warm.service", "early.service", ".slice/memory.")
    return "\n".join(
        sorted(line for line in found.splitlines() if any(each in line for each in wanted))
    )


@pytest.mark.parametrize("suite", ["backports", "bookworm", "trixie"])
@pytest.mark.timeout(1500)
def test_the_rules_for_cgroups_hold(boot: Boot, suite: str) -> None:
    machine = boot(suite, memory_bytes=3 * GIB, config=RULES)
    kept = Workload(
        machine.guest, cold_bytes=250 * MIB, read_bytes=100 * MIB,
        slice_name="system.slice", name="kept",
    )  # fmt: skip
    cached = Workload(machine.guest, cold_bytes=250 * MIB, slice_name="system.slice", name="cached")
    # written once and then left alone; of the other part one byte a page is read every second
    warm = Workload(
        machine.guest, cold_bytes=250 * MIB, warm_bytes=150 * MIB,
        slice_name="system.slice", name="warm",
    )  # fmt: skip
    early = Workload(machine.guest, cold_bytes=300 * MIB, slice_name="user.slice", name="early")
    late = Workload(machine.guest, cold_bytes=300 * MIB, slice_name="user.slice", name="late")
    everyone = (kept, cached, warm, early, late)
    for one in everyone:
        one.start()
    settings = limits_of(machine)

    # less than the first one has: nobody else gives anything
    report = machine.hibprep("reclaim", "200M", "--type", "anon", timeout=300, codes=(0, 3))
    print("first", report["freed"], early.residency(), late.residency())
    assert report["steps"][0]["scope"] == "cgroup /user.slice/early.service"
    assert early.residency().cold_share < 0.5
    assert late.residency().cold_share > 0.98
    assert limits_of(machine) == settings

    cache = counter(machine, kept, "system.slice", "file")
    report = machine.hibprep("prepare", "--target", "min", timeout=900, codes=(0, 3))
    for step in report["steps"]:
        print(step["stage"], step["scope"], step["backend"], step["freed"], step["reason"])
    for one in everyone:
        print(one.unit, one.residency())
    assert {"rule-protect", "rule-cache_only", "rule-cold_only"} <= {
        limit["name"] for limit in report["limits"]
    }
    assert kept.residency().cold_share >= 0.99
    assert counter(machine, kept, "system.slice", "file") >= 0.95 * cache
    assert cached.residency().cold_share >= 0.99
    assert warm.residency().warm_share >= 0.95
    assert warm.residency().cold_share <= 0.1
    assert late.residency().cold_share <= 0.1
    assert limits_of(machine) == settings
    for one in everyone:
        verified = one.verify()
        assert verified["ok"], (one.unit, verified)
