# SPDX-License-Identifier: LGPL-2.1-or-later
"""The undo record: what a domain was like before hibprep changed it, in the domain's own metadata.

It is there because metadata goes where the domain goes: into the file of a managed save, and to the
host that the domain is migrated to (https://libvirt.org/formatdomain.html, "General metadata").
Pure: XML to and from a value.
"""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from hibprep.guests.errors import RecordMalformedError
from hibprep.sizes import LARGEST_BYTES

NAMESPACE = "urn:hibprep:guest:1"
PREFIX = "hibprep"
ELEMENT = "prepared"

Value = TypeVar("Value")

_KIB = 1024
_LARGEST_XML_BYTES = 64 << 10
_LARGEST_NUMBER = 2**63 - 1
_NUMBER = re.compile(r"[0-9]{1,19}")
_WORD = re.compile(r"[0-9A-Za-z:.+_-]{0,64}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Owner:
    """Who prepared: a process is told from a later one of the same number by the boot it runs in
    and when in it it started (ticks)."""

    host: str = ""  # the libvirt host's UUID
    boot: str = ""
    pid: int = 0
    start: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """What there is to put back. `set_bytes` is what the balloon was asked to come to, 0 as long as
    it was not; `stats_period_seconds` is as it was before."""

    original_bytes: int
    set_bytes: int = 0
    stats_period_seconds: int = 0
    reserve_bytes: int = 0
    limit_seconds: int = 0
    written: str = ""  # ISO 8601, UTC
    owner: Owner = Owner()


def to_xml(record: Record) -> str:
    """The element, without a namespace: libvirt puts that there."""
    element = ET.Element(
        ELEMENT,
        {
            # up, so that a guest is never given less back than it had
            "original-kib": str(-(-record.original_bytes // _KIB)),
            "set-kib": str(record.set_bytes // _KIB),
            "stats-period": str(record.stats_period_seconds),
            "reserve-kib": str(record.reserve_bytes // _KIB),
            "limit-seconds": str(record.limit_seconds),
            "written": record.written,
            "host": record.owner.host,
            "boot": record.owner.boot,
            "pid": str(record.owner.pid),
            "start": str(record.owner.start),
        },
    )
    return ET.tostring(element, encoding="unicode")


def from_xml(xml: str) -> Record:
    """The record; RecordMalformedError says what is wrong with it. Attributes that are not known
    are left alone, so that a later version may add some."""
    if len(xml) > _LARGEST_XML_BYTES:
        raise _malformed(f"it has {len(xml)} characters")
    try:
        element = ET.fromstring(xml)  # noqa: S314 - who writes there is root's equal
    except (ET.ParseError, ValueError) as error:
        raise _malformed(f"it is not XML ({error})") from None
    if element.tag.rpartition("}")[2] != ELEMENT:
        raise _malformed(f"it is not <{ELEMENT}>")
    number, word = _reader(element, _NUMBER, int), _reader(element, _WORD, str)
    original_bytes = number("original-kib") * _KIB
    if not 0 < original_bytes <= LARGEST_BYTES:
        raise _malformed(f"original-kib is {element.get('original-kib')}")
    return Record(
        original_bytes=original_bytes,
        set_bytes=number("set-kib") * _KIB,
        stats_period_seconds=number("stats-period"),
        reserve_bytes=number("reserve-kib") * _KIB,
        limit_seconds=number("limit-seconds"),
        written=word("written"),
        owner=Owner(host=word("host"), boot=word("boot"), pid=number("pid"), start=number("start")),
    )


def _reader(
    element: ET.Element, pattern: re.Pattern[str], make: Callable[[str], Value]
) -> Callable[[str], Value]:
    def read(name: str) -> Value:
        text = element.get(name)
        if text is None:
            raise _malformed(f"{name} is missing")
        if not pattern.fullmatch(text) or (make is int and int(text) > _LARGEST_NUMBER):
            raise _malformed(f"{name} is {text[:40]!r}")
        return make(text)

    return read


def _malformed(what: str) -> RecordMalformedError:
    return RecordMalformedError(
        f"the undo record in the domain's metadata cannot be read: {what}",
        "`hibprep guest undo` gives the domain all its memory back and removes it",
    )
