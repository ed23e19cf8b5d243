# SPDX-License-Identifier: LGPL-2.1-or-later
"""Pure: the answers of Azure's metadata service as values; AnswerError for whatever they are not.

The forms are those of "Scheduled Events for Linux VMs" and of "Azure Instance Metadata Service" in
Microsoft's documentation of virtual machines. Scheduled Events has a list of its own in each
availability set and each scale set, which all of their machines are shown.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime

from hibprep.notices import Notice, NoticeKind, ProviderName
from hibprep.signals.cloud.base import AnswerError
from hibprep.signals.cloud.forms import document, fields, mail_time, one_line, utc_time, word

_MOST_EVENTS = 1000  # a scale set has 1000 machines at most
_MOST_RESOURCES = 1000
_LONGEST_SECONDS = 86_400

# Names of machines have no blanks in them, nor anything of which a page is made. The longest is a
# scale set's with the number of the machine behind it.
_NAME = re.compile(r"[\w.-]{1,128}")
_ZONE = re.compile(r"(?:Z|\+00:00)?$", re.ASCII)

_KINDS = {
    "Freeze": NoticeKind.FREEZE,
    "Reboot": NoticeKind.REBOOT,
    # Not a migration: "shuts down the virtual machine, moves it to a new node, and powers it back
    # on" (Virtual Machines - Redeploy). Memory is lost as in a reboot, and the temporary disk too.
    "Redeploy": NoticeKind.REBOOT,
    "Terminate": NoticeKind.TERMINATE,
}
_PREEMPT = "Preempt"
# "minimum notice" there, for an event of which no time is told; Terminate's is set by the user, to
# no less than this
_LEAD_SECONDS = {
    "Freeze": 900.0,
    "Reboot": 900.0,
    "Redeploy": 600.0,
    "Terminate": 300.0,
    _PREEMPT: 30.0,
}
_ADDED = {"Redeploy": "it starts anew on another host, with an empty temporary disk"}


@dataclass(frozen=True, slots=True)
class Scheduled:
    """What a document says to one machine: its own events, how many there are of others alone, and
    how many of its own are of a type that this version does not know."""

    notices: tuple[Notice, ...] = ()
    others: int = 0
    unknown: int = 0


def machine_name(text: str) -> str:
    """compute/name: how the events call this machine."""
    if not _NAME.fullmatch(text):
        raise AnswerError("what was given for the machine's name is none")
    return text


def preemption(text: str) -> NoticeKind:
    """compute/evictionPolicy: what becomes of this machine when its place is wanted back. Only
    "Deallocate" leaves its disks. Of a machine that does not tell (the policy is not in versions
    before 2020-12-01) we believe what the event is documented to be, a deletion: what has to be
    carried away is carried away then."""
    return NoticeKind.STOP if text.casefold() == "deallocate" else NoticeKind.TERMINATE


def scheduled(text: str, name: str, preempted: NoticeKind) -> Scheduled:
    """The document of /metadata/scheduledevents, as the machine `name` has to read it."""
    told = fields(document(text))
    incarnation, events = told.get("DocumentIncarnation"), told.get("Events")
    if not isinstance(incarnation, int) or isinstance(incarnation, bool):
        raise AnswerError("no document of scheduled events")
    if not isinstance(events, list) or len(events) > _MOST_EVENTS:
        raise AnswerError("no list of events")
    # what others are told is not looked into: an odd event of theirs must not hide one of ours
    own = [event for event in map(fields, events) if _concerns(event, name)]
    found = [_event(event, preempted) for event in own]
    notices = tuple(notice for notice in found if notice is not None)
    if len({notice.id for notice in notices}) != len(notices):
        raise AnswerError("two events of one id")
    return Scheduled(notices, others=len(events) - len(own), unknown=len(found) - len(notices))


def _concerns(event: dict[str, object], name: str) -> bool:
    resources = event.get("Resources")
    if not isinstance(resources, list) or len(resources) > _MOST_RESOURCES:
        raise AnswerError("an event without its resources")
    # Azure does not distinguish names by their case
    return any(isinstance(each, str) and each.casefold() == name.casefold() for each in resources)


def _event(event: dict[str, object], preempted: NoticeKind) -> Notice | None:
    event_id = word(event.get("EventId"))
    event_type = word(event.get("EventType"))
    status = event.get("EventStatus")
    if status not in ("Scheduled", "Started"):
        raise AnswerError("an event in a state that is not known")
    at = _time(event.get("NotBefore"))
    kind = preempted if event_type == _PREEMPT else _KINDS.get(event_type)
    if kind is None or event.get("ResourceType") != "VirtualMachine":
        return None
    begun = status == "Started"
    return Notice(
        kind=kind,
        source=ProviderName.AZURE,
        id=event_id,
        at=at,
        begun=begun,
        lead_seconds=_LEAD_SECONDS[event_type] if at is None and not begun else None,
        # what has begun needs nobody's consent any more
        acknowledge="" if begun else event_id,
        text=_text(event, event_type),
    )


def _time(told: object) -> datetime | None:
    """NotBefore; None for "", which it is once the event has begun. The service writes it as mail
    does, Microsoft's stand-in for it (scheduled-events-mock-server) as ISO 8601."""
    if told in (None, ""):
        return None
    if not isinstance(told, str):
        raise AnswerError("no time where one is expected")
    if told[4:5] == "-":  # 2016-09-19T…, which is UTC, whether it says so or not
        return utc_time(_ZONE.sub("Z", told, count=1))
    return mail_time(told)


def _text(event: dict[str, object], event_type: str) -> str:
    parts = [event_type]
    source = event.get("EventSource")
    if source in ("Platform", "User"):
        parts[0] += f" ({source})"
    seconds = event.get("DurationInSeconds")
    # -1: not known, or no use in knowing it
    if type(seconds) is int and 0 <= seconds <= _LONGEST_SECONDS:
        parts.append(f"for {seconds} s")
    resources = event.get("Resources")
    others = len(resources) - 1 if isinstance(resources, list) else 0
    if others:
        parts.append(f"together with {others} other machine{'s' if others > 1 else ''}")
    said = "; ".join(filter(None, (one_line(event.get("Description")), _ADDED.get(event_type))))
    line = ", ".join(parts)
    return f"{line}: {said}" if said else line
