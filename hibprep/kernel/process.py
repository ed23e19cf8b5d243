# SPDX-License-Identifier: LGPL-2.1-or-later
"""Processes and process_madvise(2) (Documentation/filesystems/proc.rst, man 2 process_madvise).

Python has pidfd_open(2) and lacks process_madvise(2); the one system call made by number is here.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Sequence
from typing import NamedTuple

from hibprep.errors import KernelFileError, KernelFileMissing
from hibprep.kernel.root import KernelRoot, translate
from hibprep.kernel.text import hexadecimal, malformed, unsigned

MADV_WILLNEED = 3
MADV_COLD = 20
MADV_PAGEOUT = 21
MAX_RANGES = 1024  # IOV_MAX: more in one call is EINVAL

# the same number on every architecture (include/uapi/asm-generic/unistd.h), since 5.10
_SYS_PROCESS_MADVISE = 440
_STAT_START_TIME = 19  # field 22, counted from the first behind the name
# locked, hugetlb, raw PFNs, I/O: madvise(MADV_PAGEOUT) answers EINVAL (can_madv_lru_vma)
_REFUSED_FLAGS = frozenset({"lo", "ht", "pf", "io"})


class Mapping(NamedTuple):
    """One line of /proc/PID/maps."""

    start: int
    end: int
    permissions: str
    inode: int
    name: str


class _IoVec(ctypes.Structure):
    _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))


def open_pidfd(pid: int) -> int:
    """A descriptor of process `pid`, which stays its own even if the number is used again."""
    try:
        return os.pidfd_open(pid)
    except OSError as error:
        raise translate(f"/proc/{pid}", error) from error


def process_madvise(pidfd: int, ranges: Sequence[tuple[int, int]], advice: int) -> int:
    """Advise on (start, length) pairs of another process; the number of bytes that the kernel
    says it advised, which is short when it met something it refuses. Raises OSError, for the
    worker to report."""
    vector = (_IoVec * len(ranges))(*(_IoVec(start, length) for start, length in ranges))
    syscall = ctypes.CDLL(None, use_errno=True).syscall
    syscall.restype = ctypes.c_long
    syscall.argtypes = (
        ctypes.c_long,
        ctypes.c_int,
        ctypes.c_void_p,
        ctypes.c_size_t,
        ctypes.c_int,
        ctypes.c_uint,
    )
    done = int(syscall(_SYS_PROCESS_MADVISE, pidfd, vector, len(ranges), advice, 0))
    if done < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return done


def touch(pid: int, addresses: Sequence[int]) -> int:
    """Have another process's pages brought in by reading a byte of each, which waits for every one
    of them (process_vm_readv(2)); how many there were until one could not be. No more than
    MAX_RANGES at a time. Raises OSError."""
    count = len(addresses)
    buffer = (ctypes.c_char * count)()
    local = _IoVec(ctypes.addressof(buffer), count)
    remote = (_IoVec * count)(*(_IoVec(address, 1) for address in addresses))
    read = ctypes.CDLL(None, use_errno=True).process_vm_readv
    read.restype = ctypes.c_ssize_t
    read.argtypes = (
        ctypes.c_int,
        ctypes.c_void_p,
        ctypes.c_ulong,
        ctypes.c_void_p,
        ctypes.c_ulong,
        ctypes.c_ulong,
    )
    done = int(read(pid, ctypes.byref(local), 1, remote, count, 0))
    if done < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return done


def parse_maps(text: str, path: str = "/proc/PID/maps") -> tuple[Mapping, ...]:
    """The text of a maps file."""
    mappings: list[Mapping] = []
    for line in text.split("\n"):
        if not line:
            continue
        # address permissions offset device inode [name, which may have spaces in it]
        fields = line.split(maxsplit=5)
        if len(fields) < 5:  # noqa: PLR2004 - the five above
            raise malformed(path, "five columns", line)
        start, _, end = fields[0].partition("-")
        mappings.append(
            Mapping(
                start=hexadecimal(start, path),
                end=hexadecimal(end, path),
                permissions=fields[1],
                inode=unsigned(fields[4], path),
                name=fields[5] if len(fields) > 5 else "",  # noqa: PLR2004
            )
        )
    return tuple(mappings)


def parse_refusing(text: str, path: str = "/proc/PID/smaps") -> frozenset[int]:
    """The start addresses, from a smaps file, of the mappings that cannot be paged out."""
    refusing: set[int] = set()
    start: int | None = None
    for line in text.split("\n"):
        first, _, rest = line.partition(" ")
        if first == "VmFlags:":
            if start is not None and _REFUSED_FLAGS & set(rest.split()):
                refusing.add(start)
        elif "-" in first and not first.endswith(":"):
            start = hexadecimal(first.partition("-")[0], path)
    return frozenset(refusing)


def pageout_ranges(root: KernelRoot, pid: int) -> tuple[tuple[int, int], ...]:
    """(start, length) of the private writable anonymous memory of `pid`: its heap and its own
    mappings. Stacks are left alone (small, and the first thing that is needed again), and so is
    what the kernel refuses: one refused range ends a whole call."""
    path = f"/proc/{pid}/maps"
    mappings = parse_maps(root.read(path), path)
    refusing: frozenset[int] = frozenset()
    if locked_bytes(root, pid):
        # costs a walk of all page tables, which is why it is not read always
        smaps = f"/proc/{pid}/smaps"
        refusing = parse_refusing(root.read(smaps), smaps)
    return tuple(
        (each.start, each.end - each.start)
        for each in mappings
        if _is_private_anonymous(each) and each.start not in refusing
    )


def locked_bytes(root: KernelRoot, pid: int) -> int:
    """How much of `pid` is locked (mlock(2)), which `pageout_ranges` leaves out."""
    path = f"/proc/{pid}/status"
    for line in (root.try_read(path) or "").split("\n"):
        if line.startswith("VmLck:"):
            return unsigned(line.split()[1], path) << 10
    return 0


def all_pids(root: KernelRoot) -> tuple[int, ...]:
    """All processes, kernel threads included."""
    names = root.listdir("/proc")
    return tuple(sorted(int(name) for name in names if name.isascii() and name.isdigit()))


def name_of(root: KernelRoot, pid: int) -> str:
    """The name of `pid`, "" when it is gone."""
    try:
        return root.read(f"/proc/{pid}/comm").removesuffix("\n")
    except KernelFileError:
        return ""


def parse_start_time(text: str, path: str = "/proc/PID/stat") -> int:
    """The start time in ticks since boot. The name before it may have spaces and brackets."""
    fields = text.rpartition(")")[2].split()
    if len(fields) <= _STAT_START_TIME:
        raise malformed(path, "22 fields", text)
    return unsigned(fields[_STAT_START_TIME], path)


def start_time(root: KernelRoot, pid: int) -> int | None:
    """When `pid` started, in ticks since boot: with it a number that is used again is told from
    the process that had it. None when there is no such process."""
    path = f"/proc/{pid}/stat"
    try:
        return parse_start_time(root.read(path), path)
    except KernelFileMissing:
        return None


def _is_private_anonymous(mapping: Mapping) -> bool:
    if mapping.inode or not mapping.permissions.startswith("rw") or mapping.permissions[3:] != "p":
        return False
    return mapping.end > mapping.start and (
        mapping.name in ("", "[heap]") or mapping.name.startswith("[anon:")
    )


def child_pids(root: KernelRoot, pid: int) -> list[int]:
    """The children of a process that live now (proc_pid_children(5), CONFIG_PROC_CHILDREN); none
    where that cannot be told."""
    directory = f"/proc/{pid}/task"
    found: list[int] = []
    for task in root.subdirectories(directory):
        text = root.try_read(f"{directory}/{task}/children") or ""
        found += [int(word) for word in text.split() if word.isdigit()]
    return sorted(found)
