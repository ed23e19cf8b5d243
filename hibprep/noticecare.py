# SPDX-License-Identifier: LGPL-2.1-or-later
"""The daemon's care for notices: each has its actions done in order, the most urgent one first.

Only one notice is worked on at a time. Where a more urgent one comes, memory that is being taken
for the other is left as it is and the new one has the floor; what tells others (commands, webhooks)
is let end first, as it has a time-out. One that is withdrawn has all stopped that was begun for it.
What is to be done is decided in `hibprep.noticerules`, and carried out in `hibprep.noticedeeds`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterable
from typing import Protocol

from hibprep.clock import Clock
from hibprep.events import NoticeGiven, NoticeWithdrawn, Signal
from hibprep.noticedeeds import Deeds, Hands
from hibprep.noticeerrand import Errand, Progress, deadline_of
from hibprep.noticerules import STALE_SECONDS, Deed, Rule, actions
from hibprep.notices import Key, Notice, key_of
from hibprep.status import NoticeStatus

log = logging.getLogger(__name__)

MOST_KEPT = 16  # of those that are over, for `status`
# What is announced days before is heeded from then on: till its time nobody would prepare anything
EARLIEST_SECONDS = 900.0
_ASLEEP_SECONDS = 60.0  # a wait does not see that the machine has slept
# For what was announced for then to happen after all, before we are no longer out of its way.
BACK_SECONDS = 60.0
_ONCE = frozenset({Deed.RUN, Deed.HIBERNATE})  # never begun a second time for the same notice
_UNTOLD_SECONDS = 600.0  # the same, where no time was told


class Work(Protocol):
    """How far the actions on each notice are, kept for the daemon that is started next."""

    def behind(self, key: Key) -> tuple[str, ...]:
        """Those that are not to be begun any more, in their order."""

    def at_work(self, key: Key, behind: tuple[str, ...]) -> None:
        """There is more to be done than these."""

    def ended(self, key: Key) -> None:
        """Nothing more is done."""


class NoticeCare:
    """All methods are called on the event loop."""

    def __init__(
        self,
        hands: Hands,
        rules: Callable[[], tuple[Rule, ...]],
        clock: Clock,
        work: Work,
        *,
        changed: Callable[[], None] = lambda: None,
        back_seconds: float = BACK_SECONDS,
    ) -> None:
        self._hands = hands
        self._rules = rules
        self._clock = clock
        self._work = work
        self._closing = False
        self._changed = changed  # what is shown is other than it was
        self._back_seconds = back_seconds
        self._deeds = Deeds(hands, clock)
        self._errands: dict[Key, Errand] = {}
        self._floor: Errand | None = None
        self.heard = 0  # since the start

    def hear(self, signal: Signal) -> None:
        """What is announced, and what is not any more; nothing is done with other signals."""
        if isinstance(signal, NoticeGiven):
            self._given(signal)
        elif isinstance(signal, NoticeWithdrawn):
            self._withdrawn(signal.notice, over=signal.over)

    def shown(self, holding: Iterable[NoticeGiven] = ()) -> tuple[NoticeStatus, ...]:
        """All that is known of, the most urgent of those at work first; of what is `holding` also
        what was told of before this start, for which nothing is done any more."""
        before = [
            Errand(
                each.notice,
                (),
                deadline_of(each, self._clock),
                progress=Progress.DONE,
                done=["told of before the daemon was started"],
            )
            for each in holding
            if key_of(each.notice) not in self._errands
        ]
        ranked = sorted((*self._errands.values(), *before), key=_rank)
        return tuple(errand.status(self._clock) for errand in ranked)

    def close(self) -> None:
        """Stop what is under way, and begin nothing more: the next daemon does."""
        self._closing = True
        for errand in self._errands.values():
            if errand.task is not None:
                errand.task.cancel()

    # --- hearing ------------------------------------------------------------------------------

    def _given(self, given: NoticeGiven) -> None:
        key = key_of(given.notice)
        known = self._errands.pop(key, None)
        deadline = deadline_of(given, self._clock)
        if known is not None and _is_same(known, given.notice):
            self._errands[key] = known
            known.notice, known.deadline_seconds, known.over = given.notice, deadline, False
            log.warning("%s, now", known.announced(self._clock))
            known.nudge.set()
            self._give_floor()
            return
        if known is not None and known.task is not None:
            known.task.cancel()
        self.heard += 1
        rules = actions(given.notice, self._rules(), self._hands.provider())
        errand = Errand(given.notice, rules, deadline, done=self._behind(key, rules))
        self._errands[key] = errand
        log.warning("%s", errand.announced(self._clock))
        left = errand.left_seconds(self._clock)
        if left is not None and left < -STALE_SECONDS:
            log.info("%s: nothing is done, since that was long ago", errand.who)
            errand.progress = Progress.DONE
        elif not rules:
            log.info("%s: no [[on]] is for it", errand.who)
            errand.progress = Progress.DONE
        elif len(errand.done) == len(rules):
            log.info("%s: the last of its actions was under way when the daemon ended", errand.who)
            errand.progress = Progress.DONE
        else:
            self._work.at_work(key, self._work.behind(key) if errand.done else ())
            errand.task = asyncio.create_task(self._see_to(errand), name=errand.who)
        if errand.task is None:
            self._work.ended(key)
        self._forget()
        self._give_floor()

    def _behind(self, key: Key, rules: tuple[Rule, ...]) -> list[str]:
        """What a daemon before this one has done for it, if its actions are the same ones."""
        behind = self._work.behind(key)
        if tuple(str(rule.deed) for rule in rules[: len(behind)]) != behind:
            return []
        return [f"{deed}: begun before the daemon was started anew" for deed in behind]

    def _withdrawn(self, notice: Notice, *, over: bool) -> None:
        errand = self._errands.get(key_of(notice))
        if errand is None:
            return
        log.info("%s: %s", errand.who, "it is over" if over else "it is withdrawn")
        errand.over = over
        if over and errand.progress is Progress.AT_WORK:
            return  # its actions have ends of their own
        if not over:
            errand.progress = Progress.WITHDRAWN
        if errand.task is not None:
            errand.task.cancel()
        self._give_floor()

    def _forget(self) -> None:
        """The oldest of those that nothing is done for any more."""
        ended = [key for key, errand in self._errands.items() if errand.task is None]
        for key in ended[: max(0, len(ended) - MOST_KEPT)]:
            del self._errands[key]

    # --- doing --------------------------------------------------------------------------------

    async def _see_to(self, errand: Errand) -> None:
        try:
            await self._not_too_early(errand)
            await self._do_all(errand)
            if errand.aside:
                await self._over(errand)
        finally:
            if not self._closing and self._errands.get(key_of(errand.notice)) is errand:
                self._work.ended(key_of(errand.notice))
            errand.task = None
            errand.doing = ""
            if errand.aside:
                self._hands.step_back(errand.who)
            self._give_floor()

    async def _do_all(self, errand: Errand) -> None:
        while rules := errand.rules[len(errand.done) :]:
            await self._turn(errand)
            errand.nudge.clear()
            once = 1 if rules[0].deed in _ONCE else 0
            behind = errand.rules[: len(errand.done) + once]
            self._work.at_work(key_of(errand.notice), tuple(str(each.deed) for each in behind))
            errand.doing = str(rules[0].deed)
            self._changed()
            words = await self._deeds.do(errand, rules)
            errand.doing = ""
            if words is not None:  # else it is done anew, with what has changed
                errand.done.append(f"{rules[0].deed}: {words}")
        errand.progress = Progress.DONE
        self._give_floor()

    async def _not_too_early(self, errand: Errand) -> None:
        while (left := errand.left_seconds(self._clock) or 0.0) > EARLIEST_SECONDS:
            errand.early = True
            errand.nudge.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(min(left - EARLIEST_SECONDS, _ASLEEP_SECONDS)):
                    await errand.nudge.wait()
        errand.early = False
        self._give_floor()

    async def _turn(self, errand: Errand) -> None:
        """Until there is none that is more urgent."""
        while self._floor is not errand:
            await errand.nudge.wait()
            errand.nudge.clear()

    async def _over(self, errand: Errand) -> None:
        """Until what was announced has not happened for so long that it will not."""
        left = errand.left_seconds(self._clock)
        wait = _UNTOLD_SECONDS if left is None else max(0.0, left) + self._back_seconds
        await asyncio.sleep(wait)

    def _give_floor(self) -> None:
        """To the most urgent of those that are at work; both it and who had it are told."""
        self._changed()
        at_work = [
            each
            for each in self._errands.values()
            if each.progress is Progress.AT_WORK and not each.early
        ]
        floor = min(at_work, key=lambda each: each.urgency, default=None)
        if floor is not self._floor:
            for each in (self._floor, floor):
                if each is not None:
                    each.nudge.set()
            self._floor = floor


def _is_same(known: Errand, notice: Notice) -> bool:
    """Whether what is announced is what is being seen to already, at another time."""
    return known.progress is not Progress.WITHDRAWN and known.notice.kind is notice.kind


def _rank(errand: Errand) -> tuple[bool, float]:
    return errand.progress is not Progress.AT_WORK, errand.urgency
