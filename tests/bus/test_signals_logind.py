# SPDX-License-Identifier: LGPL-2.1-or-later
"""The logind source against a logind of our own, on a real bus."""

from __future__ import annotations

import asyncio
import fcntl
import os
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

import pytest

from hibprep.bus.client import DAEMON, Client, Heard, Rule
from hibprep.clock import SystemClock
from hibprep.errors import NotPossibleError
from hibprep.events import Inhibitors, Session, Sessions, Shutdown, Signal, Sleep, SourceChanged
from hibprep.kernel.root import KernelRoot
from hibprep.signals import base
from hibprep.signals.logind import Logind, LogindLostError
from tests.bus.conftest import Bus, private_bus
from tests.bus.fakelogin1 import (
    MANAGER,
    NAME,
    PATH,
    PROPERTIES,
    SESSION,
    Behaviour,
    FakeLogin1,
    rubbish,
    seat,
    session_path,
    shout,
)
from tests.descriptors import descriptors
from tests.fakes.clock import START, HandClock
from tests.listening import only
from tests.waiting import GENEROUS_SECONDS, until

Value = TypeVar("Value")
Kind = TypeVar("Kind", SourceChanged, Sessions, Inhibitors, Sleep, Shutdown)

COMING, ENDED = Sleep(coming=True), Sleep(coming=False)
RARELY = 3600.0  # a poll that is never due
OFTEN = 0.02

unclosed = pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")


class Told:
    """What was emitted, in order."""

    def __init__(self) -> None:
        self.signals: list[Signal] = []
        self._more = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def __call__(self, signal: Signal) -> None:
        self.signals.append(signal)
        self._more.set()

    def by(self, task: asyncio.Task[None]) -> None:
        """Who tells: when it ends, there is nothing to wait for."""
        self._task = task
        task.add_done_callback(lambda _: self._more.set())

    def of(self, kind: type[Kind]) -> list[Kind]:
        return only(kind, self.signals)

    async def until(self, condition: Callable[[], Value]) -> Value:
        """The first true value of `condition`, looked at after every signal."""
        async with asyncio.timeout(GENEROUS_SECONDS):
            while not (value := condition()):
                if self._task is not None and self._task.done():
                    self._task.result()
                    pytest.fail("the source ended")
                self._more.clear()
                await self._more.wait()
        return value

    async def session(self, name: str, condition: Callable[[Session], object]) -> Session:
        """The session `name` as soon as `condition` holds for it."""

        def find() -> Session | None:
            for sessions in self.of(Sessions)[-1:]:
                for each in sessions.sessions:
                    if each.id == name and condition(each):
                        return each
            return None

        found = await self.until(find)
        assert found is not None
        return found

    async def inhibitors(self, condition: Callable[[Inhibitors], object]) -> Inhibitors:
        await self.until(lambda: any(map(condition, self.of(Inhibitors)[-1:])))
        return self.of(Inhibitors)[-1]

    def never_repeats_itself(self) -> bool:
        kinds: dict[type, object] = {}
        for each in self.signals:
            if kinds.get(type(each)) == each:
                return False
            kinds[type(each)] = each
        return True


@dataclass
class Watched:
    source: Logind
    told: Told
    task: asyncio.Task[None]


@asynccontextmanager
async def watching(
    bus: Bus,
    *,
    clock: HandClock | None = None,
    poll_seconds: float = RARELY,
    tty_root: Path | None = None,
    begun: bool = True,
) -> AsyncIterator[Watched]:
    """The source at work, and stopped at the end; `begun`: from when it has told its first."""
    told = Told()
    source = Logind(
        clock or HandClock(),
        address=bus.address,
        poll_seconds=poll_seconds,
        tty_root=KernelRoot(tty_root or "/nowhere"),
    )
    task = asyncio.create_task(source.run(told))
    told.by(task)
    try:
        if begun:
            await told.until(lambda: told.of(Inhibitors) or task.done())
        yield Watched(source, told, task)
    finally:
        task.cancel()
        await asyncio.wait((task,))
        assert not source.lock_held
        assert told.never_repeats_itself()


async def off_loop(condition: Callable[[], object], what: str) -> None:
    """For what is seen in the thread of the fake."""
    await asyncio.to_thread(until, condition, what)


