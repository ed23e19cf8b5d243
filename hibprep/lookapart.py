# SPDX-License-Identifier: LGPL-2.1-or-later
"""Looks at what is in use (`hibprep.workingset`) in a process of their own, for programs that
stand still.

A page table is read under the lock of its process. Who is frozen in the middle of a system call may
hold that lock until he is thawed, such as one who waits for a file system in user space that is
frozen as well. Waiting for it is over with a SIGKILL and with nothing else: so it is done by a
process that can be killed, and a look that does not come is given up.

Requests and answers are JSON, one a line. What was seen is kept after each answer, so that nobody
waits for the disk.
"""

from __future__ import annotations

import json
import math
import os
import select
import subprocess
import sys
from pathlib import Path

import hibprep
from hibprep import workingset
from hibprep.kernel.root import KernelRoot
from hibprep.kernel.writer import die_with
from hibprep.reclaim.base import Stop

# Beside the look's own: to start, in a machine that has just given away all its caches, and at the
# end to keep what was seen.
GRACE_SECONDS = 8.0
_TO_END_SECONDS = 0.5  # also behind the deadline of the run: a killed process needs a moment

_PROGRAM = (
    "import sys; sys.path.insert(0, sys.argv[1]); from hibprep.lookapart import serve; "
    "serve(sys.argv[2], int(sys.argv[3]))"
)


def serve(prefix: str, parent: int) -> None:
    """The process's side: look when told to, until the pipe is closed."""
    die_with(parent)
    root = KernelRoot(prefix)
    last = workingset.load(root)
    for line in sys.stdin:
        request = json.loads(line)
        last = workingset.take(
            root, last, request["seconds"], look=request["look"], files=request["files"]
        )
        sys.stdout.write(json.dumps({"complete": last.complete}) + "\n")
        sys.stdout.flush()
        workingset.save(root, last)


class LooksApart:
    """`hibprep.workingset.Looks` by such a process, which is started for the first of them; after
    one that does not come there are no more."""

    def __init__(
        self,
        root: KernelRoot,
        stop: Stop,
        *,
        budget_seconds: float = workingset.BUDGET_SECONDS,
        grace_seconds: float = GRACE_SECONDS,
    ) -> None:
        self._root = root
        self._stop = stop
        self._budget_seconds = budget_seconds
        self._grace_seconds = grace_seconds
        self._process: subprocess.Popen[bytes] | None = None
        self.notes: list[str] = []

    def look(self, name: str, *, files: bool) -> None:
        """One look, finished when this returns, or given up."""
        if self.notes:
            return
        request = {"look": name, "files": files, "seconds": self._budget_seconds}
        try:
            process = self._started()
            assert process.stdin is not None  # noqa: S101 - a pipe
            process.stdin.write(json.dumps(request).encode() + b"\n")
            process.stdin.flush()
        except OSError as error:
            self._give_up(f"no look {name} at what is in use: {error}")
            return
        if not self._answered(process):
            self._give_up(f"no look {name} at what is in use: it did not come back in time")

    def keep(self) -> None:
        """Wait until what was seen is kept; the process is known to have ended then."""
        process, self._process = self._process, None
        if process is None:
            return
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()
        if not self._ended(process):
            process.kill()
            if not self._ended(process):
                self.notes.append(f"process {process.pid} does not end although it was killed")

    def _ended(self, process: subprocess.Popen[bytes]) -> bool:
        try:
            process.wait(max(_TO_END_SECONDS, self._within(self._grace_seconds)))
        except subprocess.TimeoutExpired:
            return False
        return True

    def _within(self, seconds: float) -> float:
        """So long, or until the deadline of the run."""
        remaining = self._stop.remaining_seconds()
        return seconds if remaining is None else min(seconds, remaining)

    def _started(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            package = str(Path(hibprep.__file__).parent.parent)
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", "-c", _PROGRAM, package, str(self._root.prefix),
                 str(os.getpid())],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                start_new_session=True,  # a Ctrl-C is the parent's to handle
            )  # fmt: skip
        return self._process

    def _answered(self, process: subprocess.Popen[bytes]) -> bool:
        assert process.stdout is not None  # noqa: S101 - a pipe
        poll = select.poll()
        poll.register(process.stdout.fileno(), select.POLLIN | select.POLLHUP)
        poll.register(self._stop.fileno(), select.POLLIN)
        seconds = self._within(self._budget_seconds + self._grace_seconds)
        ready = dict(poll.poll(math.ceil(seconds * 1000)))
        return process.stdout.fileno() in ready and bool(process.stdout.readline())

    def _give_up(self, note: str) -> None:
        self.notes.append(note)
        if self._process is not None:
            self._process.kill()
