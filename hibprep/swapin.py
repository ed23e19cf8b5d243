# SPDX-License-Identifier: LGPL-2.1-or-later
"""Brings memory back after a resume: what was in use first, in large batches, within what is free.

Which pages of a process are in swap is read from its pagemap, and the kernel is told that they will
be needed. They lie in the swap cache then, until the process takes them without waiting for a disk,
or until the kernel needs the room, which costs it nothing: their place in swap is kept. Swap is
never switched off.
"""

from __future__ import annotations

import errno
import os
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from hibprep.errors import KernelFileError, KernelFileMissing, NotPossibleError
from hibprep.kernel.lock import RunLock
from hibprep.kernel.pagemap import PAGE
from hibprep.kernel.process import MAX_RANGES
from hibprep.kernel.vmstat import read_pages_in
from hibprep.machine import Machine
from hibprep.model import MACHINE, Ending, Scope
from hibprep.ranges import Range, take, total_bytes
from hibprep.reclaim.base import Stop, WriteResult
from hibprep.reclaim.worker import ProcessWorker
from hibprep.remembered import Record
from hibprep.swapin_pace import Pace
from hibprep.swapin_report import VERSION, Brought, SwapInProgress, SwapInReport
from hibprep.swapin_survey import Piece, Survey, members_of, swap_is_memory
from hibprep.swaporder import Part, Turn, turns

_TOUCHED_BYTES = 4 << 20  # at most, in one chunk: every page of it is waited for

Tell = Callable[[SwapInProgress], None]
End = tuple[Ending, str]


