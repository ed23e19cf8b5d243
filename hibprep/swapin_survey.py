# SPDX-License-Identifier: LGPL-2.1-or-later
"""What there is to bring back, of whom: what is in swap now, and what is remembered of it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from hibprep.errors import NotPossibleError, UsageError
from hibprep.kernel.areas import Area, Backing, read_areas, read_kinds
from hibprep.kernel.cgroup import CgroupTree
from hibprep.kernel.members import Member, foreground, read_members
from hibprep.kernel.pagemap import PAGE, Pagemap, Wanted
from hibprep.kernel.process import all_pids
from hibprep.kernel.root import KernelRoot
from hibprep.kernel.swaps import SWAPS, parse_swaps
from hibprep.model import Scope, ScopeKind
from hibprep.ranges import Range, intersect, ordered, subtract
from hibprep.remembered import Record, Remembered, Who
from hibprep.swaporder import Candidate, Part, Turn

# Pages in memory that are asked for too, so that there are fewer ranges.
_GAP_BYTES = 4 * PAGE


class Piece(NamedTuple):
    """Ranges to bring back; `touch`: MADV_WILLNEED would not."""

    ranges: list[Range]
    touch: bool


class Survey:
    """The processes of a scope, as they were when it was made, by pid."""

    def __init__(
        self,
        root: KernelRoot,
        members: Mapping[int, Member],
        record: Record | None,
        *,
        scan: bool = True,
    ) -> None:
        self._root = root
        self._scan = scan
        self._kinds = read_kinds(root)
        self.members = members
        self._remembered: dict[int, Remembered] = {}
        for pid, member in members.items() if record is not None else ():
            # a number that was used again is somebody else
            one = record.processes.get(Who(pid, member.start)) if record is not None else None
            if one is not None:
                self._remembered[pid] = one

    def foreground(self) -> frozenset[str]:
        """The cgroups of the person at the console."""
        return foreground(self._root, self.members.values())

    def candidates(self, *, anon: bool = True) -> list[Candidate]:
        """Everybody; without `anon` only what is remembered of files."""
        found = []
        for pid, member in self.members.items():
            one = self._remembered.get(pid)
            swapped = member.swapped_bytes if anon else 0
            looks = enumerate(one.anon) if one is not None and swapped else ()
            found.append(
                Candidate(
                    pid=pid,
                    cgroup=member.cgroup,
                    swapped_bytes=swapped,
                    looks=tuple(index for index, part in looks if part),
                    files=one is not None and any(one.files),
                )
            )
        return found

    def pieces(self, turn: Turn) -> Iterator[Piece]:
        """What a turn brings back, as it is now. Raises KernelFileError when the process is gone or
        closed to us."""
        areas = read_areas(self._root, turn.pid, self._kinds)
        one = self._remembered.get(turn.pid)
        if turn.part is Part.FILES:
            yield Piece(self._files(turn.pid, one, areas), touch=False)
            return
        wanted = self._find(turn.pid, Wanted.SWAPPED, areas)
        if one is not None and turn.part is Part.WORKING_SET:
            wanted = intersect(wanted, one.anon[turn.look])
        elif one is not None:
            wanted = subtract(wanted, ordered(each for part in one.anon for each in part))
        # MADV_WILLNEED reads the file that is mapped there, and not what was written over it
        copied = ordered((each.start, each.end) for each in areas if each.file[1])
        yield Piece(subtract(wanted, copied), touch=False)
        yield Piece(intersect(wanted, copied), touch=True)

    def _files(self, pid: int, one: Remembered | None, areas: list[Area]) -> list[Range]:
        seen = ordered(each for part in (one.files if one else ()) for each in part)
        mapped = ordered(
            (each.start, each.end)
            for each in areas
            if each.backing in (Backing.DISK, Backing.SHARED)
        )
        return subtract(intersect(seen, mapped), self._find(pid, Wanted.FILE, areas))

    def _find(self, pid: int, wanted: Wanted, areas: list[Area]) -> list[Range]:
        with Pagemap(self._root, pid, scan=self._scan) as pagemap:
            return pagemap.find(wanted, lambda: areas, gap_bytes=_GAP_BYTES)


def members_of(
    root: KernelRoot, tree: CgroupTree | None, scope: Scope, tree_reason: str = ""
) -> dict[int, Member]:
    """The processes of a scope but this one. Raises UsageError for a process that is none,
    NotPossibleError for a cgroup without a tree of them."""
    if scope.kind is ScopeKind.PROCESS:
        found = read_members(root, [scope.pid])
        if not found:
            raise UsageError(
                f"there is no process {scope.pid} that has memory of its own",
                "ps -e lists what there is",
            )
        return {scope.pid: found[0]}
    pids: Sequence[int]
    if scope.kind is ScopeKind.CGROUP and scope.path != "/":
        if tree is None:
            raise NotPossibleError(f"cgroup {scope.path}", tree_reason)
        pids = tree.pids(scope.path)
    else:
        pids = all_pids(root)
    members = read_members(root, [pid for pid in pids if pid != os.getpid()])
    return {member.pid: member for member in members}


def swap_is_memory(root: KernelRoot) -> bool:
    """Whether all that is in swap is in zram: it would be in memory twice, to save nothing but the
    unpacking."""
    used = [area for area in parse_swaps(root.read(SWAPS)) if area.used_bytes]
    return bool(used) and all(area.is_zram for area in used)
