# SPDX-License-Identifier: LGPL-2.1-or-later
"""Pure: the answers of Compute Engine's metadata server as values; AnswerError for whatever they
are not.

The forms are those of "Query metadata server for maintenance event notices", "Spot VMs" and "View
and query VM metadata" in the documentation of Compute Engine.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from hibprep.notices import Notice, NoticeKind, ProviderName
from hibprep.signals.cloud.base import AnswerError
from hibprep.signals.cloud.forms import document, fields

# the value changes so long before the event, an hour where the machine has a GPU
MAINTENANCE_SECONDS = 60.0
# what the guest has between ACPI's soft off, which comes with the value, and the hard one, at best
PREEMPTION_SECONDS = 30.0
# the only other that can be asked for, between the value and ACPI's soft off
NOTICE_SECONDS = 120.0

_MAINTENANCE = {
    "NONE": None,
    "MIGRATE_ON_HOST_MAINTENANCE": NoticeKind.MIGRATE,
    # switched off, and started anew elsewhere if automatic-restart says so: memory is lost
    "TERMINATE_ON_HOST_MAINTENANCE": NoticeKind.STOP,
    "SHUTDOWN_ON_HOST_MAINTENANCE": NoticeKind.STOP,  # what it was called before
}
_ETAG = re.compile(r"[A-Za-z0-9._:+/=-]{1,128}", re.ASCII)
_DURATION = re.compile(r"[0-9]{1,4}s?", re.ASCII)


@dataclass(frozen=True, slots=True)
class Scheduling:
    """What becomes of this machine when its place is wanted back."""

    preemptible: bool = True  # where it is not told
    notice_seconds: float = PREEMPTION_SECONDS
    preempted: NoticeKind = NoticeKind.STOP


def etag(value: str) -> str:
    """The version of a value, for a request that waits for the next one; "" when there is none."""
    return value if _ETAG.fullmatch(value) else ""


def scheduling(text: str) -> Scheduling:
    """instance/scheduling/, recursively. Of its keys only preemptible, on-host-maintenance and
    automatic-restart are documented; the others are read as the API has them, where they are
    told."""
    told = fields(document(text))
    deleted = told.get("instanceTerminationAction") == "DELETE"
    return Scheduling(
        preemptible=_truth(told.get("preemptible", True)),
        notice_seconds=_notice_seconds(told.get("preemptionNoticeDuration")),
        preempted=NoticeKind.TERMINATE if deleted else NoticeKind.STOP,
    )


def _truth(value: object) -> bool:
    if isinstance(value, bool):
        return value
    if value not in ("TRUE", "FALSE"):
        raise AnswerError("neither TRUE nor FALSE")
    return value == "TRUE"


def _notice_seconds(value: object) -> float:
    """`120s`, or `{"seconds": "120"}`; what is none of both promises nothing."""
    if isinstance(value, dict):
        value = value.get("seconds")
    found = str(value) if isinstance(value, int | str) else ""
    if not _DURATION.fullmatch(found):
        return PREEMPTION_SECONDS
    return NOTICE_SECONDS if int(found.rstrip("s")) >= NOTICE_SECONDS else PREEMPTION_SECONDS


def preempted(text: str, how: Scheduling) -> tuple[Notice, ...]:
    """instance/preempted. No time is told, and it stays TRUE until the machine is off."""
    if text not in ("TRUE", "FALSE"):
        raise AnswerError("neither TRUE nor FALSE")
    if text == "FALSE":
        return ()
    notice = Notice(
        kind=how.preempted,
        source=ProviderName.GCP,
        id="preempted",
        lead_seconds=how.notice_seconds,
        text="preempted",
    )
    return (notice,)


def maintenance_event(text: str) -> tuple[Notice, ...]:
    """instance/maintenance-event. Of a live migration the server only tells who has asked at least
    once since the last one; we always do."""
    if text not in _MAINTENANCE:
        raise AnswerError("a maintenance event that is not known")
    kind = _MAINTENANCE[text]
    if kind is None:
        return ()
    notice = Notice(
        kind=kind,
        source=ProviderName.GCP,
        id=f"maintenance-{text}",
        lead_seconds=MAINTENANCE_SECONDS,
        text=text,
    )
    return (notice,)
