# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a host may say to hibprep in its guest, line by line, as checked requests. Pure.

One JSON object a line each way. `id` is the host's, and comes back with every answer:

    {"v":1,"id":7,"do":"hello"}       {"v":1,"id":7,"ok":true,"hibprep":"0.1.0","able":[…]}
    {"v":1,"id":8,"do":"status"}      {"v":1,"id":8,"ok":true,"status":{…}}
    {"v":1,"id":9,"do":"prepare"}     {"v":1,"id":9,"ok":true,"started":true}, and when it has ended
        "target": "min" or bytes      {"v":1,"id":9,"done":true,"report":{…}}
        "timeout_seconds": seconds
        "compact": true
    {"v":1,"id":10,"do":"compact"}    the same two
    {"v":1,"id":11,"do":"stop"}       {"v":1,"id":11,"ok":true}
    anything else                     {"v":1,"id":11,"ok":false,"error":"what is","place":"do"}

What is in use is not taken, whatever the target: a guest that moves goes on working.

The id of an error is null where that of the request cannot be told. A new `prepare` or `compact`
takes the place of one that has not ended, which is not answered any more.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from hibprep.signals import demand
from hibprep.signals.demand import VERSION, Demand, DemandError

LONGEST_LINE_BYTES = 64 << 10
LARGEST_ID = 2**63 - 1
HOST = "the host"

HELLO, STATUS, PREPARE, STOP, COMPACT = ABLE = ("hello", "status", "prepare", "stop", "compact")

_FIELDS = {PREPARE: frozenset({"target", "timeout_seconds", "compact"})}
_COMMON = frozenset({"v", "id", "do"})
# what the control socket calls it -> what it is called here
_NAMES = {"timeout": "timeout_seconds"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """One request of the host. `demand` is what the control socket would make of it, None where it
    knows no such thing."""

    id: int
    do: str
    demand: Demand | None = None
    compact: bool = False


class LineError(ValueError):
    """What is wrong with a line, the field that it is wrong in, and its id where that is known."""

    def __init__(self, message: str, place: str = "", number: int | None = None) -> None:
        super().__init__(message)
        self.place = place
        self.number = number


class Lines:
    """Cuts what comes into lines, and holds no more than one of them."""

    def __init__(self) -> None:
        self._rest = b""
        self._too_long = False  # in the middle of a line that is thrown away

    def feed(self, data: bytes) -> Iterator[bytes | None]:
        """The lines that are complete with `data`, without their ends and without empty ones; None
        for one that was too long."""
        *ends, rest = data.split(b"\n")
        for end in ends:
            line, too_long = self._rest + end, self._too_long
            self._rest, self._too_long = b"", False
            if too_long or len(line) > LONGEST_LINE_BYTES:
                yield None
            elif line.strip():
                yield line
        if len(self._rest) + len(rest) > LONGEST_LINE_BYTES:
            self._too_long = True
        self._rest = b"" if self._too_long else self._rest + rest


def parse(line: bytes) -> Asked:
    """The request in `line`; LineError says what is wrong with the first thing that is."""
    number: int | None = None
    try:
        document = demand.read_document(line)
        number = _id(document)
        return _asked(document, number)
    except DemandError as error:
        raise LineError(str(error), _NAMES.get(error.place, error.place), number) from error


def _id(document: dict[str, object]) -> int:
    number = document.get("id")
    if type(number) is not int or not 0 <= number <= LARGEST_ID:
        raise DemandError(f"{demand.shown(document, 'id')}; give a whole number", "id")
    return number


def _asked(document: dict[str, object], number: int) -> Asked:
    version = document.get("v")
    if type(version) is not int or version != VERSION:
        words = f"{demand.shown(document, 'v')}; this hibprep speaks version {VERSION}"
        raise DemandError(words, "v")
    do = document.get("do")
    if not isinstance(do, str) or do not in ABLE:
        raise DemandError(f"{demand.shown(document, 'do')}; give one of {', '.join(ABLE)}", "do")
    demand.only(document, do, _FIELDS.get(do, frozenset()) | _COMMON)
    wanted: Demand | None = None
    if do in (PREPARE, STOP):
        same: dict[str, object] = {"v": VERSION, "do": do, "who": HOST}
        for theirs, ours in (("target", "target"), ("timeout", "timeout_seconds")):
            if ours in document:
                same[theirs] = document[ours]
        wanted = demand.from_document(same)
    return Asked(id=number, do=do, demand=wanted, compact=demand.truth(document, "compact"))
