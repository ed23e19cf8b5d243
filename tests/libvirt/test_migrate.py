# SPDX-License-Identifier: LGPL-2.1-or-later
"""Migrating and saving between two real libvirtd, with what can go wrong on the way."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from bench.lab.rig import Rig
from bench.lab.rig_host import RigHost
from bench.lab.workload_client import Workload
from hibprep.clock import SystemClock
from hibprep.errors import ExitCode
from hibprep.guestcare import GuestCare
from hibprep.guestjobs import GuestJobs
from hibprep.guests.connection import connect
from hibprep.guests.means import Means, real_means
from hibprep.guests.migrate import MigrateWish, migrate
from hibprep.guests.move_report import MoveReport, Where
from hibprep.guests.port import MigrateOptions
from hibprep.guests.prepare import Options, prepare
from hibprep.guests.progress import MoveProgress, Part
from hibprep.guests.save import SaveWish, save
from hibprep.guests.sides import Side
from hibprep.guests.undo import UndoEnding, undo
from hibprep.kernel.root import KernelRoot
from hibprep.reclaim.base import Stop
from hibprep.signals.guests import Guests, GuestsLostError
from tests.libvirt.checks import CACHE_MIB, assert_as_before, fill_cache, full_size, recorded
from tests.listening import until_told

if TYPE_CHECKING:
    from tests.libvirt.conftest import NewGuest
    from tests.libvirt.rig_guest import RigGuest

MIB = 1 << 20
SLOW = 1 * MIB  # a second: such a migration can be caught on its way
ROUND_TRIPS = 10


class Move:
    """One migration of a test. `on_way` is called once it is under way."""

    def __init__(self, guest: RigGuest, to: RigHost) -> None:
        self.guest, self.to = guest, to
        self.stop = Stop()
        self.on_way: Callable[[], None] = lambda: None
        self._begun = threading.Event()

    def run(self, *, bandwidth: int = 0, limit_seconds: float | None = None) -> MoveReport:
        source, destination = Side(self.guest.host.uri, connect), Side(self.to.uri, connect)
        wish = MigrateWish(
            options=MigrateOptions(
                migrate_uri=self.guest.migrate_uri(self.to),
                persist_destination=True,
                undefine_source=True,
                bandwidth_bytes_per_second=bandwidth,
            ),
            # hosts of the rig are one machine, whose memory they share
            overcommit=True,
            limit_seconds=limit_seconds,
        )
        try:
            means = real_means(KernelRoot("/"), source.host().uuid(), self.stop)
            return migrate(self.guest.name, source, destination, wish, means=means, tell=self._tell)
        finally:
            source.close()
            destination.close()
            self.stop.close()

    def _tell(self, now: MoveProgress) -> None:
        if now.part is Part.MIGRATING and not self._begun.is_set():
            self._begun.set()
            self.on_way()


def test_ten_times_there_and_back(guest: RigGuest, rig: Rig) -> None:
    program = Workload(
        guest.resident, cold_bytes=64 * MIB, warm_bytes=16 * MIB, tmpfs_bytes=8 * MIB
    )
    program.start()
    guest.wait_for_agent()
    fill_cache(guest)
    reports = []
    with full_size(guest) as full:
        for _ in range(ROUND_TRIPS):
            for host in (rig.b, rig.a):
                report = Move(guest, host).run()
                assert report.exit_code is ExitCode.DONE, report
                assert report.where is Where.DESTINATION
                assert guest.arrived(host) == guest.identity
                assert_as_before(guest, full)
                reports.append(report)
            assert program.verify()["ok"]
            guest.wait_for_agent()
    first = reports[0]
    assert first.unprepared is not None
    assert first.prepared is not None
    assert first.job.memory_processed_bytes < first.unprepared.sent_bytes - CACHE_MIB * MIB // 2
    for report in reports:  # the figures that the lab measured
        sent, estimate = report.job.memory_processed_bytes, report.prepared
        assert estimate is not None
        print(  # noqa: T201
            f"sent {sent >> 20} MiB, estimated {estimate.sent_bytes >> 20}, as it was "
            f"{report.unprepared.sent_bytes >> 20 if report.unprepared else 0}; "
            f"{report.job.zero_pages} pages of zeros; {report.job.downtime_seconds} s still"
        )


@pytest.mark.smoke
def test_cancelled_half_way(guest: RigGuest, rig: Rig) -> None:
    move = Move(guest, rig.b)
    move.on_way = lambda: move.stop.request("interrupted by SIGINT")
    with full_size(guest):
        report = move.run(bandwidth=SLOW)
    assert report.exit_code is ExitCode.INTERRUPTED, report
    assert report.where is Where.SOURCE


def test_a_time_limit(guest: RigGuest, rig: Rig) -> None:
    with full_size(guest):
        report = Move(guest, rig.b).run(bandwidth=SLOW, limit_seconds=3)
    assert report.exit_code is ExitCode.PARTLY, report
    assert report.left == ()


def test_the_destination_loses_its_power(guest: RigGuest, rig: Rig) -> None:
    move = Move(guest, rig.b)
    move.on_way = rig.b.cut_power
    with full_size(guest):
        report = move.run(bandwidth=SLOW)
        assert guest.resident.read("/proc/uptime")
    assert report.where is Where.SOURCE, report
    assert report.left == ()
    assert report.exit_code is not ExitCode.DONE


def test_the_sources_libvirtd_is_killed_and_stays_away(guest: RigGuest, rig: Rig) -> None:
    full = guest.actual_bytes()
    move = Move(guest, rig.b)
    move.on_way = rig.a.kill_daemon
    report = move.run(bandwidth=SLOW)
    assert report.exit_code is ExitCode.PARTLY, report
    assert report.left[0].startswith(f"hibprep guest undo --connect {rig.a.uri} {guest.name} (")
    assert guest.resident.read("/proc/uptime")
    rig.a.start()
    side = Side(rig.a.uri, connect)
    means = real_means(KernelRoot("/"), side.host().uuid(), Stop())
    undone = undo(side.host().find(guest.name), means)
    side.close()
    assert undone.ending is UndoEnding.DONE, undone
    assert_as_before(guest, full)


def test_the_sources_libvirtd_is_killed_and_comes_back(guest: RigGuest, rig: Rig) -> None:
    def again() -> None:
        rig.a.kill_daemon()
        rig.a.start()

    move = Move(guest, rig.b)
    move.on_way = again
    with full_size(guest):
        report = move.run(bandwidth=SLOW)
    assert report.where is Where.SOURCE, report
    assert report.left == ()


def test_an_agent_that_hangs(guest: RigGuest, rig: Rig) -> None:
    guest.wait_for_agent()
    agent = guest.resident.run(["pidof", "qemu-ga"], check=True).stdout.decode().split()[0]
    guest.resident.run(["kill", "-STOP", agent], check=True)
    with full_size(guest):
        report = Move(guest, rig.b).run()
        assert report.exit_code is ExitCode.DONE, report
        guest.arrived(rig.b)
    guest.resident.run(["kill", "-CONT", agent], check=True)


def test_no_balloon(new_guest: NewGuest, rig: Rig) -> None:
    guest = new_guest(balloon=False)
    report = Move(guest, rig.b).run()
    assert report.exit_code is ExitCode.DONE, report
    assert "no virtio balloon" in report.notes[0]
    guest.arrived(rig.b)
    assert not recorded(guest)


def test_saved_and_started_by_others(guest: RigGuest, rig: Rig) -> None:
    guest.wait_for_agent()
    fill_cache(guest)
    full = guest.actual_bytes()
    side = Side(rig.a.uri, connect)
    means = real_means(KernelRoot("/"), side.host().uuid(), Stop())
    guest.resident.close()
    report = save(guest.name, side, SaveWish(), means=means, tell=lambda _: None)
    assert report.exit_code is ExitCode.DONE, report
    assert report.unprepared is not None
    assert report.job.memory_processed_bytes < report.unprepared.sent_bytes
    guest.domain.create()
    assert guest.arrived(rig.a) == guest.identity
    assert guest.actual_bytes() < full
    undone = undo(side.host().find(guest.name), means)
    side.close()
    assert undone.ending is UndoEnding.DONE, undone
    assert_as_before(guest, full)


def test_the_daemon_puts_back_what_virsh_has_moved(
    guest: RigGuest, rig: Rig, tmp_path: Path
) -> None:
    full = guest.actual_bytes()

    async def check() -> None:
        jobs = GuestJobs(str(tmp_path))

        def make_means(host_uuid: str) -> Means:
            return real_means(KernelRoot("/"), host_uuid, Stop())

        cares = [
            GuestCare(host.uri, connect, make_means, jobs, SystemClock()) for host in rig.hosts
        ]
        heard = [
            asyncio.create_task(Guests(KernelRoot("/"), host.uri, connect).run(care.hear))
            for host, care in zip(rig.hosts, cares, strict=True)
        ]
        try:
            await asyncio.to_thread(prepare_and_leave, guest, rig)
            await asyncio.to_thread(guest.move, rig.b)
            await until_told(lambda: not recorded(guest), "the record is removed")
            await until_told(lambda: jobs.entries()[0], "its job is kept")
            assert not any(task.done() for task in heard)
        finally:
            for task, care in zip(heard, cares, strict=True):
                task.cancel()
                care.close()
            await asyncio.wait(heard)
        # libvirt tells it on the source alone
        assert [each.operation for each in jobs.entries()[0]] == ["migration out"]

    asyncio.run(check())
    assert_as_before(guest, full)


def prepare_and_leave(guest: RigGuest, rig: Rig) -> None:
    """As `hibprep guest prepare`."""
    host = connect(rig.a.uri)
    means = real_means(KernelRoot("/"), host.uuid(), Stop())
    report = prepare(host.find(guest.name), Options(), means, lambda _: None)
    assert report.record_kept, report
    host.close()


def test_a_daemon_that_is_told_of_a_lost_libvirtd(rig: Rig) -> None:
    async def check() -> None:
        told: list[object] = []
        task = asyncio.create_task(Guests(KernelRoot("/"), rig.b.uri, connect).run(told.append))
        await until_told(lambda: told, "it works")
        rig.b.kill_daemon(signal.SIGKILL)
        await asyncio.wait((task,), timeout=60)
        with pytest.raises(GuestsLostError, match="connection was lost"):
            task.result()

    asyncio.run(check())
