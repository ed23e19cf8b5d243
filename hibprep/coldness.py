# SPDX-License-Identifier: LGPL-2.1-or-later
"""How long memory has been idle, by cgroup, as the multi-gen LRU knows it. Pure.

Documentation/admin-guide/mm/multigen_lru.rst; how pages get into generations: lru_gen_add_folio()
in include/linux/mm_inline.h and try_to_inc_max_seq() in mm/vmscan.c. Aging walks the page tables,
puts what was touched since the last aging into the generation that is then the youngest, and begins
the next. So a page of a generation was last found in use after that was created, and before the
next younger one was. There are four generations at most: the resolution is three edges.

What the figures cannot tell:

- What was touched since the last aging is found by the next one. Until then it is counted where it
  was (`CgroupAges.looked_seconds`). Eviction looks at each page again: what it takes has been idle
  for as long as its row says.
- A fifth generation makes the kernel put the oldest one's pages into the next: the oldest one of
  each kind has no upper edge.
- Memory that is not mapped when it comes in (read(2), readahead) enters the oldest generations, so
  for page cache the age only says that it was not seen in use since.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from hibprep.model import GenerationList

# DAMON looks at a page by clearing its accessed bit (damon_folio_mkold() in mm/damon/ops-common.c);
# an aging that comes after it finds the page unused (walk_pte_range() in mm/vmscan.c).
DAMON_STAT_HIDES = "DAMON_STAT clears the accessed bits by which an aging finds what was used"
MIN_GENERATIONS = 2  # MIN_NR_GENS: the youngest, which eviction leaves alone


@dataclass(frozen=True, slots=True, kw_only=True)
class AgeRow:
    """What has been idle for between `at_least_seconds` and `at_most_seconds` (None: nobody knows
    how long). Eviction takes `evictable` rows only."""

    at_least_seconds: float
    at_most_seconds: float | None
    anon_bytes: int
    file_bytes: int
    evictable: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class CgroupAges:
    """One cgroup without those below it, all nodes together; rows from the oldest. Nodes are aged
    each by itself: rows of two nodes may overlap. `looked_seconds` ago the page tables were walked
    last (of several nodes: the one where that is longest ago)."""

    path: str
    rows: tuple[AgeRow, ...]
    looked_seconds: float = 0.0

    @property
    def anon_bytes(self) -> int:
        """Of all ages; shmem included."""
        return sum(row.anon_bytes for row in self.rows)

    @property
    def file_bytes(self) -> int:
        """Of all ages."""
        return sum(row.file_bytes for row in self.rows)

    def older_than(self, seconds: float, *, evictable: bool = True) -> tuple[int, int]:
        """Bytes of anonymous memory and of page cache that are known to have been idle for so
        long; with `evictable` only what eviction could take now."""
        rows = [
            row
            for row in self.rows
            if row.at_least_seconds >= seconds and (row.evictable or not evictable)
        ]
        return sum(row.anon_bytes for row in rows), sum(row.file_bytes for row in rows)

    def used_within(self, seconds: float) -> tuple[int, int]:
        """The working set: bytes of anonymous memory and of page cache that are not known to have
        been idle for so long. An upper bound, as coarse as the edges are."""
        anon, file = self.older_than(seconds, evictable=False)
        return self.anon_bytes - anon, self.file_bytes - file


def histogram(
    lists: Sequence[GenerationList], page_size: int, *, known_seconds: float | None = None
) -> tuple[CgroupAges, ...]:
    """What the generations say, by cgroup, in the order of `lists`.

    `known_seconds` is for a multi-gen LRU that was switched on so long ago: generations that are
    there from the start claim the age of their cgroup (lru_gen_init_lruvec()), and that is no
    knowledge.
    """
    by_path: dict[str, list[GenerationList]] = {}
    for entry in lists:
        by_path.setdefault(entry.path, []).append(entry)
    return tuple(
        CgroupAges(
            path=path,
            rows=_merged(
                row for entry in entries for row in _rows(entry, page_size, known_seconds)
            ),
            looked_seconds=max(
                (entry.generations[-1].age_seconds for entry in entries if entry.generations),
                default=0.0,
            ),
        )
        for path, entries in by_path.items()
    )


def _rows(entry: GenerationList, page_size: int, known_seconds: float | None) -> list[AgeRow]:
    rows: list[AgeRow] = []
    anon_before = file_before = False
    for index, generation in enumerate(entry.generations):
        younger = entry.generations[index + 1 :]
        at_least = younger[0].age_seconds if younger else 0.0
        # the oldest of its kind has those in it whose generation is gone
        bounded = (anon_before or not generation.anon_pages) and (
            file_before or not generation.file_pages
        )
        at_most = generation.age_seconds if index and bounded else None
        if known_seconds is not None:
            at_least = min(at_least, known_seconds)
            if at_most is not None and at_most > known_seconds:
                at_most = None
        rows.append(
            AgeRow(
                at_least_seconds=at_least,
                at_most_seconds=at_most,
                anon_bytes=generation.anon_pages * page_size,
                file_bytes=generation.file_pages * page_size,
                evictable=len(younger) >= MIN_GENERATIONS,
            )
        )
        anon_before = anon_before or generation.anon_pages > 0
        file_before = file_before or generation.file_pages > 0
    return rows


def _merged(rows: Iterable[AgeRow]) -> tuple[AgeRow, ...]:
    """The oldest first, those of the same age in one."""
    sums: dict[tuple[float, float | None, bool], tuple[int, int]] = {}
    for row in rows:
        key = (row.at_least_seconds, row.at_most_seconds, row.evictable)
        anon, file = sums.get(key, (0, 0))
        sums[key] = (anon + row.anon_bytes, file + row.file_bytes)
    unbounded = float("inf")
    return tuple(
        AgeRow(
            at_least_seconds=at_least,
            at_most_seconds=at_most,
            anon_bytes=anon,
            file_bytes=file,
            evictable=evictable,
        )
        for (at_least, at_most, evictable), (anon, file) in sorted(
            sums.items(),
            key=lambda item: (
                -item[0][0],
                -(unbounded if item[0][1] is None else item[0][1]),
                not item[0][2],
            ),
        )
    )
