# SPDX-License-Identifier: LGPL-2.1-or-later
"""The client against a real daemon."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path
from typing import Any

import pytest

from hibprep.bus import client as module
from hibprep.bus.client import BusError, Client
from hibprep.errors import ExitCode
from tests.bus.conftest import Bus
from tests.bus.fakelogin1 import MANAGER, NAME, PATH, Behaviour, FakeLogin1
from tests.waiting import GENEROUS_SECONDS

# dbus-next leaves the socket of a connection that fails to the garbage collector
unclosed = pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")

DAEMON = ("org.freedesktop.DBus", "/org/freedesktop/DBus", "org.freedesktop.DBus")
LOGIND = (NAME, PATH, MANAGER)


def test_a_call_and_its_answer(bus: Bus) -> None:
    async def names() -> list[Any]:
        async with Client(bus.address) as client:
            return await client.call(DAEMON, "ListNames")

    (answer,) = asyncio.run(names())
    assert "org.freedesktop.DBus" in answer


def test_arguments_arrive(bus: Bus) -> None:
    async def ask() -> list[Any]:
        async with Client(bus.address) as client:
            return await client.call(DAEMON, "NameHasOwner", "s", (NAME,))

    assert asyncio.run(ask()) == [False]
    with FakeLogin1(bus.address, Behaviour()):
        assert asyncio.run(ask()) == [True]


def test_an_error_answer_is_an_error_with_its_name(bus: Bus) -> None:
    async def ask() -> None:
        async with Client(bus.address) as client:
            await client.call(LOGIND, "CanHibernate")

    with pytest.raises(BusError, match=f"{NAME}: CanHibernate: ") as caught:
        asyncio.run(ask())
    assert caught.value.name == "org.freedesktop.DBus.Error.ServiceUnknown"
    assert caught.value.exit_code is ExitCode.IMPOSSIBLE


def test_silence_is_an_error(bus: Bus) -> None:
    async def ask() -> None:
        async with Client(bus.address) as client:
            await client.call(LOGIND, "CanHibernate", seconds=0.1)

    with (
        FakeLogin1(bus.address, Behaviour(silent=frozenset({"CanHibernate"}))),
        pytest.raises(BusError, match=r"did not answer CanHibernate within 0\.1 s"),
    ):
        asyncio.run(ask())


def test_a_daemon_that_dies_in_a_call(bus: Bus) -> None:
    async def ask() -> None:
        async with Client(bus.address) as client:
            asking = asyncio.create_task(client.call(LOGIND, "CanHibernate"))
            await asyncio.sleep(0)
            await asyncio.to_thread(bus.kill)
            async with asyncio.timeout(GENEROUS_SECONDS / 2):
                await asking

    with (
        pytest.raises(BusError, match="login1: CanHibernate: "),
        FakeLogin1(bus.address, Behaviour(silent=frozenset({"CanHibernate"}))),
    ):
        asyncio.run(ask())


def test_a_call_after_the_daemon_has_died(bus: Bus, monkeypatch: pytest.MonkeyPatch) -> None:
    """dbus-next itself would wait for ever."""
    monkeypatch.setattr(module, "CALL_SECONDS", 0.2)

    async def ask() -> None:
        async with Client(bus.address) as client:
            await asyncio.to_thread(bus.kill)
            async with asyncio.timeout(GENEROUS_SECONDS):
                await client.call(DAEMON, "ListNames", seconds=0.5)

    with pytest.raises(BusError):
        asyncio.run(ask())


@unclosed
@pytest.mark.parametrize("address", ["unix:path={folder}/none", "nonsense", "unix:", ""])
def test_no_bus(tmp_path: Path, address: str) -> None:
    async def connect() -> None:
        async with Client(address.format(folder=tmp_path)):
            pass

    with pytest.raises(BusError, match="no connection to the system bus") as caught:
        asyncio.run(connect())
    assert "dbus" in caught.value.remedy
    assert "--direct" in caught.value.remedy
    assert "\n" not in str(caught.value)


def test_a_socket_that_is_no_bus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CALL_SECONDS", 0.2)

    async def connect() -> None:
        async with Client(f"unix:path={tmp_path / 'mute'}"):
            pass

    with socket.socket(socket.AF_UNIX) as mute:
        mute.bind(str(tmp_path / "mute"))
        mute.listen()
        with pytest.raises(BusError, match="no connection to the system bus"):
            asyncio.run(connect())


def test_listening(bus: Bus) -> None:
    async def listen() -> list[Any]:
        heard: asyncio.Queue[list[Any]] = asyncio.Queue()
        async with Client(bus.address) as client:
            await client.listen(DAEMON[2], "NameOwnerChanged", heard.put_nowait)
            async with Client(bus.address) as other:
                await other.call(DAEMON, "RequestName", "su", ("org.example.hibprep", 0))
            async with asyncio.timeout(GENEROUS_SECONDS):
                while True:
                    body = await heard.get()
                    if body[0] == "org.example.hibprep":
                        return body

    name, old, new = asyncio.run(listen())
    assert (name, old) == ("org.example.hibprep", "")
    assert new.startswith(":")


def test_a_handler_that_raises_does_not_end_the_connection(bus: Bus) -> None:
    async def listen() -> list[Any]:
        async with Client(bus.address) as client:
            heard = asyncio.Event()

            def bad(body: list[Any]) -> None:
                heard.set()
                raise ValueError(body)

            await client.listen(DAEMON[2], "NameOwnerChanged", bad)
            await client.call(DAEMON, "RequestName", "su", ("org.example.hibprep", 0))
            async with asyncio.timeout(GENEROUS_SECONDS):
                await heard.wait()
            return await client.call(DAEMON, "GetId")

    assert asyncio.run(listen())


def test_a_cancellation_that_comes_with_the_answer_is_one(
    bus: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or whoever ends the daemon waits for ever for what was asked at that moment."""

    async def scenario() -> None:
        async with Client(bus.address) as client:
            answer: asyncio.Future[object] = asyncio.get_running_loop().create_future()
            monkeypatch.setattr(client._bus, "call", lambda _message: answer)
            asking = asyncio.create_task(client.call(DAEMON, "GetId"))
            await asyncio.sleep(0)
            answer.set_result(None)
            asking.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asking

    asyncio.run(scenario())