# --- sessions -------------------------------------------------------------------------------------


def test_what_is_told_first(bus: Bus) -> None:
    async def scenario(logind: FakeLogin1) -> None:
        async with watching(bus) as watched:
            works, sessions, inhibitors = watched.told.signals
            assert works == SourceChanged(
                watched.source.name,
                works=True,
                reason="logind answers; a delay lock on sleep is held",
            )
            assert sessions == Sessions(
                (
                    Session(
                        id="2",
                        user="ada",
                        session_class="user",
                        session_type="wayland",
                        seat="seat0",
                        tty="tty2",
                    ),
                )
            )
            assert inhibitors == Inhibitors()
            assert [each[:4] for each in logind.locks] == [
                (
                    "sleep",
                    "hibprep",
                    "memory is being reclaimed; it stops before the sleep begins",
                    "delay",
                )
            ]

    with FakeLogin1(bus.address, Behaviour()) as logind:
        logind.add_session("2")
        asyncio.run(scenario(logind))


def test_lock_and_unlock(bus: Bus) -> None:
    async def scenario(logind: FakeLogin1) -> None:
        async with watching(bus) as watched:
            told = watched.told
            # a request is no fact: many a desktop does not heed it
            reads = len(logind.reads)
            logind.signal(SESSION, "Lock", "", [], path=session_path("2"))
            await off_loop(lambda: len(logind.reads) > reads, "it was looked at again")
            assert not told.of(Sessions)[-1].sessions[0].locked
            logind.change_session("2", LockedHint=True)
            await told.session("2", lambda each: each.locked)
            logind.signal(SESSION, "Unlock", "", [], path=session_path("2"))
            logind.change_session("2", LockedHint=False)
            await told.session("2", lambda each: not each.locked)

    with FakeLogin1(bus.address, Behaviour()) as logind:
        logind.add_session("2")
        asyncio.run(scenario(logind))


def test_idle_hint_on_and_off(bus: Bus) -> None:
    async def scenario(logind: FakeLogin1) -> None:
        async with watching(bus) as watched:
            told, reads = watched.told, len(logind.reads)
            logind.change_session("2", IdleHint=True, IdleSinceHintMonotonic=900_500_000)
            idle = await told.session("2", lambda each: each.idle)
            assert (idle.idle_at_seconds, idle.hints) == (900.5, True)
            logind.change_session("2", IdleHint=False, IdleSinceHintMonotonic=950_000_000)
            back = await told.session("2", lambda each: not each.idle)
            assert (back.idle_at_seconds, back.hints) == (950.0, True)
            # nobody who comes back waits for an answer of logind's
            assert len(logind.reads) == reads

    with FakeLogin1(bus.address, Behaviour()) as logind:
        logind.add_session("2")
        asyncio.run(scenario(logind))


def test_a_hint_that_is_never_set(bus: Bus) -> None:
    """KDE; and a terminal's hint is computed by logind, nobody sets it."""

    async def scenario(logind: FakeLogin1) -> None:
        async with watching(bus) as watched:
            logind.change_session("2", Active=False)
            desktop = await watched.told.session("2", lambda each: not each.active)
            assert not desktop.hints
            assert desktop.idle_at_seconds is None
            assert desktop.input_at_seconds is None
            console = await watched.told.session("3", lambda each: each.id)
            assert console.idle
            assert not console.hints
            assert console.input_at_seconds == console.idle_at_seconds == 5.0

    with FakeLogin1(bus.address, Behaviour()) as logind:
        logind.add_session("2")
        logind.add_session("3", Type="tty", IdleHint=True, IdleSinceHintMonotonic=5_000_000)
        asyncio.run(scenario(logind))


def test_a_hint_from_the_future_is_of_now(bus: Bus) -> None:
    async def scenario() -> None:
        async with watching(bus, clock=HandClock(100.0)) as watched:
            session = await watched.told.session("2", lambda each: each.idle)
            assert session.idle_at_seconds == 100.0

    with FakeLogin1(bus.address, Behaviour()) as logind:
        logind.add_session("2", IdleHint=True, IdleSinceHintMonotonic=2**64 - 1)
        asyncio.run(scenario())


