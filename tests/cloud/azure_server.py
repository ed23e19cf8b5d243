# SPDX-License-Identifier: LGPL-2.1-or-later
"""Azure's metadata service as Microsoft's documentation describes it: the header and the version
that every request has to have, values of the machine as text, and the list of scheduled events with
its approvals."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from urllib.parse import parse_qs, urlsplit

from tests.cloud.server import Answer, Asked, MetadataServer, json_text, text

COMPUTE = "/metadata/instance/compute/"
EVENTS = "/metadata/scheduledevents"
_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


def in_words(at: datetime) -> str:
    """As the service has a time."""
    at = at.astimezone(UTC)
    day = f"{_DAYS[at.weekday()]}, {at.day:02} {_MONTHS[at.month - 1]} {at.year}"
    return f"{day} {at:%H:%M:%S} GMT"


def event(event_type: str, at: datetime, **fields: object) -> dict[str, object]:
    """An event that is scheduled for machine vm_0, unless it is said otherwise."""
    return {
        "EventId": "C7061BAC-AFDC-4513-B24B-AA5F13A16123",
        "EventStatus": "Scheduled",
        "EventType": event_type,
        "ResourceType": "VirtualMachine",
        "Resources": ["vm_0"],
        "NotBefore": in_words(at),
        "Description": "Host server is undergoing maintenance.",
        "EventSource": "Platform",
        "DurationInSeconds": -1,
    } | fields


def document(*events: dict[str, object]) -> str:
    """A list of events as it is sent."""
    return json.dumps({"DocumentIncarnation": 1, "Events": list(events)})


class AzureServer(MetadataServer):
    """The service; `compute` is what it knows of the machine."""

    def __init__(self, *, listens: bool = True) -> None:
        super().__init__(listens=listens)
        self.compute = {"name": "vm_0", "evictionPolicy": ""}
        self.events: list[dict[str, object]] = []
        self.incarnation = 1
        self.enabling_seconds = 0.0  # of the first question for events

    # --- what befalls the machine -------------------------------------------------------------

    def schedule(self, *events: dict[str, object]) -> None:
        """These events and no others."""
        with self.change():
            self.events = list(events)
            self.incarnation += 1

    def start(self, event_id: str) -> None:
        """It begins, by its time or because it was approved."""
        with self.change():
            for each in self.events:
                if each["EventId"] == event_id:
                    each |= {"EventStatus": "Started", "NotBefore": ""}
            self.incarnation += 1

    # --- what it answers ----------------------------------------------------------------------

    def answer(self, asked: Asked) -> Answer:
        if asked.headers.get("metadata", "").lower() != "true":
            return _bad("Required metadata header not specified")
        if "x-forwarded-for" in asked.headers:
            return _bad("X-Forwarded-For")
        parts = urlsplit(asked.path)
        query = {name: values[-1] for name, values in parse_qs(parts.query).items()}
        if "api-version" not in query:
            return _bad("api-version was not specified in the request")
        if parts.path == EVENTS:
            return self._approve(asked.body) if asked.method == "POST" else self._events()
        key = parts.path.removeprefix(COMPUTE)
        if asked.method != "GET":
            return Answer(status=405)
        if parts.path == key or key not in self.compute:
            return Answer(status=404, body=b'{ "error": "Not found" }')
        # one value alone is not had as JSON, which is what is given where no format is asked for
        return text(self.compute[key]) if query.get("format") == "text" else _bad("format")

    def _events(self) -> Answer:
        first = not any(each.path.startswith(EVENTS) for each in self.asked[:-1])
        if first:
            self.pause(self.enabling_seconds)
        with self.changed:
            told = {"DocumentIncarnation": self.incarnation, "Events": self.events}
            return json_text(json.dumps(told))

    def _approve(self, body: bytes) -> Answer:
        try:
            wanted = [str(each["EventId"]) for each in json.loads(body)["StartRequests"]]
        except (ValueError, KeyError, TypeError):
            return _bad("payload")
        with self.changed:
            known = {str(each["EventId"]) for each in self.events}
        if not wanted or not set(wanted) <= known:
            return _bad("EventId")
        for event_id in wanted:
            self.start(event_id)
        return Answer()


def _bad(why: str) -> Answer:
    return Answer(status=400, body=json.dumps({"error": f"Bad request. {why}"}).encode())
