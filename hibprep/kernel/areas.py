# SPDX-License-Identifier: LGPL-2.1-or-later
"""What is behind the addresses of a process (/proc/PID/maps, Documentation/filesystems/proc.rst),
as far as bringing memory back has to know it.

A desktop has some 50 000 of these lines, so that they are read by one regular expression.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from enum import Enum
from typing import NamedTuple

from hibprep.kernel.mounts import read_mounts
from hibprep.kernel.root import KernelRoot

_LINE = re.compile(
    r"^([0-9a-f]+)-([0-9a-f]+) [r-][w-][x-]([ps]) ([0-9a-f]+) ([0-9a-f]+):([0-9a-f]+) ([0-9]+)"
    r" *(.*)$",
    re.MULTILINE | re.ASCII,
)
# Of these the kernel keeps the memory itself, on a mount that nobody sees.
_SHARED_NAMES = ("/memfd:", "/SYSV", "/dev/zero", "/dev/shm/")  # noqa: S108 - as maps has it
_SPECIAL = frozenset({"[vdso]", "[vvar]", "[vvar_vclock]", "[vsyscall]", "[uprobes]"})
# On disks, and yet of no block device of their own as maps has it
_ON_DISK = frozenset({"btrfs", "overlay", "bcachefs", "zfs", "ubifs"})


class Backing(Enum):
    """Where the pages of an area are read from when they are not in memory."""

    SWAP = "swap"  # anonymous memory
    SHARED = "shared"  # shared memory and tmpfs: swap too, but known by the file alone
    DISK = "disk"  # a file on a disk; what was written to privately comes from swap
    OTHER = "other"  # devices, networks, FUSE, the kernel's own: left alone


class Area(NamedTuple):
    """A range of addresses, the end not in it, and what is behind it."""

    start: int
    end: int
    backing: Backing
    private: bool
    file: tuple[str, int]  # device and inode, as maps has them; ("00:00", 0) for none
    offset: int  # of its start in the file


def parse_areas(text: str, kinds: Mapping[str, str]) -> list[Area]:
    """The text of a maps file; `kinds` as `read_kinds` gives them. A line that is not understood is
    left out."""
    return [
        Area(
            start=int(start, 16),
            end=int(end, 16),
            backing=_backing(major, minor, inode, name, kinds),
            private=sharing == "p",
            file=(f"{major}:{minor}", int(inode)),
            offset=int(offset, 16),
        )
        for start, end, sharing, offset, major, minor, inode, name in _LINE.findall(text)
    ]


def read_areas(root: KernelRoot, pid: int, kinds: Mapping[str, str]) -> list[Area]:
    """Those of a process; none of a kernel thread. Raises KernelFileError."""
    return parse_areas(root.read(f"/proc/{pid}/maps"), kinds)


def read_kinds(root: KernelRoot) -> dict[str, str]:
    """The kind of every file system that is mounted ("ext4"), by device as maps writes it
    ("fe:01")."""
    found: dict[str, str] = {}
    for mount in read_mounts(root):
        major, _, minor = mount.device.partition(":")
        if major.isdigit() and minor.isdigit():
            found[f"{int(major):02x}:{int(minor):02x}"] = mount.kind
    return found


def _backing(major: str, minor: str, inode: str, name: str, kinds: Mapping[str, str]) -> Backing:
    if inode == "0":
        return Backing.OTHER if name in _SPECIAL else Backing.SWAP
    kind = kinds.get(f"{major}:{minor}", "")
    if kind == "tmpfs" or name.startswith(_SHARED_NAMES):
        return Backing.SHARED
    if kind in _ON_DISK:
        return Backing.DISK
    if kind.startswith("fuse") or kind == "devtmpfs" or int(major, 16) == 0:
        return Backing.OTHER
    return Backing.DISK
