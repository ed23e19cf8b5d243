# SPDX-License-Identifier: LGPL-2.1-or-later
"""A logind that does as it is told, on the low-level message API, in a thread of its own."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import threading
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from hibprep.bus.client import close
from tests.waiting import GENEROUS_SECONDS

if sys.version_info >= (3, 15):
    from dbus_fast import BusType, Message, MessageType
    from dbus_fast.aio import MessageBus
else:
    from dbus_next import BusType, Message, MessageType
    from dbus_next.aio import MessageBus

NAME = "org.freedesktop.login1"
PATH = "/org/freedesktop/login1"
MANAGER = "org.freedesktop.login1.Manager"
# systemd's src/shared/sleep-config.c and src/login/logind-dbus.c
NOT_SUPPORTED = "org.freedesktop.login1.SleepVerbNotSupported"
NOT_ENOUGH_SWAP = (
    "Not enough suitable swap space for hibernation available on compatible block devices and "
    "file systems"
)


@dataclass(frozen=True)
class Behaviour:
    """What it answers, and what it then does."""

    can: str = "yes"
    error: tuple[str, str] | None = None  # what Hibernate answers: a name and a text
    silent: frozenset[str] = frozenset()  # methods that are never answered
    dies_on: str = ""  # the method that it ends in
    signals: tuple[bool, ...] = (True, False)  # PrepareForSleep after Hibernate
    dies_asleep: bool = False  # leaves the bus after the signals


class FakeLogin1:
    """Owns the name for the length of a `with`; `calls` is what was asked of it, in order."""

    def __init__(self, address: str, behaviour: Behaviour) -> None:
        self.calls: list[tuple[str, list[Any]]] = []
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

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        except (OSError, EOFError) as error:
            self._failure = error
        finally:
            self._ready.set()

    async def _serve(self) -> None:
        self._loop, self._end = asyncio.get_running_loop(), asyncio.Event()
        bus: Any = MessageBus(bus_address=self._address, bus_type=BusType.SYSTEM)
        await bus.connect()
        bus.add_message_handler(lambda message: self._handle(bus, message))
        await bus.request_name(NAME)
        self._ready.set()
        lost = asyncio.create_task(bus.wait_for_disconnect())
        ended = asyncio.create_task(self._end.wait())
        await asyncio.wait((lost, ended), return_when=asyncio.FIRST_COMPLETED)
        await close(bus)
        ended.cancel()
        with contextlib.suppress(OSError, EOFError):
            await lost  # the daemon died first, which is what that test is about

    def _handle(self, bus: Any, message: Any) -> Any:  # noqa: ANN401 - either library's
        if message.message_type is not MessageType.METHOD_CALL or message.interface != MANAGER:
            return None
        does = self._behaviour
        self.calls.append((message.member, list(message.body)))
        if does.dies_on == message.member:
            self._leave(bus)
            return True
        if message.member in does.silent:
            return True
        if message.member == "CanHibernate":
            return Message.new_method_return(message, "s", [does.can])
        if message.member == "Hibernate" and does.error is not None:
            return Message.new_error(message, *does.error)
        assert self._loop is not None
        # the real one, too, answers before the sleep begins
        self._loop.call_soon(self._sleep, bus)
        return Message.new_method_return(message)

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
