# SPDX-License-Identifier: LGPL-2.1-or-later
"""Back-end `swapreclaim`: the `memory.swap.reclaim` file of a cgroup, for kernels that carry the
patches "Opportunistic memory reclaim" (Andrea Righi, RFC v2, linux-mm, October 2020). Mainline took
memory.reclaim instead, in 5.19.

For all its name it reclaims memory: it drops clean page cache and swaps out anonymous memory of the
cgroup and all below it, as vm.swappiness says. A write answers success whatever came of it, also
when a signal ended it between two rounds; what it came to is read back from the file. "max" in it
is without bound, so the amount is said chunk by chunk here.
"""

from __future__ import annotations

import errno
from collections.abc import Callable

from hibprep.errors import KernelFileError
from hibprep.kernel.cgroup import CgroupTree
from hibprep.kernel.root import KernelRoot
from hibprep.kernel.text import unsigned
from hibprep.model import BackendName, Capability, Kind, ScopeKind, Step
from hibprep.reclaim.base import Budget, Outcome, Status, Stop, Worker, failed
from hibprep.reclaim.memcg import SWAPPINESS_FILE
from hibprep.rules import reach

FILE = "memory.swap.reclaim"
SINCE = "5.9 (RFC)"
# Memory that is being written to swap is freed by a later round: 0 once is not the end.
_FRUITLESS_WRITES = 3
_AGAIN_SECONDS = 0.05
_SWAPPINESS = {Kind.FILE: "0", Kind.ANON: "200"}


class SwapReclaim:
    """One write a chunk, in turn to the cgroups that may be asked. `set_knob(path, value, reason)`
    journals a setting that is put back when the run ends."""

    name = BackendName.SWAPRECLAIM

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
        self._step: Step | None = None
        self._fruitless: dict[str, int] = {}
        self._told_bytes = 0

    def probe(self) -> Capability:
        """Look for the root's file; nothing is written."""
        path = self._tree.file("/", FILE) if self._tree else ""
        reason = "memory.swap.reclaim, its kind of memory chosen by vm.swappiness"
        available = False
        if self._tree is None:
            reason = self._absent_reason
        elif not self._root.exists(path):
            reason = f"no {path}: it was proposed in 2020; mainline has memory.reclaim, from 5.19"
        elif not self._root.writable(path):
            reason = f"{path} cannot be written: be root"
        else:
            available = True
        return Capability(self.name, available=available, reason=reason, since=SINCE)

    def prime(self, step: Step, stop: Stop) -> None:
        """Nothing to begin early."""

    def run(self, step: Step, budget: Budget, stop: Stop) -> Outcome:
        """Ask for one chunk, and read back what it came to."""
        if self._tree is None:
            return Outcome(Status.FAILED, self._absent_reason)
        if step.scope.kind is ScopeKind.PROCESS:
            return Outcome(Status.FAILED, f"{FILE} works on cgroups, not on a process")
        if step.kind is Kind.SLAB:
            return Outcome(Status.FAILED, f"{FILE} cannot free kernel objects alone")
        if stop.requested():
            return Outcome(Status.STOPPED)
        if self._step != step:
            self._step, self._fruitless, self._told_bytes = step, {}, 0
        try:
            if step.kind in _SWAPPINESS:
                words = f"so that reclaim takes {step.kind} memory only"
                self._set_knob(SWAPPINESS_FILE, _SWAPPINESS[step.kind], words)
            return self._chunk(step, budget, stop, self._tree)
        except KernelFileError as error:
            return Outcome(Status.FAILED, str(error))

    def _chunk(self, step: Step, budget: Budget, stop: Stop, tree: CgroupTree) -> Outcome:
        named = reach(step.scope.path, step.spared, tree)
        beside = named != [step.scope.path]
        for path in sorted(named, key=lambda each: self._fruitless.get(each, 0)):
            if self._fruitless.get(path, 0) >= _FRUITLESS_WRITES:
                break
            amount = budget.amount_bytes
            if beside:  # reclaim that names a cgroup passes over that cgroup's own protection
                amount = min(amount, tree.losable_bytes(path, to_swap=False, low=True))
            if amount <= 0:
                self._fruitless[path] = _FRUITLESS_WRITES
                continue
            return self._ask(path, amount, stop, tree)
        words = f"nothing more gives way; the file told of {self._told_bytes} bytes in all"
        return Outcome(Status.EXHAUSTED, words)

    def _ask(self, path: str, amount: int, stop: Stop, tree: CgroupTree) -> Outcome:
        file = tree.file(path, FILE)
        result = self._worker.write(file, f"{amount}\n", stop)
        if result.stopped:
            return Outcome(Status.STOPPED)
        if result.errno in (errno.ENOENT, errno.ENODEV):
            self._fruitless[path] = _FRUITLESS_WRITES
            return Outcome(Status.OK, knows_its_end=True)
        if result.errno:
            return failed(file, result.errno)
        told = unsigned(self._root.read(file).strip(), file)
        self._told_bytes += told
        if told:
            self._fruitless[path] = 0
            return Outcome(Status.OK, knows_its_end=True)
        self._fruitless[path] = self._fruitless.get(path, 0) + 1
        return Outcome(Status.WAIT, "nothing gave way yet", wait_seconds=_AGAIN_SECONDS)
