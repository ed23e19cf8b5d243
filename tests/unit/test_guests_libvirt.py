# SPDX-License-Identifier: LGPL-2.1-or-later
"""libvirt-python behind the port: its numbers, its errors, and libvirt's own test driver."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import hibprep
from hibprep.errors import HibprepError
from hibprep.guests import connection, libvirt_errors, libvirt_values
from hibprep.guests.errors import (
    AgentRefusedError,
    ChannelError,
    ConnectionFailedError,
    DestinationError,
    GuestError,
    JobAbortedError,
    JobActiveError,
    NoAgentError,
    NoRoomError,
    NoSuchDomainError,
    NotRunningError,
    UnsupportedError,
)
from hibprep.guests.libvirt_stream import LibvirtChannel
from hibprep.guests.port import (
    NO_JOB,
    CopyStorage,
    Domain,
    DomainState,
    EventKind,
    GuestEvent,
    Host,
    JobPhase,
    MigrateOptions,
    Operation,
)
from hibprep.guests.record import NAMESPACE, PREFIX, Record, from_xml, to_xml
from hibprep.guests.undo import UndoEnding, undo
from tests.fakes.clock import HandClock
from tests.fakes.libvirt_host import fake_means
from tests.fakes.libvirt_memory import MIB

# --- errors ---------------------------------------------------------------------------------------

OF_CALL = [
    (42, "Domain not found: no domain with matching uuid", NoSuchDomainError),
    (55, "Requested operation is not valid: domain is not running", NotRunningError),
    (68, "Timed out during operation: cannot acquire state change lock", JobActiveError),
    (3, "this function is not supported by the connection driver: virDomainGetJobStats",
     UnsupportedError),
    (38, "Cannot recv data: Connection reset by peer", ConnectionFailedError),
    (1, "internal error: client socket is closed", ConnectionFailedError),
    (78, "operation aborted: save job: canceled by client", JobAbortedError),
    (38, "Failed to open file '/x': No space left on device", GuestError),
    (1, "internal error: something else", GuestError),
]  # fmt: skip


@pytest.mark.parametrize(("code", "message", "kind"), OF_CALL)
def test_errors_of_calls(code: int, message: str, kind: type[HibprepError]) -> None:
    assert type(libvirt_errors.of_call("web", code, message)) is kind


@pytest.mark.parametrize(
    ("code", "message", "kind"),
    [
        (86, "Guest agent is not responding: QEMU guest agent is not connected", NoAgentError),
        (74, "argument unsupported: QEMU guest agent is not configured", NoAgentError),
        (3, "this function is not supported by the connection driver", NoAgentError),
        (1, "internal error: The command guest-exec has been disabled", AgentRefusedError),
        (113, "agent command failed", AgentRefusedError),
        (55, "Requested operation is not valid: domain is not running", NoAgentError),
    ],
)  # fmt: skip
def test_errors_of_the_agent(code: int, message: str, kind: type[HibprepError]) -> None:
    assert type(libvirt_errors.of_agent("web", code, message)) is kind


@pytest.mark.parametrize(
    ("code", "message", "kind"),
    [
        (38, "unable to connect to server at 'b:49152': Connection refused", DestinationError),
        (38, "Unable to resolve address 'b' service '49152'", DestinationError),
        (1, "cannot set up guest memory 'pc.ram': Cannot allocate memory", NoRoomError),
        (1, "internal error: Attempt to migrate guest to the same host b", DestinationError),
        (9, "operation failed: migration out job: unexpectedly failed", DestinationError),
        (1, "unable to execute QEMU command 'migrate-incoming': Failed to bind", DestinationError),
        (78, "operation aborted: migration out job: canceled by client", JobAbortedError),
        (81, "Unsafe migration: Migration without shared storage is unsafe", UnsupportedError),
        (55, "Requested operation is not valid: domain is not running", NotRunningError),
    ],
)  # fmt: skip
def test_errors_of_migrations(code: int, message: str, kind: type[HibprepError]) -> None:
    error = libvirt_errors.of_migration("web", code, message)
    assert type(error) is kind
    assert error.message.startswith("web: ")


HOOK = (
    "Hook script execution failed: internal error: Child process (LC_ALL=C PATH=" + "/bin:" * 200
    + " /etc/libvirt/hooks/qemu.d/50-hibprep web migrate begin -) unexpected exit status 1: "
)  # fmt: skip


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("hibprep: not prepared:\n try again\n", "hibprep: not prepared: try again"),
        ("", "exit code 1"),
    ],
)
def test_what_a_hook_there_has_said_is_what_counts(said: str, shown: str) -> None:
    error = libvirt_errors.of_migration("web", 70, HOOK + said)
    assert type(error) is DestinationError
    assert error.message == f"web: a hook of libvirt on the destination refused it: {shown}"
    assert "/etc/libvirt/hooks" in error.remedy


def test_errors_are_one_line_with_a_remedy() -> None:
    error = libvirt_errors.of_connection(
        "qemu:///system", 38, "Failed to connect socket to '/x':\nPermission denied"
    )
    assert "\n" not in str(error)
    assert "group libvirt" in error.remedy
    assert len(libvirt_errors.one_line("x " * 5000)) < 500


# --- values ---------------------------------------------------------------------------------------


def test_states() -> None:
    assert libvirt_values.state(1) is DomainState.RUNNING
    assert libvirt_values.state(5) is DomainState.SHUT_OFF
    assert libvirt_values.state(99) is DomainState.OTHER


def test_statistics_are_bytes() -> None:
    stats = libvirt_values.memory_stats({"actual": 1024, "unused": 512, "last_update": 7}, 9)
    assert (stats.actual_bytes, stats.unused_bytes, stats.usable_bytes) == (MIB, MIB // 2, None)
    assert stats.last_update == 7
    assert not stats.told_by_guest
    assert libvirt_values.memory_stats({}, 9).actual_bytes == 9 * 1024


def test_jobs() -> None:
    assert libvirt_values.job_stats({"type": 0}) is NO_JOB
    job = libvirt_values.job_stats(
        {"type": 3, "operation": 5, "time_elapsed": 1500, "memory_constant": 7, "downtime": 12}
    )
    assert (job.phase, job.operation) == (JobPhase.COMPLETED, Operation.MIGRATION_OUT)
    assert (job.elapsed_seconds, job.zero_pages) == (1.5, 7)
    assert job.downtime_seconds == 0.012
    assert libvirt_values.job_stats({"type": 2}).downtime_seconds is None
    assert libvirt_values.finished({"operation": 2, "success": False}).phase is JobPhase.FAILED
    assert libvirt_values.finished({"operation": 2}).phase is JobPhase.COMPLETED


def test_lifecycles() -> None:
    assert libvirt_values.lifecycle(2, 1) == (EventKind.STARTED, "migrated")
    assert libvirt_values.lifecycle(2, 2) == (EventKind.STARTED, "restored")
    assert libvirt_values.lifecycle(5, 4) == (EventKind.STOPPED, "saved")
    assert libvirt_values.lifecycle(5, 99) == (EventKind.STOPPED, "")
    assert libvirt_values.lifecycle(0, 0) is None


def test_options_of_a_migration() -> None:
    plain = MigrateOptions()
    assert libvirt_values.migrate_flags(plain) == 1
    assert libvirt_values.migrate_parameters(plain) == {}
    full = MigrateOptions(
        peer_to_peer=True,
        postcopy=True,
        parallel_connections=4,
        auto_converge=True,
        copy_storage=CopyStorage.ALL,
        bandwidth_bytes_per_second=MIB + 1,
        migrate_uri="tcp://b:49152",
    )
    assert libvirt_values.migrate_parameters(full) == {
        "migrate_uri": "tcp://b:49152",
        "bandwidth": 2,
        "parallel.connections": 4,
    }
    flags = libvirt_values.migrate_flags(full)
    assert flags == 1 | 2 | 1 << 15 | 1 << 17 | 1 << 13 | 1 << 6


def test_only_connection_imports_libvirt() -> None:
    package = Path(hibprep.__file__).parent
    importers = {
        path.relative_to(package).as_posix()
        for path in package.rglob("*.py")
        if re.search(r"^\s*(import libvirt|from libvirt)", path.read_text(), re.MULTILINE)
    }
    assert importers == {"guests/connection.py"}


# --- streams --------------------------------------------------------------------------------------


class Stream:
    """libvirt's stream, non-blocking."""

    def __init__(self) -> None:
        self.incoming: list[object] = []
        self.outgoing: list[bytes] = []
        self.blocked = 0
        self.callback: Any = None
        self.ended: list[str] = []

    def eventAddCallback(self, _events: int, callback: Any, _opaque: object) -> None:  # noqa: N802, ANN401
        self.callback = callback

    def eventUpdateCallback(self, _events: int) -> None:  # noqa: N802
        self.callback(self, 1, None)

    def eventRemoveCallback(self) -> None:  # noqa: N802
        self.ended.append("events")

    def abort(self) -> None:
        self.ended.append("stream")

    def recv(self, _size: int) -> object:
        found = self.incoming.pop(0) if self.incoming else -2
        if found == -2 and self.incoming:
            self.callback(self, 1, None)
        if isinstance(found, Exception):
            raise found
        return found

    def send(self, data: bytes) -> int:
        if self.blocked:
            self.blocked -= 1
            return -2
        self.outgoing.append(data[:3])
        return min(3, len(data))


