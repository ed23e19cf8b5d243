# SPDX-License-Identifier: LGPL-2.1-or-later
"""Trimming a guest from inside, with its migration under way: nothing that libvirt refuses then is
even tried."""

from __future__ import annotations

import pytest

from hibprep.guests.errors import NotRunningError
from hibprep.guests.hardware import Hardware
from hibprep.guests.port import DomainState, JobPhase, JobStats, Operation
from hibprep.guests.trimming import TrimReport, trim_guest, trimmed_page
from hibprep.model import Ending
from hibprep.page import render
from tests.fakes.clock import HandClock
from tests.fakes.libvirt_host import FakeDomain, FakeHost, FakeStop, fake_means
from tests.fakes.libvirt_inside import AgentMood, FakeAgent
from tests.fakes.libvirt_memory import MIB, GuestMemory

MIGRATING = JobStats(phase=JobPhase.RUNNING, operation=Operation.MIGRATION_OUT)
REPORTING = Hardware(balloon=True, free_page_reporting=True, agent=True, agent_connected=True)


def guest(
    clock: HandClock, hardware: Hardware = REPORTING, mood: AgentMood = AgentMood.WELL
) -> FakeDomain:
    memory = GuestMemory(clock, reporting=hardware.free_page_reporting)
    domain = FakeHost(clock).add("web", memory, hardware=hardware)
    domain.agent_inside = FakeAgent(clock, memory, mood)
    domain.running_job = MIGRATING
    return domain


def trim(domain: FakeDomain, clock: HandClock, seconds: float = 30.0, **stop: float) -> TrimReport:
    means = fake_means(clock, FakeStop(clock, **stop) if stop else None)  # type: ignore[arg-type]
    return trim_guest(domain, means, timeout_seconds=seconds)


def test_a_guest_that_reports_is_trimmed_while_it_migrates() -> None:
    clock = HandClock()
    domain = guest(clock)
    before, began = domain.memory.sent, clock.seconds
    report = trim(domain, clock)
    assert report.ending is Ending.DONE
    assert report.reported is not None
    assert report.reported.given_back_bytes > 300 * MIB
    assert domain.memory.sent < before / 2
    assert clock.seconds - began < 20
    calls = set(domain.host.faults.names)
    assert not {name for name in calls if name.startswith(("set_", "remove_"))}
    assert domain.live == {}
    text = render(trimmed_page(report), terminal=False, color=False, width=80)
    assert "trim web: " in text
    assert "guest agent" in text


def test_without_reporting_nothing_is_done_to_it() -> None:
    clock = HandClock()
    domain = guest(clock, Hardware(balloon=True, agent=True, agent_connected=True))
    report = trim(domain, clock)
    assert report.ending is Ending.UNAVAILABLE
    assert "freePageReporting" in report.reason
    assert domain.memory.cache > 0


def test_no_way_in() -> None:
    clock = HandClock()
    report = trim(guest(clock, mood=AgentMood.BLOCKED), clock)
    assert report.ending is Ending.UNAVAILABLE
    assert len(report.rungs) == 2


def test_the_time_is_kept() -> None:
    clock = HandClock()
    began = clock.seconds
    report = trim(guest(clock), clock, seconds=3.0)
    assert report.ending is Ending.DEADLINE
    assert clock.seconds - began < 4.0


@pytest.mark.parametrize("after", [0.1, 3.0])
def test_a_stop(after: float) -> None:
    clock = HandClock()
    report = trim(guest(clock), clock, at=clock.seconds + after)
    assert report.ending is Ending.INTERRUPTED
    assert "SIGINT" in report.reason


def test_one_that_does_not_run() -> None:
    clock = HandClock()
    domain = guest(clock)
    domain.state = DomainState.PAUSED
    with pytest.raises(NotRunningError, match="web is paused"):
        trim(domain, clock)
