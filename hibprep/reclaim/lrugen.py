# SPDX-License-Identifier: LGPL-2.1-or-later
"""Back-end `lrugen`: the multi-gen LRU's own aging and eviction, by way of debugfs.

Documentation/admin-guide/mm/multigen_lru.rst. It alone takes what is cold and leaves the working
set, even inside one process. A generation's pages were last touched before the next younger one was
created; so once agings have been made `min_age_seconds` apart, whatever is still in a generation
whose next younger one is that old is guaranteed to have been idle for as long: eviction looks once
more at what was touched since the last aging. The two youngest generations cannot be evicted
(MIN_NR_GENS), and the first aging finds everything touched: three agings pass before anything can
be said to be cold.

Eviction here pays no regard to memory.min, unlike reclaim, so this module does. Each command names
one memcg and takes nothing from those below it.
"""

from __future__ import annotations

import errno
from dataclasses import dataclass
from itertools import pairwise

from hibprep.coldness import MIN_GENERATIONS
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
from hibprep.reclaim.aging import Aging, is_closed
from hibprep.reclaim.base import Budget, Outcome, Status, Stop, Worker, failed
from hibprep.rules import covers, is_spared

_AGINGS_TO_KNOW = 3  # until what has not been touched can be in an evictable generation
# What eviction had to leave (writeback, swap cache) is found again after one more aging; another
# is worth its wait only while the last one still brought something.
_WORTH_AN_AGING_BYTES = 16 << 20
_FRUITLESS_COMMANDS = 2
_NOTICEABLE_PAGES = 16
_AGINGS_AT_MOST = 10  # in one run: memory that goes to and fro is no longer worth the disk
_SMALLEST_LIST_BYTES = 256 << 10
_KINDS = (Kind.FILE, Kind.ANON, Kind.ANY)
# With a value in between the kernel takes the kind that is older, or was missed less of late.
_SWAPPINESS = {Kind.FILE: 0, Kind.ANY: 100, Kind.ANON: 200}


