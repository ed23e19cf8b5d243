# SPDX-License-Identifier: LGPL-2.1-or-later
"""The service org.hibprep.Manager1 on the system bus: anyone may read what the daemon does, root
may ask it to do something.

On the low-level message API, as `hibprep.bus.client`: every method call is answered here, with the
errors of the D-Bus specification, and the library's own handlers are never reached. Who may call is
said by the policy file and checked again here.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import sys
from collections.abc import Callable
from typing import Any

from hibprep import streams
from hibprep.bus import interface
from hibprep.bus.client import CALL_SECONDS, BusError, close
from hibprep.bus.interface import INTERFACE, NAME, PATH, CallError
from hibprep.errors import HibprepError
from hibprep.events import Request, Signal, Wish
from hibprep.model import Target, TargetKind
from hibprep.sizes import parse_size
from hibprep.status import Host

if sys.version_info >= (3, 15):
    from dbus_fast import BusType, Message, MessageFlag, MessageType, Variant
    from dbus_fast.aio import MessageBus
    from dbus_fast.errors import AuthError, InvalidAddressError
else:
    from dbus_next import (
        AuthError,
        BusType,
        InvalidAddressError,
        Message,
        MessageFlag,
        MessageType,
        Variant,
    )
    from dbus_next.aio import MessageBus

CHANGES_PAUSE_SECONDS = 0.5  # between two PropertiesChanged
MOST_WAITING_CALLS = 32
LONGEST_SECONDS = 86_400.0

_DRIVER = ("org.freedesktop.DBus", "/org/freedesktop/DBus", "org.freedesktop.DBus")
_DO_NOT_QUEUE = 4
_PRIMARY_OWNER, _ALREADY_OWNER = 1, 4


class ManagerService:
    """The service, on the bus at `address` (None: the system bus)."""

    def __init__(self, address: str | None = None) -> None:
        self._address = address

    async def run(
        self,
        emit: Callable[[Signal], None],
        host: Host,
        *,
        started: Callable[[], None] = lambda: None,
    ) -> None:
        """Serve until cancelled; `started` is called once the name is ours.

        Raises BusError when there is no bus, when it is lost and when it does not give the name;
        HibprepError when another daemon has it.
        """
        bus = await self._connected()
        # not cancelled before the connection is closed: cancelling would reach the library's own
        # future, which `close` waits for
        lost = asyncio.create_task(_until_lost(bus))
        try:
            await _Serving(bus, emit, host).run(lost, started)
        finally:
            await close(bus)
            lost.cancel()
            await asyncio.wait((lost,))

    async def _connected(self) -> Any:  # noqa: ANN401 - either library's MessageBus
        try:
            # No descriptors are wanted: where they are not negotiated, the bus refuses to pass on
            # a message that has any.
            bus = MessageBus(
                bus_address=self._address, bus_type=BusType.SYSTEM, negotiate_unix_fd=False
            )
            try:
                async with asyncio.timeout(CALL_SECONDS):
                    return await bus.connect()
            except BaseException:
                await close(bus)
                raise
        except (OSError, EOFError, AuthError, InvalidAddressError, TimeoutError) as error:
            raise BusError(
                f"no connection to the system bus ({error or type(error).__name__})",
                "install and start dbus",
            ) from error


async def _until_lost(bus: Any) -> None:  # noqa: ANN401 - as above
    with contextlib.suppress(OSError, EOFError):
        await bus.wait_for_disconnect()


class _Serving:
    """The service on one connection."""

    def __init__(self, bus: Any, emit: Callable[[Signal], None], host: Host) -> None:  # noqa: ANN401
        self._bus = bus
        self._emit = emit
        self._host = host
        self._shown = interface.properties(host.status())
        # one after the other: a Stop that was sent after a Prepare also comes after it
        self._calls: asyncio.Queue[Any] = asyncio.Queue(MOST_WAITING_CALLS)

    async def run(self, lost: asyncio.Task[None], started: Callable[[], None]) -> None:
        self._bus.add_message_handler(self._receive)
        await self._own()
        started()
        async with (
            streams.task(self._work()) as work,
            streams.task(self._tell_changes()) as changes,
        ):
            await asyncio.wait((lost, work, changes), return_when=asyncio.FIRST_COMPLETED)
            for task in (work, changes):
                if task.done():
                    task.result()
            raise BusError("the connection to the system bus is gone")

    async def _own(self) -> None:
        answer = await self._ask_driver("RequestName", "su", [NAME, _DO_NOT_QUEUE])
        if isinstance(answer, CallError):
            raise BusError(
                f"the bus does not give the name {NAME} ({answer})",
                f"run as root, with {NAME}.conf in /usr/share/dbus-1/system.d",
                name=answer.name,
            )
        if answer not in (_PRIMARY_OWNER, _ALREADY_OWNER):
            raise HibprepError(
                f"another hibprep daemon runs: it owns {NAME} on the bus",
                "stop it first: systemctl stop hibprep.service",
            )

    async def _ask_driver(self, member: str, signature: str, body: list[object]) -> object:
        """The one value of the bus driver's answer; a CallError, not raised, for its refusal."""
        destination, path, its_interface = _DRIVER
        message = Message(
            destination=destination,
            path=path,
            interface=its_interface,
            member=member,
            signature=signature,
            body=body,
        )
        try:
            async with asyncio.timeout(CALL_SECONDS):
                reply = await self._bus.call(message)
        except TimeoutError as error:
            raise BusError(f"the bus did not answer {member} within {CALL_SECONDS:g} s") from error
        except (OSError, EOFError) as error:
            raise BusError(f"the bus did not answer {member}: {error}") from error
        value: object = reply.body[0] if reply.body else None
        if reply.message_type is MessageType.ERROR:
            return CallError(str(reply.error_name), str(value))
        return value

    # --- calls --------------------------------------------------------------------------------

    def _receive(self, message: Any) -> bool | None:  # noqa: ANN401 - either library's Message
        if message.message_type is not MessageType.METHOD_CALL:
            return None
        try:
            called = interface.find(
                str(message.path), message.interface, str(message.member), str(message.signature)
            )
            if called.interface == INTERFACE:
                self._calls.put_nowait(message)
            else:
                self._reply(message, *self._read(called, list(message.body), str(message.path)))
        except asyncio.QueueFull:
            self._refuse(message, CallError(interface.LIMITS, "too many calls: try again"))
        except CallError as error:
            self._refuse(message, error)
        return True

    def _read(
        self, called: interface.Method, body: list[Any], path: str
    ) -> tuple[str, list[object]]:
        """The answer to what anybody may ask: its signature and its body."""
        match called.name:
            case "Introspect":
                return "s", [interface.introspection(path)]
            case "Ping":
                return "", []
            case "Get":
                signature, value = interface.one(self._now(), body[0], body[1])
                return "v", [Variant(signature, value)]
            case "GetAll":
                return "a{sv}", [_variants(interface.several(self._now(), body[0]))]
            case _:  # Set
                raise interface.unsettable(body[0], body[1])

    def _now(self) -> interface.Values:
        return interface.properties(self._host.status())

    async def _work(self) -> None:
        while True:
            message = await self._calls.get()
            try:
                await self._check_caller(str(message.sender))
                self._emit(_request(str(message.member), list(message.body), message.sender))
                self._reply(message, "", [])
            except CallError as error:
                self._refuse(message, error)
            except BusError:
                raise  # the connection's, not the caller's
            except HibprepError as error:
                self._refuse(message, CallError(interface.NOT_SUPPORTED, str(error)))

    async def _check_caller(self, sender: str) -> None:
        """The policy file says the same; this holds where it was not installed, or was changed."""
        uid = await self._ask_driver("GetConnectionUnixUser", "s", [sender])
        if uid not in _allowed():
            raise CallError(interface.DENIED, "only root may do this")

    def _reply(self, message: Any, signature: str, body: list[object]) -> None:  # noqa: ANN401
        self._answer(message, Message.new_method_return(message, signature, body))

    def _refuse(self, message: Any, error: CallError) -> None:  # noqa: ANN401
        self._answer(message, Message.new_error(message, error.name, str(error)))

    def _answer(self, message: Any, answer: Any) -> None:  # noqa: ANN401
        if not message.flags & MessageFlag.NO_REPLY_EXPECTED and self._bus.connected:
            self._bus.send(answer)

    # --- changes ------------------------------------------------------------------------------

    async def _tell_changes(self) -> None:
        while True:
            async with streams.task(self._host.changed()) as changed:
                self._tell(self._now())
                await changed
            await asyncio.sleep(CHANGES_PAUSE_SECONDS)

    def _tell(self, now: interface.Values) -> None:
        changes = {name: value for name, value in now.items() if value != self._shown.get(name)}
        self._shown = now
        if not changes or not self._bus.connected:
            return
        self._bus.send(
            Message.new_signal(
                PATH,
                interface.PROPERTIES,
                "PropertiesChanged",
                "sa{sv}as",
                [INTERFACE, _variants(changes), []],
            )
        )


