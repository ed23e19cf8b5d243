# SPDX-License-Identifier: LGPL-2.1-or-later
"""Processes as files under a root of a test's: maps, pagemap (as kernels before 6.7 have it), stat,
status, cgroup."""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass
from pathlib import Path

from hibprep.ranges import Range, ordered

PAGE = os.sysconf("SC_PAGE_SIZE")
_WORD = struct.Struct("=Q")
_PRESENT, _SWAPPED, _FILE = 1 << 63, 1 << 62, 1 << 61
# low bits are a page frame or a place in swap: nobody may take them for anything
_NOISE = 0x00_55_55_55_55_55_55_55
_STATES = {
    "a": _PRESENT | _NOISE,  # anonymous, in memory
    "s": _SWAPPED | _NOISE,
    "f": _PRESENT | _FILE | _NOISE,  # of a file or shared, in memory
    ".": 0,
}


@dataclass(frozen=True)
class Mapped:
    """A mapping: its first page and, a letter a page (asf.), where its pages are."""

    page: int
    pages: str
    device: str = "00:00"
    inode: int = 0
    name: str = ""
    permissions: str = "rw-p"

    @property
    def line(self) -> str:
        start, end = self.page * PAGE, (self.page + len(self.pages)) * PAGE
        return (
            f"{start:08x}-{end:08x} {self.permissions} 00000000 {self.device} {self.inode}"
            f"          {self.name}\n"
        )


@dataclass(frozen=True)
class FakeProcess:
    """One process."""

    pid: int
    mapped: tuple[Mapped, ...] = ()
    start: int = 100
    name: str = "anna"
    cgroup: str = "/user.slice/user-1000.slice/session-1.scope"
    tty: int = 0

    def count(self, letter: str) -> int:
        return sum(each.pages.count(letter) for each in self.mapped)

    def ranges(self, letter: str) -> list[Range]:
        """Where its pages of that state are."""
        return ordered(
            ((each.page + index) * PAGE, (each.page + index + 1) * PAGE)
            for each in self.mapped
            for index, state in enumerate(each.pages)
            if state == letter
        )

    def write(self, root: Path) -> None:
        """Put its files below `root`, in the place of older ones."""
        folder = root / "proc" / str(self.pid)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "maps").write_text("".join(each.line for each in self.mapped))
        (folder / "stat").write_text(
            f"{self.pid} ({self.name}) S 1 1 1 {self.tty} -1 " + "0 " * 13 + f"{self.start} 0 0\n"
        )
        (folder / "cgroup").write_text(f"0::{self.cgroup}\n")
        (folder / "status").write_text(
            f"Name:\t{self.name}\nRssAnon:\t{self.count('a') * PAGE >> 10} kB\n"
            f"VmSwap:\t{self.count('s') * PAGE >> 10} kB\n"
        )
        with (folder / "pagemap").open("wb") as file:
            for each in self.mapped:
                file.seek(each.page * _WORD.size)
                file.write(b"".join(_WORD.pack(_STATES[state]) for state in each.pages))


def write_kernel_thread(root: Path, pid: int) -> None:
    """One that has no memory of its own."""
    folder = root / "proc" / str(pid)
    folder.mkdir(parents=True)
    (folder / "status").write_text("Name:\tkthreadd\nThreads:\t1\n")
    (folder / "stat").write_text(f"{pid} (kthreadd) S 0 0 0 0 -1 " + "0 " * 13 + "1 0 0\n")
    for name in ("maps", "pagemap"):
        (folder / name).write_text("")
