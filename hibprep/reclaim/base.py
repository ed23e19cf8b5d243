# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a back-end is: a way of asking the kernel for one chunk of reclaim, and no policy at all.

How much to take, from whom, when to stop and what it was worth is the executor's business. Return
codes of reclaim lie (EAGAIN after success, success after nothing), so the executor measures what it
freed. A back-end says it only where the kernel keeps a counter of that back-end's work alone.
"""

from __future__ import annotations

import math
import os
import select
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from hibprep.clock import Clock, SystemClock
from hibprep.model import BackendName, Capability, Step


class Status(StrEnum):
    """How one chunk ended, as far as the kernel's answer can tell."""

    OK = "ok"  # the kernel took the request and returned
    AGAIN = "again"  # EAGAIN: perhaps much was done, perhaps writeback is still under way
    WAIT = "wait"  # nothing to do yet (aging); ask again after `wait_seconds`
    EXHAUSTED = "exhausted"  # there is nothing of this kind left in this scope
    GONE = "gone"  # the cgroup or the process is no more
    FAILED = "failed"  # it will not work here; `note` says why
    STOPPED = "stopped"  # the stop flag was raised


@dataclass(frozen=True, slots=True)
class Budget:
    """What one chunk may take: at most so many bytes, and at most about so many seconds."""

    amount_bytes: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one chunk came to.

    `note` is for the report, in words. `skipped_bytes` is memory that had to be left alone (only
    back-ends that are told so by the kernel know it). With `knows_its_end` a chunk in which nothing
    moved says nothing about the next one: the back-end tells by itself when there is no more.
    `counted_file_bytes` is what has been freed of the page cache since the chunk before, by a
    counter of the kernel's that nothing else moves; None where there is none.
    """

    status: Status
    note: str = ""
    wait_seconds: float = 0.0
    skipped_bytes: int = 0
    knows_its_end: bool = False
    counted_file_bytes: int | None = None


def failed(path: str, errno: int) -> Outcome:
    """The outcome for an answer that means: not here, not today."""
    return Outcome(Status.FAILED, f"{path}: {os.strerror(errno)}")


class Backend(Protocol):
    """One way of reclaiming."""

    name: BackendName

    def probe(self) -> Capability:
        """Whether it can be used here; has no side effects, raises nothing."""

    def prime(self, step: Step, stop: Stop) -> None:
        """Begin what takes time to know (aging), so that it passes while other steps run."""

    def run(self, step: Step, budget: Budget, stop: Stop) -> Outcome:
        """Reclaim one chunk of `step`; returns within about `budget.seconds`, sooner when `stop`
        is raised. Raises nothing that the kernel can cause."""


class Stop:
    """The stop flag, raised by a signal handler, a deadline or another thread.

    Built on an eventfd and not on `threading.Event`: the latter takes a lock that a signal handler
    can find held by the very thread that it interrupted. `fileno()` is readable once it is raised,
    so that it can be polled beside other things.
    """

    def __init__(self, clock: Clock | None = None) -> None:
        self._clock = clock or SystemClock()
        self._deadline: float | None = None
        self._eventfd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._raised = False
        self.reason = ""
        self.timed_out = False

    def request(self, reason: str) -> None:
        """Raise the flag; the first reason stays."""
        if not self._raised:
            self.reason = reason
        self._raised = True
        os.eventfd_write(self._eventfd, 1)

    def within(self, seconds: float) -> None:
        """Raise the flag by itself so many seconds from now."""
        self._deadline = self._clock.monotonic() + seconds

    def requested(self) -> bool:
        """Whether it is raised, or its deadline has passed."""
        if not self._raised and self.remaining_seconds() == 0:
            self.timed_out = True
            self.request("the time-out has passed")
        return self._raised

    def remaining_seconds(self) -> float | None:
        """Until the deadline; 0 once it has passed, None without one."""
        if self._deadline is None:
            return None
        return max(0.0, self._deadline - self._clock.monotonic())

    def fileno(self) -> int:
        """A descriptor that is readable once the flag is raised."""
        return self._eventfd

    def wait(self, seconds: float) -> bool:
        """Wait at most so long; True when it is raised."""
        if not self.requested() and seconds > 0:
            remaining = self.remaining_seconds()
            if remaining is not None:
                seconds = min(seconds, remaining)
            poll = select.poll()
            poll.register(self._eventfd, select.POLLIN)
            poll.poll(math.ceil(seconds * 1000))
        return self.requested()

    def close(self) -> None:
        """Give the descriptor back."""
        if self._eventfd >= 0:
            os.close(self._eventfd)
            self._eventfd = -1


@dataclass(frozen=True, slots=True)
class WriteResult:
    """What came of one write in the worker: `errno` 0 when the kernel took it; `stopped` when the
    worker was killed for it; `value` what the operation returned."""

    errno: int
    seconds: float
    stopped: bool = False
    value: int = 0


class Worker(Protocol):
    """The child process in which everything that may block in the kernel is done."""

    def write(self, path: str, text: str, stop: Stop) -> WriteResult:
        """Hand `text` to the kernel file `path` in a single write.

        The path is absolute and without the root prefix.
        """

    def sync(self, stop: Stop) -> WriteResult:
        """Write all dirty pages back."""

    def pageout(self, pid: int, ranges: tuple[tuple[int, int], ...], stop: Stop) -> WriteResult:
        """Page out (start, length) pairs of a process with MADV_PAGEOUT (process_madvise(2)).

        `value` is the number of bytes that the kernel says it advised.
        """

    def close(self) -> None:
        """End the child and wait until it is known to have ended."""
