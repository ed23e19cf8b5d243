# SPDX-License-Identifier: LGPL-2.1-or-later
"""A metadata service that wants a token: asked for once, shared by all looks, renewed early."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http import HTTPStatus

from hibprep.clock import Clock
from hibprep.signals.cloud.base import Link, NoAnswerError, Reply
from hibprep.signals.cloud.forms import expected

# before its end; of one that does not hold for long, a tenth of its time
_EARLY_SECONDS = 60.0
_EARLY_SHARE = 0.1
# whoever asks for a token holds the others up for one request
_TURN_SECONDS = 4.0


@dataclass(frozen=True, slots=True)
class Token:
    """What a request needs; it is in no text that anybody sees."""

    value: str = field(repr=False)
    seconds: float  # for which it holds


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenForm:
    """How a provider gives tokens: `PUT path` with the time that it shall hold for."""

    path: str
    seconds_header: str
    seconds: int
    token_header: str
    read: Callable[[Reply], Token]  # of a reply with status 200; raises AnswerError
    # of a reply with any status, where it means that there are no tokens; raises NotHereError
    refuse: Callable[[Reply], None]


@dataclass(frozen=True, slots=True)
class _Held:
    token: Token
    renew_at_seconds: float  # CLOCK_BOOTTIME: it goes on ageing while the machine sleeps
    ends_at_seconds: float


class Tokens:
    """The link with a token in every request. Any number of threads may ask at the same time."""

    def __init__(self, link: Link, form: TokenForm, clock: Clock) -> None:
        self._link = link
        self._form = form
        self._clock = clock
        self._lock = threading.Lock()
        self._held: _Held | None = None

    def get(self, path: str) -> Reply:
        """The answer, whatever its status. A token that is refused is renewed once.

        Raises NoAnswerError and AnswerError, also for what was answered instead of a token, and
        what the form's `refuse` raises.
        """
        held = self._current(None)
        reply = self._asked(path, held)
        if reply.status == HTTPStatus.UNAUTHORIZED:
            reply = self._asked(path, self._current(held))
        return reply

    def _asked(self, path: str, held: _Held) -> Reply:
        return self._link.request("GET", path, headers={self._form.token_header: held.token.value})

    def _current(self, refused: _Held | None) -> _Held:
        if not self._lock.acquire(timeout=_TURN_SECONDS):
            raise NoAnswerError("others wait for a token already, and have got none")
        try:
            held = self._held
            if held is refused:  # by then another look may have got a new one
                held = None
            now = self._clock.boottime()
            if held is None or now >= held.renew_at_seconds:
                held = self._renewed(held, now)
                self._held = held
            return held
        finally:
            self._lock.release()

    def _renewed(self, held: _Held | None, now: float) -> _Held:
        try:
            token = self._fetched()
        except NoAnswerError:
            if held is None or now >= held.ends_at_seconds:
                raise
            return held  # that is what it is renewed early for
        early = min(_EARLY_SECONDS, token.seconds * _EARLY_SHARE)
        return _Held(token, now + token.seconds - early, now + token.seconds)

    def _fetched(self) -> Token:
        form = self._form
        wanted = {form.seconds_header: str(form.seconds)}
        reply = self._link.request("PUT", form.path, headers=wanted)
        form.refuse(reply)
        return form.read(expected(reply, HTTPStatus.OK))
