# SPDX-License-Identifier: LGPL-2.1-or-later
"""Everything that an executor needs, on a fake machine whose time is its own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from hibprep import plan as planning
from hibprep.kernel.cgroup import find_cgroup2
from hibprep.kernel.snapshot import read_snapshot
from hibprep.model import (
    BackendName,
    Capability,
    Limits,
    Plan,
    Progress,
    Rates,
    Snapshot,
    Target,
)
from hibprep.prepare import set_knobs
from hibprep.reclaim.base import Backend, Stop, WriteResult
from hibprep.reclaim.coldpgs import ColdPgs
from hibprep.reclaim.damon import Damon
from hibprep.reclaim.dropcaches import DropCaches
from hibprep.reclaim.executor import Executor, Run, Settings
from hibprep.reclaim.lrugen import LruGen
from hibprep.reclaim.memcg import Memcg
from hibprep.reclaim.node import Node
from hibprep.reclaim.observe import Observer
from hibprep.reclaim.pressure import PressureGauge
from hibprep.reclaim.swapreclaim import SwapReclaim
from hibprep.reclaim.writeback import Writeback
from hibprep.stepknobs import StepKnobs
from tests.fakes.machine import FakeMachine, FakeRoot
from tests.fakes.state import PAGE


class FakeClock:
    """The machine's own time."""

    def __init__(self, machine: FakeMachine) -> None:
        self.machine = machine

    def monotonic(self) -> float:
        return self.machine.now

    def boottime(self) -> float:
        return self.machine.now

    def now(self) -> datetime:
        return datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=self.machine.now)


class FakeStop(Stop):
    """Waiting makes the machine's time pass and nothing else."""

    def __init__(self, machine: FakeMachine) -> None:
        super().__init__(FakeClock(machine))
        self._machine = machine

    def __del__(self) -> None:
        self.close()  # a property test makes thousands

    def wait(self, seconds: float) -> bool:
        remaining = self.remaining_seconds()
        if not self.requested() and seconds > 0:
            self._machine.advance(seconds if remaining is None else min(seconds, remaining))
        return self.requested()


@dataclass
class FakeWorker:
    """Writes at once; `before_write` sees every request first (and may stop the run)."""

    root: FakeRoot
    machine: FakeMachine
    before_write: Callable[[str, str], None] | None = None
    closed: bool = False
    requests: list[tuple[str, str]] = field(default_factory=list)

    def write(self, path: str, text: str, stop: Stop) -> WriteResult:
        if self.before_write is not None:
            self.before_write(path, text)
        if stop.requested():
            return WriteResult(errno=0, seconds=0.0, stopped=True)
        self.requests.append((path, text))
        begin = self.machine.now
        try:
            self.root.raw_write(path, text)
        except OSError as error:
            return WriteResult(errno=error.errno or 5, seconds=self.machine.now - begin)
        return WriteResult(errno=0, seconds=self.machine.now - begin)

    def sync(self, stop: Stop) -> WriteResult:
        if stop.requested():
            return WriteResult(errno=0, seconds=0.0, stopped=True)
        self.machine.sync()
        return WriteResult(errno=0, seconds=0.0)

    def pageout(self, pid: int, ranges: tuple[tuple[int, int], ...], stop: Stop) -> WriteResult:
        if stop.requested():
            return WriteResult(errno=0, seconds=0.0, stopped=True)
        try:
            return WriteResult(errno=0, seconds=0.0, value=self.machine.pageout(pid, ranges))
        except OSError as error:
            return WriteResult(errno=error.errno or 5, seconds=0.0)

    def swap_off(self, path: str, stop: Stop, watch: Callable[[], bool]) -> WriteResult:
        """A quarter of a GiB at a time, with a look in between as the real one has it."""
        while True:
            if stop.requested() or not watch():
                next(each for each in self.machine.swaps if each.path == path).leaving = False
                return WriteResult(errno=0, seconds=0.0, stopped=True)
            if self.before_write is not None:
                self.before_write(path, "swapoff")
            try:
                if self.machine.unuse(path, 1 << 28):
                    return WriteResult(errno=0, seconds=0.0)
            except OSError as error:
                return WriteResult(errno=error.errno or 5, seconds=0.0)

    def close(self) -> None:
        self.closed = True


class Harness:
    """A fake machine with the real back-ends and the real executor on it."""

    def __init__(self, machine: FakeMachine, limits: Limits | None = None) -> None:
        self.machine = machine
        self.root = FakeRoot(machine)
        self.limits = limits or Limits()
        self.worker = FakeWorker(self.root, machine)
        self.stop = FakeStop(machine)
        self.clock = FakeClock(machine)
        found = find_cgroup2(self.root)
        self.tree = found.tree
        self.knobs: dict[str, str] = {}
        backends: tuple[Backend, ...] = (
            Writeback(self.worker),
            Memcg(self.root, self.tree, self.worker, self.set_knob, absent_reason=found.reason),
            LruGen(self.root, self.tree, self.worker, PAGE),
            Node(self.root, self.worker),
            DropCaches(self.root, self.worker),
            ColdPgs(self.root, self.tree, self.worker, self.set_knob, PAGE),
            Damon(self.root, self.tree, self.worker, self.set_knob, self.clock),
            SwapReclaim(
                self.root, self.tree, self.worker, self.set_knob, absent_reason=found.reason
            ),
        )
        self.backends = {backend.name: backend for backend in backends}

    def set_knob(self, path: str, value: str, reason: str) -> None:
        assert reason
        self.knobs.setdefault(path, self.root.read(path).strip())
        self.root.write(path, value)

    def set(self, path: str, value: str, reason: str) -> None:
        self.set_knob(path, value, reason)

    def put_back(self, path: str) -> list[str]:
        self.root.write(path, self.knobs.pop(path))
        return []

    def capabilities(self) -> dict[BackendName, Capability]:
        return {name: backend.probe() for name, backend in self.backends.items()}

    def snapshot(self) -> Snapshot:
        return read_snapshot(self.root, self.tree)

    def plan(self, target: Target, rates: Rates | None = None) -> Plan:
        return planning.make(
            self.snapshot(), self.capabilities(), target, self.limits, rates or Rates()
        )

    def run(self, plan: Plan, progress: Callable[[Progress], None] | None = None) -> Run:
        set_knobs(plan, self.set_knob)
        executor = Executor(
            self.backends,
            observer=Observer(self.root, self.snapshot()),
            gauge=PressureGauge(self.root, self.tree, self.clock),
            clock=self.clock,
            limits=self.limits,
            settings=Settings(),
        )
        return executor.run(plan, self.stop, progress, StepKnobs(plan, self, []).enter)
