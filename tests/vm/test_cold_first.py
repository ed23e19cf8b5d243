# SPDX-License-Identifier: LGPL-2.1-or-later
"""The cold leaves, the warm stays: inside one process, and with a time to keep."""

from __future__ import annotations

import pytest

from bench.lab import Workload
from tests.vm.conftest import GIB, MIB, Boot


@pytest.mark.timeout(1500)
def test_within_a_time_the_cold_is_out_and_the_warm_is_in(boot: Boot) -> None:
    machine = boot("trixie", memory_bytes=4 * GIB)
    idle = machine.cycle()
    budget = 2 * idle.hibernate_seconds
    # The speeds of this machine, as measured from outside: a guest cannot time its own power-off.
    facts = idle.facts
    fixed = idle.hibernate_seconds - facts.write_seconds - facts.allocate_seconds
    machine.guest.run(["mkdir", "-p", "/etc/hibprep"], check=True)
    machine.guest.put(
        f"""[rates]
fixed_hibernate_seconds = {fixed:.2f}
compress_bytes_per_second = {facts.wrote_bytes / facts.write_seconds:.0f}.0
copy_bytes_per_second = {facts.allocated_bytes / facts.allocate_seconds:.0f}.0
disk_write_bytes_per_second = {100e6}
""".encode(),
        "/etc/hibprep/hibprep.toml",
        0o644,
    )
    workload = Workload(machine.guest, cold_bytes=2600 * MIB, warm_bytes=410 * MIB)
    workload.start()
    workload.reset()

    report = machine.hibprep("prepare", "--within", f"{budget:.2f}", timeout=600)
    residency = workload.residency()
    slowest = workload.slowest_pass_seconds()
    print(
        f"budget {budget:.1f} s; prepared in {report['seconds']:.1f} s; {residency}; "
        f"slowest pass {slowest:.3f} s; predicted {report['after']['hibernate_seconds']:.1f} s"
    )
    for step in report["steps"]:
        print(step["stage"], step["backend"], step["freed"], step["seconds"], step["reason"])
    assert residency.cold_share <= 0.05
    assert residency.warm_share >= 0.95
    assert slowest < 0.2

    workload.reset()
    cycle = machine.cycle()
    workload.touch()
    first = workload.slowest_pass_seconds()
    print(cycle, f"first pass {first:.3f} s", workload.residency())
    assert cycle.hibernate_seconds <= budget
    assert first < 0.5
    verified = workload.verify()
    assert verified["ok"], verified