def _allowed() -> frozenset[int]:
    return frozenset((0, os.geteuid()))


def _variants(values: interface.Values) -> dict[str, Any]:
    return {name: Variant(signature, value) for name, (signature, value) in values.items()}


def _request(member: str, body: list[Any], sender: object) -> Request:
    who = f"{NAME} {sender}"
    if member == "Prepare":
        return Request(
            wish=Wish.PREPARE, who=who, target=_target(body[0]), timeout_seconds=_timeout(body[1])
        )
    return Request(wish={"Stop": Wish.STOP, "SwapIn": Wish.SWAP_IN}[member], who=who)


def _target(text: str) -> Target | None:
    if not text:
        return None
    if text in (TargetKind.IMAGE_SIZE, TargetKind.MIN):
        return Target(TargetKind(text))
    try:
        size_bytes = parse_size(text)
    except ValueError as error:
        raise CallError(interface.INVALID, f"target: {error}, image_size or min") from None
    if size_bytes == 0:
        raise CallError(interface.INVALID, "target: no image is of 0 bytes; give min")
    return Target(TargetKind.SIZE, size_bytes)


def _timeout(seconds: float) -> float | None:
    if not math.isfinite(seconds) or not 0 <= seconds <= LONGEST_SECONDS:
        raise CallError(
            interface.INVALID,
            f"timeout: {seconds:g} is not between 0 (as configured) and {LONGEST_SECONDS:g} s",
        )
    return seconds or None
