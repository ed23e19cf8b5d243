# SPDX-License-Identifier: LGPL-2.1-or-later
"""What `hibprep check` asks logind: answered, refused, silent, absent; never an exception."""

from __future__ import annotations

from pathlib import Path

import pytest

from hibprep.bus.permission import ask
from tests.bus.conftest import Bus
from tests.bus.fakelogin1 import Behaviour, FakeLogin1

# dbus-next leaves the socket of a connection that fails to the garbage collector
unclosed = pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")


def test_answers_and_inhibitors(bus: Bus) -> None:
    answers = {
        "CanSuspendThenHibernate": ("s", ["na"]),
        "CanHybridSleep": ("s", ["challenge"]),
    }
    with FakeLogin1(bus.address, Behaviour(can="yes", answers=answers)) as logind:
        logind.inhibitors = [("sleep:idle", "backup", "it runs", "block", 0, 42)]
        found = ask(bus.address)
    assert found.unasked == ""
    assert found.answers == {
        "Hibernate": "yes",
        "SuspendThenHibernate": "na",
        "HybridSleep": "challenge",
    }
    (one,) = found.inhibitors
    assert (one.who, one.mode, one.pid, "sleep" in one.what) == ("backup", "block", 42, True)
    # to ask is all that it does
    assert all(name.startswith(("Can", "List")) for name in logind.members())


def test_one_that_does_not_know_the_other_sleeps(bus: Bus) -> None:
    with FakeLogin1(bus.address, Behaviour(can="na", denies=frozenset({"CanHybridSleep"}))):
        found = ask(bus.address)
    assert found.answers["Hibernate"] == "na"
    assert found.answers["HybridSleep"] not in ("", "yes")


def test_one_that_lists_no_inhibitors(bus: Bus) -> None:
    with FakeLogin1(bus.address, Behaviour(denies=frozenset({"ListInhibitors"}))):
        found = ask(bus.address)
    assert found.answers["Hibernate"] == "yes"
    assert found.inhibitors == ()


@pytest.mark.parametrize("silent", ["CanHibernate", "CanHybridSleep", "ListInhibitors"])
def test_one_that_never_answers(bus: Bus, silent: str) -> None:
    with FakeLogin1(bus.address, Behaviour(silent=frozenset({silent}))):
        found = ask(bus.address, 0.3)
    assert found.unasked == "logind did not answer within 0.3 s"
    assert found.answers == {}


def test_a_bus_without_logind(bus: Bus) -> None:
    assert "org.freedesktop.login1" in ask(bus.address).unasked


@unclosed
@pytest.mark.parametrize("address", ["unix:path={}/none", "nonsense"])
def test_no_bus(tmp_path: Path, address: str) -> None:
    assert "no connection to the system bus" in ask(address.format(tmp_path)).unasked
