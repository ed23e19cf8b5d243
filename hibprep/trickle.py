# SPDX-License-Identifier: LGPL-2.1-or-later
"""Pure: the policy `continuous`: the predicted hibernation is kept within its time, and memory that
is idle for longer than a threshold is given back, a little every period, at the pace that
`hibprep.pace` finds.
"""

from __future__ import annotations

from dataclasses import replace

from hibprep import pace
from hibprep.allowance import allowed
from hibprep.events import Moment
from hibprep.idleness import spell
from hibprep.model import Stage
from hibprep.policy import Policy
from hibprep.state import Answer, Phase, State, moved, started

BY_AGE = (Stage.CACHE, Stage.COLD_ANON)
_LOOKS = 4  # at what has become old enough, in the time that it takes to become so


def advance(state: State, now: Moment, policy: Policy) -> Answer:
    """Keep the predicted hibernation within its time, a little every period; when it is, let go
    what is old."""
    at = now.monotonic_seconds
    wanted = policy.continuous_seconds
    predicted = state.view.predicted
    if state.running:
        return state, ()
    wait = replace(state, next_stage=None, wake_at_seconds=at + policy.period_seconds)
    if predicted is None:
        return moved(wait, Phase.ACTIVE, "no prediction yet", now), ()
    would = f"would hibernate in {predicted.hibernate_seconds:.1f} s"
    kept = predicted.hibernate_seconds <= wanted
    phase = Phase.READY if kept else Phase.ACTIVE
    why = f"{would}, within {wanted:g} s" if kept else f"{would}, wanted within {wanted:g} s"
    if kept and not policy.older_than_seconds:
        return moved(wait, phase, why, now), ()
    if kept:
        why += f"; what is idle for {spell(policy.older_than_seconds)} goes"
    if state.held:
        return moved(wait, phase, f"{why}; held back by {state.held}", now), ()
    if state.wake_at_seconds is not None and at < state.wake_at_seconds:
        return moved(state, phase, why, now) if kept else state, ()
    if at < max(state.pace.not_before_seconds, state.retry_at_seconds):
        pausing = state.trouble or state.pace.reason
        return moved(wait, phase, f"{why}; pausing: {pausing}", now), ()
    if kept and at < (look_at := _next_look(state, policy)):
        return moved(replace(wait, wake_at_seconds=look_at), phase, why, now), ()
    stages, _, words = allowed(state.view.power, state.written_bytes, policy)
    if kept:
        stages = tuple(stage for stage in stages if stage in BY_AGE)
    if not stages:
        return moved(wait, phase, f"{why}{words}", now), ()
    amount = pace.amount_bytes(
        state.pace,
        policy.pace,
        policy.period_seconds,
        memory=_recent(state, "memory", now, policy),
        io=_recent(state, "io", now, policy),
        in_use_bytes=predicted.saveable_bytes,
    )
    if amount <= 0:
        return moved(wait, phase, f"{why}; others are under pressure", now), ()
    new, made = started(
        state,
        stages,
        f"{why}{words}",
        now,
        policy,
        amount_bytes=amount,
        older_than_seconds=policy.older_than_seconds if kept else 0.0,
    )
    return replace(new, wake_at_seconds=at + policy.period_seconds), made


def _next_look(state: State, policy: Policy) -> float:
    """When it is worth looking again for what is old; at once while there is more of it."""
    if state.pace.found:
        return 0.0
    return state.ended_at_seconds + policy.older_than_seconds / _LOOKS


def _recent(state: State, resource: str, now: Moment, policy: Policy) -> float:
    seen = state.view.pressure_at_seconds.get(resource)
    if seen is None or now.monotonic_seconds - seen > 2 * policy.period_seconds:
        return 0.0
    return state.view.pressure[resource].share
