# SPDX-License-Identifier: LGPL-2.1-or-later
"""What one run works with: back-ends, the process that writes, the journal of settings. Nothing of
it is left when the run is over."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from hibprep.kernel.knobs import KnobJournal
from hibprep.machine import Machine, snapshot_of
from hibprep.model import (
    BackendName,
    Capability,
    Limits,
)
from hibprep.reclaim.base import Backend, Worker
from hibprep.reclaim.coldpgs import ColdPgs
from hibprep.reclaim.damon import Damon
from hibprep.reclaim.dropcaches import DropCaches
from hibprep.reclaim.executor import Executor, Settings
from hibprep.reclaim.lrugen import LruGen
from hibprep.reclaim.madvise import Madvise
from hibprep.reclaim.memcg import Memcg
from hibprep.reclaim.node import Node
from hibprep.reclaim.observe import Observer
from hibprep.reclaim.pressure import PressureGauge
from hibprep.reclaim.swapreclaim import SwapReclaim
from hibprep.reclaim.worker import ProcessWorker
from hibprep.reclaim.writeback import Writeback
from hibprep.stepknobs import words_of
from hibprep.zramrun import WriteBack


def capabilities(machine: Machine) -> tuple[Capability, ...]:
    """What every back-end says of this kernel."""
    worker = ProcessWorker(str(machine.root.prefix))
    return tuple(backend.probe() for backend in _backends(machine, worker, _no_knob).values())


@dataclass(frozen=True, slots=True)
class Session:
    """What one run works with."""

    executor: Executor
    observer: Observer
    journal: KnobJournal
    write_back: WriteBack


@contextmanager
def session(machine: Machine, limits: Limits, knob_words: list[str]) -> Iterator[Session]:
    """The worker and the journal for one run; both are closed whatever happens in it, the worker
    first: nothing may write to the kernel any more when the settings go back. One that is kept has
    nothing to do then, or was killed by the stop."""
    worker = machine.worker or ProcessWorker(str(machine.root.prefix), machine.clock)
    journal = KnobJournal(machine.root)
    base = snapshot_of(machine, limits.scope)
    observer = Observer(machine.root, base)
    backends = _backends(machine, worker, journal.set)
    executor = Executor(
        backends,
        observer=observer,
        gauge=PressureGauge(machine.root, machine.tree, machine.clock),
        clock=machine.clock,
        limits=limits,
        settings=Settings(
            chunk_seconds=machine.config.reclaim.chunk_seconds,
            pressure_limit=machine.config.reclaim.pressure_limit_percent / 100,
        ),
    )
    try:
        write_back = WriteBack(
            machine.root, worker, journal.set, machine.clock, machine.config.reclaim.chunk_seconds
        )
        yield Session(executor, observer, journal, write_back)
    finally:
        try:
            if worker is not machine.worker:
                worker.close()
        finally:
            for backend in backends.values():
                if isinstance(backend, Damon):
                    knob_words += backend.close()
            changed = [words_of(change) for change in journal.pending()]
            knob_words += [*changed, *journal.restore_all()]


def _backends(
    machine: Machine, worker: Worker, set_knob: Callable[[str, str, str], None]
) -> Mapping[BackendName, Backend]:
    root, tree = machine.root, machine.tree
    found: tuple[Backend, ...] = (
        Writeback(worker),
        Memcg(root, tree, worker, set_knob, absent_reason=machine.tree_reason),
        LruGen(root, tree, worker, os.sysconf("SC_PAGE_SIZE")),
        Node(root, worker),
        DropCaches(root, worker),
        Madvise(root, tree, worker, frozenset({os.getpid(), os.getppid()})),
        Damon(root, tree, worker, set_knob, machine.clock),
        ColdPgs(root, tree, worker, set_knob, os.sysconf("SC_PAGE_SIZE")),
        SwapReclaim(root, tree, worker, set_knob, absent_reason=machine.tree_reason),
    )
    return {backend.name: backend for backend in found}


def _no_knob(path: str, value: str, reason: str) -> None:
    raise NotImplementedError(f"{path} = {value} ({reason}): a probe changes no settings")
