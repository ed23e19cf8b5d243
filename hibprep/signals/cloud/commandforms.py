# SPDX-License-Identifier: LGPL-2.1-or-later
"""Pure: what a program of the administrator's prints (docs/cloud-command.md), as notices;
AnswerError for whatever that is not, with the place and without the text: it is not known what else
such a program prints."""

from __future__ import annotations

import math
import re
from datetime import UTC, datetime, timedelta, timezone

from hibprep.notices import Notice, NoticeKind, ProviderName
from hibprep.signals.cloud.base import AnswerError
from hibprep.signals.cloud.forms import document, fields, one_line, word

MOST_NOTICES = 64
FARTHEST_SECONDS = 366 * 86_400.0  # before and after now
_FIELDS = frozenset({"kind", "id", "at", "in_seconds", "begun", "text"})
_TIME = re.compile(
    r"(\d{4})-(\d\d)-(\d\d)[T ](\d\d):(\d\d):(\d\d)(?:[.,](\d{1,9}))?"
    r"(?:(Z)|([+-])(\d\d):?(\d\d))",
    re.ASCII,
)


def notices_of(text: str, began: datetime) -> tuple[Notice, ...]:
    """The notices; `began` is when the program was started, from which `in_seconds` counts."""
    notices = []
    for number, entry in enumerate(_entries(text), start=1):
        try:
            notices.append(_notice(fields(entry), began))
        except AnswerError as error:
            raise AnswerError(f"notice {number}: {error.message}") from None
    if len({notice.id for notice in notices}) != len(notices):
        raise AnswerError("two notices have one id")
    return tuple(notices)


def _entries(text: str) -> list[object]:
    text = text.strip()
    if text.startswith("["):
        entries = document(text)
        if not isinstance(entries, list):
            raise AnswerError("it is no array of notices")
    else:
        # not splitlines(), which also splits at characters that may stand in a JSON text
        entries = [document(line) for line in text.split("\n") if line.strip()]
    if len(entries) > MOST_NOTICES:
        raise AnswerError(f"it has more than {MOST_NOTICES} notices")
    return entries


def _notice(entry: dict[str, object], began: datetime) -> Notice:
    if not entry.keys() <= _FIELDS:
        raise AnswerError(f"it has fields that are none of {', '.join(sorted(_FIELDS))}")
    begun = entry.get("begun", False)
    if not isinstance(begun, bool):
        raise AnswerError("`begun` is neither true nor false")
    return Notice(
        kind=_kind(entry.get("kind")),
        source=ProviderName.COMMAND,
        id=_id(entry.get("id")),
        at=_at(entry, began),
        begun=begun,
        text=_text(entry.get("text", "")),
    )


def _kind(told: object) -> NoticeKind:
    try:
        return NoticeKind(told if isinstance(told, str) else "")
    except ValueError:
        raise AnswerError(f"`kind` is none of {', '.join(NoticeKind)}") from None


def _id(told: object) -> str:
    try:
        return word(told)
    except AnswerError:
        raise AnswerError(
            "`id` is no word of 1 to 128 letters, digits and signs of ASCII"
        ) from None


def _text(told: object) -> str:
    if not isinstance(told, str):
        raise AnswerError("`text` is no text")
    return one_line(told)


def _at(entry: dict[str, object], began: datetime) -> datetime | None:
    told, seconds = entry.get("at"), entry.get("in_seconds")
    if told is not None and seconds is not None:
        raise AnswerError("it has both `at` and `in_seconds`")
    if told is not None:
        return _time(told)
    if seconds is None:
        return None
    # a bool is an int in Python, and no time anywhere
    if isinstance(seconds, bool) or not isinstance(seconds, int | float):
        raise AnswerError("`in_seconds` is no number")
    if not math.isfinite(seconds) or abs(seconds) > FARTHEST_SECONDS:
        raise AnswerError("`in_seconds` is more than a year")
    return began + timedelta(seconds=seconds)


def _time(told: object) -> datetime:
    found = _TIME.fullmatch(told) if isinstance(told, str) else None
    if found is None:
        raise AnswerError("`at` is no time of ISO 8601 with a zone, such as 2026-11-22T04:10:00Z")
    year, month, day, hour, minute, second = (int(part) for part in found.groups()[:6])
    microsecond = int(f"{found[7] or '':0<6.6}")
    try:
        at = datetime(year, month, day, hour, minute, second, microsecond, _zone(found))
        return at.astimezone(UTC)
    except (ValueError, OverflowError):
        raise AnswerError("`at` is a time that there is not") from None


def _zone(found: re.Match[str]) -> timezone:
    if found[8]:
        return UTC
    off = timedelta(hours=int(found[10]), minutes=int(found[11]))
    return timezone(-off if found[9] == "-" else off)