def test_sessions_come_and_go(bus: Bus) -> None:
    async def scenario(logind: FakeLogin1) -> None:
        async with watching(bus) as watched:
            told = watched.told
            assert told.of(Sessions) == [Sessions(())]
            logind.add_session("4", Type="tty", TTY="pts/3", Remote=True, Seat=seat(""))
            ssh = await told.session("4", lambda each: each.remote)
            assert (ssh.seat, ssh.tty, ssh.session_type) == ("", "pts/3", "tty")
            logind.add_session("5")
            await told.session("5", lambda each: each.seat == "seat0")
            logind.change_session("5", State="closing")
            await told.until(lambda: len(told.of(Sessions)[-1].sessions) == 1)
            logind.remove_session("5")
            logind.remove_session("4")
            await told.until(lambda: told.of(Sessions)[-1] == Sessions(()))
            logind.add_session("6", announced=False)
            logind.change_session("6", IdleHint=True)  # heard of before it was announced
            await told.session("6", lambda each: each.idle)

    with FakeLogin1(bus.address, Behaviour()) as logind:
        asyncio.run(scenario(logind))


def test_classes_and_types_are_passed_on(bus: Bus) -> None:
    kinds = {
        "1": ("greeter", "wayland"),
        "2": ("lock-screen", "x11"),
        "3": ("manager", "unspecified"),
        "4": ("to-come", "hologram"),
    }

    async def scenario() -> None:
        async with watching(bus) as watched:
            (sessions,) = watched.told.of(Sessions)
            found = {each.id: (each.session_class, each.session_type) for each in sessions.sessions}
            assert found == kinds

    with FakeLogin1(bus.address, Behaviour()) as logind:
        for name, (session_class, session_type) in kinds.items():
            logind.add_session(name, Class=session_class, Type=session_type)
        asyncio.run(scenario())


def test_a_session_that_vanishes_while_it_is_read(bus: Bus) -> None:
    rows = [["2", 1000, "ada", "seat0", session_path("2")], ["9", 7, "", "", session_path("9")]]

    async def scenario(logind: FakeLogin1) -> None:
        async with watching(bus) as watched:
            (sessions,) = watched.told.of(Sessions)
            assert [each.id for each in sessions.sessions] == ["2"]
            logind.signal(MANAGER, "SessionNew", "so", ["7", session_path("7")])
            logind.add_session("8")
            await watched.told.session("8", lambda each: each.id)

    with FakeLogin1(
        bus.address, Behaviour(answers={"ListSessions": ("a(susso)", [rows])})
    ) as logind:
        logind.add_session("2")
        asyncio.run(scenario(logind))


# --- terminals ------------------------------------------------------------------------------------


def typed(tty: Path, at: datetime) -> None:
    os.utime(tty, (at.timestamp(), 0))


def test_a_clock_that_jumps_is_no_input(bus: Bus, tmp_path: Path) -> None:
    (tmp_path / "dev/pts").mkdir(parents=True)
    tty = tmp_path / "dev/pts/3"
    tty.touch()
    typed(tty, START - timedelta(minutes=10))
    clock = HandClock()

    async def scenario(logind: FakeLogin1) -> None:
        async with watching(bus, clock=clock, poll_seconds=OFTEN, tty_root=tmp_path) as watched:
            told = watched.told
            await told.session("4", lambda each: each.input_at_seconds == 400.0)
            for jump in (timedelta(days=400), -timedelta(days=800)):
                clock.wall += jump
                reads = len(logind.reads)
                await off_loop(lambda: len(logind.reads) > reads + 6, "it polled twice")  # noqa: B023
            assert len(told.of(Sessions)) == 1
            clock.go_on(30)
            typed(tty, clock.wall - timedelta(seconds=5))
            await told.session("4", lambda each: each.input_at_seconds == 1025.0)
            typed(tty, clock.wall + timedelta(days=1))
            clock.go_on(30)
            last = await told.session("4", lambda each: each.input_at_seconds != 1025.0)
            assert last.input_at_seconds is not None
            assert 1030 <= last.input_at_seconds <= 1060

    with FakeLogin1(bus.address, Behaviour()) as logind:
        logind.add_session("4", Type="tty", TTY="pts/3", Remote=True, Seat=seat(""))
        asyncio.run(scenario(logind))


