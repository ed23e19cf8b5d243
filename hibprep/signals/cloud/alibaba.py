# SPDX-License-Identifier: LGPL-2.1-or-later
"""Notices of Alibaba Cloud: when a spot instance is taken away, told some five minutes before.

The metadata is asked for with a token alone ("security hardening mode"), which every instance
knows. Whether the instance is then released or only stopped is set for it, and not told to it: a
release is what happens by default, and what is assumed.

Source: "Instance metadata" and "Detect and handle spot instance interruptions" in the documentation
of Elastic Compute Service.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime
from http import HTTPStatus

from hibprep.clock import Clock, SystemClock
from hibprep.notices import Notice, ProviderName
from hibprep.signals.cloud.base import AnswerError, Link, NotHereError, Reply, Watch
from hibprep.signals.cloud.forms import expected, named, utc_time
from hibprep.signals.cloud.link import Place, text_of
from hibprep.signals.cloud.termination import TerminationTime
from hibprep.signals.cloud.tokens import Token, TokenForm, Tokens

PLACE = Place("100.100.100.200")

LONGEST_TOKEN_SECONDS = 21600  # "from 1 to 21,600"

_DATA = "/latest/meta-data/"
_TIME = "instance/spot/termination-time"
# Its form is not told. It has nothing in it that could end a header, and is no page and no "OK".
_TOKEN = re.compile(r"[A-Za-z0-9+/=_.~-]{16,1024}", re.ASCII)
_INSTANCE = re.compile(r"i-[0-9a-z]{1,60}", re.ASCII)
_NO_TOKENS = (
    HTTPStatus.FORBIDDEN,
    HTTPStatus.NOT_FOUND,
    HTTPStatus.METHOD_NOT_ALLOWED,
    HTTPStatus.NOT_IMPLEMENTED,
)


def token(text: str) -> Token:
    """What a request for a token was answered with. Pure."""
    if not _TOKEN.fullmatch(text):
        raise AnswerError("what was given for a token is none")
    return Token(text, LONGEST_TOKEN_SECONDS)


def is_instance(text: str) -> None:
    """Raise AnswerError for what is no id of an instance: `i-bp67acfmxazb4p…`. Pure."""
    if not _INSTANCE.fullmatch(text):
        raise AnswerError("what was given for the instance's id is none of Alibaba Cloud's")


def termination_time(text: str) -> datetime | None:
    """`2015-01-05T18:02:00Z`. Nothing at all is what earlier versions of the documentation have for
    an instance that stays. Pure; raises AnswerError."""
    return utc_time(text) if text else None


class Alibaba:
    """The provider."""

    def __init__(self, link: Link, clock: Clock | None = None) -> None:
        self._link = link
        self._clock = clock or SystemClock()
        self._tokens = self._new_tokens()

    @property
    def name(self) -> ProviderName:
        """See `Provider.name`."""
        return ProviderName.ALIBABA

    def watches(self) -> Sequence[Watch]:
        """See `Provider.watches`. The metadata does not tell whether this is a spot instance."""
        reply = self._item("instance-id")
        if reply.status == HTTPStatus.NOT_FOUND:
            raise NotHereError(
                "what answers has no instance-id, as Alibaba Cloud's metadata has",
                "name the provider in notices.provider",
            )
        is_instance(text_of(reply))
        return [TerminationTime(_TIME, self.name, lambda: self._item(_TIME), termination_time)]

    def acknowledge(self, notice: Notice) -> None:
        """See `Provider.acknowledge`."""
        raise NotHereError(
            f"Alibaba Cloud takes no acknowledgement of {notice.kind}",
            'leave out do = "acknowledge" for it',
        )

    def _item(self, name: str) -> Reply:
        """With status 200, or 404 when there is none now."""
        reply = self._tokens.get(_DATA + name)
        if reply.status == HTTPStatus.FORBIDDEN:
            # what a token is answered that holds no longer is not told: it may be this as well
            self._tokens = self._new_tokens()
            reply = self._tokens.get(_DATA + name)
        _refuse_switched_off(reply)
        return expected(reply, HTTPStatus.OK, HTTPStatus.NOT_FOUND)

    def _new_tokens(self) -> Tokens:
        form = TokenForm(
            path="/latest/api/token",
            seconds_header="X-aliyun-ecs-metadata-token-ttl-seconds",
            seconds=LONGEST_TOKEN_SECONDS,
            token_header="X-aliyun-ecs-metadata-token",  # noqa: S106 - the name of a header
            read=lambda reply: token(text_of(reply)),
            refuse=_refuse,
        )
        return Tokens(self._link, form, self._clock)


def _refuse(reply: Reply) -> None:
    if reply.status in _NO_TOKENS:
        raise NotHereError(
            f"what answers gives no tokens, as Alibaba Cloud's metadata service does: "
            f"{named(reply.status)}",
            "switch the instance's metadata on (ModifyInstanceMetadataOptions, HttpEndpoint), or "
            "name the provider in notices.provider",
        )


def _refuse_switched_off(reply: Reply) -> None:
    if reply.status == HTTPStatus.FORBIDDEN:
        raise NotHereError(
            "the metadata service of this instance does not let us ask",
            "switch it on (ModifyInstanceMetadataOptions, HttpEndpoint = enabled)",
        )
