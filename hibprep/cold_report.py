# SPDX-License-Identifier: LGPL-2.1-or-later
"""How long memory has been idle, by cgroup: the values, and the page for a person. Pure."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from hibprep.coldness import AgeRow, CgroupAges
from hibprep.model import Ending
from hibprep.page import Block, Page, seconds, size

VERSION = 1
_EDGES_SECONDS: tuple[float, ...] = (0.0, 10.0, 60.0, 300.0, 1800.0, 7200.0, 86400.0)
_SHOWN_BYTES = 1 << 20  # smaller ones are told together
_STALE_SECONDS = 30.0
_UNITS = ((86400, "d"), (3600, "h"), (60, "min"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Colder:
    """What of one cgroup is known to have been idle for as long as was asked; `evictable_` what of
    it eviction could take now."""

    path: str
    anon_bytes: int
    file_bytes: int
    evictable_anon_bytes: int
    evictable_file_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ColdReport:
    """What is known of the ages. `aged_seconds` is 0 when memory was not aged for it; a round of
    aging took `round_seconds` of one CPU. `colder` is there when `older_than_seconds` was asked."""

    version: int
    taken: str  # ISO 8601, UTC
    scope: str
    ending: Ending
    reason: str
    aged_seconds: float
    agings: int
    round_seconds: float
    older_than_seconds: float | None
    colder: tuple[Colder, ...]
    cgroups: tuple[CgroupAges, ...]
    notes: tuple[str, ...] = ()


def colder_than(cgroups: Sequence[CgroupAges], age_seconds: float) -> tuple[Colder, ...]:
    """Every cgroup that has something as old as that."""
    found = []
    for ages in cgroups:
        anon, file = ages.older_than(age_seconds, evictable=False)
        evictable_anon, evictable_file = ages.older_than(age_seconds)
        if anon + file:
            found.append(
                Colder(
                    path=ages.path,
                    anon_bytes=anon,
                    file_bytes=file,
                    evictable_anon_bytes=evictable_anon,
                    evictable_file_bytes=evictable_file,
                )
            )
    return tuple(found)


def cold_page(report: ColdReport) -> Page:
    """One row a cgroup, columns by age; with an age asked for, what is older, and how much."""
    notes = [*_resolution(report), *report.notes]
    if report.older_than_seconds is not None:
        return _older_page(report, report.older_than_seconds, notes)
    edges = _EDGES_SECONDS
    if report.aged_seconds:
        # what was older before is in one generation with the rest by now
        edges = (0.0, report.aged_seconds / 2, report.aged_seconds)
    anon = sum(ages.anon_bytes for ages in report.cgroups)
    file = sum(ages.file_bytes for ages in report.cgroups)
    return Page(
        f"cold ({report.scope}): {size(anon)} of anonymous memory and {size(file)} of page cache, "
        "by how long they are known to have been idle",
        (
            _table("Anonymous memory", report.cgroups, edges, lambda row: row.anon_bytes),
            _table(
                "Page cache (what is read and not mapped counts as old from the start)",
                report.cgroups,
                edges,
                lambda row: row.file_bytes,
            ),
        ),
        tuple(notes),
    )


def _table(
    title: str,
    cgroups: Sequence[CgroupAges],
    edges: tuple[float, ...],
    bytes_of: Callable[[AgeRow], int],
) -> Block:
    rows: list[tuple[str, list[int], str]] = []
    rest, together = [0] * len(edges), [0] * len(edges)
    for ages in cgroups:
        amounts = [0] * len(edges)
        for row in ages.rows:
            amounts[bisect_right(edges, row.at_least_seconds) - 1] += bytes_of(row)
        together = [one + more for one, more in zip(together, amounts, strict=True)]
        if sum(amounts) < _SHOWN_BYTES:
            rest = [one + more for one, more in zip(rest, amounts, strict=True)]
        else:
            rows.append((ages.path, amounts, f"{seconds(ages.looked_seconds)} ago"))
    if sum(rest):
        rows.append(("smaller ones", rest, ""))
    if len(rows) > 1:
        rows.append(("together", together, ""))
    used = 1 + max((index for index, amount in enumerate(together) if amount), default=0)
    names = [f"under {span(younger)}" if not older else f"{span(older)} +"
             for older, younger in pairwise((*edges, edges[-1]))]  # fmt: skip
    return Block(
        title,
        tuple(
            (name, *(size(amount) if amount else "-" for amount in amounts[:used]), looked)
            for name, amounts, looked in rows
        ),
        ("cgroup", *names[:used], "looked at"),
        frozenset(range(1, used + 2)),
    )


def _older_page(report: ColdReport, age_seconds: float, notes: list[str]) -> Page:
    whole = {ages.path: ages for ages in report.cgroups}
    anon = sum(each.anon_bytes for each in report.colder)
    file = sum(each.file_bytes for each in report.colder)
    later = anon + file - sum(
        each.evictable_anon_bytes + each.evictable_file_bytes for each in report.colder
    )  # fmt: skip
    if later:
        notes.append(
            f"{size(later)} of it are in the two youngest generations, which cannot be evicted "
            "before memory is aged again"
        )
    return Page(
        f"cold ({report.scope}): {size(anon)} of anonymous memory and {size(file)} of page cache "
        f"are known to have been idle for {span(age_seconds)} or longer",
        (
            Block(
                f"Idle for {span(age_seconds)} or longer",
                tuple(
                    (
                        each.path,
                        size(each.anon_bytes),
                        size(whole[each.path].anon_bytes),
                        size(each.file_bytes),
                        size(whole[each.path].file_bytes),
                    )
                    for each in sorted(
                        report.colder, key=lambda each: -(each.anon_bytes + each.file_bytes)
                    )
                    if each.anon_bytes + each.file_bytes >= _SHOWN_BYTES
                ),
                ("cgroup", "anonymous", "of", "page cache", "of"),
                frozenset({1, 2, 3, 4}),
            ),
        ),
        tuple(notes),
    )


def _resolution(report: ColdReport) -> list[str]:
    """How much the figures are worth, in words."""
    notes = []
    if report.agings:
        notes.append(
            f"memory was aged {report.agings} times in {span(report.aged_seconds)}, which took "
            f"{report.round_seconds:.2f} s of one CPU each time"
        )
    looked = max((ages.looked_seconds for ages in report.cgroups), default=0.0)
    if looked >= _STALE_SECONDS:
        notes.append(
            f"page tables were looked at up to {seconds(looked)} ago: what was touched since is "
            "counted where it was then; --age has them looked at now"
        )
    return notes


def span(value: float) -> str:
    """A time as the head of a column."""
    for unit_seconds, name in _UNITS:
        if value >= unit_seconds and value % unit_seconds == 0:
            return f"{value / unit_seconds:.0f} {name}"
    return f"{value:g} s"
