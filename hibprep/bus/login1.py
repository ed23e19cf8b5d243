# SPDX-License-Identifier: LGPL-2.1-or-later
"""logind (org.freedesktop.login1(5)): asking it to hibernate, and seeing it through."""

from __future__ import annotations

import asyncio
from typing import Any

from hibprep.bus.client import BusError, Client
from hibprep.errors import NotPossibleError

MANAGER = ("org.freedesktop.login1", "/org/freedesktop/login1", "org.freedesktop.login1.Manager")
_BEGIN_SECONDS = 60.0  # delay inhibitors are given InhibitDelayMaxSec, five seconds by default
# CLOCK_MONOTONIC stands still while the machine is off, so this bounds the work on both sides.
_WHOLE_SECONDS = 1800.0

_CAN_HIBERNATE = {
    "na": "hibernation is not possible here, says logind",
    "no": "this user may not hibernate the machine, says logind",
    "challenge": "logind wants to ask for a password",
    "inhibited": "an inhibitor keeps the machine from sleeping",
}


def hibernate(address: str | None = None) -> None:
    """Ask logind to hibernate; returns after the resume, or after an attempt that failed.

    Raises NotPossibleError when logind refuses, BusError when it cannot be reached. Whether the
    machine really slept is for the caller to find out: logind does not say.
    """
    asyncio.run(_hibernate(address))


async def _hibernate(address: str | None) -> None:
    async with Client(address) as client:
        answer = (await client.call(MANAGER, "CanHibernate"))[0]
        if answer != "yes":
            words = _CAN_HIBERNATE.get(str(answer), f"logind answers {answer!r} to CanHibernate")
            raise NotPossibleError(words, "see what hibprep check says")
        phases: asyncio.Queue[bool] = asyncio.Queue()

        def phase(body: list[Any]) -> None:
            phases.put_nowait(bool(body[0]))

        gone = asyncio.Event()

        def owner(body: list[Any]) -> None:
            if body[0] == MANAGER[0] and not body[2]:
                gone.set()

        await client.listen(MANAGER[2], "PrepareForSleep", phase)
        await client.listen("org.freedesktop.DBus", "NameOwnerChanged", owner)
        try:
            await client.call(MANAGER, "Hibernate", "b", (False,))
        except BusError as error:
            raise NotPossibleError(error.message, "see what hibprep check says") from error
        # Whoever would tell of the sleep may be gone before it ends.
        watched = (asyncio.create_task(client.lost()), asyncio.create_task(gone.wait()))
        slept = asyncio.create_task(_sleep(phases))
        try:
            await asyncio.wait((slept, *watched), return_when=asyncio.FIRST_COMPLETED)
            if not slept.done():
                who = "logind" if gone.is_set() else "the system bus"
                raise BusError(
                    f"{who} went away while the sleep was waited for",
                    "see journalctl -u systemd-hibernate -u systemd-logind -u dbus",
                )
            slept.result()
        finally:
            for task in (slept, *watched):
                task.cancel()


async def _sleep(phases: asyncio.Queue[bool]) -> None:
    await _wait_for(phases, wanted=True, seconds=_BEGIN_SECONDS)
    await _wait_for(phases, wanted=False, seconds=_WHOLE_SECONDS)


async def _wait_for(phases: asyncio.Queue[bool], *, wanted: bool, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            while await phases.get() is not wanted:
                pass
    except TimeoutError:
        what = "begin" if wanted else "end"
        raise BusError(
            f"the sleep did not {what} within {seconds:.0f} s",
            "see journalctl -u systemd-hibernate -u systemd-logind",
        ) from None
