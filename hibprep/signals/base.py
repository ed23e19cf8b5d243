# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a source of signals is, and the supervisor that keeps it going.

A source that fails is started again after a pause that grows; that it is away is said once, and the
daemon goes on with what the others say.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Protocol

from hibprep.clock import Clock
from hibprep.errors import HibprepError, NotPossibleError
from hibprep.events import Moment, Signal, SourceChanged, SourceName

log = logging.getLogger(__name__)

Emit = Callable[[Signal], None]

FIRST_PAUSE_SECONDS = 1.0
LONGEST_PAUSE_SECONDS = 300.0
_SETTLED_SECONDS = 60.0  # what ran for so long was no false start: the pause begins anew


class Source(Protocol):
    """Something that tells what happens outside."""

    @property
    def name(self) -> SourceName:
        """Which one it is."""

    async def run(self, emit: Emit) -> None:
        """Tell signals until cancelled. First of all, once it works, `SourceChanged(name, True,
        how)`.

        Raises NotPossibleError for what this machine does not have (the remedy says what would
        help; it is tried again at the longest pause), any other HibprepError or OSError for what
        went wrong. Gives back all it holds (descriptors, connections, tasks) however it ends.
        """


async def supervise(source: Source, emit: Emit, clock: Clock) -> None:
    """Keep `source` going until cancelled; its absence is told and never raised."""
    pause = FIRST_PAUSE_SECONDS
    while True:
        begin = clock.monotonic()
        try:
            await source.run(emit)
            reason = "it ended by itself"
        except NotPossibleError as error:
            reason, pause = str(error), LONGEST_PAUSE_SECONDS
        except (HibprepError, OSError, EOFError, ValueError) as error:
            reason = str(error) or type(error).__name__
        except Exception as error:
            # a defect of ours in one source is no reason to give up the others
            log.exception("source %s failed", source.name)
            reason = f"{type(error).__name__}: {error}"
        if clock.monotonic() - begin > _SETTLED_SECONDS:
            pause = min(pause, FIRST_PAUSE_SECONDS)
        emit(SourceChanged(source.name, works=False, reason=reason))
        await asyncio.sleep(pause)
        pause = min(LONGEST_PAUSE_SECONDS, pause * 2)


def moment(clock: Clock) -> Moment:
    """Now."""
    return Moment(clock.monotonic(), clock.boottime(), clock.now())
