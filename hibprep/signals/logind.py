# SPDX-License-Identifier: LGPL-2.1-or-later
"""logind as a source: sessions and their hints, inhibitors, and the sleep that comes.

What logind signals is listened to and costs nothing meanwhile. What it computes only when it is
read (idleness of terminals and of ssh, and whether a sleep is still being prepared, should the
signal of its end be missed) is asked for now and then, all of it in one wake-up.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Sequence

from hibprep.bus.client import BusError, Client
from hibprep.bus.delaylock import DelayLock
from hibprep.bus.sessions import (
    Handlers,
    InhibitorFacts,
    Login1,
    Properties,
    parse_session,
)
from hibprep.clock import Clock
from hibprep.errors import HibprepError
from hibprep.events import (
    Inhibitors,
    Sessions,
    Shutdown,
    Sleep,
    SourceChanged,
    SourceName,
)
from hibprep.kernel.root import KernelRoot
from hibprep.signals.base import Emit
from hibprep.signals.sessions import SessionReader, is_computed

log = logging.getLogger(__name__)

POLL_SECONDS = 30.0
_RETURN_SECONDS = 10.0  # a restart of logind takes a fraction of one
_BLOCKING = frozenset({"block", "block-weak"})


class LogindLostError(HibprepError):
    """The bus, or logind, went away or did not answer: trying again soon may well help."""


class Logind:
    """The source. One object is run again and again by its supervisor."""

    def __init__(
        self,
        clock: Clock,
        *,
        address: str | None = None,
        poll_seconds: float = POLL_SECONDS,
        tty_root: KernelRoot | None = None,
    ) -> None:
        self.poll_seconds = poll_seconds
        self.lock = DelayLock()
        self.wake = asyncio.Event()  # there is something to be read, or the lock to be taken
        # these outlive a connection: what sessions were seen to do, and the phases that were told
        self.reader = SessionReader(clock, KernelRoot() if tty_root is None else tty_root)
        self.phases: dict[type[Sleep | Shutdown], bool] = {Sleep: False, Shutdown: False}
        self._address = address

    @property
    def name(self) -> SourceName:
        """See `Source.name`."""
        return SourceName.LOGIND

    @property
    def lock_held(self) -> bool:
        """Whether the delay lock on sleep is held."""
        return self.lock.held

    def release_lock(self) -> None:
        """Everything is out of the way: the sleep may begin. It is taken again when the sleep has
        ended. Does nothing when it is not held."""
        self.lock.release()

    def want_lock(self) -> None:
        """The sleep is over, whoever told so: logind may never have begun one."""
        self.lock.want()
        self.wake.set()

    async def run(self, emit: Emit) -> None:
        """See `Source.run`. Raises LogindLostError when the bus or logind went away, and
        NotPossibleError when there is no logind."""
        try:
            async with Client(self._address) as client:
                try:
                    await _Run(self, client, emit).serve()
                finally:
                    self.lock.release()
        except BusError as error:
            # a NotPossibleError would not be tried again for minutes
            raise LogindLostError(
                error.message, "see systemctl status dbus systemd-logind"
            ) from error


class _Run:
    """What is known over one connection.

    Handlers of signals run between any two steps of a reading, and what they say is newer than the
    answers under way: what is signalled while something is read is read once more.
    """

    def __init__(self, logind: Logind, client: Client, emit: Emit) -> None:
        self._logind = logind
        self._emit = emit
        self._login1 = Login1(client)
        self._lost = asyncio.create_task(client.lost())
        self._wake = logind.wake
        self._lost.add_done_callback(lambda _: self._wake.set())
        self._asked: str | None = None  # the owner of logind's name that is being asked
        self._works = False  # nothing is told before that has been said
        self._reading = False
        self._all_stale = self._inhibitors_stale = True
        self._stale: set[str] = set()
        self._properties: dict[str, Properties] = {}
        self._phases = dict(logind.phases)
        self._phases_heard = 0
        self._inhibitors = Inhibitors()
        self._told_sessions: Sessions | None = None
        self._told_inhibitors: Inhibitors | None = None

    async def serve(self) -> None:
        """Until cancelled, or until the bus or logind is gone, which raises."""
        try:
            await self._login1.begin(
                Handlers(
                    owner=self._owner_changed,
                    session_new=self._look_again,
                    session_removed=self._session_removed,
                    session_changed=self._session_changed,
                    session_asked=self._look_again,
                    inhibitors=self._inhibitors_changed,
                    sleep=lambda coming: self._phase(Sleep, coming=coming),
                    shutdown=lambda coming: self._phase(Shutdown, coming=coming),
                )
            )
            self._logind.lock.want()
            await self._loop()
        finally:
            self._lost.cancel()

    async def _loop(self) -> None:
        loop = asyncio.get_running_loop()
        due = loop.time()
        while True:
            self._wake.clear()
            polling = loop.time() >= due
            if polling:
                due = loop.time() + self._logind.poll_seconds
            self._reading = True
            try:
                await self._read(polling=polling)
            except BusError as error:
                if not error.name or await self._login1.look_for_owner() == self._asked:
                    raise
                self._owner_changed()  # it left while it was asked
            finally:
                self._reading = False
            if not self._all_stale:
                self._say_so()
                self._tell()
            if self._lost.done():
                raise BusError("the connection to the system bus was lost")
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(due):
                    await self._wake.wait()

    async def _read(self, *, polling: bool) -> None:
        """All that is stale."""
        login1, lock = self._login1, self._logind.lock
        if self._all_stale:
            await self._wait_for_owner()
            self._asked = login1.owner
            self._all_stale, self._stale, polling = False, set(), True
            found = await login1.sessions()
            self._properties = {
                path: old
                for path, old in self._properties.items()
                if path in found or path in self._stale
            }
            self._store(found)
        paths, self._stale = self._stale, set()
        if polling:
            heard = self._phases_heard
            paths |= {path for path in self._properties if self._is_computed(path)}
            sleep, shutdown, found = await login1.look(sorted(paths))
            if heard == self._phases_heard:
                self._phases_read(Sleep, coming=sleep)
                self._phases_read(Shutdown, coming=shutdown)
        else:
            found = await login1.properties_of(sorted(paths))
        for path in paths - found.keys() - self._stale:
            self._properties.pop(path, None)
        self._store(found)
        if self._inhibitors_stale:
            self._inhibitors_stale = False
            self._inhibitors = _blocking(await login1.inhibitors())
        # logind refuses it while a sleep is being prepared
        if lock.missing and not self._phases[Sleep]:
            await lock.take(login1)

    async def _wait_for_owner(self) -> None:
        try:
            async with asyncio.timeout(_RETURN_SECONDS):
                while not self._login1.owner and not self._lost.done():
                    self._wake.clear()
                    await self._wake.wait()
        except TimeoutError:
            raise BusError(
                f"logind left the system bus and did not come back within {_RETURN_SECONDS:g} s"
            ) from None

    def _store(self, found: dict[str, Properties]) -> None:
        for path, properties in found.items():
            if path not in self._stale:
                self._properties[path] = properties

    def _is_computed(self, path: str) -> bool:
        return is_computed(parse_session(path, self._properties[path]))

    # --- what logind signals --------------------------------------------------------------------

    def _owner_changed(self) -> None:
        self._all_stale = self._inhibitors_stale = True
        if self._logind.lock.held:
            self._logind.lock.want(renew=True)
        self._wake.set()

    def _look_again(self, path: str) -> None:
        self._stale.add(path)
        self._wake.set()

    def _session_removed(self, path: str) -> None:
        self._properties.pop(path, None)
        if self._reading:
            self._look_again(path)
        self._tell()

    def _session_changed(self, path: str, new: Properties, invalid: Sequence[str]) -> None:
        old = self._properties.get(path)
        if old is None or invalid or self._reading:
            self._look_again(path)
        if old is not None:
            # at once, without a question: whoever comes back should not wait for logind's answer,
            # which takes long just when memory is being taken
            self._properties[path] = {**old, **new}
            self._tell()

    def _inhibitors_changed(self) -> None:
        self._inhibitors_stale = True
        self._wake.set()

    def _phase(self, kind: type[Sleep | Shutdown], *, coming: bool) -> None:
        self._phases_heard += 1
        self._phases[kind] = coming
        if kind is Sleep and not coming:
            self._logind.lock.want()
            self._wake.set()
        self._tell()

    def _phases_read(self, kind: type[Sleep | Shutdown], *, coming: bool | None) -> None:
        if coming is not None and coming is not self._phases[kind]:
            log.info("found out late that logind says %s", kind(coming))
            self._phase(kind, coming=coming)

    # --- what is told ---------------------------------------------------------------------------

    def _say_so(self) -> None:
        if self._works:
            return
        self._works = True
        trouble = self._logind.lock.trouble
        if trouble:
            lock = f"no delay lock on sleep ({trouble})"
        elif self._logind.lock_held:
            lock = "a delay lock on sleep is held"
        else:
            lock = "a sleep is under way"
        self._emit(SourceChanged(self._logind.name, works=True, reason=f"logind answers; {lock}"))

    def _tell(self) -> None:
        """Everything that is other than it was told last."""
        if not self._works:
            return
        logind = self._logind
        sessions = logind.reader.read(self._properties)
        if sessions != self._told_sessions:
            self._told_sessions = sessions
            self._emit(sessions)
        if self._inhibitors != self._told_inhibitors:
            self._told_inhibitors = self._inhibitors
            self._emit(self._inhibitors)
        for kind, coming in self._phases.items():
            if logind.phases[kind] is not coming:
                logind.phases[kind] = coming
                self._emit(kind(coming))


def _blocking(found: Sequence[InhibitorFacts]) -> Inhibitors:
    def words(what: str) -> tuple[str, ...]:
        return tuple(
            f"{each.who} (pid {each.pid}): {each.why}"
            for each in found
            if each.mode in _BLOCKING and what in each.what
        )

    return Inhibitors(idle=words("idle"), sleep=words("sleep"))
