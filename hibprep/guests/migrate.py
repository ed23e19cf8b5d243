# SPDX-License-Identifier: LGPL-2.1-or-later
"""Migrating one guest: prepared on the source, put back on the destination, and put back here if it
does not arrive.

Whatever step fails, and whichever host goes away, the guest is looked for on both, and gets its
memory back where it runs. What cannot be done then (a host is dead) is said with the command that
does it; the record in the domain's metadata lets that be done by anybody, at any time.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field, replace

from hibprep.errors import ExitCode, HibprepError, UsageError
from hibprep.guests import job as jobs
from hibprep.guests.errors import (
    DestinationError,
    NoRoomError,
    NotRunningError,
)
from hibprep.guests.jobnews import JobNews
from hibprep.guests.means import Means
from hibprep.guests.move_report import MoveReport, Where
from hibprep.guests.moving import Prepared, ending_of, prepared_first
from hibprep.guests.port import (
    NO_JOB,
    Domain,
    DomainInfo,
    DomainState,
    JobPhase,
    JobStats,
    MigrateOptions,
)
from hibprep.guests.prepare import Options
from hibprep.guests.progress import MoveProgress, Part, Tell
from hibprep.guests.sides import Side, command_to_undo, is_back, lost, put_back, state_on
from hibprep.guests.undo import UndoEnding, Undone
from hibprep.model import Ending
from hibprep.page import size

_POSTCOPY_FROM_PASS = 2  # what the first one has sent need not be asked for one by one
_OFF = (None, DomainState.SHUT_OFF, DomainState.CRASHED)


@dataclass(frozen=True, slots=True, kw_only=True)
class MigrateWish:
    """How to migrate. `prepare` None: as it is. `limit_seconds` is for the migration alone; the
    preparation has a limit of its own. `overcommit`: also to where there is not enough free memory
    for all that the guest has."""

    options: MigrateOptions = field(default_factory=MigrateOptions)
    prepare: Options | None = field(default_factory=Options)
    limit_seconds: float | None = None
    overcommit: bool = False


def migrate(
    name: str, source: Side, destination: Side, wish: MigrateWish, *, means: Means, tell: Tell
) -> MoveReport:
    """Migrate the domain of that name or UUID. What ends it after it was begun is in the report;
    what speaks against it before is raised, and nothing was changed then: NoSuchDomainError,
    NotRunningError, DestinationError, NoRoomError, UsageError for a destination that is the source,
    and what libvirt refuses."""
    info = source.ask(lambda host: host.find(name).info())
    _check(info, source, destination, wish)
    return _Migration(info, source, destination, wish, means=means, tell=tell).run()


def _check(info: DomainInfo, source: Side, destination: Side, wish: MigrateWish) -> None:
    if not info.active:
        raise NotRunningError(
            f"{info.name} is {info.state}",
            "a guest that does not run is moved with virsh migrate --offline --persistent",
        )
    try:
        same = destination.ask(lambda host: host.uuid()) == source.ask(lambda host: host.uuid())
    except HibprepError as error:
        if lost(error):
            raise DestinationError(
                f"{destination.uri} cannot be reached from here, and the guest would stay small "
                f"there ({error.message})",
                "give a URI that virsh --connect opens here; or use hibprep guest prepare, virsh "
                "migrate, and hibprep guest undo there",
            ) from error
        raise
    if same:
        raise UsageError(f"{destination.uri} is the host on which {info.name} runs", "give another")
    if state_on(destination, info.uuid) not in _OFF:
        raise DestinationError(
            f"{info.name} ({info.uuid}) runs on {destination.uri} already", "see virsh list there"
        )
    free = destination.ask(lambda host: host.free_bytes())
    if free is not None and free < info.actual_bytes and not wish.overcommit:
        raise NoRoomError(
            f"{info.name} has {size(info.actual_bytes)} and {destination.uri} {size(free)} free",
            "make room there, or give --overcommit",
        )


class _PostCopy:
    """Changes a migration to post-copy after its first pass, if that was asked for."""

    def __init__(self, domain: Domain, *, wanted: bool) -> None:
        self._domain = domain
        self._wanted = wanted
        self.begun = False

    def look(self, job: JobStats) -> None:
        """In the thread that looks at the job."""
        if not self._wanted or self.begun or job.iteration < _POSTCOPY_FROM_PASS:
            return
        self.begun = True  # before: from then on nothing may be aborted
        try:
            self._domain.start_postcopy()
        except HibprepError:
            self.begun = False
            raise


class _Migration:
    """One migration, after everything was checked."""

    def __init__(
        self,
        info: DomainInfo,
        source: Side,
        destination: Side,
        wish: MigrateWish,
        *,
        means: Means,
        tell: Tell,
    ) -> None:
        self._info, self._wish = info, wish
        self._source, self._destination = source, destination
        self._means, self._tell = means, tell
        self._began = means.clock.monotonic()
        self._started = means.clock.now()
        self._prepared = Prepared()
        self._job_seconds = 0.0
        self._news: JobNews | None = None

    def run(self) -> MoveReport:
        """All of it."""
        try:
            return self._run()
        finally:
            if self._news is not None:
                self._news.close()

    def _run(self) -> MoveReport:
        try:
            self._prepare()
            self._migrate()
        except HibprepError as error:
            return self._failed(error)
        except BaseException:
            self._settle()
            raise
        return self._moved(notes=())

    def _domain(self) -> Domain:
        return self._source.ask(lambda host: host.find(self._info.uuid))

    def _prepare(self) -> None:
        self._prepared = prepared_first(
            self._domain(), self._info, self._wish.prepare, self._means, self._tell
        )

    def _migrate(self) -> None:
        wish, domain = self._wish, self._domain()
        direct = None if wish.options.peer_to_peer else self._destination.host()
        postcopy = _PostCopy(domain, wanted=wish.options.postcopy)
        self._news = JobNews(self._source, self._info.uuid)
        began = self._means.clock.monotonic()
        try:
            jobs.run(
                domain,
                lambda: domain.migrate(direct, self._destination.uri, wish.options),
                Part.MIGRATING,
                clock=self._means.clock,
                stop=self._means.stop,
                tell=self._tell,
                limit_seconds=wish.limit_seconds,
                look=postcopy.look,
                beyond=lambda: postcopy.begun,
            )
        finally:
            self._job_seconds = self._means.clock.monotonic() - began

    # afterwards

    def _moved(self, notes: tuple[str, ...]) -> MoveReport:
        """It runs there."""
        began = self._means.clock.monotonic()
        undone = self._put_back(self._destination)
        spent = self._means.clock.monotonic() - began
        left = self._left(self._destination, undone)
        # the configuration that stays behind, if any, has the record as well
        behind = self._put_back(self._source)
        if behind.ending is not UndoEnding.NOTHING and not is_back(behind):
            left += self._left(self._source, behind)
        job = self._completed()
        if job is NO_JOB:
            notes += ("libvirt tells no statistics of the migration",)
        return replace(
            self._report(Ending.DONE, "it was migrated", Where.DESTINATION, undone),
            undo_seconds=spent,
            job=job,
            left=left,
            notes=self._notes(notes),
            exit_code=ExitCode.PARTLY if left else ExitCode.DONE,
        )

    def _failed(self, error: HibprepError) -> MoveReport:
        """It was not migrated, or who knows: find out, and put it back."""
        ending, code = ending_of(error, self._means)
        where, undone, left = self._settle()
        if where is Where.DESTINATION:
            return self._moved(notes=(f"it arrived, although: {error}",))
        return replace(
            self._report(ending, str(error), where, undone),
            left=left,
            notes=self._notes(()),
            exit_code=ExitCode.PARTLY if left else code,
        )

    def _settle(self) -> tuple[Where, Undone | None, tuple[str, ...]]:
        """Where the guest is, what became of its memory here, and what is left to do."""
        undone = self._put_back(self._source)
        here = there = None
        silent = False
        try:
            here = state_on(self._source, self._info.uuid)
        except HibprepError:
            silent = True
        with contextlib.suppress(HibprepError):
            there = state_on(self._destination, self._info.uuid)
        if here in _OFF and there is DomainState.RUNNING:
            return Where.DESTINATION, None, ()
        where = Where.UNKNOWN if silent or here in _OFF else Where.SOURCE
        return where, undone, self._left(self._source, undone)

    def _put_back(self, side: Side) -> Undone:
        self._tell(MoveProgress(domain=self._info.name, part=Part.UNDOING, note=side.uri))
        return put_back(side, self._info.name, self._info.uuid, self._means)

    def _left(self, side: Side, undone: Undone) -> tuple[str, ...]:
        if is_back(undone):
            return ()
        return (f"{command_to_undo(side.uri, self._info.name)} ({undone.reason})",)

    def _completed(self) -> JobStats:
        try:
            found = self._destination.ask(lambda host: host.find(self._info.uuid).completed_job())
        except HibprepError:
            found = NO_JOB
        if found.phase is JobPhase.COMPLETED:
            return found
        return self._news.job() if self._news is not None else NO_JOB

    def _notes(self, more: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(filter(None, (self._prepared.note, *more)))

    def _report(
        self, ending: Ending, reason: str, where: Where, undone: Undone | None
    ) -> MoveReport:
        return MoveReport(
            operation="migrate",
            name=self._info.name,
            uuid=self._info.uuid,
            source=self._source.uri,
            destination=self._destination.uri,
            started=self._started.isoformat(timespec="seconds"),
            seconds=self._means.clock.monotonic() - self._began,
            ending=ending,
            reason=reason,
            where=where,
            job_seconds=self._job_seconds,
            unprepared=self._prepared.unprepared,
            prepared=self._prepared.estimate,
            preparation=self._prepared.report,
            undone=undone,
        )
