# SPDX-License-Identifier: LGPL-2.1-or-later
"""Notices of Tencent Cloud: when a spot instance is taken away. Its data do not stay.

Source: "Querying the Reclamation Status of a Spot Instance" and "Querying Instance Metadata" in the
documentation of Cloud Virtual Machine. There are no tokens.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta, timezone
from http import HTTPStatus

from hibprep.notices import Notice, ProviderName
from hibprep.signals.cloud.base import AnswerError, Link, NotHereError, Reply, Watch
from hibprep.signals.cloud.forms import expected, named
from hibprep.signals.cloud.link import Place, text_of
from hibprep.signals.cloud.termination import TerminationTime

# the address that the name has in Tencent's own networks: no name service is asked
PLACE = Place("169.254.0.23", host="metadata.tencentyun.com")

_DATA = "/latest/meta-data/"
_TIME = "spot/termination-time"
_INSTANCE = re.compile(r"ins-[0-9a-z]{1,60}", re.ASCII)
_LOCAL_TIME = re.compile(r"(\d{4})-(\d\d)-(\d\d) (\d\d):(\d\d):(\d\d)", re.ASCII)
_ZONE = timezone(timedelta(hours=8))  # in every region
# of a service that is another's, or wants a token
_NOT_THERE = (HTTPStatus.NOT_FOUND, HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN)


def is_instance(text: str) -> None:
    """Raise AnswerError for what is no id of an instance: `ins-3g445roi`. Pure."""
    if not _INSTANCE.fullmatch(text):
        raise AnswerError("what was given for the instance's id is none of Tencent Cloud's")


def termination_time(text: str) -> datetime:
    """`2018-08-18 12:05:33`, which is UTC+8 and does not say so; as UTC. Pure; raises
    AnswerError."""
    found = _LOCAL_TIME.fullmatch(text)
    if found is None:
        raise AnswerError("no time where one is expected")
    year, month, day, hour, minute, second = (int(part) for part in found.groups())
    try:
        at = datetime(year, month, day, hour, minute, second, tzinfo=_ZONE)
        return at.astimezone(UTC)
    except (ValueError, OverflowError):  # also in the first hours of the year 1
        raise AnswerError("a time that there is not") from None


class Tencent:
    """The provider."""

    def __init__(self, link: Link) -> None:
        self._link = link

    @property
    def name(self) -> ProviderName:
        """See `Provider.name`."""
        return ProviderName.TENCENT

    def watches(self) -> Sequence[Watch]:
        """See `Provider.watches`. Of an instance that is no spot instance the time is never
        there."""
        reply = self._item("instance-id")
        if reply.status in _NOT_THERE:
            raise NotHereError(
                "what answers does not know this machine as Tencent Cloud does: "
                f"{named(reply.status)}",
                "name the provider in notices.provider",
            )
        is_instance(text_of(expected(reply, HTTPStatus.OK)))
        return [TerminationTime(_TIME, self.name, lambda: self._item(_TIME), termination_time)]

    def acknowledge(self, notice: Notice) -> None:
        """See `Provider.acknowledge`."""
        raise NotHereError(
            f"Tencent Cloud takes no acknowledgement of {notice.kind}",
            'leave out do = "acknowledge" for it',
        )

    def _item(self, name: str) -> Reply:
        return self._link.request("GET", _DATA + name)
