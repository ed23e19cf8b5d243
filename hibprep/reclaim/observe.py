# SPDX-License-Identifier: LGPL-2.1-or-later
"""What is true now, read once a chunk: the only thing that says what a chunk was worth."""

from __future__ import annotations

from dataclasses import dataclass, replace

from hibprep import predict
from hibprep.kernel.meminfo import read_meminfo
from hibprep.kernel.root import KernelRoot
from hibprep.kernel.swaps import parse_swaps
from hibprep.kernel.vmstat import read_vmstat
from hibprep.kernel.zoneinfo import read_zoneinfo
from hibprep.model import BackendName, Freed, Memory, Snapshot, Vmstat


@dataclass(frozen=True, slots=True)
class Observation:
    """The state and the counters at one moment."""

    snapshot: Snapshot
    vmstat: Vmstat

    @property
    def saveable_bytes(self) -> int:
        """What the image would have to hold."""
        return predict.saveable_pages(self.snapshot) * self.snapshot.page_size


class Observer:
    """Renews the parts of a snapshot that reclaim changes; the rest (power, devices, protection)
    is the plan's, and too dear to read ten times a second."""

    def __init__(self, root: KernelRoot, base: Snapshot) -> None:
        self._root = root
        self._base = base

    def observe(self) -> Observation:
        """Read meminfo, zoneinfo, swaps and vmstat; raises KernelFileError when one is gone."""
        known = {area.path: area for area in self._base.swaps}
        # An area that was switched off since is gone from the plan's fits at once; one that came is
        # not counted on, because what identifies it has not been read.
        swaps = tuple(
            replace(known[area.path], used_bytes=area.used_bytes, priority=area.priority)
            for area in parse_swaps(self._root.try_read("/proc/swaps") or "")
            if area.path in known
        )
        snapshot = replace(
            self._base,
            memory=read_meminfo(self._root),
            zones=read_zoneinfo(self._root),
            swaps=swaps,
        )
        return Observation(snapshot, read_vmstat(self._root))


def freed_between(before: Observation, after: Observation, backend: BackendName) -> Freed:
    """What left memory between two observations, by kind.

    pgsteal_* count what reclaim freed, on every kernel and by every path but these: drop_caches
    truncates instead, process_madvise and DAMON up to 6.12 are not counted, and coldpgs has loops
    of its own; for those the memory itself is looked at.
    """
    page = after.snapshot.page_size
    old, new = before.snapshot.memory, after.snapshot.memory
    file_bytes = (after.vmstat.pgsteal_file - before.vmstat.pgsteal_file) * page
    anon_bytes = (after.vmstat.pgsteal_anon - before.vmstat.pgsteal_anon) * page
    swapped_out = (after.vmstat.pswpout - before.vmstat.pswpout) * page
    if backend is BackendName.DROPCACHES:
        file_bytes = max(file_bytes, old.file_lru_bytes - new.file_lru_bytes)
    if backend is BackendName.MADVISE:
        gone = old.anon_lru_bytes - new.anon_lru_bytes
        anon_bytes = max(anon_bytes, min(gone, swapped_out))
    if backend is BackendName.DAMON:
        gone = old.file_lru_bytes - new.file_lru_bytes
        file_bytes = max(file_bytes, min(gone, new.free_bytes - old.free_bytes))
        # what was sent to swap leaves memory a good while later: it is in the swap cache till then
        zswapped = (after.vmstat.zswpout - before.vmstat.zswpout) * page
        left = swapped_out + zswapped + old.swap_cached_bytes - new.swap_cached_bytes
        anon_bytes = max(anon_bytes, min(old.anon_lru_bytes - new.anon_lru_bytes, left))
    if backend is BackendName.COLDPGS:
        # with what is mlocked, which is on neither LRU
        file_bytes = max(file_bytes, _cache_bytes(old) - _cache_bytes(new))
        zswapped = (after.vmstat.zswpout - before.vmstat.zswpout) * page
        gone = old.anon_pages_bytes + old.shmem_bytes - new.anon_pages_bytes - new.shmem_bytes
        anon_bytes = max(anon_bytes, min(gone, swapped_out + zswapped))
    return Freed(
        file_bytes=max(0, file_bytes),
        anon_bytes=max(0, anon_bytes),
        slab_bytes=max(0, old.slab_reclaimable_bytes - new.slab_reclaimable_bytes),
        free_gain_bytes=(predict.free_pages(after.snapshot) - predict.free_pages(before.snapshot))
        * page,
        swapped_out_bytes=max(0, swapped_out),
        swapped_in_bytes=max(0, (after.vmstat.pswpin - before.vmstat.pswpin) * page),
        refaulted_file_bytes=max(
            0,
            (after.vmstat.workingset_refault_file - before.vmstat.workingset_refault_file) * page,
        ),
    )


def _cache_bytes(memory: Memory) -> int:
    return memory.cached_bytes + memory.buffers_bytes - memory.shmem_bytes


def add(one: Freed, other: Freed) -> Freed:
    """Both together."""
    return Freed(
        file_bytes=one.file_bytes + other.file_bytes,
        anon_bytes=one.anon_bytes + other.anon_bytes,
        slab_bytes=one.slab_bytes + other.slab_bytes,
        free_gain_bytes=one.free_gain_bytes + other.free_gain_bytes,
        swapped_out_bytes=one.swapped_out_bytes + other.swapped_out_bytes,
        swapped_in_bytes=one.swapped_in_bytes + other.swapped_in_bytes,
        refaulted_file_bytes=one.refaulted_file_bytes + other.refaulted_file_bytes,
    )
