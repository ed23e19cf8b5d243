# SPDX-License-Identifier: LGPL-2.1-or-later
"""Notices of Compute Engine, from its metadata server, which answers when there is news.

A value is asked for once, and from then on with the version (ETag) that is known: the server keeps
such a request until the value is another, or the time is over that it was asked to wait for.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from http import HTTPStatus
from urllib.parse import quote

from hibprep.clock import Clock, SystemClock
from hibprep.notices import Notice, ProviderName
from hibprep.signals.cloud import gcpforms
from hibprep.signals.cloud.base import AnswerError, Link, Look, NotHereError, Reply, Watch
from hibprep.signals.cloud.forms import expected
from hibprep.signals.cloud.link import Place, date_of, text_of

PLACE = Place("169.254.169.254", host="metadata.google.internal")

# Short, for the sake of a connection that has died while the machine slept or was moved: nothing is
# heard before that is noticed.
WAIT_SECONDS = 20
# the server is asked to answer after that, and may be a little late
WAIT_TIMEOUT_SECONDS = WAIT_SECONDS + 5.0
# A look that did not wait is followed by a rest: of a value that has no version, or of a server
# that knows of no waiting; of a change that came at once; of a key that there is not.
REST_SECONDS = 5.0
CHANGED_REST_SECONDS = 1.0
ABSENT_REST_SECONDS = 60.0
# a server that has waited for no longer has not waited
_AT_ONCE_SECONDS = 1.0

_BASE = "/computeMetadata/v1/instance/"
_FLAVOR = "Metadata-Flavor"
_GOOGLE = "Google"

Reader = Callable[[str], tuple[Notice, ...]]
Rest = Callable[[float], object]


class Gcp:
    """The provider."""

    def __init__(self, link: Link, clock: Clock | None = None, *, rest: Rest = time.sleep) -> None:
        self._link = link
        self._clock = clock or SystemClock()
        self._rest = rest

    @property
    def name(self) -> ProviderName:
        """See `Provider.name`."""
        return ProviderName.GCP

    def watches(self) -> Sequence[Watch]:
        """See `Provider.watches`: only a preemptible machine is preempted."""
        reply = _asked(self._link, "scheduling/?recursive=true", 2.0)
        how = gcpforms.Scheduling()
        if reply.status == HTTPStatus.OK:
            how = gcpforms.scheduling(text_of(reply))
        watches: list[Watch] = []
        if how.preemptible:
            watches.append(self._value("preempted", partial(gcpforms.preempted, how=how)))
        watches.append(self._value("maintenance-event", gcpforms.maintenance_event))
        return watches

    def _value(self, key: str, read: Reader) -> Watch:
        return _Value(self._link, key, read, self._clock, self._rest)

    def acknowledge(self, notice: Notice) -> None:
        """See `Provider.acknowledge`."""
        raise NotHereError(
            f"Compute Engine takes no acknowledgement of {notice.kind}",
            'leave out do = "acknowledge" for it',
        )


def _asked(link: Link, path: str, timeout_seconds: float) -> Reply:
    """The answer to a question about this instance, with status 200, or 404 for no such key."""
    reply = link.request(
        "GET", _BASE + path, headers={_FLAVOR: _GOOGLE}, timeout_seconds=timeout_seconds
    )
    if reply.headers.get(_FLAVOR.lower()) == _GOOGLE and reply.status == HTTPStatus.FORBIDDEN:
        raise NotHereError(
            "the metadata server answers nothing of this instance",
            "a proxy conceals it, as in some clusters: run hibprep on the machine itself",
        )
    # the server's own answers all have it, and those of a portal do not
    found = expected(reply, HTTPStatus.OK, HTTPStatus.NOT_FOUND)
    if found.headers.get(_FLAVOR.lower()) != _GOOGLE:
        raise AnswerError("what answers is not Google's metadata server: no Metadata-Flavor")
    return found


class _Value:
    """One value; a look at it takes until it changes."""

    pause_seconds = 0.0

    def __init__(self, link: Link, key: str, read: Reader, clock: Clock, rest: Rest) -> None:
        self.name = key
        self._link = link
        self._read = read
        self._clock = clock
        self._rest = rest
        self._etag = ""
        self._rest_seconds = 0.0  # before the next look

    def look(self) -> Look:
        """See `Watch.look`; what answers at once is not asked without end."""
        if self._rest_seconds > 0:
            self._rest(self._rest_seconds)
        began = self._clock.monotonic()
        known = self._etag
        reply = self._ask(known)
        if reply.status == HTTPStatus.NOT_FOUND:
            self._etag = ""
            self._rest_seconds = ABSENT_REST_SECONDS
            return Look(now=date_of(reply), words="404: there is no such value")
        notices = self._read(text_of(reply))
        self._etag = gcpforms.etag(reply.headers.get("etag", ""))
        self._rest_seconds = self._rest_after(known, self._clock.monotonic() - began)
        kinds = ", ".join(notice.kind for notice in notices)
        return Look(notices, date_of(reply), f"200: {kinds or 'nothing is announced'}")

    def _ask(self, known: str) -> Reply:
        if not known:
            return _asked(self._link, self.name, 2.0)
        query = f"wait_for_change=true&last_etag={quote(known, safe='')}&timeout_sec={WAIT_SECONDS}"
        return _asked(self._link, f"{self.name}?{query}", WAIT_TIMEOUT_SECONDS)

    def _rest_after(self, known: str, took_seconds: float) -> float:
        if not self._etag:
            return REST_SECONDS  # no version to wait with
        if not known or took_seconds >= _AT_ONCE_SECONDS:
            return 0.0
        return REST_SECONDS if self._etag == known else CHANGED_REST_SECONDS