def test_a_desktop_that_was_started_on_a_terminal(
    bus: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    """sway or startx by hand: logind says that the terminal is idle, while somebody works there."""
    monkeypatch.setattr("hibprep.signals.sessions.shows_graphics", lambda _, tty: tty == "tty1")

    async def scenario() -> None:
        async with watching(bus) as watched:
            session = await watched.told.session("4", lambda each: each.tty == "tty1")
            assert not session.idle
            assert session.idle_at_seconds is session.input_at_seconds is None

    with FakeLogin1(bus.address, Behaviour()) as logind:
        logind.add_session(
            "4", Type="tty", TTY="tty1", IdleHint=True, IdleSinceHintMonotonic=7_000_000
        )
        asyncio.run(scenario())


def test_what_is_only_computed_is_polled(bus: Bus) -> None:
    async def scenario(logind: FakeLogin1) -> None:
        async with watching(bus, poll_seconds=OFTEN) as watched:
            logind.change_session("4", silently=True, IdleHint=True)
            await watched.told.session("4", lambda each: each.idle)
            # a desktop signals what it does: it was read when it came and never since
            assert logind.reads.count(session_path("2")) == 1

    with FakeLogin1(bus.address, Behaviour()) as logind:
        logind.add_session("2")
        logind.add_session("4", Type="tty", TTY="", Remote=True)
        asyncio.run(scenario(logind))


def test_a_computed_time_that_wobbles_is_one_time(bus: Bus) -> None:
    async def scenario(logind: FakeLogin1) -> None:
        async with watching(bus, poll_seconds=OFTEN) as watched:
            for since in (7_000_001, 6_999_990, 7_200_000):
                logind.change_session("4", silently=True, IdleSinceHintMonotonic=since)
                reads = len(logind.reads)
                await off_loop(lambda: len(logind.reads) > reads + 6, "it polled twice")  # noqa: B023
            assert len(watched.told.of(Sessions)) == 1

    with FakeLogin1(bus.address, Behaviour()) as logind:
        logind.add_session("4", Type="tty", TTY="", IdleSinceHintMonotonic=7_000_000)
        asyncio.run(scenario(logind))


# --- inhibitors -----------------------------------------------------------------------------------


def test_inhibitors_come_and_go(bus: Bus) -> None:
    film = ("idle", "firefox", "video is playing", "block", 1000, 812)
    backup = ("shutdown:sleep", "backup", "to the\ncellar", "block-weak", 0, 7)
    delaying = ("sleep:idle", "NetworkManager", "going down", "delay", 0, 5)
    other = ("handle-lid-switch:sleepy", "gnome", "lid", "block", 1000, 6)

    async def scenario(logind: FakeLogin1) -> None:
        async with watching(bus) as watched:
            told = watched.told
            logind.set_inhibitors(film, delaying)
            first = await told.inhibitors(lambda each: each.idle)
            assert first == Inhibitors(("firefox (pid 812): video is playing",), ())
            logind.set_inhibitors(film, delaying, other, backup)
            both = await told.inhibitors(lambda each: each.sleep)
            assert both == Inhibitors(first.idle, ("backup (pid 7): to the cellar",))
            logind.set_inhibitors(delaying)
            await told.inhibitors(lambda each: each == Inhibitors())

    with FakeLogin1(bus.address, Behaviour()) as logind:
        asyncio.run(scenario(logind))


# --- the sleep, and the lock ----------------------------------------------------------------------


def test_the_lock_is_released_when_told_to_and_taken_again(bus: Bus) -> None:
    async def scenario(logind: FakeLogin1) -> None:
        async with watching(bus) as watched:
            source, told = watched.source, watched.told
            descriptor = source.lock._descriptor
            assert descriptor is not None
            assert fcntl.fcntl(descriptor, fcntl.F_GETFD) & fcntl.FD_CLOEXEC
            logind.prepare("Sleep", coming=True)
            await told.until(lambda: told.of(Sleep) == [COMING])
            assert source.lock_held
            assert logind.locks
            source.release_lock()
            source.release_lock()
            await off_loop(lambda: not logind.locks, "logind saw the lock go")
            assert not watched.source.lock_held
            asked = logind.members().count("Inhibit")
            # the end of the one before got lost: there is nothing new in this
            logind.prepare("Sleep", coming=True)
            logind.set_inhibitors(("idle", "a", "b", "block", 0, 1))
            await told.inhibitors(lambda each: each.idle)
            assert told.of(Sleep) == [COMING]
            assert logind.members().count("Inhibit") == asked
            logind.prepare("Sleep", coming=False)
            await off_loop(lambda: logind.locks, "the lock was taken again")
            assert told.of(Sleep) == [COMING, ENDED]
            logind.prepare("Shutdown", coming=True)
            await told.until(lambda: told.of(Shutdown) == [Shutdown(coming=True)])

    with FakeLogin1(bus.address, Behaviour()) as logind:
        asyncio.run(scenario(logind))


def test_the_end_of_a_sleep_that_nobody_told_of(bus: Bus) -> None:
    async def scenario(logind: FakeLogin1) -> None:
        async with watching(bus, poll_seconds=OFTEN) as watched:
            told = watched.told
            logind.prepare("Sleep", coming=True)
            await told.until(lambda: told.of(Sleep))
            watched.source.release_lock()
            await off_loop(lambda: not logind.locks, "logind saw the lock go")
            logind.prepare("Sleep", coming=False, silently=True)
            await told.until(lambda: told.of(Sleep) == [COMING, ENDED])
            await off_loop(lambda: logind.locks, "the lock was taken again")
            logind.prepare("Sleep", coming=True, silently=True)
            await told.until(lambda: told.of(Sleep)[2:] == [COMING])

    with FakeLogin1(bus.address, Behaviour()) as logind:
        asyncio.run(scenario(logind))


def test_begun_while_a_sleep_is_being_prepared(bus: Bus) -> None:
    async def scenario(logind: FakeLogin1) -> None:
        async with watching(bus) as watched:
            told = watched.told
            await told.until(lambda: told.of(Sleep) == [COMING])
            assert told.of(SourceChanged)[0].reason.endswith("a sleep is under way")
            assert "Inhibit" not in logind.members()
            logind.prepare("Sleep", coming=False)
            await off_loop(lambda: logind.locks, "the lock was taken")

    with FakeLogin1(bus.address, Behaviour()) as logind:
        logind.preparing["PreparingForSleep"] = True
        asyncio.run(scenario(logind))


def test_a_lock_that_is_refused(bus: Bus) -> None:
    async def scenario() -> None:
        async with watching(bus, poll_seconds=OFTEN) as watched:
            assert watched.told.of(SourceChanged) == [
                SourceChanged(
                    watched.source.name,
                    works=True,
                    reason="logind answers; no delay lock on sleep "
                    f"({NAME}: Inhibit: Permission denied)",
                )
            ]
            assert not watched.source.lock_held

    with FakeLogin1(bus.address, Behaviour(denies=frozenset({"Inhibit"}))):
        asyncio.run(scenario())


def test_a_lock_that_comes_too_late_is_given_back(bus: Bus) -> None:
    async def scenario(logind: FakeLogin1) -> None:
        async with watching(bus, begun=False) as watched:
            await off_loop(lambda: "Inhibit" in logind.members(), "it asked for the lock")
            watched.source.release_lock()
            logind.answer_held()
            await watched.told.until(lambda: watched.told.of(Inhibitors))
            assert not watched.source.lock_held
            await off_loop(lambda: not logind.locks, "logind saw the lock go")

    with FakeLogin1(bus.address, Behaviour(holds=frozenset({"Inhibit"}))) as logind:
        asyncio.run(scenario(logind))


def test_a_lock_that_is_no_descriptor(bus: Bus) -> None:
    async def scenario() -> None:
        async with watching(bus) as watched:
            with pytest.raises(LogindLostError, match="answered no file descriptor"):
                await watched.task

    for answer in (("s", ["lock"]), ("h", [0]), ("", [])):
        with FakeLogin1(bus.address, Behaviour(answers={"Inhibit": answer})):
            asyncio.run(scenario())


# --- those who go away ----------------------------------------------------------------------------


def test_logind_restarts(bus: Bus) -> None:
    async def scenario() -> None:
        async with AsyncExitStack() as stack:
            with FakeLogin1(bus.address, Behaviour()) as first:
                first.add_session("2", IdleHint=True, IdleSinceHintMonotonic=5)
                watched = await stack.enter_async_context(watching(bus))
                told = watched.told
                assert (await told.session("2", lambda each: each.idle)).hints
                assert len(first.locks) == 1
            for name in ("3", "4"):
                with FakeLogin1(bus.address, Behaviour()) as other:
                    other.add_session("2", LockedHint=name == "3")
                    other.add_session(name)
                    await told.session(name, lambda each: each.id)
                    # the desktop does not set it once more: it does not know of the restart
                    assert (await told.session("2", lambda each: not each.idle)).hints
                    await off_loop(lambda: len(other.locks) == 1, "it has a lock")
                    assert watched.source.lock_held
            assert len(told.of(SourceChanged)) == 1

    before = descriptors()
    asyncio.run(scenario())
    assert descriptors() == before


@pytest.mark.parametrize("method", ["ListSessions", "ListInhibitors", "Inhibit"])
def test_logind_leaves_while_it_is_asked(bus: Bus, method: str) -> None:
    async def scenario() -> None:
        with FakeLogin1(bus.address, Behaviour(dies_on=method)) as first:
            async with watching(bus, begun=False) as watched:
                await off_loop(lambda: method in first.members(), "it was asked")
                with FakeLogin1(bus.address, Behaviour()) as second:
                    second.add_session("2")
                    await watched.told.session("2", lambda each: each.id)
                    await off_loop(lambda: second.locks, "it has the lock")

    asyncio.run(scenario())


def test_logind_does_not_come_back(bus: Bus, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hibprep.signals.logind._RETURN_SECONDS", 0.1)

    async def scenario() -> None:
        async with AsyncExitStack() as stack:
            with FakeLogin1(bus.address, Behaviour()):
                watched = await stack.enter_async_context(watching(bus))
            with pytest.raises(LogindLostError, match="did not come back within"):
                await watched.task

    asyncio.run(scenario())


def test_no_logind(bus: Bus) -> None:
    with pytest.raises(NotPossibleError, match=r"logind is not on the system bus.*start systemd-"):
        asyncio.run(Logind(HandClock(), address=bus.address).run(Told()))


@unclosed
def test_no_bus(tmp_path: Path) -> None:
    source = Logind(HandClock(), address=f"unix:path={tmp_path}/none")
    with pytest.raises(LogindLostError, match="no connection to the system bus"):
        asyncio.run(source.run(Told()))


@unclosed
def test_the_bus_dies_and_comes_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A new attempt is made soon: that the bus is gone is not that this machine has none."""
    monkeypatch.setattr(base, "FIRST_PAUSE_SECONDS", 0.01)

    async def scenario() -> None:
        told = Told()
        with private_bus(tmp_path) as first:
            source = Logind(SystemClock(), address=first.address, poll_seconds=RARELY)
            task = asyncio.create_task(base.supervise(source, told, SystemClock()))
            with FakeLogin1(first.address, Behaviour()) as logind:
                logind.add_session("2")
                await told.session("2", lambda each: each.id)
                await off_loop(lambda: logind.locks, "the lock was taken")
                logind.prepare("Sleep", coming=True)
                await told.until(lambda: told.of(Sleep))
                first.kill()
                await told.until(lambda: not told.of(SourceChanged)[-1].works)
                assert not source.lock_held
        before = len(told.signals)
        with private_bus(tmp_path) as second, FakeLogin1(second.address, Behaviour()) as logind:
            logind.add_session("2")
            await told.until(lambda: told.of(SourceChanged)[-1].works)
            await told.until(lambda: told.of(Sleep)[1:] == [ENDED])
            assert Sessions in map(type, told.signals[before:])
            await off_loop(lambda: logind.locks, "the lock was taken again")
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
            await off_loop(lambda: not logind.locks, "the lock was given back")

    before = descriptors()
    asyncio.run(scenario())
    assert descriptors() == before


# --- what should not be ---------------------------------------------------------------------------


def test_garbage_in_properties(bus: Bus) -> None:
    wrong: dict[str, Any] = {
        "Active": rubbish("s", "yes"),
        "Class": rubbish("u", 7),
        "IdleHint": rubbish("as", ["x"]),
        "IdleSinceHintMonotonic": rubbish("s", "yesterday"),
        "LockedHint": rubbish("i", 1),
        "Name": rubbish("d", 0.5),
        "Seat": rubbish("s", "seat0"),
        "TTY": rubbish("s", "../../etc/passwd"),
        "Type": rubbish("u", 1),
    }

    async def scenario(logind: FakeLogin1) -> None:
        async with watching(bus) as watched:
            told = watched.told
            session = await told.session("2", lambda each: each.id)
            assert session == Session(
                id="2",
                user="",
                session_class="",
                session_type="",
                tty="../../etc/passwd",
            )
            path = session_path("2")
            for interface, member, signature, body in (
                (PROPERTIES, "PropertiesChanged", "s", [SESSION]),
                (PROPERTIES, "PropertiesChanged", "sau", [SESSION, [3]]),
                (PROPERTIES, "PropertiesChanged", "sa{sv}as", [SESSION, {}, ["Nothing"]]),
                (SESSION, "Lock", "u", [1]),
            ):
                logind.signal(interface, member, signature, body, path=path)
            for member, signature, body in (
                ("PrepareForSleep", "s", ["now"]),
                ("PrepareForSleep", "", []),
                ("SessionNew", "u", [5]),
                ("SessionRemoved", "", []),
            ):
                logind.signal(MANAGER, member, signature, body)
            logind.add_session("5")
            await told.session("5", lambda each: each.id)
            assert not told.of(Sleep)

    with FakeLogin1(bus.address, Behaviour()) as logind:
        logind.add_session("2", **wrong)
        asyncio.run(scenario(logind))


@pytest.mark.parametrize(
    "answers",
    [
        {"ListSessions": ("as", [["2"]]), "ListInhibitors": ("as", [["idle"]])},
        {"ListSessions": ("", []), "ListInhibitors": ("", [])},
        {"ListSessions": ("u", [2]), "ListInhibitors": ("a(su)", [[["idle", 1]]])},
    ],
)
def test_garbage_in_answers(bus: Bus, answers: dict[str, tuple[str, list[Any]]]) -> None:
    async def scenario() -> None:
        async with watching(bus) as watched:
            assert watched.told.of(Sessions) == [Sessions(())]
            assert watched.told.of(Inhibitors) == [Inhibitors()]

    with FakeLogin1(bus.address, Behaviour(answers=answers)):
        asyncio.run(scenario())


def test_a_stranger_who_says_that_a_sleep_comes(bus: Bus) -> None:
    """Sent to our connection alone, which no match rule keeps out."""

    async def scenario(logind: FakeLogin1) -> None:
        async with watching(bus) as watched, Client(bus.address) as client:
            (names,) = await client.call(DAEMON, "ListNames")
            await shout(bus.address, names, MANAGER, "PrepareForSleep")
            # when this was carried out, all of that has arrived
            logind.add_session("5")
            await watched.told.session("5", lambda each: each.id)
            assert not watched.told.of(Sleep)

    with FakeLogin1(bus.address, Behaviour()) as logind:
        asyncio.run(scenario(logind))


def test_descriptors_that_nobody_asked_for_are_closed(bus: Bus) -> None:
    async def scenario(logind: FakeLogin1) -> None:
        heard: list[Heard] = []
        came = asyncio.Event()

        def hear(signal: Heard) -> None:
            heard.append(signal)
            came.set()

        async with Client(bus.address) as client:
            rule = Rule(interface=MANAGER, member="PrepareForSleep", path_namespace=PATH)
            await client.subscribe(rule, hear)
            before = descriptors()
            ours, theirs = os.pipe()
            logind.signal(MANAGER, "PrepareForSleep", "h", [0], descriptors=(theirs,))
            async with asyncio.timeout(GENEROUS_SECONDS):
                await came.wait()
            # the other end is closed everywhere when this end has nothing more to give
            assert await asyncio.to_thread(os.read, ours, 1) == b""
            os.close(ours)
            assert descriptors() == before

    with FakeLogin1(bus.address, Behaviour()) as logind:
        asyncio.run(scenario(logind))
