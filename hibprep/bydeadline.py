# SPDX-License-Identifier: LGPL-2.1-or-later
"""Preparing by a deadline: looking at the machine for `hibprep.deadline`, and keeping to what that
says."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from hibprep import prepare as engine
from hibprep.deadline import Verdict, settle
from hibprep.machine import Machine, ruled_snapshot_of
from hibprep.model import Limits, Progress, Report
from hibprep.reclaim.base import Stop
from hibprep.session import capabilities

_LEAST_SECONDS = 0.05  # 0 would be "as long as it takes"


@dataclass(frozen=True, slots=True, kw_only=True)
class Settled:
    """A verdict, and when what it says to prepare has to be over (CLOCK_MONOTONIC)."""

    verdict: Verdict
    prepared_by: float


def settle_by(
    machine: Machine,
    limits: Limits,
    deadline: float,
    *,
    keep_seconds: float = 0.0,
    hibernates: bool = True,
    measure: bool = True,
) -> Settled:
    """What to prepare by `deadline` (CLOCK_MONOTONIC, seconds), of which `keep_seconds` are for
    others. With `measure`, speeds that are not known yet are measured first, in under a second."""
    snapshot = ruled_snapshot_of(machine, limits.scope)
    found = {item.backend: item for item in capabilities(machine)}
    speeds = engine.rates_of(machine, snapshot, measure=measure)
    now = machine.clock.monotonic()
    verdict = settle(
        snapshot,
        speeds,
        limits,
        found,
        seconds=deadline - now,
        keep_seconds=keep_seconds,
        hibernates=hibernates,
    )
    return Settled(verdict=verdict, prepared_by=now + verdict.prepare_seconds)


def prepare_by(
    machine: Machine,
    settled: Settled,
    *,
    stop: Stop,
    progress: Callable[[Progress], None] | None = None,
) -> Report | None:
    """Prepare as was settled, and no longer; None where there is nothing to prepare."""
    verdict = settled.verdict
    if verdict.target is None:
        return None
    plan = engine.make_plan(machine, verdict.target, verdict.limits)
    left = settled.prepared_by - machine.clock.monotonic()
    return engine.prepare(
        machine,
        plan,
        stop=stop,
        timeout_seconds=max(_LEAST_SECONDS, left),
        progress=progress,
        command="prepare",
        limits=verdict.limits,
    )
