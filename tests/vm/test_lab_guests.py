# SPDX-License-Identifier: LGPL-2.1-or-later
"""The lab's own guests: swap on a file, a larger root disk, memory of every kind."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench.lab import Guest, Workload, build
from tests.vm.conftest import GIB, MIB, Booted

ROOT_BYTES = 6 * GIB
SWAP_BYTES = 3 * GIB
SWAP_FILE = "/swapfile"
REGIONS = ("cold", "warm", "tmpfs", "read", "mapped")


def _root_bytes(guest: Guest) -> int:
    return int(guest.run(["df", "-B1", "--output=size", "/"], check=True).text.split()[-1])


@pytest.mark.parametrize("suite", ["trixie", "bookworm"])
def test_a_guest_hibernates_into_a_swap_file_with_memory_of_every_kind(
    wheel: Path, suite: str
) -> None:
    image = build(suite, print)
    with Guest(image, swap_file=True, swap_bytes=SWAP_BYTES, root_bytes=ROOT_BYTES) as guest:
        machine = Booted(guest, guest.start())
        guest.install(wheel)
        assert "/dev/vdb" not in guest.read("/proc/swaps")
        assert _root_bytes(guest) > 0.95 * (ROOT_BYTES + SWAP_BYTES)
        # hibprep finds the file, and that an image would go there
        plan = machine.hibprep("plan")
        assert plan["fit_before"]["systemd_ok"], plan["fit_before"]
        checked = machine.hibprep("check", codes=(0, 1, 3))
        print(json.dumps(checked, indent=1))

        workload = Workload(
            guest,
            cold_bytes=200 * MIB,
            warm_bytes=64 * MIB,
            tmpfs_bytes=1100 * MIB,  # more than a tmpfs takes unless told
            read_bytes=100 * MIB,
            mapped_bytes=100 * MIB,
        )
        state = workload.start(600)
        print(state)
        cycle = machine.cycle()
        verified = workload.verify()
        print(cycle, verified, guest.read("/proc/swaps"))
        assert verified == {"ok": True, **{f"{name}_wrong_blocks": 0 for name in REGIONS}}
        files = [state[name]["path"] for name in ("tmpfs", "read", "mapped")]
        guest.run(["ls", "-l", *files], check=True)
        workload.stop()
        assert guest.run(["ls", *files]).text == ""

        # after a power cut it is the same machine, and it need not be told again
        boot_seconds = guest.restart()
        print(f"booted in {machine.boot_seconds:.1f} s, again in {boot_seconds:.1f} s")
        assert SWAP_FILE in guest.read("/proc/swaps")
        assert "resume_offset=" in guest.read("/proc/cmdline")
        print(machine.cycle())
