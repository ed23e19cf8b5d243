# SPDX-License-Identifier: LGPL-2.1-or-later
"""Calls of a provider's code: each in a thread, one at a time, with a deadline; and the pauses
after those that fail."""

from __future__ import annotations

import asyncio
import random
import traceback
from collections.abc import Callable
from pathlib import PurePath
from typing import Generic, TypeVar

from hibprep.errors import HibprepError
from hibprep.signals.cloud.base import AnswerError, NoAnswerError
from hibprep.threads import Worker

Value = TypeVar("Value")

FIRST_PAUSE_SECONDS = 1.0
LONGEST_PAUSE_SECONDS = 60.0
_MOST_DOUBLINGS = 10


class OneCall(Generic[Value]):
    """Calls one after another, in a thread of their own until `end`. One that has not come back in
    time is not begun a second time: the next call gets its answer, or gets none in time either."""

    def __init__(self, function: Callable[[], Value], name: str) -> None:
        self._function = function
        self._name = name
        self._worker = Worker(name)
        self._answer: asyncio.Future[Value] | None = None

    async def __call__(self, seconds: float) -> Value:
        """What the function returns, or raises of ours. Raises NoAnswerError when it takes longer,
        and AnswerError for any other exception."""
        if self._answer is None:
            self._answer = self._worker.call(self._function)
        answer = self._answer
        await asyncio.wait((answer,), timeout=seconds)
        if not answer.done():
            raise NoAnswerError(f"{self._name}: no answer within {seconds:g} s")
        self._answer = None
        try:
            return answer.result()
        except HibprepError:
            raise
        except Exception as error:  # noqa: BLE001 - raised as one of ours, with its place
            raise AnswerError(_defect(error)) from None

    def end(self) -> None:
        """Wait for it no longer; a thread that hangs is left to itself."""
        self._worker.end()
        if self._answer is not None and not self._answer.cancel():
            self._answer.exception()  # it has come meanwhile, and nobody asks for it
        self._answer = None


def _defect(error: Exception) -> str:
    """What went wrong in our own code and where, without the error's text: that may be a part of
    an answer, and answers may be secret."""
    frames = traceback.extract_tb(error.__traceback__)
    where = f" in {PurePath(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
    return f"a defect of hibprep's: {type(error).__name__}{where}"


def pause_seconds(failures: int, own_seconds: float, chance: random.Random) -> float:
    """Until the next call after so many failures on end: doubled each time, up to a minute, and of
    that at least half by chance, so that not all machines ask a service at once that has just come
    back. Never shorter than the pause after what went well."""
    if not failures:
        return own_seconds
    longest = FIRST_PAUSE_SECONDS * 2.0 ** min(failures - 1, _MOST_DOUBLINGS)
    return max(own_seconds, min(LONGEST_PAUSE_SECONDS, longest) * chance.uniform(0.5, 1.0))
