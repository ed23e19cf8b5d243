# SPDX-License-Identifier: LGPL-2.1-or-later
"""What hibprep needs of a hypervisor: `Host`, `Domain`, `Channel`, and the values that travel.

No libvirt in here. `hibprep.guests.connection` does it with libvirt-python; tests have a fake that
reacts as libvirt and QEMU do. Sizes are bytes (libvirt's API has KiB), times are seconds. Every
method may raise the errors of `hibprep.guests.errors`; those that wait have a deadline.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from hibprep.guests.hardware import Hardware


class DomainState(StrEnum):
    """virDomainState, as far as it matters here."""

    RUNNING = "running"
    PAUSED = "paused"
    ASLEEP = "asleep"  # suspended by the guest itself (pmsuspended)
    SHUT_OFF = "shut off"
    CRASHED = "crashed"
    OTHER = "other"  # shutting down, and what libvirt may add


@dataclass(frozen=True, slots=True, kw_only=True)
class DomainInfo:
    """One domain at one moment. `actual_bytes` is what the balloon leaves to the guest; of a domain
    that does not run, what it would start with."""

    name: str
    uuid: str
    state: DomainState
    persistent: bool
    maximum_bytes: int
    actual_bytes: int
    has_managed_save: bool
    hardware: Hardware

    @property
    def running(self) -> bool:
        """Whether its CPUs run, so that the guest can do something."""
        return self.state is DomainState.RUNNING

    @property
    def active(self) -> bool:
        """Whether there is a process that has its memory."""
        return self.state not in (DomainState.SHUT_OFF, DomainState.CRASHED)


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryStats:
    """virDomainMemoryStats. What the balloon driver in the guest did not tell is None.

    `last_update` is when the guest told it (seconds of the host's clock, whole ones), 0 for never:
    what the guest told is as old as that, `actual_bytes` and `rss_bytes` are of now.
    """

    actual_bytes: int
    rss_bytes: int | None = None  # of the hypervisor's process
    available_bytes: int | None = None  # what the guest's kernel manages (MemTotal)
    unused_bytes: int | None = None  # MemFree
    usable_bytes: int | None = None  # MemAvailable
    disk_caches_bytes: int | None = None
    swap_in_bytes: int | None = None  # since the guest booted
    swap_out_bytes: int | None = None
    major_faults: int | None = None
    last_update: int = 0

    @property
    def told_by_guest(self) -> bool:
        """Whether it holds what a target is computed from."""
        return self.usable_bytes is not None and self.unused_bytes is not None


class Operation(StrEnum):
    """virDomainJobOperation: what a job does."""

    NONE = "none"
    START = "start"
    SAVE = "save"
    RESTORE = "restore"
    MIGRATION_IN = "migration in"
    MIGRATION_OUT = "migration out"
    SNAPSHOT = "snapshot"
    DUMP = "dump"
    BACKUP = "backup"
    OTHER = "other"


class JobPhase(StrEnum):
    """virDomainJobType."""

    NONE = "none"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True, kw_only=True)
class JobStats:
    """virDomainGetJobStats, of the job that runs or of the last that ended. What libvirt did not
    tell is 0; `error` is its message of a job that failed, where it has one."""

    phase: JobPhase
    operation: Operation
    elapsed_seconds: float = 0.0
    downtime_seconds: float | None = None
    setup_seconds: float = 0.0
    memory_total_bytes: int = 0
    memory_processed_bytes: int = 0  # what was sent of memory, zero pages' marks included
    memory_remaining_bytes: int = 0
    normal_pages: int = 0
    normal_bytes: int = 0
    zero_pages: int = 0  # "constant": told in a few bytes
    page_bytes: int = 0
    bytes_per_second: int = 0
    dirty_pages_per_second: int = 0
    iteration: int = 0
    postcopy_requests: int = 0
    throttle_percent: int = 0  # auto-converge
    disk_total_bytes: int = 0
    disk_processed_bytes: int = 0
    error: str = ""


NO_JOB = JobStats(phase=JobPhase.NONE, operation=Operation.NONE)


class CopyStorage(StrEnum):
    """Whether disks go along."""

    NONE = "none"
    ALL = "all"
    INCREMENTAL = "inc"


@dataclass(frozen=True, slots=True, kw_only=True)
class MigrateOptions:
    """How to migrate, always live; what is not given is left to libvirt. A bandwidth is bytes a
    second and at least 1 MiB/s, since libvirt counts in MiB/s."""

    peer_to_peer: bool = False
    migrate_uri: str = ""  # where the destination's QEMU listens
    bandwidth_bytes_per_second: int = 0
    postcopy: bool = False  # allowed; see Domain.start_postcopy
    parallel_connections: int = 0
    compressed: bool = False
    auto_converge: bool = False
    copy_storage: CopyStorage = CopyStorage.NONE
    persist_destination: bool = False
    undefine_source: bool = False
    unsafe: bool = False  # disks whose caching makes a migration unsafe


class EventKind(StrEnum):
    """What a host tells by itself."""

    STARTED = "started"  # booted, restored or come from another host; see `detail`
    RESUMED = "resumed"
    SUSPENDED = "suspended"
    STOPPED = "stopped"
    JOB_COMPLETED = "job completed"
    AGENT_CONNECTED = "agent connected"
    AGENT_DISCONNECTED = "agent disconnected"
    ITERATION = "migration iteration"
    BALLOON_CHANGED = "balloon changed"
    METADATA_CHANGED = "metadata changed"  # `detail` is the namespace
    LOST = "lost"  # the connection; no more events will come


@dataclass(frozen=True, slots=True, kw_only=True)
class GuestEvent:
    """One event. `detail` is the reason that libvirt gives, in its own word: booted, migrated,
    restored, wakeup, saved, shutdown, …; empty where it gives none."""

    kind: EventKind
    name: str = ""
    uuid: str = ""
    detail: str = ""
    job: JobStats = NO_JOB
    number: int = 0  # the iteration, or the balloon's new size in bytes


class Channel(Protocol):
    """Bytes to and from a virtio port of a guest."""

    def send(self, data: bytes, timeout_seconds: float) -> None:
        """All of it; ChannelError when the guest does not take it in time, or it is closed."""

    def receive(self, timeout_seconds: float) -> bytes:
        """What has come, at least one byte; empty when nothing came in time. ChannelError when it
        is closed."""

    def close(self) -> None:
        """Give it back; no error."""


class Domain(Protocol):
    """One domain of a host."""

    @property
    def name(self) -> str:
        """Its name."""

    @property
    def uuid(self) -> str:
        """Its UUID, which it keeps wherever it goes."""

    def info(self) -> DomainInfo:
        """As it is now."""

    def xml(self) -> str:
        """Its description: the live one if it runs, without secrets."""

    # memory

    def memory_stats(self) -> MemoryStats:
        """As it is now; also during a migration."""

    def content_bytes(self) -> int | None:
        """How much of its memory has something in it, looked at from its host; None where it is not
        on this one, and where that cannot be looked at (`hibprep.kernel.guestram`)."""

    def set_stats_period(self, seconds: int) -> None:
        """Have the guest tell its statistics so often from now on; 0: never. Not during a job."""

    def set_balloon(self, actual_bytes: int) -> None:
        """Ask the guest to come to that size, in whole KiB; returns before it is there. Not during
        a job."""

    # metadata

    def metadata(self, uri: str) -> str | None:
        """The element of that namespace: the live one if it is active, else the configured one."""

    def set_metadata(self, uri: str, prefix: str, xml: str) -> None:
        """Put the element there: live if it is active, and configured too if it is persistent. Not
        during a job."""

    def remove_metadata(self, uri: str) -> None:
        """Take the element from both; no error where there is none."""

    # the guest

    def agent(self, command: str, arguments: Mapping[str, object], timeout_seconds: int) -> object:
        """What the guest agent returns. NoAgentError, AgentRefusedError. Also during a job."""

    def open_channel(self, name: str) -> Channel:
        """The virtio port of that name. ChannelError where there is none or it is in use."""

    # moving

    def start(self) -> None:
        """Start it, from its managed save where it has one."""

    def managed_save(self, *, bypass_cache: bool = False) -> None:
        """Save its memory to a file and stop it; returns when that is done."""

    def remove_managed_save(self) -> None:
        """Throw the file away, and with it what the guest had in memory."""

    def migrate(self, destination: Host | None, uri: str, options: MigrateOptions) -> Domain | None:
        """Migrate it and return when it has ended: `destination` is a connection to there for a
        direct migration, and the answer is the domain there; with `peer_to_peer` `uri` is what
        libvirtd here connects to, and the answer is None. DestinationError, NoRoomError,
        JobAbortedError."""

    def start_postcopy(self) -> None:
        """Have a running migration change to post-copy."""

    def job(self) -> JobStats:
        """The job that runs, or `NO_JOB`."""

    def completed_job(self) -> JobStats:
        """The last that has ended; it stays there to be read again. `NO_JOB` where there is none.
        Of a migration the destination's domain knows it."""

    def abort_job(self) -> None:
        """Abort the job that runs; no error where none does."""


class Host(Protocol):
    """One libvirtd."""

    @property
    def uri(self) -> str:
        """Where it is."""

    def uuid(self) -> str:
        """The host's own."""

    def hostname(self) -> str:
        """Its name, for people."""

    def free_bytes(self) -> int | None:
        """Memory that is free there, None where the driver does not tell."""

    def domains(self, *, active: bool = False) -> tuple[Domain, ...]:
        """All domains by name, or only those that run."""

    def find(self, name_or_uuid: str) -> Domain:
        """That one. NoSuchDomainError says which there are."""

    def watch(self, on_event: Callable[[GuestEvent], None]) -> Callable[[], None]:
        """Have `on_event` called with every event from now on, in a thread of its own; what is
        returned ends that. It must not call this host: it hands over and returns."""

    def close(self) -> None:
        """Close the connection; no error."""
