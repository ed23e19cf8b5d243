# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a run of hibprep on this machine is given to work with: swap, anonymous memory, page cache.

A temporary swap file and a process that fills memory, both of which are taken away again.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Self

from bench.lab.paths import cache_root

SWAP_BYTES = 512 << 20
FILL_BYTES = 1 << 30
CALM_SECONDS = 60.0  # for what takes milliseconds on a machine with nothing else to do
_HIGHEST_PRIORITY = 32767

# Each line on its standard input makes it write to all of its memory again; pages differ from each
# other and are not easily compressed, so that neither zswap nor page merging makes them cheap.
_FILLER = """
import ctypes, mmap, os, sys
size, lock = int(sys.argv[1]), sys.argv[2] == "lock"
memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
memory.madvise(mmap.MADV_NOHUGEPAGE)
noise = os.urandom(mmap.PAGESIZE)
for at in range(0, size, mmap.PAGESIZE):
    memory[at : at + mmap.PAGESIZE] = noise
    memory[at : at + 8] = at.to_bytes(8, "little")
if lock:
    start = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    if ctypes.CDLL(None, use_errno=True).mlock(ctypes.c_void_p(start), ctypes.c_size_t(size)):
        sys.exit(f"mlock: {os.strerror(ctypes.get_errno())}")
print("filled", flush=True)
for line in sys.stdin:
    if line.startswith("check"):
        same = all(
            memory[at : at + 8] == at.to_bytes(8, "little")
            and memory[at + 8 : at + mmap.PAGESIZE] == noise[8:]
            for at in range(0, size, mmap.PAGESIZE)
        )
        print("intact" if same else "damaged", flush=True)
        continue
    for at in range(0, size, mmap.PAGESIZE):
        memory[at] = memory[at]
    print("touched", flush=True)
"""


class CannotMeasure(Exception):
    """What this machine lacks for it, in words."""


@contextlib.contextmanager
def temporary_swap(size_bytes: int = SWAP_BYTES, directory: Path | None = None) -> Iterator[Path]:
    """A swap file of our own, of the highest priority, for one user at a time.

    One that a killed run has left is taken away first; no other swap is ever touched.
    """
    if os.geteuid() != 0:
        raise CannotMeasure("a swap file takes root")
    folder = directory or cache_root() / "swap"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = folder / "hibprep-tests.swap"
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        _remove_swap(path)
        try:
            _make_swap(path, size_bytes)
            yield path
        finally:
            _remove_swap(path)


def renew_swap(path: Path) -> None:
    """Bring back whatever is in our swap file, so that there is room for another run."""
    subprocess.run(["swapoff", str(path)], check=True, capture_output=True)
    subprocess.run(
        ["swapon", "-p", str(_HIGHEST_PRIORITY), str(path)], check=True, capture_output=True
    )


def swap_used_bytes(path: Path) -> int:
    """How much of that swap file is in use."""
    for line in Path("/proc/swaps").read_text().splitlines()[1:]:
        words = line.split()
        if words[0] == str(path):
            return int(words[3]) << 10
    return 0


def _make_swap(path: Path, size_bytes: int) -> None:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        try:
            os.posix_fallocate(descriptor, 0, size_bytes)
        except OSError as error:
            raise CannotMeasure(f"{path}: {error.strerror}") from error
    finally:
        os.close(descriptor)
    for command in (
        ["mkswap", str(path)],
        ["swapon", "-p", str(_HIGHEST_PRIORITY), str(path)],
    ):
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        if done.returncode:
            raise CannotMeasure(f"{command[0]}: {done.stderr.strip()}")


def swap_is_on(path: Path) -> bool:
    """Whether that file is in use as swap."""
    names = [line.split()[0] for line in Path("/proc/swaps").read_text().splitlines()[1:]]
    return str(path) in names


def _remove_swap(path: Path) -> None:
    if swap_is_on(path):
        subprocess.run(["swapoff", str(path)], check=True, capture_output=True)
    path.unlink(missing_ok=True)


class Filler:
    """A process that holds memory; a context manager that ends it."""

    def __init__(self, size_bytes: int = FILL_BYTES, *, lock: bool = False) -> None:
        self._arguments = [str(size_bytes), "lock" if lock else ""]
        self.size_bytes = size_bytes
        self._process: subprocess.Popen[str] | None = None

    @property
    def pid(self) -> int:
        """Its process."""
        return self._running.pid

    @property
    def _running(self) -> subprocess.Popen[str]:
        if self._process is None:
            raise CannotMeasure("the filler does not run")
        return self._process

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", _FILLER, *self._arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        try:
            self._expect("filled")
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(self, *exception: object) -> None:
        self._end()

    def touch(self) -> None:
        """Have all of it written to: it is back in memory, and its swap is given back."""
        self._say("touch")
        self._expect("touched")

    def intact(self) -> bool:
        """Whether every page holds what was put there."""
        self._say("check")
        return self._answer() == "intact"

    def swapped_bytes(self) -> int:
        """How much of it is in swap."""
        return swapped_bytes(self.pid)

    def _say(self, word: str) -> None:
        pipe = self._running.stdin
        if pipe is not None:
            pipe.write(f"{word}\n")
            pipe.flush()

    def _answer(self) -> str:
        pipe = self._running.stdout
        return pipe.readline().strip() if pipe is not None else ""

    def _expect(self, word: str) -> None:
        answer = self._answer()
        if answer != word:
            raise CannotMeasure(f"the process that fills memory ended ({answer or 'no answer'})")

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.kill()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()
        process.wait(CALM_SECONDS)


def swapped_bytes(pid: int) -> int:
    """VmSwap of a process."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmSwap:"):
            return int(line.split()[1]) << 10
    return 0


def make_cache(folder: Path, size_bytes: int) -> Path:
    """Clean page cache: a file that was written, synced and read."""
    path = folder / "cached"
    noise = os.urandom(1 << 20)
    with path.open("wb") as file:
        for _ in range(size_bytes >> 20):
            file.write(noise)
        file.flush()
        os.fsync(file.fileno())
    with path.open("rb") as file:
        while file.read(1 << 20):
            pass
    return path
