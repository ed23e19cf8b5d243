# SPDX-License-Identifier: LGPL-2.1-or-later
"""Calls that block in libvirt until something has ended, in threads of their own.

A call into the library cannot be interrupted, and a signal is heard only between two of them: so
whoever is to hear Ctrl-C, or to keep a time limit, lets another thread do the waiting. A thread
that never comes back (a hypervisor that hangs) does not keep the process alive.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

from hibprep.guests.errors import GuestError

Value = TypeVar("Value")


class NoAnswerError(GuestError):
    """libvirt did not answer in time; whether it does what it was asked to is not known."""


class Call(Generic[Value]):
    """`function` in a thread that has begun."""

    def __init__(self, function: Callable[[], Value], name: str) -> None:
        self.name = name
        self._function = function
        self._ended = threading.Event()
        self._answers: list[Value] = []
        self._error: BaseException | None = None
        threading.Thread(target=self._run, name=name, daemon=True).start()

    def _run(self) -> None:
        try:
            self._answers.append(self._function())
        except BaseException as error:  # noqa: BLE001 - raised again by `result`
            self._error = error
        finally:
            self._ended.set()

    def wait(self, seconds: float) -> bool:
        """Wait at most so long; whether it has ended."""
        return self._ended.wait(max(0.0, seconds))

    def result(self) -> Value:
        """What it returned; raises what it raised, and NoAnswerError when it has not ended."""
        if not self._ended.is_set():
            raise NoAnswerError(f"{self.name}: libvirt does not answer")
        if self._error is not None:
            raise self._error
        return self._answers[0]


def within(seconds: float, function: Callable[[], Value], name: str) -> Value:
    """What `function` returns or raises; NoAnswerError when it takes longer."""
    call = Call(function, name)
    call.wait(seconds)
    return call.result()
