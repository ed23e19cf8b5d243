# SPDX-License-Identifier: LGPL-2.1-or-later
"""One migration or save under way: told of, limited in time, and aborted when it has to be."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from hibprep.clock import Clock
from hibprep.errors import HibprepError
from hibprep.guests.calls import Call
from hibprep.guests.errors import GuestError, JobAbortedError
from hibprep.guests.port import Domain, JobStats
from hibprep.guests.progress import JobWatch, MoveProgress, Part, Tell, of_job
from hibprep.guests.waiting import Stopping

Value = TypeVar("Value")

LOOK_SECONDS = 0.1  # between two looks at the stop flag
ABORT_AGAIN_SECONDS = 1.0  # a job that has just begun cannot be aborted yet
ABORTED_SECONDS = 30.0  # both sides clean up, and the source may have to start the guest's CPUs
BEYOND_SECONDS = 600.0  # for what cannot be aborted any more


class JobStuckError(GuestError):
    """A job was aborted and does not end."""


def never() -> bool:
    """A job that can be aborted to its end."""
    return False


def run(
    domain: Domain,
    what: Callable[[], Value],
    part: Part,
    *,
    clock: Clock,
    stop: Stopping,
    tell: Tell,
    limit_seconds: float | None = None,
    look: Callable[[JobStats], None] | None = None,
    beyond: Callable[[], bool] = never,
) -> Value:
    """Do `what`, which blocks until the job of `domain` has ended, and return what it does.

    `beyond` says that the job cannot be aborted any more (post-copy: the guest runs at the
    destination already, with part of its memory here).

    Raises JobAbortedError with the reason when the stop flag was raised or the time limit passed
    and the job has ended for it; JobStuckError when it does not end; whatever `what` raises. A job
    that is complete in the moment in which it is aborted is complete.
    """
    begin = clock.monotonic()
    call = Call(what, f"{part} {domain.name}")
    watch = JobWatch(domain, clock, look)
    watch.start()
    told: JobStats | None = None
    try:
        while not call.wait(LOOK_SECONDS):
            if watch.latest is not None and watch.latest is not told:
                told = watch.latest
                tell(of_job(domain.name, part, told))
            why = _why_end(stop, limit_seconds, clock.monotonic() - begin)
            if why and beyond():
                return _too_late(domain, call, part, why, tell)
            if why:
                return _aborted(domain, call, why, clock)
        return call.result()
    finally:
        watch.stop()


def _why_end(stop: Stopping, limit_seconds: float | None, spent_seconds: float) -> str:
    if stop.requested():
        return stop.reason or "it was stopped"
    if limit_seconds is not None and spent_seconds >= limit_seconds:
        return f"it took longer than {limit_seconds:g} s"
    return ""


def _too_late(domain: Domain, call: Call[Value], part: Part, why: str, tell: Tell) -> Value:
    note = f"{why}; but post-copy cannot be aborted: it goes on to its end"
    tell(MoveProgress(domain=domain.name, part=part, note=note))
    if not call.wait(BEYOND_SECONDS):
        raise JobStuckError(
            f"{domain.name}: post-copy does not end",
            f"look at it with virsh domjobinfo {domain.name}",
        )
    return call.result()


def _aborted(domain: Domain, call: Call[Value], why: str, clock: Clock) -> Value:
    """Abort until the call has ended; see `run`."""
    end = clock.monotonic() + ABORTED_SECONDS
    trouble = ""
    while not call.wait(0) and clock.monotonic() < end:
        abort = Call(domain.abort_job, f"aborting {domain.name}")
        # whatever is answered to the order, the end of the job itself is what is waited for
        call.wait(ABORT_AGAIN_SECONDS)
        trouble = _trouble(abort)
    if not call.wait(0):
        raise JobStuckError(
            f"{domain.name}: {why}; its job was aborted and does not end{trouble}",
            f"look at it with virsh domjobinfo {domain.name}",
        )
    try:
        return call.result()
    except HibprepError as error:
        raise JobAbortedError(f"{domain.name}: {why}") from error


def _trouble(abort: Call[None]) -> str:
    try:
        abort.result()
    except HibprepError as error:
        return f" ({error})"
    return ""
