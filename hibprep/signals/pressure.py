# SPDX-License-Identifier: LGPL-2.1-or-later
"""When the work of others has to wait for memory or I/O: PSI triggers (Documentation/accounting/
psi.rst), with which the kernel wakes us up and nobody looks periodically.

Where there is no PSI, the counters of /proc/vmstat are compared whenever `refresh` is called. They
tell that allocations had to reclaim memory themselves, or that much was read again that had been
reclaimed, on the whole machine. They cannot tell for how long anyone waited, in which cgroup, nor
whether it was for hibprep itself; and nothing of I/O.
"""

from __future__ import annotations

import contextlib
import functools
import os
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from hibprep.clock import Clock
from hibprep.errors import KernelFileDenied, KernelFileError, KernelFileMissing
from hibprep.events import Pressure, SourceChanged, SourceName
from hibprep.kernel.cgroup import CgroupTree
from hibprep.kernel.psi import (
    StallCounters,
    open_trigger,
    pressure_file,
    read_stall_counters,
    try_pressure,
)
from hibprep.kernel.root import KernelRoot
from hibprep.signals.base import Emit
from hibprep.signals.priority import PriorityWatch, Watch, Watcher
from hibprep.signals.running import Running

RESOURCES = ("memory", "io")
SLICES = ("user.slice", "system.slice", "machine.slice")
MACHINE = "machine"

# rough: what a page costs whoever must look whether it can go, and whoever waits for it to be read
_SCAN_SECONDS = 20e-6
_REFAULT_SECONDS = 100e-6


class OpenTrigger(Protocol):
    """See `hibprep.kernel.psi.open_trigger`."""

    def __call__(
        self,
        root: KernelRoot,
        resource: str,
        directory: str = "",
        *,
        stall_seconds: float,
        window_seconds: float,
    ) -> int:
        """A descriptor that tells pressure."""


class _Place(NamedTuple):
    resource: str
    scope: str
    directory: str  # "" for the machine


@dataclass(slots=True)
class _Trigger:
    descriptor: int
    watch: Watch
    total_seconds: float | None
    at_seconds: float


def stalled_share(counters: StallCounters, seconds: float, threshold: float) -> float | None:
    """The share of `seconds` for which somebody waited for memory, guessed from what the counters
    have moved by; None when nobody did.

    It errs on the side of the work of others: that there was direct reclaim at all is taken for
    `threshold` at least, since a machine with enough memory has none.
    """
    scanning = counters.scanned_pages * _SCAN_SECONDS
    reading = counters.refaulted_pages * _REFAULT_SECONDS
    guess = min(1.0, max(0.0, (scanning + reading) / seconds)) if seconds > 0 else 0.0
    if counters.direct_reclaims > 0 or counters.scanned_pages > 0:
        return max(threshold, guess)
    return guess if guess > 0 and guess >= threshold else None


