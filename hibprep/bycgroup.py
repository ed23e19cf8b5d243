# SPDX-License-Identifier: LGPL-2.1-or-later
"""What became less in every cgroup while memory was reclaimed. Pure.

Told from memory.stat and memory.swap.current before and after: what programs did meanwhile is in
it. A cgroup's figures have all below it in them, as those of the kernel; `own_bytes` has not.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from hibprep.model import CgroupFreed

_WORTH_TELLING_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Level:
    """What a cgroup with all below it had at one moment, in bytes."""

    anon: int = 0  # shmem included
    file: int = 0
    slab: int = 0
    swap: int = 0


def level_of(stat: Mapping[str, int], swap_bytes: int) -> Level:
    """From its memory.stat and its memory.swap.current."""
    shmem = stat.get("shmem", 0)
    return Level(
        anon=stat.get("anon", 0) + shmem,
        file=max(0, stat.get("file", 0) - shmem),
        slab=stat.get("slab_reclaimable", 0),
        swap=swap_bytes,
    )


def freed_by_cgroup(
    before: Mapping[str, Level], after: Mapping[str, Level]
) -> tuple[CgroupFreed, ...]:
    """Those of which something worth telling went, in the order of their paths. Cgroups that began
    or ended meanwhile are left out: their memory came or went with them."""
    lost = {path: _lost(level, after[path]) for path, level in before.items() if path in after}
    found = []
    for path in sorted(lost):
        one = lost[path]
        if one.freed_bytes + one.swapped_out_bytes < _WORTH_TELLING_BYTES:
            continue
        below = sum(lost[each].freed_bytes for each in lost if _parent(each) == path != each)
        found.append(
            CgroupFreed(
                path=path,
                anon_bytes=one.anon_bytes,
                file_bytes=one.file_bytes,
                slab_bytes=one.slab_bytes,
                swapped_out_bytes=one.swapped_out_bytes,
                own_bytes=max(0, one.freed_bytes - below),
            )
        )
    return tuple(found)


def _lost(before: Level, after: Level) -> CgroupFreed:
    return CgroupFreed(
        path="",
        anon_bytes=max(0, before.anon - after.anon),
        file_bytes=max(0, before.file - after.file),
        slab_bytes=max(0, before.slab - after.slab),
        swapped_out_bytes=max(0, after.swap - before.swap),
    )


def _parent(path: str) -> str:
    return path.rpartition("/")[0] or "/"
