# SPDX-License-Identifier: LGPL-2.1-or-later
"""What is done for one notice: what has to be known of it from its coming to its end."""

from __future__ import annotations

import asyncio
import math
from dataclasses import dataclass, field
from enum import StrEnum

from hibprep.clock import Clock
from hibprep.events import NoticeGiven
from hibprep.noticecommand import plain
from hibprep.noticerules import Rule
from hibprep.notices import Notice
from hibprep.status import NoticeStatus

_LONGEST_ID = 40
_LONGEST_TEXT = 200


class Progress(StrEnum):
    """How far it is."""

    AT_WORK = "at work"
    DONE = "done"
    WITHDRAWN = "withdrawn"
    OVER = "over"  # not announced any more, its time having come


@dataclass(eq=False)
class Errand:
    """One notice, what is to be done for it and what has been.

    Its deadline is on CLOCK_BOOTTIME, which goes on through a hibernation as the world does.
    """

    notice: Notice
    rules: tuple[Rule, ...]
    deadline_seconds: float | None
    progress: Progress = Progress.AT_WORK
    doing: str = ""  # "" while it waits for its turn
    done: list[str] = field(default_factory=list)  # one line for each action that has ended
    nudge: asyncio.Event = field(default_factory=asyncio.Event)  # what it reckons with has changed
    task: asyncio.Task[None] | None = None
    ending: asyncio.Task[None] | None = None  # a run of ours that was still ending at its time
    early: bool = False  # nothing is done yet: its time is far
    aside: bool = False  # we are out of the way for it
    over: bool = False  # it is not announced any more, its time having come

    @property
    def who(self) -> str:
        """For those who are asked for something, and for the journal."""
        known = plain(self.notice.id, _LONGEST_ID)
        return f"notice {self.notice.kind} of {self.notice.source} ({known})"

    def left_seconds(self, clock: Clock) -> float | None:
        """The time that is left; 0 or less: it has passed, or has begun; None: no time is told."""
        if self.notice.begun:
            return 0.0
        if self.deadline_seconds is None:
            return None
        return self.deadline_seconds - clock.boottime()

    @property
    def urgency(self) -> float:
        """Of two, the smaller one comes first."""
        if self.notice.begun:
            return -math.inf
        return math.inf if self.deadline_seconds is None else self.deadline_seconds

    def announced(self, clock: Clock) -> str:
        """In words, for the journal."""
        left = self.left_seconds(clock)
        when = "no time is told"
        if self.notice.begun:
            when = "it has begun"
        elif left is not None:
            when = f"in {left:.0f} s" if left > 0 else f"its time has passed {-left:.0f} s ago"
        text = plain(self.notice.text, _LONGEST_TEXT)
        return f"{self.who}: {when}{': ' + text if text else ''}"

    def status(self, clock: Clock) -> NoticeStatus:
        """What is shown of it."""
        left = self.left_seconds(clock)
        at = self.notice.at
        todo = self.rules[len(self.done) :] if self.progress is Progress.AT_WORK else ()
        return NoticeStatus(
            kind=self.notice.kind.value,
            source=self.notice.source.value,
            id=plain(self.notice.id, _LONGEST_TEXT),
            text=plain(self.notice.text, _LONGEST_TEXT),
            deadline="" if at is None else at.isoformat(timespec="seconds"),
            seconds_left=None if left is None else round(max(0.0, left), 1),
            progress=self._shown().value,
            doing=self.doing,
            done=tuple(self.done),
            todo=tuple(str(rule.deed) for rule in todo[1 if self.doing else 0 :]),
        )

    def _shown(self) -> Progress:
        ended = self.over and self.progress is Progress.DONE
        return Progress.OVER if ended else self.progress


def deadline_of(given: NoticeGiven, clock: Clock) -> float | None:
    """The deadline on CLOCK_BOOTTIME; where no time is told, what the provider promises at least,
    from now on."""
    if given.deadline_at_seconds is not None:
        return clock.boottime() + given.deadline_at_seconds - clock.monotonic()
    if given.notice.lead_seconds is not None:
        return clock.boottime() + given.notice.lead_seconds
    return None
