# SPDX-License-Identifier: LGPL-2.1-or-later
"""Pure: the state machine, `(state, signal, now) -> (state, decisions)`.

    Active -> Idle -> Reclaiming (stage by stage, each with its own delay) -> Ready
    any activity -> stop; a sleep -> stop, then out of the way; after it -> settle

Every state and every decision carries its reason. No I/O and no clock: the daemon carries out what
is decided here and tells what became of it (`RunEnded`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import date
from enum import StrEnum
from types import MappingProxyType

from hibprep import idleness, pace
from hibprep.events import (
    Cpu,
    DevicesChanged,
    Moment,
    Request,
    RunEnded,
    Shutdown,
    Signal,
    Sleep,
    Wish,
)
from hibprep.idleness import IdlePolicy, View, spell
from hibprep.model import Ending, Stage, Target
from hibprep.pace import Pace, PacePolicy

_FIRST_RETRY_SECONDS = 60.0
_LONGEST_RETRY_SECONDS = 3600.0
_DEVICES_SETTLE_SECONDS = 5.0
# How long a sleep is waited for that nobody says has ended; CLOCK_MONOTONIC stands still in it.
LONGEST_SLEEP_SECONDS = 1800.0
_JUMP_SECONDS = 1.0  # CLOCK_BOOTTIME ran so much further than CLOCK_MONOTONIC: it has slept
_WRITING = frozenset({Stage.COLD_ANON, Stage.ANON})


class Phase(StrEnum):
    """Where the machine is between use and sleep."""

    ACTIVE = "active"
    IDLE = "idle"
    RECLAIMING = "reclaiming"
    READY = "ready"
    SLEEPING = "sleeping"
    RESUMING = "resuming"


class Kind(StrEnum):
    """The policies."""

    IDLE = "idle"
    CONTINUOUS = "continuous"
    ON_REQUEST = "on-request"


class Battery(StrEnum):
    """What changes on battery, below a level, or in low-power mode."""

    AS_USUAL = "as-usual"
    CACHE_ONLY = "cache-only"  # nothing is written
    HOLD = "hold"
    FORWARD = "forward"  # earlier: this machine will have to sleep soon


class Act(StrEnum):
    """What the daemon is told to do."""

    START = "start"
    STOP = "stop"
    RELEASE = "release"  # out of the way: the sleep may go on
    SWAP_IN = "swap-in"


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """The configuration, as far as it decides."""

    kind: Kind = Kind.IDLE
    target: Target = field(default_factory=Target)
    idle: IdlePolicy = field(default_factory=IdlePolicy)
    after_seconds: float = 60.0  # less is not idle at all
    delays_seconds: Mapping[Stage, float] = field(
        default_factory=lambda: MappingProxyType(
            {
                Stage.SYNC: 60.0,
                Stage.CACHE: 120.0,
                Stage.SLAB: 120.0,
                Stage.COLD_ANON: 300.0,
                Stage.ANON: 900.0,
            }
        )
    )
    check_again_seconds: float = 300.0  # when Ready; doubled up to an hour
    settle_seconds: float = 60.0  # after a resume
    swap_in: bool = False
    on_battery: Battery = Battery.AS_USUAL
    low_battery_percent: float = 20.0
    on_low_battery: Battery = Battery.FORWARD
    on_low_power: Battery = Battery.AS_USUAL
    forward_factor: float = 0.25
    write_budget_bytes: int = 0  # a day; 0: no limit
    continuous_seconds: float = 10.0  # the hibernation is to take no longer
    period_seconds: float = 10.0
    pace: PacePolicy = field(default_factory=PacePolicy)


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """One thing to do, and why."""

    act: Act
    reason: str
    stages: tuple[Stage, ...] = ()
    target: Target | None = None
    timeout_seconds: float | None = None
    amount_bytes: int | None = None  # no more than this in all
    write_bytes: int | None = None  # no more than this to swap


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """All there is to remember. `wake_at_seconds`: a `Tick` is wanted then."""

    view: View
    phase: Phase = Phase.ACTIVE
    since_seconds: float = 0.0
    reason: str = "just started"
    running: tuple[Stage, ...] = ()  # what was started and has not ended
    stopping: bool = False
    request: Request | None = None  # the one that the run is for, or that waits for its end
    pending: bool = False  # `request` waits
    ran: bool = False  # since the CPUs were last looked at
    done: tuple[Stage, ...] = ()
    held: str = ""  # by whom, until somebody has been here
    held_at_seconds: float = 0.0
    trouble: str = ""  # what the last run failed of
    next_stage: Stage | None = None
    wake_at_seconds: float | None = None
    retry_at_seconds: float = 0.0
    failures: int = 0
    checks: int = 0
    slept_seconds: float = 0.0  # CLOCK_BOOTTIME − CLOCK_MONOTONIC as the sleep began
    pace: Pace = field(default_factory=Pace)
    written_day: date | None = None
    written_bytes: int = 0


Answer = tuple[State, tuple[Decision, ...]]


def begin(now: Moment, *, written_day: date | None = None, written_bytes: int = 0) -> State:
    """The state of a daemon that has just started; what was written today is kept across starts."""
    return State(
        view=idleness.begin(now),
        since_seconds=now.monotonic_seconds,
        written_day=written_day,
        written_bytes=written_bytes,
    )


def decide(state: State, signal: Signal, now: Moment, policy: Policy) -> Answer:
    """What is to be done now that `signal` has come."""
    reclaiming = bool(state.running) or state.ran
    view = idleness.see(state.view, signal, now, policy.idle, reclaiming=reclaiming)
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


# --- sleep ----------------------------------------------------------------------------------------


def _offset(now: Moment) -> float:
    return now.boottime_seconds - now.monotonic_seconds


def _sleeping(state: State, signal: Sleep | Shutdown, now: Moment) -> Answer:
    why = "the machine goes to sleep" if isinstance(signal, Sleep) else "the machine shuts down"
    first = state.phase is not Phase.SLEEPING
    new = _to(state, Phase.SLEEPING, why, now)
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
    new = _to(replace(state, view=view), Phase.RESUMING, why, now)
    new = replace(
        new,
        done=(),
        held="",
        failures=0,
        retry_at_seconds=0.0,
        checks=0,
        wake_at_seconds=now.monotonic_seconds + policy.settle_seconds,
    )
    return new, ()


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
    new = replace(state, request=request, pending=True, held="")
    if state.running:
        return _stopped(new, f"{request.who} asks for a run of its own")
    return _start_request(new, now, policy)


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
    stages = tuple(Stage)
    new = replace(
        _to(state, Phase.RECLAIMING, reason, now), pending=False, running=stages, ran=True
    )
    start = Decision(
        act=Act.START,
        reason=reason,
        stages=stages,
        target=request.target or policy.target,
        timeout_seconds=request.timeout_seconds,
    )  # the write budget is for what nobody asked for
    return new, (start,)


def _ended(state: State, ended: RunEnded, now: Moment, policy: Policy) -> Answer:
    ran = state.running
    new = replace(
        state,
        running=(),
        stopping=False,
        written_bytes=state.written_bytes + ended.swapped_out_bytes,
        # what others waited for while memory was taken was our doing, and braked for
        view=replace(state.view, pressure_at_seconds=MappingProxyType(dict[str, float]()))
        if policy.kind is not Kind.CONTINUOUS
        else state.view,
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
        state = _to(state, Phase.ACTIVE, "settled after the resume", now)
        if policy.swap_in:
            return state, (Decision(act=Act.SWAP_IN, reason="settled after the resume"),)
    if state.request is not None:
        return state, ()  # somebody asked for it: activity does not stop it
    if policy.kind is Kind.ON_REQUEST:
        return _waiting_for_requests(state, now)
    if policy.kind is Kind.CONTINUOUS:
        return _continuous(state, now, policy)
    return _by_idleness(state, now, policy)


def _waiting_for_requests(state: State, now: Moment) -> Answer:
    # a change of policy may have left a run behind
    state, made = _stopped(state, "the policy is on-request")
    new = _to(state, Phase.ACTIVE, "the policy is on-request: hooks and commands decide", now)
    return replace(new, wake_at_seconds=None, next_stage=None), made


def _by_idleness(state: State, now: Moment, policy: Policy) -> Answer:
    at = now.monotonic_seconds
    idle = idleness.judge(state.view, now, policy.idle, reclaiming=bool(state.running) or state.ran)
    quiet = -1.0 if idle.at_seconds is None else at - idle.at_seconds
    if idle.at_seconds is None or quiet < policy.after_seconds:
        return _active(state, idle, now, policy)
    why = f"idle {spell(quiet)}: {idle.words}"
    if state.running:
        return replace(state, reason=why), ()
    if state.held:
        new = _to(state, Phase.IDLE, f"held back by {state.held} until somebody was here", now)
        return replace(new, wake_at_seconds=None, next_stage=None), ()
    stages, factor, power_words = _allowed(state, policy)
    why += power_words
    left = tuple(stage for stage in stages if stage not in state.done)
    due = tuple(stage for stage in left if quiet >= policy.delays_seconds[stage] * factor)
    if left and at < state.retry_at_seconds and state.trouble:
        why += f"; once more in {spell(state.retry_at_seconds - at)}, after: {state.trouble}"
    if due and at >= state.retry_at_seconds:
        return _start(state, due, why, now, policy)
    if left:
        following = min(left, key=lambda stage: policy.delays_seconds[stage])
        due_at = idle.at_seconds + policy.delays_seconds[following] * factor
        new = _to(state, Phase.IDLE, why, now)
        wake = max(due_at, state.retry_at_seconds)
        return replace(new, next_stage=following, wake_at_seconds=wake), ()
    if not stages:
        new = _to(state, Phase.IDLE, why, now)
        return replace(new, next_stage=None, wake_at_seconds=None), ()
    return _ready(state, why, now, policy)


def _active(state: State, idle: idleness.Idleness, now: Moment, policy: Policy) -> Answer:
    reason = idle.words
    wake = None
    if idle.at_seconds is not None:
        wake = idle.at_seconds + policy.after_seconds
        reason = f"not idle for long enough: {idle.words}"
    state, made = _stopped(state, reason)
    new = _to(state, Phase.ACTIVE, reason, now)
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


def _start(
    state: State,
    stages: tuple[Stage, ...],
    why: str,
    now: Moment,
    policy: Policy,
    *,
    amount_bytes: int | None = None,
) -> Answer:
    new = replace(
        _to(state, Phase.RECLAIMING, why, now),
        running=stages,
        ran=True,
        next_stage=None,
        wake_at_seconds=None,
    )
    start = Decision(
        act=Act.START,
        reason=why,
        stages=stages,
        target=policy.target,
        amount_bytes=amount_bytes,
        write_bytes=_may_write_bytes(state, policy),
    )
    return new, (start,)


def _ready(state: State, why: str, now: Moment, policy: Policy) -> Answer:
    at = now.monotonic_seconds
    if state.phase is Phase.READY and state.wake_at_seconds is not None:
        if at < state.wake_at_seconds:
            return replace(state, reason=why), ()
        # memory that was taken may have come back: what is not there any more costs nothing to ask
        again = replace(state, done=(), checks=state.checks + 1, wake_at_seconds=None)
        stages, _, _ = _allowed(again, policy)
        return _start(again, stages, f"to see whether it still holds; {why}", now, policy)
    wait = min(_LONGEST_RETRY_SECONDS, policy.check_again_seconds * 2 ** min(16, state.checks))
    new = _to(state, Phase.READY, why, now)
    return replace(new, next_stage=None, wake_at_seconds=at + wait), ()


def _allowed(state: State, policy: Policy) -> tuple[tuple[Stage, ...], float, str]:
    """The stages that may be used now, what their delays are multiplied with, and why."""
    stages = tuple(stage for stage in Stage if stage in policy.delays_seconds)
    factor, words = 1.0, ""
    how, why = _power_rule(state, policy)
    if how is Battery.HOLD:
        return (), 1.0, f"; held back {why}"
    if how is Battery.CACHE_ONLY:
        stages = tuple(stage for stage in stages if stage not in _WRITING)
        words = f"; nothing is written {why}"
    if how is Battery.FORWARD:
        factor, words = policy.forward_factor, f"; earlier than usual {why}"
    if _may_write_bytes(state, policy) == 0:
        stages = tuple(stage for stage in stages if stage not in _WRITING)
        words += "; today's write budget is spent"
    return stages, factor, words


def _power_rule(state: State, policy: Policy) -> tuple[Battery, str]:
    power = state.view.power
    on_battery = power.mains is False
    level = power.battery_percent
    if on_battery and level is not None and level <= policy.low_battery_percent:
        return policy.on_low_battery, f"(battery at {level:.0f} %)"
    if power.low_power and policy.on_low_power is not Battery.AS_USUAL:
        return policy.on_low_power, "(low-power mode)"
    if on_battery:
        return policy.on_battery, "(on battery)"
    return Battery.AS_USUAL, ""


def _may_write_bytes(state: State, policy: Policy) -> int | None:
    """What today's budget leaves for swap; None: no budget."""
    if not policy.write_budget_bytes:
        return None
    return max(0, policy.write_budget_bytes - state.written_bytes)


