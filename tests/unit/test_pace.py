# SPDX-License-Identifier: LGPL-2.1-or-later
"""How fast a machine at work is trimmed."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hibprep.events import RunEnded
from hibprep.laws import Law
from hibprep.model import Ending
from hibprep.pace import Pace, PacePolicy, amount_bytes, learn

POLICY = PacePolicy()
MIB = 1 << 20
GIB = 1 << 30
ROUND = RunEnded(ending=Ending.DONE, reason="done", freed_bytes=50 * MIB)


def amount_of(
    pace: Pace, policy: PacePolicy, seconds: float = 10, *, memory: float = 0, io: float = 0
) -> int:
    """With 10 GiB in use."""
    return amount_bytes(pace, policy, seconds, memory=memory, io=io, in_use_bytes=10 * GIB)


def test_a_round_that_took_much_of_the_cpus_is_followed_by_a_rest() -> None:
    light = learn(Pace(), POLICY, replace(ROUND, cpu_seconds=0.025), 1000)
    assert light.not_before_seconds == pytest.approx(1005)  # less than a round apart
    heavy = learn(Pace(), POLICY, replace(ROUND, cpu_seconds=0.2), 1000)
    assert heavy.not_before_seconds == pytest.approx(1040)
    assert "0.20 s of a CPU" in heavy.reason


def test_the_next_round_makes_up_for_the_rest() -> None:
    usual = Pace(share=0.5)
    rested = replace(usual, rested_seconds=40.0)
    assert amount_of(rested, POLICY) == 4 * amount_of(usual, POLICY)


def test_what_comes_back_pauses_for_at_least_the_rest() -> None:
    back = replace(ROUND, refaulted_bytes=25 * MIB)
    short = learn(Pace(), POLICY, back, 1000)
    assert short.not_before_seconds == 1000 + POLICY.pause_seconds
    long = learn(Pace(), POLICY, replace(back, cpu_seconds=1.0), 1000)
    assert long.not_before_seconds == pytest.approx(1200)
    assert long.share < Pace().share


@pytest.mark.parametrize(
    ("law", "amount"),
    [
        (Law.SHARE, 50_000_000),  # a quarter of 20 MB a second, for ten seconds
        (Law.SENPAI, 10 * GIB * 10 // 600),  # 1 % in six seconds
        (Law.TMO, 10 * GIB * 5 // 10_000 * 10 // 6),
    ],
)
def test_how_much_at_once_by_each_law(law: Law, amount: int) -> None:
    policy = PacePolicy(law=law, bytes_per_second=20e6 if law is Law.SHARE else 1e9)
    assert amount_of(Pace(), policy) == pytest.approx(amount, rel=0.001)


def test_the_rate_bounds_every_law() -> None:
    assert amount_of(Pace(), PacePolicy(law=Law.SENPAI, bytes_per_second=1e6)) == 10_000_000


def test_senpai_takes_less_by_the_square_of_the_pressure() -> None:
    policy = PacePolicy(law=Law.SENPAI, bytes_per_second=1e12)
    # 10 ms in six seconds are wanted: 2 ms are a fifth, and 1 % becomes a quarter of that
    fifth = amount_of(Pace(), policy, memory=0.002 / 6)
    assert fifth == pytest.approx(amount_of(Pace(), policy) / 4, rel=0.01)
    assert amount_of(Pace(), policy, memory=0.0017) == 0


def test_a_round_that_found_nothing_is_remembered() -> None:
    assert not learn(Pace(), POLICY, replace(ROUND, freed_bytes=0), 0.0).found
    assert learn(Pace(found=False), POLICY, ROUND, 0.0).found


@given(
    st.sampled_from(Law),
    st.floats(0, 100),
    st.floats(1, 3600),
    st.floats(0, 1),
    st.floats(0, 1),
)
def test_the_cpus_share_is_kept_and_nothing_is_taken_under_pressure(
    law: Law, cpu_seconds: float, seconds: float, memory: float, io: float
) -> None:
    policy = replace(POLICY, law=law)
    pace = learn(Pace(), policy, replace(ROUND, cpu_seconds=cpu_seconds), 0.0)
    assert pace.not_before_seconds >= min(600.0, cpu_seconds / POLICY.cpu_share) - 1e-6
    amount = amount_of(pace, policy, seconds, memory=memory, io=io)
    assert 0 <= amount <= POLICY.bytes_per_second * max(seconds, 60.0)
    assert amount_of(pace, policy, seconds, memory=memory + 0.0005, io=io) <= amount
    if memory >= POLICY.memory_pressure_share or io >= POLICY.io_pressure_share:
        assert amount == 0
