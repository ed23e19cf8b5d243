# SPDX-License-Identifier: LGPL-2.1-or-later
"""Back-end `lrugen`: the multi-gen LRU's own aging and eviction, by way of debugfs.

Documentation/admin-guide/mm/multigen_lru.rst. It alone takes what is cold and leaves the working
set, even inside one process. A generation's pages were last touched before the next younger one was
created; so once agings have been made `min_age_seconds` apart, whatever is still in a generation
whose next younger one is that old is guaranteed to have been idle for as long. The two youngest
generations cannot be evicted (MIN_NR_GENS), and the first aging finds everything touched: three
agings pass before anything can be said to be cold.

Eviction here pays no regard to memory.min, unlike reclaim, so this module does. Each command names
one memcg and takes nothing from those below it.
"""

from __future__ import annotations

import errno
from dataclasses import dataclass
from itertools import pairwise

from hibprep.errors import KernelFileError
from hibprep.kernel import lrugen
from hibprep.kernel.cgroup import CgroupTree
from hibprep.kernel.root import KernelRoot
from hibprep.kernel.vmstat import read_vmstat
from hibprep.model import (
    BackendName,
    Capability,
    Generation,
    GenerationList,
    Kind,
    ScopeKind,
    Step,
)
from hibprep.reclaim.base import Budget, Outcome, Status, Stop, Worker, failed
from hibprep.rules import is_spared

SINCE = "6.1"
_AGINGS_TO_KNOW = 3  # until what has not been touched can be in an evictable generation
# What eviction had to leave (writeback, swap cache) is found again after one more aging; another
# is worth its wait only while the last one still brought something.
_WORTH_AN_AGING_BYTES = 16 << 20
_FRUITLESS_COMMANDS = 2
_NOTICEABLE_PAGES = 16
_AGINGS_AT_MOST = 10  # in one run: memory that goes to and fro is no longer worth the disk
_SMALLEST_LIST_BYTES = 256 << 10
_ANON_FIRST, _FILE_ONLY = 200, 0


@dataclass(slots=True)
class _Progress:
    """How many agings a list has had, what was evicted from it since the last one, and how many
    commands in a row brought nothing."""

    agings: int = 0
    evicted_bytes: int = 0
    fruitless: int = 0

    @property
    def resting(self) -> bool:
        """Whether what it has that is old enough does not give way before the next aging."""
        return self.fruitless >= _FRUITLESS_COMMANDS

    @property
    def over(self) -> bool:
        """Whether one more aging is not worth the wait."""
        if self.agings < _AGINGS_TO_KNOW:
            return False
        return self.agings >= _AGINGS_AT_MOST or self.evicted_bytes < _WORTH_AN_AGING_BYTES