class PressureSource:
    """Tells when some task in a top-level slice was stalled for more than `share` of
    `window_seconds`; on the whole machine where there is no such slice in a cgroup v2 tree."""

    name = SourceName.PRESSURE

    def __init__(
        self,
        root: KernelRoot,
        tree: CgroupTree | None,
        clock: Clock,
        *,
        share: float = 0.10,
        window_seconds: float = 2.0,
        open_trigger: OpenTrigger = open_trigger,
        watch: Watcher = PriorityWatch,
    ) -> None:
        self._root = root
        self._tree = tree
        self._clock = clock
        self._share = share
        self._window_seconds = window_seconds
        self._open_trigger = open_trigger
        self._watch = watch
        self._running: Running | None = None
        self._triggers: dict[_Place, _Trigger] = {}
        self._why_not = ""
        self._told: SourceChanged | None = None
        self._counted: tuple[StallCounters, float] | None = None  # when there are no triggers

    async def run(self, emit: Emit) -> None:
        """Tell pressure until cancelled. That there is no PSI is told and not raised: the counters
        are better than nothing. Raises KernelFileError for a window that the kernel refuses."""
        running = self._running = Running(emit)
        try:
            self._settle()
            self._look_at_counters()
            await running.until_failed()
        finally:
            self._running = self._told = self._counted = None
            for place in list(self._triggers):
                self._close(place)

    def refresh(self) -> None:
        """Look for slices that came, and at the counters where there is no PSI; to be called now
        and then. Nothing is done while the source does not run. What goes wrong ends `run`."""
        if self._running is not None:
            self._running.attempt(self._refresh)

    def _refresh(self) -> None:
        self._settle()
        self._look_at_counters()

    def _look_at_counters(self) -> None:
        if self._triggers:
            self._counted = None
            return
        before, now = self._counted, self._clock.monotonic()
        counters = read_stall_counters(self._root)
        self._counted = (counters, now)
        if before is None:
            return
        moved = (max(0, new - old) for old, new in zip(before[0], counters, strict=True))
        share = stalled_share(StallCounters(*moved), now - before[1], self._share)
        if share is not None:
            self._emit(Pressure(resource="memory", scope=MACHINE, share=share))

    def _settle(self) -> None:
        """Have the triggers that can be had, and say so when that is news."""
        slices = self._slices()
        self._why_not = ""
        for place in slices:
            self._open(place)
        if any(place in self._triggers for place in slices):
            wanted = slices
        else:
            wanted = [_Place(resource, MACHINE, "") for resource in RESOURCES]
            for place in wanted:
                self._open(place)
        for place in self._triggers.keys() - set(wanted):
            self._close(place)
        self._tell()

    def _slices(self) -> list[_Place]:
        if self._tree is None:
            return []
        places = [
            _Place(resource, name, self._tree.directory(name))
            for name in SLICES
            for resource in RESOURCES
        ]
        return [each for each in places if self._root.exists(_file(each))]

    def _open(self, place: _Place) -> None:
        if place in self._triggers:
            return
        try:
            descriptor = self._open_trigger(
                self._root,
                place.resource,
                place.directory,
                stall_seconds=self._share * self._window_seconds,
                window_seconds=self._window_seconds,
            )
        except (KernelFileMissing, KernelFileDenied) as error:
            # gone meanwhile, switched off, or not ours to have; the first reason is the best one
            self._why_not = self._why_not or str(error)
            return
        try:
            watch = self._watch(descriptor, functools.partial(self._happened, place))
        except BaseException:
            os.close(descriptor)
            raise
        self._triggers[place] = _Trigger(
            descriptor, watch, self._total(place), self._clock.monotonic()
        )

    def _close(self, place: _Place) -> None:
        trigger = self._triggers.pop(place)
        trigger.watch.close()
        os.close(trigger.descriptor)

    def _happened(self, place: _Place, broken: bool) -> None:  # noqa: FBT001 - see Happened
        if self._running is not None and place in self._triggers:
            self._running.attempt(functools.partial(self._fired, place, gone=broken))

    def _fired(self, place: _Place, *, gone: bool) -> None:
        if gone:
            # opened again by `refresh` if it is there; at once might go round and round
            self._close(place)
            self._why_not = f"{_file(place)} is gone"
            self._tell()
            return
        trigger = self._triggers[place]
        before, began = trigger.total_seconds, trigger.at_seconds
        trigger.total_seconds, trigger.at_seconds = self._total(place), self._clock.monotonic()
        share = self._share
        if before is not None and trigger.total_seconds is not None:
            # over all the time since the last look: a lower bound, as the threshold is
            seconds = max(self._window_seconds, trigger.at_seconds - began)
            share = min(1.0, max(share, (trigger.total_seconds - before) / seconds))
        self._emit(Pressure(resource=place.resource, scope=place.scope, share=share))

    def _total(self, place: _Place) -> float | None:
        # gone in this moment, or unreadable: the share is not known more closely then
        with contextlib.suppress(KernelFileError):
            pressure = try_pressure(self._root, place.resource, place.directory)
            if pressure is not None:
                return pressure.some_total_seconds
        return None

    def _tell(self) -> None:
        if self._triggers:
            scopes = ", ".join(dict.fromkeys(place.scope for place in self._triggers))
            resources = " and ".join(dict.fromkeys(place.resource for place in self._triggers))
            reason = (
                f"stalls on {resources} of {self._share:.0%} of {self._window_seconds:g} s: "
                f"{scopes}"
            )
        else:
            reason = (
                f"{self._why_not or 'no pressure information'} (until then memory alone is "
                "watched, by the counters of /proc/vmstat)"
            )
        changed = SourceChanged(self.name, works=bool(self._triggers), reason=reason)
        if changed != self._told:
            self._told = changed
            self._emit(changed)

    def _emit(self, signal: Pressure | SourceChanged) -> None:
        if self._running is not None:
            self._running.emit(signal)


def _file(place: _Place) -> str:
    return pressure_file(place.resource, place.directory)
