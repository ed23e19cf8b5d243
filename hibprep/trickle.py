# SPDX-License-Identifier: LGPL-2.1-or-later
"""Pure: the policy `continuous`: the predicted hibernation is kept within its time, a little every
period, at the pace that `hibprep.pace` finds.
"""

from __future__ import annotations

from dataclasses import replace

from hibprep import pace
from hibprep.allowance import allowed
from hibprep.events import Moment
from hibprep.policy import Policy
from hibprep.state import Answer, Phase, State, moved, started


def advance(state: State, now: Moment, policy: Policy) -> Answer:
    """Keep the predicted hibernation within its time, a little every period."""
    at = now.monotonic_seconds
    wanted = policy.continuous_seconds
    predicted = state.view.predicted
    if state.running:
        return state, ()
    wait = replace(state, next_stage=None, wake_at_seconds=at + policy.period_seconds)
    if predicted is None:
        return moved(wait, Phase.ACTIVE, "no prediction yet", now), ()
    would = f"would hibernate in {predicted.hibernate_seconds:.1f} s"
    if predicted.hibernate_seconds <= wanted:
        return moved(wait, Phase.READY, f"{would}, within {wanted:g} s", now), ()
    why = f"{would}, wanted within {wanted:g} s"
    if state.held:
        return moved(wait, Phase.ACTIVE, f"{why}; held back by {state.held}", now), ()
    if state.wake_at_seconds is not None and at < state.wake_at_seconds:
        return state, ()
    if at < max(state.pace.not_before_seconds, state.retry_at_seconds):
        pausing = state.trouble or state.pace.reason
        return moved(wait, Phase.ACTIVE, f"{why}; pausing: {pausing}", now), ()
    stages, _, words = allowed(state.view.power, state.written_bytes, policy)
    if not stages:
        return moved(wait, Phase.ACTIVE, f"{why}{words}", now), ()
    amount = pace.amount_bytes(
        state.pace,
        policy.pace,
        policy.period_seconds,
        memory=_recent(state, "memory", now, policy),
        io=_recent(state, "io", now, policy),
    )
    if amount <= 0:
        return moved(wait, Phase.ACTIVE, f"{why}; others are under pressure", now), ()
    new, made = started(state, stages, f"{why}{words}", now, policy, amount_bytes=amount)
    return replace(new, wake_at_seconds=at + policy.period_seconds), made


def _recent(state: State, resource: str, now: Moment, policy: Policy) -> float:
    seen = state.view.pressure_at_seconds.get(resource)
    if seen is None or now.monotonic_seconds - seen > 2 * policy.period_seconds:
        return 0.0
    return state.view.pressure[resource].share
