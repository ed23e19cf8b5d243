# SPDX-License-Identifier: LGPL-2.1-or-later
"""A small, typed client on the low-level message API of dbus-next (dbus-fast from Python 3.15 on).

Only what works the same in both is used: no introspection (hyphenated property names are refused
by dbus-next), no proxies, file descriptors always negotiated, a time-out on every call (a call on a
connection that is gone would wait for ever).
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from hibprep.errors import NotPossibleError

if sys.version_info >= (3, 15):
    from dbus_fast import BusType, Message, MessageType, Variant
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
        Variant,
    )
    from dbus_next.aio import MessageBus

CALL_SECONDS = 25.0  # what libdbus waits
DAEMON = ("org.freedesktop.DBus", "/org/freedesktop/DBus", "org.freedesktop.DBus")

_CLOSE_SECONDS = 1.0
_FIRST_DESCRIPTOR = 3  # standard input and output go to children


async def _connected(bus: Any) -> Any:  # noqa: ANN401 - either library's MessageBus
    try:
        # not wait_for(): before 3.12 that swallows a cancellation which comes with the answer
        async with asyncio.timeout(CALL_SECONDS):
            return await bus.connect()
    except BaseException:
        await close(bus)
        raise


async def close(bus: Any) -> None:  # noqa: ANN401 - as above
    """Disconnect, and close the socket, which dbus-next leaves to the garbage collector."""
    if bus.connected:
        bus.disconnect()
        # it takes its descriptor out of the loop when it sees the end; how it ended is no matter
        with contextlib.suppress(OSError, EOFError, TimeoutError):
            async with asyncio.timeout(_CLOSE_SECONDS):
                await bus.wait_for_disconnect()
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """Which signals are wanted (D-Bus Specification, "Match Rules"); what is None may be any.

    `sender` is a well-known name, which the bus looks up: signals that are sent to us alone pass by
    all rules, so whoever must not be fooled also looks at `Heard.sender`.
    """

    interface: str
    member: str
    sender: str | None = None
    path: str | None = None
    path_namespace: str | None = None
    arg0: str | None = None

    def text(self) -> str:
        """As AddMatch takes it."""
        parts = (
            ("sender", self.sender),
            ("interface", self.interface),
            ("member", self.member),
            ("path", self.path),
            ("path_namespace", self.path_namespace),
            ("arg0", self.arg0),
        )
        return ",".join(["type='signal'", *(f"{key}='{value}'" for key, value in parts if value)])

    def fits(self, heard: Heard) -> bool:
        """Whether that signal is one of them, as far as it shows."""
        space = self.path_namespace
        return (
            heard.interface == self.interface
            and heard.member == self.member
            and self.path in (None, heard.path)
            and (space is None or f"{heard.path}/".startswith(f"{space}/"))
            and (self.arg0 is None or heard.body[:1] == [self.arg0])
        )


@dataclass(frozen=True, slots=True)
class Heard:
    """A signal; `sender` is the unique name that the bus vouches for, or the bus itself."""

    sender: str
    path: str
    interface: str
    member: str
    body: list[Any]


def plain(value: Any) -> Any:  # noqa: ANN401 - whatever was sent
    """`value` with every variant replaced by what is in it."""
    if isinstance(value, Variant):
        return plain(value.value)
    if isinstance(value, Mapping):
        return {plain(key): plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    return value


def _private(descriptor: int) -> int:
    """A duplicate that no child inherits; recvmsg(2) of the library asks for none."""
    return fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, _FIRST_DESCRIPTOR)


class Client:
    """One connection to the system bus; a context manager."""

    def __init__(self, address: str | None = None) -> None:
        self._address = address
        self._bus: Any = None
        self._lost: asyncio.Task[None] | None = None
        self._claims: dict[int, list[int]] = {}  # by serial of the call: descriptors that came

    async def __aenter__(self) -> Self:
        try:
            bus = MessageBus(
                bus_address=self._address, bus_type=BusType.SYSTEM, negotiate_unix_fd=True
            )
            bus.add_message_handler(self._take_descriptors)
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
        return list((await self._ask(target, member, signature, body, seconds)).body)

    async def call_for_descriptor(
        self,
        target: tuple[str, str, str],
        member: str,
        signature: str = "",
        body: tuple[object, ...] = (),
        seconds: float | None = None,
    ) -> int:
        """`call` for a method that answers one file descriptor, which is the caller's to close and
        is inherited by nobody.

        Raises BusError too when it answers anything else. However it ends, none is left open.
        """
        serial = self._serial()
        came: list[int] = []
        self._claims[serial] = came
        try:
            reply = await self._ask(target, member, signature, body, seconds, serial=serial)
            index = reply.body[0] if len(reply.body) == 1 and reply.signature == "h" else None
            if index is None or not 0 <= index < len(came):
                raise BusError(f"{target[0]}: {member} answered no file descriptor")
            return came.pop(index)
        finally:
            del self._claims[serial]
            for descriptor in came:
                os.close(descriptor)

    async def _ask(
        self,
        target: tuple[str, str, str],
        member: str,
        signature: str,
        body: tuple[object, ...],
        seconds: float | None,
        *,
        serial: int = 0,
    ) -> Any:  # noqa: ANN401 - either library's Message
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
            serial=serial or self._serial(),
        )
        try:
            async with asyncio.timeout(seconds):
                reply = await self._bus.call(message)
        except TimeoutError as error:
            raise BusError(f"{service} did not answer {member} within {seconds:g} s") from error
        except (OSError, EOFError, DBusError) as error:
            raise BusError(f"{service}: {member}: {error or 'connection lost'}") from error
        if reply.message_type is MessageType.ERROR:
            words = str(reply.body[0]) if reply.body else reply.error_name
            raise BusError(f"{service}: {member}: {words}", name=str(reply.error_name))
        return reply

    async def listen(
        self, interface: str, member: str, handler: Callable[[list[Any]], None]
    ) -> None:
        """Have `handler` called with the body of every such signal from now on."""
        await self.subscribe(
            Rule(interface=interface, member=member), lambda heard: handler(heard.body)
        )

    async def subscribe(self, rule: Rule, handler: Callable[[Heard], None]) -> None:
        """Have `handler` called with every signal of `rule` from now on, as soon as it comes."""

        def receive(message: Any) -> None:  # noqa: ANN401 - either library's Message
            if message.message_type is not MessageType.SIGNAL:
                return
            heard = Heard(
                str(message.sender or ""),
                str(message.path),
                str(message.interface),
                str(message.member),
                list(message.body),
            )
            if rule.fits(heard):
                handler(heard)

        if self._bus is not None:
            self._bus.add_message_handler(receive)
        await self.call(DAEMON, "AddMatch", "s", (rule.text(),))

    def _serial(self) -> int:
        return int(self._bus.next_serial()) if self._bus is not None else 0

    def _take_descriptors(self, message: Any) -> None:  # noqa: ANN401 - as above
        """Keeps what a call of ours waits for and closes all else: dbus-next leaves descriptors
        that nobody asked for open for ever."""
        answer = message.message_type is MessageType.METHOD_RETURN
        came = self._claims.get(message.reply_serial) if answer else None
        for descriptor in message.unix_fds:
            try:
                if came is not None:
                    came.append(_private(descriptor))
            finally:
                os.close(descriptor)
