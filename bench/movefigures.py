# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the samples of `bench/migrate.py` come to: medians, what was saved, which promises held.
Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median, median_low
from typing import Any

from bench.moves import AHEAD, HAS_HIBPREP, Condition, Load, Sample

MIB = 1 << 20

# Of the bytes that are sent when nothing is done, so many are to be saved with half of memory page
# cache and a quarter cold.
LEAST_SAVED = {
    Condition.HIBPREP: 0.65,
    Condition.HIBPREP_REPORTING: 0.80,
    Condition.AHEAD: 0.65,
    Condition.AHEAD_REPORTING: 0.80,
}
MOST_SLOWED = 0.05
MOST_BESIDE = 0.10  # how far an estimate may be beside what was sent


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """All samples of one condition with one load; medians. ``saved`` and ``total_ratio`` compare
    with the same load when nothing was done, None where that was not measured."""

    condition: Condition
    load: Load
    reserve_bytes: int
    runs: int
    sent_bytes: int
    spread: float  # the most less the least, by the median
    saved: float | None
    prepare_seconds: float
    migrate_seconds: float
    total_seconds: float
    total_ratio: float | None
    downtime_seconds: float
    actual_bytes: int
    normal_pages: int
    zero_pages: int
    undo_seconds: float
    estimated_ratio: float  # by what was sent; the one that is farthest from 1
    predicted_ratio: float
    slowed: float | None  # the paced program's rate: 0.05 is 5 % slower
    piece_ratio: float | None  # how much longer a piece of its work took
    ahead_seconds: float | None  # the guest's hibprep was at work before anybody asked
    oom_kills: int
    failed: int  # not put back, or not intact


def rows(samples: Sequence[Sample]) -> list[Row]:
    """One for each cell, in the order of loads, conditions and reserves."""
    cells = {sample.cell for sample in samples}
    conditions, loads = list(Condition), list(Load)
    ordered = sorted(
        cells,
        key=lambda each: (
            loads.index(each.load),
            each.reserve_bytes,
            conditions.index(each.condition),
        ),
    )
    return [_row([each for each in samples if each.cell == cell], samples) for cell in ordered]


def _row(mine: Sequence[Sample], everything: Sequence[Sample]) -> Row:
    first = mine[0]
    base = [
        each
        for each in everything
        if each.load is first.load and each.condition is Condition.NOTHING
    ]
    sent = median_low(each.sent_bytes for each in mine)
    total = median(each.total_seconds for each in mine)
    return Row(
        condition=first.condition,
        load=first.load,
        reserve_bytes=first.reserve_bytes,
        runs=len(mine),
        sent_bytes=sent,
        spread=(max(x.sent_bytes for x in mine) - min(x.sent_bytes for x in mine)) / sent,
        saved=1 - sent / median_low(each.sent_bytes for each in base) if base else None,
        prepare_seconds=median(each.prepare_seconds for each in mine),
        migrate_seconds=median(each.migrate_seconds for each in mine),
        total_seconds=total,
        total_ratio=total / median(each.total_seconds for each in base) if base else None,
        downtime_seconds=median(each.downtime_seconds for each in mine),
        actual_bytes=median_low(each.actual_bytes for each in mine),
        normal_pages=median_low(each.normal_pages for each in mine),
        zero_pages=median_low(each.zero_pages for each in mine),
        undo_seconds=median(each.undo_seconds for each in mine),
        estimated_ratio=_farthest(each.estimated_bytes / each.sent_bytes for each in mine),
        predicted_ratio=_farthest(each.predicted_bytes / each.sent_bytes for each in mine),
        slowed=_median(map(slowed, mine)),
        piece_ratio=_median(map(piece_ratio, mine)),
        ahead_seconds=_median(each.ahead_seconds for each in mine),
        oom_kills=sum(each.oom_kills for each in mine),
        failed=sum(not (each.undone and each.intact) for each in mine),
    )


def slowed(sample: Sample) -> float | None:
    """By what share the paced program's rate fell while the guest was prepared; below 0 where it
    rose."""
    if sample.quiet_pieces_per_second is None or sample.pieces_per_second is None:
        return None
    return 1 - sample.pieces_per_second / sample.quiet_pieces_per_second


def piece_ratio(sample: Sample) -> float | None:
    """How much longer a piece of its work took."""
    if sample.quiet_piece_seconds is None or sample.piece_seconds is None:
        return None
    return sample.piece_seconds / sample.quiet_piece_seconds


def _farthest(ratios: Iterable[float]) -> float:
    return max(ratios, key=lambda each: abs(each - 1))


def _median(values: Iterable[float | None]) -> float | None:
    known = [each for each in values if each is not None]
    return median(known) if known else None


def kept(found: Sequence[Row], *, while_it_pays: bool) -> dict[str, bool]:
    """Which promises held, of those that anything was measured for: fewer bytes where bytes were
    what mattered, sooner done where it was prepared no longer than that pays; both where the guest
    had been prepared ahead."""
    said: dict[str, bool] = {}
    for row in found:
        if row.condition not in HAS_HIBPREP or row.reserve_bytes:
            continue
        name = str(row.condition)
        bytes_matter = not while_it_pays or row.condition in AHEAD
        if bytes_matter and row.load is Load.MIXED and row.saved is not None:
            share = LEAST_SAVED[row.condition]
            said[f"{name}: at least {share:.0%} fewer bytes"] = row.saved >= share
        timed = while_it_pays and row.load in (Load.MIXED, Load.CACHE)
        if timed and row.total_ratio is not None:
            said[f"{name}, {row.load}: sooner done, preparation included"] = row.total_ratio < 1
        if row.slowed is not None:
            said[f"{name}: others slowed by less than {MOST_SLOWED:.0%}"] = row.slowed < MOST_SLOWED
    if found:
        beside = all(abs(row.estimated_ratio - 1) <= MOST_BESIDE for row in found)
        said[f"estimates within {MOST_BESIDE:.0%} of what was sent"] = beside
        said["nothing killed for want of memory"] = not any(row.oom_kills for row in found)
        said["every guest put back and intact"] = not any(row.failed for row in found)
    return said


def curve(found: Sequence[Row]) -> list[Row]:
    """What a smaller or larger reserve comes to: those with a fixed one, the smallest first."""
    return sorted(
        (row for row in found if row.reserve_bytes), key=lambda row: (row.load, row.reserve_bytes)
    )


def as_json(found: Sequence[Row]) -> list[Mapping[str, Any]]:
    """The rows, names and figures."""
    return [{name: getattr(row, name) for name in Row.__slots__} for row in found]
