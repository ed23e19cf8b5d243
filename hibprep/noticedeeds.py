# SPDX-License-Identifier: LGPL-2.1-or-later
"""Carrying out the actions on a notice, one at a time, each within its share of the time.

Memory is taken and brought back by the daemon itself, which is asked as everybody asks it, so that
its state is true. None of what is done here may keep the next action from beginning at its time.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Protocol

from hibprep import noticecommand, streams, webhook
from hibprep.clock import Clock
from hibprep.deadline import Verdict
from hibprep.errors import HibprepError
from hibprep.events import Request, RunEnded, Signal, Wish
from hibprep.model import Limits, Target
from hibprep.noticeerrand import Errand
from hibprep.noticerules import (
    LEAST_SECONDS,
    Deed,
    Rule,
    hibernates,
    needed_seconds,
    share,
    until_asleep,
)
from hibprep.notices import Notice, NoticeKind, ProviderName
from hibprep.threads import in_thread

log = logging.getLogger(__name__)

_SETTLE_SECONDS = 5.0  # to look at the machine and reckon, which takes a tenth of one
_RUN_ENDS_SECONDS = 0.25  # before its share is over, so that the report says how it ended
_QUIET_SECONDS = 10.0  # what was told to stop may have a batch in the kernel
UNTOLD_SECONDS = 60.0  # of preparation before a hibernation for which no time is told

Act = Callable[[Errand, tuple[Rule, ...], float | None], Awaitable[str | None]]


class Hands(Protocol):
    """What the daemon does for a notice. All is called on the event loop."""

    def emit(self, signal: Signal) -> None:
        """Ask the daemon for something."""

    async def run_ended(self) -> RunEnded:
        """See `hibprep.status.Host.run_ended`."""

    @property
    def run(self) -> asyncio.Task[None] | None:
        """What ends with the run that is under way."""

    def provider(self) -> ProviderName | None:
        """Whose machine this is; None: not known (yet)."""

    async def settle(self, seconds: float, keep_seconds: float, *, hibernates: bool) -> Verdict:
        """See `hibprep.deadline.settle`. Raises HibprepError and OSError."""

    async def swap_in(self, who: str) -> None:
        """Bring memory back; returns when that has ended. Whoever is cancelled stops it."""

    async def hibernate(self) -> str:
        """Hibernate without more preparation; what became of it, in words, after the resume.
        Raises HibprepError and OSError. Whoever is cancelled stops it where it can be."""

    async def step_aside(self, who: str, seconds: float) -> str:
        """Stop all of ours, have dirty pages written within `seconds`, hold no sleep back; in
        words."""

    def step_back(self, who: str) -> None:
        """Be as before `step_aside`."""

    async def acknowledge(self, notice: Notice) -> None:
        """Tell the provider. Raises HibprepError."""


class Deeds:
    """What can be done for a notice."""

    def __init__(self, hands: Hands, clock: Clock) -> None:
        self._hands = hands
        self._clock = clock
        self._known: dict[Deed, Act] = {
            Deed.PREPARE: self._prepare,
            Deed.SWAPIN: self._swap_in,
            Deed.RUN: self._run,
            Deed.HIBERNATE: self._hibernate,
            Deed.ASIDE: self._aside,
            Deed.ACKNOWLEDGE: self._acknowledge,
            Deed.WEBHOOK: self._webhook,
        }

    async def do(self, errand: Errand, rules: tuple[Rule, ...]) -> str | None:
        """Do the first of `rules`, which are those that are left. What became of it, in words;
        None when it was broken off since `errand.nudge` was set: it is to be done anew. What goes
        wrong is words too: the next action does not depend on it."""
        rule = rules[0]
        part = share(rules, errand.left_seconds(self._clock))
        if part.skip:
            log.warning("%s: no %s: %s", errand.who, rule.deed, part.skip)
            return part.skip
        log.info("%s: %s (%s)", errand.who, rule.deed, rule.reason)
        try:
            return await self._known[rule.deed](errand, rules, part.seconds)
        except TimeoutError:
            words = f"it did not end within {part.seconds:.3g} s"
        except (HibprepError, OSError) as error:
            words = str(error)
        except Exception as error:
            # a defect of ours must not keep the others from being done
            log.exception("%s: %s failed", errand.who, rule.deed)
            words = type(error).__name__
        log.warning("%s: %s: %s", errand.who, rule.deed, words)
        return words

    # --- memory -------------------------------------------------------------------------------

    async def _prepare(
        self, errand: Errand, rules: tuple[Rule, ...], seconds: float | None
    ) -> str | None:
        begin = self._clock.boottime()
        rule, following = rules[0], rules[1:]
        target, limits = None, Limits()
        left = errand.left_seconds(self._clock)
        if left is not None and seconds is not None:
            ours = hibernates(following)
            sleeps = ours or errand.notice.kind is NoticeKind.HIBERNATE
            verdict = await self._settled(errand, following, left, hibernates=sleeps)
            if verdict is not None:
                if verdict.target is None:
                    return verdict.words
                target, limits, share = verdict.target, verdict.limits, seconds
                seconds = verdict.prepare_seconds
                if not (ours and verdict.fits and rule.keep_seconds is None):
                    seconds = min(seconds, share)
                if rule.timeout_seconds is not None:
                    seconds = min(seconds, rule.timeout_seconds)
        until = None if seconds is None else begin + seconds
        return await self._reclaim(errand, target, until, limits)

    async def _settled(
        self, errand: Errand, following: tuple[Rule, ...], left: float, *, hibernates: bool
    ) -> Verdict | None:
        """What can be done in the time that is left; None where that cannot be told. Where a
        hibernation will not fit, what comes after it is to run in time in its place."""
        keep, whole = needed_seconds(until_asleep(following)), needed_seconds(following)
        verdict = await self._settle(errand, keep, left, hibernates=hibernates)
        if verdict is not None and not verdict.fits and whole > keep:
            verdict = await self._settle(errand, whole, left, hibernates=hibernates)
        return verdict

    async def _settle(
        self, errand: Errand, keep: float, left: float, *, hibernates: bool
    ) -> Verdict | None:
        try:
            async with asyncio.timeout(min(_SETTLE_SECONDS, left)):
                verdict = await self._hands.settle(left, keep, hibernates=hibernates)
        except (HibprepError, OSError) as error:  # TimeoutError is an OSError
            words = str(error) or "the machine could not be looked at in time"
            log.warning("%s: what fits is not known: %s", errand.who, words)
            return None
        level = logging.INFO if verdict.fits else logging.WARNING
        log.log(level, "%s: %s", errand.who, verdict.words)
        return verdict

    async def _reclaim(
        self, errand: Errand, target: Target | None, until: float | None, limits: Limits
    ) -> str | None:
        """A run of the daemon's until then; one that does not end by its time is left to end."""
        seconds = None if until is None else until - self._clock.boottime()
        if seconds is not None and seconds < LEAST_SECONDS:
            return "no time is left for it"
        who = errand.who
        async with (
            streams.task(self._hands.run_ended()) as ended,
            streams.task(errand.nudge.wait()) as nudged,
        ):
            self._hands.emit(
                Request(
                    wish=Wish.PREPARE,
                    who=who,
                    target=target,
                    stages=limits.stages,
                    cold_wait_seconds=limits.cold_wait_seconds,
                    timeout_seconds=None if seconds is None else seconds - _RUN_ENDS_SECONDS,
                )
            )
            try:
                await asyncio.wait(
                    (ended, nudged), timeout=seconds, return_when=asyncio.FIRST_COMPLETED
                )
            finally:
                if not ended.done():
                    errand.ending = self._hands.run
                    self._hands.emit(Request(wish=Wish.TAKE_BACK, who=who))
            if ended.done():
                run = ended.result()
                words = f"{run.ending}: {run.reason}"
                log.info("%s: prepared, %s; freed %d MiB", who, words, run.freed_bytes >> 20)
                return words
            return None if nudged.done() else "its time was over before it had ended"

    async def _hibernate(
        self, errand: Errand, rules: tuple[Rule, ...], seconds: float | None
    ) -> str | None:
        prepared = await self._prepared(errand, rules, seconds)
        if prepared is None:
            return None
        left = errand.left_seconds(self._clock)
        verdict = None
        if left is not None and left > 0:
            verdict = await self._settle(errand, 0.0, left, hibernates=True)
            left = errand.left_seconds(self._clock)
        if left is not None and verdict is not None and verdict.hibernate_seconds_now > left:
            # switched off in the middle of it, the machine would have neither an image nor
            # services that have ended in order
            raise HibprepError(
                f"hibernation needs {verdict.hibernate_seconds_now:.0f} s and "
                f"{max(0.0, left):.0f} s are left: it is not begun"
            )
        # nothing of ours may begin meanwhile
        self._hands.emit(Request(wish=Wish.STOP, who=errand.who))
        try:
            await self._quiet(self._hands.run, _QUIET_SECONDS)
            return await self._hands.hibernate()
        finally:
            self._hands.emit(Request(wish=Wish.TAKE_BACK, who=errand.who))

    async def _prepared(
        self, errand: Errand, rules: tuple[Rule, ...], seconds: float | None
    ) -> str | None:
        """Prepare for the hibernation that is ours, as far as the time goes."""
        begin = self._clock.boottime()
        rule, left = rules[0], errand.left_seconds(self._clock)
        if left is None or seconds is None:
            limit = UNTOLD_SECONDS if rule.timeout_seconds is None else rule.timeout_seconds
            return await self._reclaim(errand, None, begin + limit, Limits())
        verdict = await self._settled(errand, rules, left, hibernates=True)
        if verdict is None or verdict.target is None or verdict.prepare_seconds < LEAST_SECONDS:
            return ""
        limit = min(seconds, verdict.prepare_seconds)
        if rule.timeout_seconds is not None:
            limit = min(limit, rule.timeout_seconds)
        return await self._reclaim(errand, verdict.target, begin + limit, verdict.limits)

    async def _swap_in(
        self, errand: Errand, _rules: tuple[Rule, ...], seconds: float | None
    ) -> str:
        async with asyncio.timeout(seconds):
            await self._hands.swap_in(errand.who)
        return "done"

    async def _aside(self, errand: Errand, _rules: tuple[Rule, ...], seconds: float | None) -> str:
        errand.aside = True
        words = await self._hands.step_aside(errand.who, seconds or 0.0)
        log.info("%s: aside: %s", errand.who, words)
        return words

    # --- telling others -----------------------------------------------------------------------

    async def _run(self, errand: Errand, rules: tuple[Rule, ...], seconds: float | None) -> str:
        variables = noticecommand.environment(errand.notice, errand.left_seconds(self._clock))
        await noticecommand.run(rules[0].command, variables, seconds or 0.0)
        return "done"

    async def _acknowledge(
        self, errand: Errand, _rules: tuple[Rule, ...], seconds: float | None
    ) -> str:
        if not errand.notice.acknowledge:
            return "the provider waits for no word about it"
        async with asyncio.timeout(seconds):
            await self._quiet(errand.ending, seconds or 0.0)
            await self._hands.acknowledge(errand.notice)
        log.info("%s: acknowledged", errand.who)
        return "done"

    async def _webhook(self, errand: Errand, rules: tuple[Rule, ...], seconds: float | None) -> str:
        rule, limit = rules[0], seconds or 0.0
        body = webhook.document(errand.notice, errand.left_seconds(self._clock))
        async with asyncio.timeout(limit):
            await in_thread(
                lambda: webhook.send(rule.url, body, credential=rule.credential, seconds=limit),
                "webhook",
            )
        return "done"

    # --- time ---------------------------------------------------------------------------------

    @staticmethod
    async def _quiet(run: asyncio.Task[None] | None, seconds: float) -> None:
        """Until that run has ended. Raises HibprepError when it does not in time."""
        if run is None or run.done():
            return
        await asyncio.wait((run,), timeout=seconds)
        if not run.done():
            raise HibprepError("what was taking memory has not ended")
