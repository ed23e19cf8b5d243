# SPDX-License-Identifier: LGPL-2.1-or-later
"""Which image_size to hold for the length of a hibernation. Pure.

Just above what is saveable, so that the kernel has nothing to shrink: with a smaller one it
allocates and clears most of memory to force a shrinking that has already happened
(`hibernate_preallocate_memory()`). Smaller than the kernel's own where the resume device has no
room for so much.
"""

from __future__ import annotations

from dataclasses import dataclass

from hibprep import fitting, predict
from hibprep import plan as planning
from hibprep.model import Limits, Snapshot

IMAGE_SIZE = "/sys/power/image_size"
_MAP_SHARE = 0.002  # of the image: the pages that list its sectors


@dataclass(frozen=True, slots=True)
class Hold:
    """The image_size to hold; 0 leaves it as it is, for the reason given."""

    value_bytes: int
    reason: str


def hold_image_size(snapshot: Snapshot, limits: Limits) -> Hold:
    """Just above what is saveable, unless what is left of the resume device cannot take that."""
    page, ratio = snapshot.page_size, limits.swap_reserve_ratio
    saveable = predict.saveable_pages(snapshot) * page
    too_large = predict.max_image_pages(snapshot) * page < saveable
    area = fitting.resume_area(snapshot)
    room = area.free_bytes if area else 0
    if not too_large and fitting.image_needs_bytes(saveable, ratio) <= room:
        return Hold(
            saveable + planning.headroom_bytes(snapshot),
            "just above what is saveable, so that the kernel has nothing to shrink",
        )
    own = predict.target_pages(snapshot) * page
    if fitting.image_needs_bytes(own, ratio) <= room:
        if too_large:
            why = "more is left than the largest possible image; the kernel has to shrink it"
        else:
            why = "the resume device has no room for more; the kernel's own size is kept"
        return Hold(0, why)
    # The kernel's shrinking swaps anonymous memory out to the very device that is short of room:
    # a smaller image is a help only where the cache alone makes it smaller.
    takes = round((room - predict.WRITER_RESERVE_BYTES) / (ratio + _MAP_SHARE))
    if saveable - takes > snapshot.memory.file_lru_bytes:
        return Hold(0, "the resume device has no room, and a smaller image would need more of it")
    return Hold(takes, "as large as what is left of the resume device can take")
