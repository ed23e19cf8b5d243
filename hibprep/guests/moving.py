# SPDX-License-Identifier: LGPL-2.1-or-later
"""What migrating and saving have in common: preparing first, and how a failure is told."""

from __future__ import annotations

from dataclasses import dataclass

from hibprep.errors import ExitCode, HibprepError
from hibprep.guests.errors import BusyError, JobAbortedError, JobActiveError, NoSuchDomainError
from hibprep.guests.estimate import DEFAULT_BYTES_PER_SECOND, Estimate, as_it_is
from hibprep.guests.means import Means
from hibprep.guests.port import Domain, DomainInfo
from hibprep.guests.prepare import Options, prepare
from hibprep.guests.progress import MoveProgress, Part, Tell
from hibprep.guests.report import GuestProgress, GuestReport
from hibprep.guests.sides import lost
from hibprep.model import Ending

# where going on would fail too, or be in somebody's way
_FATAL = (BusyError, JobActiveError, NoSuchDomainError)


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """What became of preparing: `report` is None where it was not done, and `note` says why."""

    report: GuestReport | None = None
    note: str = ""
    unprepared: Estimate | None = None

    @property
    def estimate(self) -> Estimate | None:
        """What is to be sent now; None where nothing was prepared."""
        return self.report.after if self.report is not None else None


def prepared_first(
    domain: Domain, info: DomainInfo, options: Options | None, means: Means, tell: Tell
) -> Prepared:
    """Prepare, if that is wanted and possible. A guest that cannot be prepared is moved as it is:
    that is what was asked for.

    Raises JobAbortedError when it was stopped, with everything put back; and what would keep the
    guest from being moved too.
    """
    if options is None:
        return Prepared(unprepared=_estimate(domain, info))
    if not info.running:
        why = f"not prepared: it is {info.state}, and can give no memory up"
        return Prepared(note=why, unprepared=_estimate(domain, info))

    def told(progress: GuestProgress) -> None:
        tell(
            MoveProgress(
                domain=info.name,
                part=Part.PREPARING,
                done_bytes=progress.done_bytes,
                total_bytes=progress.amount_bytes,
                note=progress.step,
            )
        )

    try:
        report = prepare(domain, options, means, told)
    except _FATAL:
        raise
    except HibprepError as error:
        if lost(error):
            raise
        return Prepared(note=f"not prepared: {error}", unprepared=_estimate(domain, info))
    if means.stop.requested() or report.ending is Ending.INTERRUPTED:
        raise JobAbortedError(f"{info.name}: {means.stop.reason or report.reason}")
    if report.ending is Ending.UNAVAILABLE:
        return Prepared(
            report=report, note=f"not prepared: {report.reason}", unprepared=report.before
        )
    return Prepared(report=report, unprepared=report.before)


def _estimate(domain: Domain, info: DomainInfo) -> Estimate | None:
    try:
        return as_it_is(
            domain.memory_stats(), info.hardware, info.maximum_bytes, DEFAULT_BYTES_PER_SECOND
        )
    except HibprepError:
        return None  # an estimate is not worth a failure


def ending_of(error: HibprepError, means: Means) -> tuple[Ending, ExitCode]:
    """How a move that `error` ended is told."""
    if means.stop.requested():
        return Ending.INTERRUPTED, ExitCode.INTERRUPTED
    if isinstance(error, JobAbortedError):
        return Ending.DEADLINE, error.exit_code
    return Ending.FAILED, error.exit_code
