# SPDX-License-Identifier: LGPL-2.1-or-later
"""The time at which a spot instance is taken away: an item of the metadata that is not there until
it is decided, as Alibaba Cloud and Tencent Cloud have it. Nothing else is announced by it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from http import HTTPStatus

from hibprep.notices import Notice, NoticeKind, ProviderName
from hibprep.signals.cloud.base import Look, Reply
from hibprep.signals.cloud.forms import expected
from hibprep.signals.cloud.link import date_of, text_of

# two minutes and more are left when it appears
PAUSE_SECONDS = 5.0


def notice_of(source: ProviderName, at: datetime) -> Notice:
    """The notice, whose id is made of the time. Pure."""
    return Notice(
        kind=NoticeKind.TERMINATE,
        source=source,
        id=f"spot-terminate-{at.astimezone(UTC):%Y%m%dT%H%M%SZ}",
        at=at,
        text="the spot instance is taken away",
    )


class TerminationTime:
    """A watch of that item. `get` asks for it; `read` makes a time of it, None where it says that
    there is none, and raises AnswerError for anything else."""

    pause_seconds = PAUSE_SECONDS

    def __init__(
        self,
        name: str,
        source: ProviderName,
        get: Callable[[], Reply],
        read: Callable[[str], datetime | None],
    ) -> None:
        self.name = name
        self._source = source
        self._get = get
        self._read = read
        self._id = ""  # by which it was told of first: another time is a new time for the same

    def look(self) -> Look:
        """See `Watch.look`."""
        reply = expected(self._get(), HTTPStatus.OK, HTTPStatus.NOT_FOUND)
        there = reply.status == HTTPStatus.OK
        at = self._read(text_of(reply)) if there else None
        if at is None:
            self._id = ""
            words = f"{'200' if there else '404'}: nothing is announced"
            return Look(now=date_of(reply), words=words)
        notice = notice_of(self._source, at)
        self._id = self._id or notice.id
        return Look((replace(notice, id=self._id),), date_of(reply), f"200: {notice.kind}")
