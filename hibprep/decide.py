# SPDX-License-Identifier: LGPL-2.1-or-later
"""Pure: the state machine, `(state, signal, now) -> (state, decisions)`.

    Active -> Idle -> Reclaiming (stage by stage, each with its own delay) -> Ready
    any activity -> stop; a sleep -> stop, then out of the way; after it -> settle

Every state and every decision carries its reason. No I/O and no clock: the daemon carries out what
is decided here and tells what became of it (`RunEnded`).
"""

from __future__ import annotations

from dataclasses import replace
from types import MappingProxyType

from hibprep import idleness, pace, trickle
from hibprep.allowance import allowed
from hibprep.events import (
    Cpu,
    DevicesChanged,
    Moment,
    Pressure,
    Request,
    RunEnded,
    Shutdown,
    Signal,
    Sleep,
    Wish,
)
from hibprep.idleness import spell
from hibprep.model import Ending, Stage
from hibprep.policy import Kind, Policy
from hibprep.state import Act, Answer, Decision, Phase, State, moved, started

_FIRST_RETRY_SECONDS = 60.0
_LONGEST_RETRY_SECONDS = 3600.0
_DEVICES_SETTLE_SECONDS = 5.0
# What was swapped out is still being written for a while, and others wait for the disk.
_WRITEBACK_SECONDS = 15.0
# How long a sleep is waited for that nobody says has ended; CLOCK_MONOTONIC stands still in it.
LONGEST_SLEEP_SECONDS = 1800.0
_JUMP_SECONDS = 1.0  # CLOCK_BOOTTIME ran so much further than CLOCK_MONOTONIC: it has slept


def decide(state: State, signal: Signal, now: Moment, policy: Policy) -> Answer:
    """What is to be done now that `signal` has come."""
    ours = _is_ours(state, signal, now, policy)
    view = idleness.see(state.view, signal, now, policy.idle, reclaiming=ours)
    state = _new_day(replace(state, view=view), now)
    if isinstance(signal, (Sleep, Shutdown)):
        if signal.coming:
            return _sleeping(state, signal, now)
        if state.phase is not Phase.SLEEPING:
            return state, ()
        return _resuming(state, now, policy, "the sleep has ended")
    made: tuple[Decision, ...] = ()
    if isinstance(signal, RunEnded):
        state, made = _ended(state, signal, now, policy)
    elif isinstance(signal, Request):
        state, made = _asked(state, signal, now, policy)
    elif isinstance(signal, Cpu):
        state = replace(state, ran=bool(state.running))
    elif isinstance(signal, DevicesChanged):
        state, made = _devices(state, signal, now)
    state, more = _advance(state, now, policy)
    return state, (*made, *more)


def _is_ours(state: State, signal: Signal, now: Moment, policy: Policy) -> bool:
    """Whether what is told may be the doing of our own run, which the policy `continuous` wants to
    hear of and the others must not take for somebody's work."""
    if state.running:
        return not isinstance(signal, Pressure) or policy.kind is not Kind.CONTINUOUS
    if isinstance(signal, Cpu):
        return state.ran  # a sample tells of the time since the last one
    if isinstance(signal, Pressure) and policy.kind is not Kind.CONTINUOUS:
        return now.monotonic_seconds < state.ended_at_seconds + _WRITEBACK_SECONDS
    return False


# --- sleep ----------------------------------------------------------------------------------------


def _offset(now: Moment) -> float:
    return now.boottime_seconds - now.monotonic_seconds


def _sleeping(state: State, signal: Sleep | Shutdown, now: Moment) -> Answer:
    why = "the machine goes to sleep" if isinstance(signal, Sleep) else "the machine shuts down"
    first = state.phase is not Phase.SLEEPING
    new = moved(state, Phase.SLEEPING, why, now)
    new = replace(
        new,
        slept_seconds=_offset(now) if first else state.slept_seconds,
        wake_at_seconds=now.monotonic_seconds + LONGEST_SLEEP_SECONDS,
        next_stage=None,
        request=None,
        pending=False,
    )
    if not state.running:
        return new, (Decision(act=Act.RELEASE, reason=why),)
    if state.stopping:
        return new, ()
    return replace(new, stopping=True), (Decision(act=Act.STOP, reason=why),)


def _resuming(state: State, now: Moment, policy: Policy, why: str) -> Answer:
    view = replace(
        state.view,
        resumed_at_seconds=now.monotonic_seconds,
        pressure_at_seconds=MappingProxyType(dict[str, float]()),
    )
    new = moved(replace(state, view=view), Phase.RESUMING, why, now)
    new = replace(
        new,
        done=(),
        held="",
        failures=0,
        retry_at_seconds=0.0,
        checks=0,
        wake_at_seconds=now.monotonic_seconds + policy.settle_seconds,
    )
    # at once: it is now that somebody waits for what was in use
    return new, (Decision(act=Act.SWAP_IN, reason=why),) if policy.swap_in else ()


