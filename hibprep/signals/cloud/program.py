# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a program of the administrator's prints, within bounds: of time, of length, and of what it
leaves behind, which is nothing.

For code that blocks, in a thread. The program has a session of its own, so that all that it has
started can be killed with it; what leaves that session (setsid(2)) is the administrator's.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import select
import signal
import subprocess
import threading
import time

from hibprep.errors import KernelFileError
from hibprep.kernel.process import open_pidfd
from hibprep.setup.programs import DIRECTORIES
from hibprep.signals.cloud.base import AnswerError, NoAnswerError

MOST_BYTES = 64 << 10
GRACE_SECONDS = 2.0  # until what was killed is known to be gone
_CHUNK_BYTES = 16 << 10

# The threads that wait for them are not waited for when hibprep itself ends. (Not one atexit entry
# a run: the room of those that were taken back is not given back.)
_running: set[int] = set()


class Program:
    """One that is run again and again, and never twice at a time."""

    def __init__(self, argv: tuple[str, ...], *, timeout_seconds: float) -> None:
        self._argv = argv
        self._timeout_seconds = timeout_seconds
        self._turn = threading.Lock()
        self._left: subprocess.Popen[bytes] | None = None  # killed, and not known to be gone

    def output(self) -> bytes:
        """Run it; what it has printed. Raises NoAnswerError when it cannot be run, does not end in
        time, or ends with an exit code other than 0 (which is told, and what it said is not);
        AnswerError when it prints more than MOST_BYTES."""
        if not self._turn.acquire(blocking=False):
            raise NoAnswerError(f"{self._argv[0]} is still running")
        try:
            self._settle()
            process = self._started()
            try:
                said = self._said(process)
            finally:
                self._end(process)
        finally:
            self._turn.release()
        _judge(self._argv[0], process.returncode)
        return said

    def _settle(self) -> None:
        """Raise NoAnswerError as long as the one of before is still there: it hangs in the kernel,
        and more of them would do so too."""
        if self._left is not None and self._left.poll() is None:
            raise NoAnswerError(f"{self._argv[0]} was killed and has not ended yet")
        self._left = None

    def _started(self) -> subprocess.Popen[bytes]:
        try:
            return subprocess.Popen(
                self._argv,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,  # and stderr is ours: the journal
                cwd="/",
                env={"PATH": ":".join(DIRECTORIES)},
                start_new_session=True,
            )
        except OSError as error:
            # no reason to give up: what is not there may come back, as in an upgrade
            raise NoAnswerError(
                f"{self._argv[0]} cannot be run: {error.strerror}",
                "set notices.command to a program and its arguments",
            ) from None

    def _said(self, process: subprocess.Popen[bytes]) -> bytes:
        """All that it prints until it ends; then its group is killed, and it is not reaped yet."""
        _running.add(process.pid)
        try:
            return self._read(process)
        finally:
            # Before it is reaped: until then its number, and that of its group, is nobody else's.
            _kill_group(process.pid)
            _running.discard(process.pid)

    def _read(self, process: subprocess.Popen[bytes]) -> bytes:
        assert process.stdout is not None  # noqa: S101 - for the type checker
        output = process.stdout.fileno()
        os.set_blocking(output, False)
        until = time.monotonic() + self._timeout_seconds
        said = bytearray()
        try:
            ended = open_pidfd(process.pid)
        except KernelFileError as error:
            raise NoAnswerError(error.message) from None
        try:
            poll = select.poll()
            poll.register(ended, select.POLLIN)
            poll.register(output, select.POLLIN)
            while True:
                ready = {fd for fd, _ in poll.poll(max(0.0, until - time.monotonic()) * 1000)}
                if not ready:
                    raise NoAnswerError(
                        f"{self._argv[0]} did not end within {self._timeout_seconds:g} s"
                    )
                # once it has ended, all that it printed can be read
                if not _take(output, said) and ended not in ready:
                    poll.unregister(output)
                if len(said) > MOST_BYTES:
                    raise AnswerError(f"{self._argv[0]} prints more than {MOST_BYTES} bytes")
                if ended in ready:
                    return bytes(said)
        finally:
            os.close(ended)

    def _end(self, process: subprocess.Popen[bytes]) -> None:
        if process.stdout is not None:
            process.stdout.close()
        try:
            process.wait(GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            self._left = process


def _take(output: int, said: bytearray) -> bool:
    """Read what there is, and little more than MOST_BYTES in all; false at the end."""
    while len(said) <= MOST_BYTES:
        try:
            part = os.read(output, _CHUNK_BYTES)
        except BlockingIOError:
            return True
        if not part:
            return False
        said += part
    return True


def _kill_group(leader: int) -> None:
    # gone already, or another user's: a program with the set-user-ID bit
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(leader, signal.SIGKILL)


@atexit.register
def _kill_running() -> None:
    for leader in tuple(_running):
        _kill_group(leader)


def _judge(program: str, code: int) -> None:
    if code < 0:
        raise NoAnswerError(f"{program} was ended by signal {-code}")
    if code > 0:
        raise NoAnswerError(f"{program} ended with exit code {code}")
