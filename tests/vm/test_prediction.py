# SPDX-License-Identifier: LGPL-2.1-or-later
"""What is predicted against what the kernel then says on its console."""

from __future__ import annotations

import pytest

from bench.lab import Workload
from tests.vm.conftest import MIB, Boot

SAVEABLE_TOLERANCE = 0.05
IMAGE_TOLERANCE = 0.10


@pytest.mark.parametrize("fill_mib", [0, 300, 600])
def test_saveable_and_image_are_predicted(boot: Boot, fill_mib: int) -> None:
    machine = boot("trixie")
    workload = Workload(machine.guest, cold_bytes=fill_mib * MIB, warm_bytes=16 * MIB)
    workload.start()
    # room for all of it: the kernel need not shrink, and says what it found
    machine.setting("/sys/power/image_size", str(1500 * MIB))
    for prepared in (False, True):
        if prepared:
            machine.hibprep("prepare", "--target", "min", codes=(0, 3))
        predicted = machine.hibprep("plan")["before"]
        cycle = machine.cycle()
        saveable = predicted["saveable_bytes"] / 4096
        image = predicted["image_bytes"] / 4096
        print(
            f"{fill_mib} MiB prepared={prepared}: saveable {saveable:.0f} predicted, "
            f"{cycle.facts.allocated_pages} allocated; image {image:.0f} predicted, "
            f"{cycle.facts.need_to_copy_pages} copied; {cycle.hibernate_seconds:.1f} s"
        )
        assert saveable == pytest.approx(cycle.facts.allocated_pages, rel=SAVEABLE_TOLERANCE)
        assert image == pytest.approx(cycle.facts.need_to_copy_pages, rel=IMAGE_TOLERANCE)
    verified = workload.verify()
    assert verified["ok"], verified
