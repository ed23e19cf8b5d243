# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the daemon is doing and why, as one typed value: the control socket, the bus, the metrics
and `hibprep status` all show this and nothing else.

Pure: no I/O, no clock. The text of times is ISO 8601 in UTC; sizes are bytes, durations seconds.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from hibprep.errors import HibprepError
from hibprep.events import GuestEvent, RunEnded
from hibprep.notices import NoticeKind
from hibprep.sizes import shorten

VERSION = 1

PHASES = ("active", "idle", "reclaiming", "ready", "sleeping", "resuming")
HOLDING = ("at work", "done")  # the progress of notices that are still announced


@dataclass(frozen=True, slots=True)
class SourceStatus:
    """Whether a source of signals works, and how or why not."""

    name: str
    works: bool
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class NoticeStatus:
    """What a cloud has announced, and what is done for it. Texts that are not known are empty."""

    kind: str
    source: str
    id: str
    text: str = ""  # the provider's own words
    deadline: str = ""
    seconds_left: float | None = None  # 0: its time has passed, or it has begun
    progress: str = ""  # one of HOLDING, withdrawn, over
    doing: str = ""  # the action that is under way
    done: tuple[str, ...] = ()  # what became of each that has ended
    todo: tuple[str, ...] = ()  # those that are still to come


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """The daemon at one moment. What is not known is empty, or left out of a mapping."""

    version: int = VERSION
    phase: str = "active"  # one of PHASES
    reason: str = ""  # why it is in that phase, in words
    since: str = ""  # when the phase began
    policy: str = ""
    stage: str = ""  # that is being worked on
    done_stages: tuple[str, ...] = ()
    # stage, done_bytes, amount_bytes, saveable_bytes, goal_bytes
    progress: Mapping[str, str | int] | None = None
    next_step: str = ""  # "cold-anon in 2 min 10 s"
    next_at: str = ""
    # hibernate_seconds, resume_seconds, saveable_bytes, unprepared_hibernate_seconds
    prediction: Mapping[str, float] = field(default_factory=dict)
    swap: Mapping[str, int] = field(default_factory=dict)  # total_bytes, free_bytes
    fit: str = ""  # whether a hibernation would be accepted, in words
    fit_ok: bool | None = None  # None: not known
    sources: tuple[SourceStatus, ...] = ()
    # started, ending, reason, freed_bytes, seconds
    last_report: Mapping[str, str | float] | None = None
    written_today_bytes: int = 0
    write_budget_bytes: int = 0  # 0: no budget is set
    notices: tuple[NoticeStatus, ...] = ()  # since the start, the most urgent first
    notices_total: int | None = None  # since the start; None: nobody listens for them

    def to_plain(self) -> dict[str, object]:
        """The same in what JSON knows; numbers that it has no word for become null."""
        plain = _plain(dataclasses.asdict(self))
        assert isinstance(plain, dict)  # noqa: S101 - what asdict makes
        return plain

    def to_json(self) -> str:
        """One line."""
        return json.dumps(self.to_plain(), separators=(",", ":"), allow_nan=False)

    @staticmethod
    def from_plain(value: object) -> Status:
        """What `to_plain` wrote, maybe by a newer hibprep: unknown keys are left out, missing ones
        have their defaults.

        Raises HibprepError for another version and for values of another type, with their place.
        """
        if not isinstance(value, Mapping):
            raise _wrong("the status", "an object", value)
        version = value.get("version")
        if type(version) is not int or version != VERSION:
            raise HibprepError(
                f"the daemon's status is of version {shorten(repr(version))}, this program reads "
                f"version {VERSION}",
                "restart hibprep.service, so that both are of the same release",
            )
        known: dict[str, Any] = {
            name: read(value[name], name) for name, read in _READERS.items() if name in value
        }
        return Status(**known)

    @staticmethod
    def from_json(text: str | bytes) -> Status:
        """`from_plain` of a JSON document; HibprepError when it is none."""
        try:
            value = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise HibprepError(f"the daemon's status is no JSON: {error}") from error
        return Status.from_plain(value)


class Host(Protocol):
    """What the control socket and the bus service need of the daemon that they are part of.

    `changed` and `run_ended` must listen from their first step on: whoever awaits one lets it run
    once before it looks at the status or asks for a run, and then misses nothing.
    """

    def status(self) -> Status:
        """Now."""

    async def changed(self) -> None:
        """Wait for the next change of the status."""

    async def run_ended(self) -> RunEnded:
        """Wait for the end of the run that is on, or of the next one. A request that leads to no
        run counts as one that ended at once, with the reason."""

    async def before_sleep(self, leg: str, seconds: float) -> tuple[bool, list[str]]:
        """A sleep comes: stop reclaim, and make ready for `leg` ("": no more than that), all within
        `seconds`. Whether reclaim is known to have stopped, and what was done, in words."""

    async def after_sleep(self, seconds: float) -> list[str]:
        """The sleep is over, or has failed: put back what is held, within `seconds`; in words."""

    def incoming_seconds(self, event: GuestEvent) -> float:
        """How long a migration that comes in is to wait for its source to prepare the guest; 0
        where that is not wanted."""

    async def incoming(self, event: GuestEvent) -> str:
        """Have the source prepare the guest, within that time; why the migration is refused, or
        "" when it may go on, however that ended."""

    def notices(self) -> dict[str, object]:
        """What is known of notices. Raises NotPossibleError where they are switched off."""

    def simulate(self, kind: NoticeKind, seconds: float | None, who: str) -> str:
        """Tell of a made-up notice as of any other, with so much time left (None: no time is
        told); its id. Raises HibprepError when nobody listens for notices."""


