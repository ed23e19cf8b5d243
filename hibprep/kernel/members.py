# SPDX-License-Identifier: LGPL-2.1-or-later
"""Processes as bringing memory back sees them: who they are, whose, and how much of them is where
(/proc/PID/stat, status and cgroup, Documentation/filesystems/proc.rst)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from hibprep.errors import KernelFileError
from hibprep.kernel.process import parse_start_time
from hibprep.kernel.root import KernelRoot
from hibprep.kernel.text import signed, unsigned

ACTIVE_CONSOLE = "/sys/class/tty/tty0/active"

_TTY_MAJOR = 4  # of the virtual consoles, Documentation/admin-guide/devices.txt
_STAT_TTY = 4  # field 7, counted from the first behind the name
_USER_SLICE_PARTS = 2  # /user.slice/user-1000.slice


class Member(NamedTuple):
    """One process. With its start (ticks since boot) a number that was used again is told from the
    process that had it before."""

    pid: int
    start: int
    name: str
    cgroup: str  # "" when it cannot be told
    tty: int = 0  # the device number of its terminal
    anon_bytes: int = 0  # in memory
    swapped_bytes: int = 0  # shared memory not included


def read_member(root: KernelRoot, pid: int) -> Member | None:
    """One process; None of a kernel thread, and of one that has ended or is closed to us."""
    try:
        status = root.read(f"/proc/{pid}/status")
        sizes = parse_sizes(status, f"/proc/{pid}/status")
        if sizes is None:
            return None
        stat = root.read(f"/proc/{pid}/stat")
        words = stat.rpartition(")")[2].split()
        return Member(
            pid=pid,
            start=parse_start_time(stat, f"/proc/{pid}/stat"),
            name=stat.partition("(")[2].rpartition(")")[0],
            cgroup=parse_cgroup(root.try_read(f"/proc/{pid}/cgroup") or ""),
            tty=signed(words[_STAT_TTY], f"/proc/{pid}/stat"),
            anon_bytes=sizes[0],
            swapped_bytes=sizes[1],
        )
    except KernelFileError:
        return None


def read_members(root: KernelRoot, pids: Iterable[int]) -> list[Member]:
    """Those of them that are there."""
    return [found for pid in pids if (found := read_member(root, pid)) is not None]


def parse_sizes(text: str, path: str = "/proc/PID/status") -> tuple[int, int] | None:
    """RssAnon and VmSwap of a status file in bytes; None for who has no memory of its own."""
    sizes = {"RssAnon:": 0, "VmSwap:": 0}
    has_memory = False
    for line in text.split("\n"):
        words = line.split()
        if words and words[0] in sizes:
            sizes[words[0]] = unsigned(words[1], path) << 10
            has_memory = True
    return (sizes["RssAnon:"], sizes["VmSwap:"]) if has_memory else None


def parse_cgroup(text: str) -> str:
    """The cgroup of a process in the tree that systemd keeps: v2's, on a host with v1 systemd's own
    (cgroups(7)); "" when there is none."""
    found = ""
    for line in text.split("\n"):
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controllers == "name=systemd" and number != "0":
            return path
        if number == "0" and not controllers:
            found = path
    return found


def foreground(root: KernelRoot, members: Iterable[Member]) -> frozenset[str]:
    """The slices of the users who have the console that is shown, such as
    /user.slice/user-1000.slice; none on a machine without consoles."""
    name = (root.try_read(ACTIVE_CONSOLE) or "").strip()
    number = name.removeprefix("tty")
    if not number.isascii() or not number.isdigit():
        return frozenset()
    console = _TTY_MAJOR << 8 | int(number)
    found: set[str] = set()
    for member in members:
        parts = member.cgroup.split("/")[1:]
        if member.tty == console and len(parts) >= _USER_SLICE_PARTS and parts[0] == "user.slice":
            found.add("/" + "/".join(parts[:_USER_SLICE_PARTS]))
    return frozenset(found)
