# SPDX-License-Identifier: LGPL-2.1-or-later
"""A migration that comes in: the source is asked to prepare the guest before it is copied.

libvirt runs no hook on the source. While the hook on the destination runs, nothing is copied yet
and the source can still reach into the guest. How the source is reached is the administrator's: a
command, such as ssh, with its arguments; hibprep has no protocol of its own between hosts.
"""

from __future__ import annotations

import asyncio
import contextlib
import fnmatch
import logging
import os
import re
import signal
from collections.abc import Iterable

from hibprep.errors import ExitCode, HibprepError, NotPossibleError
from hibprep.events import GuestEvent, GuestOperation
from hibprep.settings_incoming import IncomingSettings

log = logging.getLogger(__name__)

MOST_AT_ONCE = 8  # a hook each waits for it, on one of the control socket's connections
GRACE_SECONDS = 2.0  # until what was killed is known to be gone

# A name may hold anything but a slash, and the command may hand it to a shell, as ssh does.
_PLAIN = re.compile(r"[\w][\w@+=:,.-]*", re.ASCII)


def source_of(event: GuestEvent, rules: Iterable[str]) -> str:
    """The host that it comes from, "" when nobody says: its metadata, else the first rule."""
    if event.source:
        return event.source
    for rule in rules:
        pattern, _, host = rule.rpartition("=")
        if any(known and fnmatch.fnmatchcase(known, pattern) for known in (event.name, event.uuid)):
            return host
    return ""


def command_for(event: GuestEvent, settings: IncomingSettings) -> tuple[str, ...]:
    """The command with what is known filled in. NotPossibleError says what is not known."""
    values = {
        "{source}": source_of(event, settings.sources),
        "{uuid}": event.uuid,
        "{name}": event.name if _PLAIN.fullmatch(event.name) else "",
    }
    remedies = {
        "{source}": "name it in incoming.sources, or in the guest's metadata",
        "{uuid}": "libvirt did not tell it",
        "{name}": "it has more in it than letters, digits and @+=:,._- : use {uuid}",
    }
    command = []
    for argument in settings.command:
        for placeholder, value in values.items():
            if placeholder in argument and not value:
                what = f"{placeholder} of incoming.command is not known"
                raise NotPossibleError(what, remedies[placeholder])
        command.append(_filled(argument, values))
    return tuple(command)


def _filled(argument: str, values: dict[str, str]) -> str:
    # in one go: a value may look like a placeholder
    return re.sub(r"\{(?:source|uuid|name)\}", lambda match: values[match[0]], argument)


class Incoming:
    """Asks the sources of guests that come in; a few at a time."""

    def __init__(self) -> None:
        self._running = 0

    def seconds(self, event: GuestEvent, settings: IncomingSettings) -> float:
        """How long the hook of this event is to wait; 0: not at all."""
        wanted = event.operation is GuestOperation.MIGRATE and bool(settings.command)
        return settings.seconds + 2 * GRACE_SECONDS if wanted else 0.0

    async def ask(self, event: GuestEvent, settings: IncomingSettings) -> str:
        """Have the source prepare the guest; why the migration is refused, "" for not at all."""
        try:
            await self._asked(command_for(event, settings), settings.seconds)
        except (HibprepError, OSError) as error:
            log.warning("%s comes in without having been prepared: %s", event.name, error)
            if settings.refuse:
                return f"{event.name} could not be prepared on its source: {error}"
            return ""
        log.info("%s comes in, prepared by its source", event.name)
        return ""

    async def _asked(self, command: tuple[str, ...], seconds: float) -> None:
        if self._running >= MOST_AT_ONCE:
            raise HibprepError(f"{self._running} sources are being asked already")
        self._running += 1
        try:
            await _run(command, seconds)
        finally:
            self._running -= 1


async def _run(command: tuple[str, ...], seconds: float) -> None:
    """Run it to its end; HibprepError when that is no good one, or does not come in time. What it
    says goes where the daemon's own words go."""
    process = await asyncio.create_subprocess_exec(
        *command, stdin=asyncio.subprocess.DEVNULL, start_new_session=True
    )
    try:
        async with asyncio.timeout(seconds):
            code = await process.wait()
    except TimeoutError:
        raise HibprepError(f"{command[0]} did not end within {seconds:g} s") from None
    finally:
        if process.returncode is None:
            # it and what it has started
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(GRACE_SECONDS):
                    await process.wait()
    if code not in (ExitCode.DONE, ExitCode.PARTLY):
        raise HibprepError(f"{command[0]} ended with exit code {code}")
