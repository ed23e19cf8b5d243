# SPDX-License-Identifier: LGPL-2.1-or-later
"""Back-end `writeback`: dirty pages written to their files, as the hibernation itself would do."""

from __future__ import annotations

from hibprep.model import BackendName, Capability, Step
from hibprep.reclaim.base import Budget, Outcome, Status, Stop, Worker


class Writeback:
    """sync(2), once; there is no smaller portion of it that covers all file systems."""

    name = BackendName.WRITEBACK

    def __init__(self, worker: Worker) -> None:
        self._worker = worker

    def probe(self) -> Capability:
        """Every kernel has it."""
        return Capability(self.name, available=True, reason="sync(2)", since="always")

    def prime(self, step: Step, stop: Stop) -> None:
        """Nothing to begin early."""

    def run(self, step: Step, budget: Budget, stop: Stop) -> Outcome:  # noqa: ARG002
        """Write everything back; the amount cannot be bounded, but the wait for it can."""
        result = self._worker.sync(stop)
        if result.stopped:
            return Outcome(Status.STOPPED)
        return Outcome(Status.EXHAUSTED, "all written")
