# SPDX-License-Identifier: LGPL-2.1-or-later
"""Remembers what was in use before it was taken out of memory, for bringing it back first.

The kernel tells of no page by name when it was used; but it lets go first what was used longest
ago, so looks at what is still there, while memory is being taken, tell it by survival
(`hibprep.remembered`). A look is one search of the page tables of every process, some 5 ms for each
GiB in memory, within a budget, the foreground first. It opens no file of anybody's: a file system
in user space may be frozen by then.

The record is in /var/lib/hibprep/working-set.json: addresses and names of processes, no contents.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Protocol

from hibprep import swaporder
from hibprep.clock import Clock, SystemClock
from hibprep.errors import KernelFileError
from hibprep.kernel.areas import Area, Backing, read_areas, read_kinds
from hibprep.kernel.durable import replace_durably
from hibprep.kernel.knobs import BOOT_ID
from hibprep.kernel.members import Member, foreground, read_members
from hibprep.kernel.pagemap import PAGE, Expired, Pagemap, Wanted, never
from hibprep.kernel.process import all_pids
from hibprep.kernel.root import KernelRoot
from hibprep.model import Progress, Stage
from hibprep.ranges import Range, intersect, ordered
from hibprep.remembered import GAP_BYTES, Record, Seen, Who, from_text, merged, to_text

FILE = "/var/lib/hibprep/working-set.json"
BUDGET_SECONDS = 0.3

_MOST_BYTES = 16 << 20  # of the file; what is larger is none of ours
_HALF, _LATE = 0.5, 0.75
_TAKING = (Stage.COLD_ANON, Stage.ANON)

Tell = Callable[[Progress], None]


def take(
    root: KernelRoot,
    earlier: Record | None,
    budget_seconds: float = BUDGET_SECONDS,
    *,
    look: str,
    files: bool = True,
    clock: Clock | None = None,
    expired: Expired = never,
) -> Record:
    """A look on top of `earlier`; nothing is written. `look` says in words when this is; with
    `files` also what is mapped of files is remembered. Ends early when `expired` says so."""
    clock = clock or SystemClock()
    end = clock.monotonic() + budget_seconds

    def over() -> bool:
        return expired() or clock.monotonic() >= end

    try:
        members = read_members(root, all_pids(root))
    except KernelFileError:
        members = []
    slices = foreground(root, members)
    members.sort(key=lambda each: (swaporder.rank(each.cgroup, slices), each.anon_bytes))
    looker = _Looker(root, over, files=files)
    seen: dict[Who, Seen] = {}
    for member in members:
        if over():
            break
        found = looker.look_at(member)
        if found is not None:
            seen[Who(member.pid, member.start)] = found
    return merged(
        earlier,
        seen,
        boot=_boot(root),
        taken=clock.now().isoformat(timespec="seconds"),
        look=look,
        alive=frozenset(Who(member.pid, member.start) for member in members),
        complete=not over(),
    )


def load(root: KernelRoot) -> Record | None:
    """What is on record of this boot; None when that is nothing."""
    path = root.path(FILE)
    try:
        with path.open(encoding="utf-8") as file:
            found = from_text(file.read(_MOST_BYTES), PAGE)
    except (OSError, ValueError):
        return None
    return found if found.boot and found.boot == _boot(root) else None


def save(root: KernelRoot, made: Record) -> Record:
    """Keep it, on the disk before this returns; with a `note` when that cannot be done."""
    try:
        replace_durably(root.path(FILE), to_text(made, PAGE).encode())
    except OSError as error:
        note = f"the working set was not kept: {FILE}: {error.strerror or error}"
        return replace(made, note=note)
    return made


class Looks(Protocol):
    """Who takes the looks of one run. `notes` say what became of them, if not all is well."""

    notes: list[str]

    def look(self, name: str, *, files: bool) -> None:
        """One look, on top of the earlier ones; it is over when this returns."""

    def keep(self) -> None:
        """The run is over: keep what was seen."""


class OwnLooks:
    """In this very process, and kept at the end."""

    def __init__(
        self,
        root: KernelRoot,
        *,
        clock: Clock | None = None,
        expired: Expired = never,
        budget_seconds: float = BUDGET_SECONDS,
    ) -> None:
        self._root = root
        self._clock = clock
        self._expired = expired
        self._budget_seconds = budget_seconds
        self._last: Record | None = None
        self.notes: list[str] = []

    def look(self, name: str, *, files: bool) -> None:
        """See `Looks.look`."""
        if not self._expired():
            self._last = take(
                self._root, self._last or load(self._root), self._budget_seconds,
                look=name, files=files, clock=self._clock, expired=self._expired,
            )  # fmt: skip

    def keep(self) -> None:
        """See `Looks.keep`."""
        if self._last is not None:
            note = save(self._root, self._last).note
            self.notes += [note] if note else []


@contextmanager
def watching(looks: Looks, tell: Tell | None = None) -> Iterator[Tell]:
    """Something to give to a run that tells of its progress: there is a look before the run takes
    anything, and again whenever much of the anonymous memory has gone. `tell` is called with all
    that it is told."""
    looked: set[str] = set()

    def told(progress: Progress) -> None:
        first = not looked
        due = moment(progress, first=first)
        if due and due not in looked:
            looked.add(due)
            looks.look(due, files=first)
        if tell is not None:
            tell(progress)

    try:
        yield told
    finally:
        looks.keep()


def moment(progress: Progress, *, first: bool) -> str:
    """The name of the look that is due at this moment of a run; "" for none. `first`: there was
    none in this run yet."""
    share = progress.done_bytes / progress.amount_bytes if progress.amount_bytes > 0 else 0.0
    if progress.stage in _TAKING:
        if share >= _LATE:
            return f"most of {progress.stage}"
        if share >= _HALF:
            return f"half of {progress.stage}"
        return f"before {progress.stage}"
    return f"before {progress.stage}" if first else ""


class _Looker:
    """Looks at one process after the other. What is mapped by many is remembered of the first."""

    def __init__(self, root: KernelRoot, expired: Expired, *, files: bool) -> None:
        self._root = root
        self._expired = expired
        self._files = files
        self._kinds = read_kinds(root) if files else {}
        self._mapped: set[tuple[tuple[str, int], int, int]] = set()

    def look_at(self, member: Member) -> Seen | None:
        """None when it is gone or closed to us."""
        areas: list[Area] = []

        def read() -> list[Area]:
            if not areas:
                areas.extend(read_areas(self._root, member.pid, self._kinds))
            return areas

        files: tuple[Range, ...] | None = None
        try:
            with Pagemap(self._root, member.pid) as pagemap:
                anon = pagemap.find(Wanted.ANON, read, gap_bytes=GAP_BYTES, expired=self._expired)
                if self._files and not self._expired():
                    found = pagemap.find(
                        Wanted.FILE, read, gap_bytes=GAP_BYTES, expired=self._expired
                    )
                    files = tuple(intersect(found, self._first_of(read())))
        except KernelFileError:
            return None
        return Seen(name=member.name, cgroup=member.cgroup, anon=tuple(anon), files=files)

    def _first_of(self, areas: list[Area]) -> list[Range]:
        """The areas of files and shared memory that no process before has had."""
        found: list[Range] = []
        for area in areas:
            if area.backing not in (Backing.DISK, Backing.SHARED):
                continue
            part = (area.file, area.offset, area.end - area.start)
            if part not in self._mapped:
                self._mapped.add(part)
                found.append((area.start, area.end))
        return ordered(found)


def _boot(root: KernelRoot) -> str:
    return (root.try_read(BOOT_ID) or "").strip()
