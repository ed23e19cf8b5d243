# SPDX-License-Identifier: LGPL-2.1-or-later
"""Keeps the programs of one host of the rig together, and ends them all with itself.

Run as a script (standard library only, imported by nothing). libvirtd's QEMUs are no children of
it that would die with it: they are meant to outlive a restart. Here they are: whoever loses his
parent below this process becomes its child (PR_SET_CHILD_SUBREAPER, Linux 3.4). So all of them are
found by their parents, and are ended when SIGTERM comes or nobody holds the other end of the socket
any more, which is so however the process that held it ended.

Over the socket come lines, each a JSON object with the arguments for `enter.py` and the environment
of a program to be started; the answer to each is a line with its process id.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

PR_SET_CHILD_SUBREAPER = 36
END_SECONDS = 20.0

_ENTER = Path(__file__).with_name("enter.py")


class Keeper:
    """The programs that were asked for, and all that descends from them."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._buffer = bytearray()
        self._told_to_end = False
        # Only their writing to the pipe is wanted. They are handlers, and not SIG_IGN, since that
        # would be inherited, and libvirtd could not wait for its children.
        self._wake, wake = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.signal(signal.SIGTERM, self._terminated)

    def serve(self) -> None:
        """Start what is asked for, until nobody asks any more; then end everything."""
        poll = select.poll()
        poll.register(self._connection, select.POLLIN)
        poll.register(self._wake, select.POLLIN)
        try:
            while not self._told_to_end:
                ready = [descriptor for descriptor, _ in poll.poll()]
                if self._wake in ready:
                    os.read(self._wake, 4096)
                    reap()
                if self._connection.fileno() in ready and not self._hear():
                    break
        finally:
            end_all(time.monotonic() + END_SECONDS)

    def _terminated(self, *_: object) -> None:
        self._told_to_end = True

    def _hear(self) -> bool:
        """Take what has come; False when nobody is there any more."""
        try:
            data = self._connection.recv(1 << 16)
        except ConnectionError:
            return False
        if not data:
            return False
        self._buffer += data
        while (end := self._buffer.find(b"\n")) >= 0:
            asked = json.loads(self._buffer[:end])
            del self._buffer[: end + 1]
            pid = start(asked["arguments"], asked["environment"])
            self._connection.sendall(json.dumps({"pid": pid}).encode() + b"\n")
        return True


def start(arguments: list[str], environment: dict[str, str]) -> int:
    """Start a program by way of `enter.py`; its process id."""
    process = subprocess.Popen(
        [sys.executable, "-I", "-S", str(_ENTER), f"--parent={os.getpid()}", *arguments],
        stdin=subprocess.DEVNULL,
        env=environment,
        start_new_session=True,
    )
    process.returncode = 0  # it is reaped with all others, not by its object
    return process.pid


def reap() -> None:
    """Take note of all children that have ended."""
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def descendants() -> list[int]:
    """All processes below this one."""
    children: dict[int, list[int]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it has ended meanwhile
            # the name before the last bracket may contain anything
            fields = path.read_text(errors="replace").rpartition(")")[2].split()
            children.setdefault(int(fields[1]), []).append(int(path.parent.name))
    found = list(children.get(os.getpid(), []))
    for pid in found:  # grows while it is gone over
        found += children.get(pid, [])
    return found


def end_all(deadline: float) -> None:
    """End all descendants by their ids. Until there are none: one that is just being born is found
    the next time."""
    while (found := descendants()) and time.monotonic() < deadline:
        for pid in found:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.01)
        reap()


def main() -> None:
    """``keeper.py --fd N``: N is the socket."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--fd", type=int, required=True)
    options = parser.parse_args()
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")
    connection = socket.socket(fileno=options.fd)
    os.set_inheritable(options.fd, False)  # noqa: FBT003 - its signature
    Keeper(connection).serve()


if __name__ == "__main__":
    main()
