# SPDX-License-Identifier: LGPL-2.1-or-later
"""Pure: what the state machine remembers and answers, and the moves that its parts share."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from datetime import date
from enum import StrEnum

from hibprep import allowance, idleness
from hibprep.events import Moment, Request
from hibprep.idleness import View
from hibprep.model import Stage, Target
from hibprep.pace import Pace
from hibprep.policy import Policy


class Phase(StrEnum):
    """Where the machine is between use and sleep."""

    ACTIVE = "active"
    IDLE = "idle"
    RECLAIMING = "reclaiming"
    READY = "ready"
    SLEEPING = "sleeping"
    RESUMING = "resuming"


class Act(StrEnum):
    """What the daemon is told to do."""

    START = "start"
    STOP = "stop"
    RELEASE = "release"  # out of the way: the sleep may go on
    SWAP_IN = "swap-in"


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
    older_than_seconds: float = 0.0  # whatever is idle for so long, and no target; 0: the target
    cold_wait_seconds: float | None = None  # see `Limits`


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
    ended_at_seconds: float = -math.inf  # the last run
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


def moved(state: State, phase: Phase, reason: str, now: Moment) -> State:
    """`state` in that phase, for that reason."""
    since = state.since_seconds if phase is state.phase else now.monotonic_seconds
    return replace(state, phase=phase, reason=reason, since_seconds=since)


def started(
    state: State,
    stages: tuple[Stage, ...],
    why: str,
    now: Moment,
    policy: Policy,
    *,
    amount_bytes: int | None = None,
    older_than_seconds: float = 0.0,
) -> Answer:
    """`state` with a run of these stages begun, and the decision that begins it."""
    new = replace(
        moved(state, Phase.RECLAIMING, why, now),
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
        older_than_seconds=older_than_seconds,
        write_bytes=allowance.may_write_bytes(state.written_bytes, policy),
    )
    return new, (start,)
