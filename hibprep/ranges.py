# SPDX-License-Identifier: LGPL-2.1-or-later
"""Sets of addresses as ranges: pure arithmetic.

A range is (start, end) in bytes, the end not in it. "In order" means: sorted, none empty, none
touching or overlapping another; every function here takes and gives ranges in order.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence

Range = tuple[int, int]
Ranges = Sequence[Range]


def total_bytes(ranges: Iterable[Range]) -> int:
    """How much they hold together."""
    return sum(end - start for start, end in ranges)


def ordered(ranges: Iterable[Range]) -> list[Range]:
    """The same addresses, in order, from ranges in any order."""
    return join(sorted(each for each in ranges if each[0] < each[1]))


def join(ranges: Iterable[Range], gap_bytes: int = 0) -> list[Range]:
    """Make one of neighbours that are no more than `gap_bytes` apart: fewer ranges, that hold a
    little more. They may touch and overlap, and have to be sorted."""
    joined: list[Range] = []
    for start, end in ranges:
        if joined and start - joined[-1][1] <= gap_bytes:
            if end > joined[-1][1]:
                joined[-1] = (joined[-1][0], end)
        else:
            joined.append((start, end))
    return joined


def at_most(ranges: Ranges, count: int, gap_bytes: int) -> list[Range]:
    """Join over ever larger gaps, from `gap_bytes` on, until there are no more than `count`."""
    joined = join(ranges, gap_bytes)
    while len(joined) > max(1, count):
        gap_bytes = max(1, gap_bytes) * 2
        joined = join(joined, gap_bytes)
    return joined


def intersect(one: Ranges, other: Ranges) -> list[Range]:
    """What is in both."""
    both: list[Range] = []
    at = 0
    for start, end in one:
        while at < len(other) and other[at][1] <= start:
            at += 1
        here = at
        while here < len(other) and other[here][0] < end:
            both.append((max(start, other[here][0]), min(end, other[here][1])))
            here += 1
        at = max(at, here - 1)
    return both


def subtract(one: Ranges, other: Ranges) -> list[Range]:
    """What is in the first and not in the other."""
    left: list[Range] = []
    at = 0
    for start, end in one:
        while at < len(other) and other[at][1] <= start:
            at += 1
        here, begin = at, start
        while here < len(other) and other[here][0] < end:
            if begin < other[here][0]:
                left.append((begin, other[here][0]))
            begin = max(begin, other[here][1])
            here += 1
        if begin < end:
            left.append((begin, end))
        at = max(at, here - 1)
    return left


def take(queue: deque[Range], most_bytes: int, most_ranges: int) -> list[Range]:
    """Take the first of them off the queue, no more than so many bytes and ranges; the last one is
    split where need be."""
    taken: list[Range] = []
    left = most_bytes
    while queue and left > 0 and len(taken) < most_ranges:
        start, end = queue.popleft()
        if end - start > left:
            queue.appendleft((start + left, end))
            end = start + left
        taken.append((start, end))
        left -= end - start
    return taken
