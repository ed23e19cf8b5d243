# SPDX-License-Identifier: LGPL-2.1-or-later
"""Ranges against plain sets of numbers."""

from __future__ import annotations

from collections import deque
from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from hibprep.ranges import (
    Range,
    at_most,
    intersect,
    join,
    ordered,
    subtract,
    take,
    total_bytes,
)

NUMBERS = st.sets(st.integers(0, 200), max_size=60)
ANY_ORDER = st.lists(st.tuples(st.integers(0, 200), st.integers(0, 200)), max_size=20)


def ranges_of(numbers: set[int]) -> list[Range]:
    return ordered((number, number + 1) for number in numbers)


def numbers_of(ranges: list[Range]) -> set[int]:
    return {number for start, end in ranges for number in range(start, end)}


def in_order(ranges: list[Range]) -> bool:
    return all(start < end for start, end in ranges) and all(
        one[1] < other[0] for one, other in pairwise(ranges)
    )


@settings(deadline=None)
@given(ANY_ORDER)
def test_in_order_they_hold_the_same(ranges: list[Range]) -> None:
    found = ordered(ranges)
    assert in_order(found)
    assert numbers_of(found) == numbers_of(ranges)


@settings(deadline=None)
@given(NUMBERS, NUMBERS)
def test_what_is_in_both(one: set[int], other: set[int]) -> None:
    found = intersect(ranges_of(one), ranges_of(other))
    assert numbers_of(found) == one & other
    assert all(start < end for start, end in found)


@settings(deadline=None)
@given(NUMBERS, NUMBERS)
def test_what_is_in_the_first_alone(one: set[int], other: set[int]) -> None:
    found = subtract(ranges_of(one), ranges_of(other))
    assert numbers_of(found) == one - other
    assert in_order(found)


@settings(deadline=None)
@given(NUMBERS, st.integers(0, 20))
def test_joining_over_gaps_adds_the_gaps_alone(numbers: set[int], gap: int) -> None:
    before = ranges_of(numbers)
    found = join(before, gap)
    assert numbers_of(found) >= numbers
    assert in_order(found)
    assert all(other[0] - one[1] > gap for one, other in pairwise(found))
    added = numbers_of(found) - numbers
    gaps = [(one[1], other[0]) for one, other in pairwise(before) if other[0] - one[1] <= gap]
    assert added == numbers_of(gaps)


@settings(deadline=None)
@given(NUMBERS, st.integers(1, 10), st.integers(0, 5))
def test_never_more_than_so_many(numbers: set[int], count: int, gap: int) -> None:
    found = at_most(ranges_of(numbers), count, gap)
    assert len(found) <= count
    assert numbers_of(found) >= numbers


@settings(deadline=None)
@given(NUMBERS, st.integers(1, 40), st.integers(1, 5))
def test_taking_bit_by_bit_takes_everything_once(
    numbers: set[int], most_bytes: int, most_ranges: int
) -> None:
    queue = deque(ranges_of(numbers))
    taken: list[Range] = []
    while queue:
        part = take(queue, most_bytes, most_ranges)
        assert part
        assert len(part) <= most_ranges
        assert total_bytes(part) <= most_bytes
        taken += part
    assert total_bytes(taken) == len(numbers)
    assert numbers_of(taken) == numbers
