# SPDX-License-Identifier: LGPL-2.1-or-later
"""Putting back what preparing changed: the balloon, the period of the statistics, the record.

It is done from the record alone, by whoever comes first: the run that prepared, a later command,
the daemon on another host. It can be done again at any time, and the record goes only when the
guest has its memory back, so that however often it is interrupted somebody can finish it.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from hibprep.errors import HibprepError
from hibprep.guests import record as records
from hibprep.guests.balloon import deflate
from hibprep.guests.errors import RecordMalformedError
from hibprep.guests.means import Means
from hibprep.guests.port import Domain, DomainInfo, DomainState, Host, JobPhase
from hibprep.guests.record import Record
from hibprep.guests.statistics import OUR_PERIOD_SECONDS
from hibprep.guests.waiting import until

UNDO_SECONDS = 30.0
JOB_SECONDS = 30.0  # what libvirt itself waits for a job that is in the way
_JOB_LOOK_SECONDS = 0.5


class UndoEnding(StrEnum):
    """What became of it."""

    NOTHING = "nothing to undo"
    DONE = "undone"
    LATER = "later"  # it cannot be done now; the record stays
    FAILED = "failed"  # the record stays


@dataclass(frozen=True, slots=True, kw_only=True)
class Undone:
    """One domain: what it has now, and what it had before it was prepared (0: not known)."""

    name: str
    uuid: str
    ending: UndoEnding
    reason: str
    original_bytes: int = 0
    actual_bytes: int = 0


def read_record(domain: Domain) -> Record | None:
    """The record of a domain, if it has one; RecordMalformedError."""
    text = domain.metadata(records.NAMESPACE)
    return None if text is None else records.from_xml(text)


def write_record(domain: Domain, record: Record) -> None:
    """Put it into the domain's metadata."""
    domain.set_metadata(records.NAMESPACE, records.PREFIX, records.to_xml(record))


def undo(domain: Domain, means: Means, *, seconds: float = UNDO_SECONDS) -> Undone:
    """Put one domain back, within `seconds` for each wait. What libvirt refuses is raised."""
    text = domain.metadata(records.NAMESPACE)
    info = domain.info()
    if text is None:
        return _undone(info, UndoEnding.NOTHING, "it has no record")
    try:
        record, notes = records.from_xml(text), ""
    except RecordMalformedError as error:
        # nobody knows what it had: all that it may have is never too little
        record = Record(
            original_bytes=info.maximum_bytes,
            set_bytes=info.maximum_bytes,
            stats_period_seconds=info.hardware.stats_period_seconds,
        )
        notes = f"; {error.message}, so it got all that it may have"
    if means.busy(record.owner):
        why = f"hibprep is at work on it (pid {record.owner.pid})"
        return _undone(info, UndoEnding.LATER, why, record)
    if not info.active:
        return _asleep_or_off(domain, info, record)
    if not _wait_for_job(domain, means, seconds):
        return _undone(info, UndoEnding.LATER, f"{domain.job().operation} is under way", record)
    return _put_back(domain, info, record, notes, means, seconds=seconds)


def undo_all(host: Host, means: Means, *, seconds: float = UNDO_SECONDS) -> tuple[Undone, ...]:
    """All domains of a host that have a record; what goes wrong with one is told, and does not keep
    the others from being put back."""
    found = []
    for domain in host.domains():
        if means.stop.requested():
            break
        try:
            undone = undo(domain, means, seconds=seconds)
        except HibprepError as error:
            undone = Undone(
                name=domain.name, uuid=domain.uuid, ending=UndoEnding.FAILED, reason=str(error)
            )
        if undone.ending is not UndoEnding.NOTHING:
            found.append(undone)
    return tuple(found)


def _asleep_or_off(domain: Domain, info: DomainInfo, record: Record) -> Undone:
    if info.has_managed_save:
        why = "it is saved; once it is started it can be undone"
        return _undone(info, UndoEnding.LATER, why, record)
    # what was prepared is gone, and the next start takes the configured size
    domain.remove_metadata(records.NAMESPACE)
    return _undone(info, UndoEnding.DONE, "it is shut off; its record is removed", record)


def _put_back(
    domain: Domain, info: DomainInfo, record: Record, notes: str, means: Means, *, seconds: float
) -> Undone:
    actual = domain.memory_stats().actual_bytes
    if record.set_bytes and info.hardware.balloon:
        # Whoever gave it more meanwhile had a reason. And an order is due even where nothing is
        # missing: a run that was killed may have asked for a smaller size that is still to come.
        wanted = max(min(record.original_bytes, info.maximum_bytes), actual)
        if info.state is not DomainState.RUNNING:
            domain.set_balloon(wanted)
            why = f"it is {info.state}: asked to take its memory back when it runs again{notes}"
            return _undone(info, UndoEnding.LATER, why, record, actual)
        moved = deflate(domain, wanted, clock=means.clock, stop=means.stop, seconds=seconds)
        actual = moved.actual_bytes
        if moved.why_short:
            return _undone(info, UndoEnding.FAILED, moved.why_short + notes, record, actual)
    period = info.hardware.stats_period_seconds
    # 0 is ours too, for a moment; any other has been set by somebody meanwhile
    if period in (0, OUR_PERIOD_SECONDS) and period != record.stats_period_seconds:
        domain.set_stats_period(record.stats_period_seconds)
    domain.remove_metadata(records.NAMESPACE)
    words = "it has its memory back" if record.set_bytes else "its balloon had not been touched"
    return _undone(info, UndoEnding.DONE, words + notes, record, actual)


def _wait_for_job(domain: Domain, means: Means, seconds: float) -> bool:
    """Whether no job keeps the domain from being changed."""

    def ask() -> bool | None:
        return True if domain.job().phase is JobPhase.NONE else None

    free = until(
        ask,
        clock=means.clock,
        stop=means.stop,
        seconds=min(seconds, JOB_SECONDS),
        every_seconds=_JOB_LOOK_SECONDS,
    )
    return free is True


def _undone(
    info: DomainInfo,
    ending: UndoEnding,
    reason: str,
    record: Record | None = None,
    actual_bytes: int = 0,
) -> Undone:
    return Undone(
        name=info.name,
        uuid=info.uuid,
        ending=ending,
        reason=reason,
        original_bytes=record.original_bytes if record else 0,
        actual_bytes=actual_bytes or info.actual_bytes,
    )
