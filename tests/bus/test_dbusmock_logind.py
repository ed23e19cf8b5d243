# SPDX-License-Identifier: LGPL-2.1-or-later
"""The logind source against the logind template of python-dbusmock: a second opinion on what logind
is like, by somebody else, and on another D-Bus library.

It runs as a program of the system's Python: dbus-python and PyGObject have to be compiled, and come
with every distribution. It does not signal what the real one does on its own: the test has it say
so, through org.freedesktop.DBus.Mock.
"""

from __future__ import annotations

import asyncio
import functools
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack, ExitStack, contextmanager
from typing import Any

import pytest

from hibprep.bus.client import DAEMON, Client
from hibprep.events import Inhibitors, Sessions, Sleep, SourceChanged
from tests.bus.conftest import Bus
from tests.bus.fakelogin1 import MANAGER, NAME, PATH, PROPERTIES, SESSION, rubbish
from tests.bus.test_signals_logind import COMING, ENDED, OFTEN, watching
from tests.descriptors import descriptors
from tests.waiting import GENEROUS_SECONDS, until

PYTHON = "/usr/bin/python3"
PACKAGE = "python3-dbusmock"
MOCK = "org.freedesktop.DBus.Mock"


def _is_there() -> bool:
    code = "import dbusmock"
    try:
        done = subprocess.run([PYTHON, "-c", code], check=False, capture_output=True)
    except OSError:
        return False
    return done.returncode == 0


@functools.cache
def _missing() -> str:
    """Why there is no dbusmock; installs it where that can be done."""
    if _is_there():
        return ""
    apt = shutil.which("apt-get")
    if apt is None or os.geteuid() != 0:
        return f"no python-dbusmock for {PYTHON}: install the package {PACKAGE}"
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for words in (["update", "-q"], ["install", "-qy", "--no-install-recommends", PACKAGE]):
        done = subprocess.run(
            [apt, *words], check=False, capture_output=True, text=True, env=environment, timeout=100
        )
        if done.returncode != 0:
            return f"apt-get {words[0]} failed: {done.stderr.strip().splitlines()[-1:]}"
    return "" if _is_there() else f"{PACKAGE} was installed and cannot be imported"


