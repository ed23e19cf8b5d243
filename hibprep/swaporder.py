# SPDX-License-Identifier: LGPL-2.1-or-later
"""In which order memory is brought back: pure.

First what survived longest before it was taken, everybody's; within that, and for all that no
record tells of, whose it is: of the person at the console, of other people, of neither, of the
system; and within that the small before the large, so that as many programs as possible are whole
soon.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum, StrEnum


class Rank(IntEnum):
    """Whose memory it is, the most urgent first."""

    FOREGROUND = 0  # the person's at the console that is shown
    USER = 1
    OTHER = 2  # machines, and cgroups that an administrator made
    SYSTEM = 3


class Part(StrEnum):
    """What part of a process is brought back."""

    WORKING_SET = "working set"  # what a look before it was taken has seen
    FILES = "mapped files"  # the same, of files and shared memory
    REST = "rest"  # whatever else of it is in swap


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A process of which something may be brought back. `looks` are the numbers of the looks, the
    latest 0, that were the last to see some of its memory."""

    pid: int
    cgroup: str = ""
    swapped_bytes: int = 0
    looks: tuple[int, ...] = ()
    files: bool = False


@dataclass(frozen=True, slots=True)
class Turn:
    """One part of one process; `look` with WORKING_SET."""

    pid: int
    part: Part
    look: int = 0


_SYSTEM = ("/system.slice", "/init.scope")
_BEHIND_ALL = 1 << 30  # more looks than any record has


def is_in(cgroup: str, above: str) -> bool:
    """Whether a cgroup is `above` or below it."""
    return cgroup == above or cgroup.startswith(above.rstrip("/") + "/")


def rank(cgroup: str, foreground: Iterable[str] = ()) -> Rank:
    """Whose the memory of that cgroup is; `foreground` are the cgroups of the person who is there.
    One that is not known ("") is the system's."""
    if any(is_in(cgroup, each) for each in foreground):
        return Rank.FOREGROUND
    if is_in(cgroup, "/user.slice"):
        return Rank.USER
    if cgroup in ("", "/") or any(is_in(cgroup, each) for each in _SYSTEM):
        return Rank.SYSTEM
    return Rank.OTHER


def turns(candidates: Iterable[Candidate], foreground: Iterable[str] = ()) -> list[Turn]:
    """Every part of every candidate once, in order. Files come right behind what survived longest:
    a program that has its data and not its code waits all the same."""
    slices = frozenset(foreground)
    found: list[tuple[tuple[int, int, int, int], Turn]] = []
    for each in candidates:
        who = (int(rank(each.cgroup, slices)), each.swapped_bytes, each.pid)
        found += [((2 * look, *who), Turn(each.pid, Part.WORKING_SET, look)) for look in each.looks]
        if each.files:
            found.append(((1, *who), Turn(each.pid, Part.FILES)))
        if each.swapped_bytes:
            found.append(((_BEHIND_ALL, *who), Turn(each.pid, Part.REST)))
    return [turn for _, turn in sorted(found, key=lambda pair: pair[0])]