def channel_on(stream: Stream) -> LibvirtChannel:
    return LibvirtChannel("web: x", stream, lambda _name, call: call())


def test_a_stream_that_would_block_is_waited_for() -> None:
    stream = Stream()
    stream.incoming = [-2, b"abc", b""]
    channel = channel_on(stream)
    assert channel.receive(5) == b"abc"
    with pytest.raises(ChannelError, match="closed"):
        channel.receive(5)
    assert channel_on(Stream()).receive(0) == b""


def test_all_is_sent() -> None:
    stream = Stream()
    stream.blocked = 1
    channel = channel_on(stream)
    channel.send(b"abcdefg", 5)
    assert b"".join(stream.outgoing) == b"abcdefg"
    stream.blocked = 10**9
    with pytest.raises(ChannelError, match="does not take"):
        channel.send(b"x", 0)


def test_errors_of_a_stream_are_the_channel_s() -> None:
    stream = Stream()
    stream.incoming = [GuestError("web: internal error: no")]
    with pytest.raises(ChannelError, match="internal error"):
        channel_on(stream).receive(1)


def test_a_stream_is_given_back_once() -> None:
    stream = Stream()
    channel = channel_on(stream)
    channel.close()
    channel.close()
    assert stream.ended == ["events", "stream"]


# --- libvirt's test driver ------------------------------------------------------------------------


