# SPDX-License-Identifier: LGPL-2.1-or-later
"""Asking logind to hibernate: in the right order, and with an answer to everything it may do."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from hibprep.bus import client as client_module
from hibprep.bus import login1
from hibprep.bus.client import BusError
from hibprep.errors import ExitCode, NotPossibleError
from tests.bus.conftest import Bus
from tests.bus.fakelogin1 import NOT_ENOUGH_SWAP, NOT_SUPPORTED, Behaviour, FakeLogin1
from tests.waiting import until

# dbus-next leaves the socket of a connection that fails to the garbage collector
unclosed = pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")


@pytest.fixture
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "CALL_SECONDS", 0.2)
    monkeypatch.setattr(login1, "_BEGIN_SECONDS", 0.2)
    monkeypatch.setattr(login1, "_WHOLE_SECONDS", 0.2)


def test_the_whole_of_it(bus: Bus) -> None:
    with FakeLogin1(bus.address, Behaviour()) as logind:
        login1.hibernate(bus.address)
    assert logind.calls == [("CanHibernate", []), ("Hibernate", [False])]


def test_signals_that_are_repeated_do_not_confuse_it(bus: Bus) -> None:
    """An earlier sleep's end may still be under way when this one begins."""
    with FakeLogin1(bus.address, Behaviour(signals=(False, True, True, False))):
        login1.hibernate(bus.address)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ("na", "hibernation is not possible here"),
        ("no", "may not hibernate"),
        ("challenge", "password"),
        ("inhibited", "inhibitor"),
        ("perhaps", "'perhaps'"),
    ],
)
def test_what_it_cannot_is_not_asked_for(bus: Bus, answer: str, words: str) -> None:
    with (
        FakeLogin1(bus.address, Behaviour(can=answer)) as logind,
        pytest.raises(NotPossibleError, match=words) as caught,
    ):
        login1.hibernate(bus.address)
    assert logind.members() == ["CanHibernate"]
    assert "hibprep check" in caught.value.remedy
    assert caught.value.exit_code is ExitCode.IMPOSSIBLE


def test_a_refusal_is_told_in_its_words(bus: Bus) -> None:
    refusal = Behaviour(error=(NOT_SUPPORTED, NOT_ENOUGH_SWAP))
    with (
        FakeLogin1(bus.address, refusal) as logind,
        pytest.raises(NotPossibleError, match=NOT_ENOUGH_SWAP) as caught,
    ):
        login1.hibernate(bus.address)
    assert logind.members() == ["CanHibernate", "Hibernate"]
    assert "hibprep check" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.usefixtures("short_waits")
@pytest.mark.parametrize("method", ["CanHibernate", "Hibernate"])
def test_no_answer(bus: Bus, method: str) -> None:
    with (
        FakeLogin1(bus.address, Behaviour(silent=frozenset({method}))),
        pytest.raises(NotPossibleError, match=f"did not answer {method} within"),
    ):
        login1.hibernate(bus.address)


@pytest.mark.parametrize("method", ["CanHibernate", "Hibernate"])
def test_logind_dies_in_a_call(bus: Bus, method: str) -> None:
    with (
        FakeLogin1(bus.address, Behaviour(dies_on=method)),
        pytest.raises(NotPossibleError, match=method),
    ):
        login1.hibernate(bus.address)


@pytest.mark.usefixtures("short_waits")
def test_the_sleep_never_begins(bus: Bus) -> None:
    with (
        FakeLogin1(bus.address, Behaviour(signals=())),
        pytest.raises(BusError, match="did not begin") as caught,
    ):
        login1.hibernate(bus.address)
    assert "journalctl" in caught.value.remedy


@pytest.mark.usefixtures("short_waits")
def test_the_sleep_never_ends(bus: Bus) -> None:
    with (
        FakeLogin1(bus.address, Behaviour(signals=(True,))),
        pytest.raises(BusError, match="did not end"),
    ):
        login1.hibernate(bus.address)


def test_the_daemon_dies_while_the_sleep_is_waited_for(bus: Bus) -> None:
    """With the waits of every day: a lost connection has to end them by itself."""
    with FakeLogin1(bus.address, Behaviour(signals=(True,))) as logind:

        def kill() -> None:
            until(lambda: "Hibernate" in logind.members(), "it was asked to hibernate")
            bus.kill()

        helper = threading.Thread(target=kill)
        helper.start()
        with pytest.raises(NotPossibleError):
            login1.hibernate(bus.address)
        helper.join()


def test_logind_dies_while_the_sleep_is_waited_for(bus: Bus) -> None:
    """Its end never comes: whoever owns the name next knows nothing of it."""
    with (
        FakeLogin1(bus.address, Behaviour(signals=(True,), dies_asleep=True)),
        pytest.raises(BusError, match="logind"),
    ):
        login1.hibernate(bus.address)


@pytest.mark.timeout(60)
def test_no_logind(bus: Bus) -> None:
    with pytest.raises(BusError, match="CanHibernate"):
        login1.hibernate(bus.address)


@unclosed
def test_no_bus(tmp_path: Path) -> None:
    with pytest.raises(BusError, match="install and start dbus, or use --direct"):
        login1.hibernate(f"unix:path={tmp_path}/none")
