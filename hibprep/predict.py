# SPDX-License-Identifier: LGPL-2.1-or-later
"""The kernel's own arithmetic of hibernation, and a model of the time that it takes. Pure.

Page counts follow `hibernate_preallocate_memory()` and its helpers in kernel/power/snapshot.c
(identical in 6.1, 6.12 and 7.3); the swap check follows `hibernation_is_safe()` of systemd 256.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from hibprep.model import Fit, Limits, Prediction, Rates, Snapshot, SwapArea, Zone

SYSTEMD_RATIO = 0.98  # HIBERNATION_SWAP_THRESHOLD in systemd's src/shared/hibernate-util.c
WRITER_RESERVE_BYTES = 4 << 20  # PAGES_FOR_IO, kernel/power/power.h
_POINTER_BYTES = 8
_RTREE_NODE_BYTES = 24
_MAP_ENTRIES = 511  # sectors that one swap_map_page holds beside the link to the next


def saveable_pages(snapshot: Snapshot) -> int:
    """Pages that `count_data_pages()` would find: all that are present and not free."""
    return sum(zone.present_pages - zone.free_pages for zone in snapshot.zones)


def free_pages(snapshot: Snapshot) -> int:
    """Pages on the free lists of all zones."""
    return sum(zone.free_pages for zone in snapshot.zones)


def per_cpu_pages(snapshot: Snapshot) -> int:
    """Pages on the per-CPU lists.

    They count as saveable when the image is allocated and are gone when it is copied, because
    `swsusp_save()` drains them (`drain_local_pages()`; the other CPUs are offline by then).
    Since 6.7 the lists size themselves and may hold several per cent of a small machine.
    """
    return sum(zone.per_cpu_pages for zone in snapshot.zones)


def drained_pages(snapshot: Snapshot) -> int:
    """Saveable pages that are free by the time of the copy: the per-CPU lists, and on them what
    this process gives back when it ends."""
    return per_cpu_pages(snapshot) + snapshot.own_bytes // snapshot.page_size


def reserve_pages(zones: Iterable[Zone]) -> int:
    """`totalreserve_pages`, as `calculate_totalreserve_pages()` in mm/page_alloc.c adds it up."""
    return sum(
        min(zone.managed_pages, max(zone.protection_pages, default=0) + zone.high_pages)
        for zone in zones
    )


def metadata_pages(zone: Zone, page_size: int) -> int:
    """`snapshot_additional_pages()`: the bitmaps (radix trees) for one zone."""
    nodes = _divide_up(zone.spanned_pages, page_size * 8)
    pages = nodes + _divide_up(nodes * _RTREE_NODE_BYTES, page_size - _POINTER_BYTES)
    while nodes > 1:
        nodes = _divide_up(nodes, page_size // _POINTER_BYTES)
        pages += nodes
    return 2 * pages


def max_image_pages(snapshot: Snapshot) -> int:
    """`max_size`: the largest image for which there is room, about half of memory."""
    size = snapshot.page_size
    count = saveable_pages(snapshot) + free_pages(snapshot) - reserve_pages(snapshot.zones)
    meta = sum(metadata_pages(zone, size) for zone in snapshot.zones)
    reserved = _divide_up(snapshot.power.reserved_size_bytes, size)
    return max(0, (count - (meta + WRITER_RESERVE_BYTES // size)) // 2 - 2 * reserved)


def target_pages(snapshot: Snapshot, image_size_bytes: int | None = None) -> int:
    """`size`: min(image_size, max_size), what the kernel shrinks saveable memory to."""
    wanted = snapshot.power.image_size_bytes if image_size_bytes is None else image_size_bytes
    return min(_divide_up(wanted, snapshot.page_size), max_image_pages(snapshot))


def minimum_pages(snapshot: Snapshot, saveable: int | None = None) -> int:
    """`minimum_image_size()`: what the kernel believes it cannot shrink below.

    It takes all anonymous memory for swappable, also where there is no swap.
    """
    memory = snapshot.memory
    have = saveable_pages(snapshot) if saveable is None else saveable
    reclaimable = memory.slab_reclaimable_bytes + memory.anon_lru_bytes + memory.file_lru_bytes
    return max(0, have - reclaimable // snapshot.page_size)


def shrink_pages(
    snapshot: Snapshot, saveable: int | None = None, image_size_bytes: int | None = None
) -> int:
    """What the kernel passes to `shrink_all_memory()`; 0 when saveable memory is small enough."""
    have = saveable_pages(snapshot) if saveable is None else saveable
    size = target_pages(snapshot, image_size_bytes)
    if size >= have:
        return 0
    least = minimum_pages(snapshot, have)
    return have - max(size, min(least, max_image_pages(snapshot)))


# --- time -----------------------------------------------------------------------------------------


def write_seconds(image_bytes: float, rates: Rates) -> float:
    """Compressing and writing overlap: the slower of the two decides."""
    return max(
        image_bytes * rates.compression_ratio / rates.disk_write_bytes_per_second,
        image_bytes / rates.compress_bytes_per_second,
    )


def read_seconds(image_bytes: float, rates: Rates) -> float:
    """Reading and decompressing overlap likewise."""
    return max(
        image_bytes * rates.compression_ratio / rates.disk_read_bytes_per_second,
        image_bytes / rates.decompress_bytes_per_second,
    )


def predict(
    snapshot: Snapshot,
    rates: Rates,
    *,
    saveable_bytes: int | None = None,
    dirty_bytes: int | None = None,
    image_size_bytes: int | None = None,
) -> Prediction:
    """What a hibernation would be, had it to begin now.

    The optional arguments put other values in the place of the snapshot's: what would be saveable
    or dirty after a plan, or another image_size.
    """
    page = snapshot.page_size
    memory = snapshot.memory
    saveable = saveable_pages(snapshot) if saveable_bytes is None else saveable_bytes // page
    dirty = memory.dirty_bytes + memory.writeback_bytes if dirty_bytes is None else dirty_bytes
    shrink = shrink_pages(snapshot, saveable, image_size_bytes)
    allocated = saveable - shrink
    image = max(0, allocated - min(drained_pages(snapshot), allocated // 4))
    parts = {
        "fixed": rates.fixed_hibernate_seconds,
        "sync": dirty / rates.disk_write_bytes_per_second,
        "shrink": shrink * page / rates.shrink_bytes_per_second,
        "allocate": _allocated_pages(snapshot, saveable, image_size_bytes)
        * page
        / rates.copy_bytes_per_second,
        "write": write_seconds(image * page, rates),
    }
    return Prediction(
        saveable_bytes=saveable * page,
        image_bytes=image * page,
        compressed_bytes=round(image * page * rates.compression_ratio),
        shrink_bytes=shrink * page,
        hibernate_seconds=sum(parts.values()),
        resume_seconds=rates.fixed_resume_seconds + read_seconds(image * page, rates),
        parts_seconds=parts,
    )


def _allocated_pages(snapshot: Snapshot, saveable: int, image_size_bytes: int | None) -> int:
    """How many pages the kernel allocates and clears before it copies.

    Just the copies when nothing has to shrink; otherwise nearly everything, since allocation
    pressure is how it makes sure of the shrinking, also of one that has already happened.
    """
    size = target_pages(snapshot, image_size_bytes)
    if size >= saveable:
        return saveable
    total = saveable_pages(snapshot) + free_pages(snapshot) - reserve_pages(snapshot.zones)
    return max(saveable, total - size)


def largest_saveable_within(
    snapshot: Snapshot, rates: Rates, seconds: float, image_size_bytes: int | None = None
) -> int:
    """The most saveable bytes with which a hibernation still ends within so many seconds.

    0 when even an empty image takes longer. Dirty pages count as written (the plan's first stage).
    """
    page = snapshot.page_size
    low, high = 0, saveable_pages(snapshot) + free_pages(snapshot)

    def fits(pages: int) -> bool:
        guess = predict(
            snapshot,
            rates,
            saveable_bytes=pages * page,
            dirty_bytes=0,
            image_size_bytes=image_size_bytes,
        )
        return guess.hibernate_seconds <= seconds

    if not fits(0):
        return 0
    while low < high:
        middle = (low + high + 1) // 2
        if fits(middle):
            low = middle
        else:
            high = middle - 1
    return low * page


# --- will it fit ----------------------------------------------------------------------------------


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
    return round(image_bytes * ratio) + image_bytes // _MAP_ENTRIES + WRITER_RESERVE_BYTES


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

    now = saveable_pages(snapshot) * page
    # What goes to zram stays in memory, compressed where it can be.
    left = 0 if in_flight else _on_disks(snapshot, placed)
    saveable = (now if saveable_bytes is None else saveable_bytes) - left
    shrink = shrink_pages(snapshot, max(0, saveable) // page) * page
    cache = memory.file_lru_bytes + memory.slab_reclaimable_bytes
    # The kernel's own shrinking takes what the cache does not give from anon, to the same areas.
    own = swapped_by_area(snapshot.swaps, moved + max(0, shrink - cache))
    own_on_resume = own.get(area.path, 0) - placed.get(area.path, 0)
    needs = image_needs_bytes(max(0, saveable - shrink), limits.swap_reserve_ratio) + own_on_resume

    least = _least_saveable_bytes(snapshot, now)
    most = max_image_pages(snapshot) * page
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
    needs = image_needs_bytes(saveable_pages(snapshot) * snapshot.page_size, 1.0)
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
        return low  # refused already, or about to be: only what does not touch the resume device
    while low < high:
        middle = (low + high + 1) // 2
        if safe_to_swap(snapshot, limits, middle):
            low = middle
        else:
            high = middle - 1
    return low


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
    if not fit(snapshot, limits, swapped_bytes=amount_bytes, in_flight=in_flight).kernel_ok:
        return False
    worst = fit(
        snapshot, limits, swapped_bytes=min(amount_bytes, snapshot.memory.inactive_anon_bytes)
    )
    return worst.systemd_needs_bytes <= limits.systemd_margin * worst.systemd_has_bytes


def _divide_up(value: int, by: int) -> int:
    return -(-value // by)