# --- requests, and what became of runs ------------------------------------------------------------


def _asked(state: State, request: Request, now: Moment, policy: Policy) -> Answer:
    if state.phase is Phase.SLEEPING:
        return state, ()  # whoever asks is told so by the daemon
    if request.wish is Wish.SWAP_IN:
        new = replace(_hold(state, request.who, now), done=())
        return _stopped(new, f"{request.who} wants memory back", extra=Act.SWAP_IN)
    if request.wish is Wish.STOP:
        new = replace(_hold(state, request.who, now), request=None, pending=False)
        return _stopped(new, f"stopped by {request.who}")
    if request.wish is Wish.TAKE_BACK:
        return _taken_back(state, request.who)
    new = replace(state, request=request, pending=True, held="")
    if state.running:
        return _stopped(new, f"{request.who} asks for a run of its own")
    return _start_request(new, now, policy)


def _taken_back(state: State, who: str) -> Answer:
    """Nothing is held back any more for `who`; what others have asked for is not touched."""
    if state.held == who:
        state = replace(state, held="")
    if state.request is None or state.request.who != who:
        return state, ()
    return _stopped(
        replace(state, request=None, pending=False), f"{who}: it is not wanted any more"
    )


def _hold(state: State, who: str, now: Moment) -> State:
    return replace(state, held=who, held_at_seconds=now.monotonic_seconds)


def _stopped(state: State, reason: str, extra: Act | None = None) -> Answer:
    made: tuple[Decision, ...] = ()
    if state.running and not state.stopping:
        state = replace(state, stopping=True)
        made = (Decision(act=Act.STOP, reason=reason),)
    if extra is not None:
        made = (*made, Decision(act=extra, reason=reason))
    return state, made


def _start_request(state: State, now: Moment, policy: Policy) -> Answer:
    request = state.request
    if request is None:
        return state, ()
    reason = f"asked for by {request.who}"
    new = replace(
        moved(state, Phase.RECLAIMING, reason, now),
        pending=False,
        running=request.stages,
        ran=True,
    )
    start = Decision(
        act=Act.START,
        reason=reason,
        stages=request.stages,
        target=request.target or policy.target,
        timeout_seconds=request.timeout_seconds,
        cold_wait_seconds=request.cold_wait_seconds,
    )  # the write budget is for what nobody asked for
    return new, (start,)


def _ended(state: State, ended: RunEnded, now: Moment, policy: Policy) -> Answer:
    ran = state.running
    new = replace(
        state,
        running=(),
        stopping=False,
        ended_at_seconds=now.monotonic_seconds,
        written_bytes=state.written_bytes + ended.swapped_out_bytes,
    )
    if state.phase is Phase.SLEEPING:
        return new, (Decision(act=Act.RELEASE, reason=state.reason),)
    if new.pending:
        return _start_request(new, now, policy)
    new = replace(new, request=None)
    if policy.kind is Kind.CONTINUOUS:
        learnt = pace.learn(state.pace, policy.pace, ended, now.monotonic_seconds)
        new = replace(new, pace=learnt)
    if ended.ending in (Ending.FAILED, Ending.UNAVAILABLE):
        wait = min(_LONGEST_RETRY_SECONDS, _FIRST_RETRY_SECONDS * 2**state.failures)
        return replace(
            new,
            failures=min(16, state.failures + 1),
            retry_at_seconds=now.monotonic_seconds + wait,
            trouble=ended.reason,
        ), ()
    new = replace(new, failures=0, trouble="")
    if ended.ending is Ending.INTERRUPTED:
        return new, ()
    done = tuple(Stage) if ended.goal_reached else (*state.done, *ran)
    return replace(new, done=tuple(dict.fromkeys(done))), ()


def _devices(state: State, signal: DevicesChanged, now: Moment) -> Answer:
    """A plan that was made with a swap that is gone must not go on; a new one may do more."""
    new = replace(
        state,
        done=(),
        checks=0,
        retry_at_seconds=now.monotonic_seconds + _DEVICES_SETTLE_SECONDS,
    )
    if state.phase is Phase.SLEEPING or state.request is not None:
        return state, ()
    return _stopped(new, signal.what)


# --- time passes ----------------------------------------------------------------------------------


