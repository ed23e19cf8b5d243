# SPDX-License-Identifier: LGPL-2.1-or-later
"""One guest that is filled, prepared in one way or another, sent, and put back: one sample.

`bench/migrate.py` says which, keeps the samples, and makes the figures.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from bench.desktop import start_daemon
from bench.lab import Guest, Image, LabError, Workload
from bench.moves import (
    AHEAD,
    HAS_HIBPREP,
    REPORTS,
    SHARES,
    Cell,
    Condition,
    Load,
    Sample,
    Setting,
)
from bench.pacing import Pace, Paced
from bench.qmpdomain import QmpDomain, device_arguments
from bench.watching import HISTORY
from hibprep.clock import SystemClock
from hibprep.guests.balloon import Reserve
from hibprep.guests.estimate import Discard, as_it_is, prepared
from hibprep.guests.hardware import AGENT_CHANNEL, CHANNEL
from hibprep.guests.means import Means, real_means
from hibprep.guests.port import MemoryStats
from hibprep.guests.prepare import Options, prepare
from hibprep.guests.reporting import wait_reported
from hibprep.guests.statistics import fresh
from hibprep.guests.undo import UndoEnding, undo
from hibprep.guests.waiting import Uninterrupted, until
from hibprep.kernel.root import KernelRoot

MIB = 1 << 20
GIB = 1 << 30
RECIPE = "agent"
PREPARE_SECONDS = 240.0  # at most, in an emulated guest
REPORTED_SECONDS = 30.0
# QEMU's size in memory is what hibprep's estimate goes by: an emulator's own is not to hide it.
TRANSLATED_BYTES = 32 * MIB
ON_REQUEST = '[daemon]\npolicy = "on-request"\n'
# The policy that it has by itself, to the smallest, and with no more patience than a measurement
# has. All that proves cold goes; the rest of anonymous memory stays.
WHILE_IDLE = """
[daemon]
policy = "idle"

[target]
kind = "min"

