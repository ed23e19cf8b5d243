# SPDX-License-Identifier: LGPL-2.1-or-later
"""What `bench/migrate.py` measures, as values: conditions, loads, and what one guest came to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType

MIB = 1 << 20
GIB = 1 << 30


class Condition(StrEnum):
    """What is done before the guest is sent. Those with reporting have that device."""

    NOTHING = "nothing"
    DROPCACHES = "dropcaches"
    BALLOON = "balloon"
    REPORTING = "reporting"
    HIBPREP = "hibprep"
    HIBPREP_REPORTING = "hibprep-reporting"
    AHEAD = "hibprep-ahead"
    AHEAD_REPORTING = "hibprep-ahead-reporting"


class Load(StrEnum):
    """What the guest's memory is filled with."""

    CACHE = "cache"
    COLD = "cold"
    MIXED = "mixed"
    BUSY = "busy"


# shares of memory: page cache, and anonymous memory that nobody touches again
SHARES: Mapping[Load, tuple[float, float]] = MappingProxyType(
    {
        Load.CACHE: (0.60, 0.0),
        Load.COLD: (0.0, 0.50),
        Load.MIXED: (0.50, 0.25),
        Load.BUSY: (0.50, 0.20),  # and the program with its working set
    }
)
REPORTS = frozenset({Condition.REPORTING, Condition.HIBPREP_REPORTING, Condition.AHEAD_REPORTING})
# hibprep in the guest has prepared it while nobody used it, before anybody thought of moving it
AHEAD = frozenset({Condition.AHEAD, Condition.AHEAD_REPORTING})
HAS_HIBPREP = frozenset({Condition.HIBPREP, Condition.HIBPREP_REPORTING, *AHEAD})


@dataclass(frozen=True, slots=True)
class Setting:
    """What is the same for all samples. ``disk_bytes_per_second``: of each of the guest's disks."""

    memory_bytes: int = GIB
    bytes_per_second: int = 125_000_000  # 1 Gbit/s
    disk_bytes_per_second: int = 500 * MIB
    settle_seconds: float = 15.0
    while_it_pays: bool = False  # as `hibprep guest migrate` does unless it is told --thorough


@dataclass(frozen=True, slots=True)
class Cell:
    """What one sample is of. ``reserve_bytes``: what the balloon leaves beyond what is used; 0 for
    what hibprep leaves by itself."""

    condition: Condition
    load: Load
    reserve_bytes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One guest.

    `predicted_bytes` is what hibprep's estimate said before anything was done, `estimated_bytes`
    what it said of the guest just before it was sent, `sent_bytes` what QEMU counted then.
    `actual_bytes` is what the balloon left to the guest, `unused_bytes` and `usable_bytes` what it
    told of that (MemFree, MemAvailable), `rss_bytes` QEMU's size in memory. Pieces are those of the
    paced program while the guest was prepared, `quiet` ones of the time before; None where there
    was none. `ahead_seconds`: for how long hibprep in the guest was at work before anybody asked.
    `intact`: every byte of what had been filled was compared afterwards.
    """

    round: int
    condition: Condition
    load: Load
    reserve_bytes: int
    accelerator: str
    predicted_bytes: int
    estimated_bytes: int
    prepare_seconds: float
    ending: str
    actual_bytes: int
    unused_bytes: int
    usable_bytes: int
    rss_bytes: int
    sent_bytes: int
    normal_pages: int
    zero_pages: int
    rounds: int
    migrate_seconds: float
    downtime_seconds: float
    undo_seconds: float
    undone: bool
    oom_kills: int
    intact: bool
    quiet_pieces_per_second: float | None = None
    quiet_piece_seconds: float | None = None
    pieces_per_second: float | None = None
    piece_seconds: float | None = None
    ahead_seconds: float | None = None

    @property
    def cell(self) -> Cell:
        """What it is of."""
        return Cell(self.condition, self.load, self.reserve_bytes)

    @property
    def total_seconds(self) -> float:
        """Preparation and migration, from the moment that somebody asks for it."""
        return self.prepare_seconds + self.migrate_seconds
