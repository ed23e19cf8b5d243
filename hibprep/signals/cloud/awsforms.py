# SPDX-License-Identifier: LGPL-2.1-or-later
"""Pure: the answers of EC2's metadata service as values; AnswerError for whatever they are not.

The forms are those of "Instance metadata categories", "Spot Instance interruption notices", "EC2
instance rebalance recommendations" and "Scheduled events for your instances" in the Amazon EC2 User
Guide, and of "Retrieve the target lifecycle state" in the Amazon EC2 Auto Scaling User Guide.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from hibprep.notices import Notice, NoticeKind, ProviderName
from hibprep.signals.cloud.base import AnswerError
from hibprep.signals.cloud.forms import document, fields, mail_time, one_line, utc_time, word

LONGEST_TOKEN_SECONDS = 21600

# dozens of bytes in base64: no page, no "OK", and nothing that could end a header
_TOKEN = re.compile(r"[A-Za-z0-9+/_-]{40,1024}={0,2}", re.ASCII)
_SECONDS = re.compile(r"[1-9][0-9]{0,4}", re.ASCII)
_LIFE_CYCLE = re.compile(r"[a-z]+(-[a-z]+){0,3}", re.ASCII)
_LONGEST_LIFE_CYCLE = 32
_LONGEST_NO_TIME = 64
_MOST_EVENTS = 100

_ACTIONS = {
    "hibernate": NoticeKind.HIBERNATE,
    "stop": NoticeKind.STOP,
    "terminate": NoticeKind.TERMINATE,
}
_EVENTS = {
    "instance-reboot": NoticeKind.REBOOT,
    "system-reboot": NoticeKind.REBOOT,
    # of the network, which is nothing, or of the power, with a reboot: it is not told which
    "system-maintenance": NoticeKind.REBOOT,
    # stopped; terminated where the root device is an instance store, of which few are left
    "instance-retirement": NoticeKind.STOP,
    "instance-stop": NoticeKind.STOP,
}
_ACTIVE = "active"
_STATES = (_ACTIVE, "completed", "canceled")
# what a target state means for the machine; the others leave it running
_TARGETS = {
    "Detached": None,
    "InService": None,
    "Standby": None,
    "Terminated": NoticeKind.TERMINATE,
    "Warmed:Hibernated": NoticeKind.HIBERNATE,
    "Warmed:Running": None,
    "Warmed:Stopped": NoticeKind.STOP,
    "Warmed:Terminated": NoticeKind.TERMINATE,
}


@dataclass(frozen=True, slots=True)
class Told:
    """What one item says; `unknown` of its events are of a kind that this version does not know."""

    notices: tuple[Notice, ...] = ()
    unknown: int = 0


Reader = Callable[[str], Told]


def token(text: str) -> str:
    """A token for the other requests."""
    if not _TOKEN.fullmatch(text):
        raise AnswerError("what was given for a token is none")
    return text


def token_seconds(text: str) -> int:
    """For how long it holds, from the header of the answer that it came in. Only EC2 sends that
    header, and not a portal that answers everything."""
    if not _SECONDS.fullmatch(text) or int(text) > LONGEST_TOKEN_SECONDS:
        raise AnswerError("it is not said for how long the token holds")
    return int(text)


def is_spot(text: str) -> bool:
    """Whether instance-life-cycle says so; the others (on-demand, scheduled, capacity-block) are
    not interrupted."""
    if len(text) > _LONGEST_LIFE_CYCLE or not _LIFE_CYCLE.fullmatch(text):
        raise AnswerError("instance-life-cycle is none")
    return text == "spot"


def yes_or_no(text: str) -> bool:
    """`true` or `false`, as hibernation/configured has it."""
    if text not in ("true", "false"):
        raise AnswerError("neither true nor false")
    return text == "true"


def instance_action(text: str) -> Told:
    """spot/instance-action. A hibernation begins as it is announced, whatever time is told."""
    told = fields(document(text))
    kind = _ACTIONS.get(word(told.get("action")))
    if kind is None:
        raise AnswerError("an action that is not known")
    at = utc_time(word(told.get("time")))
    return Told((_interruption(kind, at),))


def termination_time(text: str) -> datetime | None:
    """spot/termination-time; None for a value that is no time, by which nothing is meant."""
    try:
        return utc_time(text)
    except AnswerError:
        if len(text) > _LONGEST_NO_TIME or not text.isprintable() or set(text) & set("<>{}"):
            raise  # a page, or a document: none of EC2's
        return None


def termination(at: datetime) -> Notice:
    """The notice of a termination-time, the same as that of the action."""
    return _interruption(NoticeKind.TERMINATE, at)


def _interruption(kind: NoticeKind, at: datetime) -> Notice:
    return Notice(
        kind=kind,
        source=ProviderName.AWS,
        id=f"spot-{kind}-{at:%Y%m%dT%H%M%SZ}",
        at=at,
        begun=kind is NoticeKind.HIBERNATE,
        text=f"spot interruption: {kind}",
    )


def rebalance(text: str) -> Told:
    """events/recommendations/rebalance. It tells since when, and not until when."""
    since = utc_time(word(fields(document(text)).get("noticeTime")))
    notice = Notice(
        kind=NoticeKind.REBALANCE,
        source=ProviderName.AWS,
        id=f"rebalance-{since:%Y%m%dT%H%M%SZ}",
        text="at elevated risk of a spot interruption",
    )
    return Told((notice,))


def scheduled(text: str) -> Told:
    """events/maintenance/scheduled: what is active of it, by EC2's own ids."""
    events = document(text)
    if not isinstance(events, list) or len(events) > _MOST_EVENTS:
        raise AnswerError("no list of events")
    active = [event for event in map(fields, events) if _is_active(event)]
    found = [_event(event) for event in active]
    notices = tuple(notice for notice in found if notice is not None)
    if len({notice.id for notice in notices}) != len(notices):
        raise AnswerError("two events of one id")
    return Told(notices, unknown=len(found) - len(notices))


def soon(notices: tuple[Notice, ...], now: datetime, lead_seconds: float) -> tuple[Notice, ...]:
    """Those of them that come within so long, are under way or late, or tell no time."""
    return tuple(
        notice
        for notice in notices
        if notice.at is None or (notice.at - now).total_seconds() <= lead_seconds
    )


def _is_active(event: dict[str, object]) -> bool:
    state = event.get("State")
    if state not in _STATES:
        raise AnswerError("an event in a state that is not known")
    return state == _ACTIVE


def _event(event: dict[str, object]) -> Notice | None:
    code = word(event.get("Code"))
    notice_id = word(event.get("EventId"))
    at = event.get("NotBefore")
    if not isinstance(at, str):
        raise AnswerError("an event without a time")
    when = mail_time(at)
    kind = _EVENTS.get(code)
    if kind is None:
        return None
    text = one_line(event.get("Description"))
    return Notice(
        kind=kind,
        source=ProviderName.AWS,
        id=notice_id,
        at=when,
        text=f"{code}: {text}" if text else code,
    )


def target_state(text: str) -> Told:
    """autoscaling/target-lifecycle-state. No time is told: a life-cycle hook of the group may hold
    the instance for an hour, and without one it ends at once."""
    if text not in _TARGETS:
        raise AnswerError("a target state that is not known")
    kind = _TARGETS[text]
    if kind is None:
        return Told()
    notice = Notice(
        kind=kind,
        source=ProviderName.AWS,
        id=f"autoscaling-{text}",
        begun=True,
        text=f"Auto Scaling wants it {text}",
    )
    return Told((notice,))
