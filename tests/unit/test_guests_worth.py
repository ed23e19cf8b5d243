# SPDX-License-Identifier: LGPL-2.1-or-later
"""How long preparing a guest may take where it is to be sooner on its way."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hibprep.guests.worth import Worth, least_pace


@given(now=st.floats(0, 1e6), used=st.floats(0, 1e6))
def test_who_does_not_ask_for_it_has_all_the_time_there_is(now: float, used: float) -> None:
    """Nor does one limit it of whom nobody knows what it would gain."""
    worth = Worth(used_seconds=used)
    assert not worth.why_not
    assert worth.guest_seconds(now) == worth.reporting_seconds(now) == math.inf


@given(spared=st.floats(0, 1e5), passed=st.floats(0, 1e5))
def test_everything_ends_before_what_is_spared_has_passed(spared: float, passed: float) -> None:
    worth = Worth(spared_seconds=spared, began_seconds=100.0)
    guest, reporting = worth.guest_seconds(100 + passed), worth.reporting_seconds(100 + passed)
    assert 0 <= guest <= max(0.0, reporting)
    assert reporting == 0 or passed + reporting < spared
    assert guest == 0 or guest >= 15


@pytest.mark.parametrize(
    ("spared", "passed", "guest", "reporting"),
    [(21, 0, 0, 18.9), (30, 0, 21, 27), (30, 20, 0, 7), (30, 28, 0, 0), (1, 0, 0, 0.9)],
)
def test_the_time_of_each(spared: float, passed: float, guest: float, reporting: float) -> None:
    worth = Worth(spared_seconds=spared)
    assert worth.guest_seconds(passed) == pytest.approx(guest)
    assert worth.reporting_seconds(passed) == pytest.approx(reporting)


@given(used=st.floats(0, 1e5), spared=st.floats(0, 1e5))
def test_the_guest_is_not_at_it_for_longer_than_half_of_what_it_uses_takes(
    used: float, spared: float
) -> None:
    """Where it uses little, nothing can be cold: a guest that was prepared ahead is not asked."""
    seconds = Worth(spared_seconds=spared, used_seconds=used).guest_seconds(0.0)
    assert seconds <= used / 2
    assert seconds == 0 or seconds <= Worth(spared_seconds=spared).guest_seconds(0.0)


def test_what_spares_less_than_it_takes_is_not_begun() -> None:
    assert "2.9 s shorter" in Worth(spared_seconds=2.9).why_not
    assert not Worth(spared_seconds=3.0).why_not


@given(taken=st.integers(1, 1 << 40), spared=st.floats(0.001, 1e4))
def test_a_balloon_of_the_least_pace_takes_little_longer_than_it_spares(
    taken: int, spared: float
) -> None:
    assert spared <= taken / least_pace(taken, spared) <= 1.5 * spared


@pytest.mark.parametrize("spared", [0.0, -1.0])
def test_a_balloon_that_spares_nothing_is_never_fast_enough(spared: float) -> None:
    assert least_pace(1 << 30, spared) == math.inf
