# SPDX-License-Identifier: LGPL-2.1-or-later
from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Coroutine
from dataclasses import dataclass, replace
from pathlib import Path

from hibprep.events import GuestEvent, GuestJob, GuestOperation, SourceChanged, SourceName
from hibprep.guestcare import WAITING_SECONDS, GuestCare
from hibprep.guestjobs import GuestJobs, KeptJob, guest_jobs_page
from hibprep.guests import record as records
from hibprep.guests.means import Means
from hibprep.guests.port import DomainState, JobPhase, JobStats, MigrateOptions, Operation
from hibprep.guests.prepare import Options, prepare
from hibprep.guests.record import Owner
from hibprep.page import render
from tests.fakes.libvirt_host import FakeDomain, FakeHost
from tests.listening import until_told

from .moving_guests import TwoHosts

JOB = GuestJob(
    name="web",
    uuid="0",
    operation="migration out",
    seconds=2.5,
    downtime_seconds=0.012,
    total_bytes=640 << 20,
    sent_bytes=181 << 20,
    normal_pages=46000,
    zero_pages=117000,
)


@dataclass
class Cared:
    """The daemon's care on host b."""

    hosts: TwoHosts
    care: GuestCare
    jobs: GuestJobs
    busy: list[int]

    def tell(self, reason: str = "", operation: GuestOperation = GuestOperation.STARTED) -> None:
        domain = self.domain
        self.care.hear(
            GuestEvent(operation=operation, name=domain.name, uuid=domain.uuid, reason=reason)
        )

    @property
    def domain(self) -> FakeDomain:
        return self.hosts.b.all["web"]

    @property
    def recorded(self) -> bool:
        return records.NAMESPACE in self.domain.live

    async def put_back(self) -> None:
        await until_told(lambda: not self.recorded, "the guest is put back")
        self.hosts.assert_as_before()

    async def looked(self, times: int = 3) -> None:
        """It was looked at so often, from now on."""
        begin = self.hosts.b.faults.names.count("metadata")
        await until_told(
            lambda: self.hosts.b.faults.names.count("metadata") >= begin + times, "it is looked at"
        )

    async def rests(self) -> None:
        await until_told(lambda: not self.care._tasks, "nothing is waited for")


@contextlib.asynccontextmanager
async def caring(hosts: TwoHosts, root: Path) -> AsyncIterator[Cared]:
    busy: list[int] = []

    def make_means(host_uuid: str) -> Means:
        made = hosts.means(pid=99)
        owner = replace(made.owner, host=host_uuid)
        return replace(made, owner=owner, busy=lambda other: other.pid in busy)

    jobs = GuestJobs(str(root), clock=hosts.clock)
    care = GuestCare(hosts.b.uri, hosts.connect, make_means, jobs, hosts.clock, again_seconds=0.001)
    try:
        yield Cared(hosts, care, jobs, busy)
    finally:
        care.close()


def prepared_on(host: FakeHost, hosts: TwoHosts) -> FakeDomain:
    """By somebody who has ended since."""
    guest = hosts.guest()
    if host is hosts.b:
        moved = guest.migrate(hosts.b, "", MigrateOptions(persist_destination=True))
        assert moved is not None
        guest = hosts.b.all["web"]
    means = hosts.means(pid=7)
    owner = Owner(host=host.uuid(), boot="boot", pid=7, start=7)
    prepare(guest, Options(), replace(means, owner=owner), lambda _: None)
    assert hosts.is_small()
    return guest


def arrived(hosts: TwoHosts) -> None:
    """Prepared on a, and migrated by virsh."""
    guest = prepared_on(hosts.a, hosts)
    guest.migrate(hosts.b, "", MigrateOptions(undefine_source=True))
    assert hosts.is_small()


def run(test: Coroutine[None, None, None]) -> None:
    asyncio.run(test)


def test_who_was_migrated_here_by_others_has_its_memory_back(tmp_path: Path) -> None:
    async def check() -> None:
        hosts = TwoHosts()
        arrived(hosts)
        async with caring(hosts, tmp_path) as cared:
            cared.tell("migrated")
            await cared.put_back()
            await cared.rests()

    run(check())


def test_who_came_while_nobody_listened_has_its_memory_back(tmp_path: Path) -> None:
    async def check() -> None:
        hosts = TwoHosts()
        arrived(hosts)
        async with caring(hosts, tmp_path) as cared:
            cared.care.hear(SourceChanged(SourceName.LOGIND, works=True, reason=""))
            cared.care.hear(SourceChanged(SourceName.GUESTS, works=False, reason=""))
            await cared.rests()
            assert cared.recorded
            cared.care.hear(SourceChanged(SourceName.GUESTS, works=True, reason=""))
            await cared.put_back()

    run(check())


def test_a_job_that_is_under_way_is_waited_for(tmp_path: Path) -> None:
    async def check() -> None:
        hosts = TwoHosts()
        arrived(hosts)
        domain = hosts.b.all["web"]
        domain.running_job = JobStats(phase=JobPhase.RUNNING, operation=Operation.MIGRATION_IN)
        async with caring(hosts, tmp_path) as cared:
            cared.tell("migrated")
            await cared.looked()
            assert "set_balloon" not in hosts.faults.names[-20:]
            domain.running_job = replace(domain.running_job, phase=JobPhase.NONE)
            await cared.put_back()

    run(check())


def test_what_is_prepared_here_waits_for_whoever_moves_it(tmp_path: Path) -> None:
    async def check() -> None:
        hosts = TwoHosts()
        prepared_on(hosts.b, hosts)
        async with caring(hosts, tmp_path) as cared:
            cared.tell("its record has changed")
            await cared.looked()
            assert hosts.is_small()
            hosts.clock.go_on(WAITING_SECONDS + Options().timeout_seconds)
            await cared.put_back()

    run(check())


