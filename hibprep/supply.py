# SPDX-License-Identifier: LGPL-2.1-or-later
"""What there is to be had, by kind, and what keeps the rest in memory. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from hibprep import fitting, predict
from hibprep.coldfirst import cold_bytes
from hibprep.model import Limit, Limits, Snapshot, Target, TargetKind

# the kinds of what is irreducible that processes are to be named for
LOCKED = "unevictable and mlocked"
HUGE_PAGES = "huge pages"


@dataclass(frozen=True, slots=True)
class Supply:
    """What there is to be had, by kind, in bytes."""

    dirty: int
    cache: int
    slab: int
    anon: int  # for stage anon
    by_age: int  # for stage cold-anon: as much of it as proves cold
    cold: int  # known now from the generations' ages; more may prove cold while the plan runs
    budget: int  # of swap


def supply_of(snapshot: Snapshot, target: Target, limits: Limits, notes: list[Limit]) -> Supply:
    """What may be taken for `target`; whatever bounds it is added to `notes`."""
    memory, scope, rules = snapshot.memory, snapshot.scope, snapshot.rules
    slab, dirty = memory.slab_reclaimable_bytes, memory.dirty_bytes + memory.writeback_bytes
    file, mapped, anon = memory.file_lru_bytes, memory.mapped_bytes, memory.anon_lru_bytes
    # Mapped file pages are running programs: only "as small as possible" asks for them too.
    spares_mapped = target.kind is not TargetKind.MIN
    cache = max(0, file - (mapped if spares_mapped else 0))
    if scope is not None:
        file, mapped = scope.file_bytes, scope.mapped_bytes
        anon, dirty = min(anon, scope.anon_bytes), min(dirty, scope.dirty_bytes)
    mapped = max(0, mapped - rules.cache.mapped_bytes) if spares_mapped else 0
    cache = min(cache, max(0, file - rules.cache.file_bytes - mapped))
    by_age = max(0, anon - rules.cold.anon_bytes)
    anon = max(0, anon - rules.anon.anon_bytes)
    if snapshot.protected_bytes:
        notes.append(
            Limit(
                name="memory.min",
                text="memory.min keeps part of memory from being reclaimed",
                bytes=snapshot.protected_bytes,
            )
        )
        # Which kind the protected memory is of is not known; the cheaper one is less missed.
        cache_held = min(cache, snapshot.protected_bytes)
        cache -= cache_held
        anon = max(0, anon - (snapshot.protected_bytes - cache_held))
        by_age = max(0, by_age - (snapshot.protected_bytes - cache_held))
    if snapshot.swap_barred_bytes:
        notes.append(
            Limit(
                name="memory.swap.max",
                text="some cgroups may not use swap; their anonymous memory stays",
                bytes=snapshot.swap_barred_bytes,
            )
        )
        anon = max(0, anon - snapshot.swap_barred_bytes)
        by_age = max(0, by_age - snapshot.swap_barred_bytes)
    budget = _swap_budget(snapshot, limits, by_age, notes)
    return Supply(
        dirty=dirty,
        cache=cache,
        slab=slab,
        anon=anon,
        by_age=by_age,
        cold=min(by_age, cold_bytes(snapshot, limits.cold_age_seconds, limits.scope.path)),
        budget=budget,
    )


def _swap_budget(snapshot: Snapshot, limits: Limits, anon: int, notes: list[Limit]) -> int:
    disks = [area for area in snapshot.swaps if not area.is_zram]
    if not disks:
        notes.append(
            Limit(
                name="no-swap",
                text="there is no swap on a disk: anonymous memory cannot leave",
                bytes=anon,
            )
        )
        return 0
    first_disk = max(area.priority for area in disks)
    if any(
        area.is_zram and area.free_bytes and area.priority >= first_disk for area in snapshot.swaps
    ):
        notes.append(
            Limit(
                name="zram",
                text="zram comes before the disk: what is swapped out stays in memory, compressed, "
                "and goes into the image; give the disk the higher priority to change that, or "
                "leave zram for the hibernation (hibprep hibernate --zram out)",
                bytes=anon,
            )
        )
        return 0
    budget = fitting.swap_budget_bytes(snapshot, limits)
    if budget < anon:
        notes.append(
            Limit(
                name="swap-reserve",
                text="the rest of the swap is kept for the image and for systemd's check",
                bytes=budget,
            )
        )
    return budget


def irreducible(snapshot: Snapshot, swap_budget: int) -> dict[str, int]:
    """What no plan can free, by kind, in bytes; kinds that are 0 are left out."""
    memory, page = snapshot.memory, snapshot.page_size
    kept = snapshot.rules.cache.file_bytes + snapshot.rules.cold.anon_bytes
    reserved = sum(zone.present_pages - zone.managed_pages for zone in snapshot.zones) * page
    parts = {
        LOCKED: max(memory.unevictable_bytes, memory.mlocked_bytes),
        "kernel objects (slab)": memory.slab_unreclaimable_bytes,
        "kernel stacks": memory.kernel_stack_bytes,
        "page tables": memory.page_tables_bytes,
        "per-CPU areas": memory.percpu_bytes,
        HUGE_PAGES: memory.hugetlb_bytes,
        "kernel image and page structures": reserved,
        "zram pool": snapshot.zram_used_bytes,
        "zswap pool": memory.zswap_bytes,
        "protected by memory.min": snapshot.protected_bytes,
        "kept by the rules for cgroups": kept,
        "anonymous memory without room in swap": max(0, memory.anon_lru_bytes - swap_budget),
    }
    known = sum(parts.values())
    now = predict.saveable_pages(snapshot) * page
    lru = memory.file_lru_bytes + memory.slab_reclaimable_bytes
    freeable = lru + min(memory.anon_lru_bytes, swap_budget)
    # what the rules keep is on the LRU, too
    parts["other kernel and driver memory"] = max(0, now - freeable - (known - kept))
    return {name: value for name, value in parts.items() if value > 0}
