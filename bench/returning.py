# SPDX-License-Identifier: LGPL-2.1-or-later
"""Runs in the guest: leaves a desktop's session, and is back, or asks for a sleep, in the middle of
the reclaim that follows.

The session's idle hint is set over one connection that is held: to start a program for it would
take longer, in an emulated guest, than what is measured. All moments are of CLOCK_MONOTONIC. What
it prints is JSON; how it is asked and what is made of it is in `bench/keypress.py` and
`bench/asleep.py`.
"""

from __future__ import annotations

import argparse
import asyncio
import ctypes
import json
import os
import random
import sys
import time
from typing import Any, NoReturn

from bench.watching import (
    LONGEST_SECONDS,
    LOOK_SECONDS,
    Daemon,
    Filler,
    Stuck,
    ended,
    history_state,
    in_kernel,
    next_report,
    writer_of,
)
from hibprep.bus.client import Client

LOGIND, SESSION = "org.freedesktop.login1", "org.freedesktop.login1.Session"
TOO_LATE = 75  # EX_TEMPFAIL: the run had ended by itself, so ask again
ASKS = "asks"  # what is said on standard error, with the moment, when the sleep is asked for

_AT_WORK_SECONDS = 1.0
_AT_WORK_SHARE = 0.7  # of the stops wait for the writer to be in the kernel: the hardest moment
_EARLIER = 0.8  # runs end by themselves: the next moment is sought so much earlier
_TRIES = 5  # for each stop
_MCL_CURRENT_AND_FUTURE = 3


async def set_hint(client: Client, session: str, *, idle: bool) -> None:
    """What a desktop does when its person leaves or is back; logind has answered on return."""
    await client.call(
        (LOGIND, session, SESSION), "SetIdleHint", "b", (idle,), seconds=LONGEST_SECONDS
    )


async def press(
    client: Client, session: str, daemon: Daemon, delay: float, *, at_work: bool
) -> dict[str, Any] | None:
    """Leave, wait until memory is taken and `delay` seconds longer, and be back. None when the run
    had ended by itself by then. `at_work`: at a moment in which the writer is in the kernel."""
    kept = history_state()
    await set_hint(client, session, idle=True)
    found = None
    with writer_of(daemon) as (pid, pidfd):
        ended(pidfd, delay)
        working = in_kernel(pid)
        deadline = time.monotonic() + _AT_WORK_SECONDS
        while at_work and not working and time.monotonic() < deadline:
            if ended(pidfd, LOOK_SECONDS / 2):
                break
            working = in_kernel(pid)
        if ended(pidfd, 0):
            await set_hint(client, session, idle=False)
        else:
            found = await _be_back(client, session, pidfd)
    report, reported_at = next_report(kept)
    if found is None or report["ending"] != "interrupted":
        return None
    asked_at, answered_at, stopped_at = found
    return {
        "asked_at": asked_at,
        "answered_at": answered_at,
        "stopped_at": stopped_at,
        "reported_at": reported_at,
        "into_run_seconds": delay,
        "in_kernel": working,
        "stage": report["steps"][-1]["stage"] if report["steps"] else "",
    }


async def _be_back(client: Client, session: str, pidfd: int) -> tuple[float, float, float]:
    """The moments at which the hint was sent, was answered, and at which the writer ended."""
    loop = asyncio.get_running_loop()
    stopped: asyncio.Future[float] = loop.create_future()

    def gone() -> None:
        loop.remove_reader(pidfd)
        stopped.set_result(time.monotonic())

    loop.add_reader(pidfd, gone)
    try:
        asked_at = time.monotonic()
        await set_hint(client, session, idle=False)
        answered_at = time.monotonic()
        try:
            async with asyncio.timeout(LONGEST_SECONDS):
                return asked_at, answered_at, await stopped
        except TimeoutError:
            raise Stuck(f"the writer goes on {LONGEST_SECONDS:g} s after the key press") from None
    finally:
        loop.remove_reader(pidfd)


async def presses(options: argparse.Namespace) -> dict[str, Any]:
    """So many stops, each of a run over memory that was filled anew."""
    chance = random.Random(options.seed)  # noqa: S311 - the same moments every time
    daemon, samples = Daemon(), list[dict[str, Any]]()
    longest, tries = options.longest, 0
    with Filler(options.cold_bytes) as filler:
        ctypes.CDLL(None).mlockall(_MCL_CURRENT_AND_FUTURE)  # this is the stop watch
        async with Client() as client:
            while len(samples) < options.presses:
                tries += 1
                if tries > options.presses * _TRIES:
                    raise Stuck(f"{tries - 1} runs, of which {len(samples)} could be stopped")
                filler.fill()
                delay, at_work = chance.uniform(0.0, longest), chance.random() < _AT_WORK_SHARE
                one = await press(client, options.session, daemon, delay, at_work=at_work)
                if one is None:
                    longest *= _EARLIER
                else:
                    samples.append(one)
    return {"samples": samples, "missed": tries - len(samples), "restarts": daemon.restarts}


def leave(session: str, delay: float) -> bool:
    """Leave, and wait until memory is taken and so much longer; whether it still is."""

    async def hint() -> None:
        async with Client() as client:
            await set_hint(client, session, idle=True)

    asyncio.run(hint())
    with writer_of(Daemon()) as (_, pidfd):
        return not ended(pidfd, delay)


def sleep(options: argparse.Namespace) -> NoReturn:
    """Say when, and become the command that has the machine sleep; end with TOO_LATE when the run
    that it was to fall into has ended by itself."""
    if options.session and not leave(options.session, options.delay):
        sys.exit(TOO_LATE)
    print(f"{ASKS} {time.monotonic():.6f}", file=sys.stderr, flush=True)
    os.execvp(options.command[0], options.command)  # noqa: S606 - no shell is wanted


def parser() -> argparse.ArgumentParser:
    """``press`` prints one object; ``sleep`` becomes the command that follows."""
    found = argparse.ArgumentParser(description=__doc__)
    kinds = found.add_subparsers(dest="do", required=True)
    press_parser = kinds.add_parser("press")
    press_parser.add_argument("--session", required=True, help="its object path on the bus")
    press_parser.add_argument("--presses", type=int, default=1)
    press_parser.add_argument("--seed", type=int, default=1, help="of the moments")
    press_parser.add_argument("--cold-bytes", type=int, required=True)
    press_parser.add_argument("--longest", type=float, default=6.0, help="seconds into a run")
    sleep_parser = kinds.add_parser("sleep")
    sleep_parser.add_argument("--session", default="", help='"": nobody leaves')
    sleep_parser.add_argument("--delay", type=float, default=0.0, help="seconds into a run")
    sleep_parser.add_argument("command", nargs="+")
    return found


def main() -> int:
    """The exit code; Stuck is told in a line."""
    options = parser().parse_args()
    try:
        if options.do == "sleep":
            sleep(options)
        json.dump(asyncio.run(presses(options)), sys.stdout)
    except Stuck as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
