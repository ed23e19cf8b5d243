# SPDX-License-Identifier: LGPL-2.1-or-later
from __future__ import annotations

import threading

import pytest

from hibprep.errors import ExitCode
from hibprep.guests.errors import ConnectionFailedError, DestinationError
from hibprep.guests.many import Route, migrate_all
from hibprep.guests.migrate import MigrateWish
from hibprep.guests.move_report import ManyReport, Where
from hibprep.guests.port import DomainState
from tests.fakes.libvirt_host import FakeDomain
from tests.waiting import GENEROUS_SECONDS

from .moving_guests import TwoHosts, until_aborted

NAMES = ("data", "mail", "web")


def emptied(hosts: TwoHosts, parallel: int) -> ManyReport:
    route = Route(source=hosts.a.uri, destination=hosts.b.uri, connect=hosts.connect)
    return migrate_all(route, MigrateWish(), hosts.means(), hosts.told.append, parallel=parallel)


@pytest.mark.parametrize("parallel", [1, 2, 8])
def test_all_that_run_are_moved(parallel: int) -> None:
    hosts = TwoHosts()
    for name in NAMES:
        hosts.guest(name)
    hosts.guest("off", state=DomainState.SHUT_OFF)
    report = emptied(hosts, parallel)
    assert [each.name for each in report.reports] == list(NAMES)
    assert report.failures == ()
    assert report.moved == len(NAMES)
    assert report.exit_code is ExitCode.DONE
    for name in NAMES:
        assert hosts.where(name).host is hosts.b
        hosts.assert_as_before(name)


def test_no_more_at_a_time_than_is_allowed() -> None:
    hosts = TwoHosts()
    meeting = threading.Barrier(2, timeout=GENEROUS_SECONDS)
    now: list[str] = []
    most: list[int] = []

    def during(domain: FakeDomain) -> None:
        now.append(domain.name)
        meeting.wait()  # two are under way at once, or this fails
        most.append(len(now))
        meeting.wait()
        now.remove(domain.name)

    for name in (*NAMES, "shop"):
        hosts.guest(name).during = during
    assert emptied(hosts, 2).moved == 4
    assert max(most) == 2


def test_one_that_fails_does_not_keep_the_others() -> None:
    hosts = TwoHosts()

    def fail(_domain: FakeDomain) -> None:
        raise DestinationError("mail: operation failed: the disk is not there")

    for name in NAMES:
        hosts.guest(name)
    hosts.a.all["mail"].during = fail
    hosts.b.free = None
    report = emptied(hosts, 2)
    assert report.exit_code is ExitCode.PARTLY
    assert report.moved == 2
    where = {each.name: each.where for each in report.reports}
    assert where == {
        "data": Where.DESTINATION,
        "mail": Where.SOURCE,
        "web": Where.DESTINATION,
    }
    for name in NAMES:
        hosts.assert_as_before(name)


def test_one_that_nothing_is_begun_with_does_not_keep_the_others() -> None:
    hosts = TwoHosts()
    for name in NAMES:
        hosts.guest(name)
    hosts.b.all["mail"] = FakeDomain(host=hosts.b, name="mail", memory=hosts.a.all["web"].memory)
    report = emptied(hosts, 1)
    assert [each.name for each in report.failures] == ["mail"]
    assert "already" in report.failures[0].reason
    assert report.moved == 2
    assert report.exit_code is ExitCode.PARTLY


def test_ctrl_c_ends_those_under_way_and_begins_no_other() -> None:
    hosts = TwoHosts()

    def press(domain: FakeDomain) -> None:
        hosts.interrupt()
        until_aborted(domain)

    for name in NAMES:
        hosts.guest(name)
    hosts.a.all["data"].during = press
    report = emptied(hosts, 1)
    assert report.exit_code is ExitCode.INTERRUPTED
    assert [each.where for each in report.reports] == [Where.SOURCE]
    assert [each.name for each in report.failures] == ["mail", "web"]
    assert {each.reason for each in report.failures} == {"interrupted by SIGINT"}
    for name in NAMES:
        hosts.assert_as_before(name)


def test_a_defect_with_one_guest_is_told_of_it() -> None:
    hosts = TwoHosts()

    def defect(_domain: FakeDomain) -> None:
        raise RuntimeError("a defect")

    for name in NAMES:
        hosts.guest(name)
    hosts.a.all["data"].during = defect
    report = emptied(hosts, 1)
    assert [(each.name, each.reason) for each in report.failures] == [
        ("data", "RuntimeError: a defect")
    ]
    assert report.moved == 2
    for name in NAMES:
        hosts.assert_as_before(name)


def test_a_source_that_cannot_be_asked() -> None:
    hosts = TwoHosts()
    hosts.cut_off(hosts.a)
    with pytest.raises(ConnectionFailedError):
        emptied(hosts, 2)


def test_an_empty_host() -> None:
    assert emptied(TwoHosts(), 2).exit_code is ExitCode.DONE
