# SPDX-License-Identifier: LGPL-2.1-or-later
"""What bringing memory back came to: the values, and the page for a person. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from hibprep.model import Ending
from hibprep.page import Block, Page, seconds, size
from hibprep.swaporder import Part

VERSION = 1
_SHOWN_PROCESSES = 12


@dataclass(frozen=True, slots=True)
class SwapInProgress:
    """Where a run is, for a progress bar."""

    part: Part
    name: str  # of the process
    done_bytes: int
    amount_bytes: int  # what there was to bring back at the beginning, as far as it may be


@dataclass(frozen=True, slots=True, kw_only=True)
class Brought:
    """One process, or a cgroup: what of it was in swap, what was asked for of that and of its
    files, and what was left and why. `pid` is 0 for a cgroup."""

    pid: int = 0
    name: str = ""
    cgroup: str
    swapped_bytes: int = 0
    asked_bytes: int = 0
    file_asked_bytes: int = 0  # what was in memory of its files; some of it may be there still
    why_left: str = ""

    @property
    def left_bytes(self) -> int:
        """What is in swap still, unless the process has touched it since."""
        return max(0, self.swapped_bytes - self.asked_bytes)


@dataclass(frozen=True, slots=True, kw_only=True)
class SwapInReport:
    """One run. What was read is told from the counters of the machine: what other programs read
    meanwhile is in it."""

    version: int
    started: str  # ISO 8601, UTC
    seconds: float
    ending: Ending
    reason: str
    asked_bytes: int
    read_bytes: int  # from swap
    file_read_bytes: int  # from disks otherwise
    reserve_bytes: int  # of free memory, that was not touched
    processes: tuple[Brought, ...]
    record: str  # what was known of the working set, in words
    notes: tuple[str, ...] = ()

    @property
    def left_bytes(self) -> int:
        """What is in swap still, of those that were looked at."""
        return sum(each.left_bytes for each in self.processes)

    @property
    def cgroups(self) -> tuple[Brought, ...]:
        """The same by cgroup."""
        found: dict[str, Brought] = {}
        for each in self.processes:
            before = found.get(each.cgroup, Brought(cgroup=each.cgroup))
            found[each.cgroup] = Brought(
                cgroup=each.cgroup,
                swapped_bytes=before.swapped_bytes + each.swapped_bytes,
                asked_bytes=before.asked_bytes + min(each.asked_bytes, each.swapped_bytes),
                file_asked_bytes=before.file_asked_bytes + each.file_asked_bytes,
                why_left=before.why_left or (each.why_left if each.left_bytes else ""),
            )
        return tuple(found.values())


def swapin_page(report: SwapInReport) -> Page:
    """What came back, of whom, what was left and why."""
    files = f", {size(report.file_read_bytes)} of files" if report.file_read_bytes else ""
    left = f"; {size(report.left_bytes)} are left in swap" if report.left_bytes else ""
    headline = (
        f"swapin: {size(report.read_bytes)} read from swap{files} in {seconds(report.seconds)}; "
        f"{report.ending}: {report.reason}{left}"
    )
    cgroups = sorted(report.cgroups, key=lambda each: -each.swapped_bytes)
    processes = sorted(report.processes, key=lambda each: -each.asked_bytes)
    return Page(
        headline,
        (
            Block(
                "By cgroup",
                tuple((each.cgroup or "unknown", *_figures(each)) for each in cgroups),
                ("cgroup", "was in swap", "asked for", "of files", "left", "why"),
                frozenset({1, 2, 3, 4}),
            ),
            Block(
                "Processes that most was asked for of",
                tuple(
                    (f"{each.name} ({each.pid})", *_figures(each))
                    for each in processes[:_SHOWN_PROCESSES]
                    if each.asked_bytes or each.file_asked_bytes
                ),
                ("process", "was in swap", "asked for", "of files", "left", "why"),
                frozenset({1, 2, 3, 4}),
            ),
        ),
        (f"working set: {report.record}", *report.notes),
    )


def _figures(each: Brought) -> tuple[str, ...]:
    return (
        size(each.swapped_bytes),
        size(each.asked_bytes),
        size(each.file_asked_bytes),
        size(each.left_bytes),
        each.why_left if each.left_bytes else "",
    )
