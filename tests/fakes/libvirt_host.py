# SPDX-License-Identifier: LGPL-2.1-or-later
"""Hosts and domains behind `hibprep.guests.port`, which answer as libvirt and QEMU do.

Nothing may be changed while a job is active; metadata and the balloon's size go where the domain
goes; statistics are those of the source until the guest tells new ones; what runs may be made to
fail, or to be killed, at any call.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from hibprep.guests import port
from hibprep.guests.errors import (
    ChannelError,
    DestinationError,
    GuestError,
    JobAbortedError,
    JobActiveError,
    NoAgentError,
    NoRoomError,
    NoSuchDomainError,
    NotRunningError,
)
from hibprep.guests.hardware import Hardware
from hibprep.guests.means import Means
from hibprep.guests.port import (
    NO_JOB,
    DomainInfo,
    DomainState,
    EventKind,
    GuestEvent,
    JobPhase,
    JobStats,
    MemoryStats,
    MigrateOptions,
    Operation,
)
from hibprep.guests.record import Owner
from tests.fakes.clock import HandClock
from tests.fakes.libvirt_inside import FakeAgent, FakeChannel
from tests.fakes.libvirt_memory import MIB, GuestMemory

PLAIN = Hardware(balloon=True, agent=True, agent_connected=True)
LOCK_SECONDS = 30.0
RATE = 100 * MIB  # that migrations and saves go at, a second


class Killed(BaseException):
    """SIGKILL: nothing of this process runs any more."""


@dataclass
class Faults:
    """What happens to a process that calls: at the call of that number, before it takes effect.
    One that was killed makes no calls any more, until another process takes over."""

    calls: int = 0
    names: list[str] = field(default_factory=list)
    at: int | None = None
    error: BaseException | None = None
    once: bool = True
    dead: bool = False

    def call(self, name: str) -> None:
        if self.dead:
            raise Killed
        self.calls += 1
        self.names.append(name)
        if self.at is None or self.calls < self.at or self.error is None:
            return
        if isinstance(self.error, Killed):
            self.dead = True
        if self.once:
            self.at = None
        raise self.error

    def another_process(self) -> None:
        self.dead, self.at, self.error = False, None, None


class FakeHost:
    """One libvirtd."""

    def __init__(self, clock: HandClock, name: str = "a", faults: Faults | None = None) -> None:
        self.clock = clock
        self.name = name
        self.faults = faults or Faults()
        self.all: dict[str, FakeDomain] = {}
        self.free: int | None = 64 << 30
        self.listeners: list[Callable[[GuestEvent], None]] = []
        self.closed = False
        self.why_unreachable: GuestError | None = None

    @property
    def uri(self) -> str:
        return f"fake://{self.name}/system"

    def uuid(self) -> str:
        self.faults.call("uuid")
        return str(uuid.uuid5(uuid.NAMESPACE_DNS, self.name))

    def hostname(self) -> str:
        return self.name

    def free_bytes(self) -> int | None:
        self.faults.call("free_bytes")
        return self.free

    def domains(self, *, active: bool = False) -> tuple[port.Domain, ...]:
        self.faults.call("domains")
        found = sorted(self.all.values(), key=lambda domain: domain.name)
        return tuple(each for each in found if each.active or not active)

    def find(self, name_or_uuid: str) -> FakeDomain:
        self.faults.call("find")
        for domain in self.all.values():
            if name_or_uuid in (domain.name, domain.uuid):
                return domain
        names = ", ".join(sorted(self.all)) or "it has none"
        raise NoSuchDomainError(f"{self.uri} has no domain {name_or_uuid!r}", names)

    def watch(self, on_event: Callable[[GuestEvent], None]) -> Callable[[], None]:
        self.listeners.append(on_event)
        return lambda: self.listeners.remove(on_event)

    def close(self) -> None:
        self.closed = True

    def tell(
        self, kind: EventKind, domain: FakeDomain, detail: str = "", job: JobStats = NO_JOB
    ) -> None:
        event = GuestEvent(kind=kind, name=domain.name, uuid=domain.uuid, detail=detail, job=job)
        for listener in tuple(self.listeners):
            listener(event)

    def lose(self) -> None:
        """libvirtd ends; who listens is told so."""
        for listener in tuple(self.listeners):
            listener(GuestEvent(kind=EventKind.LOST))

    def add(self, name: str, memory: GuestMemory, **what: object) -> FakeDomain:
        """A guest that runs here."""
        domain = FakeDomain(host=self, name=name, memory=memory, **what)  # type: ignore[arg-type]
        self.all[name] = domain
        return domain


@dataclass
class FakeDomain:
    """One domain on one host. `live` and `configured` are its metadata by namespace."""

    host: FakeHost
    name: str
    memory: GuestMemory
    hardware: Hardware = PLAIN
    state: DomainState = DomainState.RUNNING
    persistent: bool = True
    saved: bool = False
    agent_inside: FakeAgent | None = None
    channel_inside: FakeChannel | None = None
    live: dict[str, str] = field(default_factory=dict)
    configured: dict[str, str] = field(default_factory=dict)
    running_job: JobStats = NO_JOB
    last_job: JobStats = NO_JOB
    rss_told: bool = True
    refuses_balloon: bool = False
    # half-way through a migration or a save
    during: Callable[[FakeDomain], None] | None = None

    def __post_init__(self) -> None:
        self.uuid = str(uuid.uuid5(uuid.NAMESPACE_DNS, f"guest-{self.name}"))
        self.memory.reporting = self.hardware.free_page_reporting
        self.memory.period = self.hardware.stats_period_seconds

    @property
    def active(self) -> bool:
        return self.state not in (DomainState.SHUT_OFF, DomainState.CRASHED)

    # the port

    def content_bytes(self) -> int | None:
        """It is not on this host."""
        return None

    def info(self) -> DomainInfo:
        self._call("info")
        return DomainInfo(
            name=self.name,
            uuid=self.uuid,
            state=self.state,
            persistent=self.persistent,
            maximum_bytes=self.memory.maximum,
            actual_bytes=self.memory.actual if self.active else self.memory.maximum,
            has_managed_save=self.saved,
            hardware=replace(self.hardware, stats_period_seconds=self.memory.period),
        )

    def xml(self) -> str:
        self._call("xml")
        return f"<domain type='kvm'><name>{self.name}</name></domain>"

    def memory_stats(self) -> MemoryStats:
        self._call("memory_stats")
        self._must_be_active()
        memory = self.memory
        told = memory.told or {}
        return MemoryStats(
            actual_bytes=memory.actual,
            rss_bytes=memory.rss if self.rss_told else None,
            available_bytes=told.get("available"),
            unused_bytes=told.get("unused"),
            usable_bytes=told.get("usable"),
            disk_caches_bytes=told.get("disk_caches"),
            last_update=memory.told_at,
        )

    def set_stats_period(self, seconds: int) -> None:
        self._modify("set_stats_period")
        self._must_be_active()
        self.memory.set_period(seconds)

    def set_balloon(self, actual_bytes: int) -> None:
        self._modify("set_balloon")
        self._must_be_active()
        if self.refuses_balloon:
            raise GuestError(
                f"{self.name}: operation failed: Unable to change memory of active domain without "
                "the balloon device and guest OS balloon driver"
            )
        assert actual_bytes <= self.memory.maximum
        self.memory.target = actual_bytes // 1024 * 1024

    def metadata(self, uri: str) -> str | None:
        self._call("metadata")
        return (self.live if self.active else self.configured).get(uri)

    def set_metadata(self, uri: str, prefix: str, xml: str) -> None:
        self._modify("set_metadata")
        assert prefix
        if self.active:
            self.live[uri] = xml
        if self.persistent:
            self.configured[uri] = xml
        self.host.tell(EventKind.METADATA_CHANGED, self, uri)

    def remove_metadata(self, uri: str) -> None:
        self._modify("remove_metadata")
        self.live.pop(uri, None)
        self.configured.pop(uri, None)
        self.host.tell(EventKind.METADATA_CHANGED, self, uri)

    def agent(self, command: str, arguments: Mapping[str, object], timeout_seconds: int) -> object:
        self._call("agent")
        self._must_be_active()
        if self.agent_inside is None or not self.hardware.agent:
            raise NoAgentError(f"{self.name}: QEMU guest agent is not configured")
        return self.agent_inside.ask(command, arguments, timeout_seconds)

    def open_channel(self, name: str) -> port.Channel:
        self._call("open_channel")
        if self.channel_inside is None:
            raise ChannelError(f"{self.name}: cannot find channel {name}")
        return self.channel_inside.open()

    def start(self) -> None:
        self._call("start")
        if self.active:
            raise GuestError(f"{self.name}: domain is already running")
        if not self.saved:
            self.memory.reboot()
            self.memory.target = self.memory.maximum
            self.live = dict(self.configured)
        detail, self.saved = "restored" if self.saved else "booted", False
        self._run(DomainState.RUNNING)
        self.host.tell(EventKind.STARTED, self, detail)

    def managed_save(self, *, bypass_cache: bool = False) -> None:  # noqa: ARG002
        self._modify("managed_save")
        self._must_be_active()
        self._copy(Operation.SAVE)
        self._run(DomainState.SHUT_OFF)
        self.saved = True
        self.host.tell(EventKind.STOPPED, self, "saved")

    def remove_managed_save(self) -> None:
        self._call("remove_managed_save")
        self.saved = False

    def migrate(
        self, destination: port.Host | None, uri: str, options: MigrateOptions
    ) -> port.Domain | None:
        self._modify("migrate")
        self._must_be_active()
        there = destination if destination is not None else self.peers.get(uri)
        if not isinstance(there, FakeHost) or there.why_unreachable:
            raise DestinationError(f"{self.name}: unable to connect to server at {uri}")
        if there.free is not None and there.free < self.memory.actual:
            raise NoRoomError(f"{self.name}: cannot set up guest memory: Cannot allocate memory")
        self._copy(Operation.MIGRATION_OUT)
        arrived = FakeDomain(
            host=there,
            name=self.name,
            memory=self.memory,  # the balloon's size, its target and old statistics with it
            hardware=self.hardware,
            persistent=options.persist_destination,
            agent_inside=self.agent_inside,
            channel_inside=self.channel_inside,
            live=dict(self.live),
            configured=dict(self.configured) if options.persist_destination else {},
            last_job=NO_JOB
            if options.postcopy
            else replace(self.last_job, operation=Operation.MIGRATION_IN),
        )
        arrived.memory.period = self.memory.period
        there.all[self.name] = arrived
        self._leave(keep=self.persistent and not options.undefine_source)
        self.host.tell(EventKind.JOB_COMPLETED, self, job=self.last_job)
        self.host.tell(EventKind.STOPPED, self, "migrated")
        there.tell(EventKind.STARTED, arrived, "migrated")
        return arrived

    def start_postcopy(self) -> None:
        self._call("start_postcopy")

    def job(self) -> JobStats:
        self._call("job")
        return self.running_job

    def completed_job(self) -> JobStats:
        self._call("completed_job")
        return self.last_job

    def abort_job(self) -> None:
        self._call("abort_job")
        self.aborted = True

    # what happens behind it

    aborted: bool = False
    peers: dict[str, FakeHost] = field(default_factory=dict)

    def _call(self, name: str) -> None:
        self.host.faults.call(name)
        self.memory.catch_up()

    def _modify(self, name: str) -> None:
        """What takes the job lock that migrations hold."""
        self._call(name)
        if self.running_job.phase is JobPhase.RUNNING:
            self.host.clock.go_on(LOCK_SECONDS)
            raise JobActiveError(
                f"{self.name}: Timed out during operation: cannot acquire state change lock",
                "wait until the job that is under way has ended",
            )

    def _must_be_active(self) -> None:
        if not self.active:
            raise NotRunningError(f"{self.name}: domain is not running", "start it")

    def _copy(self, operation: Operation) -> None:
        """Send all that is not zero, at a rate; an abort is heard on the way."""
        sent = self.memory.sent
        self.aborted = False
        self.running_job = JobStats(
            phase=JobPhase.RUNNING, operation=operation, memory_total_bytes=self.memory.maximum
        )
        try:
            self.host.clock.go_on(sent / RATE / 2)
            if self.during is not None:
                self.during(self)
            self.host.clock.go_on(sent / RATE / 2)
            self.memory.catch_up()
            if self.aborted:
                raise JobAbortedError(f"{self.name}: operation aborted: canceled by client")
        finally:
            self.running_job = NO_JOB
        self.last_job = JobStats(
            phase=JobPhase.COMPLETED,
            operation=operation,
            elapsed_seconds=sent / RATE,
            memory_total_bytes=self.memory.maximum,
            memory_processed_bytes=sent,
        )
        self.host.tell(EventKind.JOB_COMPLETED, self, job=self.last_job)

    def _run(self, state: DomainState) -> None:
        self.state = state
        self.memory.runs = state is DomainState.RUNNING

    def _leave(self, *, keep: bool) -> None:
        self.memory = GuestMemory(self.host.clock, maximum=self.memory.maximum)
        self._run(DomainState.SHUT_OFF)
        self.live = {}
        if not keep:
            del self.host.all[self.name]


@dataclass
class FakeStop:
    """A stop flag in the time of the tests: waiting moves the clock, and it may be raised at a
    moment."""

    clock: HandClock
    at: float | None = None
    reason: str = ""
    looked: Callable[[], None] = lambda: None

    def requested(self) -> bool:
        if self.at is not None and self.clock.seconds >= self.at:
            self.reason = "interrupted by SIGINT"
            return True
        return False

    def wait(self, seconds: float) -> bool:
        assert seconds >= 0
        # a wait of nothing is a loop without an end where time stands still
        self.clock.go_on(max(seconds, 0.001))
        self.looked()
        return self.requested()


OWNER = Owner(host="h", boot="b", pid=100, start=7)


def fake_means(clock: HandClock, stop: FakeStop | None = None, pid: int = 100) -> Means:
    """Those of a process of that number; nobody else is alive."""
    owner = replace(OWNER, pid=pid)
    return Means(clock, stop or FakeStop(clock), owner, lambda _owner: False, FakeStop(clock))
