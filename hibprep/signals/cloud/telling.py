# SPDX-License-Identifier: LGPL-2.1-or-later
"""From what the places say to signals: only what the book of notices has as new, changed or gone is
told, and the book is written afterwards. Made-up notices go the same way."""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import Callable, Sequence
from datetime import datetime

from hibprep.clock import Clock
from hibprep.events import NoticeGiven, NoticeWithdrawn
from hibprep.noticebook import Changes, NoticeBook
from hibprep.notices import Key, Notice, key_of
from hibprep.signals.base import Emit
from hibprep.signals.cloud.base import Look, NoAnswerError
from hibprep.signals.cloud.skew import Reading, deadline_at_seconds, reading
from hibprep.threads import in_thread

log = logging.getLogger(__name__)

HOLD_SECONDS = 60.0  # a simulated notice without a time
_KEEP_SECONDS = 2.0
_SIMULATED = "simulated"


class Telling:
    """All on the event loop, but for the book's file. Whoever it is told to is known from `begin`
    on."""

    def __init__(self, clock: Clock, book: NoticeBook) -> None:
        self._clock = clock
        self._book = book
        self._emit: Emit | None = None
        self._deadlines: dict[Key, float | None] = {}
        self._simulated: dict[Key, tuple[Notice, asyncio.TimerHandle]] = {}
        self._unsaved = False
        self._saving: asyncio.Task[None] | None = None
        self._noted = ""
        note = book.load()
        if note:
            log.warning("what was told of notices before is lost: %s", note)

    def begin(self, emit: Emit) -> None:
        """From now on all is told to `emit`."""
        self._emit = emit

    async def end(self) -> None:
        """Forget what is simulated, and see the book written, for which seconds may be needed."""
        for key in tuple(self._simulated):
            self._forget_simulated(key)
        if self._saving is not None:
            await asyncio.wait((self._saving,), timeout=_KEEP_SECONDS)
            self._saving.cancel()
            await asyncio.wait((self._saving,))

    def holding(self) -> tuple[NoticeGiven, ...]:
        """All that holds now, the most urgent first; also what was told of before a restart."""
        return tuple(
            NoticeGiven(notice, self._deadlines.get(key_of(notice)))
            for notice in self._book.holding()
        )

    # --- what is said -------------------------------------------------------------------------

    def looked(self, place: str, look: Look, wall: datetime, at_seconds: float) -> None:
        """What `place` has answered at that moment of CLOCK_MONOTONIC; `wall` is now."""
        read = reading(look.now, wall, at_seconds)
        for notice in look.notices:
            # also of those that are not told of again: after a restart, and after a sleep, which
            # CLOCK_MONOTONIC does not count
            self._deadlines[key_of(notice)] = self._deadline(notice, read)
        changes = self._book.told(place, look.notices, read.now)
        self._tell(changes, functools.partial(self._deadline, read=read))

    def only(self, places: Sequence[str]) -> None:
        """Nothing else is looked at any more than these, and what is simulated."""
        simulated = (_SIMULATED,) if self._simulated else ()
        changes = self._book.only((*places, *simulated), self._clock.now())
        self._tell(changes, lambda notice: self._deadlines.get(key_of(notice)))

    def _deadline(self, notice: Notice, read: Reading) -> float | None:
        """Where only the time that the provider promises is known, it is counted from the first
        time on; so is what has begun."""
        new, known = deadline_at_seconds(notice, read), self._deadlines.get(key_of(notice))
        if new is None or known is None or (notice.at is not None and not notice.begun):
            return new
        return min(new, known)

    def _tell(self, changes: Changes, deadline: Callable[[Notice], float | None]) -> None:
        if not changes or self._emit is None:
            return
        # what is new comes first: whoever ends something for what is withdrawn knows what holds
        for notice in (*changes.given, *changes.changed):
            at_seconds = self._deadlines[key_of(notice)] = deadline(notice)
            self._emit(NoticeGiven(notice, at_seconds))
        for gone, over in ((changes.withdrawn, False), (changes.over, True)):
            for notice in gone:
                self._deadlines.pop(key_of(notice), None)
                self._emit(NoticeWithdrawn(notice, over=over))
        self._save()

    # --- what is made up ----------------------------------------------------------------------

    def simulate(self, notice: Notice, seconds: float | None) -> None:
        """See `Cloud.simulate`."""
        if self._emit is None:
            raise NoAnswerError("the daemon does not listen for notices yet", "try again")
        key, now = key_of(notice), self._clock.monotonic()
        self._forget_simulated(key)
        hold = next(s for s in (seconds, notice.lead_seconds, HOLD_SECONDS) if s is not None)
        timer = asyncio.get_running_loop().call_later(hold, self._end_simulated, key)
        self._simulated[key] = notice, timer
        self._told_simulated(now + seconds if seconds is not None else None)

    def _told_simulated(self, at_seconds: float | None) -> None:
        now = Reading(self._clock.now(), self._clock.monotonic())
        notices = [notice for notice, _ in self._simulated.values()]

        def deadline(notice: Notice) -> float | None:
            return at_seconds if at_seconds is not None else deadline_at_seconds(notice, now)

        self._tell(self._book.told(_SIMULATED, notices, now.now), deadline)

    def _forget_simulated(self, key: Key) -> None:
        known = self._simulated.pop(key, None)
        if known is not None:
            known[1].cancel()

    def _end_simulated(self, key: Key) -> None:
        self._forget_simulated(key)
        self._told_simulated(None)

    # --- what is done ---------------------------------------------------------------------------

    def behind(self, key: Key) -> tuple[str, ...]:
        """See `NoticeBook.behind`."""
        return self._book.behind(key)

    def at_work(self, key: Key, behind: tuple[str, ...]) -> None:
        """See `NoticeBook.at_work`."""
        self._book.at_work(key, behind)
        self._save()

    def ended(self, key: Key) -> None:
        """See `NoticeBook.ended`."""
        self._book.ended(key)
        self._save()

    # --- what is kept -------------------------------------------------------------------------

    def _save(self) -> None:
        """After it was told: a disk with much to write must not hold a notice up, and what is lost
        in between is told of again, which is better than never."""
        self._unsaved = True
        if self._saving is None or self._saving.done():
            self._saving = asyncio.create_task(self._write(), name="the book of notices")

    async def _write(self) -> None:
        while self._unsaved:
            self._unsaved = False
            write = functools.partial(self._book.write, self._book.text())
            note = await in_thread(write, "the book of notices")
            if note and note != self._noted:
                log.warning("notices will be told of again after a restart: %s", note)
            self._noted = note
