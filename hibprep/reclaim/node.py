# SPDX-License-Identifier: LGPL-2.1-or-later
"""Back-end `node`: /sys/devices/system/node/node*/reclaim, for hosts without cgroup v2 memory.

Documentation/ABI/stable/sysfs-devices-node; since 6.17. Takes the same words as memory.reclaim.
Its trap: `__node_reclaim()` does nothing at all, anon included, on a node whose unmapped page cache
and reclaimable slab are below vm.min_unmapped_ratio and vm.min_slab_ratio; so those two are held
at 0 while a plan uses it (a plan's `knobs`).
"""

from __future__ import annotations

import errno

from hibprep.kernel.root import KernelRoot
from hibprep.model import BackendName, Capability, Kind, Step
from hibprep.reclaim.base import Budget, Outcome, Status, Stop, Worker, failed

NODES = "/sys/devices/system/node"
SINCE = "6.17"
_SUFFIX = {Kind.FILE: " swappiness=0", Kind.ANON: " swappiness=max", Kind.ANY: ""}


class Node:
    """A chunk is shared out among the nodes that still give something."""

    name = BackendName.NODE

    def __init__(self, root: KernelRoot, worker: Worker) -> None:
        self._root = root
        self._worker = worker
        self._next = 0

    def probe(self) -> Capability:
        """Look for the files."""
        files = self._files()
        if not files:
            reason = f"no {NODES}/node*/reclaim: a kernel from {SINCE} on with CONFIG_NUMA has it"
            return Capability(self.name, available=False, reason=reason, since=SINCE)
        if not self._root.writable(files[0]):
            reason = f"{files[0]} cannot be written: be root, with /sys not mounted read-only"
            return Capability(self.name, available=False, reason=reason, since=SINCE)
        return Capability(self.name, available=True, reason="node reclaim", since=SINCE)

    def _files(self) -> list[str]:
        names = sorted(self._root.listdir(NODES)) if self._root.is_dir(NODES) else []
        paths = [f"{NODES}/{name}/reclaim" for name in names if name.startswith("node")]
        return [path for path in paths if self._root.exists(path)]

    def prime(self, step: Step, stop: Stop) -> None:
        """Nothing to begin early."""

    def run(self, step: Step, budget: Budget, stop: Stop) -> Outcome:
        """Ask one node, the next one the next time."""
        files = self._files()
        suffix = _SUFFIX.get(step.kind)
        if suffix is None or not files:
            return Outcome(Status.FAILED, f"node reclaim cannot free memory of kind {step.kind}")
        path = files[self._next % len(files)]
        self._next += 1
        result = self._worker.write(path, f"{budget.amount_bytes}{suffix}", stop)
        if result.stopped:
            return Outcome(Status.STOPPED)
        if result.errno in (errno.EAGAIN, errno.EINTR, errno.EBUSY):
            return Outcome(Status.AGAIN)
        if result.errno:
            return failed(path, result.errno)
        return Outcome(Status.OK)
