# SPDX-License-Identifier: LGPL-2.1-or-later
"""Back-end `damon`: a kdamond of our own that pages out what was not accessed for an age.

Documentation/mm/damon/design.rst; by name only (`reclaim --backend damon`). It needs the age twice:
once to watch before anything can be that old, and once more because what is sent to a disk stays in
the swap cache until its region is found cold again. Its ages are of what the page tables say, so
memory that the multi-gen LRU has aged meanwhile is as old to it as it is.

DAMON_STAT, which newer kernels run by default, keeps others from running (EBUSY): it is switched
off for the run by way of the knob journal. Whatever else uses DAMON is left alone, and is a reason
not to run.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from dataclasses import dataclass, replace

from hibprep.clock import Clock
from hibprep.damon import pageout
from hibprep.damon.pageout import Attributes, Scheme
from hibprep.errors import HibprepError
from hibprep.kernel import damon_sysfs
from hibprep.kernel.cgroup import CgroupTree
from hibprep.kernel.damon_around import STAT_ENABLED, holders, stat_runs, system_ram
from hibprep.kernel.damon_reclaim import path_of
from hibprep.kernel.meminfo import read_meminfo
from hibprep.kernel.root import KernelRoot
from hibprep.kernel.vmstat import read_vmstat
from hibprep.model import BackendName, Capability, Kind, ScopeKind, Step
from hibprep.reclaim.base import Budget, Outcome, Status, Stop, Worker, failed
from hibprep.rules import is_spared

SINCE = "6.3"  # filters; the rest of it since 5.18

_LEAST_RANGE_BYTES = 1 << 20
_MOST_SCHEMES = 64
_LEAST_CGROUP_BYTES = 1 << 20
_MOST_QUOTA_BYTES = 32 << 20  # for every APPLY_US: faster than most disks
_LEAST_QUOTA_BYTES = 4 << 20
# From look to look, a second, no more goes than was asked for; in a minute all is tried
_QUOTAS_OF_A_STEP = 10
_QUOTAS_OF_A_PASS = 600
_QUOTA_STEP = 4  # a commit takes an aggregation, so it is not made for every little
_SETTLING_AGGREGATIONS = 3
_LOOK_SECONDS = 1.0
_BUSY_SECONDS = 0.1
_NOTICEABLE_PAGES = 16
# A page in the swap cache has no page table to tell whether it is in use: it counts as used the
# first time that it is looked at, and its region with it (damon_folio_young()).
_PATIENCE = 2.5
_PASSES = 2.5
_WORTH_TELLING_BYTES = 1 << 20


@dataclass(slots=True)
class _Watch:
    """What is watched, since when, and what came of it."""

    step: Step
    attributes: Attributes
    schemes: tuple[Scheme, ...]
    quota_bytes: int
    ram_bytes: int
    begin: float
    sent_pages: int  # to swap, when it began
    looked: float = 0.0
    moved: float = 0.0  # when something last moved
    applied_bytes: int = 0  # as counted then
    tried_bytes: int = 0
    counted_bytes: int = 0  # as the kernel's counter said when it was looked at last
    untold_bytes: int = 0  # counted, and not told yet
    last_sent_pages: int = 0
    first_sent: float | None = None
    closing: bool = False
    pending: tuple[Scheme, ...] = ()  # to be committed

    @property
    def passed_over(self) -> float:
        """How many times as much was tried as went: of others, of the other kind, or not old."""
        return max(1.0, self.tried_bytes / max(self.counted_bytes, pageout.PAGE))

    @property
    def pass_seconds(self) -> float:
        """How long it takes to try all of memory: what filters leave out counts for the quota."""
        return self.ram_bytes / max(self.quota_bytes, pageout.PAGE) * pageout.APPLY_US / 1e6


class Damon:
    """Watches, then lets the kdamond work and looks how far it is."""

    name = BackendName.DAMON

    def __init__(
        self,
        root: KernelRoot,
        tree: CgroupTree | None,
        worker: Worker,
        set_knob: Callable[[str, str, str], None],
        clock: Clock,
    ) -> None:
        self._root = root
        self._tree = tree
        self._worker = worker
        self._set_knob = set_knob
        self._clock = clock
        self._kdamond = damon_sysfs.Kdamond(root)
        self._watch: _Watch | None = None

    def probe(self) -> Capability:
        """Whether DAMON's tree is there and nobody uses it."""
        reason = damon_sysfs.refusal(self._root) or self._in_its_way()
        if not reason and not system_ram(self._root):
            reason = "/proc/iomem does not tell where memory is: be root"
        if reason:
            return Capability(self.name, available=False, reason=reason, since=SINCE)
        switched = stat_runs(self._root)
        return Capability(
            self.name,
            available=True,
            reason="DAMON, with DAMON_STAT switched off for the run" if switched else "DAMON",
            since=SINCE,
            features=frozenset({"damon-stat"}) if switched else frozenset(),
        )

    def prime(self, step: Step, stop: Stop) -> None:
        """Begin to watch: it is `run` that starts it, as a kdamond works for one step alone."""

    def run(self, step: Step, budget: Budget, stop: Stop) -> Outcome:
        """Start watching; wait for the age; then let it work for a moment, and look."""
        if step.scope.kind is ScopeKind.PROCESS:
            return Outcome(Status.FAILED, "DAMON's filters know cgroups, not processes")
        if step.kind not in (Kind.FILE, Kind.ANON):
            return Outcome(Status.FAILED, f"DAMON cannot free memory of kind {step.kind}")
        if stop.requested():
            return Outcome(Status.STOPPED)
        try:
            if self._watch is None or self._watch.step != step:
                return self._told(self._start(step, budget))
            return self._told(self._go_on(self._watch, budget, stop))
        except HibprepError as error:
            return Outcome(Status.FAILED, str(error))

    def close(self) -> list[str]:
        """End the kdamond, when one runs; words for the report when that could not be."""
        self._watch = None
        return self._kdamond.take_away()

    # --- watching -------------------------------------------------------------------------------

    def _in_its_way(self) -> str:
        """Who else uses DAMON and is not to be disturbed."""
        others = [each.name for each in holders(self._root) if each.switch != STAT_ENABLED]
        if (self._root.try_read(path_of("enabled")) or "").strip() == "Y":
            others.append("DAMON_RECLAIM (hibprep damon off)")
        return f"{' and '.join(others)} runs, and DAMON runs for one at a time" if others else ""

    def _start(self, step: Step, budget: Budget) -> Outcome:
        words = self.close()
        if words:
            return Outcome(Status.FAILED, "; ".join(words))
        reason = self._in_its_way()
        if reason:
            return Outcome(Status.FAILED, reason)
        if stat_runs(self._root):
            self._set_knob(STAT_ENABLED, "N", "DAMON_STAT keeps other users of DAMON from running")
        attributes = Attributes.for_age(step.min_age_seconds)
        quota = min(budget.amount_bytes, _MOST_QUOTA_BYTES)
        schemes = pageout.schemes_for(
            anon=step.kind is Kind.ANON,
            least_age=attributes.aggregations(step.min_age_seconds),
            quota_bytes=quota,
            only=self._only(step),
            without=self._without(step),
        )
        ranges = [
            each for each in system_ram(self._root) if each[1] - each[0] >= _LEAST_RANGE_BYTES
        ]
        self._kdamond.start(attributes, ranges, schemes)
        now = self._clock.monotonic()
        sent = read_vmstat(self._root).pswpout
        self._watch = _Watch(
            step,
            attributes,
            schemes,
            quota,
            ram_bytes=sum(end - start for start, end in ranges),
            begin=now,
            sent_pages=sent,
            last_sent_pages=sent,
        )
        return self._wait(self._watch)

    def _only(self, step: Step) -> tuple[str, ...]:
        """The cgroups of a scope: a filter knows a cgroup without those below it."""
        if step.scope.kind is not ScopeKind.CGROUP or self._tree is None:
            return ()
        found = [
            each
            for each in self._tree.walk(step.scope.path)
            if not is_spared(each.path, step.spared) and not each.min_bytes
        ]
        found.sort(key=lambda each: -each.current_bytes)
        large = [each.path for each in found if each.current_bytes >= _LEAST_CGROUP_BYTES]
        return tuple(large[:_MOST_SCHEMES]) or (step.scope.path,)

    def _without(self, step: Step) -> tuple[str, ...]:
        """What is left alone: what rules keep, and what memory.min protects, of which paging out
        knows nothing (reclaim_pages())."""
        if self._tree is None or step.scope.kind is ScopeKind.CGROUP:
            return ()
        return tuple(
            each.path
            for each in self._tree.walk()
            if each.path != "/" and (each.min_bytes or is_spared(each.path, step.spared))
        )

    @staticmethod
    def _least_seconds(watch: _Watch) -> float:
        """How long it takes until something can be that old."""
        settling = _SETTLING_AGGREGATIONS * watch.attributes.aggr_us / 1e6
        return watch.step.min_age_seconds + settling

    def _wait(self, watch: _Watch) -> Outcome:
        left = watch.begin + self._least_seconds(watch) - self._clock.monotonic()
        return Outcome(Status.WAIT, "watching what is accessed", wait_seconds=max(0.0, left))

    def _told(self, outcome: Outcome) -> Outcome:
        """With what the kdamond has freed since, for files: it works on between two chunks, too,
        and what else comes and goes in the cache hides it from who measures. Anonymous memory it
        counts when that has left the swap cache, which is too late to end by."""
        watch = self._watch
        if watch is None or watch.step.kind is not Kind.FILE:
            return outcome
        told, watch.untold_bytes = watch.untold_bytes, 0
        return replace(outcome, counted_file_bytes=told)

    # --- working --------------------------------------------------------------------------------

    def _go_on(self, watch: _Watch, budget: Budget, stop: Stop) -> Outcome:
        now = self._clock.monotonic()
        if now - watch.begin < self._least_seconds(watch):
            return self._wait(watch)
        if not self._kdamond.is_ours():
            return Outcome(Status.FAILED, "its kdamond was ended by somebody else")
        if now - watch.looked >= _LOOK_SECONDS:
            ended = self._look(watch, now, stop)
            if ended is not None:
                return ended
        watch.pending = watch.pending or self._wanted(watch, budget)
        if watch.pending:
            return self._commit(watch, stop)
        stop.wait(budget.seconds / 2)
        if stop.requested():
            return Outcome(Status.STOPPED)
        return Outcome(Status.OK, knows_its_end=True)

    def _look(self, watch: _Watch, now: float, stop: Stop) -> Outcome | None:
        """See what moved. Nothing for longer than a region needs to be that old again: the end."""
        result = self._worker.write(damon_sysfs.STATE, "update_schemes_stats", stop)
        if result.stopped:
            return Outcome(Status.STOPPED)
        if result.errno == errno.EBUSY:  # what it did is asked for again with the next chunk
            return None
        if result.errno:
            return failed(damon_sysfs.STATE, result.errno)
        stats = self._kdamond.stats(len(watch.schemes))
        gained = stats.applied_bytes - watch.counted_bytes
        # should a commit have made the schemes anew, their statistics began with it
        watch.untold_bytes += gained if gained >= 0 else stats.applied_bytes
        watch.counted_bytes, watch.tried_bytes = stats.applied_bytes, stats.tried_bytes
        sent = read_vmstat(self._root).pswpout
        least = _NOTICEABLE_PAGES * pageout.PAGE
        if watch.first_sent is None and sent > watch.sent_pages:
            watch.first_sent = now
        moved = stats.applied_bytes - watch.applied_bytes >= least
        if moved or sent - watch.last_sent_pages >= _NOTICEABLE_PAGES or not watch.looked:
            watch.moved, watch.applied_bytes, watch.last_sent_pages = (
                now,
                stats.applied_bytes,
                sent,
            )
        watch.looked = now
        # what has not been looked at yet counts as used the first time: two passes, where they take
        # longer than a region needs to be that old again
        patience = max(_PATIENCE * self._least_seconds(watch), _PASSES * watch.pass_seconds)
        if now - watch.moved > patience + _LOOK_SECONDS:
            return Outcome(Status.EXHAUSTED, self._end_words(watch))
        return None

    def _end_words(self, watch: _Watch) -> str:
        words = f"nothing more proves to be {watch.step.min_age_seconds:g} s old"
        cached = read_meminfo(self._root).swap_cached_bytes
        if watch.first_sent is not None and cached >= _WORTH_TELLING_BYTES:
            words += f"; {cached} bytes that are in swap are in memory too, for any reclaim to take"
        return words

    def _wanted(self, watch: _Watch, budget: Budget) -> tuple[Scheme, ...]:
        """Other schemes than those in force; none when there is no need for them."""
        sent_bytes = (watch.last_sent_pages - watch.sent_pages) * pageout.PAGE
        if not watch.closing and watch.first_sent and sent_bytes >= watch.step.amount_bytes:
            # enough is on its way: what was sent is to leave memory, and nothing new is to go
            watch.closing = True
            since = self._clock.monotonic() - watch.first_sent
            return pageout.only_again(watch.schemes, watch.attributes.aggregations(since))
        quota = min(self._quota_bytes(watch, budget), _MOST_QUOTA_BYTES)
        if quota < watch.quota_bytes or quota >= _QUOTA_STEP * watch.quota_bytes:
            watch.quota_bytes = quota
            return pageout.with_quota(watch.schemes, quota)
        return ()

    @staticmethod
    def _quota_bytes(watch: _Watch, budget: Budget) -> int:
        """With no more than what is still to go the last of it would take many passes, as what is
        passed over counts too. Too much of a cache that is old does no harm; of what is swapped out
        it does, and more goes before an order to stop is obeyed."""
        if watch.step.kind is Kind.FILE:
            return int(budget.amount_bytes * watch.passed_over)
        step_bytes = watch.step.amount_bytes // _QUOTAS_OF_A_STEP
        careful = max(step_bytes, watch.ram_bytes // _QUOTAS_OF_A_PASS, _LEAST_QUOTA_BYTES)
        return min(max(budget.amount_bytes, _LEAST_QUOTA_BYTES), careful)

    def _commit(self, watch: _Watch, stop: Stop) -> Outcome:
        self._kdamond.write(watch.pending)
        result = self._worker.write(damon_sysfs.STATE, "commit", stop)
        if result.stopped:
            return Outcome(Status.STOPPED)
        if result.errno == errno.EBUSY:  # somebody else is looking at the tree
            return Outcome(Status.WAIT, "", wait_seconds=_BUSY_SECONDS)
        if result.errno:
            return failed(damon_sysfs.STATE, result.errno)
        watch.schemes, watch.pending = watch.pending, ()
        # no measure of how much there is to be had in so long: it waits for an aggregation to end
        return Outcome(Status.WAIT, "")
