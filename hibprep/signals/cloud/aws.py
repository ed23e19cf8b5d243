# SPDX-License-Identifier: LGPL-2.1-or-later
"""Notices of EC2, from its instance metadata service (IMDSv2; the first version is not asked).

An interruption that hibernates is told of as it begins: there is no time left then, and what pays
is what was prepared before, for a rebalance recommendation at the latest.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from http import HTTPStatus

from hibprep.clock import Clock, SystemClock
from hibprep.notices import Notice, ProviderName
from hibprep.signals.cloud import awsforms
from hibprep.signals.cloud.base import AnswerError, Link, Look, NotHereError, Reply, Watch
from hibprep.signals.cloud.forms import expected
from hibprep.signals.cloud.link import Place, date_of, text_of
from hibprep.signals.cloud.tokens import Token, TokenForm, Tokens

PLACE = Place("169.254.169.254")

# what the User Guide recommends for interruptions
SPOT_PAUSE_SECONDS = 5.0
# a life-cycle hook waits for an hour by default; a maintenance is announced days before
GROUP_PAUSE_SECONDS = 15.0
MAINTENANCE_PAUSE_SECONDS = 60.0
CONFIGURED_PAUSE_SECONDS = 3600.0  # it is decided at the launch
# A maintenance is told of as a notice so long before, as Azure has it: what is done on a notice is
# done at once, and would be undone, or in the way, for two weeks.
MAINTENANCE_LEAD_SECONDS = 900.0

_DATA = "/latest/meta-data/"
_NOTHING = "404: nothing is announced"
_SECONDS_HEADER = "x-aws-ec2-metadata-token-ttl-seconds"
# A termination-time stays where the termination has failed. It may be a little late as well.
_FAILED_SECONDS = 120.0
# what a service answers that knows of no tokens, as the metadata of others does
_NO_TOKENS = (HTTPStatus.NOT_FOUND, HTTPStatus.METHOD_NOT_ALLOWED, HTTPStatus.NOT_IMPLEMENTED)


class Aws:
    """The provider."""

    def __init__(self, link: Link, clock: Clock | None = None) -> None:
        self._data = _Data(link, clock or SystemClock())

    @property
    def name(self) -> ProviderName:
        """See `Provider.name`."""
        return ProviderName.AWS

    def watches(self) -> Sequence[Watch]:
        """See `Provider.watches`: an instance that is no spot instance is never interrupted."""
        reply = self._data.item("instance-life-cycle")
        # a stand-in may not have it: all are looked at then
        spot = reply.status == HTTPStatus.NOT_FOUND or awsforms.is_spot(text_of(reply))
        return [
            *(self._of_spot() if spot else ()),
            _Item(
                self._data,
                "autoscaling/target-lifecycle-state",
                GROUP_PAUSE_SECONDS,
                awsforms.target_state,
            ),
            _Item(
                self._data,
                "events/maintenance/scheduled",
                MAINTENANCE_PAUSE_SECONDS,
                awsforms.scheduled,
                lead_seconds=MAINTENANCE_LEAD_SECONDS,
            ),
            _Configured(self._data),
        ]

    def _of_spot(self) -> tuple[Watch, ...]:
        return (
            _Interruption(self._data),
            _Item(
                self._data,
                "events/recommendations/rebalance",
                SPOT_PAUSE_SECONDS,
                awsforms.rebalance,
                made_ids=True,
            ),
        )

    def acknowledge(self, notice: Notice) -> None:
        """See `Provider.acknowledge`."""
        raise NotHereError(
            f"EC2 takes no acknowledgement of {notice.kind}",
            "a life-cycle hook of an Auto Scaling group is completed by its own API",
        )


class _Data:
    """The metadata, item by item."""

    def __init__(self, link: Link, clock: Clock) -> None:
        form = TokenForm(
            path="/latest/api/token",
            seconds_header=_SECONDS_HEADER,
            seconds=awsforms.LONGEST_TOKEN_SECONDS,
            token_header="x-aws-ec2-metadata-token",  # noqa: S106 - the name of a header
            read=_token_of,
            refuse=_refuse,
        )
        self._tokens = Tokens(link, form, clock)
        self.clock = clock

    def item(self, name: str) -> Reply:
        """With status 200, or 404 when there is none now."""
        reply = self._tokens.get(_DATA + name)
        _refuse_switched_off(reply)
        return expected(reply, HTTPStatus.OK, HTTPStatus.NOT_FOUND)


def _token_of(reply: Reply) -> Token:
    seconds = awsforms.token_seconds(reply.headers.get(_SECONDS_HEADER, ""))
    return Token(awsforms.token(text_of(reply)), seconds)


def _refuse(reply: Reply) -> None:
    _refuse_switched_off(reply)
    if reply.status in _NO_TOKENS:
        raise NotHereError(
            "what answers gives no tokens, as EC2's metadata service does",
            "name the provider in notices.provider",
        )


def _refuse_switched_off(reply: Reply) -> None:
    if reply.status == HTTPStatus.FORBIDDEN:
        raise NotHereError(
            "the metadata service of this instance is switched off",
            "aws ec2 modify-instance-metadata-options --http-endpoint enabled --instance-id ID",
        )


class _Item:
    """One item, which is there only while there is something to tell, or is a list."""

    def __init__(
        self,
        data: _Data,
        name: str,
        pause_seconds: float,
        read: awsforms.Reader,
        *,
        made_ids: bool = False,
        lead_seconds: float = math.inf,
    ) -> None:
        self.name = name
        self.pause_seconds = pause_seconds
        self._data = data
        self._read = read
        self._made_ids = made_ids
        self._lead_seconds = lead_seconds
        self._before: tuple[Notice, ...] = ()

    def look(self) -> Look:
        """See `Watch.look`."""
        reply = self._data.item(self.name)
        if reply.status == HTTPStatus.NOT_FOUND:
            self._before = ()
            return Look(now=date_of(reply), words=_NOTHING)
        told = self._read(text_of(reply))
        now = date_of(reply)
        soon = awsforms.soon(told.notices, now or self._data.clock.now(), self._lead_seconds)
        self._before = self._kept(soon)
        return Look(self._before, now, _words(told, soon))

    def _kept(self, notices: tuple[Notice, ...]) -> tuple[Notice, ...]:
        """With the id that it was first told by, where that was made of a time: the time may be
        told anew (amazon-ec2-metadata-mock moves it on with every request), and is then a new time
        for the same notice."""
        if not self._made_ids:
            return notices
        ids = {notice.kind: notice.id for notice in self._before}
        return tuple(replace(notice, id=ids.get(notice.kind, notice.id)) for notice in notices)


class _Configured:
    """Whether the instance was launched with hibernation: for people; it is no notice."""

    name = "hibernation/configured"
    pause_seconds = CONFIGURED_PAUSE_SECONDS

    def __init__(self, data: _Data) -> None:
        self._data = data

    def look(self) -> Look:
        """See `Watch.look`."""
        reply = self._data.item(self.name)
        words = "404: it is not told"
        if reply.status != HTTPStatus.NOT_FOUND:
            how = "with" if awsforms.yes_or_no(text_of(reply)) else "without"
            words = f"200: launched {how} hibernation"
        return Look(now=date_of(reply), words=words)


def _words(told: awsforms.Told, soon: tuple[Notice, ...]) -> str:
    parts = [", ".join(notice.kind for notice in soon)]
    parts += [
        f"{notice.kind} not before {notice.at:%Y-%m-%d %H:%M} UTC"
        for notice in told.notices
        if notice not in soon
    ]
    if told.unknown:
        parts.append(f"{told.unknown} of a kind that is not known")
    return f"200: {'; '.join(filter(None, parts)) or 'nothing is announced'}"


class _Interruption:
    """spot/instance-action, and where that tells nothing its forerunner, which has no action."""

    name = "spot/instance-action"
    pause_seconds = SPOT_PAUSE_SECONDS

    def __init__(self, data: _Data) -> None:
        self._data = data
        self._action = _Item(
            data, self.name, self.pause_seconds, awsforms.instance_action, made_ids=True
        )

    def look(self) -> Look:
        """See `Watch.look`."""
        try:
            action = self._action.look()
        except AnswerError:
            time = self._by_time()
            if time.notices:
                return time
            raise
        return action if action.notices else self._by_time()

    def _by_time(self) -> Look:
        reply = self._data.item("spot/termination-time")
        now = date_of(reply)
        if reply.status == HTTPStatus.NOT_FOUND:
            return Look(now=now, words=_NOTHING)
        at = awsforms.termination_time(text_of(reply))
        if at is None:
            return Look(now=now, words="200: a termination-time that is none")
        if now is not None and (now - at).total_seconds() > _FAILED_SECONDS:
            return Look(now=now, words="200: a termination-time long past; it has failed")
        notice = awsforms.termination(at)
        return Look((notice,), now, f"200: {notice.kind}, by its termination-time")
