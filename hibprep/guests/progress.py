# SPDX-License-Identifier: LGPL-2.1-or-later
"""How far a migration or a save is, and how long it will still take; looking at it now and then.

The statistics of a running job are an RPC that takes the domain's lock and, on some versions, a
question to QEMU: they are asked for sparsely, and in a thread of their own, so that a hypervisor
that does not answer keeps nobody from stopping the job.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from hibprep.clock import Clock
from hibprep.errors import HibprepError
from hibprep.guests.errors import ConnectionFailedError
from hibprep.guests.port import Domain, JobPhase, JobStats

FIRST_SECONDS = 0.5  # between two looks at a job that is young
LATER_SECONDS = 2.0
_YOUNG_SECONDS = 10.0
_USUAL_PAGE_BYTES = 4096


class Part(StrEnum):
    """What is being done."""

    PREPARING = "preparing"
    MIGRATING = "migrating"
    SAVING = "saving"
    UNDOING = "undoing"


@dataclass(frozen=True, slots=True, kw_only=True)
class MoveProgress:
    """Where the move of one domain is. `left_seconds` is None where it cannot be told, as when the
    guest writes to its memory faster than that is sent."""

    domain: str
    part: Part
    done_bytes: int = 0
    total_bytes: int = 0
    bytes_per_second: int = 0
    iteration: int = 0
    seconds: float = 0.0
    left_seconds: float | None = None
    note: str = ""


Tell = Callable[[MoveProgress], None]


def left_seconds(job: JobStats) -> float | None:
    """How long a job will still take, if all goes on as it does."""
    remaining = job.memory_remaining_bytes + max(0, job.disk_total_bytes - job.disk_processed_bytes)
    spent = job.elapsed_seconds - job.setup_seconds
    if job.iteration <= 1:
        # in the first pass pages of zeros are passed by as well, which the rate of sending does not
        # tell of: what is left is passed by as fast as what was
        passed = job.memory_total_bytes + job.disk_total_bytes - remaining
        return remaining * spent / passed if passed > 0 and spent > 0 else None
    page = job.page_bytes or _USUAL_PAGE_BYTES
    gained = job.bytes_per_second - job.dirty_pages_per_second * page
    return remaining / gained if gained > 0 else None


def of_job(name: str, part: Part, job: JobStats) -> MoveProgress:
    """The progress that these statistics tell."""
    total = job.memory_total_bytes + job.disk_total_bytes
    remaining = job.memory_remaining_bytes + max(0, job.disk_total_bytes - job.disk_processed_bytes)
    left = left_seconds(job)
    note = ""
    if left is None and job.iteration > 1:
        note = "the guest writes to its memory faster than it is sent"
    if job.throttle_percent:
        note = f"the guest is slowed down by {job.throttle_percent} %"
    return MoveProgress(
        domain=name,
        part=part,
        done_bytes=max(0, total - remaining),
        total_bytes=total,
        bytes_per_second=job.bytes_per_second,
        iteration=job.iteration,
        seconds=job.elapsed_seconds,
        left_seconds=left,
        note=note,
    )


class JobWatch:
    """Looks at the job of `domain` from `start` to `stop`. `look` is called in the watch's thread
    with what every look finds, and may raise HibprepError, which is kept in `trouble`."""

    def __init__(
        self, domain: Domain, clock: Clock, look: Callable[[JobStats], None] | None = None
    ) -> None:
        self._domain = domain
        self._clock = clock
        self._look = look
        self._end = threading.Event()
        self.latest: JobStats | None = None
        self.trouble = ""

    def start(self) -> None:
        """Begin."""
        threading.Thread(target=self._run, name="job statistics", daemon=True).start()

    def stop(self) -> None:
        """Look no more; a look that hangs is left to itself."""
        self._end.set()

    def _run(self) -> None:
        begin = self._clock.monotonic()
        pause = FIRST_SECONDS
        while not self._end.wait(pause):
            try:
                job = self._domain.job()
                if job.phase is JobPhase.RUNNING and not self._end.is_set():
                    self.latest = job
                    if self._look is not None:
                        self._look(job)
            except ConnectionFailedError as error:
                self.trouble = str(error)
                return
            except HibprepError as error:
                self.trouble = str(error)
            if self._clock.monotonic() - begin > _YOUNG_SECONDS:
                pause = LATER_SECONDS
