# SPDX-License-Identifier: LGPL-2.1-or-later
"""The laws of senpai and TMO, by the figures of their sources."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hibprep.laws import senpai_adjustment, senpai_bytes, tmo_bytes

MIB = 1 << 20
GIB = 1 << 30
PAGE = 4096

SIZES = st.integers(0, 1 << 44)
STALLS = st.floats(0, 1e7)
SHARES = st.floats(0, 1)


@pytest.mark.parametrize(
    ("stalled", "share"),
    [
        # "reached when observed pressure is at 1/COEFF_PROBE of target pressure"
        (0, -0.01),
        (1, -0.01),
        (1_000, -0.01),
        (2_000, -0.0025),
        (5_000, -0.0004),
        # at the target itself it still probes: only above it senpai backs off
        (10_000, -0.0001),
        (10_001, (1.0001 / 20) ** 2),
        (20_000, 0.01),
        (100_000, 0.25),
        # "or COEFF_BACKOFF times target pressure, respectively"
        (200_000, 1.0),
        (900_000, 1.0),
    ],
)
def test_senpai_moves_its_limit_by_the_square_of_the_error(stalled: float, share: float) -> None:
    assert senpai_adjustment(stalled) == pytest.approx(share)


@pytest.mark.parametrize(
    ("current", "stalled", "amount"),
    [
        (1000 * MIB, 0, 10 * MIB),
        # the limit is rounded down to pages
        (4 * GIB, 0, 42_950_656),
        (4 * GIB, 10_000, 430_080),
        (4 * GIB, 10_001, 0),
        # never below --min-size
        (100 * MIB, 0, 0),
        (100 * MIB + 20 * PAGE, 0, 20 * PAGE),
        (50 * MIB, 0, 0),
        (0, 0, 0),
    ],
)
def test_what_senpai_would_take(current: int, stalled: float, amount: int) -> None:
    assert senpai_bytes(current, stalled) == amount


@pytest.mark.parametrize(
    ("memory", "io", "amount"),
    [
        (0.0, 0.0, 10 * GIB * 5 // 10_000),
        (0.0005, 0.0, 10 * GIB * 5 // 20_000),
        (0.0, 0.0005, 10 * GIB * 5 // 20_000),
        (0.0005, 0.00075, 10 * GIB * 5 // 40_000),
        (0.001, 0.0, 0),
        (0.0, 0.001, 0),
        (0.5, 0.5, 0),
    ],
)
def test_tmo_takes_a_small_share_less_in_proportion_to_the_pressure(
    memory: float, io: float, amount: int
) -> None:
    assert tmo_bytes(10 * GIB, memory=memory, io=io) == pytest.approx(amount, abs=1)


@given(SIZES, STALLS, STALLS)
def test_senpai_takes_little_and_never_more_with_more_pressure(
    current: int, one: float, other: float
) -> None:
    calm, stalled = sorted((one, other))
    amount = senpai_bytes(current, calm)
    assert 0 <= amount <= current * 0.01 + PAGE
    assert senpai_bytes(current, stalled) <= amount
    assert senpai_adjustment(calm) <= senpai_adjustment(stalled)
    if amount:
        assert current - amount >= 100 * MIB


@given(SIZES, SHARES, SHARES, SHARES)
def test_so_does_tmo(current: int, one: float, other: float, io: float) -> None:
    calm, stalled = sorted((one, other))
    amount = tmo_bytes(current, memory=calm, io=io)
    assert 0 <= amount <= current * 0.0005
    assert tmo_bytes(current, memory=stalled, io=io) <= amount
    assert tmo_bytes(current, memory=io, io=calm) == amount
