# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the daemon shows, from what it remembers; and how a person reads it."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from hibprep.cli.status import daemon_page, line
from hibprep.events import Moment, SourceName, SourceState
from hibprep.history import Kept
from hibprep.ledger import Ledger
from hibprep.model import Progress, Stage
from hibprep.page import render
from hibprep.policy import Policy
from hibprep.standing import Facts, status_of
from hibprep.state import Phase, State, begin
from hibprep.status import Status

from .conftest import Golden
from .examples import AFTER, BEFORE, PLAN, REPORT, SNAPSHOT

MIB = 1 << 20
NOW = Moment(5000.0, 5000.0, datetime(2026, 11, 21, 14, 7, 2, tzinfo=UTC))
FACTS = Facts(
    snapshot=SNAPSHOT,
    prediction=AFTER,
    unprepared=replace(BEFORE, hibernate_seconds=49.0),
    fit=PLAN.fit_after,
    report=REPORT,
)


def state(**changes: Any) -> State:  # noqa: ANN401 - fields of any type
    made = begin(NOW)
    view = replace(
        made.view,
        sources={
            SourceName.LOGIND: SourceState(works=True, reason="3 sessions"),
            SourceName.PRESSURE: SourceState(works=False, reason="PSI is off: boot with psi=1"),
        },
    )
    idle = replace(
        made,
        view=view,
        phase=Phase.IDLE,
        reason="idle 5 min 2 s: seat0 locked since 14:02; cpu 99.1 % idle",
        since_seconds=NOW.monotonic_seconds - 302,
        done=(Stage.SYNC, Stage.CACHE, Stage.SLAB),
        next_stage=Stage.COLD_ANON,
        wake_at_seconds=NOW.monotonic_seconds + 130,
        written_bytes=3 * MIB,
    )
    return replace(idle, **changes)


def test_what_comes_next_and_when() -> None:
    status = status_of(state(), Policy(), NOW, FACTS)
    assert status.next_step == "cold-anon in 2 min 10 s"
    assert status.next_at == "2026-11-21T14:09:12+00:00"
    assert status.since == "2026-11-21T14:02:00+00:00"
    assert status.prediction["unprepared_hibernate_seconds"] == 49.0


def test_what_is_shown_can_be_sent_and_read() -> None:
    status = status_of(state(), Policy(write_budget_bytes=9 * MIB), NOW, FACTS)
    assert Status.from_json(status.to_json()) == status


def test_a_machine_that_could_not_be_looked_at() -> None:
    status = status_of(state(), Policy(), NOW, Facts())
    assert status.prediction == {}
    assert status.fit_ok is None
    assert daemon_page(status, Kept()).headline == "hibprep is idle."


def test_as_a_person_sees_it(golden: Golden) -> None:
    status = status_of(state(), Policy(write_budget_bytes=20 << 30), NOW, FACTS)
    golden("daemon.txt", render(daemon_page(status, Kept())))


def test_a_run_in_a_line() -> None:
    progress = Progress(
        stage=Stage.CACHE,
        step=1,
        steps=2,
        done_bytes=3 * MIB,
        amount_bytes=8 * MIB,
        saveable_bytes=1 << 30,
        goal_bytes=1 << 29,
        seconds=1.0,
    )
    running = state(phase=Phase.RECLAIMING, running=(Stage.CACHE,), wake_at_seconds=None)
    status = status_of(running, Policy(), NOW, replace(FACTS, progress=progress))
    assert line(replace(status, prediction={})) == (
        "reclaiming: idle 5 min 2 s: seat0 locked since 14:02; cpu 99.1 % idle; "
        "cache 3.0 MiB of 8.0 MiB"
    )


def test_what_was_written_is_kept_and_rubbish_is_nothing(tmp_path: Path) -> None:
    ledger = Ledger(str(tmp_path))
    assert ledger.load() == (None, 0)
    today = NOW.wall.date()
    assert ledger.save(today, 5 * MIB) == ""
    assert Ledger(str(tmp_path)).load() == (today, 5 * MIB)
    for rubbish in ("", "[]", '{"day": 3, "bytes": 1}', '{"day": "2026-11-21"}', "\x00"):
        ledger.path.write_text(rubbish)
        assert ledger.load() == (None, 0)
    (tmp_path / "file").write_text("")
    assert "Not a directory" in Ledger(str(tmp_path / "file")).save(today, 1)
