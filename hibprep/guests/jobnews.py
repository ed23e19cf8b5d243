# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a host tells by itself of a job that has completed there.

After a post-copy migration the destination's domain has no statistics of it, since the guest ran
there before the source knew them; and the source's may be gone. The event has them in each case.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable

from hibprep.errors import HibprepError
from hibprep.guests.calls import Call
from hibprep.guests.port import NO_JOB, EventKind, GuestEvent, Host, JobPhase, JobStats
from hibprep.guests.sides import CLOSE_SECONDS, Side

NEWS_SECONDS = 2.0  # it is told when the source has cleaned up, which may be after the call returns


class JobNews:
    """Listens for the job of one domain, from now on to `close`. A host that does not tell, or goes
    away, has told nothing: that is no error."""

    def __init__(self, side: Side, uuid: str) -> None:
        self._uuid = uuid
        self._told = threading.Event()
        self._job = NO_JOB
        self._uri = side.uri
        self._end: Callable[[], None] | None = None
        with contextlib.suppress(HibprepError):
            self._end = side.ask(self._watch)

    def job(self) -> JobStats:
        """The job that has completed, `NO_JOB` when none is told of soon."""
        if self._end is not None:
            self._told.wait(NEWS_SECONDS)
        return self._job

    def close(self) -> None:
        """Listen no more. A host that hangs is left to itself."""
        end, self._end = self._end, None
        if end is not None:
            Call(end, f"listening to {self._uri}").wait(CLOSE_SECONDS)

    def _watch(self, host: Host) -> Callable[[], None]:
        return host.watch(self._hear)

    def _hear(self, event: GuestEvent) -> None:
        ended = event.kind is EventKind.JOB_COMPLETED and event.job.phase is JobPhase.COMPLETED
        if ended and event.uuid == self._uuid:
            self._job = event.job
            self._told.set()
        elif event.kind is EventKind.LOST:
            self._told.set()
