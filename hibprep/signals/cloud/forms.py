# SPDX-License-Identifier: LGPL-2.1-or-later
"""Pure: what the answers of several clouds are made of. Whatever is not exactly that is an
AnswerError, whose message has nothing of the answer in it."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from http import HTTPStatus
from typing import NoReturn

from hibprep.signals.cloud.base import AnswerError, NoAnswerError, Reply

# a notice in JSON has hundreds of characters; Azure's list for a scale set may have thousands
LONGEST_DOCUMENT = 256 << 10
_LONGEST_TEXT = 200
_SERVER_ERRORS = 500

_UTC_TIME = re.compile(r"(\d{4})-(\d\d)-(\d\d)T(\d\d):(\d\d):(\d\d)(?:\.\d{1,9})?Z", re.ASCII)
_MAIL_TIME = re.compile(
    r"(?:[A-Z][a-z]{2}, )?(\d{1,2}) ([A-Z][a-z]{2}) (\d{4}) (\d\d):(\d\d):(\d\d) GMT", re.ASCII
)
# not strptime's %b, which is in the language of the locale
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


def utc_time(text: str) -> datetime:
    """`2017-09-18T08:22:00Z` (RFC 3339, in UTC alone)."""
    found = _UTC_TIME.fullmatch(text)
    if found is None:
        raise AnswerError("no time where one is expected")
    year, month, day, hour, minute, second = (int(part) for part in found.groups())
    return _time((year, month, day), (hour, minute, second))


def mail_time(text: str) -> datetime:
    """`21 Jan 2019 09:00:43 GMT`, with the day of the week before it or without (RFC 5322)."""
    found = _MAIL_TIME.fullmatch(text)
    if found is None or found[2] not in _MONTHS:
        raise AnswerError("no time where one is expected")
    day, year, hour, minute, second = (int(found[place]) for place in (1, 3, 4, 5, 6))
    return _time((year, _MONTHS.index(found[2]) + 1, day), (hour, minute, second))


def _time(date: tuple[int, int, int], clock: tuple[int, int, int]) -> datetime:
    try:
        return datetime(*date, *clock, tzinfo=UTC)
    except ValueError:
        raise AnswerError("a time that there is not") from None


def document(text: str) -> object:
    """A JSON document (RFC 8259: no NaN, which Python would take)."""
    if len(text) > LONGEST_DOCUMENT:
        raise AnswerError("the answer is longer than a notice can be")
    try:
        found: object = json.loads(text, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        raise AnswerError("the answer is no JSON") from None
    return found


def _no_constant(_name: str) -> NoReturn:
    raise ValueError


def fields(value: object) -> dict[str, object]:
    """An object of a JSON document."""
    if not isinstance(value, dict):
        raise AnswerError("no object where one is expected")
    return value


def word(value: object, longest: int = 128) -> str:
    """A text of a JSON document that has no spaces in it: a name, an id, a time without any."""
    if not isinstance(value, str) or not 0 < len(value) <= longest or not value.isascii():
        raise AnswerError("no name where one is expected")
    if not value.isprintable() or " " in value:
        raise AnswerError("no name where one is expected")
    return value


def one_line(value: object) -> str:
    """Words for people, "" where there are none: on one line, without what a terminal would obey,
    and not long."""
    if not isinstance(value, str):
        return ""
    line = " ".join("".join(c if c.isprintable() else " " for c in value).split())
    return line if len(line) <= _LONGEST_TEXT else f"{line:.{_LONGEST_TEXT}}…"


def expected(reply: Reply, *statuses: int) -> Reply:
    """`reply` if its status is one of these. A service that is overloaded or being worked at has
    not answered (NoAnswerError); any other status, redirects above all, is an AnswerError."""
    if reply.status in statuses:
        return reply
    if reply.status == HTTPStatus.TOO_MANY_REQUESTS or reply.status >= _SERVER_ERRORS:
        raise NoAnswerError(f"the metadata service cannot answer now: {named(reply.status)}")
    raise AnswerError(f"the metadata service answers {named(reply.status)}")


def named(status: int) -> str:
    """`404 Not Found`, in our words and not in the server's."""
    try:
        return f"{status} {HTTPStatus(status).phrase}"
    except ValueError:
        return str(status)
