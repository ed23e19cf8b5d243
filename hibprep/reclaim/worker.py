# SPDX-License-Identifier: LGPL-2.1-or-later
"""The parent's side of the process that blocks in the kernel (`hibprep.kernel.writer`).

The process lives as long as one run and is killed to stop it. Killing is not always enough: up to
7.1 reclaim looks at signals only between its batches, so the end is waited for, with a deadline,
and a process that did not end in time is an error that says so, never a silence.
"""

from __future__ import annotations

import json
import math
import os
import select
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import hibprep
from hibprep.clock import Clock, SystemClock
from hibprep.errors import HibprepError
from hibprep.ranges import Range
from hibprep.reclaim.base import Stop, WriteResult

KILL_DEADLINE_SECONDS = 20.0  # /sys/power/pm_freeze_timeout's default: later is too late anyway
_WATCH_SECONDS = 0.1
_PROGRAM = (
    "import sys; sys.path.insert(0, sys.argv[1]); from hibprep.kernel.writer import main; "
    "main(sys.argv[2], int(sys.argv[3]))"
)


class WriterStuckError(HibprepError):
    """The writing process did not end although it was killed."""


def _ended(process: subprocess.Popen[bytes]) -> bool:
    """Wait for its end, and tell whether it came in time. Popen.wait() with a time-out looks only
    every 50 ms, which is a fifth of what a stop may take."""
    if process.returncode is not None:
        return True
    descriptor = os.pidfd_open(process.pid)
    try:
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        if not poll.poll(math.ceil(KILL_DEADLINE_SECONDS * 1000)):
            return False
    finally:
        os.close(descriptor)
    process.wait()
    return True


class ProcessWorker:
    """A `Worker` that is a real process, started at the first request."""

    def __init__(self, prefix: str = "/", clock: Clock | None = None) -> None:
        self._prefix = prefix
        self._clock = clock or SystemClock()
        self._process: subprocess.Popen[bytes] | None = None
        self._buffer = b""
        self._abandoned: list[subprocess.Popen[bytes]] = []

    def write(self, path: str, text: str, stop: Stop) -> WriteResult:
        """See `Worker.write`."""
        return self._ask({"do": "write", "path": path, "text": text}, stop)

    def sync(self, stop: Stop) -> WriteResult:
        """See `Worker.sync`."""
        return self._ask({"do": "sync"}, stop)

    def pageout(self, pid: int, ranges: tuple[tuple[int, int], ...], stop: Stop) -> WriteResult:
        """See `Worker.pageout`."""
        return self._ask({"do": "pageout", "pid": pid, "ranges": ranges}, stop)

    def fetch(
        self, pid: int, start: int, ranges: Sequence[Range], stop: Stop, *, touch: bool = False
    ) -> WriteResult:
        """Have ranges of a process that started at `start` read into memory, as
        `hibprep.kernel.fetch` does: all at once, or with `touch` page by page. `value` is the bytes
        for which that was done; ESRCH when the process is another one by now."""
        how = "touch" if touch else "willneed"
        request = {"do": how, "pid": pid, "start": start, "ranges": list(ranges)}
        return self._ask(request, stop)

    def swap_off(self, path: str, stop: Stop, watch: Callable[[], bool]) -> WriteResult:
        """Have everything in swap area `path` read back, and give it up. It ends early, with the
        area in use as before (`stopped`), when the stop flag is raised or `watch`, which is asked
        all the while, says no."""
        return self._ask({"do": "swapoff", "path": path}, stop, watch)

    def close(self) -> None:
        """Kill the process and wait for its end; raises `WriterStuckError` when it does not."""
        process, self._process, self._buffer = self._process, None, b""
        if process is None:
            return
        process.kill()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()
        if not _ended(process):
            raise WriterStuckError(
                f"the writing process {process.pid} is still in the kernel "
                f"{KILL_DEADLINE_SECONDS:.0f} s after it was killed",
                "a hibernation begun now would be refused by the freezer; wait for it to end",
            )

    def _abandon(self) -> None:
        """Kill the process and do not wait for it: sync(2) heeds no signal, and it reclaims
        nothing. A hibernation that comes in between waits for the same pages anyway."""
        process, self._process, self._buffer = self._process, None, b""
        if process is None:
            return
        process.kill()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()
        self._abandoned = [old for old in (*self._abandoned, process) if old.poll() is None]

    @property
    def pid(self) -> int | None:
        """The process, when there is one."""
        return self._process.pid if self._process else None

    def _start(self) -> subprocess.Popen[bytes]:
        if self._process is None or self._process.poll() is not None:
            self.close()
            package = str(Path(hibprep.__file__).parent.parent)
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", "-c", _PROGRAM, package, self._prefix,
                 str(os.getpid())],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                # A Ctrl-C on the terminal is the parent's to handle, in its own order.
                start_new_session=True,
            )  # fmt: skip
        return self._process

    def _ask(
        self, request: dict[str, Any], stop: Stop, watch: Callable[[], bool] | None = None
    ) -> WriteResult:
        begin = self._clock.monotonic()
        if stop.requested():
            return WriteResult(errno=0, seconds=0.0, stopped=True)
        process = self._start()
        assert process.stdin is not None  # noqa: S101 - both are pipes
        assert process.stdout is not None  # noqa: S101
        try:
            process.stdin.write(json.dumps(request).encode() + b"\n")
            process.stdin.flush()
            line = self._read_line(process.stdout.fileno(), stop, watch)
        except BrokenPipeError:
            line = b""
        if line is None:
            if request["do"] == "sync":
                self._abandon()
            else:
                self.close()
            return WriteResult(errno=0, seconds=self._clock.monotonic() - begin, stopped=True)
        if not line:
            status = process.wait(KILL_DEADLINE_SECONDS)
            self.close()
            raise HibprepError(
                f"the writing process ended by itself with status {status}",
                "see the journal for an out-of-memory kill",
            )
        answer = json.loads(line)
        return WriteResult(errno=answer["errno"], seconds=answer["seconds"], value=answer["value"])

    def _read_line(
        self, descriptor: int, stop: Stop, watch: Callable[[], bool] | None = None
    ) -> bytes | None:
        """One line; b"" when the process is gone, None when the stop flag was raised or `watch`
        said no.

        How long a request may take is the stop flag's to say: it carries the run's deadline.
        """
        poll = select.poll()
        poll.register(descriptor, select.POLLIN | select.POLLHUP)
        poll.register(stop.fileno(), select.POLLIN)
        while b"\n" not in self._buffer:
            remaining = stop.remaining_seconds()
            if watch is not None:
                remaining = _WATCH_SECONDS if remaining is None else min(remaining, _WATCH_SECONDS)
            ready = dict(poll.poll(None if remaining is None else math.ceil(remaining * 1000)))
            if descriptor in ready:
                data = os.read(descriptor, 65536)
                if not data:
                    return b""
                self._buffer += data
            elif stop.requested() or (watch is not None and not watch()):
                return None
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line
