# SPDX-License-Identifier: LGPL-2.1-or-later
"""What is in zram, in a guest: written to the device behind it, and let out of it around a
hibernation that is then accepted; back in use after it, and after a kill."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.lab import Guest, Workload, build
from tests.vm.conftest import GIB, MIB, Booted

ZRAM = "/sys/block/zram0"
# zram0 of 600 MiB with a loop device behind it, before the disk
SET_UP = f"""set -e
truncate -s 400M /behind
losetup /dev/loop0 /behind
modprobe zram num_devices=1
echo /dev/loop0 > {ZRAM}/backing_dev
echo 600M > {ZRAM}/disksize
mkswap /dev/zram0 >&2
swapon -p 100 /dev/zram0
"""
# as a run that is killed between the two would leave it
KILLED = """
import os
from hibprep.kernel.areasaway import AreasAway
from hibprep.kernel.root import KernelRoot
from hibprep.kernel.swapcall import swap_off
root = KernelRoot()
AreasAway(root).note("/dev/zram0", 100)
swap_off(root, "/dev/zram0")
os.kill(os.getpid(), 9)
"""


def shell(machine: Booted, script: str) -> str:
    return str(machine.guest.run(["sh", "-c", script], timeout=120, check=True).text)


def priority(machine: Booted) -> int | None:
    for line in machine.guest.read("/proc/swaps").splitlines():
        if line.startswith("/dev/zram0"):
            return int(line.split()[-1])
    return None


def used(machine: Booted) -> int:
    """The memory that zram takes."""
    return int(machine.guest.read(f"{ZRAM}/mm_stat").split()[2])


def fill(machine: Booted) -> int:
    """Have memory swapped out, which goes to zram first; the memory that zram takes then."""
    machine.guest.run(
        ["sh", "-c", "echo '250M swappiness=200' > /sys/fs/cgroup/memory.reclaim"], timeout=120
    )
    return used(machine)


@pytest.mark.timeout(1500)
def test_what_is_in_zram_leaves_memory_and_zram_is_in_use_again(wheel: Path) -> None:
    # room on the root disk for the file behind zram
    with Guest(build("trixie", print), memory_bytes=1 * GIB, root_bytes=4 * GIB) as guest:
        seconds = guest.start()
        guest.install(wheel)
        in_and_out(Booted(guest, seconds))


def in_and_out(machine: Booted) -> None:
    shell(machine, SET_UP)
    workload = Workload(machine.guest, cold_bytes=350 * MIB, warm_bytes=16 * MIB)
    workload.start()

    before = fill(machine)
    assert before > 50 * MIB
    report = machine.hibprep(
        "prepare", "--target", "min", "--zram", "writeback", timeout=300, codes=(0, 3)
    )
    print("written back", before, used(machine), report["notes"])
    assert any("written to /dev/loop0" in note for note in report["notes"])
    assert used(machine) < before / 4
    assert machine.guest.read(f"{ZRAM}/writeback_limit_enable").strip() == "0"
    assert workload.verify()["ok"]

    machine.guest.run(["python3", "-c", KILLED], timeout=120)
    assert priority(machine) is None
    machine.hibprep("plan")
    assert priority(machine) == 100

    before = fill(machine)
    planned = machine.hibprep("plan", "--target", "min")
    assert "zram" in {limit["name"] for limit in planned["limits"]}
    assert planned["swap_budget_bytes"] == 0
    cycle = machine.cycle("hibprep", "hibernate", "--zram", "out", "--target", "min", "--json")
    print("out", before, cycle, cycle.report["notes"])
    for step in cycle.report["steps"]:
        print(step["stage"], step["backend"], step["freed"], step["reason"])
    assert cycle.report["hibernation"]["slept"]
    assert any("off until after the resume" in note for note in cycle.report["notes"])
    assert cycle.report["freed"]["swapped_out_bytes"] > 100 * MIB
    assert cycle.report["irreducible"].get("zram pool", 0) < MIB
    assert priority(machine) == 100
    assert workload.verify()["ok"]
