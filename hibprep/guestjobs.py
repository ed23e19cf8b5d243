# SPDX-License-Identifier: LGPL-2.1-or-later
"""What migrations away from this host and saves of its guests took, whoever began them: one line
each in `/var/lib/hibprep/guests.jsonl`, written by the daemon from what libvirt tells."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from hibprep.clock import Clock
from hibprep.events import GuestJob
from hibprep.history import STATE_DIRECTORY, Log
from hibprep.page import Block, Page, seconds, size

FILE_NAME = "guests.jsonl"


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptJob:
    """One job that ended well; see `hibprep.events.GuestJob`."""

    ended: str  # ISO 8601, UTC
    name: str
    uuid: str
    operation: str
    seconds: float
    downtime_seconds: float | None = None
    total_bytes: int = 0
    sent_bytes: int = 0
    normal_pages: int = 0
    zero_pages: int = 0
    disk_bytes: int = 0


class GuestJobs(Log[KeptJob]):
    """Those under one root."""

    def __init__(self, root_prefix: str = "/", keep: int = 100, clock: Clock | None = None) -> None:
        path = Path(root_prefix or "/") / STATE_DIRECTORY / FILE_NAME
        super().__init__(path, KeptJob, keep, clock)


def kept_job(job: GuestJob, ended: datetime) -> KeptJob:
    """What is kept of a job."""
    return KeptJob(ended=ended.isoformat(timespec="seconds"), **dataclasses.asdict(job))


def guest_jobs_page(jobs: Iterable[KeptJob], notes: Iterable[str] = ()) -> Page:
    """The jobs of guests, the latest last."""
    found = tuple(jobs)
    return Page(
        f"{len(found)} job{'' if len(found) == 1 else 's'} of guests kept."
        if found
        else "No job of a guest is kept.",
        (
            Block(
                "Guests",
                tuple(
                    (
                        each.ended,
                        each.name,
                        each.operation,
                        size(each.sent_bytes),
                        size(each.total_bytes),
                        seconds(each.seconds),
                        "-"
                        if each.downtime_seconds is None
                        else f"{each.downtime_seconds * 1000:.0f} ms",
                    )
                    for each in found
                ),
                ("ended", "guest", "job", "sent", "of", "time", "stood still"),
                frozenset({3, 4, 5, 6}),
            ),
        ),
        tuple(notes),
    )
