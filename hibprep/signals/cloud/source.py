# SPDX-License-Identifier: LGPL-2.1-or-later
"""Clouds as a source of signals: what is announced for this machine, looked at again and again.

Each place that the provider names is looked at on its own, so that one that fails stops no other.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import NoReturn

from hibprep.clock import Clock
from hibprep.errors import HibprepError
from hibprep.events import NoticeGiven, SourceChanged, SourceName
from hibprep.noticebook import NoticeBook
from hibprep.notices import Notice, ProviderName
from hibprep.signals.base import Emit
from hibprep.signals.cloud.base import NotHereError, Provider, Watch
from hibprep.signals.cloud.calls import LONGEST_PAUSE_SECONDS, OneCall, pause_seconds
from hibprep.signals.cloud.telling import Telling

log = logging.getLogger(__name__)

# A command may take five minutes, and a look that waits for news one; links have shorter time-outs.
LOOK_SECONDS = 330.0
FIND_SECONDS = 60.0
ACKNOWLEDGE_SECONDS = 15.0
MOST_TRIES = 8  # to find somebody whom nothing but the network tells of: two to three minutes
_SHOWN_FAILURES = 3  # fewer on end are no news
_FINDING = "finding the provider"

Sleep = Callable[[float], Awaitable[None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchState:
    """For people: one place, and what it said last."""

    name: str
    words: str = "not looked at yet"
    at: datetime | None = None  # when that was, UTC, by this machine's clock
    failures: int = 0  # on end


class Cloud:
    """The source. `provider` blocks, and finds out who it is; what it said is kept for good."""

    name = SourceName.CLOUD

    def __init__(
        self,
        clock: Clock,
        book: NoticeBook,
        provider: Callable[[], Provider],
        *,
        poll_seconds: float = 0.0,  # no shorter pause than that between two looks
        chance: random.Random | None = None,
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        self._clock = clock
        self._telling = Telling(clock, book)
        self._find = provider
        self._poll_seconds = poll_seconds
        self._chance = chance or random.Random()  # noqa: S311 - pauses, and no secrets
        self._sleep = sleep
        self._provider: Provider | None = None
        self._nobody: NotHereError | None = None
        self._states: dict[str, WatchState] = {}
        self._failing: frozenset[str] | None = None  # as it was told last

    # --- for the others -----------------------------------------------------------------------

    @property
    def provider(self) -> ProviderName | None:
        """Who gives notices here; None as long as that is not known, or nobody does."""
        return self._provider.name if self._provider is not None else None

    def states(self) -> tuple[WatchState, ...]:
        """All places, and what they said last."""
        return tuple(self._states.values())

    def notices(self) -> tuple[NoticeGiven, ...]:
        """All that holds now, the most urgent first; also what was told of before a restart."""
        return self._telling.holding()

    @property
    def work(self) -> Telling:
        """How far the actions on each are; what is told of it is kept."""
        return self._telling

    def simulate(self, notice: Notice, seconds: float | None) -> None:
        """Tell of a made-up notice as of any other, with so much time left, and withdraw it when
        that has passed (after HOLD_SECONDS of `telling` where no time is told). On the event loop.
        Raises NoAnswerError before the source has begun to run."""
        self._telling.simulate(notice, seconds)

    async def acknowledge(self, notice: Notice) -> None:
        """Tell the provider that we are ready for it; see `Provider.acknowledge`. Raises
        NotHereError also for what is no notice of its."""
        provider = self._provider
        if provider is None or notice.source is not provider.name:
            raise NotHereError(
                f"{notice.source} is not who gives notices here",
                "only what the provider has announced can be acknowledged",
            )
        call = OneCall(functools.partial(provider.acknowledge, notice), "acknowledging a notice")
        try:
            await call(ACKNOWLEDGE_SECONDS)
        finally:
            call.end()

    # --- life ---------------------------------------------------------------------------------

    async def run(self, emit: Emit) -> None:
        """See `Source.run`. Raises NotHereError where there are no notices to be had; nobody is
        asked again once it is known that this machine is with none of the providers."""
        self._telling.begin(emit)
        self._failing = None
        try:
            provider, watches = await self._found(emit)
            who = provider.name
            places = {f"{who}: {watch.name}": watch for watch in watches}
            self._states = {place: WatchState(name=watch.name) for place, watch in places.items()}
            self._telling.only(tuple(places))
            self._tell_health(who, emit)
            async with asyncio.TaskGroup() as group:
                for place, watch in places.items():
                    group.create_task(self._follow(who, place, watch, emit), name=place)
        except asyncio.CancelledError:
            await self._telling.end()
            raise

    # --- who it is ----------------------------------------------------------------------------

    async def _found(self, emit: Emit) -> tuple[Provider, Sequence[Watch]]:
        """Who gives notices here, and what is to be looked at; waits for one that is not there
        yet."""
        if self._nobody is not None:
            self._nowhere(self._nobody)
        failures = 0
        finding = OneCall(self._find_out, _FINDING)
        try:
            while True:
                try:
                    return await finding(FIND_SECONDS)
                except NotHereError as error:
                    self._nowhere(error)
                except HibprepError as error:
                    failures += 1
                    self._failed(_FINDING, _FINDING, error, failures)
                    if failures == _SHOWN_FAILURES:
                        emit(SourceChanged(self.name, works=False, reason=str(error)))
                    if self._provider is None and failures >= MOST_TRIES:
                        self._nowhere(NotHereError(error.message, "name it: notices.provider"))
                await self._sleep(pause_seconds(failures, 0.0, self._chance))
        finally:
            finding.end()

    def _find_out(self) -> tuple[Provider, Sequence[Watch]]:
        """In a thread."""
        if self._provider is None:
            self._provider = self._find()
        return self._provider, self._provider.watches()

    def _nowhere(self, error: NotHereError) -> NoReturn:
        """No notices are to be had; a provider that is there may give some later."""
        if self._provider is None:
            self._nobody = error
        self._states = {}
        self._telling.only(())
        raise NotHereError(error.message, error.remedy)

    # --- looking ------------------------------------------------------------------------------

    async def _follow(self, who: ProviderName, place: str, watch: Watch, emit: Emit) -> None:
        """Look at one place until cancelled."""
        call = OneCall(lambda: (watch.look(), self._clock.monotonic()), place)
        own = watch.pause_seconds
        if own > 0:
            own = max(own, self._poll_seconds)
        failures = 0
        try:
            while True:
                try:
                    look, at_seconds = await call(LOOK_SECONDS)
                except HibprepError as error:
                    failures += 1
                    pause = pause_seconds(failures, own, self._chance)
                    if isinstance(error, NotHereError):
                        # switched off: that it is on again is soon enough known a minute later
                        failures = max(failures, _SHOWN_FAILURES)
                        pause = max(own, LONGEST_PAUSE_SECONDS)
                    self._failed(place, watch.name, error, failures)
                else:
                    failures, pause = 0, own
                    wall = self._clock.now()
                    self._states[place] = WatchState(name=watch.name, words=look.words, at=wall)
                    self._telling.looked(place, look, wall, at_seconds)
                self._tell_health(who, emit)
                await self._sleep(pause)
        finally:
            call.end()

    def _failed(self, place: str, name: str, error: HibprepError, failures: int) -> None:
        log.debug("%s: %s", place, error)
        known = self._states.get(place, WatchState(name=name))
        self._states[place] = replace(
            known, words=str(error), at=self._clock.now(), failures=failures
        )

    def _tell_health(self, who: ProviderName, emit: Emit) -> None:
        """Whether all places answer, when that has changed."""
        states = self._states.values()
        failing = frozenset(each.name for each in states if each.failures >= _SHOWN_FAILURES)
        if failing == self._failing:
            return
        self._failing = failing
        words = "; ".join(f"{each.name}: {each.words}" for each in states if each.name in failing)
        if not failing:
            words = "looks at " + ", ".join(each.name for each in states)
        works = len(failing) < len(states)
        emit(SourceChanged(self.name, works=works, reason=f"{who}: {words}"))
