# SPDX-License-Identifier: LGPL-2.1-or-later
"""How fast a machine at work is trimmed."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hibprep.events import RunEnded
from hibprep.model import Ending
from hibprep.pace import Pace, PacePolicy, amount_bytes, learn

POLICY = PacePolicy()
MIB = 1 << 20
ROUND = RunEnded(ending=Ending.DONE, reason="done", freed_bytes=50 * MIB)


def test_a_round_that_took_much_of_the_cpus_is_followed_by_a_rest() -> None:
    light = learn(Pace(), POLICY, replace(ROUND, cpu_seconds=0.05), 1000)
    assert light.not_before_seconds == pytest.approx(1005)  # less than a round apart
    heavy = learn(Pace(), POLICY, replace(ROUND, cpu_seconds=0.4), 1000)
    assert heavy.not_before_seconds == pytest.approx(1040)
    assert "0.40 s of all CPUs" in heavy.reason


def test_the_next_round_makes_up_for_the_rest() -> None:
    usual = Pace(share=0.5)
    rested = replace(usual, rested_seconds=40.0)
    assert amount_bytes(rested, POLICY, 10, memory=0, io=0) == 4 * amount_bytes(
        usual, POLICY, 10, memory=0, io=0
    )


def test_what_comes_back_pauses_for_at_least_the_rest() -> None:
    back = replace(ROUND, refaulted_bytes=25 * MIB)
    short = learn(Pace(), POLICY, back, 1000)
    assert short.not_before_seconds == 1000 + POLICY.pause_seconds
    long = learn(Pace(), POLICY, replace(back, cpu_seconds=2.0), 1000)
    assert long.not_before_seconds == pytest.approx(1200)
    assert long.share < Pace().share


@given(st.floats(0, 100), st.floats(1, 3600), st.floats(0, 1), st.floats(0, 1))
def test_the_cpus_share_is_kept_and_nothing_is_taken_under_pressure(
    cpu_seconds: float, seconds: float, memory: float, io: float
) -> None:
    pace = learn(Pace(), POLICY, replace(ROUND, cpu_seconds=cpu_seconds), 0.0)
    assert pace.not_before_seconds >= min(600.0, cpu_seconds / POLICY.cpu_share) - 1e-6
    amount = amount_bytes(pace, POLICY, seconds, memory=memory, io=io)
    assert 0 <= amount <= POLICY.bytes_per_second * max(seconds, 60.0)
    if memory >= POLICY.memory_pressure_share or io >= POLICY.io_pressure_share:
        assert amount == 0
