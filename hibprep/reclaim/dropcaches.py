# SPDX-License-Identifier: LGPL-2.1-or-later
"""Back-end `dropcaches`: /proc/sys/vm/drop_caches (Documentation/admin-guide/sysctl/vm.rst).

The blunt tool: the whole machine, no amount, no regard for what is hot. For slab there is no other;
for the cache it is what remains where neither cgroup v2 nor node reclaim is to be had.
"""

from __future__ import annotations

from hibprep.kernel.root import KernelRoot
from hibprep.model import BackendName, Capability, Kind, Step
from hibprep.reclaim.base import Budget, Outcome, Status, Stop, Worker, failed

FILE = "/proc/sys/vm/drop_caches"
_VALUES = {Kind.FILE: "1", Kind.SLAB: "2", Kind.ANY: "3"}


class DropCaches:
    """1 drops clean, unmapped page cache, 2 reclaimable slab, 3 both."""

    name = BackendName.DROPCACHES

    def __init__(self, root: KernelRoot, worker: Worker) -> None:
        self._root = root
        self._worker = worker

    def probe(self) -> Capability:
        """Look whether the file is there and may be written."""
        if not self._root.exists(FILE):
            return Capability(self.name, available=False, reason=f"no {FILE}", since="2.6.16")
        if not self._root.writable(FILE):
            reason = f"{FILE} cannot be written: be root, with /proc/sys not mounted read-only"
            return Capability(self.name, available=False, reason=reason, since="2.6.16")
        return Capability(self.name, available=True, reason="drop_caches", since="2.6.16")

    def prime(self, step: Step, stop: Stop) -> None:
        """Nothing to begin early."""

    def run(self, step: Step, budget: Budget, stop: Stop) -> Outcome:  # noqa: ARG002
        """Drop all of the kind; a second chunk would find nothing more."""
        value = _VALUES.get(step.kind)
        if value is None:
            return Outcome(Status.FAILED, f"drop_caches cannot free memory of kind {step.kind}")
        result = self._worker.write(FILE, value, stop)
        if result.stopped:
            return Outcome(Status.STOPPED)
        if result.errno:
            return failed(FILE, result.errno)
        return Outcome(Status.EXHAUSTED, "dropped all that is clean and unused")
