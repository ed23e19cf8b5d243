# SPDX-License-Identifier: LGPL-2.1-or-later
"""Asking logind whether it would hibernate, and who is against (org.freedesktop.login1(5))."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from hibprep.bus.client import BusError, Client
from hibprep.bus.sessions import MANAGER, NAME, PATH, InhibitorFacts, Login1
from hibprep.errors import NotPossibleError

_WHOLE_SECONDS = 5.0  # `check` is waited for
SLEEPS = ("Hibernate", "SuspendThenHibernate", "HybridSleep")


@dataclass(frozen=True, slots=True)
class Permission:
    """What logind answered."""

    answers: dict[str, str] = field(default_factory=dict)  # of SLEEPS: yes, no, na, challenge …
    inhibitors: tuple[InhibitorFacts, ...] = ()
    unasked: str = ""  # why it could not be asked


def ask(address: str | None = None, seconds: float = _WHOLE_SECONDS) -> Permission:
    """Ask, within so many seconds in all; never raises."""
    try:
        return asyncio.run(_bounded(address, seconds))
    except NotPossibleError as error:
        return Permission(unasked=error.message)


async def _bounded(address: str | None, seconds: float) -> Permission:
    try:
        async with asyncio.timeout(seconds):
            return await _ask(address)
    except TimeoutError:
        raise BusError(f"logind did not answer within {seconds:g} s") from None


async def _ask(address: str | None) -> Permission:
    async with Client(address) as client:
        answers = {}
        for name in SLEEPS:
            try:
                (answer, *_) = await client.call((NAME, PATH, MANAGER), f"Can{name}") or [""]
            except BusError as error:
                if name == SLEEPS[0]:
                    raise
                answers[name] = error.message  # elogind and mocks do not know all of them
            else:
                answers[name] = str(answer)
        try:
            inhibitors = await Login1(client).inhibitors()
        except BusError:
            inhibitors = ()
        return Permission(answers, inhibitors)
