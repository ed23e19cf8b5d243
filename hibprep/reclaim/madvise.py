# SPDX-License-Identifier: LGPL-2.1-or-later
"""Back-end `madvise`: process_madvise(2) with MADV_PAGEOUT on the anonymous memory of processes.

For kernels 5.10 to 5.18, which have no memory.reclaim, and for a single process on any kernel. It
pays no regard to what is hot, leaves alone what is mapped by more than one process, and cannot take
locked memory or huge pages: what it had to skip is told.
"""

from __future__ import annotations

import errno
from collections import deque

from hibprep.errors import KernelFileError
from hibprep.kernel import process
from hibprep.kernel.cgroup import CgroupTree
from hibprep.kernel.root import KernelRoot
from hibprep.model import BackendName, Capability, Kind, ScopeKind, Step
from hibprep.reclaim.base import Budget, Outcome, Status, Stop, Worker, failed

SINCE = "5.10"


class Madvise:
    """Walks the processes of the scope, a chunk of their address ranges at a time."""

    name = BackendName.MADVISE

    def __init__(
        self, root: KernelRoot, tree: CgroupTree | None, worker: Worker, own_pids: frozenset[int]
    ) -> None:
        self._root = root
        self._tree = tree
        self._worker = worker
        self._own_pids = own_pids
        self._step: Step | None = None
        self._queue: deque[tuple[int, int, int]] = deque()
        self._skipped_bytes = 0

    def probe(self) -> Capability:
        """Make the system call with a descriptor that is none: EBADF says that it is there."""
        try:
            process.process_madvise(-1, [(0, 4096)], process.MADV_PAGEOUT)
        except OSError as error:
            if error.errno == errno.EBADF and self._root.is_real:
                return Capability(self.name, available=True, reason="process_madvise", since=SINCE)
            reason = f"no process_madvise in this kernel ({error.strerror})"
            if not self._root.is_real:
                reason = "processes of another root cannot be reached"
            return Capability(self.name, available=False, reason=reason, since=SINCE)
        return Capability(self.name, available=True, reason="process_madvise", since=SINCE)

    def prime(self, step: Step, stop: Stop) -> None:
        """Nothing to begin early."""

    def run(self, step: Step, budget: Budget, stop: Stop) -> Outcome:
        """Page out the next ranges, up to the chunk's amount."""
        if step.kind not in (Kind.ANON, Kind.ANY):
            return Outcome(Status.FAILED, f"process_madvise cannot free memory of kind {step.kind}")
        if self._step != step:
            self._step, self._skipped_bytes = step, 0
            self._queue = deque(self._ranges(step))
        if not self._queue:
            note = "every range was asked for once"
            if self._skipped_bytes:
                note += f"; {self._skipped_bytes} bytes were skipped: locked, shared or gone"
            return Outcome(Status.EXHAUSTED, note, skipped_bytes=self._skipped_bytes)
        pid, chunk = self._next_chunk(self._queue, budget.amount_bytes)
        asked = sum(length for _, length in chunk)
        result = self._worker.pageout(pid, tuple(chunk), stop)
        if result.stopped:
            return Outcome(Status.STOPPED)
        if result.errno in (errno.ENOSYS, errno.EPERM):
            return failed(f"process_madvise of process {pid}", result.errno)
        # A short count: the range after the last advised one cannot be taken, or has gone.
        skipped = asked - (result.value if not result.errno else 0)
        self._skipped_bytes += skipped
        # Processes that have nothing to give say nothing of the next one in the queue.
        return Outcome(Status.OK, skipped_bytes=skipped, knows_its_end=True)

    @staticmethod
    def _next_chunk(
        queue: deque[tuple[int, int, int]], amount: int
    ) -> tuple[int, list[tuple[int, int]]]:
        """As many ranges of one process as the amount allows; the last one is split."""
        first_pid = queue[0][0]
        chunk: list[tuple[int, int]] = []
        while queue and queue[0][0] == first_pid and len(chunk) < process.MAX_RANGES:
            pid, start, length = queue.popleft()
            part = min(length, max(4096, amount))
            chunk.append((start, part))
            amount -= part
            if part < length:
                queue.appendleft((pid, start + part, length - part))
            if amount <= 0:
                break
        return first_pid, chunk

    def _ranges(self, step: Step) -> list[tuple[int, int, int]]:
        if step.scope.kind is ScopeKind.PROCESS:
            pids: tuple[int, ...] = (step.scope.pid,)
        elif step.scope.kind is ScopeKind.CGROUP and self._tree is not None:
            pids = self._tree.pids(step.scope.path)
        else:
            pids = process.all_pids(self._root)
        found: list[tuple[int, int, int]] = []
        left_alone = self._own_pids | self._spared_pids(step)
        for pid in pids:
            if pid in left_alone:
                continue
            try:
                ranges = process.pageout_ranges(self._root, pid)
                self._skipped_bytes += process.locked_bytes(self._root, pid)
            except KernelFileError:
                continue  # it ended meanwhile
            found.extend((pid, start, length) for start, length in ranges)
        return found

    def _spared_pids(self, step: Step) -> frozenset[int]:
        """The processes that a rule keeps: the system call knows no cgroups."""
        if self._tree is None:
            return frozenset()
        return frozenset(pid for path in step.spared for pid in self._tree.pids(path))
