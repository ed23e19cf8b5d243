# SPDX-License-Identifier: LGPL-2.1-or-later
"""Preparing one guest: from the checks to the report, with nothing left changed when it fails.

The record of how it was is written before anything is changed, and whatever goes wrong after that
is put back at once; what cannot be put back then, because libvirt is gone or this process was
killed, `hibprep.guests.undo` puts back from the record.
"""

from __future__ import annotations

from dataclasses import replace

from hibprep.errors import HibprepError
from hibprep.guests.errors import BusyError, GuestError, JobActiveError, NotRunningError
from hibprep.guests.means import Means
from hibprep.guests.port import Domain, DomainInfo, JobPhase
from hibprep.guests.preparation import Options, Preparation, Tell
from hibprep.guests.record import Record
from hibprep.guests.report import GuestReport
from hibprep.guests.undo import UndoEnding, read_record, undo, write_record
from hibprep.model import Ending

__all__ = ["Options", "prepare"]


def prepare(domain: Domain, options: Options, means: Means, tell: Tell) -> GuestReport:
    """Prepare a domain that runs. The report says whether a record stays, which is to be undone
    after the migration or the save. Raises, with nothing left changed, when it is not running, when
    a job or another hibprep is at work on it, and what libvirt refuses."""
    info = domain.info()
    record = _record(domain, info, options, means)
    try:
        write_record(domain, record)
        report = Preparation(domain, info, record, options=options, means=means, tell=tell).run()
    except BaseException as error:
        left = _put_back(domain, means)
        if left and isinstance(error, HibprepError):
            raise GuestError(
                f"{error.message}; and {left}", f"`hibprep guest undo {info.name}` puts it back"
            ) from error
        raise
    if report.ending is Ending.INTERRUPTED and (left := _put_back(domain, means)):
        report = replace(report, notes=(*report.notes, left))
    elif report.ending is Ending.INTERRUPTED:
        report = replace(report, record_kept=False, actual_bytes=record.original_bytes)
    return report


def _record(domain: Domain, info: DomainInfo, options: Options, means: Means) -> Record:
    """Check that it may be done, and the record of how it is now."""
    if not info.running:
        raise NotRunningError(
            f"{info.name} is {info.state}", "only a guest that runs can give memory up; start it"
        )
    if (job := domain.job()).phase is not JobPhase.NONE:
        raise JobActiveError(
            f"{info.name}: {job.operation} is under way", "wait until it has ended, or abort it"
        )
    before = read_record(domain)
    if before is not None and means.busy(before.owner):
        raise BusyError(
            f"{info.name}: another hibprep is at work on it (pid {before.owner.pid})",
            "wait until it has ended, or stop it with SIGTERM",
        )
    actual = domain.memory_stats().actual_bytes
    record = Record(
        original_bytes=actual,
        stats_period_seconds=info.hardware.stats_period_seconds,
        reserve_bytes=options.reserve.fixed_bytes or options.reserve.least_bytes,
        limit_seconds=int(options.timeout_seconds),
        written=means.clock.now().isoformat(timespec="seconds"),
        owner=means.owner,
    )
    if before is not None:  # what it had before the first of several is what it gets back
        record = replace(record, stats_period_seconds=before.stats_period_seconds)
        if before.set_bytes:
            record = replace(
                record,
                original_bytes=max(before.original_bytes, actual),
                set_bytes=before.set_bytes,
            )
    return record


def _put_back(domain: Domain, means: Means) -> str:
    """Undo what was done so far; why it could not be, or ""."""
    try:
        undone = undo(domain, means.calmly())
    except HibprepError as error:
        return f"it could not be put back ({error.message})"
    if undone.ending in (UndoEnding.DONE, UndoEnding.NOTHING):
        return ""
    return f"it is not put back yet ({undone.reason})"
