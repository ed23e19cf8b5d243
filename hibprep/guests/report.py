# SPDX-License-Identifier: LGPL-2.1-or-later
"""What preparing, estimating and undoing guests came to: the values, and the pages for a person.
Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hibprep.guests.estimate import Discard, Estimate
from hibprep.guests.ladder import Rung
from hibprep.guests.reporting import Reported
from hibprep.guests.undo import Undone
from hibprep.model import Ending
from hibprep.page import Block, Page, seconds, size

VERSION = 1


@dataclass(frozen=True, slots=True)
class GuestProgress:
    """Where a run is, for a progress bar; `amount_bytes` is 0 where nobody knows."""

    name: str
    step: str
    done_bytes: int = 0
    amount_bytes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class GuestReport:
    """One guest that was prepared. The balloon's sizes are what the guest had, was asked to come
    to (0: it was not asked) and has. With `record_kept` its domain has a record to be undone."""

    version: int
    name: str
    uuid: str
    started: str  # ISO 8601, UTC
    seconds: float
    ending: Ending
    reason: str
    rungs: tuple[Rung, ...]
    discards: tuple[Discard, ...]
    reported: Reported | None
    original_bytes: int
    target_bytes: int
    actual_bytes: int
    reserve_bytes: int
    before: Estimate
    after: Estimate
    record_kept: bool
    notes: tuple[str, ...] = ()

    @property
    def saved_bytes(self) -> int:
        """What does not have to be sent any more."""
        return max(0, self.before.sent_bytes - self.after.sent_bytes)


@dataclass(frozen=True, slots=True)
class Way:
    """One way of preparing a guest, and what moving it would send then."""

    name: str
    estimate: Estimate


@dataclass(frozen=True, slots=True)
class Failure:
    """A guest that something went wrong with, and what."""

    name: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class GuestEstimate:
    """What moving one guest would send as it is, and prepared in each of the ways that it offers,
    the best first. `age_seconds` is how old the guest's statistics are; None when it told none."""

    version: int
    name: str
    uuid: str
    age_seconds: float | None
    now: Estimate
    prepared: tuple[Way, ...]
    rungs: tuple[Rung, ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Guests:
    """What a command prints: one entry for each guest, and why some have none."""

    guests: tuple[object, ...]
    failures: tuple[Failure, ...] = ()


def prepared_page(report: GuestReport) -> Page:
    """One guest that was prepared."""
    now = f", now {size(report.after.sent_bytes)}" if report.after != report.before else ""
    headline = (
        f"prepare {report.name}: {size(report.before.sent_bytes)} would be sent{now}; "
        f"{seconds(report.seconds)}; {report.ending}: {report.reason}"
    )
    blocks = [_rungs(report.rungs, "How")]
    if report.reported is not None:
        blocks.append(
            Block(
                "Free page reporting",
                (
                    ("given back", size(report.reported.given_back_bytes)),
                    ("waited for", seconds(report.reported.seconds)),
                ),
                right=frozenset({1}),
            )
        )
    if report.target_bytes:
        blocks.append(
            Block(
                "Balloon: what the guest has",
                (
                    ("before", size(report.original_bytes)),
                    ("asked for", size(report.target_bytes)),
                    ("now", size(report.actual_bytes)),
                    ("of it in reserve", size(report.reserve_bytes)),
                ),
                right=frozenset({1}),
            )
        )
    blocks.append(_terms("Before", report.before))
    if report.after != report.before:
        blocks.append(_terms("Now", report.after))
    notes = list(report.notes)
    if report.record_kept:
        notes.append(
            f"the guest has less memory until `hibprep guest undo {report.name}`, which can be "
            "done on whatever host it runs then"
        )
    return Page(headline, tuple(blocks), tuple(notes))


def estimate_page(estimate: GuestEstimate) -> Page:
    """What moving one guest would send: as it is and in the best way, with all terms."""
    best = estimate.prepared[0] if estimate.prepared else None
    gain = f", {size(best.estimate.sent_bytes)} prepared ({best.name})" if best else ""
    rows = [Way("as it is", estimate.now), *estimate.prepared]
    return Page(
        f"estimate {estimate.name}: {size(estimate.now.sent_bytes)} as it is{gain}",
        (
            Block(
                f"At {size(estimate.now.bytes_per_second)}/s",
                tuple(
                    (
                        way.name,
                        size(way.estimate.sent_bytes),
                        seconds(way.estimate.seconds),
                        way.estimate.basis,
                    )
                    for way in rows
                ),
                ("", "sent", "takes", "known from"),
                frozenset({1, 2}),
            ),
            *(_terms(way.name.capitalize(), way.estimate) for way in rows[:2]),
            _rungs(estimate.rungs, "What it offers"),
        ),
        estimate.notes,
    )


def undone_page(undone: Sequence[Undone], host: str) -> Page:
    """What was put back on a host."""
    if not undone:
        return Page(f"undo: nothing to undo on {host}")
    done = sum(1 for each in undone if each.ending == "undone")
    return Page(
        f"undo: {done} of {len(undone)} put back on {host}",
        (
            Block(
                "Guests",
                tuple(
                    (
                        each.name,
                        str(each.ending),
                        size(each.original_bytes) if each.original_bytes else "-",
                        size(each.actual_bytes) if each.actual_bytes else "-",
                        each.reason,
                    )
                    for each in undone
                ),
                ("guest", "", "had", "has", "why"),
                frozenset({2, 3}),
            ),
        ),
    )


def _rungs(rungs: Sequence[Rung], title: str) -> Block:
    return Block(
        title,
        tuple((str(rung.name), "yes" if rung.used else "no", rung.reason) for rung in rungs),
        ("by", "", "why"),
    )


def _terms(title: str, estimate: Estimate) -> Block:
    return Block(
        f"{title}: what would be sent",
        (
            *((term.name, size(term.bytes), term.text) for term in estimate.terms),
            ("together", size(estimate.sent_bytes), seconds(estimate.seconds)),
        ),
        ("", "sent", ""),
        frozenset({1}),
    )
