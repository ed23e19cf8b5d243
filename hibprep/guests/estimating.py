# SPDX-License-Identifier: LGPL-2.1-or-later
"""What moving one guest would send: statistics that are of now, and the ways that it offers."""

from __future__ import annotations

from hibprep.guests.balloon import DEFAULT_RESERVE, Reserve
from hibprep.guests.errors import JobActiveError
from hibprep.guests.estimate import DEFAULT_BYTES_PER_SECOND, Discard, as_it_is, prepared
from hibprep.guests.ladder import RungName, offers
from hibprep.guests.means import Means
from hibprep.guests.port import Domain, DomainInfo, JobPhase, MemoryStats
from hibprep.guests.record import Record
from hibprep.guests.report import VERSION, GuestEstimate, Way
from hibprep.guests.statistics import fresh
from hibprep.guests.undo import read_record, undo, write_record

_LONGEST_WAIT_SECONDS = 10.0


def estimate_guest(
    domain: Domain,
    means: Means,
    reserve: Reserve = DEFAULT_RESERVE,
    bytes_per_second: float = DEFAULT_BYTES_PER_SECOND,
) -> GuestEstimate:
    """What moving it would send, from fresh statistics. Where the guest tells them never or seldom,
    it is told to for a moment, with a record to put that back from."""
    info = domain.info()
    stats, notes = _look(domain, info, means)
    content = domain.content_bytes() if info.active else None
    age = means.clock.now().timestamp() - stats.last_update if stats.last_update else None
    if not stats.told_by_guest:
        notes.append("the guest tells no statistics of its memory: what it uses is not known")
    if info.hardware.vfio or info.hardware.huge_pages:
        notes.append(info.hardware.why_no_balloon)
    return GuestEstimate(
        version=VERSION,
        name=info.name,
        uuid=info.uuid,
        age_seconds=None if age is None else max(0.0, age),
        now=as_it_is(
            stats, info.hardware, info.maximum_bytes, bytes_per_second, content_bytes=content
        ),
        prepared=ways_of(info, stats, reserve, bytes_per_second, content),
        rungs=offers(info.hardware),
        notes=tuple(notes),
    )


def _look(domain: Domain, info: DomainInfo, means: Means) -> tuple[MemoryStats, list[str]]:
    """Statistics, fresh if the guest can tell them now, and what there is to say about that."""
    stats = domain.memory_stats()
    if not (info.running and info.hardware.balloon):
        return stats, [] if info.running else [f"it is {info.state}"]
    if domain.job().phase is not JobPhase.NONE:
        return stats, ["a job is under way: these are the statistics of before"]
    if info.hardware.stats_period_seconds:
        wait = info.hardware.stats_period_seconds + 2.0
        told = fresh(
            domain, clock=means.clock, stop=means.stop, seconds=min(wait, _LONGEST_WAIT_SECONDS)
        )
        return told or domain.memory_stats(), []
    before = read_record(domain)
    if before is not None:  # it is prepared, or was left so: not ours to change
        return stats, ["it has a record to be undone"]
    record = Record(original_bytes=stats.actual_bytes, owner=means.owner)
    try:
        write_record(domain, record)
        told = fresh(domain, clock=means.clock, stop=means.stop, at_once=True)
    except JobActiveError:
        return stats, ["a job has begun: these are the statistics of before"]
    finally:
        undo(domain, means.calmly())
    return told or domain.memory_stats(), []


def ways_of(
    info: DomainInfo,
    stats: MemoryStats,
    reserve: Reserve,
    bytes_per_second: float,
    content_bytes: int | None = None,
) -> tuple[Way, ...]:
    """What each way that it offers would send, the best first."""
    hardware = info.hardware
    inside = any(way.used for way in offers(hardware) if way.name is not RungName.BALLOON)
    wanted = []
    if inside and not hardware.why_no_reporting:
        wanted.append(("free page reporting", Discard.REPORTING, True))
    if not hardware.why_no_balloon:
        if inside:
            wanted.append(("caches dropped, balloon", Discard.BALLOON, True))
        wanted.append(("balloon alone", Discard.BALLOON, False))
    found = []
    for name, discard, trimmed in wanted:
        each = prepared(
            stats,
            hardware,
            info.maximum_bytes,
            discard=discard,
            trimmed=trimmed,
            reserve=reserve,
            bytes_per_second=bytes_per_second,
            content_bytes=content_bytes,
        )
        if each is not None:
            found.append(Way(name, each))
    return tuple(sorted(found, key=lambda way: way.estimate.sent_bytes))
