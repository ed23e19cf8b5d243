# SPDX-License-Identifier: LGPL-2.1-or-later
"""sd_notify(3), with a real datagram socket in the service manager's place."""

from __future__ import annotations

import os
import socket
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from hibprep.notify import Notifier
from tests.waiting import GENEROUS_SECONDS


class FixedClock:
    def monotonic(self) -> float:
        return 12.5

    def boottime(self) -> float:
        return 99.0

    def now(self) -> datetime:
        return datetime(2026, 11, 21, tzinfo=UTC)


class Manager:
    """Hears what is said."""

    def __init__(self, heard: socket.socket, address: str) -> None:
        self.socket = heard
        self.address = address

    def heard(self) -> list[str]:
        self.socket.settimeout(GENEROUS_SECONDS)
        return self.socket.recv(1 << 16).decode().split("\n")

    def heard_nothing(self) -> bool:
        """Datagrams are there as soon as they were sent."""
        self.socket.settimeout(0)
        try:
            self.socket.recv(1)
        except BlockingIOError:
            return True
        return False


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Manager]:
    address = str(tmp_path / "notify") if request.param == "path" else f"@{uuid.uuid4()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as heard:
        heard.bind(address.replace("@", "\0", 1))
        yield Manager(heard, address)


def notifier(manager: Manager, **more: str) -> Notifier:
    return Notifier({"NOTIFY_SOCKET": manager.address} | more, FixedClock())


def test_the_life_of_a_daemon(manager: Manager) -> None:
    said = notifier(manager)
    assert said.listened_to
    assert said.ready("idle\n5 min")
    assert manager.heard() == ["READY=1", "STATUS=idle 5 min"]
    assert said.status("reclaiming")
    assert manager.heard() == ["STATUS=reclaiming"]
    assert said.reloading()
    assert manager.heard() == ["RELOADING=1", "MONOTONIC_USEC=12500000"]
    assert said.ready("reclaiming")
    assert manager.heard() == ["READY=1"]
    assert said.watchdog()
    assert manager.heard() == ["WATCHDOG=1"]
    assert said.stopping("asked to")
    assert manager.heard() == ["STOPPING=1", "STATUS=asked to"]
    assert manager.heard_nothing()


def test_the_same_status_is_said_once(manager: Manager) -> None:
    said = notifier(manager)
    assert said.status("idle")
    assert not said.status("idle")
    assert manager.heard() == ["STATUS=idle"]
    assert manager.heard_nothing()


def test_a_status_that_is_no_good_line(manager: Manager) -> None:
    said = notifier(manager)
    said.status("a\nREADY=1\ud800" + "x" * 1000)
    (line,) = manager.heard()
    assert line.startswith("STATUS=a READY=1?xxx")
    assert len(line) < 520


def test_the_variables_are_taken_out() -> None:
    environ = {
        "NOTIFY_SOCKET": "/none",
        "WATCHDOG_USEC": "1",
        "WATCHDOG_PID": "1",
        "HOME": "/root",
    }
    Notifier(environ, FixedClock())
    assert environ == {"HOME": "/root"}


@pytest.mark.parametrize(
    ("more", "seconds"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "30000000"}, 15.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid())}, 15.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
        ({"WATCHDOG_USEC": "-5"}, None),
    ],
)
def test_the_watchdog(manager: Manager, more: dict[str, str], seconds: float | None) -> None:
    assert notifier(manager, **more).watchdog_seconds == seconds


@pytest.mark.parametrize("environ", [{}, {"NOTIFY_SOCKET": ""}, {"NOTIFY_SOCKET": "vsock:2:9"}])
def test_nobody_to_tell(environ: dict[str, str]) -> None:
    said = Notifier(environ | {"WATCHDOG_USEC": "30000000"}, FixedClock())
    assert not said.listened_to
    assert said.watchdog_seconds is None
    for tell in (said.ready, said.reloading, said.watchdog, said.stopping):
        assert not tell()
    assert not said.status("idle")


@pytest.mark.parametrize("address", ["/nowhere/notify", "/" + "x" * 200])
def test_a_manager_that_is_gone_is_no_error(address: str, caplog: pytest.LogCaptureFixture) -> None:
    said = Notifier({"NOTIFY_SOCKET": address}, FixedClock())
    assert not said.ready("idle")
    assert "was not told READY=1" in caplog.text


def test_a_manager_that_is_busy_holds_up_nobody(manager: Manager) -> None:
    said = notifier(manager)
    told = 0
    while said.watchdog():
        told += 1
        assert told < 100_000, "the queue of a datagram socket has an end"
    assert told > 0


def test_what_did_not_arrive_is_said_again(tmp_path: Path) -> None:
    path = str(tmp_path / "notify")
    said = Notifier({"NOTIFY_SOCKET": path}, FixedClock())
    assert not said.status("idle")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as heard:
        heard.bind(path)
        assert said.status("idle")
        assert Manager(heard, path).heard() == ["STATUS=idle"]
