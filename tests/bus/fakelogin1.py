# SPDX-License-Identifier: LGPL-2.1-or-later
"""A logind that does as it is told, on the low-level message API, in a thread of its own."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import os
import sys
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

from hibprep.bus.client import close
from tests.waiting import GENEROUS_SECONDS

if sys.version_info >= (3, 15):
    from dbus_fast import BusType, Message, MessageType, Variant
    from dbus_fast.aio import MessageBus
else:
    from dbus_next import BusType, Message, MessageType, Variant
    from dbus_next.aio import MessageBus

NAME = "org.freedesktop.login1"
PATH = "/org/freedesktop/login1"
MANAGER = "org.freedesktop.login1.Manager"
SESSION = "org.freedesktop.login1.Session"
PROPERTIES = "org.freedesktop.DBus.Properties"
# systemd's src/shared/sleep-config.c and src/login/logind-dbus.c
NOT_SUPPORTED = "org.freedesktop.login1.SleepVerbNotSupported"
NOT_ENOUGH_SWAP = (
    "Not enough suitable swap space for hibernation available on compatible block devices and "
    "file systems"
)
# as the manual has them
_TYPES = {
    "Active": "b",
    "Class": "s",
    "Id": "s",
    "IdleHint": "b",
    "IdleSinceHintMonotonic": "t",
    "LockedHint": "b",
    "Name": "s",
    "Remote": "b",
    "Seat": "(so)",
    "State": "s",
    "TTY": "s",
    "Type": "s",
    "User": "(uo)",
}
Inhibitor = tuple[str, str, str, str, int, int]  # what, who, why, mode, uid, pid


def session_path(name: str) -> str:
    """As sd_bus_path_encode(3) does it for names that begin with a digit."""
    return f"{PATH}/session/_3{name}"


def seat(name: str) -> list[str]:
    return [name, f"{PATH}/seat/{name}" if name else "/"]


@dataclass(frozen=True)
class Behaviour:
    """What it answers, and what it then does."""

    can: str = "yes"
    error: tuple[str, str] | None = None  # what Hibernate answers: a name and a text
    silent: frozenset[str] = frozenset()  # methods that are never answered
    dies_on: str = ""  # the method that it ends in
    signals: tuple[bool, ...] = (True, False)  # PrepareForSleep after Hibernate
    dies_asleep: bool = False  # leaves the bus after the signals
    answers: Mapping[str, tuple[str, list[Any]]] = field(default_factory=dict)  # in their stead
    denies: frozenset[str] = frozenset()  # methods that are not allowed
    holds: frozenset[str] = frozenset()  # methods that are answered by `answer_held` only


class FakeLogin1:
    """Owns the name for the length of a `with`; `calls` is what was asked of it, in order."""

    def __init__(self, address: str, behaviour: Behaviour) -> None:
        self.calls: list[tuple[str, list[Any]]] = []
        self.reads: list[str] = []  # paths of the objects whose properties were asked for
        self.sessions: dict[str, dict[str, Variant]] = {}
        self.inhibitors: list[Inhibitor] = []
        self.locks: list[Inhibitor] = []  # that were taken through Inhibit, and are held
        self.preparing = {"PreparingForSleep": False, "PreparingForShutdown": False}
        self._ends: dict[int, Inhibitor] = {}
        self._held: list[Any] = []
        self._bus: Any = None
        self._address = address
        self._behaviour = behaviour
        self._ready = threading.Event()
        self._failure: BaseException | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._end: asyncio.Event | None = None
        self._thread = threading.Thread(target=self._run, name="fake login1")

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._ready.wait(GENEROUS_SECONDS), "the fake logind did not start"
        if self._failure is not None:
            raise self._failure
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._loop is not None and self._end is not None:
            # it may have ended meanwhile, and its loop with it
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._end.set)
        self._thread.join(GENEROUS_SECONDS)
        assert not self._thread.is_alive()

    def members(self) -> list[str]:
        """The methods that were called."""
        return [name for name, _ in self.calls]

    def do(self, deed: Callable[[], object]) -> None:
        """Have `deed` done by the thread of this logind, between two messages."""
        assert self._loop is not None
        done: concurrent.futures.Future[None] = concurrent.futures.Future()

        def run() -> None:
            try:
                deed()
            except BaseException as error:  # noqa: BLE001 - it is the test's
                done.set_exception(error)
            else:
                done.set_result(None)

        self._loop.call_soon_threadsafe(run)
        done.result(GENEROUS_SECONDS)

    def add_session(self, name: str, *, announced: bool = True, **properties: Any) -> str:  # noqa: ANN401
        """A session of a desktop, unless `properties` say otherwise; its object path."""
        path = session_path(name)
        values: dict[str, Any] = {
            "Active": True,
            "Class": "user",
            "Id": name,
            "IdleHint": False,
            "IdleSinceHintMonotonic": 0,
            "LockedHint": False,
            "Name": "ada",
            "Remote": False,
            "Seat": seat("seat0"),
            "State": "active",
            "TTY": "tty2",
            "Type": "wayland",
            "User": [1000, f"{PATH}/user/_1000"],
            **properties,
        }
        self.sessions[path] = _variants(values)
        if announced and self._loop is not None:
            self.signal(MANAGER, "SessionNew", "so", [name, path])
        return path

    def remove_session(self, name: str) -> None:
        path = session_path(name)
        del self.sessions[path]
        self.signal(MANAGER, "SessionRemoved", "so", [name, path])

    def change_session(self, name: str, *, silently: bool = False, **properties: Any) -> None:  # noqa: ANN401
        """Set properties, and say so unless `silently` (EmitsChangedSignal is false)."""
        path = session_path(name)
        new = _variants(properties)
        self.sessions[path].update(new)
        if not silently:
            body = [SESSION, new, []]
            self.signal(PROPERTIES, "PropertiesChanged", "sa{sv}as", body, path=path)

    def set_inhibitors(self, *inhibitors: Inhibitor) -> None:
        self.inhibitors = list(inhibitors)
        what = Variant("s", ":".join(each[0] for each in inhibitors))
        body = [MANAGER, {"BlockInhibited": what}, []]
        self.signal(PROPERTIES, "PropertiesChanged", "sa{sv}as", body)

    def prepare(self, what: str, *, coming: bool, silently: bool = False) -> None:
        """PrepareForSleep or PrepareForShutdown; `silently`: the signal gets lost."""
        self.preparing[f"PreparingFor{what}"] = coming
        if not silently:
            self.signal(MANAGER, f"PrepareFor{what}", "b", [coming])

    def signal(
        self,
        interface: str,
        member: str,
        signature: str,
        body: list[Any],
        *,
        path: str = PATH,
        descriptors: tuple[int, ...] = (),
    ) -> None:
        """Send a signal to all; `descriptors` are closed when they are gone."""
        message = Message.new_signal(
            path, interface, member, signature, body, unix_fds=list(descriptors)
        )
        self.do(lambda: self._send(message, descriptors))

    def answer_held(self) -> None:
        """Do what `Behaviour.holds` kept back."""

        def answer() -> None:
            for message in self._held:
                self._send(*self._answer(message))
            self._held.clear()

        self.do(answer)

    def _send(self, message: Any, descriptors: tuple[int, ...] = ()) -> None:  # noqa: ANN401
        def sent(future: asyncio.Future[None]) -> None:
            future.exception()
            for descriptor in descriptors:
                os.close(descriptor)

        self._bus.send(message).add_done_callback(sent)

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        except (OSError, EOFError) as error:
            self._failure = error
        finally:
            self._ready.set()

    async def _serve(self) -> None:
        self._loop, self._end = asyncio.get_running_loop(), asyncio.Event()
        bus: Any = MessageBus(
            bus_address=self._address, bus_type=BusType.SYSTEM, negotiate_unix_fd=True
        )
        self._bus = bus
        await bus.connect()
        bus.add_message_handler(lambda message: self._handle(bus, message))
        await bus.request_name(NAME)
        self._ready.set()
        lost = asyncio.create_task(bus.wait_for_disconnect())
        ended = asyncio.create_task(self._end.wait())
        await asyncio.wait((lost, ended), return_when=asyncio.FIRST_COMPLETED)
        await close(bus)
        for end in list(self._ends):
            self._unlock(end)
        ended.cancel()
        with contextlib.suppress(OSError, EOFError):
            await lost  # the daemon died first, which is what that test is about

    def _handle(self, bus: Any, message: Any) -> Any:  # noqa: ANN401 - either library's
        if message.message_type is not MessageType.METHOD_CALL:
            return None
        if message.interface == PROPERTIES:
            return self._read(message)
        if message.interface != MANAGER:
            return None
        does = self._behaviour
        self.calls.append((message.member, list(message.body)))
        if does.dies_on == message.member:
            self._leave(bus)
            return True
        if message.member in does.silent:
            return True
        if message.member in does.holds:
            self._held.append(message)
            return True
        if message.member in ("ListSessions", "ListInhibitors", "Inhibit"):
            self._send(*self._answer(message))
            return True
        if message.member.startswith("Can"):
            if message.member in does.denies or message.member in does.answers:
                self._send(*self._answer(message))
                return True
            return Message.new_method_return(message, "s", [does.can])
        if message.member == "Hibernate" and does.error is not None:
            return Message.new_error(message, *does.error)
        assert self._loop is not None
        # the real one, too, answers before the sleep begins
        self._loop.call_soon(self._sleep, bus)
        return Message.new_method_return(message)

    def _read(self, message: Any) -> Any:  # noqa: ANN401
        self.reads.append(message.path)
        if message.member in self._behaviour.silent:
            return True
        if message.path == PATH and message.member == "Get":
            truth = Variant("b", self.preparing[message.body[1]])
            return Message.new_method_return(message, "v", [truth])
        session = self.sessions.get(message.path)
        if session is None or message.member != "GetAll":
            name = "org.freedesktop.DBus.Error.UnknownObject"
            return Message.new_error(message, name, f"Unknown object '{message.path}'.")
        return Message.new_method_return(message, "a{sv}", [session])

    def _answer(self, message: Any) -> tuple[Any, tuple[int, ...]]:  # noqa: ANN401
        member, does = message.member, self._behaviour
        if member in does.denies:
            name = "org.freedesktop.DBus.Error.AccessDenied"
            return Message.new_error(message, name, "Permission denied"), ()
        if member in does.answers:
            return Message.new_method_return(message, *does.answers[member]), ()
        if member == "ListSessions":
            rows = [
                [each["Id"].value, 1000, "ada", each["Seat"].value[0], path]
                for path, each in self.sessions.items()
            ]
            return Message.new_method_return(message, "a(susso)", [rows]), ()
        if member == "ListInhibitors":
            found = [list(each) for each in (*self.inhibitors, *self.locks)]
            return Message.new_method_return(message, "a(ssssuu)", [found]), ()
        if self.preparing["PreparingForSleep"]:
            name = "org.freedesktop.login1.OperationInProgress"
            return Message.new_error(message, name, "The operation is already running"), ()
        return self._inhibit(message)

    def _inhibit(self, message: Any) -> tuple[Any, tuple[int, ...]]:  # noqa: ANN401
        ours, theirs = os.pipe()
        what, who, why, mode = message.body
        self._ends[ours] = (what, who, why, mode, os.getuid(), os.getpid())
        self.locks.append(self._ends[ours])
        assert self._loop is not None
        # it becomes readable when the last copy of the other end is closed
        self._loop.add_reader(ours, self._unlock, ours)
        return Message.new_method_return(message, "h", [0], unix_fds=[theirs]), (theirs,)

    def _unlock(self, end: int) -> None:
        assert self._loop is not None
        self._loop.remove_reader(end)
        self.locks.remove(self._ends.pop(end))
        os.close(end)

    def _sleep(self, bus: Any) -> None:  # noqa: ANN401
        for start in self._behaviour.signals:
            bus.send(Message.new_signal(PATH, MANAGER, "PrepareForSleep", "b", [start]))
        if self._behaviour.dies_asleep:
            assert self._loop is not None
            self._loop.call_later(0.05, self._leave, bus)

    def _leave(self, bus: Any) -> None:  # noqa: ANN401
        bus.disconnect()
        if self._end is not None:
            self._end.set()


def _variants(values: Mapping[str, Any]) -> dict[str, Variant]:
    """Of the types that the manual gives, but for what is a Variant already."""
    return {
        name: value if isinstance(value, Variant) else Variant(_TYPES[name], value)
        for name, value in values.items()
    }


def rubbish(signature: str, value: object) -> Any:  # noqa: ANN401 - either library's Variant
    """A property's value of whatever type."""
    return Variant(signature, value)


async def shout(address: str, names: Iterable[str], interface: str, member: str) -> None:
    """Have somebody who is not logind send its signal to every connection of `names`, which is
    delivered without anybody having asked for it. Returns when the bus has passed them on."""
    bus: Any = MessageBus(bus_address=address)
    await bus.connect()
    for name in names:
        if name.startswith(":"):
            message = Message.new_signal(PATH, interface, member, "b", [True])
            message.destination = name
            await bus.send(message)
    daemon = "org.freedesktop.DBus"
    await bus.call(Message(daemon, "/org/freedesktop/DBus", daemon, "GetId"))
    await close(bus)
