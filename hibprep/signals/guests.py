# SPDX-License-Identifier: LGPL-2.1-or-later
"""libvirt as a source: guests that come and go, and what their migrations and saves took.

libvirt calls back in a thread of its own (its default event loop, which runs beside ours and ends
with the process), and what it says is handed over. Its asyncio bridge (libvirtaio) is not used: it
would have libvirt's keep-alive answered by our loop, in one thread with everything that the daemon
does, and it cannot be taken out of a loop again.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from typing import TypeVar

from hibprep.errors import HibprepError, NotPossibleError
from hibprep.events import (
    GuestEvent,
    GuestJob,
    GuestOperation,
    SourceChanged,
    SourceName,
)
from hibprep.guests.errors import ConnectionFailedError
from hibprep.guests.port import EventKind, Host, JobPhase, JobStats, Operation
from hibprep.guests.port import GuestEvent as HostEvent
from hibprep.guests.record import NAMESPACE
from hibprep.kernel.root import KernelRoot
from hibprep.signals.base import Emit
from hibprep.threads import in_thread

# of the monolithic daemon, and of the modular one for QEMU
SOCKETS = ("/run/libvirt/libvirt-sock", "/run/libvirt/virtqemud-sock")
_LOCAL_URI = "qemu:///system"
_ANSWER_SECONDS = 30.0
_CLOSE_SECONDS = 5.0

# where a guest runs from then on, or is about to
_THERE = (EventKind.STARTED, EventKind.RESUMED)
_JOBS_LEFT_OUT = (Operation.NONE, Operation.START, Operation.OTHER)


Value = TypeVar("Value")


class GuestsLostError(HibprepError):
    """The connection to libvirt was lost: trying again soon may well help."""


class Guests:
    """The source. One object is run again and again by its supervisor."""

    def __init__(self, root: KernelRoot, uri: str, connect: Callable[[str], Host]) -> None:
        self._root = root
        self._uri = uri
        self._connect = connect

    @property
    def name(self) -> SourceName:
        """See `Source.name`."""
        return SourceName.GUESTS

    async def run(self, emit: Emit) -> None:
        """See `Source.run`. Raises NotPossibleError without libvirt or its binding, and
        GuestsLostError when the connection is lost."""
        self._look_for_socket()
        loop = asyncio.get_running_loop()
        lost: asyncio.Future[None] = loop.create_future()

        def hear(event: HostEvent) -> None:
            if lost.done():
                return
            if event.kind is EventKind.LOST:
                lost.set_exception(GuestsLostError(f"{self._uri}: the connection was lost"))
                return
            signal = signal_of(event)
            if signal is not None:
                emit(signal)

        def on_event(event: HostEvent) -> None:
            # a loop that has ended hears nothing any more
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(hear, event)

        given_up = threading.Event()
        host = await self._answered(lambda: self._open(given_up), given_up)
        end: Callable[[], None] | None = None
        try:
            end = await self._answered(lambda: host.watch(on_event), given_up)
            emit(SourceChanged(self.name, works=True, reason=f"hears the events of {self._uri}"))
            await lost
        finally:
            lost.cancel()
            await _let_go(host, end)

    def _open(self, given_up: threading.Event) -> Host:
        """In a thread; one that comes too late gives it back."""
        host = self._connect(self._uri)
        if given_up.is_set():
            host.close()
        return host

    async def _answered(self, question: Callable[[], Value], given_up: threading.Event) -> Value:
        try:
            async with asyncio.timeout(_ANSWER_SECONDS):
                return await in_thread(question, "libvirt")
        except ConnectionFailedError as error:
            # it may be restarting; what is a NotPossibleError is not tried again for minutes
            raise GuestsLostError(error.message, error.remedy) from error
        except TimeoutError:
            raise GuestsLostError(
                f"{self._uri} does not answer within {_ANSWER_SECONDS:g} s"
            ) from None
        finally:
            given_up.set()

    def _look_for_socket(self) -> None:
        if self._uri == _LOCAL_URI and not any(self._root.exists(path) for path in SOCKETS):
            raise NotPossibleError(
                f"no libvirt here: there is neither {' nor '.join(SOCKETS)}",
                "start libvirtd.socket or virtqemud.socket, or set guests.enabled = false",
            )


async def _let_go(host: Host, end: Callable[[], None] | None) -> None:
    """Give the connection back; one that hangs is left to its thread."""

    def close() -> None:
        try:
            if end is not None:
                end()
        finally:
            host.close()

    with contextlib.suppress(TimeoutError, HibprepError):
        async with asyncio.timeout(_CLOSE_SECONDS):
            await in_thread(close, "closing libvirt")


def signal_of(event: HostEvent) -> GuestEvent | GuestJob | None:
    """What the daemon is told of an event; None for what changes nothing for it."""
    if event.kind in _THERE:
        return GuestEvent(
            operation=GuestOperation.STARTED,
            name=event.name,
            uuid=event.uuid,
            reason=event.detail,
        )
    if event.kind is EventKind.STOPPED:
        return GuestEvent(
            operation=GuestOperation.RELEASE,
            name=event.name,
            uuid=event.uuid,
            reason=event.detail,
        )
    if event.kind is EventKind.METADATA_CHANGED and event.detail == NAMESPACE:
        return GuestEvent(
            operation=GuestOperation.STARTED,
            name=event.name,
            uuid=event.uuid,
            reason="its record has changed",
            prepared=True,
        )
    if event.kind is EventKind.JOB_COMPLETED and _is_kept(event.job):
        job = event.job
        return GuestJob(
            name=event.name,
            uuid=event.uuid,
            operation=str(job.operation),
            seconds=job.elapsed_seconds,
            downtime_seconds=job.downtime_seconds,
            total_bytes=job.memory_total_bytes,
            sent_bytes=job.memory_processed_bytes,
            normal_pages=job.normal_pages,
            zero_pages=job.zero_pages,
            disk_bytes=job.disk_processed_bytes,
        )
    return None


def _is_kept(job: JobStats) -> bool:
    return job.phase is JobPhase.COMPLETED and job.operation not in _JOBS_LEFT_OUT
