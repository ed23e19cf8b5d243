# SPDX-License-Identifier: LGPL-2.1-or-later
"""Which anonymous memory has to go, from the age histogram, and how much of each age stays. Pure.

Where the generations already prove as much memory idle as has to go, the threshold is put at the
age of the oldest that are enough: they go, and what is younger stays, without a wait for an aging
(which would put the oldest generation into the next, and so forget how old it is). Where they do
not, or what they say is out of date, what proves idle for `Limits.cold_age_seconds` goes, while
memory is aged to find it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from hibprep import predict
from hibprep.coldness import AgeRow, CgroupAges, histogram
from hibprep.model import (
    AgeShare,
    Kind,
    Limits,
    Rates,
    Rules,
    Snapshot,
    Stage,
    Step,
    TargetKind,
)
from hibprep.rules import covers, is_spared

# Where the rows of the table begin, beside the thresholds of the steps.
EDGES_SECONDS = (0.0, 10.0, 60.0, 600.0, 3600.0, 86400.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One step of stage cold-anon. With `waits` it is not known yet how much proves idle for so
    long; `whole`: whatever is that old goes, wherever the goal is."""

    amount_bytes: int
    min_age_seconds: float
    waits: bool
    whole: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """What a plan takes, in bytes, as far as it can be foreseen."""

    anon: int = 0
    cold: int = 0  # of `anon`, by stage cold-anon
    file: int = 0


def parts_of(
    snapshot: Snapshot, limits: Limits, kind: TargetKind, *, rest_bytes: int, most_bytes: int
) -> tuple[Part, ...]:
    """How stage cold-anon frees `rest_bytes`, of `most_bytes` that it may take at all. Where there
    is no time to wait, only what is known to be cold is in it.

    All that is cold goes for "min"; for a time whole generations, so that no part of a program is
    left behind for the sake of a few pages; for a size no byte more than it asks for. The last part
    stands in where those before it fall short: what was touched since memory was aged last is
    counted as old, and found out when it is to go.
    """
    parts = _parts_of(snapshot, limits, kind, rest_bytes=rest_bytes, most_bytes=most_bytes)
    if limits.cold_wait_seconds == 0:
        return tuple(part for part in parts if not part.waits)
    return parts


def _parts_of(
    snapshot: Snapshot, limits: Limits, kind: TargetKind, *, rest_bytes: int, most_bytes: int
) -> tuple[Part, ...]:
    need = min(rest_bytes, most_bytes)
    age = limits.cold_age_seconds
    every = Part(amount_bytes=most_bytes, min_age_seconds=age, waits=True, whole=True)
    if kind is TargetKind.MIN:
        return (every,) if most_bytes else ()
    if need <= 0:
        return ()
    bands, enough = _oldest(_bands(snapshot, limits), need, age)
    if not enough and limits.cold_wait_seconds != 0:
        bands = []
    if not bands and kind is TargetKind.WITHIN:
        return (every,)
    last = Part(amount_bytes=need, min_age_seconds=age, waits=True, whole=False)
    if not bands:
        return (last,)
    if kind is TargetKind.WITHIN:
        known = min(sum(size for _, size in bands), most_bytes)
        found = [(known, bands[-1][0])]
    else:
        # The youngest of them goes in part alone, after all that is older.
        older = sum(size for _, size in bands[:-1])
        found = [(older, bands[-2][0])] if older else []
        found.append((min(need - older, bands[-1][1]), bands[-1][0]))
    whole = kind is TargetKind.WITHIN
    return (
        *(
            Part(amount_bytes=size, min_age_seconds=edge, waits=False, whole=whole)
            for size, edge in found
        ),
        last,
    )


def most_anon_bytes(steps: Iterable[Step]) -> int:
    """What these steps may take of anonymous memory at most; those that stand in for others that
    fall short count once."""
    known = waiting = rest = 0
    for step in steps:
        if step.stage is Stage.ANON:
            rest += step.amount_bytes
        elif step.stage is Stage.COLD_ANON and step.waits:
            waiting += step.amount_bytes
        elif step.stage is Stage.COLD_ANON:
            known += step.amount_bytes
    return rest + max(known, waiting)


def cold_bytes(snapshot: Snapshot, min_age_seconds: float, scope: str = "/") -> int:
    """Anonymous memory that is known to have been idle for so long and can be evicted now, of the
    cgroup `scope`, without what a rule keeps."""
    return sum(
        ages.older_than(min_age_seconds)[0]
        for ages in _ages(snapshot)
        if covers(scope, ages.path) and not is_spared(ages.path, snapshot.rules.cold.paths)
    )


def _ages(snapshot: Snapshot) -> tuple[CgroupAges, ...]:
    if snapshot.lru_gen_enabled is False:
        return ()  # what is left from when it was on says nothing of now
    return histogram(snapshot.generations, snapshot.page_size)


