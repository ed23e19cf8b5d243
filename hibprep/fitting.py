# SPDX-License-Identifier: LGPL-2.1-or-later
"""Whether a hibernation would be accepted, and how much may go to swap without changing that. Pure.

The swap check follows `hibernation_is_safe()` of systemd 256 (src/shared/hibernate-util.c), the
room that an image takes kernel/power/swap.c.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from hibprep import predict
from hibprep.model import Fit, Limits, Snapshot, SwapArea

SYSTEMD_RATIO = 0.98  # HIBERNATION_SWAP_THRESHOLD in systemd's src/shared/hibernate-util.c
# What may go to swap stops short of the room that the image needs: programs go on allocating.
ROOM_MARGIN = 0.97
# The kernel's own shrinking takes more slots than it frees memory: it goes past its target, and
# what it wrote is still in the swap cache, and so in the image as well. (Seen on 6.12: some 730 MB
# of slots for 500 MB, and a write that ended with ENOSPC.)
SLOTS_PER_SHRUNK = 1.5
WORST_RATIO = 1.07  # LZO can make what does not compress this much larger
_MAP_ENTRIES = 511  # sectors that one swap_map_page holds beside the link to the next


def resume_area(snapshot: Snapshot) -> SwapArea | None:
    """The swap area that would take the image, found as systemd's
    `find_suitable_hibernation_device()` finds it: the one that /sys/power/resume names, else the
    best that is not zram."""
    best: SwapArea | None = None
    for area in snapshot.swaps:
        if area.is_zram:
            continue
        if snapshot.power.resume_device:
            if area.device == snapshot.power.resume_device and _offset_matches(area, snapshot):
                return area
        elif best is None or area.priority > best.priority or area.free_bytes > best.free_bytes:
            best = area
    return best


def _offset_matches(area: SwapArea, snapshot: Snapshot) -> bool:
    offset = snapshot.power.resume_offset_pages
    if not area.is_file:
        return offset == 0
    return area.offset_pages is None or area.offset_pages == offset


def image_needs_bytes(image_bytes: int, ratio: float) -> int:
    """Room that an image takes on the resume device: the compressed pages, the map pages that list
    their sectors, and what the writer keeps for itself (kernel/power/swap.c)."""
    return round(image_bytes * ratio) + image_bytes // _MAP_ENTRIES + predict.WRITER_RESERVE_BYTES


def swapped_by_area(swaps: Iterable[SwapArea], amount_bytes: int) -> dict[str, int]:
    """Where so many bytes of anonymous memory would go: the areas are filled by priority."""
    placed: dict[str, int] = {}
    left = amount_bytes
    for area in sorted(swaps, key=lambda area: -area.priority):
        placed[area.path] = min(left, area.free_bytes)
        left -= placed[area.path]
    return placed


def fit(
    snapshot: Snapshot,
    limits: Limits,
    *,
    saveable_bytes: int | None = None,
    swapped_bytes: int = 0,
    in_flight: bool = False,
) -> Fit:
    """Whether a hibernation would be accepted, by systemd and by the kernel.

    `swapped_bytes` asks "and after so much more anonymous memory went to swap": the inactive part
    of it first, as the kernel takes it, which is the worst order for systemd's check. With
    `in_flight` its slots are taken and its pages, still being written, are yet in memory.
    """
    area = resume_area(snapshot)
    if area is None:
        return _no_resume_area(snapshot)
    page, memory = snapshot.page_size, snapshot.memory
    placed = swapped_by_area(snapshot.swaps, swapped_bytes)
    room = area.free_bytes - placed.get(area.path, 0)
    moved = sum(placed.values())
    active = max(0, memory.active_anon_bytes - max(0, moved - memory.inactive_anon_bytes))

    now = predict.saveable_pages(snapshot) * page
    # What goes to zram stays in memory, compressed where it can be.
    left = 0 if in_flight else _on_disks(snapshot, placed)
    saveable = (now if saveable_bytes is None else saveable_bytes) - left
    cache = memory.file_lru_bytes + memory.slab_reclaimable_bytes
    # What has left already cannot be shrunk again, whatever is asked for.
    there = cache + max(0, memory.anon_lru_bytes - moved)
    shrink = min(there, predict.shrink_pages(snapshot, max(0, saveable) // page) * page)
    # The kernel's own shrinking takes what the cache does not give from anon, to the same areas.
    shrunk = round(max(0, shrink - cache) * SLOTS_PER_SHRUNK)
    own = swapped_by_area(snapshot.swaps, moved + shrunk)
    own_on_resume = own.get(area.path, 0) - placed.get(area.path, 0)
    needs = image_needs_bytes(max(0, saveable - shrink), limits.swap_reserve_ratio) + own_on_resume

    least = _least_saveable_bytes(snapshot, now)
    most = predict.max_image_pages(snapshot) * page
    systemd_ok = active <= room * SYSTEMD_RATIO
    kernel_ok = needs <= room and least <= most
    return Fit(
        resume_path=area.path,
        systemd_ok=systemd_ok,
        systemd_needs_bytes=round(active / SYSTEMD_RATIO),
        systemd_has_bytes=room,
        kernel_ok=kernel_ok,
        kernel_needs_bytes=needs,
        kernel_has_bytes=room,
        reason=_fit_words(area, systemd_ok, needs <= room, least <= most),
    )


def _on_disks(snapshot: Snapshot, placed: Mapping[str, int]) -> int:
    """The part of what was placed in swap that left memory for it."""
    return sum(placed[area.path] for area in snapshot.swaps if not area.is_zram)


def _least_saveable_bytes(snapshot: Snapshot, now: int) -> int:
    """What would be left if the kernel shrank all that it can, with the swap that there is."""
    memory = snapshot.memory
    swap = sum(area.free_bytes for area in snapshot.swaps if not area.is_zram)
    gives = memory.file_lru_bytes + memory.slab_reclaimable_bytes + min(memory.anon_lru_bytes, swap)
    return max(0, now - gives)


def _no_resume_area(snapshot: Snapshot) -> Fit:
    if not snapshot.swaps:
        reason = "there is no swap, and so no place for the image"
    elif snapshot.power.resume_device:
        reason = f"the resume device {snapshot.power.resume_device} is not in use as swap"
    else:
        reason = "all swap is on zram, which is memory itself and cannot hold the image"
    needs = image_needs_bytes(predict.saveable_pages(snapshot) * snapshot.page_size, 1.0)
    return Fit(
        resume_path="",
        systemd_ok=False,
        systemd_needs_bytes=snapshot.memory.active_anon_bytes,
        systemd_has_bytes=0,
        kernel_ok=False,
        kernel_needs_bytes=needs,
        kernel_has_bytes=0,
        reason=reason,
    )


def _fit_words(area: SwapArea, systemd_ok: bool, room_ok: bool, memory_ok: bool) -> str:  # noqa: FBT001
    wrong = []
    if not systemd_ok:
        wrong.append(f"systemd would refuse: active anonymous memory is over 98 % of {area.path}")
    if not room_ok:
        wrong.append(f"the image may not fit in what is left of {area.path}")
    if not memory_ok:
        wrong.append("memory that cannot be freed is more than the largest image, half of memory")
    return "; ".join(wrong) or "fits"


def swap_budget_bytes(snapshot: Snapshot, limits: Limits) -> int:
    """How much anonymous memory may go to swap without making a hibernation that would be accepted
    now be refused. Reserve first, swap out what is left over.

    zram takes no part: what goes there stays in memory, and the areas behind it are only reached
    when it is full. Without hibernation there is nothing to protect and the whole of the swap that
    comes before zram may be used.
    """
    zram = max(
        (area.priority for area in snapshot.swaps if area.is_zram and area.free_bytes),
        default=None,
    )
    total = sum(
        area.free_bytes
        for area in snapshot.swaps
        if not area.is_zram and (zram is None or area.priority > zram)
    )
    anon = snapshot.memory.anon_lru_bytes
    ceiling = min(total, anon)
    area = resume_area(snapshot)
    if not snapshot.power.available or area is None:
        return ceiling
    low, high = min(swap_ahead_bytes(snapshot), ceiling), ceiling
    if not safe_to_swap(snapshot, limits, low):
        # Refused already: what can be gained is to leave the kernel nothing to shrink, since it
        # takes more room for that than we do. Where even this is not enough, hands off.
        cure = min(ceiling, max(low, _left_to_shrink_bytes(snapshot)))
        if not safe_to_swap(snapshot, limits, cure):
            return low
        low = cure
    while low < high:
        middle = (low + high + 1) // 2
        if safe_to_swap(snapshot, limits, middle):
            low = middle
        else:
            high = middle - 1
    return low


def _left_to_shrink_bytes(snapshot: Snapshot) -> int:
    """What the kernel's own shrinking would have to take from anonymous memory, and a little."""
    memory = snapshot.memory
    shrink = predict.shrink_pages(snapshot) * snapshot.page_size
    cache = memory.file_lru_bytes + memory.slab_reclaimable_bytes
    return max(0, shrink - cache) + memory.total_bytes // 100


