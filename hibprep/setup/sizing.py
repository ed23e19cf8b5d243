# SPDX-License-Identifier: LGPL-2.1-or-later
"""How large a swap file has to be, by the arithmetic of the image. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from hibprep.fitting import SYSTEMD_RATIO, WORST_RATIO, image_needs_bytes
from hibprep.model import Snapshot
from hibprep.predict import target_pages

_MIB = 1 << 20
_STEP_BYTES = 64 * _MIB
_LEAST_SLACK_BYTES = 128 * _MIB
_SLACK_SHARE = 20  # of memory: programs go on allocating until they are frozen


@dataclass(frozen=True, slots=True, kw_only=True)
class SwapSize:
    """The size, and what it is made of."""

    size_bytes: int
    image_bytes: int  # the largest that the kernel would aim at
    image_worst_bytes: int  # on the disk, when it does not compress
    swapped_bytes: int  # what a full machine has to swap out to come down to that image
    slack_bytes: int


def swap_size(snapshot: Snapshot) -> SwapSize:
    """For a machine whose whole memory is anonymous: what does not go into the image is swapped
    out, to the same place. Enough also for systemd, which wants room for all that is active."""
    total = snapshot.memory.total_bytes
    # what the kernel begins with; 0 is "as small as it gets", or a kernel that cannot be asked
    wanted = snapshot.power.image_size_bytes or total * 2 // 5
    image = min(total, target_pages(snapshot, wanted) * snapshot.page_size)
    worst = image_needs_bytes(image, WORST_RATIO)
    swapped = total - image
    slack = max(_LEAST_SLACK_BYTES, total // _SLACK_SHARE)
    needed = max(swapped + worst + slack, int(total / SYSTEMD_RATIO) + slack)
    return SwapSize(
        size_bytes=-(-needed // _STEP_BYTES) * _STEP_BYTES,
        image_bytes=image,
        image_worst_bytes=worst,
        swapped_bytes=swapped,
        slack_bytes=slack,
    )
