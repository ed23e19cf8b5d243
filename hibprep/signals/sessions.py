# SPDX-License-Identifier: LGPL-2.1-or-later
"""What logind says of a session, and what is known of it besides, as a signal.

A desktop sets its session's idle hint, or never does. A terminal's is computed by logind, from the
terminal's atime and by the time of day: the same is read here, against a clock that does not jump.
"""

from __future__ import annotations

from collections.abc import Mapping

from hibprep.bus.sessions import Properties, SessionFacts, parse_session
from hibprep.clock import Clock
from hibprep.events import Session, Sessions
from hibprep.kernel.root import KernelRoot
from hibprep.kernel.tty import TtyInput, shows_graphics

# session_get_idle_hint() in systemd's src/login/logind-session.c
_COMPUTED = frozenset({"tty", "unspecified", ""})
_USEC = 1_000_000
_SAME_USEC = 2 * _USEC  # computed anew at every reading, of two clocks: it is never quite the same


def is_computed(facts: SessionFacts) -> bool:
    """Whether logind computes this session's idle hint when it is read, and never signals it."""
    return facts.session_type in _COMPUTED


class SessionReader:
    """Makes `Sessions` of properties, and remembers what sessions were seen to do before."""

    def __init__(self, clock: Clock, tty_root: KernelRoot) -> None:
        self._clock = clock
        self._root = tty_root
        self._tty = TtyInput(tty_root, clock)
        self._hinted: set[str] = set()  # sessions that were seen to set an idle hint
        self._since: dict[str, tuple[int, float]] = {}  # by session: as read, and as told

    def read(self, properties: Mapping[str, Properties]) -> Sessions:
        """All sessions, from their properties by object path; those that have been logged out of,
        with programs left behind, are none."""
        found = [
            facts
            for path, each in properties.items()
            if not (facts := parse_session(path, each)).closing
        ]
        ids = {facts.id for facts in found}
        self._hinted &= ids
        self._tty.forget_all_but({facts.tty for facts in found})
        for gone in self._since.keys() - ids:
            del self._since[gone]
        return Sessions(tuple(self._session(facts) for facts in sorted(found, key=_by_id)))

    def _session(self, facts: SessionFacts) -> Session:
        at = self._idle_at(facts)
        idle, input_at = facts.idle, None
        if not is_computed(facts):
            # its terminal is the one that it was started from: nobody types there
            if idle or facts.idle_since_usec:
                self._hinted.add(facts.id)
        elif shows_graphics(self._root, facts.tty):
            # a desktop started by hand: logind computes with a time that stands still
            idle, at = False, None
        else:
            input_at = self._tty.last_at_seconds(facts.tty) if facts.tty else None
            at = input_at = at if input_at is None else input_at
        return Session(
            id=facts.id,
            user=facts.user,
            session_class=facts.session_class,
            session_type=facts.session_type,
            seat=facts.seat,
            tty=facts.tty,
            active=facts.active,
            remote=facts.remote,
            locked=facts.locked,
            idle=idle,
            idle_at_seconds=at,
            hints=facts.id in self._hinted,
            input_at_seconds=input_at,
        )

    def _idle_at(self, facts: SessionFacts) -> float | None:
        since = facts.idle_since_usec
        if not since:
            self._since.pop(facts.id, None)
            return None
        slack = _SAME_USEC if is_computed(facts) else 0
        before = self._since.get(facts.id)
        if before is None or abs(since - before[0]) > slack:
            before = (since, min(since / _USEC, self._clock.monotonic()))
            self._since[facts.id] = before
        return before[1]


def _by_id(facts: SessionFacts) -> str:
    return facts.id
