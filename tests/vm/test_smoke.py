# SPDX-License-Identifier: LGPL-2.1-or-later
"""The one guest of `make test`: filled, prepared, really hibernated, really resumed, intact."""

from __future__ import annotations

import pytest

from bench.lab import Workload
from tests.vm.conftest import GIB, MIB, Boot


@pytest.mark.smoke
def test_a_filled_guest_is_prepared_hibernates_and_comes_back_intact(boot: Boot) -> None:
    machine = boot("trixie", memory_bytes=1 * GIB)
    workload = Workload(machine.guest, cold_bytes=550 * MIB, warm_bytes=32 * MIB)
    workload.start()
    image_size = machine.guest.read("/sys/power/image_size").strip()
    planned = machine.hibprep("plan", "--target", "min")

    cycle = machine.cycle("hibprep", "hibernate", "--target", "min", "--json")

    report = cycle.report
    print(cycle, report["steps"], report["hibernation"])
    assert report["hibernation"]["slept"] is True
    assert report["ending"] == "done", report["reason"]
    assert report["freed"]["anon_bytes"] > 500 * MIB
    cold = next(step for step in report["steps"] if step["stage"] == "cold-anon")
    assert cold["backend"] == "lrugen"
    assert cold["freed"]["anon_bytes"] > 500 * MIB
    # nothing was left to the kernel to shrink
    before_pages = planned["before"]["saveable_bytes"] // 4096
    assert cycle.facts.allocated_pages < 0.5 * before_pages
    predicted = report["after"]["image_bytes"] // 4096
    assert cycle.image_pages == pytest.approx(predicted, rel=0.15)
    # the settings are back, the memory is intact, the run is on record
    assert machine.guest.read("/sys/power/image_size").strip() == image_size
    verified = workload.verify()
    assert verified["ok"], verified
    assert machine.hibprep("status")["report"]["command"] == "hibernate"
