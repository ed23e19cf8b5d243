# SPDX-License-Identifier: LGPL-2.1-or-later
"""A program with memory of every kind, run in the guest. Standard library only.

It fills up to five regions: two anonymous mappings, of which the cold one is written once and left
alone, while of the warm one a byte of every page is read once a period, and the slowest such pass
is recorded, and after a sleep how much was in memory before the first; a file on a tmpfs, mapped
shared, written once and left alone; and two files on a disk, of which one is read into the page
cache with read(2), the other mapped and touched once.
Signals: SIGUSR1 compares every byte with what was written, SIGUSR2 forgets the slowest pass, SIGHUP
makes a pass at once, SIGTERM removes the files and ends it. All it knows is in its state file,
which is replaced atomically.

Every page is different (it carries its number) and all are made of one block of pseudo-random
data that can be made again from a seed: so verifying needs no list of checksums, and a page that
came back in the wrong place is noticed too.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import mmap
import os
import random
import signal
import sys
import threading
import time
from abc import ABC, abstractmethod
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import Any

PAGE = mmap.PAGESIZE
BLOCK = 4 << 20
BLOCK_PAGES = BLOCK // PAGE
WORDS = PAGE // 8
SEED = 20240229
# Where the page numbers of each region begin, so that no two pages of the process are alike.
COLD_FIRST, WARM_FIRST, TMPFS_FIRST, READ_FIRST, MAPPED_FIRST = (n << 40 for n in range(5))
REGIONS = ("cold", "warm", "tmpfs", "read", "mapped")
# What goes to the disk comes first: later it would have to push other things out of memory.
FILLING = ("read", "mapped", "tmpfs", "warm", "cold")
MAX_THREADS = 4
# Less than this is only the time between two readings of the clocks.
SLEPT_SECONDS = 0.25
SIGNALS = {signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP, signal.SIGTERM}


def make_block(compressible: float) -> bytearray:
    """A block whose every page is random but for the share ``compressible``, which is zeros."""
    random_bytes = int(PAGE * (1 - compressible))
    source = random.Random(SEED)  # noqa: S311  # to be made again, not to be secret
    zeros = bytes(PAGE - random_bytes)
    return bytearray(b"".join(source.randbytes(random_bytes) + zeros for _ in range(BLOCK_PAGES)))


def asleep_seconds() -> float:
    """The time that this machine has been suspended or hibernated in all."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) - time.monotonic()


def copy_of(block: bytearray) -> mmap.mmap:
    """A copy that leaves nothing behind: what is freed, the allocator may keep for itself."""
    copy = mmap.mmap(-1, BLOCK)
    copy[:] = block
    return copy


def stamp(block: bytearray | mmap.mmap, first_page: int) -> None:
    """Give the pages of a block their numbers.

    In one strided copy: a loop over pages would take minutes in an emulated guest.
    """
    numbers = array("Q", range(first_page, first_page + BLOCK_PAGES))
    memoryview(block).cast("Q")[::WORDS] = memoryview(numbers)


