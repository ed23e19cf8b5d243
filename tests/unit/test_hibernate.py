# SPDX-License-Identifier: LGPL-2.1-or-later
"""What `hibernate` decides before it hands the machine over, on a fake one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from hibprep import hibernate as sleeper
from hibprep.config import Config
from hibprep.machine import Machine
from hibprep.model import Ending, Limits, Report, Target
from hibprep.reclaim.base import Stop
from tests.fakes.harness import FakeClock
from tests.fakes.machine import FakeMachine, FakeRoot
from tests.fakes.state import GIB, FakeSwap
from tests.unit.examples import REPORT


def test_a_stop_after_the_last_chunk_does_not_switch_the_machine_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = FakeMachine(swaps=[FakeSwap("/dev/vdb", 16 * GIB, device="254:16")])
    machine = Machine(FakeRoot(fake, tmp_path), Config(), FakeClock(fake), None, "not looked for")
    stop = Stop()

    def prepared(*_arguments: object, **_more: object) -> Report:
        stop.request("interrupted by SIGINT")  # it comes when the last step has ended
        return replace(REPORT, ending=Ending.DONE)

    def slept(*_arguments: object, **_more: object) -> dict[str, object]:
        raise AssertionError("the machine would have been hibernated")

    monkeypatch.setattr(sleeper, "run_plan", prepared)
    monkeypatch.setattr(sleeper, "_sleep", slept)
    announced: list[str] = []
    report = sleeper.hibernate(
        machine, Target(), Limits(), direct=True, stop=stop, announce=announced.append
    )
    stop.close()
    assert announced == []
    assert report.ending is Ending.INTERRUPTED
    assert report.reason == "interrupted by SIGINT"
