# SPDX-License-Identifier: LGPL-2.1-or-later
"""Notices of Azure: its Scheduled Events, of which those of this machine are picked out.

Each event is told of from its announcement to its end, and is gone without a word when it is called
off. The first question of a day has Azure switch the service on, which takes it up to two minutes;
events come within five.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from http import HTTPStatus

from hibprep.notices import Notice, NoticeKind, ProviderName
from hibprep.signals.cloud import azureforms
from hibprep.signals.cloud.base import (
    AnswerError,
    Link,
    Look,
    NoAnswerError,
    NotHereError,
    Reply,
    Watch,
)
from hibprep.signals.cloud.forms import expected, named
from hibprep.signals.cloud.link import Place, date_of, text_of

PLACE = Place("169.254.169.254")

# Microsoft recommends a second, which would cost 0.1 % of a processor and more. The least that is
# announced is 30 s for a spot machine and five minutes for any other.
SPOT_PAUSE_SECONDS = 2.0
PAUSE_SECONDS = 5.0
# "a delayed response in your first call of up to two minutes"
FIRST_SECONDS = 130.0
USUAL_SECONDS = 5.0
_ACKNOWLEDGE_SECONDS = 10.0

_COMPUTE = "/metadata/instance/compute/"
# evictionPolicy is there since 2020-12-01; a single value is had as text alone
_COMPUTE_QUERY = "?api-version=2021-02-01&format=text"
_EVENTS = "/metadata/scheduledevents?api-version=2020-07-01"
_METADATA = {"Metadata": "true"}
# The agent of the Metadata Security Protocol answers for the service where it is in force.
_NOT_ALLOWED = (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN)


class Azure:
    """The provider."""

    def __init__(self, link: Link) -> None:
        self._link = link

    @property
    def name(self) -> ProviderName:
        """See `Provider.name`."""
        return ProviderName.AZURE

    def watches(self) -> Sequence[Watch]:
        """See `Provider.watches`: one list has all events."""
        reply = self._compute("name")
        if reply.status in (HTTPStatus.NOT_FOUND, HTTPStatus.BAD_REQUEST):
            raise NotHereError(
                f"what answers does not know this machine as Azure does: {named(reply.status)}",
                "name the provider in notices.provider",
            )
        name = azureforms.machine_name(text_of(reply))
        reply = self._compute("evictionPolicy")
        policy = text_of(reply) if reply.status == HTTPStatus.OK else None
        # of a machine that is no spot machine it is told as nothing
        pause = PAUSE_SECONDS if policy == "" else SPOT_PAUSE_SECONDS
        return [_Events(self._link, name, azureforms.preemption(policy or ""), pause)]

    def _compute(self, key: str) -> Reply:
        """A value of this machine, or status 404 or 400 where there is none."""
        path = f"{_COMPUTE}{key}{_COMPUTE_QUERY}"
        reply = _answered(self._link.request("GET", path, headers=_METADATA))
        return expected(reply, HTTPStatus.OK, HTTPStatus.NOT_FOUND, HTTPStatus.BAD_REQUEST)

    def acknowledge(self, notice: Notice) -> None:
        """See `Provider.acknowledge`. The event may begin at once then, and it does so for all
        machines that it concerns. Azure says yes to what another machine has said yes to."""
        if not notice.acknowledge:
            raise NotHereError(
                f"there is nothing to acknowledge: {notice.id} has begun",
                "an event can be acknowledged while it is scheduled",
            )
        body = json.dumps({"StartRequests": [{"EventId": notice.acknowledge}]}).encode()
        reply = self._link.request(
            "POST",
            _EVENTS,
            headers={**_METADATA, "Content-Type": "application/json"},
            body=body,
            timeout_seconds=_ACKNOWLEDGE_SECONDS,
        )
        if reply.status == HTTPStatus.BAD_REQUEST:
            raise AnswerError("Azure does not take the acknowledgement for one: 400 Bad Request")
        expected(_answered(reply), HTTPStatus.OK)


def _answered(reply: Reply) -> Reply:
    """Any answer but one that says that we may not ask, or not now."""
    if reply.status in _NOT_ALLOWED:
        raise NotHereError(
            f"the metadata service does not let hibprep ask: {named(reply.status)}",
            "where the Metadata Security Protocol is enforced, its rules have to allow it",
        )
    if reply.status == HTTPStatus.GONE:  # "retry after some time for a max of 70 seconds"
        raise NoAnswerError(f"the metadata service cannot answer now: {named(reply.status)}")
    return reply


class _Events:
    """The list of scheduled events, as this machine has to read it."""

    name = "scheduledevents"

    def __init__(
        self, link: Link, machine: str, preempted: NoticeKind, pause_seconds: float
    ) -> None:
        self.pause_seconds = pause_seconds
        self._link = link
        self._machine = machine
        self._preempted = preempted
        self._seconds = FIRST_SECONDS

    def look(self) -> Look:
        """See `Watch.look`. When there was no answer, the next one is waited for longer: after a
        day without questions, as behind a hibernation, the service has to be switched on again."""
        seconds = self._seconds
        self._seconds = min(seconds * 2, FIRST_SECONDS)
        reply = self._link.request("GET", _EVENTS, headers=_METADATA, timeout_seconds=seconds)
        self._seconds = USUAL_SECONDS
        expected(_answered(reply), HTTPStatus.OK)
        told = azureforms.scheduled(text_of(reply), self._machine, self._preempted)
        return Look(told.notices, date_of(reply), _words(told))


def _words(told: azureforms.Scheduled) -> str:
    parts = [", ".join(notice.kind for notice in told.notices) or "nothing is scheduled here"]
    if told.unknown:
        parts.append(f"{told.unknown} of a kind that is not known")
    if told.others:
        parts.append(f"{told.others} for other machines alone")
    return f"200: {'; '.join(parts)}"