def accepted(snapshot: Snapshot, limits: Limits) -> bool:
    """Whether both would accept now, with the margin."""
    return safe_to_swap(snapshot, limits, 0)


def safe_to_age(snapshot: Snapshot, limits: Limits) -> bool:
    """Whether systemd would still accept if all anonymous memory turned out to be active.

    Aging (and switching the multi-gen LRU on, where it is off) puts whatever was touched into the
    youngest generations, and the two youngest count as Active(anon).
    """
    area = resume_area(snapshot)
    if not snapshot.power.available or area is None:
        return True
    return snapshot.memory.anon_lru_bytes <= SYSTEMD_RATIO * limits.systemd_margin * area.free_bytes


def swap_ahead_bytes(snapshot: Snapshot) -> int:
    """Room in the areas that are filled before the resume device is touched, zram left out."""
    resume = resume_area(snapshot)
    return sum(
        area.free_bytes
        for area in snapshot.swaps
        if not area.is_zram and resume is not None and area.priority > resume.priority
    )


def safe_to_swap(
    snapshot: Snapshot, limits: Limits, amount_bytes: int, *, in_flight: bool = False
) -> bool:
    """Whether both fits hold, with the margin, at every moment until so much more went to swap.

    The kernel's fit only gets tighter with every byte. systemd's gets tighter while inactive memory
    goes and looser once active memory does, so its worst moment is when the inactive is gone.
    """
    whole = fit(snapshot, limits, swapped_bytes=amount_bytes, in_flight=in_flight)
    if not whole.kernel_ok or whole.kernel_needs_bytes > ROOM_MARGIN * whole.kernel_has_bytes:
        return False
    worst = fit(
        snapshot, limits, swapped_bytes=min(amount_bytes, snapshot.memory.inactive_anon_bytes)
    )
    return worst.systemd_needs_bytes <= limits.systemd_margin * worst.systemd_has_bytes
