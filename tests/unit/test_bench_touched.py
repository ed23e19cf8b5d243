# SPDX-License-Identifier: LGPL-2.1-or-later
"""What is found within one load about who works beside it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.touched import Step, percentile, share_of, steps_of, throughput

speeds = st.lists(st.floats(0.5, 2.0), min_size=1, max_size=60)


def noted(done: list[int], working: list[bool], seconds: float = 5.0) -> list[list[float]]:
    """Edges of steps with so many requests, in some of which half a CPU went elsewhere."""
    edges = [[0.0, 0.0, 0.0]]
    for amount, at_work in zip(done, working, strict=True):
        at, usage, sofar = edges[-1]
        edges.append([at + seconds, usage + at_work * seconds * 5e5, sofar + amount])
    return edges


def test_the_step_after_one_that_was_worked_in_counts_as_well() -> None:
    steps = steps_of(noted([10] * 5, [False, True, False, False, False]))
    assert [step.touched for step in steps] == [False, True, True, False, False]
    assert [step.first for step in steps] == [0, 10, 20, 30, 40]
    assert share_of(steps) == pytest.approx(0.4)


def test_looking_at_the_clock_is_no_work() -> None:
    (step,) = steps_of([[0, 0, 0], [5, 40_000, 100]])
    assert not step.touched


def test_what_is_slower_only_while_it_is_worked_beside_it_is_found() -> None:
    working = [number % 20 == 10 for number in range(100)]
    done = [500 if at_work else 1000 for at_work in working]
    assert throughput(steps_of(noted(done, working))) == pytest.approx(0.975)


def test_a_machine_that_drifts_is_not_taken_for_it() -> None:
    working = [number % 20 == 10 for number in range(100)]
    done = [2000 - 10 * number for number in range(100)]
    assert throughput(steps_of(noted(done, working))) == pytest.approx(1.0, abs=0.002)


@given(speeds)
def test_without_anybody_at_work_nothing_is_lost(found: list[float]) -> None:
    steps = steps_of(noted([round(each * 1000) for each in found], [False] * len(found)))
    assert throughput(steps) == 1.0
    assert share_of(steps) == 0.0
    assert percentile(steps, [1.0] * steps[-1].done, 0.99) == 1.0


def test_with_somebody_always_at_work_nothing_can_be_told() -> None:
    steps = steps_of(noted([100] * 3, [True] * 3))
    assert throughput(steps) == 1.0
    assert percentile(steps, [1.0] * 300, 0.99) == 1.0


def test_only_as_many_as_were_held_up_move_a_percentile() -> None:
    quick, slow = [1.0] * 950, [3.0] * 50
    steps = [Step(5.0, 0, 950, touched=False), Step(5.0, 950, 50, touched=True)]
    assert percentile(steps, quick + slow, 0.99) == 3.0
    assert percentile(steps, quick + slow, 0.9) == 1.0


def test_nothing_at_all() -> None:
    assert (steps_of([]), share_of([]), throughput([]), percentile([], [], 0.99)) == ([], 0, 1, 1)
