# SPDX-License-Identifier: LGPL-2.1-or-later
"""logind's sessions, inhibitors and phases (org.freedesktop.login1(5)), read into typed values.

What is not of the type that the manual gives it is taken for absent: logind is not the only one
that owns its name (elogind, mocks), and versions differ.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from hibprep.bus.client import DAEMON, BusError, Client, Heard, Rule, plain
from hibprep.errors import NotPossibleError

NAME = "org.freedesktop.login1"
PATH = "/org/freedesktop/login1"
MANAGER = "org.freedesktop.login1.Manager"
SESSION = "org.freedesktop.login1.Session"
_PROPERTIES = "org.freedesktop.DBus.Properties"
_CHANGED = "PropertiesChanged"
_SESSION_PATHS = f"{PATH}/session"
_OBJECT_PATH, _USER_NAME = 4, 2  # in what ListSessions answers, a(susso)
_CHANGED_PARTS = 3  # of PropertiesChanged, sa{sv}as

# whoever was called left the bus, or is not on it
_GONE = frozenset(
    f"org.freedesktop.DBus.Error.{name}"
    for name in ("NoReply", "ServiceUnknown", "NameHasNoOwner", "Disconnected")
)

Properties = Mapping[str, Any]  # variants taken out


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionFacts:
    """A session as it was read; see org.freedesktop.login1(5), "Session Objects"."""

    id: str
    user: str
    session_class: str
    session_type: str
    seat: str
    tty: str
    active: bool
    remote: bool
    locked: bool
    idle: bool
    idle_since_usec: int  # IdleSinceHintMonotonic; 0: never set
    closing: bool  # logged out, with programs left


@dataclass(frozen=True, slots=True, kw_only=True)
class InhibitorFacts:
    """A lock (systemd-inhibit(1)); `what` is the set of words between the colons."""

    what: frozenset[str]
    who: str
    why: str
    mode: str  # block, block-weak (since 257), delay
    pid: int


def parse_session(path: str, properties: Properties) -> SessionFacts:
    """The session at `path` from its properties."""
    return SessionFacts(
        id=_text(properties.get("Id")) or path.rpartition("/")[2],
        user=_text(properties.get("Name")),
        session_class=_text(properties.get("Class")),
        session_type=_text(properties.get("Type")),
        seat=_first_text(properties.get("Seat")),
        tty=_text(properties.get("TTY")),
        active=properties.get("Active") is not False,
        remote=properties.get("Remote") is True,
        locked=properties.get("LockedHint") is True,
        idle=properties.get("IdleHint") is True,
        idle_since_usec=_count(properties.get("IdleSinceHintMonotonic")),
        closing=properties.get("State") == "closing",
    )


def parse_inhibitors(rows: object) -> tuple[InhibitorFacts, ...]:
    """What ListInhibitors answered, a(ssssuu); rows of another shape are left out."""
    found = []
    for row in rows if isinstance(rows, list) else ():
        match row:
            case [str(what), str(who), str(why), str(mode), int(), int(pid)]:
                found.append(
                    InhibitorFacts(
                        what=frozenset(what.split(":")),
                        who=_text(who),
                        why=_text(why),
                        mode=mode,
                        pid=pid,
                    )
                )
            case _:
                continue
    return tuple(found)


def _text(value: object) -> str:
    # it ends up in the journal and on terminals, and anybody may choose it
    if not isinstance(value, str):
        return ""
    return "".join(each if each.isprintable() else " " for each in value)


def _first_text(value: object) -> str:
    return _text(value[0]) if isinstance(value, list) and value else ""


def _count(value: object) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Handlers:
    """What is called, at once, when logind (or the bus, of logind) says something."""

    owner: Callable[[], None]  # logind left, or another one came: see `Login1.owner`
    session_new: Callable[[str], None]  # object path
    session_removed: Callable[[str], None]  # object path
    session_changed: Callable[[str, Properties, Sequence[str]], None]  # path, new, to be read
    session_asked: Callable[[str], None]  # asked to lock or unlock, which is not to be locked
    inhibitors: Callable[[], None]
    sleep: Callable[[bool], None]
    shutdown: Callable[[bool], None]


def _signals(handlers: Handlers) -> list[tuple[Rule, Callable[[Heard], None]]]:
    """What of logind's is listened to, and what becomes of it."""

    def of_manager(member: str, interface: str = MANAGER) -> Rule:
        return Rule(sender=NAME, path=PATH, interface=interface, member=member)

    def of_sessions(member: str, interface: str = SESSION, arg0: str | None = None) -> Rule:
        return Rule(
            sender=NAME,
            path_namespace=_SESSION_PATHS,
            interface=interface,
            member=member,
            arg0=arg0,
        )

    return [
        (of_manager("SessionNew"), partial(_with_path, handlers.session_new)),
        (of_manager("SessionRemoved"), partial(_with_path, handlers.session_removed)),
        (of_manager("PrepareForSleep"), partial(_with_truth, handlers.sleep)),
        (of_manager("PrepareForShutdown"), partial(_with_truth, handlers.shutdown)),
        (of_manager(_CHANGED, _PROPERTIES), partial(_manager_changed, handlers.inhibitors)),
        (
            of_sessions(_CHANGED, _PROPERTIES, arg0=SESSION),
            partial(_session_changed, handlers.session_changed),
        ),
        (of_sessions("Lock"), lambda heard: handlers.session_asked(heard.path)),
        (of_sessions("Unlock"), lambda heard: handlers.session_asked(heard.path)),
    ]


