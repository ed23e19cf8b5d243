# SPDX-License-Identifier: LGPL-2.1-or-later
"""The cold leaves, the warm stays: inside one process, and with a time to keep."""

from __future__ import annotations

import pytest

from bench.lab import Workload
from tests.vm.conftest import GIB, MIB, Boot, Booted, Cycle

WARM = 410 * MIB


def calibrate(machine: Booted, idle: Cycle) -> None:
    """Tell hibprep the speed of this machine, from two hibernations of different sizes: a guest
    cannot time its own power-off, so it is measured from outside and configured."""
    workload = Workload(machine.guest, warm_bytes=WARM, name="calibrate")
    workload.start()
    fuller = machine.cycle()
    workload.stop()
    more_bytes = (fuller.image_pages - idle.image_pages) * 4096
    speed = more_bytes / (fuller.hibernate_seconds - idle.hibernate_seconds)
    fixed = idle.hibernate_seconds - idle.image_pages * 4096 / speed
    print(f"idle {idle}\nfuller {fuller}\n{speed / 1e6:.0f} MB/s, {fixed:.2f} s fixed")
    machine.guest.run(["mkdir", "-p", "/etc/hibprep"], check=True)
    machine.guest.put(
        f"""[rates]
fixed_hibernate_seconds = {max(0.0, fixed):.2f}
# compressing, copying and writing together
compress_bytes_per_second = {speed:.0f}.0
copy_bytes_per_second = 1e12
disk_write_bytes_per_second = 1e9
""".encode(),
        "/etc/hibprep/hibprep.toml",
        0o644,
    )


@pytest.mark.timeout(1500)
def test_within_a_time_the_cold_is_out_and_the_warm_is_in(boot: Boot) -> None:
    machine = boot("trixie", memory_bytes=4 * GIB)
    idle = machine.cycle()
    budget = 2 * idle.hibernate_seconds
    calibrate(machine, idle)
    workload = Workload(machine.guest, cold_bytes=2600 * MIB, warm_bytes=WARM)
    workload.start()
    workload.reset()

    report = machine.hibprep("prepare", "--within", f"{budget:.2f}", timeout=600, codes=(0, 3))
    residency = workload.residency()
    slowest = workload.slowest_pass_seconds()
    print(
        f"budget {budget:.1f} s; prepared in {report['seconds']:.1f} s; {residency}; "
        f"slowest pass {slowest:.3f} s; predicted {report['after']['hibernate_seconds']:.1f} s"
    )
    for step in report["steps"]:
        print(step["stage"], step["backend"], step["freed"], step["seconds"], step["reason"])
    assert report["ending"] == "done", report["reason"]
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
