# SPDX-License-Identifier: LGPL-2.1-or-later
"""What is cold: reads the generations of the multi-gen LRU, and ages memory for it when asked.

Reading changes nothing and says what was found out by whoever began the generations there are: the
kernel when it was short of memory, hibprep. Aging looks at all page tables, three times over the
time that is asked about: what is in the oldest generation after it was not touched in that time.
Four generations are all there are, so whatever was known of longer times is lost by it.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import dataclass, replace
from functools import partial

from hibprep import fitting
from hibprep.clock import Clock
from hibprep.cold_report import VERSION, ColdReport, colder_than
from hibprep.coldness import DAMON_STAT_HIDES, histogram
from hibprep.errors import NotPossibleError
from hibprep.kernel import lrugen
from hibprep.kernel.damon_around import STAT_ENABLED, stat_runs
from hibprep.kernel.knobs import KnobJournal, knob_name
from hibprep.kernel.lock import RunLock
from hibprep.kernel.root import KernelRoot
from hibprep.machine import Machine, snapshot_of
from hibprep.model import Ending, GenerationList, Scope
from hibprep.reclaim.aging import Aging, is_closed
from hibprep.reclaim.base import Stop, Worker
from hibprep.reclaim.worker import ProcessWorker
from hibprep.rules import covers

AGINGS = 3  # as many edges as four generations have
_GRAIN_SECONDS = 0.02  # ages are told in jiffies: two of the longest
_REASON = "the multi-gen LRU is built into this kernel and switched off"


@dataclass(frozen=True, slots=True)
class Aged:
    """What aging came to: how often, and what a round took of one CPU. `known_seconds` ago the
    multi-gen LRU was switched on for it; None where it was on."""

    agings: int = 0
    round_seconds: float = 0.0
    known_seconds: float | None = None


def run(
    machine: Machine,
    scope: Scope,
    stop: Stop,
    *,
    age_seconds: float | None = None,
    older_than_seconds: float | None = None,
) -> ColdReport:
    """What is known of the ages of `scope`; with `age_seconds` it is found out now, which takes as
    long. Raised, `stop` ends that at once, with what is known by then.

    Raises NotPossibleError where there is no multi-gen LRU to ask, where it is switched off and not
    to be aged, where aging might have a hibernation refused; LockedError while another hibprep is
    at work.
    """
    able = lrugen.capability(machine.root)
    if not able.available:
        raise NotPossibleError(f"the age of memory is not known here: {able.reason}")
    aged, words = Aged(), list(machine.recovered)
    if age_seconds is not None:
        if not fitting.safe_to_age(snapshot_of(machine, scope), machine.config.limits()):
            raise NotPossibleError(
                "memory is not aged: what was touched would count as active, and systemd would "
                "refuse to hibernate with more of it than swap",
                "make the swap larger, or leave --age out",
            )
        # A preparation must not have to wait for long ages to pass; but what was switched on or off
        # has to stay so, and only one may put it back.
        as_it_is = bool(lrugen.read_enabled(machine.root)) and not stat_runs(machine.root)
        with nullcontext() if as_it_is else RunLock(machine.root):
            journal = KnobJournal(machine.root)
            try:
                with closing(ProcessWorker(str(machine.root.prefix), machine.clock)) as worker:
                    aged, lists = age(
                        machine.root,
                        machine.clock,
                        worker,
                        journal.set,
                        path=scope.path,
                        seconds=age_seconds,
                        stop=stop,
                        lock=partial(RunLock, machine.root) if as_it_is else nullcontext,
                    )
            finally:
                changes = journal.pending()
                words += [
                    f"{knob_name(each.path)} was set to {each.value}: {each.reason}"
                    for each in changes
                ]
                words += journal.restore_all()
    elif lrugen.read_enabled(machine.root):
        lists = lists_of(machine.root, scope.path)
    else:
        raise NotPossibleError(
            f"the age of memory is not known: {_REASON}",
            "give --age SECONDS to have it switched on, and memory aged, for so long",
        )
    cgroups = histogram(lists, os.sysconf("SC_PAGE_SIZE"), known_seconds=aged.known_seconds)
    report = ColdReport(
        version=VERSION,
        taken=machine.clock.now().isoformat(timespec="seconds"),
        scope=str(scope),
        ending=Ending.DONE,
        reason="",
        aged_seconds=age_seconds or 0.0,
        agings=aged.agings,
        round_seconds=aged.round_seconds,
        older_than_seconds=older_than_seconds,
        colder=() if older_than_seconds is None else colder_than(cgroups, older_than_seconds),
        cgroups=cgroups,
        notes=tuple(words),
    )
    if stop.requested():
        return replace(report, ending=Ending.INTERRUPTED, reason=stop.reason)
    return report


def age(
    root: KernelRoot,
    clock: Clock,
    worker: Worker,
    set_knob: Callable[[str, str, str], None],
    *,
    path: str,
    seconds: float,
    stop: Stop,
    lock: Callable[[], AbstractContextManager[object]] = nullcontext,
) -> tuple[Aged, tuple[GenerationList, ...]]:
    """Age all lists of cgroup `path` and below three times in `seconds`, each time under `lock`;
    what they say after it."""
    was_on = bool(lrugen.read_enabled(root))
    if not was_on:
        set_knob(lrugen.ENABLED_FILE, "y", _REASON)
    if stat_runs(root):
        set_knob(STAT_ENABLED, "N", DAMON_STAT_HIDES)
    since = clock.monotonic()
    aging = Aging(worker, was_on=was_on)
    agings = 0
    for number in range(AGINGS):
        if number and stop.wait(seconds / (AGINGS - 1) + _GRAIN_SECONDS):
            break
        with lock():
            if not _age_once(root, aging, path, stop):
                break
        agings += 1
    lists = lists_of(root, path)
    known = None if was_on else clock.monotonic() - since
    return Aged(agings, aging.round_seconds, known), lists


def lists_of(root: KernelRoot, path: str) -> tuple[GenerationList, ...]:
    """The generations of cgroup `path` and of all below it."""
    return tuple(entry for entry in lrugen.read_generations(root) if covers(path, entry.path))


def _age_once(root: KernelRoot, aging: Aging, path: str, stop: Stop) -> bool:
    """One round; False when it was stopped."""
    for entry in lists_of(root, path):
        if not any(each.anon_pages + each.file_pages for each in entry.generations):
            continue
        result = aging.age(entry, stop)
        if result.stopped:
            return False
        if is_closed(result.errno):
            raise NotPossibleError(
                f"memory cannot be aged: {lrugen.GENERATIONS_FILE}: {os.strerror(result.errno)}",
                "be root, without kernel lockdown, with debugfs mounted",
            )
    return not stop.requested()
