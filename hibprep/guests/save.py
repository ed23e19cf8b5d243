# SPDX-License-Identifier: LGPL-2.1-or-later
"""Saving one guest to a file (managed save), prepared first.

The record goes into the file with the domain. Who starts the guest again is not us: its memory is
put back by the daemon, which hears of the start, or by `hibprep guest undo`.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from hibprep.errors import ExitCode, HibprepError
from hibprep.guests import job as jobs
from hibprep.guests.errors import NotRunningError, UnsupportedError
from hibprep.guests.means import Means
from hibprep.guests.move_report import MoveReport, Where
from hibprep.guests.moving import Prepared, ending_of, prepared_first
from hibprep.guests.port import NO_JOB, Domain, DomainInfo, JobPhase, JobStats
from hibprep.guests.prepare import Options
from hibprep.guests.progress import MoveProgress, Part, Tell
from hibprep.guests.sides import Side, command_to_undo, is_back, put_back
from hibprep.guests.undo import Undone
from hibprep.model import Ending


@dataclass(frozen=True, slots=True, kw_only=True)
class SaveWish:
    """How to save. `prepare` None: as it is. `limit_seconds` is for the save alone.
    `bypass_cache`: the file does not go through the host's page cache."""

    prepare: Options | None = field(default_factory=Options)
    limit_seconds: float | None = None
    bypass_cache: bool = False


def save(name: str, side: Side, wish: SaveWish, *, means: Means, tell: Tell) -> MoveReport:
    """Save the domain of that name or UUID. What ends it after it was begun is in the report; what
    speaks against it before is raised, and nothing was changed then."""
    info = side.ask(lambda host: host.find(name).info())
    if not info.active:
        raise NotRunningError(f"{info.name} is {info.state}", "only a guest that runs can be saved")
    if not info.persistent:
        raise UnsupportedError(
            f"{info.name} is transient, and libvirt keeps no save of such a domain",
            "define it first (virsh define), or use virsh save with a file of your own",
        )
    return _Save(info, side, wish, means, tell).run()


class _Save:
    """One save, after everything was checked."""

    def __init__(
        self, info: DomainInfo, side: Side, wish: SaveWish, means: Means, tell: Tell
    ) -> None:
        self._info, self._side, self._wish = info, side, wish
        self._means, self._tell = means, tell
        self._began = means.clock.monotonic()
        self._started = means.clock.now()
        self._prepared = Prepared()
        self._job_seconds = 0.0

    def run(self) -> MoveReport:
        """All of it."""
        try:
            self._prepare()
            self._save()
        except HibprepError as error:
            return self._failed(error)
        except BaseException:
            self._put_back()
            raise
        return self._saved(notes=())

    def _domain(self) -> Domain:
        return self._side.ask(lambda host: host.find(self._info.uuid))

    def _prepare(self) -> None:
        self._prepared = prepared_first(
            self._domain(), self._info, self._wish.prepare, self._means, self._tell
        )

    def _save(self) -> None:
        domain = self._domain()
        began = self._means.clock.monotonic()
        try:
            jobs.run(
                domain,
                lambda: domain.managed_save(bypass_cache=self._wish.bypass_cache),
                Part.SAVING,
                clock=self._means.clock,
                stop=self._means.stop,
                tell=self._tell,
                limit_seconds=self._wish.limit_seconds,
            )
        finally:
            self._job_seconds = self._means.clock.monotonic() - began

    def _saved(self, notes: tuple[str, ...]) -> MoveReport:
        job = self._completed()
        if job is NO_JOB:
            notes += ("libvirt tells no statistics of the save",)
        report = self._prepared.report
        if report is not None and report.record_kept:
            undo = command_to_undo(self._side.uri, self._info.name)
            after = "after its start (virsh start) it has less memory until the daemon, or"
            notes += (f"{after} {undo}, gives it back",)
        return replace(
            self._report(Ending.DONE, "it was saved", Where.FILE),
            job=job,
            notes=tuple(filter(None, (self._prepared.note, *notes))),
        )

    def _failed(self, error: HibprepError) -> MoveReport:
        ending, code = ending_of(error, self._means)
        undone = self._put_back()
        if self._is_saved():
            return self._saved(notes=(f"it is saved, although: {error}",))
        left: tuple[str, ...] = ()
        if not is_back(undone):
            left = (f"{command_to_undo(self._side.uri, self._info.name)} ({undone.reason})",)
        return replace(
            self._report(ending, str(error), self._where()),
            undone=undone,
            left=left,
            notes=tuple(filter(None, (self._prepared.note,))),
            exit_code=ExitCode.PARTLY if left else code,
        )

    def _put_back(self) -> Undone:
        self._tell(MoveProgress(domain=self._info.name, part=Part.UNDOING, note=self._side.uri))
        return put_back(self._side, self._info.name, self._info.uuid, self._means)

    def _now(self) -> DomainInfo | None:
        try:
            return self._domain().info()
        except HibprepError:
            return None

    def _is_saved(self) -> bool:
        now = self._now()
        return now is not None and not now.active and now.has_managed_save

    def _where(self) -> Where:
        now = self._now()
        return Where.SOURCE if now is not None and now.active else Where.UNKNOWN

    def _completed(self) -> JobStats:
        try:
            found = self._domain().completed_job()
        except HibprepError:
            return NO_JOB
        return found if found.phase is JobPhase.COMPLETED else NO_JOB

    def _report(self, ending: Ending, reason: str, where: Where) -> MoveReport:
        return MoveReport(
            operation="save",
            name=self._info.name,
            uuid=self._info.uuid,
            source=self._side.uri,
            destination="",
            started=self._started.isoformat(timespec="seconds"),
            seconds=self._means.clock.monotonic() - self._began,
            ending=ending,
            reason=reason,
            where=where,
            job_seconds=self._job_seconds,
            unprepared=self._prepared.unprepared,
            prepared=self._prepared.estimate,
            preparation=self._prepared.report,
        )