def _plain(value: object) -> object:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, str):
        return str(value)  # of an enum, its text
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _wrong(place: str, wanted: str, value: object) -> HibprepError:
    return HibprepError(
        f"the daemon's answer is not understood: {place} is {shorten(repr(value))} and not {wanted}"
    )


def _text(value: object, place: str) -> str:
    if not isinstance(value, str):
        raise _wrong(place, "text", value)
    return value


def _whole(value: object, place: str) -> int:
    if type(value) is not int:
        raise _wrong(place, "a whole number", value)
    return value


def _truth(value: object, place: str) -> bool:
    if not isinstance(value, bool):
        raise _wrong(place, "true or false", value)
    return value


def _perhaps_truth(value: object, place: str) -> bool | None:
    return None if value is None else _truth(value, place)


def _items(value: object, place: str) -> list[object]:
    if not isinstance(value, list | tuple):
        raise _wrong(place, "a list", value)
    return list(value)


def _texts(value: object, place: str) -> tuple[str, ...]:
    return tuple(_text(item, f"{place}[{n}]") for n, item in enumerate(_items(value, place)))


def _mapping(value: object, place: str) -> dict[str, object]:
    if not isinstance(value, Mapping):
        raise _wrong(place, "an object", value)
    # null is a number that was not known
    return {str(key): item for key, item in value.items() if item is not None}


def _numbers(value: object, place: str) -> dict[str, float]:
    read: dict[str, float] = {}
    for key, item in _mapping(value, place).items():
        if isinstance(item, bool) or not isinstance(item, int | float):
            raise _wrong(f"{place}.{key}", "a number", item)
        read[key] = item
    return read


def _whole_numbers(value: object, place: str) -> dict[str, int]:
    return {k: _whole(item, f"{place}.{k}") for k, item in _mapping(value, place).items()}


def _facts(value: object, place: str) -> dict[str, str | float] | None:
    if value is None:
        return None
    read: dict[str, str | float] = {}
    for key, item in _mapping(value, place).items():
        if not isinstance(item, str | int | float):
            raise _wrong(f"{place}.{key}", "text or a number", item)
        read[key] = item
    return read


def _sources(value: object, place: str) -> tuple[SourceStatus, ...]:
    read = []
    for n, item in enumerate(_items(value, place)):
        entry = _mapping(item, f"{place}[{n}]")
        read.append(
            SourceStatus(
                _text(entry.get("name", ""), f"{place}[{n}].name"),
                _truth(entry.get("works", False), f"{place}[{n}].works"),
                _text(entry.get("reason", ""), f"{place}[{n}].reason"),
            )
        )
    return tuple(read)


def read_notices(value: object, place: str) -> tuple[NoticeStatus, ...]:
    """Notices as `to_plain` wrote them; raises as `Status.from_plain`."""
    read = []
    for n, item in enumerate(_items(value, place)):
        where = f"{place}[{n}]"
        entry = _mapping(item, where)
        left = _numbers({"seconds_left": entry.get("seconds_left")}, where)
        read.append(
            NoticeStatus(
                seconds_left=left.get("seconds_left"),
                done=_texts(entry.get("done", ()), f"{where}.done"),
                todo=_texts(entry.get("todo", ()), f"{where}.todo"),
                **{key: _text(entry.get(key, ""), f"{where}.{key}") for key in _NOTICE_TEXTS},
            )
        )
    return tuple(read)


def _perhaps_whole(value: object, place: str) -> int | None:
    return None if value is None else _whole(value, place)


_NOTICE_TEXTS = ("kind", "source", "id", "text", "deadline", "progress", "doing")
_READERS: dict[str, Callable[[object, str], object]] = {
    "phase": _text,
    "reason": _text,
    "since": _text,
    "policy": _text,
    "stage": _text,
    "done_stages": _texts,
    "progress": _facts,
    "next_step": _text,
    "next_at": _text,
    "prediction": _numbers,
    "swap": _whole_numbers,
    "fit": _text,
    "fit_ok": _perhaps_truth,
    "sources": _sources,
    "last_report": _facts,
    "written_today_bytes": _whole,
    "write_budget_bytes": _whole,
    "notices": read_notices,
    "notices_total": _perhaps_whole,
}
