# SPDX-License-Identifier: LGPL-2.1-or-later
"""What moving or saving guests came to: the values, and the pages for a person. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from hibprep.errors import ExitCode
from hibprep.guests.estimate import Estimate
from hibprep.guests.port import NO_JOB, JobStats
from hibprep.guests.report import GuestReport
from hibprep.guests.undo import UndoEnding, Undone
from hibprep.model import Ending
from hibprep.page import Block, Page, seconds, size

VERSION = 1


class Where(StrEnum):
    """Where a guest is now."""

    SOURCE = "source"
    DESTINATION = "destination"
    FILE = "file"  # saved
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True, kw_only=True)
class MoveReport:
    """One guest that was migrated or saved, or was to be.

    `job` is what libvirt told of the job that completed. `undone` is what became of the guest's
    memory on the host that it runs on; None where nothing was to be undone there. `left` is what
    somebody has to type, since it could not be done. `exit_code` is for the command line.
    """

    version: int = VERSION
    operation: str  # migrate or save
    name: str
    uuid: str
    source: str
    destination: str  # "" for a save
    started: str  # ISO 8601, UTC
    seconds: float
    ending: Ending
    reason: str
    where: Where
    job: JobStats = NO_JOB
    job_seconds: float = 0.0
    undo_seconds: float = 0.0
    unprepared: Estimate | None = None
    prepared: Estimate | None = None
    preparation: GuestReport | None = None
    undone: Undone | None = None
    left: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    exit_code: ExitCode = ExitCode.DONE

    @property
    def sent_bytes_per_second(self) -> float:
        """How fast memory was sent; 0 where libvirt told nothing."""
        spent = self.job.elapsed_seconds - self.job.setup_seconds
        return self.job.memory_processed_bytes / spent if spent > 0 else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class MoveFailure:
    """A guest that nothing was begun with, and why."""

    name: str
    reason: str
    exit_code: ExitCode


@dataclass(frozen=True, slots=True, kw_only=True)
class ManyReport:
    """All guests of a host."""

    version: int = VERSION
    source: str
    destination: str
    seconds: float
    reports: tuple[MoveReport, ...]
    failures: tuple[MoveFailure, ...]

    @property
    def moved(self) -> int:
        """How many are there now, as they were."""
        return sum(1 for each in self.reports if each.exit_code is ExitCode.DONE)

    @property
    def exit_code(self) -> ExitCode:
        """0 when all are, 130 when it was interrupted, 3 when some are not."""
        codes = {each.exit_code for each in self.reports} - {ExitCode.DONE}
        codes |= {each.exit_code for each in self.failures}
        if ExitCode.INTERRUPTED in codes:
            return ExitCode.INTERRUPTED
        return ExitCode.PARTLY if codes else ExitCode.DONE


_PLACES = {
    Where.SOURCE: "it runs here as before",
    Where.DESTINATION: "it runs there",
    Where.FILE: "it is in libvirt's file",
    Where.UNKNOWN: "where it runs is not known",
}


def move_page(report: MoveReport) -> Page:
    """One guest."""
    to = f" to {report.destination}" if report.destination else ""
    headline = (
        f"{report.operation} {report.name}{to}: {report.ending}: {report.reason}; "
        f"{_PLACES[report.where]}; {seconds(report.seconds)}"
    )
    return Page(
        headline,
        (_sent(report), _times(report), _memory(report)),
        (*(f"TO BE DONE: {each}" for each in report.left), *report.notes),
    )


def _sent(report: MoveReport) -> Block:
    """What was sent, beside what it would have been: at the speed that was measured, if it was."""
    job, rate = report.job, report.sent_bytes_per_second
    rows: list[tuple[str, ...]] = []
    if job != NO_JOB:
        rows.append(
            (
                "sent",
                size(job.memory_processed_bytes),
                seconds(job.elapsed_seconds),
                _figures(job),
            )
        )
    for name, estimate in (
        ("estimate, prepared", report.prepared),
        ("estimate, as it was", report.unprepared),
    ):
        if estimate is not None:
            takes = estimate.sent_bytes / rate if rate > 0 else estimate.seconds
            rows.append((name, size(estimate.sent_bytes), seconds(takes), estimate.basis))
    return Block("Memory", tuple(rows), ("", "sent", "takes", "of it"), frozenset({1, 2}))


def _figures(job: JobStats) -> str:
    words = [f"{job.normal_pages} pages", f"{job.zero_pages} of zeros"]
    if job.iteration:
        words.append(f"{job.iteration} passes")
    if job.disk_processed_bytes:
        words.append(f"{size(job.disk_processed_bytes)} of disks beside it")
    return ", ".join(words)


def _times(report: MoveReport) -> Block:
    rows = []
    if report.preparation is not None:
        rows.append(("preparing", seconds(report.preparation.seconds)))
    if report.job_seconds:
        rows.append(("migrating" if report.destination else "saving", seconds(report.job_seconds)))
    if report.job.downtime_seconds is not None:
        rows.append(("of it the guest stood still", f"{report.job.downtime_seconds * 1000:.0f} ms"))
    if report.undo_seconds:
        rows.append(("giving memory back", seconds(report.undo_seconds)))
    return Block("Time", tuple(rows), right=frozenset({1}))


def _memory(report: MoveReport) -> Block:
    rows = []
    if report.preparation is not None:
        rows.append(("prepared", f"{report.preparation.ending}: {report.preparation.reason}"))
    if report.undone is not None and report.undone.ending is not UndoEnding.NOTHING:
        had, has = report.undone.original_bytes, report.undone.actual_bytes
        amounts = f" (had {size(had)}, has {size(has)})" if had and has else ""
        rows.append(("put back", f"{report.undone.ending}: {report.undone.reason}{amounts}"))
    return Block("The guest's memory", tuple(rows))


def many_page(report: ManyReport) -> Page:
    """All guests of a host."""
    total = len(report.reports) + len(report.failures)
    rows = [
        (
            each.name,
            str(each.where),
            size(each.job.memory_processed_bytes) if each.job != NO_JOB else "-",
            size(each.unprepared.sent_bytes) if each.unprepared else "-",
            seconds(each.seconds),
            f"{each.ending}: {each.reason}",
        )
        for each in report.reports
    ]
    rows += [(each.name, str(Where.SOURCE), "-", "-", "-", each.reason) for each in report.failures]
    return Page(
        f"migrate: {report.moved} of {total} guests from {report.source} to {report.destination}; "
        f"{seconds(report.seconds)}",
        (
            Block(
                "Guests",
                tuple(rows),
                ("guest", "now", "sent", "as it was", "time", "ended"),
                frozenset({2, 3, 4}),
            ),
        ),
        tuple(
            f"{each.name}: {words}"
            for each in report.reports
            for words in (*(f"TO BE DONE: {one}" for one in each.left), *each.notes)
        ),
    )
