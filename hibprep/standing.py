# SPDX-License-Identifier: LGPL-2.1-or-later
"""Pure: from what the daemon remembers to what it shows (`hibprep.status`)."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from hibprep.events import Moment
from hibprep.idleness import spell
from hibprep.model import Fit, Prediction, Progress, Report, Snapshot
from hibprep.policy import Policy
from hibprep.state import Phase, State
from hibprep.status import SourceStatus, Status


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What was measured, beside what was decided; None where it could not be."""

    snapshot: Snapshot | None = None
    prediction: Prediction | None = None
    unprepared: Prediction | None = None  # before the first run since somebody was here
    fit: Fit | None = None
    progress: Progress | None = None
    report: Report | None = None


def status_of(state: State, policy: Policy, now: Moment, facts: Facts) -> Status:
    """The daemon at this moment, for people and programs."""
    next_step, next_at = _next(state, now)
    progress = facts.progress if state.running else None
    return Status(
        phase=state.phase,
        reason=state.reason,
        since=_iso(now, state.since_seconds),
        policy=policy.kind,
        stage=progress.stage if progress else "",
        done_stages=tuple(str(stage) for stage in state.done),
        progress=None if progress is None else {
            "stage": str(progress.stage),
            "done_bytes": progress.done_bytes,
            "amount_bytes": progress.amount_bytes,
            "saveable_bytes": progress.saveable_bytes,
            "goal_bytes": progress.goal_bytes,
        },
        next_step=next_step,
        next_at=next_at,
        prediction=_prediction(facts),
        swap=_swap(facts.snapshot),
        fit=facts.fit.reason if facts.fit else "",
        fit_ok=facts.fit.ok if facts.fit else None,
        sources=tuple(
            SourceStatus(str(name), source.works, source.reason)
            for name, source in sorted(state.view.sources.items())
        ),
        last_report=_report(facts.report),
        written_today_bytes=state.written_bytes,
        write_budget_bytes=policy.write_budget_bytes,
    )  # fmt: skip


def _next(state: State, now: Moment) -> tuple[str, str]:
    """What comes next if nothing happens, and when."""
    if state.wake_at_seconds is None or state.running:
        return "", ""
    what = {
        Phase.ACTIVE: "idle",
        Phase.IDLE: str(state.next_stage or ""),
        Phase.READY: "another look",
        Phase.RESUMING: "settled",
    }.get(state.phase, "")
    if not what:
        return "", ""
    wait = state.wake_at_seconds - now.monotonic_seconds
    return f"{what} in {spell(wait)}", _iso(now, state.wake_at_seconds)


def _prediction(facts: Facts) -> dict[str, float]:
    if facts.prediction is None:
        return {}
    values: dict[str, float] = {
        "hibernate_seconds": round(facts.prediction.hibernate_seconds, 3),
        "resume_seconds": round(facts.prediction.resume_seconds, 3),
        "saveable_bytes": facts.prediction.saveable_bytes,
    }
    if facts.unprepared is not None:
        values["unprepared_hibernate_seconds"] = round(facts.unprepared.hibernate_seconds, 3)
    return values


def _swap(snapshot: Snapshot | None) -> dict[str, int]:
    if snapshot is None:
        return {}
    areas = [area for area in snapshot.swaps if not area.is_zram]
    return {
        "total_bytes": sum(area.size_bytes for area in areas),
        "free_bytes": sum(area.free_bytes for area in areas),
    }


def _report(report: Report | None) -> dict[str, str | float] | None:
    if report is None:
        return None
    return {
        "started": report.started,
        "ending": str(report.ending),
        "reason": report.reason,
        "freed_bytes": report.freed.reclaimed_bytes,
        "seconds": round(report.seconds, 3),
    }


def _iso(now: Moment, at_seconds: float) -> str:
    wall: datetime = now.wall + timedelta(seconds=at_seconds - now.monotonic_seconds)
    return wall.isoformat(timespec="seconds")


def worth_telling(state: State) -> tuple[object, ...]:
    """What a change of is worth waking those up who follow."""
    reason = state.reason if state.phase is not Phase.IDLE else ""
    sources = tuple((name, one.works) for name, one in state.view.sources.items())
    return (state.phase, state.running, state.stopping, state.done, state.held, reason, sources)
