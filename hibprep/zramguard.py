# SPDX-License-Identifier: LGPL-2.1-or-later
"""Whether what is in a zram device can come back into memory, so that it may go to a disk. Pure.

swapoff(8) reads everything back, uncompressed. Where that does not fit, the kernel swaps out others
meanwhile, and where that does not fit either, programs are killed: so both are looked at first, and
again all the while (`may_go_on`). Nor may it make a hibernation refused that would be accepted: all
that comes back may count as active memory for systemd.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from hibprep import fitting
from hibprep.model import Limits, Snapshot, SwapArea, Zone, Zram


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether it may be switched off, and why not, in words."""

    ok: bool
    reason: str
    needs_bytes: int = 0
    has_bytes: int = 0


def margin_bytes(snapshot: Snapshot) -> int:
    """What is to be left over: programs go on allocating while zram is emptied."""
    return max(64 << 20, snapshot.memory.total_bytes // 20)


def room_bytes(snapshot: Snapshot) -> int:
    """Free memory, and what others may be swapped out to meanwhile."""
    disks = sum(area.free_bytes for area in snapshot.swaps if not area.is_zram)
    return snapshot.memory.free_bytes + disks


def may_leave(snapshot: Snapshot, area: SwapArea, device: Zram | None, limits: Limits) -> Verdict:
    """Whether swap on `area`, a zram device, may be switched off now."""
    if area.priority < 0:
        # The kernel gives these by itself, in the order of swapon: it would come back behind others
        return Verdict(
            ok=False,
            reason=f"it has no priority of its own, which could be given back; swapon "
            f"--priority 100 {area.path} would give it one",
        )
    if all(each.is_zram for each in snapshot.swaps):
        return Verdict(ok=False, reason="there is no swap on a disk for what is in it")
    needs = max(area.used_bytes, device.original_bytes if device else 0)
    has, wanted = room_bytes(snapshot), needs + margin_bytes(snapshot)
    if has < wanted:
        return Verdict(
            ok=False,
            reason="free memory and swap on disks are too little for what is in it: "
            f"{wanted - has} bytes are missing",
            needs_bytes=wanted,
            has_bytes=has,
        )
    before, after = (
        fitting.fit(snapshot, limits),
        fitting.fit(_after(snapshot, area, needs), limits),
    )
    if before.ok and not after.ok:
        reason = f"a hibernation might be refused then: {after.reason}"
        return Verdict(ok=False, reason=reason, needs_bytes=wanted, has_bytes=has)
    return Verdict(ok=True, reason="it fits", needs_bytes=wanted, has_bytes=has)


def may_go_on(snapshot: Snapshot, path: str) -> bool:
    """Whether what is left in it still fits, while it is being emptied."""
    left = sum(area.used_bytes for area in snapshot.swaps if area.path == path)
    return room_bytes(snapshot) >= left + margin_bytes(snapshot) // 2


def _after(snapshot: Snapshot, area: SwapArea, back_bytes: int) -> Snapshot:
    """The machine when all of it is back: in memory as far as that goes, and active."""
    memory = snapshot.memory
    free = memory.free_bytes + snapshot.zram_used_bytes
    stays = min(back_bytes, free)
    others = tuple(each for each in snapshot.swaps if each.path != area.path)
    placed = fitting.swapped_by_area(others, back_bytes - stays)
    pages = (free - stays) // snapshot.page_size
    return replace(
        snapshot,
        memory=replace(
            memory,
            free_bytes=free - stays,
            active_anon_bytes=memory.active_anon_bytes + stays,
        ),
        zones=_with_free(snapshot.zones, pages),
        swaps=tuple(
            replace(each, used_bytes=each.used_bytes + placed.get(each.path, 0)) for each in others
        ),
        zram_used_bytes=0,
    )


def _with_free(zones: tuple[Zone, ...], free_pages: int) -> tuple[Zone, ...]:
    left, found = free_pages, []
    for zone in zones:
        here = min(left, zone.managed_pages)
        left -= here
        found.append(replace(zone, free_pages=here))
    return tuple(found)