@pytest.fixture
def host() -> Iterator[Host]:
    pytest.importorskip("libvirt", reason="libvirt-python is not installed")
    found = connection.connect("test:///default")
    yield found
    found.close()


@pytest.fixture
def domain(host: Host) -> Domain:
    return host.find("test")


def test_it_has_a_domain(host: Host, domain: Domain) -> None:
    assert [each.name for each in host.domains()] == ["test"]
    assert host.find(domain.uuid).name == "test"
    info = domain.info()
    assert info.state is DomainState.RUNNING
    assert info.maximum_bytes == 8 << 30
    assert not info.has_managed_save
    assert host.uuid() == host.uuid()
    assert host.hostname()


def test_no_such_domain(host: Host) -> None:
    for name in ("nobody", "6695eb01-f6a4-8304-79aa-97f2502e1930"):
        with pytest.raises(NoSuchDomainError, match="there are test") as caught:
            host.find(name)
        assert "\n" not in str(caught.value)


def test_no_such_host() -> None:
    pytest.importorskip("libvirt", reason="libvirt-python is not installed")
    for uri in ("nothing:///x", "qemu+unix:///system?socket=/nowhere", ":"):
        with pytest.raises(ConnectionFailedError) as caught:
            connection.connect(uri)
        assert caught.value.remedy


def test_the_balloon_and_the_record(domain: Domain) -> None:
    record = Record(original_bytes=domain.memory_stats().actual_bytes, set_bytes=1 << 30)
    domain.set_metadata(NAMESPACE, PREFIX, to_xml(record))
    found = domain.metadata(NAMESPACE)
    assert found is not None
    assert from_xml(found) == record
    domain.set_balloon(1 << 30)
    assert domain.info().actual_bytes == 1 << 30
    undone = undo(domain, fake_means(HandClock()), seconds=5)
    assert undone.ending is UndoEnding.DONE
    assert domain.memory_stats().actual_bytes == record.original_bytes
    assert domain.metadata(NAMESPACE) is None
    domain.remove_metadata(NAMESPACE)


def test_statistics(domain: Domain) -> None:
    stats = domain.memory_stats()
    assert stats.unused_bytes is not None
    assert 0 < stats.unused_bytes < stats.actual_bytes
    domain.set_stats_period(1)


def test_saved_and_started(domain: Domain) -> None:
    domain.managed_save()
    info = domain.info()
    assert (info.state, info.has_managed_save) == (DomainState.SHUT_OFF, True)
    with pytest.raises(HibprepError):
        domain.set_balloon(1 << 30)
    domain.start()
    assert domain.info().running
    domain.managed_save()
    domain.remove_managed_save()
    assert not domain.info().has_managed_save


def test_what_that_driver_cannot(host: Host, domain: Domain) -> None:
    assert domain.job() is NO_JOB
    assert domain.completed_job() is NO_JOB
    with pytest.raises(NoAgentError):
        domain.agent("guest-info", {}, 1)
    with pytest.raises(HibprepError):
        domain.migrate(host, "", MigrateOptions())


def test_events(domain: Domain, host: Host) -> None:
    events: list[GuestEvent] = []
    came = threading.Event()

    def hear(event: GuestEvent) -> None:
        events.append(event)
        if event.kind is EventKind.STARTED:
            came.set()

    end = host.watch(hear)
    domain.managed_save()
    domain.start()
    assert came.wait(30)
    end()
    assert (events[0].kind, events[0].name, events[0].detail) == (
        EventKind.STOPPED,
        "test",
        "saved",
    )
    # which does not tell a restore from a boot
    assert events[-1].kind is EventKind.STARTED