def _advance(state: State, now: Moment, policy: Policy) -> Answer:
    at = now.monotonic_seconds
    if state.phase is Phase.SLEEPING:
        if _offset(now) - state.slept_seconds > _JUMP_SECONDS and not state.running:
            return _resuming(state, now, policy, "it has slept, by its clocks")
        if state.wake_at_seconds is not None and at >= state.wake_at_seconds:
            return _resuming(state, now, policy, "nobody said that the sleep ended")
        return state, ()
    if state.phase is Phase.RESUMING:
        if state.wake_at_seconds is not None and at < state.wake_at_seconds:
            return state, ()
        state = moved(state, Phase.ACTIVE, "settled after the resume", now)
    if state.request is not None:
        return state, ()  # somebody asked for it: activity does not stop it
    if policy.kind is Kind.ON_REQUEST:
        return _waiting_for_requests(state, now)
    if policy.kind is Kind.CONTINUOUS:
        return trickle.advance(state, now, policy)
    return _by_idleness(state, now, policy)


def _waiting_for_requests(state: State, now: Moment) -> Answer:
    # a change of policy may have left a run behind
    state, made = _stopped(state, "the policy is on-request")
    new = moved(state, Phase.ACTIVE, "the policy is on-request: hooks and commands decide", now)
    return replace(new, wake_at_seconds=None, next_stage=None), made


def _by_idleness(state: State, now: Moment, policy: Policy) -> Answer:
    at = now.monotonic_seconds
    idle = idleness.judge(state.view, now, policy.idle)
    quiet = -1.0 if idle.at_seconds is None else at - idle.at_seconds
    if idle.at_seconds is None or quiet < policy.after_seconds:
        return _active(state, idle, now, policy)
    why = f"idle {spell(quiet)}: {idle.words}"
    if state.running:
        return replace(state, reason=why), ()
    if state.held:
        new = moved(state, Phase.IDLE, f"held back by {state.held} until somebody was here", now)
        return replace(new, wake_at_seconds=None, next_stage=None), ()
    stages, factor, power_words = allowed(state.view.power, state.written_bytes, policy)
    why += power_words
    left = tuple(stage for stage in stages if stage not in state.done)
    due = tuple(stage for stage in left if quiet >= policy.delays_seconds[stage] * factor)
    if left and at < state.retry_at_seconds and state.trouble:
        why += f"; once more in {spell(state.retry_at_seconds - at)}, after: {state.trouble}"
    if due and at >= state.retry_at_seconds:
        return started(state, due, why, now, policy)
    if left:
        following = min(left, key=lambda stage: policy.delays_seconds[stage])
        due_at = idle.at_seconds + policy.delays_seconds[following] * factor
        new = moved(state, Phase.IDLE, why, now)
        wake = max(due_at, state.retry_at_seconds)
        return replace(new, next_stage=following, wake_at_seconds=wake), ()
    if not stages:
        new = moved(state, Phase.IDLE, why, now)
        return replace(new, next_stage=None, wake_at_seconds=None), ()
    return _ready(state, why, now, policy)


def _active(state: State, idle: idleness.Idleness, now: Moment, policy: Policy) -> Answer:
    reason = idle.words
    wake = None
    if idle.at_seconds is not None:
        wake = idle.at_seconds + policy.after_seconds
        reason = f"not idle for long enough: {idle.words}"
    state, made = _stopped(state, reason)
    new = moved(state, Phase.ACTIVE, reason, now)
    # a hold ends when somebody was here since: in use now, or not idle for as long as it lasts
    here = idle.at_seconds is None or idle.at_seconds > state.held_at_seconds
    return replace(
        new,
        done=(),
        checks=0,
        held="" if here else state.held,
        next_stage=None,
        wake_at_seconds=wake,
        failures=0,
    ), made


def _ready(state: State, why: str, now: Moment, policy: Policy) -> Answer:
    at = now.monotonic_seconds
    if state.phase is Phase.READY and state.wake_at_seconds is not None:
        if at < state.wake_at_seconds:
            return replace(state, reason=why), ()
        # memory that was taken may have come back: what is not there any more costs nothing to ask
        again = replace(state, done=(), checks=state.checks + 1, wake_at_seconds=None)
        stages, _, _ = allowed(again.view.power, again.written_bytes, policy)
        return started(again, stages, f"to see whether it still holds; {why}", now, policy)
    wait = min(_LONGEST_RETRY_SECONDS, policy.check_again_seconds * 2 ** min(16, state.checks))
    new = moved(state, Phase.READY, why, now)
    return replace(new, next_stage=None, wake_at_seconds=at + wait), ()


def _new_day(state: State, now: Moment) -> State:
    today = now.wall.date()
    if state.written_day == today:
        return state
    # a clock that is set back must not give a second budget for a day that had one
    if state.written_day is not None and today < state.written_day:
        return state
    return replace(state, written_day=today, written_bytes=0)
