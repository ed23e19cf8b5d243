# SPDX-License-Identifier: LGPL-2.1-or-later
"""What was in memory before it was taken: pure values, how one look is put on top of the earlier
ones, and their text.

A look tells which pages of which processes are in memory. Those that a look finds and the next one
does not were let go in between; so the latest look in which a page was seen tells how long it
survived, and what the kernel let go last was used last. That is the only order that there is: which
pages are young is known to the kernel alone, and it tells of none by name.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from hibprep.ranges import Range, at_most, ordered, subtract, total_bytes

VERSION = 1
MOST_LOOKS = 8
MOST_RANGES = 60_000  # of all processes; about 1 MiB of text
MOST_RANGES_OF_ONE = 4096
GAP_BYTES = 64 << 10

_KEPT_FILES = 2


@dataclass(frozen=True, slots=True)
class Who:
    """A process, told by its start (ticks since boot) from any later one of its number."""

    pid: int
    start: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What one look found of a process. `files`: what is mapped of files and shared memory; None
    when it was not looked for."""

    name: str
    cgroup: str
    anon: tuple[Range, ...]
    files: tuple[Range, ...] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Remembered:
    """Of one process: for every look of the record, the latest first, what it was the last to see;
    no address is in two of them. `files` the same for the looks that looked for them."""

    name: str
    cgroup: str
    anon: tuple[tuple[Range, ...], ...]
    files: tuple[tuple[Range, ...], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """All that is remembered. `looks` says when, the latest first: in front of which stage, or at
    the sleep. It is worth something in the boot `boot` only, which a hibernation does not end."""

    boot: str
    taken: str  # ISO 8601, UTC: the latest look
    looks: tuple[str, ...]
    processes: Mapping[Who, Remembered]
    complete: bool = True  # the latest look came to all processes
    note: str = ""  # why it was not kept


def merged(
    earlier: Record | None,
    seen: Mapping[Who, Seen],
    *,
    boot: str,
    taken: str,
    look: str,
    alive: frozenset[Who],
    complete: bool = True,
) -> Record:
    """A look on top of the earlier ones; `alive` are the processes that there are, of which it may
    not have come to all. Ranges are joined over small gaps; of processes that would make too many
    of them, those named last are left out."""
    if earlier is not None and earlier.boot != boot:
        earlier = None
    before = earlier.processes if earlier is not None else {}
    looks = (look, *(earlier.looks if earlier is not None else ()))
    found: dict[Who, Remembered] = {}
    left = MOST_RANGES
    for who in (*seen, *(each for each in before if each in alive and each not in seen)):
        one = _on_top(seen.get(who), before.get(who), len(looks) - 1)
        count = sum(map(len, (*one.anon, *one.files)))
        if count > left:
            complete = False
        elif count:
            left -= count
            found[who] = one
    record = Record(boot=boot, taken=taken, looks=looks, processes=found, complete=complete)
    while len(record.looks) > MOST_LOOKS:
        record = _with_one_look_less(record)
    return record


def _on_top(now: Seen | None, before: Remembered | None, earlier_looks: int) -> Remembered:
    anon = at_most(now.anon if now else (), MOST_RANGES_OF_ONE, GAP_BYTES)
    old = before.anon[:earlier_looks] if before else ()
    # a process may be younger than the oldest looks
    missing = ((),) * (earlier_looks - len(old))
    files = before.files if before else ()
    if now is not None and now.files is not None:
        newest = at_most(now.files, MOST_RANGES_OF_ONE, GAP_BYTES)
        files = (tuple(newest), *(tuple(subtract(part, newest)) for part in files))[:_KEPT_FILES]
    return Remembered(
        name=now.name if now else before.name if before else "",
        cgroup=now.cgroup if now else before.cgroup if before else "",
        anon=(tuple(anon), *(tuple(subtract(part, anon)) for part in old), *missing),
        files=files,
    )


def _with_one_look_less(record: Record) -> Record:
    """Make one of the two neighbours that tell the least apart: a machine that is looked at again
    and again while nobody uses it must not forget what it was used for."""
    sizes = [
        sum(total_bytes(one.anon[index]) for one in record.processes.values())
        for index in range(len(record.looks))
    ]
    at = min(range(len(sizes) - 1), key=lambda index: sizes[index] + sizes[index + 1])
    return replace(
        record,
        looks=record.looks[: at + 1] + record.looks[at + 2 :],
        processes={
            who: replace(
                one,
                anon=(
                    *one.anon[:at],
                    tuple(ordered((*one.anon[at], *one.anon[at + 1]))),
                    *one.anon[at + 2 :],
                ),
            )
            for who, one in record.processes.items()
        },
    )


# --- as text --------------------------------------------------------------------------------------


def pack(ranges: Sequence[Range], page: int) -> list[int]:
    """Ranges in order as numbers of pages: so many left out, so many taken, and so on."""
    numbers: list[int] = []
    at = 0
    for start, end in ranges:
        numbers += [(start - at) // page, (end - start) // page]
        at = end
    return numbers


def unpack(numbers: Iterable[object], page: int) -> tuple[Range, ...]:
    """The opposite of `pack`. Raises ValueError for what is none."""
    words = list(numbers)
    found: list[Range] = []
    at = 0
    for skipped, taken in zip(words[::2], words[1::2], strict=True):
        if not isinstance(skipped, int) or not isinstance(taken, int) or skipped < 0 or taken < 1:
            raise ValueError(f"{skipped!r} and {taken!r} are no pages")
        start = at + skipped * page
        at = start + taken * page
        found.append((start, at))
    return tuple(ordered(found))


def to_text(record: Record, page: int) -> str:
    """The record as one JSON document."""
    return json.dumps(
        {
            "version": VERSION,
            "boot": record.boot,
            "taken": record.taken,
            "looks": record.looks,
            "complete": record.complete,
            "processes": [
                {
                    "pid": who.pid,
                    "start": who.start,
                    "name": one.name,
                    "cgroup": one.cgroup,
                    "anon": [pack(part, page) for part in one.anon],
                    "files": [pack(part, page) for part in one.files],
                }
                for who, one in record.processes.items()
            ],
        },
        separators=(",", ":"),
    )


def from_text(text: str, page: int) -> Record:
    """The opposite of `to_text`. Raises ValueError for what is no record of this version."""
    try:
        document = json.loads(text)
        if document["version"] != VERSION:
            raise ValueError(f"a record of version {document['version']!r}")
        return Record(
            boot=str(document["boot"]),
            taken=str(document["taken"]),
            looks=tuple(map(str, document["looks"])),
            complete=bool(document["complete"]),
            processes={
                Who(int(each["pid"]), int(each["start"])): Remembered(
                    name=str(each["name"]),
                    cgroup=str(each["cgroup"]),
                    anon=tuple(unpack(part, page) for part in each["anon"]),
                    files=tuple(unpack(part, page) for part in each["files"]),
                )
                for each in document["processes"]
            },
        )
    except (KeyError, TypeError, AttributeError, RecursionError, OverflowError) as error:
        raise ValueError(f"no record of memory ({error})") from error
