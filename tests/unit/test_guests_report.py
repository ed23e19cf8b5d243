# SPDX-License-Identifier: LGPL-2.1-or-later
"""What people and programs are shown of guests."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace

import pytest

from hibprep.guests.balloon import DEFAULT_RESERVE
from hibprep.guests.errors import NoSuchDomainError
from hibprep.guests.estimating import estimate_guest
from hibprep.guests.hardware import Hardware
from hibprep.guests.listing import list_guests, listing_page
from hibprep.guests.port import DomainState, JobPhase, JobStats, Operation
from hibprep.guests.prepare import Options, prepare
from hibprep.guests.record import NAMESPACE
from hibprep.guests.report import Failure, Guests, estimate_page, prepared_page, undone_page
from hibprep.guests.undo import undo, undo_all
from hibprep.page import Page, render
from hibprep.report import to_json
from tests.fakes.clock import HandClock
from tests.fakes.libvirt_host import FakeDomain, FakeHost, fake_means
from tests.fakes.libvirt_inside import AgentMood, FakeAgent
from tests.fakes.libvirt_memory import MIB, GuestMemory

PLAIN = Hardware(balloon=True, agent=True, agent_connected=True, stats_period_seconds=2)
REPORTING = replace(PLAIN, free_page_reporting=True, channel=True)
Golden = Callable[[str, str], None]


class House:
    """A host with one guest of every sort."""

    def __init__(self) -> None:
        self.clock = HandClock()
        self.host = FakeHost(self.clock)
        self.add("web", PLAIN)
        self.add("db", REPORTING)
        self.add("quiet", Hardware(balloon=True))
        self.add("gpu", replace(PLAIN, vfio=("the pci device 0000:01:00.0",)))
        off = self.add("off", PLAIN)
        off._run(DomainState.SHUT_OFF)
        saved = self.add("saved", PLAIN)
        saved._run(DomainState.SHUT_OFF)
        saved.saved = True
        moving = self.add("moving", PLAIN)
        moving.running_job = JobStats(phase=JobPhase.RUNNING, operation=Operation.MIGRATION_OUT)
        self.add("left", PLAIN)
        self.clock.go_on(5)
        for domain in self.host.all.values():
            domain.memory.catch_up()
        self.prepare("left")
        self.clock.go_on(5)

    def add(self, name: str, hardware: Hardware) -> FakeDomain:
        memory = GuestMemory(self.clock)
        agent = FakeAgent(self.clock, memory, AgentMood.WELL) if hardware.agent else None
        return self.host.add(name, memory, hardware=hardware, agent_inside=agent)

    def prepare(self, name: str) -> Page:
        means = fake_means(self.clock)
        report = prepare(self.host.all[name], Options(), means, lambda _now: None)
        return prepared_page(report)

    def estimate(self, name: str) -> Page:
        return estimate_page(estimate_guest(self.host.all[name], fake_means(self.clock)))


def pages() -> dict[str, Page]:
    house = House()
    found = {
        "guest-list": listing_page(list_guests(house.host, DEFAULT_RESERVE)),
        "guest-list-empty": listing_page(list_guests(FakeHost(house.clock, "b"), DEFAULT_RESERVE)),
        "guest-estimate": house.estimate("db"),
        "guest-estimate-quiet": house.estimate("quiet"),
        "guest-estimate-gpu": house.estimate("gpu"),
        "guest-prepare": house.prepare("web"),
        "guest-prepare-reporting": house.prepare("db"),
        "guest-prepare-gpu": house.prepare("gpu"),
    }
    house.host.all["moving"].live[NAMESPACE] = "<prepared/>"
    found["guest-undo"] = undone_page(undo_all(house.host, fake_means(house.clock)), house.host.uri)
    found["guest-undo-nothing"] = undone_page((), house.host.uri)
    return found


PAGES = pages()


@pytest.mark.parametrize("name", PAGES)
def test_plain_lines(name: str, golden: Golden) -> None:
    golden(f"{name}.txt", render(PAGES[name]))


@pytest.mark.parametrize("name", ["guest-list", "guest-prepare"])
def test_tables(name: str, golden: Golden) -> None:
    text = render(PAGES[name], terminal=True, color=False, width=140)
    golden(f"{name}.table", "\n".join(line.rstrip() for line in text.splitlines()) + "\n")


def test_listing_changes_nothing_and_asks_no_guest() -> None:
    house = House()
    names = house.host.faults.names
    before = len(names)
    list_guests(house.host, DEFAULT_RESERVE)
    assert set(names[before:]) <= {"domains", "info", "memory_stats", "metadata", "job"}


def test_one_that_goes_away_meanwhile_is_told() -> None:
    house = House()
    house.host.faults.at = house.host.faults.calls + 2
    house.host.faults.error = NoSuchDomainError("db is not there any more")
    listing = list_guests(house.host, DEFAULT_RESERVE)
    assert len(listing.guests) == 7
    assert listing.failures == (Failure("db", "db is not there any more"),)


def test_an_estimate_leaves_the_guest_as_it_was() -> None:
    house = House()
    quiet = house.host.all["quiet"]
    assert quiet.memory.period == 0
    estimate = estimate_guest(quiet, fake_means(house.clock))
    assert estimate.prepared
    assert estimate.age_seconds is not None
    assert estimate.age_seconds < 3
    assert quiet.memory.period == 0
    assert not quiet.live
    assert not quiet.configured


def test_an_estimate_of_one_that_is_prepared_leaves_its_record() -> None:
    house = House()
    left = house.host.all["left"]
    left.memory.period = 0
    record = left.live[NAMESPACE]
    estimate_guest(left, fake_means(house.clock))
    assert left.live[NAMESPACE] == record


def test_for_a_program() -> None:
    house = House()
    web = house.host.all["web"]
    means = fake_means(house.clock)
    report = prepare(web, Options(), means, lambda _now: None)
    found = json.loads(to_json(Guests(guests=(report,))))
    (guest,) = found["guests"]
    assert guest["name"] == "web"
    assert guest["saved_bytes"] == report.saved_bytes > 300 * MIB
    assert guest["discards"] == ["balloon"]
    assert guest["before"]["terms"][0]["name"] == "in use"
    undone = json.loads(to_json(Guests(guests=(undo(web, means),))))
    assert undone["guests"][0]["ending"] == "undone"
    listing = json.loads(to_json(list_guests(house.host, DEFAULT_RESERVE)))
    assert [each["name"] for each in listing["guests"]] == sorted(house.host.all)
