# SPDX-License-Identifier: LGPL-2.1-or-later
"""What QEMU is told of a guest's disks."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.lab.machine import Hardware


def drives(rate: int, requests: int) -> list[str]:
    hardware = Hardware(
        kernel=Path("/k"), initrd=Path("/i"), root_disk=Path("/a,b/root.img"),
        swap_disk=Path("/swap.img"), memory_bytes=1 << 30, cpus=2, disk_bytes_per_second=rate,
        kernel_command_line="", accelerator=(), disk_requests_per_second=requests,
    )  # fmt: skip
    words = hardware.arguments(Path("/console"), 3, 4)
    return [words[at + 1] for at, word in enumerate(words) if word == "-drive"]


@pytest.mark.parametrize(
    ("rate", "requests", "ending"),
    [
        (0, 0, ""),
        (1000, 0, ",throttling.bps-total=1000"),
        (0, 500, ",throttling.iops-total=500"),
        (1000, 500, ",throttling.bps-total=1000,throttling.iops-total=500"),
    ],
)
def test_each_disk_is_throttled(rate: int, requests: int, ending: str) -> None:
    common = ",if=virtio,format=raw,cache=unsafe,discard=unmap"
    assert drives(rate, requests) == [
        f"file=/a,,b/root.img{common}{ending}",
        f"file=/swap.img{common}{ending}",
    ]
