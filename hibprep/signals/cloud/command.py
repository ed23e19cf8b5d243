# SPDX-License-Identifier: LGPL-2.1-or-later
"""Notices from a program of the administrator's: for every cloud, hypervisor or data centre that
hibprep does not know itself.

The program is run again and again, `pause_seconds` after it has ended. It prints what holds now, as
JSON: one object a line, or one array of objects. Nothing at all is fine, and means that nothing is
announced. What it printed before and does not print any more has been withdrawn, or is over once
its time has passed. The fields of an object:

- `kind`: hibernate, stop, terminate, migrate, freeze, reboot or rebalance.
- `id`: by which this notice is known again in the next run; no blanks, at most 128 characters.
- `at`: when, in ISO 8601 with a zone: "2026-11-22T04:10:00Z", "2026-11-22T12:10:00+08:00". By this
  machine's clock.
- `in_seconds`: or when, counted from the start of this run of the program; it has to become less
  from run to run. Where both are left out no time is told.
- `begun`: true when it happens already, and no time is left. Left out: false.
- `text`: a line for people.

Only `kind` and `id` have to be there; any other field is refused, with all that was printed. An
output that is refused, an exit code other than 0 and a program that is too late change nothing:
what was printed before still holds, and the next run comes after a pause that grows to a minute.

It is run without a shell, from "/", with PATH alone in its environment, in a session of its own; it
and all that it has started are killed when it ends or its time is over. What it prints on standard
error goes where hibprep's own words go. At most 64 KiB are read. There is nothing to acknowledge.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime

from hibprep.clock import Clock, SystemClock
from hibprep.notices import Notice, ProviderName
from hibprep.signals.cloud.base import AnswerError, Look, NotHereError, Watch
from hibprep.signals.cloud.commandforms import notices_of
from hibprep.signals.cloud.program import Program

# `in_seconds` comes out a little different each time: whole seconds, and the time to start a
# program. What differs by no more is the time that was told before.
SAME_SECONDS = 2.0


class Command:
    """The provider."""

    def __init__(
        self,
        argv: tuple[str, ...],
        pause_seconds: float,
        timeout_seconds: float,
        clock: Clock | None = None,
    ) -> None:
        """Raises ValueError without a program."""
        if not argv:
            raise ValueError("a command has at least the program")
        self._watch = _Runs(
            argv[0], Program(argv, timeout_seconds=timeout_seconds), pause_seconds, clock
        )

    @property
    def name(self) -> ProviderName:
        """See `Provider.name`."""
        return ProviderName.COMMAND

    def watches(self) -> Sequence[Watch]:
        """See `Provider.watches`: what the program prints."""
        return [self._watch]

    def acknowledge(self, notice: Notice) -> None:
        """See `Provider.acknowledge`."""
        raise NotHereError(
            f"a program's notice takes no acknowledgement: {notice.kind}",
            'have do = "run" tell whoever has to know that this machine is ready',
        )


class _Runs:
    """The program, run after run."""

    def __init__(
        self, name: str, program: Program, pause_seconds: float, clock: Clock | None
    ) -> None:
        self.name = name
        self.pause_seconds = pause_seconds
        self._program = program
        self._clock = clock or SystemClock()
        self._before: tuple[Notice, ...] = ()

    def look(self) -> Look:
        """See `Watch.look`. Its clock is ours, so no other time is told."""
        began = self._clock.now()
        said = self._program.output()
        try:
            text = said.decode("utf-8")
        except UnicodeDecodeError:
            raise AnswerError(f"what {self.name} prints is no text") from None
        try:
            notices = notices_of(text, began)
        except AnswerError as error:
            raise AnswerError(f"what {self.name} prints: {error.message}") from None
        self._before = steady(notices, self._before)
        kinds = ", ".join(notice.kind for notice in self._before)
        return Look(self._before, words=f"exit code 0: {kinds or 'nothing is announced'}")


def steady(notices: tuple[Notice, ...], before: tuple[Notice, ...]) -> tuple[Notice, ...]:
    """The notices, each with the time that it had `before` unless it differs by more than
    SAME_SECONDS. Pure."""
    known = {notice.id: notice.at for notice in before}
    return tuple(_with_time_of(notice, known) for notice in notices)


def _with_time_of(notice: Notice, known: dict[str, datetime | None]) -> Notice:
    at = known.get(notice.id)
    if at is None or notice.at is None:
        return notice
    same = abs((notice.at - at).total_seconds()) <= SAME_SECONDS
    return replace(notice, at=at) if same else notice
