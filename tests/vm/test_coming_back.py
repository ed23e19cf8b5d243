# SPDX-License-Identifier: LGPL-2.1-or-later
"""Memory that was taken comes back in batches: on the kernel that searches pagemaps by itself, and
on the one that does not."""

from __future__ import annotations

import json
from typing import Any

import pytest

from bench.lab import Workload
from tests.vm.conftest import GIB, MIB, Boot, Booted
from tests.vm.test_sleep import installed, over, reports

WARM = 400 * MIB
NEVER_SECONDS = 3600.0  # it is read when it is asked to, and not by itself
TAKE_ALL = """
[target]
kind = "min"
[sleep]
budget_seconds = 45
swap_in = true
[daemon]
policy = "on-request"
"""
_MAJOR_FAULTS = 9  # of /proc/PID/stat, counted from the first field behind the name


class Touched:
    """One pass over the warm memory: how long it took, and how often it waited for the disk."""

    def __init__(self, machine: Booted, workload: Workload) -> None:
        before = _major_faults(machine, workload)
        self.seconds = workload.touch()
        self.faults = _major_faults(machine, workload) - before

    def __repr__(self) -> str:
        return f"{self.seconds:.2f} s, {self.faults} major faults"


def _major_faults(machine: Booted, workload: Workload) -> int:
    stat = machine.guest.read(f"/proc/{workload.pid}/stat")
    return int(stat.rpartition(")")[2].split()[_MAJOR_FAULTS])


def figures(report: Any) -> str:  # noqa: ANN401 - JSON
    return (
        f"swapin {report['seconds']:.2f} s: asked {report['asked_bytes'] >> 20} MiB, read "
        f"{report['read_bytes'] >> 20} + {report['file_read_bytes'] >> 20} MiB, "
        f"{report['ending']}: {report['reason']}; {report['record']}; {report['notes']}"
    )


@pytest.mark.parametrize("suite", ["trixie", "bookworm"])
def test_what_was_reclaimed_is_read_in_batches(boot: Boot, suite: str) -> None:
    machine = boot(suite, memory_bytes=GIB)
    workload = Workload(machine.guest, warm_bytes=WARM, period_seconds=NEVER_SECONDS)
    workload.start()
    machine.hibprep("reclaim", "max", codes=(0, 3))
    without = Touched(machine, workload)
    machine.hibprep("reclaim", "max", codes=(0, 3))
    before = workload.residency()
    report = machine.hibprep("swapin", codes=(0, 3))
    with_it = Touched(machine, workload)
    print(f"{suite}: {before}; without: {without}; {figures(report)}; then {with_it}")
    assert report["ending"] in ("done", "limit")
    assert before.warm_share <= 0.1
    assert report["asked_bytes"] >= 0.9 * WARM
    assert with_it.faults <= without.faults / 20
    assert workload.verify()["ok"]


@pytest.mark.parametrize("daemon", [True, False], ids=["daemon", "alone"])
def test_the_last_pass_takes_what_is_in_use_and_remembers_it(boot: Boot, *, daemon: bool) -> None:
    """Nothing was prepared before: that the programs of users are frozen is all that keeps their
    working set from coming straight back, and the looks of the pass are the only record."""
    machine = boot("trixie", memory_bytes=GIB, config=TAKE_ALL)
    installed(machine)
    if daemon:
        machine.guest.run(["systemctl", "start", "hibprep"], timeout=300, check=True)
    workload = Workload(
        machine.guest, warm_bytes=WARM, period_seconds=1.0, slice_name="user-1000.slice"
    )
    workload.start()
    workload.touch()  # a pass that is cut in two by the sleep would tell nothing
    cycle = machine.cycle()
    seconds = workload.touch()
    over(machine)
    share = workload.warm_share_at_wake()
    record = json.loads(machine.guest.read("/var/lib/hibprep/working-set.json"))
    (mine,) = [each for each in record["processes"] if each["pid"] == workload.pid]
    seen_pages = sum(sum(look[1::2]) for look in mine["anon"])
    (slept,) = reports(machine)
    print(cycle, share, seconds, record["looks"], seen_pages, slept["notes"], slept["steps"])
    assert slept["notes"] == []
    assert share is not None
    assert share <= 0.05
    assert seen_pages >= 0.95 * WARM / 4096
    assert workload.verify()["ok"]
