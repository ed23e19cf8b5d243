# SPDX-License-Identifier: LGPL-2.1-or-later
from __future__ import annotations

import asyncio
import threading
from pathlib import Path

import pytest

from hibprep.errors import NotPossibleError
from hibprep.events import GuestEvent, GuestJob, GuestOperation, Signal, SourceChanged, SourceName
from hibprep.guests.errors import ConnectionFailedError, LibvirtMissingError
from hibprep.guests.port import EventKind, Host, JobPhase, JobStats, MigrateOptions, Operation
from hibprep.guests.port import GuestEvent as HostEvent
from hibprep.guests.record import NAMESPACE
from hibprep.kernel.root import KernelRoot
from hibprep.signals.guests import SOCKETS, Guests, GuestsLostError, signal_of
from tests.fakes.libvirt_host import FakeHost
from tests.listening import listening, only, until_told

from .moving_guests import TwoHosts


def nobody(_signal: Signal) -> None:
    """Nobody listens."""


def source(hosts: TwoHosts, root: Path = Path("/nowhere")) -> Guests:
    return Guests(KernelRoot(str(root)), hosts.b.uri, hosts.connect)


def test_guests_that_come_and_go_are_told() -> None:
    async def check() -> None:
        hosts = TwoHosts()
        guest = hosts.guest()
        async with listening(source(hosts)) as told:
            assert told == [
                SourceChanged(
                    SourceName.GUESTS, works=True, reason="hears the events of fake://b/system"
                )
            ]
            guest.set_metadata(NAMESPACE, "hibprep", "<prepared/>")
            guest.migrate(hosts.b, "", MigrateOptions(undefine_source=True))
            there = hosts.b.all["web"]
            there.remove_metadata("urn:of:others")
            there.remove_metadata(NAMESPACE)
            there.persistent = True
            there.managed_save()
            await until_told(lambda: len(only(GuestJob, told)) == 1, "its job is told")
            await until_told(
                lambda: any(each.reason == "saved" for each in only(GuestEvent, told)), "it is told"
            )
        assert [
            (each.operation, each.reason, each.prepared, each.uuid)
            for each in only(GuestEvent, told)
        ] == [
            (GuestOperation.STARTED, "migrated", False, guest.uuid),
            (GuestOperation.STARTED, "its record has changed", True, guest.uuid),
            (GuestOperation.RELEASE, "saved", False, guest.uuid),
        ]
        (job,) = only(GuestJob, told)
        assert job.operation == "save"
        assert job.sent_bytes == there.last_job.memory_processed_bytes
        assert hosts.b.closed
        assert not hosts.b.listeners

    asyncio.run(check())


def test_a_connection_that_is_lost_ends_it() -> None:
    async def check() -> None:
        hosts = TwoHosts()
        told: list[Signal] = []
        task = asyncio.create_task(source(hosts).run(told.append))
        await until_told(lambda: told, "it works")
        hosts.b.lose()
        with pytest.raises(GuestsLostError, match="the connection was lost"):
            await task
        assert hosts.b.closed

    asyncio.run(check())


@pytest.mark.parametrize(
    ("raised", "expected"),
    [
        # tried again soon
        (ConnectionFailedError("fake://b/system: connection refused"), GuestsLostError),
        # tried again late
        (LibvirtMissingError("no binding", "apt install python3-libvirt"), NotPossibleError),
    ],
)
def test_why_it_cannot_begin(raised: Exception, expected: type[Exception]) -> None:
    def connect(_uri: str) -> Host:
        raise raised

    guests = Guests(KernelRoot("/nowhere"), "fake://b/system", connect)
    with pytest.raises(expected):
        asyncio.run(guests.run(nobody))


def test_a_libvirt_that_goes_away_before_it_is_listened_to_is_tried_again_soon(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def watch(_host: FakeHost, _on_event: object) -> object:
        raise ConnectionFailedError("fake://b/system: connection reset by peer")

    monkeypatch.setattr(FakeHost, "watch", watch)
    hosts = TwoHosts()
    with pytest.raises(GuestsLostError, match="connection reset"):
        asyncio.run(source(hosts).run(nobody))
    assert hosts.b.closed


def test_without_a_libvirt_it_says_what_to_start(tmp_path: Path) -> None:
    hosts = TwoHosts()
    guests = Guests(KernelRoot(str(tmp_path)), "qemu:///system", hosts.connect)
    with pytest.raises(NotPossibleError, match="no libvirt here"):
        asyncio.run(guests.run(nobody))
    assert hosts.connected == []
    where = tmp_path / SOCKETS[1].lstrip("/")
    where.parent.mkdir(parents=True)
    where.touch()
    with pytest.raises(GuestsLostError):  # it is tried; the fake knows no such URI
        asyncio.run(guests.run(nobody))
    assert hosts.connected == ["qemu:///system"]


def test_a_libvirt_that_hangs_is_given_up_and_closed_when_it_comes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("hibprep.signals.guests._ANSWER_SECONDS", 0.001)
    hosts = TwoHosts()
    comes = threading.Event()

    def connect(uri: str) -> Host:
        comes.wait()
        return hosts.connect(uri)

    async def check() -> None:
        with pytest.raises(GuestsLostError, match="does not answer within"):
            await Guests(KernelRoot("/nowhere"), hosts.b.uri, connect).run(nobody)
        comes.set()
        await until_told(lambda: hosts.b.closed, "the late connection is closed")

    asyncio.run(check())


@pytest.mark.parametrize(
    "event",
    [
        HostEvent(kind=EventKind.SUSPENDED, name="web", uuid="0", detail="migrated"),
        HostEvent(kind=EventKind.BALLOON_CHANGED, name="web", uuid="0", number=7),
        HostEvent(kind=EventKind.METADATA_CHANGED, name="web", uuid="0", detail="urn:x"),
        HostEvent(
            kind=EventKind.JOB_COMPLETED,
            name="web",
            uuid="0",
            job=JobStats(phase=JobPhase.FAILED, operation=Operation.MIGRATION_OUT),
        ),
        HostEvent(
            kind=EventKind.JOB_COMPLETED,
            name="web",
            uuid="0",
            job=JobStats(phase=JobPhase.COMPLETED, operation=Operation.START),
        ),
    ],
)
def test_what_changes_nothing_is_not_told(event: HostEvent) -> None:
    assert signal_of(event) is None


def test_a_guest_that_runs_on_is_looked_at() -> None:
    resumed = HostEvent(kind=EventKind.RESUMED, name="web", uuid="0", detail="unpaused")
    assert signal_of(resumed) == GuestEvent(
        operation=GuestOperation.STARTED, name="web", uuid="0", reason="unpaused"
    )
