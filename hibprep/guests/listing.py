# SPDX-License-Identifier: LGPL-2.1-or-later
"""The guests of a host: what can be done for each, and what it would gain. Changes nothing, and
asks no guest: what the statistics hold by now is what there is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hibprep.errors import HibprepError
from hibprep.guests.balloon import Reserve
from hibprep.guests.errors import RecordMalformedError
from hibprep.guests.estimate import DEFAULT_BYTES_PER_SECOND, Discard, as_it_is
from hibprep.guests.estimating import ways_of
from hibprep.guests.ladder import Rung, RungName, offers
from hibprep.guests.port import Domain, Host, JobPhase
from hibprep.guests.report import VERSION, Failure
from hibprep.guests.undo import read_record
from hibprep.page import Block, Page, size


@dataclass(frozen=True, slots=True, kw_only=True)
class Listed:
    """One guest. What is not known is None: `now_bytes` and `prepared_bytes` are what moving it
    would send. `record` says in words what there is to undo."""

    name: str
    uuid: str
    state: str
    maximum_bytes: int
    actual_bytes: int
    ways: tuple[Rung, ...]
    discards: tuple[str, ...]
    why_useless: str
    now_bytes: int | None
    prepared_bytes: int | None
    record: str
    job: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """The guests of a host, and what kept some from being looked at."""

    version: int
    uri: str
    guests: tuple[Listed, ...]
    failures: tuple[Failure, ...] = ()


def list_guests(host: Host, reserve: Reserve) -> Listing:
    """All of them; one that goes away meanwhile is among the failures."""
    found, failures = [], []
    for domain in host.domains():
        try:
            found.append(_listed(domain, reserve))
        except HibprepError as error:
            failures.append(Failure(domain.name, str(error)))
    return Listing(version=VERSION, uri=host.uri, guests=tuple(found), failures=tuple(failures))


def _listed(domain: Domain, reserve: Reserve) -> Listed:
    info = domain.info()
    hardware = info.hardware
    stats = domain.memory_stats() if info.active else None
    content = domain.content_bytes() if stats else None
    ways = ways_of(info, stats, reserve, DEFAULT_BYTES_PER_SECOND, content) if stats else ()
    now = as_it_is(stats, hardware, info.maximum_bytes, content_bytes=content) if stats else None
    job = domain.job() if info.active else None
    return Listed(
        name=info.name,
        uuid=info.uuid,
        state="saved" if info.has_managed_save else str(info.state),
        maximum_bytes=info.maximum_bytes,
        actual_bytes=stats.actual_bytes if stats else info.actual_bytes,
        ways=offers(hardware),
        discards=tuple(
            str(discard)
            for discard, why in (
                (Discard.REPORTING, hardware.why_no_reporting),
                (Discard.BALLOON, hardware.why_no_balloon),
            )
            if not why
        ),
        why_useless=hardware.why_no_balloon if hardware.why_no_reporting else "",
        now_bytes=now.sent_bytes if now else None,
        prepared_bytes=ways[0].estimate.sent_bytes if ways else None,
        record=_record_words(domain),
        job=str(job.operation) if job and job.phase is not JobPhase.NONE else "",
    )


def _record_words(domain: Domain) -> str:
    try:
        record = read_record(domain)
    except RecordMalformedError as error:
        return error.message
    if record is None:
        return ""
    if not record.set_bytes:
        return f"prepared since {record.written}, its balloon untouched"
    return f"prepared at {record.written}: had {size(record.original_bytes)}"


def listing_page(listing: Listing) -> Page:
    """One row a guest."""
    running = sum(1 for guest in listing.guests if guest.now_bytes is not None)
    notes = [
        f"{guest.name}: {words}"
        for guest in listing.guests
        for words in (guest.why_useless, guest.record, guest.job and f"{guest.job} is under way")
        if words
    ]
    if any(guest.now_bytes and guest.prepared_bytes is None for guest in listing.guests):
        notes.append(
            "where the gain is not known the guest tells no statistics by itself; "
            "`hibprep guest estimate` asks it"
        )
    notes += [f"{each.name}: {each.reason}" for each in listing.failures]
    return Page(
        f"guests of {listing.uri}: {len(listing.guests)}, {running} of them with memory",
        (
            Block(
                "Guests",
                tuple(_row(guest) for guest in listing.guests),
                ("guest", "state", "memory", "moving sends", "prepared", "in the guest", "then"),
                frozenset({2, 3, 4}),
            ),
        ),
        tuple(notes),
    )


def _row(guest: Listed) -> tuple[str, ...]:
    inside: Sequence[str] = [
        str(way.name) for way in guest.ways if way.used and way.name is not RungName.BALLOON
    ]
    return (
        guest.name,
        guest.state,
        size(guest.actual_bytes),
        "-" if guest.now_bytes is None else size(guest.now_bytes),
        "-" if guest.prepared_bytes is None else size(guest.prepared_bytes),
        ", ".join(inside) or "-",
        ", ".join(guest.discards) or "-",
    )