class LruGen:
    """Ages by itself, evicts the oldest; one debugfs command a chunk."""

    name = BackendName.LRUGEN

    def __init__(
        self, root: KernelRoot, tree: CgroupTree | None, worker: Worker, page_size: int
    ) -> None:
        self._root = root
        self._tree = tree
        self._worker = worker
        self._page = page_size
        self._progress: dict[tuple[int, int], _Progress] = {}

    def probe(self) -> Capability:
        """Whether it is built, and whether its debugfs file may be written."""

        def no(reason: str) -> Capability:
            return Capability(self.name, available=False, reason=reason, since=SINCE)

        enabled = lrugen.read_enabled(self._root)
        if enabled is None:
            return no("this kernel has no multi-gen LRU (CONFIG_LRU_GEN, from 6.1 on)")
        path = lrugen.GENERATIONS_FILE
        if not self._root.exists(path):
            return no(f"no {path}: mount debugfs (mount -t debugfs none /sys/kernel/debug)")
        try:
            self._root.read(path)
        except KernelFileError as error:
            return no(f"{error}; kernel lockdown (Secure Boot) closes debugfs")
        if not self._root.writable(path):
            return no(f"{path} cannot be written: be root, without kernel lockdown")
        if not enabled:
            return Capability(
                self.name,
                available=True,
                reason="multi-gen LRU, switched off here and switched on for the run",
                since=SINCE,
                features=frozenset({"switched-off"}),
            )
        return Capability(self.name, available=True, reason="multi-gen LRU", since=SINCE)

    def prime(self, step: Step, stop: Stop) -> None:
        """Make the first aging now: the time until the next passes while other steps run."""
        try:
            for entry in self._lists(step):
                if self._age(entry, stop) is None:
                    return
        except KernelFileError:
            return  # `run` meets it again, and says so in the report

    def run(self, step: Step, budget: Budget, stop: Stop) -> Outcome:
        """Evict one chunk of what is old enough; where nothing is, age, or say when to."""
        if step.scope.kind is ScopeKind.PROCESS:
            return Outcome(Status.FAILED, "the multi-gen LRU knows cgroups, not processes")
        if step.kind not in (Kind.FILE, Kind.ANON):
            return Outcome(
                Status.FAILED, f"the multi-gen LRU cannot free memory of kind {step.kind}"
            )
        try:
            lists = self._lists(step)
        except KernelFileError as error:
            return Outcome(Status.FAILED, str(error))
        oldest = sorted(
            (
                (entry, cold)
                for entry in lists
                if not self._of(entry).resting and (cold := _evictable(entry, step))
            ),
            key=lambda pair: -_pages(pair[1], step.kind),
        )
        for entry, cold in oldest:
            pages = min(
                budget.amount_bytes // self._page,
                _pages(cold, step.kind),
                self._may_lose_pages(entry.path, step.kind),
            )
            if pages > 0:
                return self._evict(entry, cold, step.kind, pages, stop)
        return self._age_or_wait(lists, step, budget, stop)

    def _lists(self, step: Step) -> list[GenerationList]:
        """The generations of the scope that hold enough of the kind to be worth a command."""
        scope = step.scope.path.rstrip("/")
        least = _SMALLEST_LIST_BYTES // self._page
        return [
            entry
            for entry in lrugen.read_generations(self._root)
            if entry.path.rstrip("/") == scope or entry.path.startswith(f"{scope}/")
            if not is_spared(entry.path, step.spared)
            if len(entry.generations) >= lrugen.MIN_GENERATIONS
            if sum(_pages(generation, step.kind) for generation in entry.generations) >= least
        ]

    def _may_lose_pages(self, path: str, kind: Kind) -> int:
        """How much may be taken: memory.min and memory.swap.max, its own and its ancestors'."""
        if self._tree is None:
            return 1 << 62
        return self._tree.losable_bytes(path, to_swap=kind is Kind.ANON) // self._page

    def _evict(
        self, entry: GenerationList, cold: Generation, kind: Kind, pages: int, stop: Stop
    ) -> Outcome:
        command = lrugen.eviction_command(
            entry.memcg_id,
            entry.node,
            cold.sequence,
            swappiness=_FILE_ONLY if kind is Kind.FILE else _ANON_FIRST,
            pages=pages,
        )
        before = self._moved_pages()
        result = self._worker.write(lrugen.GENERATIONS_FILE, command, stop)
        if result.stopped:
            return Outcome(Status.STOPPED)
        # EINVAL: the generations moved on, or the cgroup went, since they were read.
        if result.errno not in (0, errno.EAGAIN, errno.EINTR, errno.EINVAL):
            return failed(lrugen.GENERATIONS_FILE, result.errno)
        moved = self._moved_pages() - before
        progress = self._of(entry)
        progress.evicted_bytes += moved * self._page
        progress.fruitless = 0 if moved >= _NOTICEABLE_PAGES else progress.fruitless + 1
        return Outcome(Status.AGAIN if result.errno else Status.OK, knows_its_end=True)

    def _moved_pages(self) -> int:
        """Pages that were freed or sent to swap so far: the command itself does not tell. From
        7.2 on it returns long before the disk is done, so both are looked at."""
        counters = read_vmstat(self._root)
        return counters.pgsteal_anon + counters.pgsteal_file + counters.pswpout

    def _of(self, entry: GenerationList) -> _Progress:
        return self._progress.setdefault((entry.memcg_id, entry.node), _Progress())

    def _age_or_wait(
        self, lists: list[GenerationList], step: Step, budget: Budget, stop: Stop
    ) -> Outcome:
        """The next aging of every list that is due; how long until the next one is."""
        spent_seconds, soonest = 0.0, None
        for entry in lists:
            progress = self._of(entry)
            if progress.over:
                continue
            due_seconds = max(0.0, step.min_age_seconds - entry.generations[-1].age_seconds)
            if progress.agings and due_seconds > 0:
                soonest = due_seconds if soonest is None else min(soonest, due_seconds)
                continue
            if spent_seconds >= budget.seconds:
                return Outcome(Status.WAIT, "aging")
            seconds = self._age(entry, stop)
            if seconds is None:
                return Outcome(Status.STOPPED)
            spent_seconds += seconds
            soonest = 0.0
        if soonest is None:
            return Outcome(Status.EXHAUSTED, "nothing more proves to be old enough")
        return Outcome(Status.WAIT, "waiting for the next aging", wait_seconds=soonest)

    def _age(self, entry: GenerationList, stop: Stop) -> float | None:
        """Begin a new generation; the seconds it took, None when stopped."""
        command = lrugen.aging_command(entry.memcg_id, entry.node, entry.generations[-1].sequence)
        result = self._worker.write(lrugen.GENERATIONS_FILE, command, stop)
        if result.stopped:
            return None
        progress = self._of(entry)
        # An error counts as an aging too: a list that cannot be aged must not be waited for.
        progress.agings += 1
        progress.evicted_bytes = progress.fruitless = 0
        return result.seconds


def _evictable(entry: GenerationList, step: Step) -> Generation | None:
    """The youngest generation up to which everything has been idle for long enough, when those up
    to it hold anything of the kind: with the sum of what they hold in it."""
    generations = entry.generations
    found: Generation | None = None
    anon = file = 0
    for older, younger in pairwise(generations[:-1]):
        if younger.age_seconds < step.min_age_seconds:
            break
        anon, file = anon + older.anon_pages, file + older.file_pages
        found = Generation(
            sequence=older.sequence,
            age_seconds=younger.age_seconds,
            anon_pages=anon,
            file_pages=file,
        )
    return found if found and _pages(found, step.kind) else None


def _pages(generation: Generation, kind: Kind) -> int:
    return generation.file_pages if kind is Kind.FILE else generation.anon_pages
