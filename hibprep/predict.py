# SPDX-License-Identifier: LGPL-2.1-or-later
"""The kernel's own arithmetic of hibernation, and a model of the time that it takes. Pure.

Page counts follow `hibernate_preallocate_memory()` and its helpers in kernel/power/snapshot.c
(identical in 6.1, 6.12 and 7.3). Whether there is room for the image is `hibprep.fit`'s to say.
"""

from __future__ import annotations

from collections.abc import Iterable

from hibprep.model import Prediction, Rates, Snapshot, Zone

WRITER_RESERVE_BYTES = 4 << 20  # PAGES_FOR_IO, kernel/power/power.h
_POINTER_BYTES = 8
_RTREE_NODE_BYTES = 24


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


def _divide_up(value: int, by: int) -> int:
    return -(-value // by)