def test_who_is_restored_here_has_its_memory_back_at_once(tmp_path: Path) -> None:
    async def check() -> None:
        hosts = TwoHosts()
        guest = prepared_on(hosts.b, hosts)
        guest.managed_save()
        async with caring(hosts, tmp_path) as cared:
            cared.tell("saved", GuestOperation.RELEASE)
            await cared.rests()  # until it is started there is nothing to be done
            assert cared.recorded
            guest.start()
            cared.tell("restored")
            await cared.put_back()

    run(check())


def test_the_hook_alone_tells_of_one_that_is_restored(tmp_path: Path) -> None:
    async def check() -> None:
        hosts = TwoHosts()
        guest = prepared_on(hosts.b, hosts)
        guest.managed_save()
        async with caring(hosts, tmp_path) as cared:
            cared.tell(operation=GuestOperation.RESTORE)
            guest.start()
            cared.tell()  # the hook has no reason for it
            await cared.put_back()

    run(check())


def test_a_restore_counts_for_the_start_that_follows_and_no_other(tmp_path: Path) -> None:
    async def check() -> None:
        hosts = TwoHosts()
        async with caring(hosts, tmp_path) as cared:
            prepared_on(hosts.b, hosts)
            cared.tell(operation=GuestOperation.RESTORE)
            cared.tell(operation=GuestOperation.RELEASE)  # it has failed
            cared.tell()
            await cared.looked()
            assert hosts.is_small()

    run(check())


def test_another_hibprep_is_left_to_its_work(tmp_path: Path) -> None:
    async def check() -> None:
        hosts = TwoHosts()
        prepared_on(hosts.b, hosts)
        async with caring(hosts, tmp_path) as cared:
            cared.busy.append(7)
            cared.tell("restored")
            await cared.looked()
            assert hosts.is_small()
            cared.busy.clear()
            await cared.put_back()

    run(check())


def test_a_configuration_that_stays_behind_is_cleaned(tmp_path: Path) -> None:
    async def check() -> None:
        hosts = TwoHosts()
        guest = prepared_on(hosts.b, hosts)
        guest.migrate(hosts.a, "", MigrateOptions())
        domain = hosts.b.all["web"]
        assert domain.state is DomainState.SHUT_OFF
        assert records.NAMESPACE in domain.configured
        async with caring(hosts, tmp_path) as cared:
            cared.tell("migrated", GuestOperation.RELEASE)
            await cared.rests()
            assert records.NAMESPACE not in domain.configured

    run(check())


def test_nothing_is_asked_before_the_guest_is_there(tmp_path: Path) -> None:
    async def check() -> None:
        hosts = TwoHosts()
        arrived(hosts)
        async with caring(hosts, tmp_path) as cared:
            cared.tell(operation=GuestOperation.MIGRATE)
            cared.tell(operation=GuestOperation.RESTORE)
            assert not cared.care._tasks

    run(check())


def test_a_guest_without_a_record_or_that_is_gone_is_left_alone(tmp_path: Path) -> None:
    async def check() -> None:
        hosts = TwoHosts()
        guest = hosts.guest()
        guest.migrate(hosts.b, "", MigrateOptions(undefine_source=True))
        async with caring(hosts, tmp_path) as cared:
            cared.tell("migrated")
            cared.care.look_at("nobody")
            await cared.rests()
        assert "set_balloon" not in hosts.faults.names

    run(check())


def test_a_record_that_nobody_can_read(tmp_path: Path) -> None:
    async def check() -> None:
        hosts = TwoHosts()
        arrived(hosts)
        hosts.b.all["web"].live[records.NAMESPACE] = "<prepared nonsense"
        async with caring(hosts, tmp_path) as cared:
            cared.tell("migrated")
            await cared.put_back()

    run(check())


def test_libvirtd_that_is_away_is_asked_again(tmp_path: Path) -> None:
    async def check() -> None:
        hosts = TwoHosts()
        arrived(hosts)
        async with caring(hosts, tmp_path) as cared:
            hosts.cut_off(hosts.b)
            begun = len(hosts.connected)
            cared.tell("migrated")
            await until_told(lambda: len(hosts.connected) > begun + 2, "it is tried again")
            hosts.back(hosts.b)
            await cared.put_back()

    run(check())


def test_a_daemon_that_ends_waits_for_no_guest(tmp_path: Path) -> None:
    async def check() -> None:
        hosts = TwoHosts()
        prepared_on(hosts.b, hosts)
        async with caring(hosts, tmp_path) as cared:
            cared.tell("")
            await cared.looked(1)
            cared.care.close()
            await cared.rests()

    run(check())


def test_what_jobs_took_is_kept(tmp_path: Path) -> None:
    async def check() -> None:
        hosts = TwoHosts()
        async with caring(hosts, tmp_path) as cared:
            cared.care.hear(JOB)
            await cared.rests()
            (kept,), skipped, note = cared.jobs.entries()
        assert (skipped, note) == (0, "")
        assert kept == KeptJob(
            ended="2026-03-01T12:00:00+00:00",
            name="web",
            uuid="0",
            operation="migration out",
            seconds=2.5,
            downtime_seconds=0.012,
            total_bytes=640 << 20,
            sent_bytes=181 << 20,
            normal_pages=46000,
            zero_pages=117000,
        )
        text = render(guest_jobs_page([kept]))
        assert "181.0 MiB" in text
        assert "12 ms" in text

    run(check())


def test_no_job_is_kept_yet(tmp_path: Path) -> None:
    assert GuestJobs(str(tmp_path)).entries() == ((), 0, "")
    assert render(guest_jobs_page([])) == "No job of a guest is kept.\n"
