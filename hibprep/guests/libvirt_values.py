# SPDX-License-Identifier: LGPL-2.1-or-later
"""libvirt's numbers and dictionaries as the values of `hibprep.guests.port`, and back. Pure.

The numbers are those of include/libvirt/libvirt-domain.h, which never change.
"""

from __future__ import annotations

from collections.abc import Mapping

from hibprep.guests.port import (
    NO_JOB,
    CopyStorage,
    DomainState,
    EventKind,
    JobPhase,
    JobStats,
    MemoryStats,
    MigrateOptions,
    Operation,
)

KIB = 1024
_MIB = 1 << 20

_STATES = {
    1: DomainState.RUNNING,
    2: DomainState.RUNNING,  # blocked: on I/O, of Xen
    3: DomainState.PAUSED,
    5: DomainState.SHUT_OFF,
    6: DomainState.CRASHED,
    7: DomainState.ASLEEP,
}
_PHASES = {
    0: JobPhase.NONE,
    1: JobPhase.RUNNING,
    2: JobPhase.RUNNING,
    3: JobPhase.COMPLETED,
    4: JobPhase.FAILED,
    5: JobPhase.CANCELLED,
}
_OPERATIONS = {
    0: Operation.OTHER,
    1: Operation.START,
    2: Operation.SAVE,
    3: Operation.RESTORE,
    4: Operation.MIGRATION_IN,
    5: Operation.MIGRATION_OUT,
    6: Operation.SNAPSHOT,
    7: Operation.SNAPSHOT,
    8: Operation.DUMP,
    9: Operation.BACKUP,
}
# virDomainEventType, and the reasons of each
_LIFECYCLE = {
    2: EventKind.STARTED,
    3: EventKind.SUSPENDED,
    4: EventKind.RESUMED,
    5: EventKind.STOPPED,
    7: EventKind.SUSPENDED,  # by the guest itself
    8: EventKind.STOPPED,  # crashed
}
_REASONS = {
    2: ("booted", "migrated", "restored", "from snapshot", "wakeup"),
    3: (
        "paused",
        "migrated",
        "I/O error",
        "watchdog",
        "restored",
        "from snapshot",
        "API error",
        "post-copy",
        "post-copy failed",
    ),
    4: ("unpaused", "migrated", "from snapshot", "post-copy", "post-copy failed"),
    5: ("shutdown", "destroyed", "crashed", "migrated", "saved", "failed", "from snapshot"),
    7: ("memory", "disk"),
    8: ("panicked", "crash loaded"),
}


def state(number: int) -> DomainState:
    """A state, from virDomainState."""
    return _STATES.get(number, DomainState.OTHER)


def lifecycle(event: int, detail: int) -> tuple[EventKind, str] | None:
    """A lifecycle event and its reason; None for one that does not matter here."""
    kind = _LIFECYCLE.get(event)
    if kind is None:
        return None
    reasons = _REASONS[event]
    return kind, reasons[detail] if 0 <= detail < len(reasons) else ""


def memory_stats(told: Mapping[str, int], actual_kib: int) -> MemoryStats:
    """From what virDomainMemoryStats tells (KiB); `actual_kib` where it does not tell that."""

    def size(name: str) -> int | None:
        value = told.get(name)
        return None if value is None else value * KIB

    return MemoryStats(
        actual_bytes=told.get("actual", actual_kib) * KIB,
        rss_bytes=size("rss"),
        available_bytes=size("available"),
        unused_bytes=size("unused"),
        usable_bytes=size("usable"),
        disk_caches_bytes=size("disk_caches"),
        swap_in_bytes=size("swap_in"),
        swap_out_bytes=size("swap_out"),
        major_faults=told.get("major_fault"),
        last_update=told.get("last_update", 0),
    )


def job_stats(told: Mapping[str, object]) -> JobStats:
    """From what virDomainGetJobStats tells: milliseconds, bytes, pages."""

    def number(name: str) -> int:
        value = told.get(name)
        return value if isinstance(value, int) else 0

    phase = _PHASES.get(number("type"), JobPhase.NONE)
    if phase is JobPhase.NONE:
        return NO_JOB
    return JobStats(
        phase=phase,
        operation=_OPERATIONS.get(number("operation"), Operation.OTHER),
        elapsed_seconds=number("time_elapsed") / 1000,
        downtime_seconds=number("downtime") / 1000 if "downtime" in told else None,
        setup_seconds=number("setup_time") / 1000,
        memory_total_bytes=number("memory_total"),
        memory_processed_bytes=number("memory_processed"),
        memory_remaining_bytes=number("memory_remaining"),
        normal_pages=number("memory_normal"),
        normal_bytes=number("memory_normal_bytes"),
        zero_pages=number("memory_constant"),
        page_bytes=number("memory_page_size"),
        bytes_per_second=number("memory_bps"),
        dirty_pages_per_second=number("memory_dirty_rate"),
        iteration=number("memory_iteration"),
        postcopy_requests=number("memory_postcopy_requests"),
        throttle_percent=number("auto_converge_throttle"),
        disk_total_bytes=number("disk_total"),
        disk_processed_bytes=number("disk_processed"),
        error=str(told.get("errmsg", "")),
    )


def finished(told: Mapping[str, object]) -> JobStats:
    """From a job-completed event, whose dictionary has no type but whether it succeeded (since
    6.0.0)."""
    phase = 3 if told.get("success", 1) else 4
    return job_stats({"type": phase, **told})


# virDomainMigrateFlags
_LIVE, _PEER2PEER = 1 << 0, 1 << 1
_PERSIST_DEST, _UNDEFINE_SOURCE = 1 << 3, 1 << 4
_STORAGE_ALL, _STORAGE_INC = 1 << 6, 1 << 7
_UNSAFE, _COMPRESSED = 1 << 9, 1 << 11
_AUTO_CONVERGE, _POSTCOPY, _PARALLEL = 1 << 13, 1 << 15, 1 << 17


def migrate_flags(options: MigrateOptions) -> int:
    """The flags for virDomainMigrate3 and virDomainMigrateToURI3."""
    flags = _LIVE
    for wanted, flag in (
        (options.peer_to_peer, _PEER2PEER),
        (options.persist_destination, _PERSIST_DEST),
        (options.undefine_source, _UNDEFINE_SOURCE),
        (options.copy_storage is CopyStorage.ALL, _STORAGE_ALL),
        (options.copy_storage is CopyStorage.INCREMENTAL, _STORAGE_INC),
        (options.unsafe, _UNSAFE),
        (options.compressed, _COMPRESSED),
        (options.auto_converge, _AUTO_CONVERGE),
        (options.postcopy, _POSTCOPY),
        (options.parallel_connections > 0, _PARALLEL),
    ):
        flags |= flag if wanted else 0
    return flags


def migrate_parameters(options: MigrateOptions) -> dict[str, object]:
    """The typed parameters for them, by their names in the API."""
    all_of_them: dict[str, object] = {
        "migrate_uri": options.migrate_uri,
        "bandwidth": mib_per_second(options.bandwidth_bytes_per_second),
        "parallel.connections": options.parallel_connections,
    }
    return {name: value for name, value in all_of_them.items() if value}


def mib_per_second(bytes_per_second: int) -> int:
    """As libvirt counts it, at least 1 if it is anything at all: 0 means no limit there."""
    return -(-bytes_per_second // _MIB) if bytes_per_second else 0
