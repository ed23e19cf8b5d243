# SPDX-License-Identifier: LGPL-2.1-or-later
"""Random machines as snapshots, consistent in themselves, and what swapping out makes of them."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import strategies as st

from hibprep import predict
from hibprep.model import (
    Generation,
    GenerationList,
    Memory,
    Power,
    Rates,
    Snapshot,
    SwapArea,
    Zone,
)

MIB = 1 << 20
GIB = 1 << 30
PAGE = 4096
_LETTERS = "bcd"


def pages(size_bytes: int) -> int:
    return size_bytes // PAGE


@st.composite
def swap_areas(draw: st.DrawFn, total: int, *, zram: bool, roomy: bool) -> tuple[SwapArea, ...]:
    priorities = draw(st.permutations(range(-3, 5)))
    areas = []
    for index in range(draw(st.integers(1 if roomy else 0, 3))):
        size = draw(st.integers(total // 3 // MIB if roomy else 16, 2 * total // MIB)) * MIB
        is_file = draw(st.booleans())
        areas.append(
            SwapArea(
                path=f"/swap{index}" if is_file else f"/dev/vd{_LETTERS[index]}",
                is_file=is_file,
                size_bytes=size,
                used_bytes=0
                if roomy or draw(st.booleans())
                else draw(st.integers(0, size // MIB)) * MIB,
                priority=priorities[index],
                device="254:1" if is_file else f"254:{16 * (index + 1)}",
                offset_pages=1000 * (index + 1) if is_file else None,
            )
        )
    if zram and draw(st.integers(0, 3)) == 0:
        areas.append(
            SwapArea(
                path="/dev/zram0",
                is_file=False,
                size_bytes=total // 2,
                used_bytes=0,
                priority=priorities[3],
                device="252:0",
                is_zram=True,
            )
        )
    return tuple(areas)


@st.composite
def snapshots(draw: st.DrawFn, *, zram: bool = True, roomy: bool = False) -> Snapshot:
    """`roomy`: with so much swap that a hibernation is mostly accepted."""
    total = draw(st.sampled_from([512 * MIB, GIB, 2 * GIB, 4 * GIB, 16 * GIB, 256 * GIB]))
    left = total - 96 * MIB

    def take(share: float) -> int:
        nonlocal left
        amount = int(left * share * draw(st.floats(0, 1))) // PAGE * PAGE
        left -= amount
        return amount

    active, inactive = take(0.6), take(0.6)
    active_file, inactive_file = take(0.4), take(0.4)
    slab = take(0.1)
    unreclaimable = take(0.1)
    dirty = min(take(0.1), inactive_file)
    free = left + dirty if draw(st.booleans()) else int(left * draw(st.floats(0, 1)))
    boundary = pages(min(total, 3 * GIB))
    sizes = [("DMA32", boundary)]
    if pages(total) > boundary:
        sizes.append(("Normal", pages(total) - boundary))
    zones: list[Zone] = []
    free_left = pages(min(free, total - (active + inactive + active_file + inactive_file + slab)))
    for name, managed in sizes:
        here = free_left if name == sizes[-1][0] else free_left * managed // pages(total)
        free_left -= here
        present = managed + managed // 64
        zones.append(
            Zone(
                node=0,
                name=name,
                present_pages=present,
                managed_pages=managed,
                spanned_pages=present + draw(st.sampled_from([0, 96, 500_000])),
                free_pages=min(here, managed),
                high_pages=managed // 200,
                protection_pages=(0, 0, pages(total) // 300 if len(sizes) > len(zones) + 1 else 0),
                per_cpu_pages=draw(st.integers(0, 2000)),
            )
        )
    swaps = draw(swap_areas(total, zram=zram, roomy=roomy))
    named = draw(st.sampled_from([None, *[area for area in swaps if not area.is_zram]]))
    return Snapshot(
        page_size=PAGE,
        memory=Memory(
            total_bytes=total,
            free_bytes=sum(zone.free_pages for zone in zones) * PAGE,
            active_anon_bytes=active,
            inactive_anon_bytes=inactive,
            active_file_bytes=active_file,
            inactive_file_bytes=inactive_file,
            mapped_bytes=draw(st.integers(0, pages(active_file))) * PAGE,
            dirty_bytes=dirty,
            slab_reclaimable_bytes=slab,
            slab_unreclaimable_bytes=unreclaimable,
        ),
        zones=tuple(zones),
        swaps=swaps,
        power=Power(
            available=roomy or draw(st.integers(0, 9)) > 0,
            image_size_bytes=draw(st.sampled_from([0, total // 10, total * 2 // 5, total])),
            reserved_size_bytes=MIB,
            resume_device=named.device if named else "",
            resume_offset_pages=(named.offset_pages or 0) if named else 0,
        ),
        generations=draw(generation_lists(active + inactive)),
        protected_bytes=draw(st.sampled_from([0, 0, 64 * MIB, total // 2])),
        swap_barred_bytes=draw(st.sampled_from([0, 0, 32 * MIB, total // 2])),
        lru_gen_enabled=draw(st.sampled_from([True, False, None])),
        damon_stat=draw(st.booleans()),
        zswap_enabled=draw(st.booleans()),
        laptop_mode=draw(st.sampled_from([0, 5])),
    )


@st.composite
def generation_lists(draw: st.DrawFn, anon_bytes: int) -> tuple[GenerationList, ...]:
    if draw(st.booleans()):
        return ()
    ages = sorted(draw(st.lists(st.floats(0, 5000), min_size=2, max_size=4)), reverse=True)
    share = pages(anon_bytes) // len(ages)
    return (
        GenerationList(
            memcg_id=1,
            path="/",
            node=0,
            generations=tuple(
                Generation(sequence=index, age_seconds=age, anon_pages=share, file_pages=0)
                for index, age in enumerate(ages)
            ),
        ),
    )


RATES = st.builds(
    Rates,
    disk_write_bytes_per_second=st.floats(1e6, 5e9),
    disk_read_bytes_per_second=st.floats(1e6, 5e9),
    compress_bytes_per_second=st.floats(1e7, 1e10),
    decompress_bytes_per_second=st.floats(1e7, 1e10),
    shrink_bytes_per_second=st.floats(1e6, 1e10),
    copy_bytes_per_second=st.floats(1e8, 1e11),
    compression_ratio=st.floats(0.05, 1.1),
    fixed_hibernate_seconds=st.floats(0, 20),
    fixed_resume_seconds=st.floats(0, 20),
)


def swap_out(snapshot: Snapshot, amount_bytes: int, active_share: float = 0.0) -> Snapshot:
    """The machine after so much anonymous memory left it, as the kernel would place it: by
    priority, whatever goes to zram staying in memory (it may not compress at all)."""
    memory = snapshot.memory
    amount = min(amount_bytes, memory.anon_lru_bytes) // PAGE * PAGE
    from_active = min(memory.active_anon_bytes, int(amount * active_share) // PAGE * PAGE)
    from_inactive = min(memory.inactive_anon_bytes, amount - from_active)
    from_active = min(memory.active_anon_bytes, amount - from_inactive)
    left = from_active + from_inactive
    to_disk = 0
    areas = {area.path: area for area in snapshot.swaps}
    for area in sorted(snapshot.swaps, key=lambda each: -each.priority):
        part = min(left, area.free_bytes)
        areas[area.path] = replace(area, used_bytes=area.used_bytes + part)
        left -= part
        to_disk += 0 if area.is_zram else part
    # what found no place stays where it was
    from_inactive -= min(left, from_inactive)
    freed = pages(to_disk)
    zones: list[Zone] = []
    for zone in snapshot.zones:
        part = min(freed, zone.present_pages - zone.free_pages)
        freed -= part
        zones.append(replace(zone, free_pages=zone.free_pages + part))
    return replace(
        snapshot,
        memory=replace(
            memory,
            active_anon_bytes=memory.active_anon_bytes - from_active,
            inactive_anon_bytes=memory.inactive_anon_bytes - from_inactive,
            free_bytes=sum(zone.free_pages for zone in zones) * PAGE,
        ),
        zones=tuple(zones),
        swaps=tuple(areas[area.path] for area in snapshot.swaps),
    )


def saveable_bytes(snapshot: Snapshot) -> int:
    return predict.saveable_pages(snapshot) * snapshot.page_size
