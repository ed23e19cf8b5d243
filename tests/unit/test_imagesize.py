# SPDX-License-Identifier: LGPL-2.1-or-later
"""Which image_size is held over a hibernation."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given

from hibprep import fitting, predict
from hibprep.imagesize import hold_image_size
from hibprep.model import Limits, Snapshot
from tests.unit.examples import DISK, GIB, MIB, SNAPSHOT
from tests.unit.strategies import snapshots

LIMITS = Limits()


def saveable(snapshot: Snapshot) -> int:
    return predict.saveable_pages(snapshot) * snapshot.page_size


def with_room(room_bytes: int) -> Snapshot:
    """3500 MiB is saveable, 3 GiB is the kernel's own image_size, 2 GiB of it is page cache."""
    zones = tuple(
        replace(zone, free_pages=zone.managed_pages - 3500 * MIB // 4096) for zone in SNAPSHOT.zones
    )
    memory = replace(SNAPSHOT.memory, active_anon_bytes=GIB, inactive_anon_bytes=GIB)
    area = replace(DISK, used_bytes=DISK.size_bytes - room_bytes)
    return replace(SNAPSHOT, zones=zones, memory=memory, swaps=(area,))


def test_a_little_more_than_what_is_saveable() -> None:
    snapshot = with_room(8 * GIB)
    held = hold_image_size(snapshot, LIMITS)
    assert saveable(snapshot) < held.value_bytes < saveable(snapshot) * 1.1


def test_no_more_than_the_resume_device_takes() -> None:
    snapshot = with_room(1600 * MIB)  # x 0.6: not enough for 3 GiB
    held = hold_image_size(snapshot, LIMITS)
    assert 0 < held.value_bytes < 3 * GIB
    assert fitting.image_needs_bytes(held.value_bytes, LIMITS.swap_reserve_ratio) <= 1600 * MIB


def test_what_the_kernel_would_do_anyway_is_left_to_it() -> None:
    held = hold_image_size(with_room(2000 * MIB), LIMITS)
    assert held.value_bytes == 0
    assert "kernel's own size" in held.reason


def test_a_smaller_image_is_no_help_where_only_swapping_makes_it_smaller() -> None:
    held = hold_image_size(with_room(700 * MIB), LIMITS)
    assert held.value_bytes == 0
    assert "would need more" in held.reason


@given(snapshots())
def test_what_is_held_never_asks_for_more_than_there_is_room(snapshot: Snapshot) -> None:
    held = hold_image_size(snapshot, LIMITS)
    assert held.reason
    if held.value_bytes == 0:
        return
    area = fitting.resume_area(snapshot)
    assert area is not None
    image = min(held.value_bytes, saveable(snapshot))
    assert fitting.image_needs_bytes(image, LIMITS.swap_reserve_ratio) <= area.free_bytes
    if held.value_bytes < saveable(snapshot):
        assert saveable(snapshot) - held.value_bytes <= snapshot.memory.file_lru_bytes