def _new_day(state: State, now: Moment) -> State:
    today = now.wall.date()
    if state.written_day == today:
        return state
    # a clock that is set back must not give a second budget for a day that had one
    if state.written_day is not None and today < state.written_day:
        return state
    return replace(state, written_day=today, written_bytes=0)


# --- continuous -----------------------------------------------------------------------------------


def _continuous(state: State, now: Moment, policy: Policy) -> Answer:
    """Keep the predicted hibernation within its time, a little every period."""
    at = now.monotonic_seconds
    wanted = policy.continuous_seconds
    predicted = state.view.predicted
    if state.running:
        return state, ()
    wait = replace(state, next_stage=None, wake_at_seconds=at + policy.period_seconds)
    if predicted is None:
        return _to(wait, Phase.ACTIVE, "no prediction yet", now), ()
    would = f"would hibernate in {predicted.hibernate_seconds:.1f} s"
    if predicted.hibernate_seconds <= wanted:
        return _to(wait, Phase.READY, f"{would}, within {wanted:g} s", now), ()
    why = f"{would}, wanted within {wanted:g} s"
    if state.held:
        return _to(wait, Phase.ACTIVE, f"{why}; held back by {state.held}", now), ()
    if state.wake_at_seconds is not None and at < state.wake_at_seconds:
        return state, ()
    if at < max(state.pace.not_before_seconds, state.retry_at_seconds):
        pausing = state.trouble or state.pace.reason
        return _to(wait, Phase.ACTIVE, f"{why}; pausing: {pausing}", now), ()
    stages, _, words = _allowed(state, policy)
    if not stages:
        return _to(wait, Phase.ACTIVE, f"{why}{words}", now), ()
    amount = pace.amount_bytes(
        state.pace,
        policy.pace,
        policy.period_seconds,
        memory=_recent(state, "memory", now, policy),
        io=_recent(state, "io", now, policy),
    )
    if amount <= 0:
        return _to(wait, Phase.ACTIVE, f"{why}; others are under pressure", now), ()
    new, made = _start(state, stages, f"{why}{words}", now, policy, amount_bytes=amount)
    return replace(new, wake_at_seconds=at + policy.period_seconds), made


def _recent(state: State, resource: str, now: Moment, policy: Policy) -> float:
    seen = state.view.pressure_at_seconds.get(resource)
    if seen is None or now.monotonic_seconds - seen > 2 * policy.period_seconds:
        return 0.0
    return state.view.pressure[resource].share


def _to(state: State, phase: Phase, reason: str, now: Moment) -> State:
    since = state.since_seconds if phase is state.phase else now.monotonic_seconds
    return replace(state, phase=phase, reason=reason, since_seconds=since)
