# SPDX-License-Identifier: LGPL-2.1-or-later
"""A line of the control socket as a checked request, or what is wrong with it and where. Pure."""

from __future__ import annotations

import json
from dataclasses import dataclass

from hibprep.model import Target, TargetKind
from hibprep.sizes import LARGEST_BYTES, shorten

VERSION = 1
LONGEST_QUIESCE_SECONDS = 90.0  # what systemd-sleep gives to all of its hooks together
POSTSLEEP_SECONDS = 30.0
LEGS = ("hibernate", "suspend")
LONGEST_SECONDS = 86_400.0
_LONGEST_WHO = 60

# what may be said with each request, besides "v", "do" and "who"
_FIELDS: dict[str, frozenset[str]] = {
    "status": frozenset(),
    "follow": frozenset(),
    "prepare": frozenset({"target", "within", "timeout", "wait"}),
    "stop": frozenset(),
    "swapin": frozenset(),
    "presleep": frozenset({"seconds", "leg"}),
    "postsleep": frozenset({"seconds", "leg"}),
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


def parse(line: bytes) -> Demand:
    """The request in `line`; DemandError says what is wrong with the first thing that is."""
    document = _document(line)
    version = document.get("v")
    if type(version) is not int or version != VERSION:
        raise DemandError(f"{_shown(document, 'v')}; this daemon speaks version {VERSION}", "v")
    do = document.get("do")
    if not isinstance(do, str) or do not in _FIELDS:
        raise DemandError(f"{_shown(document, 'do')}; give one of {', '.join(_FIELDS)}", "do")
    allowed = _FIELDS[do] | _COMMON
    for key in document:
        if key not in allowed:
            raise DemandError(f"{do} has no field {shorten(repr(key))}", shorten(key))
    return Demand(
        do=do,
        who=_who(document),
        target=_target(document),
        timeout_seconds=_seconds(document, "timeout", LONGEST_SECONDS),
        wait=_wait(document),
        seconds=_sleep_seconds(document, do),
        leg=_leg(document),
    )


def _document(line: bytes) -> dict[str, object]:
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


def _shown(document: dict[str, object], key: str) -> str:
    if key not in document:
        return f'"{key}" is missing'
    value = document[key]
    # a value that is no container cannot be nested too deeply to be shown
    shown = "an array or object" if isinstance(value, list | dict) else json.dumps(value)
    return f'"{key}" is {shorten(shown)}'


def _who(document: dict[str, object]) -> str:
    who = document.get("who", "control socket")
    if not isinstance(who, str) or not who.isprintable() or not 0 < len(who) <= _LONGEST_WHO:
        raise DemandError(
            f"{_shown(document, 'who')}; give up to {_LONGEST_WHO} printable characters", "who"
        )
    return who


def _wait(document: dict[str, object]) -> bool:
    wait = document.get("wait", False)
    if not isinstance(wait, bool):
        raise DemandError(f"{_shown(document, 'wait')}; give true or false", "wait")
    return wait


def _seconds(document: dict[str, object], key: str, most: float) -> float | None:
    if key not in document:
        return None
    value = document[key]
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise DemandError(f"{_shown(document, key)}; give a number of seconds", key)
    if not 0 < value <= most:
        raise DemandError(
            f"{_shown(document, key)}; give more than 0 and up to {most:g} seconds", key
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
        raise DemandError(f"{_shown(document, 'leg')}; give one of {', '.join(LEGS)}", "leg")
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
            f"{_shown(document, 'target')}; give image_size, min or a number of bytes", "target"
        )
    if not 0 < value <= LARGEST_BYTES:
        raise DemandError(
            f"{_shown(document, 'target')}; give more than 0 and no more than any machine has",
            "target",
        )
    return Target(TargetKind.SIZE, value)