class Fetcher(Protocol):
    """The part of `hibprep.reclaim.worker.ProcessWorker` that is worked with here."""

    def fetch(
        self, pid: int, start: int, ranges: Sequence[Range], stop: Stop, *, touch: bool = False
    ) -> WriteResult:
        """Have these ranges of a process read into memory."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SwapInLimits:
    """What is brought back, and how much: of `scope`, no more than `limit_bytes` and for no longer
    than `timeout_seconds`. `foreground` are cgroups that come first, beside what the console
    tells."""

    scope: Scope = MACHINE
    limit_bytes: int | None = None
    timeout_seconds: float | None = None
    foreground: frozenset[str] = frozenset()


def run(
    machine: Machine,
    record: Record | None,
    limits: SwapInLimits,
    stop: Stop,
    tell: Tell | None = None,
) -> SwapInReport:
    """Bring memory back and report. `record` is what is remembered of the working set
    (`hibprep.workingset.load`), None for nothing.

    Returns within a chunk once `stop` is raised; the process that reads is then known to have
    ended. Raises NotPossibleError, UsageError for a process that is none, LockedError while another
    hibprep is at work.
    """
    if not machine.root.is_real:
        raise NotPossibleError(
            "memory cannot be brought back: processes of another root cannot be reached",
            "leave --root out",
        )
    started, begin = machine.clock.now(), machine.clock.monotonic()
    if limits.timeout_seconds:
        stop.within(limits.timeout_seconds)
    with RunLock(machine.root):
        members = members_of(machine.root, machine.tree, limits.scope, machine.tree_reason)
        pace = Pace(
            machine.root,
            machine.tree,
            machine.clock,
            page=PAGE,
            chunk_seconds=machine.config.reclaim.chunk_seconds,
            pressure_limit=machine.config.reclaim.pressure_limit_percent / 100,
        )
        before = read_pages_in(machine.root)
        worker = ProcessWorker(str(machine.root.prefix), machine.clock)
        bringing = Bringing(
            Survey(machine.root, members, record), pace, worker, limits=limits, stop=stop, tell=tell
        )
        try:
            in_memory = swap_is_memory(machine.root)
            ending, reason = bringing.run(anon=not in_memory)
        finally:
            worker.close()
    read = read_pages_in(machine.root).since(before)
    notes = [*machine.recovered, *bringing.notes]
    if in_memory:
        notes.append("all that is in swap is in memory all the same (zram); it is left there")
    return SwapInReport(
        version=VERSION,
        started=started.isoformat(timespec="seconds"),
        seconds=machine.clock.monotonic() - begin,
        ending=ending,
        reason=reason,
        asked_bytes=bringing.asked_bytes,
        read_bytes=read.swap_bytes,
        file_read_bytes=read.file_bytes,
        reserve_bytes=pace.reserve_bytes,
        processes=bringing.processes(),
        record=_words(record),
        notes=tuple(notes),
    )


def _words(record: Record | None) -> str:
    if record is None:
        return "nothing is remembered of this boot"
    partly = "" if record.complete else ", not of all processes"
    looks = f"{len(record.looks)} look{'' if len(record.looks) == 1 else 's'}"
    return f"{looks}, the last at {record.taken} ({record.looks[0]}){partly}"


class Bringing:
    """One run, on what a survey tells, at a pace, by a worker."""

    def __init__(
        self,
        survey: Survey,
        pace: Pace,
        worker: Fetcher,
        *,
        limits: SwapInLimits,
        stop: Stop,
        tell: Tell | None = None,
    ) -> None:
        self._survey = survey
        self._pace = pace
        self._worker = worker
        self._limits = limits
        self._stop = stop
        self._tell = tell
        self._only_touch = False
        self._brought = {
            pid: Brought(
                pid=pid,
                name=member.name,
                cgroup=member.cgroup,
                swapped_bytes=member.swapped_bytes,
            )
            for pid, member in survey.members.items()
        }
        self._amount_bytes = 0
        self.asked_bytes = 0
        self.notes: list[str] = []

    def processes(self) -> tuple[Brought, ...]:
        """Those of which there was something to bring back."""
        return tuple(
            each
            for each in self._brought.values()
            if each.swapped_bytes or each.asked_bytes or each.file_asked_bytes
        )

    def run(self, *, anon: bool = True) -> End:
        """All turns, until it is over: how it ended, and why. Without `anon`, swap is left alone
        and files alone are read."""
        candidates = self._survey.candidates(anon=anon)
        bounds = [sum(each.swapped_bytes for each in candidates), self._pace.room_bytes()]
        if self._limits.limit_bytes is not None:
            bounds.append(self._limits.limit_bytes)
        self._amount_bytes = min(bounds)
        first = self._limits.foreground | self._survey.foreground()
        for turn in turns(candidates, first):
            try:
                for piece in self._survey.pieces(turn):
                    end = self._fetch(turn, piece)
                    if end is not None:
                        return end
            except KernelFileMissing:
                self._brought.pop(turn.pid, None)  # it has ended meanwhile
            except KernelFileError as error:
                self._leave(turn.pid, str(error))
        left = [each for each in self.processes() if each.why_left and each.left_bytes]
        if left:
            what = "nothing" if not self.asked_bytes else "not all"
            return Ending.EXHAUSTED, f"{what} could be brought back: {left[0].why_left}"
        return Ending.DONE, "all that there was" if self.asked_bytes else "there was nothing to do"

    def _fetch(self, turn: Turn, piece: Piece) -> End | None:
        """Bring back a piece of a process; the end of the run, when this was it."""
        member = self._survey.members[turn.pid]
        queue, touch = deque(piece.ranges), piece.touch
        while queue:
            if self._stop.requested():
                return _stopped(self._stop)
            room, of_cgroup = self._room(member.cgroup)
            if room < PAGE and of_cgroup:
                self._leave(turn.pid, "its cgroup is at its own limit of memory")
                return None
            if room < PAGE:
                return self._no_room()
            touch = touch or self._only_touch
            most = min(room, self._pace.chunk_bytes, *([_TOUCHED_BYTES] if touch else ()))
            chunk = take(queue, most // PAGE * PAGE, MAX_RANGES)
            result = self._worker.fetch(turn.pid, member.start, chunk, self._stop, touch=touch)
            if result.stopped:
                return _stopped(self._stop)
            if result.errno == errno.ESRCH:
                self._brought.pop(turn.pid, None)
                return None
            if result.errno in (errno.EINVAL, errno.ENOSYS) and not touch:
                self._only_touch = True
                self.notes.append("this kernel reads page by page: in batches from 5.15 on")
                queue.extendleft(reversed(chunk))
                continue
            if result.errno:
                self._leave(turn.pid, os.strerror(result.errno))
                return None
            self._count(turn, min(result.value, total_bytes(chunk)))
            self._pace.took(total_bytes(chunk), result.seconds)
            if not self._pace.give_way(turn.part, self._stop):
                return Ending.LIMIT, "others have to wait for memory"
        return None

    def _room(self, cgroup: str) -> tuple[int, bool]:
        """How much may come now, and whether it is the cgroup's own limit that bounds it."""
        room = self._pace.room_bytes()
        if self._limits.limit_bytes is not None:
            room = min(room, self._limits.limit_bytes - self.asked_bytes)
        own = self._pace.cgroup_room_bytes(cgroup)
        return (room, False) if own is None or own >= room else (own, True)

    def _no_room(self) -> End:
        limit = self._limits.limit_bytes
        if limit is not None and limit - self.asked_bytes < PAGE:
            return Ending.DONE, "as much as was asked for"
        left = self._pace.reserve_bytes >> 20
        return Ending.LIMIT, f"no more than {left} MiB are free, which are left alone"

    def _count(self, turn: Turn, amount: int) -> None:
        self.asked_bytes += amount
        before = self._brought[turn.pid]
        if turn.part is Part.FILES:
            after = replace(before, file_asked_bytes=before.file_asked_bytes + amount)
        else:
            after = replace(before, asked_bytes=before.asked_bytes + amount)
        self._brought[turn.pid] = after
        if self._tell is not None:
            amount = max(self._amount_bytes, self.asked_bytes)
            self._tell(SwapInProgress(turn.part, before.name, self.asked_bytes, amount))

    def _leave(self, pid: int, why: str) -> None:
        if pid in self._brought:  # else it has ended
            self._brought[pid] = replace(self._brought[pid], why_left=why)


def _stopped(stop: Stop) -> End:
    return (Ending.DEADLINE if stop.timed_out else Ending.INTERRUPTED), stop.reason
