# SPDX-License-Identifier: LGPL-2.1-or-later
"""A command that hibernates the guest it runs in: its answer may only be known after the resume."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bench.lab.console import ConsoleFacts
from bench.lab.errors import AgentError, GuestTimeout, LabError
from bench.lab.remote import GRACE_SECONDS, result_of
from bench.lab.results import Result

if TYPE_CHECKING:
    from concurrent.futures import Future

    from bench.lab.channel import Channel, Message

_LOOK_SECONDS = 0.1


@dataclass(frozen=True)
class HibernateTiming:
    """``seconds`` from the request to QEMU's end, and what the kernel said on the way.

    ``said``: the lines of the command's standard error, each with the seconds since the request.
    """

    seconds: float
    facts: ConsoleFacts
    said: tuple[tuple[float, str], ...] = ()

    def seconds_at(self, beginning: str) -> float:
        """When the first line that begins so was said; LabError if none was."""
        for seconds, line in self.said:
            if line.startswith(beginning):
                return seconds
        raise LabError(f"the command never said {beginning!r}, only {[x for _, x in self.said]}")


@dataclass
class Request:
    """A hibernating command that was sent; ``console_offset`` is where the console stood then."""

    argv: tuple[str, ...]
    tag: str
    future: Future[Message]
    console_index: int
    console_offset: int
    result: Result | None = None

    @property
    def is_answered(self) -> bool:
        """Whether the answer has come. QEMU closes the channel a moment before it is gone: that is
        no answer."""
        return self.future.done() and self.future.exception() is None

    def answer(self, channel: Channel) -> Result:
        """The answer that has come."""
        if self.result is None:
            reply = channel.wait("run", self.tag, self.future, 1)
            channel.tell("forget", of=self.tag)
            self.result = result_of(reply)
        return self.result

    def collect(self, channel: Channel, timeout: float) -> Result:
        """The answer, asked for after the resume, on whatever channel there is then."""
        deadline = time.monotonic() + timeout
        while self.result is None:
            found = channel.request("collect", GRACE_SECONDS, of=self.tag)
            if found["state"] == "done":
                channel.tell("forget", of=self.tag)
                self.result = result_of(found["reply"])
            elif found["state"] == "unknown":
                raise AgentError(f"{' '.join(self.argv)}: the agent knows nothing of it")
            elif time.monotonic() > deadline:
                raise GuestTimeout(
                    f"{' '.join(self.argv)} has not ended {timeout:.0f} s after resume"
                )
            else:
                time.sleep(_LOOK_SECONDS)
        return self.result
