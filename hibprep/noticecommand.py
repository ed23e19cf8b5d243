# SPDX-License-Identifier: LGPL-2.1-or-later
"""A command of the administrator's, run for a notice: an argument list and no shell, with what is
known of the notice in its environment and nothing else.

It has a session of its own, so that all that it starts is ended with it: asked by SIGTERM shortly
before its time is over, killed when it is. What it says, on either stream, goes line by line where
the daemon's own words go, as much of it as anybody would read.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
from asyncio.subprocess import DEVNULL, STDOUT, Process
from collections.abc import Sequence
from pathlib import Path
from typing import IO

from hibprep.errors import HibprepError
from hibprep.notices import Notice

log = logging.getLogger(__name__)

# what login shells of root have; the daemon's own depends on who started it
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
MOST_LINES = 200
LONGEST_LINE = 500
_LONGEST_FIELD = 1000
_CHUNK_BYTES = 4096
# of the time that it has, for what it does on SIGTERM
_GRACE_SECONDS = 2.0
_GRACE_SHARE = 0.25
_GONE_SECONDS = 2.0  # until what was killed is known to be gone


class CommandError(HibprepError):
    """It could not be started, did not end in time, or ended with another code than 0."""


def environment(notice: Notice, left_seconds: float | None) -> dict[str, str]:
    """What a command is told: the fields of the notice, and where programs are. Whoever gives the
    notice has chosen some of the texts."""
    at = "" if notice.at is None else notice.at.strftime("%Y-%m-%dT%H:%M:%SZ")
    return {
        "PATH": PATH,
        "HIBPREP_NOTICE_KIND": notice.kind.value,
        "HIBPREP_NOTICE_ID": plain(notice.id, _LONGEST_FIELD),
        "HIBPREP_NOTICE_SOURCE": notice.source.value,
        "HIBPREP_NOTICE_DEADLINE": at,
        "HIBPREP_NOTICE_SECONDS": "" if left_seconds is None else f"{max(0.0, left_seconds):.0f}",
        "HIBPREP_NOTICE_TEXT": plain(notice.text, _LONGEST_FIELD),
    }


def plain(text: str, most: int) -> str:
    """As much of it, in one line, without what a terminal or a C string would take for its own."""
    shown = "".join(each if each.isprintable() else " " for each in text[:most])
    return shown.encode(errors="replace").decode()


async def run(command: Sequence[str], variables: dict[str, str], seconds: float) -> None:
    """Run it to its end, or for so long. Raises CommandError; whoever is cancelled kills it."""
    name = plain(Path(command[0]).name, LONGEST_LINE)
    # not a pipe of asyncio's: some versions of Process.wait() wait for its end too, and whatever
    # the command has started may hold it open
    read_end, write_end = os.pipe()
    with open(read_end, "rb", buffering=0) as output:  # noqa: PTH123 - a descriptor
        try:
            process = await asyncio.create_subprocess_exec(
                *command,
                stdin=DEVNULL,
                stdout=write_end,
                stderr=STDOUT,
                env=variables,
                cwd="/",
                start_new_session=True,
            )
        except (OSError, ValueError) as error:
            words = error.strerror if isinstance(error, OSError) else ""
            raise CommandError(f"{name} cannot be started: {words or error}") from None
        finally:
            os.close(write_end)
        telling = asyncio.create_task(_tell(name, output))
        try:
            code = await _ended(process, seconds)
        finally:
            # those that it has left behind as well
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_GONE_SECONDS):
                    await asyncio.gather(process.wait(), telling)
            telling.cancel()
            await asyncio.wait((telling,))
    if code is None:
        raise CommandError(f"{name} did not end within {seconds:.3g} s, and was killed")
    if code:
        how = f"ended with code {code}" if code > 0 else f"was killed by signal {-code}"
        raise CommandError(f"{name} {how}")


async def _ended(process: Process, seconds: float) -> int | None:
    """Its code; None when it had to be told to end."""
    grace = min(_GRACE_SECONDS, seconds * _GRACE_SHARE)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds - grace):
            return await process.wait()
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(grace):
            await process.wait()
    return None


async def _tell(name: str, output: IO[bytes]) -> None:
    """Its output, all of which is read: who writes to a full pipe waits."""
    reader = asyncio.StreamReader()
    transport, _ = await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), output
    )
    try:
        await _say_all(name, reader)
    finally:
        transport.close()


async def _say_all(name: str, reader: asyncio.StreamReader) -> None:
    lines, rest = 0, b""
    while chunk := await reader.read(_CHUNK_BYTES):
        *whole, rest = (rest + chunk).split(b"\n")
        if len(rest) > LONGEST_LINE:
            whole, rest = [*whole, rest], b""
        for line in whole:
            lines += 1
            _say(name, line, lines)
    if rest:
        lines += 1
        _say(name, rest, lines)
    if lines > MOST_LINES:
        log.info("%s: %d more lines", name, lines - MOST_LINES)


def _say(name: str, line: bytes, number: int) -> None:
    if number <= MOST_LINES:
        log.info("%s: %s", name, plain(line.decode(errors="replace").rstrip(), LONGEST_LINE))
