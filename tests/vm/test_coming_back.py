# SPDX-License-Identifier: LGPL-2.1-or-later
"""Memory that was taken comes back in batches: on the kernel that searches pagemaps by itself, and
on the one that does not."""

from __future__ import annotations

from typing import Any

import pytest

from bench.lab import Workload
from tests.vm.conftest import GIB, MIB, Boot, Booted

WARM = 400 * MIB
NEVER_SECONDS = 3600.0  # it is read when it is asked to, and not by itself
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