def _with_path(then: Callable[[str], None], heard: Heard) -> None:
    match heard.body:
        case [str(), str(path)]:
            then(path)


def _with_truth(then: Callable[[bool], None], heard: Heard) -> None:
    match heard.body:
        case [bool(value)]:
            then(value)


def _session_changed(then: Callable[[str, Properties, Sequence[str]], None], heard: Heard) -> None:
    match plain(heard.body):
        case [_, dict(new), list(old)]:
            then(heard.path, new, [str(each) for each in old])


def _manager_changed(then: Callable[[], None], heard: Heard) -> None:
    match plain(heard.body):
        # BlockInhibited, DelayInhibited, and BlockWeakInhibited since 257
        case [_, dict(new), list(old)] if any(
            str(each).endswith("Inhibited") for each in (*new, *old)
        ):
            then()


class Login1:
    """logind, over a connection; every call has a deadline and raises BusError."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self.owner: str | None = None  # its unique name; "" while it is away, None: not known yet

    async def begin(self, handlers: Handlers) -> None:
        """Have `handlers` called from now on, and find logind, which is started if need be.

        Raises NotPossibleError when there is none.
        """
        await self._subscribe(handlers)
        found = await self._find_owner()
        if self.owner is None:  # else a later one was heard of meanwhile
            self.owner = found

    async def sessions(self) -> dict[str, Properties]:
        """Of every session, by its object path."""
        (rows, *_) = await self._client.call((NAME, PATH, MANAGER), "ListSessions") or [[]]
        paths = [
            row[_OBJECT_PATH]
            for row in (rows if isinstance(rows, list) else ())
            if isinstance(row, list | tuple) and len(row) > _OBJECT_PATH
        ]
        return await self.properties_of([path for path in paths if isinstance(path, str)])

    async def properties_of(self, paths: Sequence[str]) -> dict[str, Properties]:
        """Of those of the sessions at `paths` that (still) are there, asked for all at once."""
        answers = await asyncio.gather(*map(self._session, paths), return_exceptions=True)
        found: dict[str, Properties] = {}
        for path, answer in zip(paths, answers, strict=True):
            if isinstance(answer, BaseException):
                raise answer
            if answer is not None:
                found[path] = answer
        return found

    async def look(
        self, paths: Sequence[str]
    ) -> tuple[bool | None, bool | None, dict[str, Properties]]:
        """`preparing` for sleep and for shutdown, and `properties_of` the sessions at `paths`, all
        asked at once, so that it costs one wake-up."""
        try:
            async with asyncio.TaskGroup() as group:
                sleep = group.create_task(self.preparing("Sleep"))
                shutdown = group.create_task(self.preparing("Shutdown"))
                sessions = group.create_task(self.properties_of(paths))
        except ExceptionGroup as errors:
            raise errors.exceptions[0] from None
        return sleep.result(), shutdown.result(), sessions.result()

    async def look_for_owner(self) -> str:
        """`owner`, asked anew."""
        before = self.owner
        try:
            found = await self._owner()
        except BusError as error:
            if not error.name:
                raise
            found = ""
        if self.owner == before:  # else the bus told of a later one meanwhile
            self.owner = found
        return self.owner or ""

    async def inhibitors(self) -> tuple[InhibitorFacts, ...]:
        """All locks there are."""
        (rows, *_) = await self._client.call((NAME, PATH, MANAGER), "ListInhibitors") or [[]]
        return parse_inhibitors(plain(rows))

    async def preparing(self, what: str) -> bool | None:
        """PreparingForSleep or PreparingForShutdown; None when logind does not tell."""
        try:
            (value, *_) = await self._client.call(
                (NAME, PATH, _PROPERTIES), "Get", "ss", (MANAGER, f"PreparingFor{what}")
            ) or [None]
        except BusError as error:
            if is_gone(error):
                raise
            return None
        value = plain(value)
        return value if isinstance(value, bool) else None

    async def inhibit(self, what: str, who: str, why: str, mode: str) -> int:
        """Take a lock; it is held for as long as the descriptor is open."""
        return await self._client.call_for_descriptor(
            (NAME, PATH, MANAGER), "Inhibit", "ssss", (what, who, why, mode)
        )

    async def _session(self, path: str) -> Properties | None:
        try:
            (value, *_) = await self._client.call(
                (NAME, path, _PROPERTIES), "GetAll", "s", (SESSION,)
            ) or [None]
        except BusError as error:
            if is_gone(error):
                raise
            return None  # it ended meanwhile
        value = plain(value)
        return value if isinstance(value, dict) else None

    async def _find_owner(self) -> str:
        try:
            return await self._owner()
        except BusError as error:
            if not is_gone(error) or not error.name:
                raise
        try:
            await self._client.call(DAEMON, "StartServiceByName", "su", (NAME, 0))
            return await self._owner()
        except BusError as error:
            if not error.name:
                raise
            raise NotPossibleError(
                "logind is not on the system bus, so nobody tells of sessions and of sleep",
                "start systemd-logind.service (or elogind)",
            ) from error

    async def _owner(self) -> str:
        return str((await self._client.call(DAEMON, "GetNameOwner", "s", (NAME,)))[0])

    async def _subscribe(self, handlers: Handlers) -> None:
        def owner(heard: Heard) -> None:
            if heard.sender == DAEMON[0] and len(heard.body) == _CHANGED_PARTS:
                self.owner = str(heard.body[2])
                handlers.owner()

        await self._client.subscribe(
            Rule(sender=DAEMON[0], interface=DAEMON[2], member="NameOwnerChanged", arg0=NAME), owner
        )
        for rule, handler in _signals(handlers):
            await self._client.subscribe(rule, self._from_logind(handler))

    def _from_logind(self, handler: Callable[[Heard], None]) -> Callable[[Heard], None]:
        """Signals that somebody else sends to us alone pass by the rules of the bus."""

        def checked(heard: Heard) -> None:
            if heard.sender == self.owner:
                handler(heard)

        return checked


def is_gone(error: BusError) -> bool:
    """Whether logind, or the bus, is what failed, rather than that one thing asked of it: the bus
    names an error when somebody answered."""
    return not error.name or error.name in _GONE