@dataclass(slots=True)
class _Progress:
    """What was evicted from a list since its last aging, and how many commands in a row brought
    nothing."""

    evicted_bytes: int = 0
    fruitless: int = 0

    @property
    def resting(self) -> bool:
        """Whether what it has that is old enough does not give way before the next aging."""
        return self.fruitless >= _FRUITLESS_COMMANDS


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
        # asked before anything is switched on: a back-end is made before a run's settings are
        self._aging = Aging(worker, was_on=bool(lrugen.read_enabled(root)))
        self._progress: dict[tuple[str, int, int], _Progress] = {}
        self._kind: Kind | None = None

    def probe(self) -> Capability:
        """Whether it is built, and whether its debugfs file may be written."""
        return lrugen.capability(self._root)

    def prime(self, step: Step, stop: Stop) -> None:
        """Make the first aging now: the time until the next passes while other steps run. Not
        where nobody waits for it: it puts the oldest generation into the next, which is younger."""
        if not step.waits:
            return
        try:
            for entry in self._lists(step):
                if self._age(entry, stop) is not None:
                    return
        except KernelFileError:
            return  # `run` meets it again, and says so in the report

    def run(self, step: Step, budget: Budget, stop: Stop) -> Outcome:
        """Evict one chunk of what is old enough; where nothing is, age, or say when to."""
        if step.scope.kind is ScopeKind.PROCESS:
            return Outcome(Status.FAILED, "the multi-gen LRU knows cgroups, not processes")
        if step.kind not in _KINDS:
            return Outcome(
                Status.FAILED, f"the multi-gen LRU cannot free memory of kind {step.kind}"
            )
        if step.kind is not self._kind:
            # what does not give way is told of a kind
            self._kind, self._progress = step.kind, {}
        try:
            lists = self._lists(step)
        except KernelFileError as error:
            return Outcome(Status.FAILED, str(error))
        oldest = sorted(
            (
                (entry, cold)
                for entry in lists
                if not self._of(entry).resting and (cold := self._evictable(entry, step))
            ),
            key=lambda pair: -_pages(pair[1], step.kind),
        )
        for entry, cold in oldest:
            kind, most = self._may_lose(entry.path, step.kind)
            pages = min(budget.amount_bytes // self._page, _pages(cold, kind), most)
            if pages > 0:
                return self._evict(entry, cold, kind, pages, stop)
        if not step.waits:
            return self._age_in_passing(lists, step, budget, stop)
        return self._age_or_wait(lists, step, budget, stop)

    def _lists(self, step: Step) -> list[GenerationList]:
        """The generations of the scope that hold enough of the kind to be worth a command."""
        least = _SMALLEST_LIST_BYTES // self._page
        return [
            entry
            for entry in lrugen.read_generations(self._root)
            if covers(step.scope.path, entry.path) and not is_spared(entry.path, step.spared)
            if len(entry.generations) >= MIN_GENERATIONS
            if sum(_pages(generation, step.kind) for generation in entry.generations) >= least
        ]

    def _evictable(self, entry: GenerationList, step: Step) -> Generation | None:
        """The youngest generation up to which everything has been idle for long enough, when those
        up to it hold anything of the kind: with the sum of what they hold in it."""
        known_from = self._aging.of(entry).known_from
        found: Generation | None = None
        anon = file = 0
        for older, younger in pairwise(entry.generations[:-1]):
            if younger.age_seconds < step.min_age_seconds:
                break
            anon, file = anon + older.anon_pages, file + older.file_pages
            if younger.sequence <= known_from:
                continue
            found = Generation(
                sequence=older.sequence,
                age_seconds=younger.age_seconds,
                anon_pages=anon,
                file_pages=file,
            )
        return found if found and _pages(found, step.kind) else None

    def _may_lose(self, path: str, kind: Kind) -> tuple[Kind, int]:
        """Of what kind and how many pages may be taken: memory.min and memory.swap.max, its own
        and its ancestors'. Of both kinds page cache is left where none may go to swap."""
        if self._tree is None:
            return kind, 1 << 62
        if kind is Kind.FILE:
            return kind, self._tree.losable_bytes(path, to_swap=False) // self._page
        most = self._tree.losable_bytes(path, to_swap=True) // self._page
        if kind is Kind.ANY and most <= 0:
            return self._may_lose(path, Kind.FILE)
        return kind, most

    def _evict(
        self, entry: GenerationList, cold: Generation, kind: Kind, pages: int, stop: Stop
    ) -> Outcome:
        command = lrugen.eviction_command(
            entry.memcg_id,
            entry.node,
            cold.sequence,
            swappiness=_SWAPPINESS[kind],
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
        key = (entry.path, entry.memcg_id, entry.node)
        return self._progress.setdefault(key, _Progress())

    def _over(self, entry: GenerationList) -> bool:
        """Whether one more aging is not worth the wait."""
        account = self._aging.of(entry)
        if account.lost:
            return True
        if account.agings < _AGINGS_TO_KNOW:
            return False
        if account.agings >= _AGINGS_AT_MOST:
            return True
        return self._of(entry).evicted_bytes < _WORTH_AN_AGING_BYTES

    def _age_or_wait(
        self, lists: list[GenerationList], step: Step, budget: Budget, stop: Stop
    ) -> Outcome:
        """The next aging of every list that is due; how long until the next one is."""
        spent_seconds, soonest = 0.0, None
        spacing_seconds = self._aging.spacing_seconds(step.min_age_seconds)
        for entry in lists:
            if self._over(entry):
                continue
            account = self._aging.of(entry)
            # the first is not held up, whoever has begun the youngest generation
            due_seconds = max(0.0, spacing_seconds - entry.generations[-1].age_seconds)
            if account.agings and due_seconds > 0:
                soonest = due_seconds if soonest is None else min(soonest, due_seconds)
                continue
            if spent_seconds >= budget.seconds:
                return Outcome(Status.WAIT, "aging")
            end = self._age(entry, stop)
            if end is not None:
                return end
            spent_seconds += account.seconds
            soonest = 0.0
        if soonest is None:
            return Outcome(Status.EXHAUSTED, "nothing more proves to be old enough")
        return Outcome(Status.WAIT, "waiting for the next aging", wait_seconds=soonest)

    def _age_in_passing(
        self, lists: list[GenerationList], step: Step, budget: Budget, stop: Stop
    ) -> Outcome:
        """One aging of each list that had none for half of the age, and no waiting: asked again and
        again, what stays idle is known to be that old after one and a half of it."""
        spent_seconds, aged = 0.0, False
        for entry in lists:
            account = self._aging.of(entry)
            if account.agings or entry.generations[-1].age_seconds < step.min_age_seconds / 2:
                continue
            if spent_seconds >= budget.seconds:
                return Outcome(Status.WAIT, "aging")
            end = self._age(entry, stop)
            if end is not None:
                return end
            spent_seconds, aged = spent_seconds + account.seconds, True
        if aged:  # a generation more may be evicted now
            return Outcome(Status.WAIT, "aged")
        return Outcome(Status.EXHAUSTED, "nothing more is known to be old enough")

    def _age(self, entry: GenerationList, stop: Stop) -> Outcome | None:
        """Begin a new generation; the end of the chunk when stopped, or where it cannot be done."""
        result = self._aging.age(entry, stop)
        if result.stopped:
            return Outcome(Status.STOPPED)
        if is_closed(result.errno):
            return failed(lrugen.GENERATIONS_FILE, result.errno)
        progress = self._of(entry)
        progress.evicted_bytes = progress.fruitless = 0
        return None


def _pages(generation: Generation, kind: Kind) -> int:
    if kind is Kind.FILE:
        return generation.file_pages
    if kind is Kind.ANON:
        return generation.anon_pages
    return generation.anon_pages + generation.file_pages
