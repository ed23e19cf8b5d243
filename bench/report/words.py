# SPDX-License-Identifier: LGPL-2.1-or-later
"""Figures and names as a person reads them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from bench.experiment.sample import Condition, WorkloadKind
from bench.report.figures import Interval, Spread

NOTHING = "–"

# for pictures
SHORT = {
    Condition.VANILLA: "as it is (vanilla)",
    Condition.DROPCACHES: "drop caches first",
    Condition.ONELINER: "one write to\nmemory.reclaim",
    Condition.DAMON_RECLAIM: "DAMON_RECLAIM",
    Condition.HIBPREP: "hibprep",
    Condition.HIBPREPD: "hibprep,\nas a daemon",
    Condition.ALL_OUT: "hibprep,\nall out",
    Condition.ALL_BACK: "hibprep, all out\nand read back",
    Condition.IDLE: "idle, not filled\n(the floor)",
}

LONG = {
    Condition.VANILLA: "nothing is prepared; `systemctl hibernate`",
    Condition.DROPCACHES: "`sync`, then `3` to `/proc/sys/vm/drop_caches`: caches go, the memory "
    "of programs stays",
    Condition.ONELINER: "all of memory asked of the root's `memory.reclaim` in one write, without "
    "a look at what is in use",
    Condition.DAMON_RECLAIM: "the kernel's DAMON_RECLAIM, with the example values of its "
    "documentation, works while the guest rests: what it takes is not in *prepare*",
    Condition.HIBPREP: "`hibprep hibernate`: for as small an image as can be, and where there is "
    "a working set for one that fits in a given time (`--within`)",
    Condition.HIBPREPD: "`hibprep run`, the daemon, as its unit starts it: with the same target it "
    "finds out by itself that the guest is idle, and works while it rests: only what is left then "
    "is in *prepare*. It does not hold image_size, and is left out where that is small",
    Condition.ALL_OUT: "`hibprep prepare --target min`, then `systemctl hibernate` with the hook: "
    "its last pass, while the programs of all users are frozen, takes the working set too. That is "
    "in *hibernate*; a cycle in which more than 10 % of the working set was left has failed",
    Condition.ALL_BACK: "the same, and after the resume it is read back from swap "
    "(`sleep.swap_in`), what was in use first",
    Condition.IDLE: "the guest is freshly booted and not filled: the floor, what hibernating and "
    "resuming cost when there is nothing to do",
}

WORKLOADS = {
    WorkloadKind.COLD: "memory of a program that wrote it once and left it alone: the best case "
    "for everything that reclaims",
    WorkloadKind.WARM: "the same beside a working set that is gone over again and again",
    WorkloadKind.CACHE: "files that were read, a third of them mapped",
    WorkloadKind.TMPFS: "files in a tmpfs, that can only go to swap",
    WorkloadKind.MIXED: "cold memory, tmpfs, cache, and a working set",
    WorkloadKind.NONE: "nothing is filled",
}


def number(value: float) -> str:
    """Three digits that count, or all of those before the point."""
    if value == 0:
        return "0"
    places = 0 if value >= 100 else 1 if value >= 10 else 2 if value >= 0.1 else 3
    return f"{value:.{places}f}"


def spread(found: Spread | None, unit: float = 1.0, show: Callable[[float], str] = number) -> str:
    """The median, and in brackets the least and the most; by that unit."""
    if found is None:
        return NOTHING
    middle, least, most = (show(each / unit) for each in (found.median, found.least, found.most))
    return middle if least == most else f"{middle} ({least}–{most})"


def times(value: float | None) -> str:
    """A factor."""
    return NOTHING if value is None else f"{number(value)}×"


def percent(value: float) -> str:
    """A share."""
    return f"{100 * value:g} %"


def interval(found: Interval | None) -> str:
    """From where to where."""
    return NOTHING if found is None else f"{found.low:.3f}–{found.high:.3f}"


def size(value_bytes: float) -> str:
    """Powers of 1024 where it is whole in them; 0 is 0."""
    for unit, name in ((1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")):
        if value_bytes >= unit and value_bytes % (unit / 4) == 0:
            return f"{value_bytes / unit:g} {name}"
    return f"{value_bytes:,.0f} bytes"


def image_size(value: str) -> str:
    """``image_size`` as it was asked for."""
    return size(int(value)) if value.isdecimal() and value != "0" else value


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1) -> str:
    """A Markdown table, the first `left` columns of it text and the others figures."""
    marks = ["---" if column < left else "--:" for column in range(len(header))]
    lines = [header, marks, *([cell_text(cell) for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def cell_text(text: str) -> str:
    """Text that can neither end a cell nor a row, nor open a tag."""
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")


def without_empty(
    header: Sequence[str], rows: Sequence[Sequence[str]]
) -> tuple[list[str], list[list[str]]]:
    """The same without the columns in which nothing was measured."""
    kept = [
        column
        for column in range(len(header))
        if column == 0 or any(row[column] != NOTHING for row in rows)
    ]
    return [header[column] for column in kept], [[row[column] for column in kept] for row in rows]


def counted(count: int, one: str, several: str) -> str:
    """A number with its noun."""
    return f"{count} {one if count == 1 else several}"


def listed(texts: Iterable[str]) -> str:
    """Each once, in order; what is empty is left out."""
    return ", ".join(sorted({text for text in texts if text})) or "unknown"
