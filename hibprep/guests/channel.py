# SPDX-License-Identifier: LGPL-2.1-or-later
"""hibprep's own channel to hibprep in a guest, from the host's side.

Objects of JSON, one a line, over the virtio port `org.hibprep.0`. What an earlier run left in the
port is thrown away: a hello with a number that nobody else has used is sent, and everything is
skipped until its answer comes.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping
from typing import Self

from hibprep.clock import Clock
from hibprep.guests import port
from hibprep.guests.errors import ChannelError
from hibprep.guests.hardware import CHANNEL
from hibprep.guests.waiting import Stopping

VERSION = 1
HELLO_SECONDS = 2.0
LARGEST_LINE = 64 << 10
_SEND_SECONDS = 2.0
_LOOK_SECONDS = 0.5  # how soon a stop is noticed
_GRACE_SECONDS = 5.0


class Conversation:
    """One host's conversation with hibprep in a guest; a context manager."""

    def __init__(self, channel: port.Channel, *, clock: Clock, stop: Stopping) -> None:
        self._channel = channel
        self._clock = clock
        self._stop = stop
        self._pending = b""
        self._skipping = False  # inside a line that is too long
        self._able: frozenset[str] = frozenset()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_of_error: object) -> None:
        self._channel.close()

    def hello(self) -> str:
        """The version of hibprep that answers. ChannelError when nobody does."""
        # the end of a line that a host left which was killed in the middle of it
        self._channel.send(b"\n", _SEND_SECONDS)
        answer = self._ask({"do": "hello"}, HELLO_SECONDS)
        able = answer.get("able")
        self._able = frozenset(map(str, able)) if isinstance(able, list) else frozenset()
        return str(answer.get("hibprep", "unknown"))

    def prepare(self, *, seconds: float, compact: bool) -> Mapping[str, object]:
        """Have the guest prepare itself to the smallest, and give back its report. With the stop
        flag raised it is told to stop, and what it reports then is the answer."""
        if "prepare" not in self._able:
            raise ChannelError("hibprep in the guest does not prepare when it is asked")
        number = self._number()
        self._send(
            {
                "id": number,
                "do": "prepare",
                "target": "min",
                "timeout_seconds": seconds,
                "compact": compact,
            }
        )
        end = self._clock.monotonic() + seconds + _GRACE_SECONDS
        self._answer(number, HELLO_SECONDS, "started")
        stopped = False
        while True:
            left = end - self._clock.monotonic()
            answer = self._line(number, min(_LOOK_SECONDS, max(0.0, left)))
            if answer is not None and answer.get("done") is True:
                report = answer.get("report")
                return report if isinstance(report, dict) else {}
            if answer is not None and answer.get("ok") is False:
                raise _refused(answer)
            if self._stop.requested() and not stopped:
                stopped = True
                self._send({"id": self._number(), "do": "stop"})
                end = min(end, self._clock.monotonic() + _GRACE_SECONDS)
            elif left <= 0:
                raise ChannelError(f"hibprep in the guest was not done after {seconds:.0f} s")

    def _ask(self, request: Mapping[str, object], seconds: float) -> Mapping[str, object]:
        number = self._number()
        self._send({"id": number, **request})
        return self._answer(number, seconds, "ok")

    def _answer(self, number: int, seconds: float, wanted: str) -> Mapping[str, object]:
        end = self._clock.monotonic() + seconds
        while True:
            answer = self._line(number, max(0.0, end - self._clock.monotonic()))
            if answer is None:
                raise ChannelError(
                    f"nobody answers on {CHANNEL}", "start the hibprep daemon in the guest"
                )
            if answer.get("ok") is False:
                raise _refused(answer)
            if answer.get(wanted) is True:
                return answer

    @staticmethod
    def _number() -> int:
        return secrets.randbelow(1 << 48) + 1

    def _send(self, request: Mapping[str, object]) -> None:
        line = json.dumps({"v": VERSION, **request}).encode() + b"\n"
        self._channel.send(line, _SEND_SECONDS)

    def _line(self, number: int, seconds: float) -> Mapping[str, object] | None:
        """The next object with that number; None when none has come in time."""
        end = self._clock.monotonic() + seconds
        while True:
            while b"\n" in self._pending:
                line, _, self._pending = self._pending.partition(b"\n")
                if self._skipping:
                    self._skipping = False
                    continue
                answer = _parsed(line)
                if answer is not None and answer.get("id") == number:
                    return answer
            if len(self._pending) > LARGEST_LINE:
                self._pending, self._skipping = b"", True
            left = end - self._clock.monotonic()
            if left <= 0:
                return None
            self._pending += self._channel.receive(left)


def _parsed(line: bytes) -> Mapping[str, object] | None:
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return None  # a rest of what was there before
    return found if isinstance(found, dict) else None


def _refused(answer: Mapping[str, object]) -> ChannelError:
    place = str(answer.get("place", ""))[:100]
    error = str(answer.get("error", "no reason given"))[:200]
    return ChannelError(f"hibprep in the guest: {f'{place}: ' if place else ''}{error}")
