# SPDX-License-Identifier: LGPL-2.1-or-later
"""A program with cold and warm memory, run in the guest. Standard library only.

It fills two anonymous mappings: the cold one is written once and left alone; of the warm one a
byte of every page is read once a period, and the slowest such pass is recorded. Signals:
SIGUSR1 compares every byte with what was written, SIGUSR2 forgets the slowest pass, SIGHUP makes a
pass at once, SIGTERM ends it. All it knows is in its state file, which is replaced atomically.

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
import time
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import Any

PAGE = mmap.PAGESIZE
BLOCK = 4 << 20
BLOCK_PAGES = BLOCK // PAGE
WORDS = PAGE // 8
SEED = 20240229
# Page numbers of the warm mapping begin here, so that no two pages of the process are alike.
WARM_FIRST = 1 << 40
SIGNALS = {signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP, signal.SIGTERM}


def make_block(compressible: float) -> bytearray:
    """A block whose every page is random but for the share ``compressible``, which is zeros."""
    random_bytes = int(PAGE * (1 - compressible))
    source = random.Random(SEED)  # noqa: S311  # to be made again, not to be secret
    zeros = bytes(PAGE - random_bytes)
    return bytearray(b"".join(source.randbytes(random_bytes) + zeros for _ in range(BLOCK_PAGES)))


class Region:
    """One anonymous mapping, filled in blocks."""

    def __init__(self, size_bytes: int, first_page: int, block: bytearray) -> None:
        self.size = -(-size_bytes // PAGE) * PAGE
        self._first = first_page
        self._block = block
        self._words = memoryview(block).cast("Q")
        self._map = mmap.mmap(-1, self.size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self._view = memoryview(self._map)
        self.address = ctypes.addressof(ctypes.c_char.from_buffer(self._map))

    def _blocks(self) -> Iterator[tuple[int, int]]:
        for offset in range(0, self.size, BLOCK):
            first = self._first + offset // PAGE
            # One strided copy stamps all pages of the block: a loop over pages would take minutes
            # in an emulated guest.
            self._words[::WORDS] = memoryview(array("Q", range(first, first + BLOCK_PAGES)))
            yield offset, min(BLOCK, self.size - offset)

    def fill(self) -> None:
        """Write every page once."""
        for offset, length in self._blocks():
            self._view[offset : offset + length] = memoryview(self._block)[:length]

    def touch(self) -> float:
        """Read one byte of every page; how many seconds it took."""
        started = time.monotonic()
        self._view[::PAGE].tobytes()
        return time.monotonic() - started

    def wrong_blocks(self) -> int:
        """How many blocks are not what was written."""
        wrong = 0
        for offset, length in self._blocks():
            if self._map[offset : offset + length] != self._block[:length]:
                wrong += 1
        return wrong


class Workload:
    """The program: fills, then touches, verifies, and says what it knows in the state file."""

    def __init__(self, options: argparse.Namespace) -> None:
        self._path = Path(options.state)
        self._period: float = options.period
        block = make_block(options.compressible)
        self._cold = Region(options.cold_bytes, 0, block) if options.cold_bytes else None
        self._warm = Region(options.warm_bytes, WARM_FIRST, block) if options.warm_bytes else None
        self._state: dict[str, Any] = {
            "pid": os.getpid(),
            "ready": False,
            "cold": self._range(self._cold),
            "warm": self._range(self._warm),
            "passes": 0,
            "asked_passes": 0,
            "resets": 0,
            "last_pass_seconds": 0.0,
            "slowest_pass_seconds": 0.0,
            "verifications": 0,
            "verified": None,
        }

    @staticmethod
    def _range(region: Region | None) -> dict[str, int]:
        if region is None:
            return {"address": 0, "bytes": 0}
        return {"address": region.address, "bytes": region.size}

    def _save(self) -> None:
        temporary = self._path.with_name(self._path.name + ".new")
        temporary.write_text(json.dumps(self._state) + "\n")
        temporary.replace(self._path)

    def run(self) -> None:
        """Fill, then serve until SIGTERM."""
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._save()
        started = time.monotonic()
        for region in (self._warm, self._cold):
            if region is not None:
                region.fill()
        self._state.update(ready=True, fill_seconds=time.monotonic() - started)
        self._save()
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
        spent = self._warm.touch()
        self._state["passes"] += 1
        self._state["last_pass_seconds"] = spent
        self._state["slowest_pass_seconds"] = max(self._state["slowest_pass_seconds"], spent)

    def _verify(self) -> None:
        wrong = {
            name: region.wrong_blocks() if region else 0
            for name, region in (("cold", self._cold), ("warm", self._warm))
        }
        self._state["verified"] = {
            "ok": not any(wrong.values()),
            "cold_wrong_blocks": wrong["cold"],
            "warm_wrong_blocks": wrong["warm"],
        }
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
    fill.add_argument("--cold-bytes", type=int, default=0)
    fill.add_argument("--warm-bytes", type=int, default=0)
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
