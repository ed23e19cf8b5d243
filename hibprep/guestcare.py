# SPDX-License-Identifier: LGPL-2.1-or-later
"""The daemon's care for the guests of this host: who comes here prepared gets its memory back.

Whoever migrated, saved or restored it, and whatever became of them: what counts is the record in
the guest's metadata. It is looked at when libvirt tells of the guest, and now and then for as long
as it runs with a record that is not to be undone yet: a job is under way, another hibprep is at
work on it, or it was prepared here a short time ago for somebody else to move it.

All of it is done in threads that nobody waits for at the end: what was begun is finished by the
next daemon, from the record.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import math
from collections.abc import Callable, Coroutine
from datetime import datetime

from hibprep.clock import Clock
from hibprep.config import Config
from hibprep.errors import HibprepError
from hibprep.events import (
    GuestEvent,
    GuestJob,
    GuestOperation,
    Signal,
    SourceChanged,
    SourceName,
)
from hibprep.guestjobs import GuestJobs, kept_job
from hibprep.guests.connection import connect
from hibprep.guests.errors import NoSuchDomainError, RecordMalformedError
from hibprep.guests.means import Means, real_means
from hibprep.guests.port import Host, JobPhase
from hibprep.guests.record import Record
from hibprep.guests.sides import Connect, Side, is_back, put_back
from hibprep.guests.undo import UndoEnding, read_record
from hibprep.guests.waiting import Uninterrupted
from hibprep.kernel.root import KernelRoot
from hibprep.signals.base import Source
from hibprep.signals.guests import Guests
from hibprep.threads import in_thread

log = logging.getLogger(__name__)

AGAIN_SECONDS = 30.0  # between two looks at a guest that could not be put back yet
# A guest that was prepared on this host waits so long for whoever is to move it
WAITING_SECONDS = 900.0
_MOST_AT_ONCE = 4
# The hook tells these before the guest is there: the start that follows is an arrival
_COMING = (GuestOperation.MIGRATE, GuestOperation.RESTORE)
_ARRIVED = frozenset({"migrated", "restored"})


class GuestCare:
    """All public methods are called on the event loop. `make_means` is given the host's UUID."""

    def __init__(
        self,
        uri: str,
        connect: Connect,
        make_means: Callable[[str], Means],
        jobs: GuestJobs,
        clock: Clock,
        *,
        again_seconds: float = AGAIN_SECONDS,
    ) -> None:
        self._uri = uri
        self._connect = connect
        self._make_means = make_means
        self._jobs = jobs
        self._clock = clock
        self._again_seconds = again_seconds
        self._nudges: dict[str, asyncio.Event] = {}
        self._coming: set[str] = set()
        self._arrived: set[str] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._places = asyncio.Semaphore(_MOST_AT_ONCE)

    def hear(self, signal: Signal) -> None:
        """What libvirt, or its hook, has told; nothing is done with what others have."""
        if isinstance(signal, SourceChanged) and signal.source is SourceName.GUESTS:
            if signal.works:
                self.look_at_all()
        elif isinstance(signal, GuestJob):
            self._begin(self._keep(signal))
        elif isinstance(signal, GuestEvent):
            self._hear_guest(signal)

    def _hear_guest(self, event: GuestEvent) -> None:
        guest = event.uuid or event.name
        if event.operation in _COMING:
            self._coming.add(guest)
            return
        came = guest in self._coming
        self._coming.discard(guest)
        if event.operation is GuestOperation.STARTED and (came or event.reason in _ARRIVED):
            self._arrived.add(guest)
        self.look_at(guest)

    def look_at_all(self) -> None:
        """Guests may have come while nothing was heard of them."""
        self._begin(self._find())

    def look_at(self, guest: str) -> None:
        """A name or a UUID. One that is being looked at is looked at once more: it may have changed
        meanwhile."""
        nudge = self._nudges.get(guest)
        if nudge is not None:
            nudge.set()
            return
        self._nudges[guest] = asyncio.Event()
        self._begin(self._look(guest, self._nudges[guest]))

    def close(self) -> None:
        """Begin nothing more."""
        for task in self._tasks:
            task.cancel()

    def _begin(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _find(self) -> None:
        def find(host: Host) -> tuple[str, ...]:
            return tuple(domain.uuid for domain in host.domains(active=True))

        try:
            found = await in_thread(lambda: self._ask(find), "listing guests")
        except HibprepError as error:
            log.warning("guests cannot be listed: %s", error)
            return
        for uuid in found:
            self.look_at(uuid)

    def _ask(self, question: Callable[[Host], tuple[str, ...]]) -> tuple[str, ...]:
        side = Side(self._uri, self._connect)
        try:
            return side.ask(question)
        finally:
            side.close()

    async def _look(self, guest: str, nudge: asyncio.Event) -> None:
        """Until there is nothing to wait for."""
        said = ""
        try:
            while True:
                nudge.clear()
                async with self._places:
                    arrived = guest in self._arrived
                    care = functools.partial(self._care, guest, said, arrived=arrived)
                    said = await in_thread(care, f"guest {guest}")
                if not said and not nudge.is_set():
                    return
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self._again_seconds):
                        await nudge.wait()
        finally:
            del self._nudges[guest]
            self._arrived.discard(guest)

    # in a thread

    def _care(self, guest: str, said: str, *, arrived: bool) -> str:
        """Put one guest back, if that is due; why it has to be looked at again, or ""."""
        side = Side(self._uri, self._connect)
        try:
            means = self._make_means(side.ask(lambda host: host.uuid()))
            why = side.ask(lambda host: _why_later(host, guest, means, arrived=arrived))
            if why is None:
                return ""
            if not why:
                undone = put_back(side, guest, guest, means)
                why = "" if is_back(undone) else undone.reason
                if undone.ending is UndoEnding.DONE:
                    log.info("guest %s: %s", undone.name, undone.reason)
        except HibprepError as error:
            why = "" if isinstance(error, NoSuchDomainError) else str(error)
        finally:
            side.close()
        if why and why != said:
            log.info("guest %s is not put back yet: %s", guest, why)
        return why

    async def _keep(self, job: GuestJob) -> None:
        words = await in_thread(
            lambda: self._jobs.append(kept_job(job, self._clock.now())), "history of guests"
        )
        if words:
            log.warning("%s", words)


