# SPDX-License-Identifier: LGPL-2.1-or-later
"""In the guest: a program that holds cold memory, and the running daemon seen from outside.

What `bench/returning.py` works with there; hibprep's own modules, which are installed in the guest,
and the standard library.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, Self

from hibprep.kernel.process import child_pids
from hibprep.kernel.root import KernelRoot

UNIT = "hibprep.service"
HISTORY = Path("/var/lib/hibprep/history.jsonl")
LONGEST_SECONDS = 60.0  # for what takes seconds in an emulated guest
LOOK_SECONDS = 0.01

# After a stop the daemon may have seen others wait, and believes for a minute that the machine is
# used. That is as it should be, and would be most of what is measured here.
_PATIENCE_SECONDS = 8.0
_SYSCALL_READ = "0"  # x86-64

# Each line on its standard input gives all of its memory back and writes it anew: what was swapped
# out need not be read, so that nobody waits. A block at a time: pages would take minutes, emulated.
_FILLER = """
import mmap, os, sys
size = int(sys.argv[1])
memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
noise = os.urandom(1 << 20)
for line in sys.stdin:
    memory.madvise(mmap.MADV_DONTNEED)
    for at in range(0, size, len(noise)):
        memory[at : at + len(noise)] = noise[: size - at]
    print("filled", flush=True)
"""


class Stuck(Exception):
    """Something did not happen in time, in words."""


# --- who is there ---------------------------------------------------------------------------------


class Filler:
    """A program of the user's that holds cold memory; a context manager that ends it."""

    def __init__(self, size_bytes: int) -> None:
        self._process = subprocess.Popen(
            [
                *("systemd-run", "--scope", "--quiet", "--collect", "--slice=user.slice"),
                *("/usr/bin/python3", "-I", "-S", "-c", _FILLER, str(size_bytes)),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._process.kill()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
        self._process.wait(LONGEST_SECONDS)

    def fill(self) -> None:
        """Have all of its memory in memory."""
        write, read = self._pipes()
        write.write("fill\n")
        write.flush()
        if not select.select([read], [], [], LONGEST_SECONDS)[0]:
            raise Stuck(f"memory was not filled within {LONGEST_SECONDS:g} s")
        if read.readline() != "filled\n":
            raise Stuck("the program that fills memory has ended")

    def _pipes(self) -> tuple[IO[str], IO[str]]:
        write, read = self._process.stdin, self._process.stdout
        if write is None or read is None:
            raise Stuck("the program that fills memory has no pipes")
        return write, read


class Daemon:
    """The running daemon, seen from outside."""

    def __init__(self) -> None:
        self._root = KernelRoot()
        self._pid = 0
        self.restarts = 0
        self._find()

    def _find(self) -> None:
        shown = _run("systemctl", "show", "-P", "MainPID", UNIT)
        self._pid = int(shown.strip() or 0)
        if not self._pid:
            raise Stuck(f"{UNIT} does not run")

    def restart(self) -> None:
        """Another one, which has seen nothing yet."""
        _run("systemctl", "restart", UNIT)
        self.restarts += 1
        self._find()

    def writer(self) -> int | None:
        """Its process that writes to the kernel: it lives as long as the run."""
        for pid in child_pids(self._root, self._pid):
            with contextlib.suppress(OSError):
                if b"hibprep.kernel.writer" in Path(f"/proc/{pid}/cmdline").read_bytes():
                    return pid
        return None

    def wait_for_writer(self) -> int:
        """The writer of the run that the idle machine leads to; Stuck when there is none."""
        found = _until(self.writer, _PATIENCE_SECONDS)
        if found is None:
            self.restart()
            found = _until(self.writer, LONGEST_SECONDS)
        if found is None:
            said = _run("systemctl", "show", "-P", "StatusText", UNIT).strip()
            raise Stuck(f"nothing is reclaimed: {said}")
        return found


def _run(*argv: str) -> str:
    done = subprocess.run(
        argv, capture_output=True, text=True, check=False, timeout=LONGEST_SECONDS
    )
    if done.returncode:
        raise Stuck(f"{' '.join(argv)}: {done.stderr.strip() or done.returncode}")
    return done.stdout


def _until(look: Callable[[], int | None], seconds: float) -> int | None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        found = look()
        if found is not None:
            return found
        time.sleep(LOOK_SECONDS)
    return None


def at_request(syscall: str) -> bool:
    """Whether a writer of which /proc/PID/syscall says this is at a request, and not waiting for
    the next one on its standard input. "" is a process that is gone."""
    words = syscall.split()[:2]
    return bool(words) and words != [_SYSCALL_READ, "0x0"]


def in_kernel(pid: int) -> bool:
    """Whether that writer is at a request."""
    try:
        return at_request(Path(f"/proc/{pid}/syscall").read_text())
    except OSError:
        return False


def ended(pidfd: int, seconds: float) -> bool:
    """Whether a process ends within so many seconds."""
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(max(0.0, seconds) * 1000))


@contextlib.contextmanager
def writer_of(daemon: Daemon) -> Iterator[tuple[int, int]]:
    """The writer of the run that comes, and a descriptor that tells of its end."""
    while True:
        pid = daemon.wait_for_writer()
        with contextlib.suppress(ProcessLookupError):
            pidfd = os.pidfd_open(pid)
            break
    try:
        yield pid, pidfd
    finally:
        os.close(pidfd)


def history_state() -> tuple[int, int, int] | None:
    """What changes with every report that is kept."""
    try:
        found = HISTORY.stat()
    except FileNotFoundError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns


def next_report(before: tuple[int, int, int] | None) -> tuple[dict[str, Any], float]:
    """The report of the run that has just ended, and the moment at which it was seen. It is kept
    when nothing writes to the kernel any more and every setting is back."""
    deadline = time.monotonic() + LONGEST_SECONDS
    while True:
        if history_state() != before:
            text = HISTORY.read_bytes()
            if text.endswith(b"\n"):  # else it is being written
                return json.loads(text.splitlines()[-1]), time.monotonic()
        if time.monotonic() > deadline:
            raise Stuck(f"no report of the run after {LONGEST_SECONDS:g} s")
        time.sleep(LOOK_SECONDS)
