# SPDX-License-Identifier: LGPL-2.1-or-later
"""A line of the control socket as a checked request, or what is wrong with it and where. Pure."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass

from hibprep.events import GuestEvent, GuestOperation
from hibprep.model import Target, TargetKind
from hibprep.notices import NoticeKind
from hibprep.sizes import LARGEST_BYTES, shorten

VERSION = 1
LONGEST_QUIESCE_SECONDS = 90.0  # what systemd-sleep gives to all of its hooks together
POSTSLEEP_SECONDS = 30.0
LEGS = ("hibernate", "suspend")
LONGEST_SECONDS = 86_400.0
_LONGEST_WHO = 60
_LONGEST_NAME = 255
# a name or an address that may stand in an argument list, and is no option there
HOST = re.compile(r"[0-9A-Za-z][0-9A-Za-z._:-]{0,252}", re.ASCII)
UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.ASCII)

# what may be said with each request, besides "v", "do" and "who"
_FIELDS: dict[str, frozenset[str]] = {
    "status": frozenset(),
    "follow": frozenset(),
    "prepare": frozenset({"target", "within", "timeout", "wait"}),
    "stop": frozenset(),
    "swapin": frozenset(),
    "presleep": frozenset({"seconds", "leg"}),
    "postsleep": frozenset({"seconds", "leg"}),
    "guest": frozenset({"operation", "name", "uuid", "reason", "prepared", "source"}),
    "notices": frozenset(),
    "simulate": frozenset({"kind", "seconds"}),
}
_COMMON = frozenset({"v", "do", "who"})


class DemandError(ValueError):
    """What is wrong with a request, and the field that it is wrong in ("": the whole)."""

    def __init__(self, message: str, place: str = "") -> None:
        super().__init__(message)
        self.place = place


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """One request. `target` and `timeout_seconds` are None for "as configured"."""

    do: str
    who: str
    target: Target | None = None
    timeout_seconds: float | None = None
    wait: bool = False
    seconds: float = 0.0  # of presleep and postsleep
    leg: str = ""  # what comes: one of LEGS, or "" for a sleep that is not prepared for
    guest: GuestEvent | None = None  # of guest, and there always
    kind: NoticeKind | None = None  # of simulate, and there always
    left_seconds: float | None = None  # of simulate; None: no time is told


def parse(line: bytes) -> Demand:
    """The request in `line`; DemandError says what is wrong with the first thing that is."""
    return from_document(read_document(line))


def from_document(document: dict[str, object]) -> Demand:
    """The request that a document is; raises as `parse`."""
    version = document.get("v")
    if type(version) is not int or version != VERSION:
        raise DemandError(f"{shown(document, 'v')}; this daemon speaks version {VERSION}", "v")
    do = document.get("do")
    if not isinstance(do, str) or do not in _FIELDS:
        raise DemandError(f"{shown(document, 'do')}; give one of {', '.join(_FIELDS)}", "do")
    only(document, do, _FIELDS[do] | _COMMON)
    return Demand(
        do=do,
        who=_who(document),
        target=_target(document),
        timeout_seconds=_seconds(document, "timeout", LONGEST_SECONDS),
        wait=truth(document, "wait"),
        seconds=_sleep_seconds(document, do),
        leg=_leg(document),
        guest=_guest(document) if do == "guest" else None,
        kind=_kind(document) if do == "simulate" else None,
        left_seconds=(_seconds(document, "seconds", LONGEST_SECONDS) if do == "simulate" else None),
    )


def only(document: dict[str, object], do: str, allowed: frozenset[str]) -> None:
    """DemandError for a field that is not allowed with this request."""
    for key in document:
        if key not in allowed:
            raise DemandError(f"{do} has no field {shorten(repr(key))}", shorten(key))


def read_document(line: bytes) -> dict[str, object]:
    """The JSON object in `line`; DemandError when it holds none, or the same field twice."""

    def unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
        document = dict(pairs)
        if len(document) != len(pairs):
            raise DemandError("a field is given twice")
        return document

    def no_number(word: str) -> object:
        raise DemandError(f"{word} is no number")

    try:
        document = json.loads(line.decode(), object_pairs_hook=unique, parse_constant=no_number)
    except DemandError:
        raise
    except (ValueError, RecursionError) as error:
        raise DemandError(f"not a JSON document: {shorten(str(error))}") from error
    if not isinstance(document, dict):
        raise DemandError("not a JSON object")
    return document


def shown(document: dict[str, object], key: str) -> str:
    """A field as it was given, for an error."""
    if key not in document:
        return f'"{key}" is missing'
    value = document[key]
    # a value that is no container cannot be nested too deeply to be shown
    words = "an array or object" if isinstance(value, list | dict) else json.dumps(value)
    return f'"{key}" is {shorten(words)}'


def _who(document: dict[str, object]) -> str:
    who = document.get("who", "control socket")
    if not isinstance(who, str) or not who.isprintable() or not 0 < len(who) <= _LONGEST_WHO:
        raise DemandError(
            f"{shown(document, 'who')}; give up to {_LONGEST_WHO} printable characters", "who"
        )
    return who


def truth(document: dict[str, object], key: str) -> bool:
    """A field that is true or false, and false where it is not given."""
    value = document.get(key, False)
    if not isinstance(value, bool):
        raise DemandError(f"{shown(document, key)}; give true or false", key)
    return value


def _seconds(document: dict[str, object], key: str, most: float) -> float | None:
    if key not in document:
        return None
    value = document[key]
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise DemandError(f"{shown(document, key)}; give a number of seconds", key)
    if not 0 < value <= most:
        raise DemandError(
            f"{shown(document, key)}; give more than 0 and up to {most:g} seconds", key
        )
    return float(value)


def _sleep_seconds(document: dict[str, object], do: str) -> float:
    if do not in ("presleep", "postsleep"):
        return 0.0
    seconds = _seconds(document, "seconds", LONGEST_QUIESCE_SECONDS)
    if seconds is None and do == "presleep":
        raise DemandError('"seconds" is missing; say how long the sleep may wait', "seconds")
    return POSTSLEEP_SECONDS if seconds is None else seconds


def _leg(document: dict[str, object]) -> str:
    leg = document.get("leg", "")
    if not isinstance(leg, str) or leg not in ("", *LEGS):
        raise DemandError(f"{shown(document, 'leg')}; give one of {', '.join(LEGS)}", "leg")
    return leg


def _target(document: dict[str, object]) -> Target | None:
    within = _seconds(document, "within", LONGEST_SECONDS)
    if "target" not in document:
        return None if within is None else Target(TargetKind.WITHIN, seconds=within)
    if within is not None:
        raise DemandError("target and within exclude each other; give one of them", "within")
    value = document["target"]
    if value == TargetKind.IMAGE_SIZE.value:
        return Target(TargetKind.IMAGE_SIZE)
    if value == TargetKind.MIN.value:
        return Target(TargetKind.MIN)
    if type(value) is not int:
        raise DemandError(
            f"{shown(document, 'target')}; give image_size, min or a number of bytes", "target"
        )
    if not 0 < value <= LARGEST_BYTES:
        raise DemandError(
            f"{shown(document, 'target')}; give more than 0 and no more than any machine has",
            "target",
        )
    return Target(TargetKind.SIZE, value)


def _guest(document: dict[str, object]) -> GuestEvent:
    operation = document.get("operation")
    if not isinstance(operation, str) or operation not in tuple(GuestOperation):
        known = ", ".join(GuestOperation)
        raise DemandError(f"{shown(document, 'operation')}; give one of {known}", "operation")
    return GuestEvent(
        operation=GuestOperation(operation),
        name=_words(document, "name", least=1),
        uuid=_matching(document, "uuid", UUID, "a UUID in small letters"),
        reason=_words(document, "reason", least=0),
        prepared=truth(document, "prepared"),
        source=_matching(document, "source", HOST, "the name or address of a host"),
    )


def _kind(document: dict[str, object]) -> NoticeKind:
    kind = document.get("kind")
    if not isinstance(kind, str) or kind not in tuple(NoticeKind):
        known = ", ".join(NoticeKind)
        raise DemandError(f"{shown(document, 'kind')}; give one of {known}", "kind")
    return NoticeKind(kind)


def _words(document: dict[str, object], key: str, *, least: int) -> str:
    value = document.get(key, "")
    if (
        not isinstance(value, str)
        or not value.isprintable()
        or not least <= len(value) <= _LONGEST_NAME
    ):
        raise DemandError(
            f"{shown(document, key)}; give {least} to {_LONGEST_NAME} printable characters", key
        )
    return value


def _matching(document: dict[str, object], key: str, pattern: re.Pattern[str], wanted: str) -> str:
    value = document.get(key, "")
    if not isinstance(value, str) or (value and not pattern.fullmatch(value)):
        raise DemandError(f"{shown(document, key)}; give {wanted}, or nothing", key)
    return value