[idle]
after_seconds = 5
sync_after_seconds = 5
cache_after_seconds = 5
cold_anon_after_seconds = 5
anon_after_seconds = 604800
cpu_idle_percent = 0
blind_seconds = 0
"""
AHEAD_SECONDS = 300.0  # at most, in an emulated guest
_LOOK_SECONDS = 5.0
QUIET_SECONDS = 10.0  # how the paced program does alone

_CALM_SECONDS = 120.0  # for what takes a moment on an emulated processor

# what hibprep's estimate is asked before it: by what, and whether the caches go
_FORETOLD: Mapping[Condition, tuple[Discard, bool]] = MappingProxyType(
    {
        Condition.BALLOON: (Discard.BALLOON, False),
        Condition.REPORTING: (Discard.REPORTING, True),
        Condition.HIBPREP: (Discard.BALLOON, True),
        Condition.HIBPREP_REPORTING: (Discard.REPORTING, True),
        Condition.AHEAD: (Discard.BALLOON, True),
        Condition.AHEAD_REPORTING: (Discard.REPORTING, True),
    }
)


def measure_one(image: Image, wheel: Path, number: int, cell: Cell, setting: Setting) -> Sample:
    """A guest of its own, from boot to the comparison of every byte. All guests are alike: hibprep
    (its daemon runs) and the guest agent are in each, and used where the condition says so."""
    cache, cold = (int(share * setting.memory_bytes) // MIB * MIB for share in SHARES[cell.load])
    reporting = cell.condition in REPORTS
    with Guest(
        image,
        memory_bytes=setting.memory_bytes,
        swap_bytes=setting.memory_bytes,
        root_bytes=image.root.stat().st_size + cache + GIB,
        disk_bytes_per_second=setting.disk_bytes_per_second,
        qemu_arguments=device_arguments(reporting=reporting),
        ports=(AGENT_CHANNEL, CHANNEL),
        translated_bytes=TRANSLATED_BYTES,
    ) as guest:
        guest.start()
        guest.install(wheel)
        ahead = cell.condition in AHEAD
        if not ahead:
            start_daemon(guest, ON_REQUEST)
        load = Workload(guest, cold_bytes=cold, read_bytes=cache, slice_name="system.slice")
        load.start()
        paced = Paced(guest) if cell.load is Load.BUSY else None
        guest.run(["sync"], timeout=_CALM_SECONDS, check=True)
        if ahead:  # by now: before, there was nothing to prepare
            start_daemon(guest, WHILE_IDLE)
            _wait_until_prepared(guest)
        time.sleep(setting.settle_seconds)
        has_hibprep = cell.condition in HAS_HIBPREP
        domain = QmpDomain(
            guest,
            reporting=reporting,
            agent=has_hibprep,
            channel=guest.port(CHANNEL) if has_hibprep else None,
        )
        return _Moving(guest, domain, cell, setting).sample(number, load, paced)


class _Moving:
    """What is done with one guest that is filled."""

    def __init__(self, guest: Guest, domain: QmpDomain, cell: Cell, setting: Setting) -> None:
        self._guest, self._domain, self._cell, self._setting = guest, domain, cell, setting
        self._means: Means = real_means(KernelRoot(), "bench", Uninterrupted())
        self._reserve = Reserve(fixed_bytes=cell.reserve_bytes)

    def sample(self, number: int, load: Workload, paced: Paced | None) -> Sample:
        domain, guest = self._domain, self._guest
        domain.set_migrate_bandwidth(self._setting.bytes_per_second)
        kills = self._oom_kills()
        ahead_seconds = self._ahead_seconds() if self._cell.condition in AHEAD else None
        predicted = self._foretold()
        self._as_before_asking()
        quiet = _quiet(paced)
        began = time.monotonic()
        ending = self._prepare()
        prepare_seconds = time.monotonic() - began
        during = None if paced is None else paced.pace()
        stats = self._fresh()
        estimated = self._as_it_is(stats)
        sent = domain.send()
        began = time.monotonic()
        undone = undo(domain, self._means)
        undo_seconds = time.monotonic() - began
        back = domain.memory_stats().actual_bytes
        return Sample(
            round=number,
            condition=self._cell.condition,
            load=self._cell.load,
            reserve_bytes=self._cell.reserve_bytes,
            accelerator=guest.accelerator,
            predicted_bytes=predicted,
            estimated_bytes=estimated,
            prepare_seconds=prepare_seconds,
            ending=ending,
            actual_bytes=stats.actual_bytes,
            unused_bytes=stats.unused_bytes or 0,
            usable_bytes=stats.usable_bytes or 0,
            rss_bytes=stats.rss_bytes or 0,
            sent_bytes=sent.bytes,
            normal_pages=sent.normal_pages,
            zero_pages=sent.zero_pages,
            rounds=sent.rounds,
            migrate_seconds=sent.seconds,
            downtime_seconds=sent.downtime_seconds,
            undo_seconds=undo_seconds,
            undone=undone.ending in (UndoEnding.DONE, UndoEnding.NOTHING)
            and back == guest.memory_bytes,
            oom_kills=self._oom_kills() - kills,
            intact=bool(load.verify()["ok"]),
            quiet_pieces_per_second=None if quiet is None else quiet.pieces_per_second,
            quiet_piece_seconds=None if quiet is None else quiet.piece_seconds,
            pieces_per_second=None if during is None else during.pieces_per_second,
            piece_seconds=None if during is None else during.piece_seconds,
            ahead_seconds=ahead_seconds,
        )

    def _prepare(self) -> str:
        """Do what the condition says; how it ended, in words."""
        condition = self._cell.condition
        if condition is Condition.NOTHING:
            return "nothing was done"
        if condition in (Condition.DROPCACHES, Condition.REPORTING):
            argv = ["sysctl", "-q", "vm.drop_caches=3"]
            self._guest.run(argv, timeout=_CALM_SECONDS, check=True)
            if condition is Condition.DROPCACHES:
                return "caches were dropped"
            means = self._means
            reported = wait_reported(
                self._domain, clock=means.clock, stop=means.stop, seconds=REPORTED_SECONDS
            )
            return f"{reported.given_back_bytes} bytes reported"
        options = Options(
            reserve=self._reserve,
            timeout_seconds=PREPARE_SECONDS,
            guest_seconds=PREPARE_SECONDS / 2,
            bytes_per_second=self._setting.bytes_per_second,
            while_it_pays=self._setting.while_it_pays,
        )
        report = prepare(self._domain, options, self._means, lambda _: None)
        used = [rung.name for rung in report.rungs if rung.used]
        asked = any(rung.guest_report for rung in report.rungs)
        if condition in HAS_HIBPREP and not (asked or options.while_it_pays):
            raise LabError(f"hibprep in the guest did nothing: {[str(x) for x in report.rungs]}")
        return f"{', '.join(used)}: {report.ending}: {report.reason}"

    def _foretold(self) -> int:
        """What hibprep says will be sent, before anything is done."""
        stats = self._fresh()
        if self._cell.condition not in _FORETOLD:
            return self._as_it_is(stats)
        discard, trimmed = _FORETOLD[self._cell.condition]
        info = self._domain.info()
        found = prepared(
            stats,
            info.hardware,
            info.maximum_bytes,
            discard=discard,
            trimmed=trimmed,
            reserve=self._reserve,
            content_bytes=self._domain.content_bytes(),
        )
        if found is None:
            raise LabError("the guest tells no statistics")
        return found.sent_bytes

    def _as_before_asking(self) -> None:
        """A guest of libvirt's tells no statistics before it is prepared, and did not in the same
        second of the host's clock, which is all that a telling is stamped with."""
        self._domain.set_stats_period(0)
        told = self._domain.memory_stats().last_update
        until(
            lambda: True if time.time() >= told + 1 else None,
            clock=self._means.clock,
            stop=self._means.stop,
            seconds=2.0,
        )

    def _as_it_is(self, stats: MemoryStats) -> int:
        info = self._domain.info()
        content = self._domain.content_bytes()
        return as_it_is(stats, info.hardware, info.maximum_bytes, content_bytes=content).sent_bytes

    def _fresh(self) -> MemoryStats:
        means = self._means
        found = fresh(self._domain, clock=means.clock, stop=means.stop, at_once=True)
        if found is None:
            raise LabError(f"the guest tells no statistics\n{self._guest.console_tail()}")
        return found

    def _ahead_seconds(self) -> float:
        """By what the daemon in the guest has written down of its runs."""
        return float(sum(run["seconds"] for run in _runs(self._guest)))

    def _oom_kills(self) -> int:
        for line in self._guest.read("/proc/vmstat").splitlines():
            name, _, value = line.partition(" ")
            if name == "oom_kill":
                return int(value)
        raise LabError("the guest's kernel does not count what it kills for want of memory")


def _runs(guest: Guest) -> list[Mapping[str, Any]]:
    """What hibprep in the guest has written down of its runs so far."""
    answer = guest.run(["cat", str(HISTORY)], timeout=_CALM_SECONDS)
    return [json.loads(line) for line in answer.text.splitlines()] if answer.returncode == 0 else []


def _wait_until_prepared(guest: Guest) -> None:
    """Until the guest's own hibprep has had its one run."""
    done = until(
        lambda: _runs(guest) or None,
        clock=SystemClock(),
        stop=Uninterrupted(),
        seconds=AHEAD_SECONDS,
        every_seconds=_LOOK_SECONDS,
    )
    if done is None:
        raise LabError(f"the guest did not prepare itself\n{guest.console_tail()}")


def _quiet(paced: Paced | None) -> Pace | None:
    """How the paced program does when nothing else happens."""
    if paced is None:
        return None
    paced.pace()  # what was before does not count
    time.sleep(QUIET_SECONDS)
    return paced.pace()
