# SPDX-License-Identifier: LGPL-2.1-or-later
"""Back-end `memcg`: the `memory.reclaim` file of any cgroup, the root included.

Documentation/admin-guide/cgroup-v2.rst; in the kernel since 5.19, on the root too. Which kind of
memory is taken is said in three ways by three generations of kernels: `swappiness=max` (6.16),
`swappiness=0..200` (6.11), and before that only by the global vm.swappiness, which is changed for
the length of a step by way of the knob journal.
"""

from __future__ import annotations

import errno
from collections.abc import Callable

from hibprep.errors import KernelFileError
from hibprep.kernel.cgroup import CgroupTree
from hibprep.kernel.root import KernelRoot
from hibprep.model import BackendName, Capability, Kind, ScopeKind, Step
from hibprep.reclaim.base import Budget, Outcome, Status, Stop, Worker, failed

SWAPPINESS_FILE = "/proc/sys/vm/swappiness"
SINCE = "5.19"


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
        text = str(budget.amount_bytes)
        if step.kind in (Kind.FILE, Kind.ANON):
            text += self._swappiness(step.kind, capability.features)
        path = self._tree.file(step.scope.path, "memory.reclaim")
        result = self._worker.write(path, text, stop)
        if result.stopped:
            return Outcome(Status.STOPPED)
        if result.errno in (errno.ENOENT, errno.ENODEV):
            return Outcome(Status.GONE, f"the cgroup {step.scope.path} is no more")
        if result.errno in (errno.EAGAIN, errno.EINTR):
            return Outcome(Status.AGAIN)
        if result.errno:
            return failed(path, result.errno)
        return Outcome(Status.OK)

    def _swappiness(self, kind: Kind, features: frozenset[str]) -> str:
        if "swappiness" not in features:
            value = "0" if kind is Kind.FILE else "200"
            self._set_knob(SWAPPINESS_FILE, value, f"so that reclaim takes {kind} memory only")
            return ""
        if kind is Kind.FILE:
            return " swappiness=0"
        # 200 falls back to the cache when anon yields nothing; by then the cache stage is over.
        return " swappiness=max" if "swappiness-max" in features else " swappiness=200"