def _bands(snapshot: Snapshot, limits: Limits) -> list[tuple[float, int]]:
    """(age, bytes) of what stage cold-anon may take, from the oldest."""
    sizes: dict[float, int] = {}
    for ages in _ages(snapshot):
        if not covers(limits.scope.path, ages.path):
            continue
        if is_spared(ages.path, snapshot.rules.cold.paths):
            continue
        for row in ages.rows:
            if row.evictable and row.anon_bytes:
                age = row.at_least_seconds
                sizes[age] = sizes.get(age, 0) + row.anon_bytes
    return sorted(sizes.items(), reverse=True)


def _oldest(
    bands: Iterable[tuple[float, int]], need_bytes: int, least_seconds: float
) -> tuple[list[tuple[float, int]], bool]:
    """The oldest that together are enough, or all that is old enough; and whether it is enough."""
    found: list[tuple[float, int]] = []
    total = 0
    for age, size in bands:
        if age < least_seconds:
            break
        found.append((age, size))
        total += size
        if total >= need_bytes:
            return found, True
    return found, False


# --- what goes and what stays ---------------------------------------------------------------------


def shares(
    snapshot: Snapshot,
    limits: Limits,
    rates: Rates,
    steps: Sequence[Step],
    *,
    taken: Taken,
    saveable_bytes: int,
) -> tuple[AgeShare, ...]:
    """How much of each age goes and stays, from the oldest, and what the staying costs: the time
    that an image of `saveable_bytes` (what is left by the plan) takes longer for it.

    Empty where the generations are not known. What is on no list (the kernel's own) is not in it.
    """
    rows = [
        _Row(ages.path, row)
        for ages in _ages(snapshot)
        for row in ages.rows
        if row.anon_bytes or row.file_bytes
    ]
    rows.sort(key=lambda each: -each.row.at_least_seconds)
    _take(rows, limits, snapshot.rules, taken)
    edges = {step.min_age_seconds for step in steps if step.stage is Stage.COLD_ANON}
    found: list[AgeShare] = []
    left = saveable_bytes
    for edge in sorted({*EDGES_SECONDS, *edges}, reverse=True):
        inside = [each for each in rows if each.row.at_least_seconds >= edge]
        rows = rows[len(inside) :]
        if not inside:
            continue
        anon, file = (sum(part) for part in zip(*(each.stays for each in inside), strict=True))
        without = max(0, left - anon - file)
        hibernate, resume = _longer(snapshot, rates, left, without)
        left = without
        found.append(
            AgeShare(
                at_least_seconds=edge,
                anon_goes_bytes=sum(each.anon_goes for each in inside),
                anon_stays_bytes=anon,
                file_goes_bytes=sum(each.file_goes for each in inside),
                file_stays_bytes=file,
                hibernate_seconds=hibernate,
                resume_seconds=resume,
            )
        )
    return tuple(found)


@dataclass(slots=True)
class _Row:
    path: str
    row: AgeRow
    anon_goes: int = 0
    file_goes: int = 0

    @property
    def stays(self) -> tuple[int, int]:
        return self.row.anon_bytes - self.anon_goes, self.row.file_bytes - self.file_goes

    def give(self, kind: Kind, wanted_bytes: int) -> int:
        """Let go so much of a kind, or what there is of it."""
        anon, file = self.stays
        amount = min(wanted_bytes, anon if kind is Kind.ANON else file)
        if kind is Kind.ANON:
            self.anon_goes += amount
        else:
            self.file_goes += amount
        return amount


def _take(rows: Sequence[_Row], limits: Limits, rules: Rules, taken: Taken) -> None:
    """The oldest first, of what the rules let go: reclaim in LRU order does the same, roughly."""
    for stage, kind, amount in (
        (Stage.CACHE, Kind.FILE, taken.file),
        (Stage.COLD_ANON, Kind.ANON, taken.cold),
        (Stage.ANON, Kind.ANON, taken.anon - taken.cold),
    ):
        left = amount
        for each in rows:
            if left <= 0:
                break
            if stage is Stage.COLD_ANON and not each.row.evictable:
                continue
            if covers(limits.scope.path, each.path) and not is_spared(
                each.path, rules.of(stage).paths
            ):
                left -= each.give(kind, left)


def _longer(
    snapshot: Snapshot, rates: Rates, with_bytes: int, without_bytes: int
) -> tuple[float, float]:
    """How much longer a hibernation and a resume take with so much saveable than with so much."""
    more, less = (
        predict.predict(snapshot, rates, saveable_bytes=size, dirty_bytes=0)
        for size in (with_bytes, without_bytes)
    )
    return (
        max(0.0, more.hibernate_seconds - less.hibernate_seconds),
        max(0.0, more.resume_seconds - less.resume_seconds),
    )