class Region(ABC):
    """Pages that carry their numbers, from ``first_page`` on; filled and verified in blocks."""

    def __init__(self, size_bytes: int, first_page: int, block: bytearray) -> None:
        self.size = -(-size_bytes // PAGE) * PAGE
        self.address = 0
        self.path: Path | None = None
        self._first = first_page
        self._block = block

    @abstractmethod
    def fill(self) -> None:
        """Write every page once."""

    def place(self) -> dict[str, int | str]:
        """Its range of addresses, from 0 if it is not mapped; and its path, if it is a file."""
        found: dict[str, int | str] = {"address": self.address, "bytes": self.size}
        return found if self.path is None else {**found, "path": str(self.path)}

    def wrong_blocks(self) -> int:
        """How many blocks are not what was written."""
        return sum(self._found(at, length) != self._block[:length] for at, length in self._blocks())

    def close(self) -> None:
        """Remove its file, which would outlive the process."""
        if self.path is not None:
            self.path.unlink(missing_ok=True)

    @abstractmethod
    def _found(self, offset: int, length: int) -> bytes:
        """What is there now."""

    def _blocks(self) -> Iterator[tuple[int, int]]:
        """Each block's offset and length; while it is its turn, ``_block`` is what it has to be."""
        for offset in range(0, self.size, BLOCK):
            stamp(self._block, self._first + offset // PAGE)
            yield offset, min(BLOCK, self.size - offset)


class Memory(Region):
    """A mapping: private and anonymous, or shared and of a file on a tmpfs."""

    def __init__(
        self, size_bytes: int, first_page: int, block: bytearray, path: Path | None = None
    ) -> None:
        super().__init__(size_bytes, first_page, block)
        self.path = path
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
        self._map = mmap.mmap(-1, self.size, flags=flags) if path is None else self._shared(path)
        self._view = memoryview(self._map)
        self.address = ctypes.addressof(ctypes.c_char.from_buffer(self._map))

    def fill(self) -> None:
        """Write every page once, by a thread for each CPU.

        Nearly all of the time is the kernel's, which zeroes the pages first, and memmove is called
        without the lock of Python. Each thread takes the next block, so that memory is written,
        and gets old, in the order of its addresses, as one thread would do it.
        """
        offsets = iter(range(0, self.size, BLOCK))
        threads = min(MAX_THREADS, len(os.sched_getaffinity(0)), -(-self.size // BLOCK))
        helpers = [
            threading.Thread(target=self._write, args=(offsets, copy_of(self._block)))
            for _ in range(threads - 1)
        ]
        for helper in helpers:
            helper.start()
        self._write(offsets, self._block)
        for helper in helpers:
            helper.join()

    def touch(self) -> float:
        """Read one byte of every page; how many seconds it took."""
        started = time.monotonic()
        self._view[::PAGE].tobytes()
        return time.monotonic() - started

    def _shared(self, path: Path) -> mmap.mmap:
        tmpfs = os.statvfs(path.parent)
        room = tmpfs.f_bavail * tmpfs.f_frsize
        if room < self.size:  # or writing there would end in SIGBUS, without a word
            raise OSError(f"{path.parent} has room for {room} bytes, not for {self.size}")
        with path.open("w+b") as stream:
            stream.truncate(self.size)
            return mmap.mmap(stream.fileno(), self.size)

    def _write(self, offsets: Iterator[int], block: bytearray | mmap.mmap) -> None:
        source = ctypes.addressof(ctypes.c_char.from_buffer(block))
        for offset in offsets:
            stamp(block, self._first + offset // PAGE)
            ctypes.memmove(self.address + offset, source, min(BLOCK, self.size - offset))

    def _found(self, offset: int, length: int) -> bytes:
        return self._map[offset : offset + length]


class CachedFile(Region):
    """A file on a disk, in the page cache: by read(2), or mapped shared and only to be read."""

    def __init__(
        self, size_bytes: int, first_page: int, block: bytearray, path: Path, *, mapped: bool
    ) -> None:
        super().__init__(size_bytes, first_page, block)
        self.path: Path = path
        self._mapped = mapped
        self._map: mmap.mmap | None = None

    def fill(self) -> None:
        """Write the file, have it leave the cache, and bring it back as any file is."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("w+b", buffering=0) as stream:
            for _, length in self._blocks():
                write_all(stream.fileno(), memoryview(self._block)[:length])
            os.fsync(stream.fileno())
            os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            if self._mapped:
                self._map = mmap.mmap(stream.fileno(), self.size, access=mmap.ACCESS_READ)
                self.address = address_of(self.path)
                memoryview(self._map)[::PAGE].tobytes()
            else:
                for offset in range(0, self.size, BLOCK):
                    os.pread(stream.fileno(), BLOCK, offset)

    def _found(self, offset: int, length: int) -> bytes:
        if self._map is not None:
            return self._map[offset : offset + length]
        with self.path.open("rb", buffering=0) as stream:
            return os.pread(stream.fileno(), length, offset)


def write_all(descriptor: int, data: memoryview) -> None:
    """Write all of it: write(2) may take less at a time."""
    while data:
        data = data[os.write(descriptor, data) :]


def address_of(path: Path) -> int:
    """Where this process has mapped a file; ctypes tells only of what may be written to."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        if line.endswith(f" {path}"):
            return int(line.partition("-")[0], 16)
    raise OSError(f"{path} is not mapped")


def make_regions(options: argparse.Namespace) -> dict[str, Region]:
    """The regions that were asked for."""
    block = make_block(options.compressible)
    name = Path(options.state).stem
    shared = Path(options.tmpfs_directory, name)
    files = Path(options.file_directory)
    found: dict[str, Region] = {}
    if options.cold_bytes:
        found["cold"] = Memory(options.cold_bytes, COLD_FIRST, block)
    if options.warm_bytes:
        found["warm"] = Memory(options.warm_bytes, WARM_FIRST, block)
    if options.tmpfs_bytes:
        found["tmpfs"] = Memory(options.tmpfs_bytes, TMPFS_FIRST, block, shared)
    if options.read_bytes:
        path = files / f"{name}.read"
        found["read"] = CachedFile(options.read_bytes, READ_FIRST, block, path, mapped=False)
    if options.mapped_bytes:
        path = files / f"{name}.mapped"
        found["mapped"] = CachedFile(options.mapped_bytes, MAPPED_FIRST, block, path, mapped=True)
    return found


class Workload:
    """The program: fills, then touches, verifies, and says what it knows in the state file."""

    def __init__(self, options: argparse.Namespace) -> None:
        self._path = Path(options.state)
        self._period: float = options.period
        self._asleep = asleep_seconds()
        self._regions = make_regions(options)
        warm = self._regions.get("warm")
        self._warm = warm if isinstance(warm, Memory) else None
        self._state: dict[str, Any] = {
            "pid": os.getpid(),
            "ready": False,
            **self._places(),
            "passes": 0,
            "asked_passes": 0,
            "resets": 0,
            "last_pass_seconds": 0.0,
            "slowest_pass_seconds": 0.0,
            "slowest_before_sleep_seconds": None,
            "woke": None,
            "verifications": 0,
            "verified": None,
        }

    def _places(self) -> dict[str, Any]:
        nowhere = {"address": 0, "bytes": 0}
        return {
            name: self._regions[name].place() if name in self._regions else nowhere
            for name in REGIONS
        }

    def _save(self) -> None:
        temporary = self._path.with_name(self._path.name + ".new")
        temporary.write_text(json.dumps(self._state) + "\n")
        temporary.replace(self._path)

    def run(self) -> None:
        """Fill, then serve until SIGTERM."""
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        try:
            self._fill()
            self._serve()
        finally:
            for region in self._regions.values():
                region.close()

    def _fill(self) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._save()
        started = time.monotonic()
        for name in FILLING:
            if name in self._regions:
                self._regions[name].fill()
        seconds = time.monotonic() - started
        self._state.update(ready=True, fill_seconds=seconds, **self._places())
        self._save()

    def _serve(self) -> None:
        following = time.monotonic() + self._period
        while True:
            wait = max(0.0, following - time.monotonic()) if self._warm else 3600.0
            caught = signal.sigtimedwait(SIGNALS, wait)
            number = None if caught is None else caught.si_signo
            if number == signal.SIGTERM:
                return
            if number == signal.SIGUSR1:
                self._verify()
                continue
            if number == signal.SIGUSR2:
                self._state["slowest_pass_seconds"] = 0.0
                self._state["slowest_before_sleep_seconds"] = None
                self._state["resets"] += 1
                self._save()
                continue
            self._pass()
            if number == signal.SIGHUP:
                self._state["asked_passes"] += 1
            self._save()
            following = time.monotonic() + self._period

    def _pass(self) -> None:
        if self._warm is None:
            return
        woke = asleep_seconds() - self._asleep > SLEPT_SECONDS
        found = pagemap(os.getpid(), self._warm.address, self._warm.size) if woke else None
        spent = self._warm.touch()
        asleep = asleep_seconds()
        if asleep - self._asleep > SLEPT_SECONDS:
            # None when it slept in the middle of this pass: what was in memory then is not known
            self._state["woke"] = found
            # This pass began before the hibernation or after: what came earlier is of the time
            # before it, and what comes from here on, of the time after.
            self._state["slowest_before_sleep_seconds"] = self._state["slowest_pass_seconds"]
            self._state["slowest_pass_seconds"] = 0.0
        self._asleep = asleep
        self._state["passes"] += 1
        self._state["last_pass_seconds"] = spent
        self._state["slowest_pass_seconds"] = max(self._state["slowest_pass_seconds"], spent)

    def _verify(self) -> None:
        wrong = {
            name: self._regions[name].wrong_blocks() if name in self._regions else 0
            for name in REGIONS
        }
        counts = {f"{name}_wrong_blocks": count for name, count in wrong.items()}
        self._state["verified"] = {"ok": not any(wrong.values()), **counts}
        self._state["verifications"] += 1
        self._save()


def pagemap(pid: int, address: int, length: int) -> dict[str, int]:
    """How many pages of an address range are in memory, and how many in swap."""
    pages, present, swapped = -(-length // PAGE), 0, 0
    low = bytes(range(0x80))
    not_swap = bytes(value for value in range(0x100) if not value & 0x40)
    with Path(f"/proc/{pid}/pagemap").open("rb", buffering=0) as stream:
        stream.seek(address // PAGE * 8)
        left = pages * 8
        while left > 0:
            data = stream.read(min(left, 1 << 20))
            if not data:
                break
            left -= len(data)
            top = data[7::8]  # bit 63 is present, bit 62 is swapped
            present += len(top.translate(None, low))
            swapped += len(top.translate(None, not_swap))
    return {"pages": pages, "present": present, "swapped": swapped}


def main() -> None:
    """``workload.py fill …`` or ``workload.py pagemap PID ADDRESS LENGTH``."""
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    fill = commands.add_parser("fill")
    for name in REGIONS:
        fill.add_argument(f"--{name}-bytes", type=int, default=0)
    fill.add_argument("--tmpfs-directory", default="/dev/shm")  # noqa: S108  # a tmpfs is wanted
    fill.add_argument("--file-directory", default="/var/lib/hibprep-lab")
    fill.add_argument("--period", type=float, default=1.0)
    fill.add_argument("--compressible", type=float, default=0.5)
    fill.add_argument("--state", default="/run/workload.json")
    show = commands.add_parser("pagemap")
    for name in ("pid", "address", "length"):
        show.add_argument(name, type=int)
    options = parser.parse_args()
    if options.command == "fill":
        Workload(options).run()
    else:
        json.dump(pagemap(options.pid, options.address, options.length), sys.stdout)


if __name__ == "__main__":
    main()