class Mock:
    """What the mock is told to do; calls on a connection of its own."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus

    def call(
        self,
        member: str,
        signature: str = "",
        *body: object,
        path: str = PATH,
        interface: str = MOCK,
    ) -> list[Any]:
        async def ask() -> list[Any]:
            async with Client(self._bus.address) as client:
                return await client.call((NAME, path, interface), member, signature, body)

        return asyncio.run(ask())

    def add_session(self, name: str, *, wayland: bool = True) -> str:
        """A session on seat0, announced as logind does it; its object path."""
        body = (name, "seat0", 1000, "ada", True)
        (path,) = self.call("AddSession", "ssusb", *body)
        if wayland:
            self.call("UpdateProperties", "sa{sv}", SESSION, _of(Type="wayland"), path=path)
        self.emit(MANAGER, "SessionNew", "so", name, path)
        return str(path)

    def remove_session(self, name: str) -> None:
        path = f"{PATH}/session/{name}"
        self.call("RemoveObject", "s", path)
        self.emit(MANAGER, "SessionRemoved", "so", name, path)

    def change(self, path: str, **values: object) -> None:
        """Set properties of a session; it says so itself."""
        self.call("UpdateProperties", "sa{sv}", SESSION, _of(**values), path=path)

    def lock(self, path: str, *, locked: bool) -> None:
        """As a lock screen does it."""
        self.call("SetLockedHint", "b", locked, path=path, interface=SESSION)

    def emit(self, interface: str, member: str, signature: str, *body: object) -> None:
        types = [signature] if signature in ("b", "s") else list(signature)
        variants = [rubbish(kind, each) for kind, each in zip(types, body, strict=True)]
        self.call("EmitSignal", "sssav", interface, member, signature, variants)

    def say_inhibitors_changed(self) -> None:
        variants = [
            rubbish("s", MANAGER),
            rubbish("a{sv}", {"BlockInhibited": rubbish("s", "?")}),
            rubbish("as", []),
        ]
        self.call("EmitSignal", "sssav", PROPERTIES, "PropertiesChanged", "sa{sv}as", variants)

    def locks(self) -> list[Any]:
        (rows,) = self.call("ListInhibitors", interface=MANAGER)
        return list(rows)


def _of(**values: object) -> dict[str, Any]:
    signatures = {bool: "b", str: "s", int: "t"}
    return {name: rubbish(signatures[type(value)], value) for name, value in values.items()}


def _owned(bus: Bus) -> bool:
    async def ask() -> bool:
        async with Client(bus.address) as client:
            return bool((await client.call(DAEMON, "NameHasOwner", "s", (NAME,)))[0])

    return asyncio.run(ask())


@contextmanager
def mocked(bus: Bus) -> Iterator[Mock]:
    """The template at work."""
    with subprocess.Popen(
        [PYTHON, "-m", "dbusmock", "--system", "--template", "logind"],
        stdout=subprocess.DEVNULL,
        env={"PATH": os.environ.get("PATH", ""), "DBUS_SYSTEM_BUS_ADDRESS": bus.address},
    ) as process:
        try:
            until(lambda: process.poll() is not None or _owned(bus), "dbusmock has its name")
            assert process.poll() is None, "dbusmock ended"
            yield Mock(bus)
        finally:
            process.kill()
            process.wait(GENEROUS_SECONDS)


@pytest.fixture
def mock(bus: Bus) -> Iterator[Mock]:
    missing = _missing()
    if missing:
        pytest.skip(missing)
    with mocked(bus) as made:
        yield made


async def aside(deed: Callable[[], object]) -> None:
    await asyncio.to_thread(deed)


@pytest.mark.timeout(240)
def test_sessions_and_hints(bus: Bus, mock: Mock) -> None:
    async def scenario() -> None:
        async with watching(bus) as watched:
            told = watched.told
            assert told.of(SourceChanged)[0].works
            assert told.of(Sessions) == [Sessions(())]
            path = await asyncio.to_thread(mock.add_session, "c1")
            session = await told.session("c1", lambda each: each.session_type == "wayland")
            assert (session.user, session.seat, session.session_class) == ("ada", "seat0", "user")
            assert session.active
            assert not session.hints
            await aside(lambda: mock.lock(path, locked=True))
            await told.session("c1", lambda each: each.locked)
            await aside(lambda: mock.lock(path, locked=False))
            await told.session("c1", lambda each: not each.locked)
            await aside(
                lambda: mock.change(path, IdleHint=True, IdleSinceHintMonotonic=900_000_000)
            )
            idle = await told.session("c1", lambda each: each.idle)
            assert (idle.idle_at_seconds, idle.hints) == (900.0, True)
            await aside(lambda: mock.change(path, IdleHint=False))
            await told.session("c1", lambda each: not each.idle)
            await aside(lambda: mock.change(path, Class="greeter", Active=False))
            await told.session("c1", lambda each: each.session_class == "greeter")
            await aside(lambda: mock.add_session("c2", wayland=False))
            await told.session("c2", lambda each: each.session_type == "test")
            await aside(lambda: mock.remove_session("c1"))
            await told.until(lambda: [e.id for e in told.of(Sessions)[-1].sessions] == ["c2"])

    asyncio.run(scenario())


@pytest.mark.timeout(240)
def test_the_lock_and_the_sleep(bus: Bus, mock: Mock) -> None:
    def emit_sleep(*, coming: bool) -> None:
        mock.emit(MANAGER, "PrepareForSleep", "b", coming)

    async def scenario() -> None:
        async with watching(bus) as watched:
            told = watched.told
            assert watched.source.lock_held
            locks = await asyncio.to_thread(mock.locks)
            assert [(each[0], each[1], each[3]) for each in locks] == [
                ("sleep", "hibprep", "delay")
            ]
            for _ in range(2):
                await aside(lambda: emit_sleep(coming=True))
            await told.until(lambda: told.of(Sleep) == [COMING])
            watched.source.release_lock()
            await aside(lambda: until(lambda: not mock.locks(), "the lock is gone"))
            await aside(lambda: emit_sleep(coming=False))
            await told.until(lambda: told.of(Sleep) == [COMING, ENDED])
            await aside(lambda: until(mock.locks, "it was taken again"))

    asyncio.run(scenario())


@pytest.mark.timeout(240)
def test_a_sleep_that_only_the_property_tells_of(bus: Bus, mock: Mock) -> None:
    def preparing(*, coming: bool) -> None:
        values = _of(PreparingForSleep=coming)
        mock.call("UpdateProperties", "sa{sv}", MANAGER, values)

    async def scenario() -> None:
        async with watching(bus, poll_seconds=OFTEN) as watched:
            told = watched.told
            await aside(lambda: preparing(coming=True))
            await told.until(lambda: told.of(Sleep) == [COMING])
            await aside(lambda: preparing(coming=False))
            await told.until(lambda: told.of(Sleep) == [COMING, ENDED])

    asyncio.run(scenario())


@pytest.mark.timeout(240)
def test_inhibitors(bus: Bus, mock: Mock) -> None:
    async def scenario() -> None:
        async with watching(bus) as watched, Client(bus.address) as other:
            target, body = (NAME, PATH, MANAGER), ("idle:sleep", "vlc", "a film", "block")
            lock = await other.call_for_descriptor(target, "Inhibit", "ssss", body)
            await aside(mock.say_inhibitors_changed)
            found = await watched.told.inhibitors(lambda each: each.idle)
            words = ("vlc (pid 123456): a film",)
            assert found == Inhibitors(words, words)
            os.close(lock)
            await aside(lambda: until(lambda: len(mock.locks()) == 1, "it is gone"))
            await aside(mock.say_inhibitors_changed)
            await watched.told.inhibitors(lambda each: each == Inhibitors())

    asyncio.run(scenario())


@pytest.mark.timeout(240)
def test_it_restarts(bus: Bus) -> None:
    if _missing():
        pytest.skip(_missing())

    async def scenario() -> None:
        async with AsyncExitStack() as stack:
            with ExitStack() as life:
                first = await asyncio.to_thread(life.enter_context, mocked(bus))
                await aside(lambda: first.add_session("c1"))
                watched = await stack.enter_async_context(watching(bus))
                await watched.told.session("c1", lambda each: each.active)
            with ExitStack() as life:
                second = await asyncio.to_thread(life.enter_context, mocked(bus))
                await aside(lambda: second.add_session("c2"))
                await watched.told.session("c2", lambda each: each.active)
                assert watched.source.lock_held
                await aside(lambda: until(second.locks, "it was taken of the new one"))
            assert len(watched.told.of(SourceChanged)) == 1

    before = descriptors()
    asyncio.run(scenario())
    assert descriptors() == before