def _why_later(host: Host, guest: str, means: Means, *, arrived: bool) -> str | None:
    """Why it is not to be undone yet; "" when it is, None when there is nothing to undo, or nothing
    before it is started."""
    domain = host.find(guest)
    try:
        record = read_record(domain)
    except RecordMalformedError:
        record = Record(original_bytes=1)  # of nobody, and long ago
    if record is None:
        return None
    info = domain.info()
    if not info.active:
        return None if info.has_managed_save else ""
    if means.busy(record.owner):
        return f"another hibprep is at work on it (pid {record.owner.pid})"
    if (job := domain.job()).phase is not JobPhase.NONE:
        return f"{job.operation} is under way"
    here = record.owner.host == means.owner.host
    if (
        here
        and not arrived
        and _age_seconds(record, means) < record.limit_seconds + WAITING_SECONDS
    ):
        return "it was prepared here, and waits for whoever is to move it"
    return ""


def _age_seconds(record: Record, means: Means) -> float:
    try:
        return (means.clock.now() - datetime.fromisoformat(record.written)).total_seconds()
    except (ValueError, TypeError):  # no time, or one without a zone
        return math.inf


def guest_care(
    root: KernelRoot, prefix: str, config: Config, clock: Clock
) -> tuple[tuple[Source, ...], GuestCare]:
    """The source for guests, and the care for them."""
    uri = config.guests.uri
    care = GuestCare(
        uri,
        connect,
        # who is busy is told from the processes of this machine, wherever `root` is
        lambda host_uuid: real_means(KernelRoot("/"), host_uuid, Uninterrupted()),
        GuestJobs(prefix, config.history.keep),
        clock,
    )
    return (Guests(root, uri, connect),), care
