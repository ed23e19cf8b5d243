# SPDX-License-Identifier: LGPL-2.1-or-later
"""Back-end `memcg`: the `memory.reclaim` file of any cgroup, the root included.

Documentation/admin-guide/cgroup-v2.rst; in the kernel since 5.19, on the root too. Which kind of
memory is taken is said in three ways by three generations of kernels: `swappiness=max` (6.16),
`swappiness=0..200` (6.11), and before that only by the global vm.swappiness, which is changed for
the length of a step by way of the knob journal.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable

from hibprep.errors import KernelFileError
from hibprep.kernel.cgroup import CgroupTree
from hibprep.kernel.root import KernelRoot
from hibprep.kernel.vmstat import read_vmstat
from hibprep.model import BackendName, Capability, Kind, ScopeKind, Step
from hibprep.reclaim.base import Budget, Outcome, Status, Stop, Worker, failed
from hibprep.reclaim.shares import Shares
from hibprep.rules import reach

SWAPPINESS_FILE = "/proc/sys/vm/swappiness"
SINCE = "5.19"
_NOTICEABLE_PAGES = 16
_AGAIN_SECONDS = 0.05


class Memcg:
    """One write a chunk. `set_knob(path, value, reason)` journals a setting that is put back when
    the run ends."""

    name = BackendName.MEMCG

    def __init__(
        self,
        root: KernelRoot,
        tree: CgroupTree | None,
        worker: Worker,
        set_knob: Callable[[str, str, str], None],
        *,
        absent_reason: str = "",
    ) -> None:
        self._root = root
        self._tree = tree
        self._worker = worker
        self._set_knob = set_knob
        self._absent_reason = absent_reason
        self._capability: Capability | None = None
        self._page = os.sysconf("SC_PAGE_SIZE")
        self._shares: Shares | None = None

    def probe(self) -> Capability:
        """Asks the root's file with an amount of 0: it is parsed, and nothing is reclaimed."""
        if self._capability is None:
            self._capability = self._probe()
        return self._capability

    def _probe(self) -> Capability:
        def no(reason: str) -> Capability:
            return Capability(self.name, available=False, reason=reason, since=SINCE)

        if self._tree is None:
            return no(self._absent_reason)
        path = self._tree.file("/", "memory.reclaim")
        if not self._root.exists(path):
            return no(f"no {path}: the kernel is older than {SINCE}")
        try:
            self._root.write(path, "0")
        except KernelFileError as error:
            return no(str(error))
        if self._accepts(path, "0 swappiness=max"):
            return Capability(
                self.name,
                available=True,
                reason="memory.reclaim with swappiness=max",
                since=SINCE,
                features=frozenset({"swappiness", "swappiness-max"}),
            )
        if self._accepts(path, "0 swappiness=0"):
            return Capability(
                self.name,
                available=True,
                reason="memory.reclaim with swappiness=0..200",
                since=SINCE,
                features=frozenset({"swappiness"}),
            )
        return Capability(
            self.name,
            available=True,
            reason="memory.reclaim, its kind of memory chosen by vm.swappiness",
            since=SINCE,
            features=frozenset({"vm-swappiness"}),
        )

    def _accepts(self, path: str, text: str) -> bool:
        try:
            self._root.write(path, text)
        except KernelFileError:  # EINVAL: a word that this kernel does not know
            return False
        return True

    def prime(self, step: Step, stop: Stop) -> None:
        """Nothing to begin early."""

    def run(self, step: Step, budget: Budget, stop: Stop) -> Outcome:
        """Ask for one chunk."""
        capability = self.probe()
        if self._tree is None or not capability.available:
            return Outcome(Status.FAILED, capability.reason)
        if step.scope.kind is ScopeKind.PROCESS:
            return Outcome(Status.FAILED, "memory.reclaim works on cgroups, not on a process")
        suffix = ""
        if step.kind in (Kind.FILE, Kind.ANON):
            suffix = self._swappiness(step.kind, capability.features)
        within = reach(step.scope.path, step.spared, self._tree) if step.spared else None
        if within not in (None, [step.scope.path]):
            return self._share_out(step, budget, suffix, stop, self._tree)
        path = self._tree.file(step.scope.path, "memory.reclaim")
        result = self._worker.write(path, f"{budget.amount_bytes}{suffix}", stop)
        if result.stopped:
            return Outcome(Status.STOPPED)
        if result.errno in (errno.ENOENT, errno.ENODEV):
            return Outcome(Status.GONE, f"the cgroup {step.scope.path} is no more")
        if result.errno in (errno.EAGAIN, errno.EINTR):
            return Outcome(Status.AGAIN)
        if result.errno:
            return failed(path, result.errno)
        return Outcome(Status.OK)

    def _share_out(
        self,
        step: Step,
        budget: Budget,
        suffix: str,
        stop: Stop,
        tree: CgroupTree,
    ) -> Outcome:
        """Ask for the chunk beside what rules keep: no cgroup is named that has any of it."""
        shares = self._shares = self._shares or Shares(tree, self._page)
        left_bytes, seconds, again = budget.amount_bytes, 0.0, False
        passed: set[str] = set()  # gave nothing this time
        while left_bytes > 0 and seconds < budget.seconds:
            turn = shares.next(step, left_bytes, passed)
            if turn is None:
                break
            path = tree.file(turn.path, "memory.reclaim")
            before = self._moved_pages()
            result = self._worker.write(path, f"{turn.amount_bytes}{suffix}", stop)
            seconds += result.seconds
            if result.stopped:
                return Outcome(Status.STOPPED)
            if result.errno in (errno.ENOENT, errno.ENODEV):
                shares.gone(turn)
                continue
            if result.errno not in (0, errno.EAGAIN, errno.EINTR):
                return failed(path, result.errno)
            least = min(_NOTICEABLE_PAGES, turn.amount_bytes // self._page)
            moved = self._moved_pages() - before >= least
            shares.told(turn, moved=moved)
            if moved:
                left_bytes -= turn.amount_bytes
                again = again or result.errno != 0
            else:
                passed.add(turn.path)
        if left_bytes < budget.amount_bytes:
            return Outcome(Status.AGAIN if again else Status.OK, knows_its_end=True)
        if shares.next(step, self._page, set()) is None:
            return Outcome(Status.EXHAUSTED, "nothing more gives way beside what rules keep")
        # perhaps writeback is still under way
        return Outcome(Status.WAIT, "nothing gave way yet", wait_seconds=_AGAIN_SECONDS)

    def _moved_pages(self) -> int:
        """Pages that were freed or sent to swap so far: answers of reclaim do not tell."""
        counters = read_vmstat(self._root)
        return counters.pgsteal_anon + counters.pgsteal_file + counters.pswpout

    def _swappiness(self, kind: Kind, features: frozenset[str]) -> str:
        if "swappiness" not in features:
            value = "0" if kind is Kind.FILE else "200"
            self._set_knob(SWAPPINESS_FILE, value, f"so that reclaim takes {kind} memory only")
            return ""
        if kind is Kind.FILE:
            return " swappiness=0"
        # 200 falls back to the cache when anon yields nothing; by then the cache stage is over.
        return " swappiness=max" if "swappiness-max" in features else " swappiness=200"
