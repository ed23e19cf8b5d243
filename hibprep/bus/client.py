# SPDX-License-Identifier: LGPL-2.1-or-later
"""A small, typed client on the low-level message API of dbus-next (dbus-fast from Python 3.15 on).

Only what works the same in both is used: no introspection (hyphenated property names are refused
by dbus-next), no proxies, file descriptors always negotiated, a time-out on every call (a call on a
connection that is gone would wait for ever).
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

from hibprep.errors import NotPossibleError

if sys.version_info >= (3, 15):
    from dbus_fast import BusType, Message, MessageType
    from dbus_fast.aio import MessageBus
    from dbus_fast.errors import AuthError, DBusError, InvalidAddressError
else:
    from dbus_next import (
        AuthError,
        BusType,
        DBusError,
        InvalidAddressError,
        Message,
        MessageType,
    )
    from dbus_next.aio import MessageBus

CALL_SECONDS = 25.0  # what libdbus waits


_CLOSE_SECONDS = 1.0


async def _connected(bus: Any) -> Any:  # noqa: ANN401 - either library's MessageBus
    try:
        return await asyncio.wait_for(bus.connect(), CALL_SECONDS)
    except BaseException:
        await close(bus)
        raise


async def close(bus: Any) -> None:  # noqa: ANN401 - as above
    """Disconnect, and close the socket, which dbus-next leaves to the garbage collector."""
    if bus.connected:
        bus.disconnect()
        # it takes its descriptor out of the loop when it sees the end; how it ended is no matter
        with contextlib.suppress(OSError, EOFError, TimeoutError):
            await asyncio.wait_for(bus.wait_for_disconnect(), _CLOSE_SECONDS)
    for file in (getattr(bus, "_stream", None), getattr(bus, "_sock", None)):
        if file is not None:
            with contextlib.suppress(OSError, ValueError):
                file.close()


async def _until_lost(bus: Any) -> None:  # noqa: ANN401 - as above
    with contextlib.suppress(OSError, EOFError):
        await bus.wait_for_disconnect()


class BusError(NotPossibleError):
    """The bus, or the service that was called on it, said no; `name` is the D-Bus error's name."""

    def __init__(self, message: str, remedy: str = "", name: str = "") -> None:
        super().__init__(message, remedy)
        self.name = name


class Client:
    """One connection to the system bus; a context manager."""

    def __init__(self, address: str | None = None) -> None:
        self._address = address
        self._bus: Any = None
        self._lost: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        try:
            bus = MessageBus(
                bus_address=self._address, bus_type=BusType.SYSTEM, negotiate_unix_fd=True
            )
            self._bus = await _connected(bus)
        except (OSError, EOFError, AuthError, InvalidAddressError, TimeoutError) as error:
            raise BusError(
                f"no connection to the system bus ({error or type(error).__name__})",
                "install and start dbus, or use --direct, which needs none",
            ) from error
        self._lost = asyncio.create_task(_until_lost(self._bus))
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._bus is not None:
            await close(self._bus)
        if self._lost is not None:
            self._lost.cancel()

    async def lost(self) -> None:
        """Wait until the connection is gone."""
        if self._lost is not None:
            await asyncio.shield(self._lost)

    async def call(
        self,
        target: tuple[str, str, str],
        member: str,
        signature: str = "",
        body: tuple[object, ...] = (),
        seconds: float | None = None,
    ) -> list[Any]:
        """Call a method of `target` (service, object path, interface) and return what it answers,
        within `seconds` (None: CALL_SECONDS).

        Raises BusError for an error answer, a lost connection and a time-out.
        """
        service, path, interface = target
        if seconds is None:
            seconds = CALL_SECONDS
        if self._bus is None or not self._bus.connected:
            raise BusError("the connection to the system bus is gone")
        message = Message(
            destination=service,
            path=path,
            interface=interface,
            member=member,
            signature=signature,
            body=list(body),
        )
        try:
            reply = await asyncio.wait_for(self._bus.call(message), seconds)
        except TimeoutError as error:
            raise BusError(f"{service} did not answer {member} within {seconds:g} s") from error
        except (OSError, EOFError, DBusError) as error:
            raise BusError(f"{service}: {member}: {error or 'connection lost'}") from error
        if reply.message_type is MessageType.ERROR:
            words = str(reply.body[0]) if reply.body else reply.error_name
            raise BusError(f"{service}: {member}: {words}", name=str(reply.error_name))
        return list(reply.body)

    async def listen(
        self, interface: str, member: str, handler: Callable[[list[Any]], None]
    ) -> None:
        """Have `handler` called with the body of every such signal from now on."""

        def receive(message: Any) -> None:  # noqa: ANN401 - either library's Message
            if (
                message.message_type is MessageType.SIGNAL
                and message.interface == interface
                and message.member == member
            ):
                handler(list(message.body))

        self._bus.add_message_handler(receive)
        rule = f"type='signal',interface='{interface}',member='{member}'"
        await self.call(
            ("org.freedesktop.DBus", "/org/freedesktop/DBus", "org.freedesktop.DBus"),
            "AddMatch",
            "s",
            (rule,),
        )
