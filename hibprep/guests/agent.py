# SPDX-License-Identifier: LGPL-2.1-or-later
"""The QEMU guest agent: what it allows, and running a program in the guest through it.

The commands are those of qga/qapi-schema.json in QEMU. A program is started by guest-exec, which
answers at once, and asked for by guest-exec-status; nothing can end it from here, so everything is
run by timeout(1), which ends it in the guest whatever becomes of us. No shell: what has to be
written to a file goes to tee(1) as its input.
"""

from __future__ import annotations

import base64
import binascii
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from hibprep.clock import Clock
from hibprep.guests.errors import AgentRefusedError, NoAgentError
from hibprep.guests.port import Domain
from hibprep.guests.waiting import Stopping, until

ANSWER_SECONDS = 5  # libvirt's own default
NEEDED = ("guest-exec", "guest-exec-status")
# what timeout(1) exits with; 127 comes from it too, when there is no such program
TIMED_OUT = 124
NOT_FOUND = 127
_POLL_SECONDS = 0.2
_GRACE_SECONDS = 5  # timeout(1) sends SIGKILL so much later
_LARGEST_OUTPUT = 1 << 20
# what the guest uses stays in its memory: it goes on working
_PREPARE = ("hibprep", "prepare", "--target", "min", "--stages", "sync,cache,slab,cold-anon")


@dataclass(frozen=True, slots=True)
class Ended:
    """How a program in the guest ended: `code` is its exit code, -N for signal N."""

    code: int
    output: bytes = b""
    errors: bytes = b""

    @property
    def words(self) -> str:
        """Why it did not do what it should, in one line."""
        said = self.errors.decode(errors="replace").split("\n")[0].strip()[:200]
        return f"exit code {self.code}{f': {said}' if said else ''}"


class Agent:
    """The guest agent of one domain."""

    def __init__(self, domain: Domain, *, clock: Clock, stop: Stopping) -> None:
        self._domain = domain
        self._clock = clock
        self._stop = stop

    def why_not(self) -> str:
        """Why programs cannot be run through it, or "". It is asked, not believed: the port may be
        there with nobody behind it."""
        try:
            enabled = self._enabled()
            if missing := [name for name in NEEDED if name not in enabled]:
                return (
                    f"the guest's configuration blocks {' and '.join(missing)}; allow them there "
                    "(FILTER_RPC_ARGS in /etc/sysconfig/qemu-ga on RHEL and its like)"
                )
            if "guest-get-osinfo" in enabled and self._system() == "mswindows":
                return "the guest runs Windows"
        except (NoAgentError, AgentRefusedError) as error:
            return str(error)
        return ""

    def run(self, arguments: Sequence[str], *, seconds: float, data: bytes = b"") -> Ended:
        """Run a program to its end, for `seconds` at most, with `data` as its input. NoAgentError
        when the agent is silent or the program is not heard of any more, AgentRefusedError when it
        is not started. With the stop flag raised it is left to its own time limit."""
        limit = max(1, math.ceil(seconds))
        started = self._ask(
            "guest-exec",
            {
                "path": "timeout",
                "arg": ["-k", str(_GRACE_SECONDS), str(limit), *arguments],
                "capture-output": True,
            }
            | ({"input-data": base64.b64encode(data).decode()} if data else {}),
        )
        pid = started.get("pid")
        if not isinstance(pid, int):
            raise NoAgentError(f"{self._domain.name}: the guest agent gave no process number")

        def ask() -> Mapping[str, object] | None:
            status = self._ask("guest-exec-status", {"pid": pid})
            return status if status.get("exited") is True else None

        ended = until(
            ask,
            clock=self._clock,
            stop=self._stop,
            seconds=limit + 2 * _GRACE_SECONDS,
            every_seconds=_POLL_SECONDS,
        )
        if ended is None:
            why = self._stop.reason if self._stop.requested() else "it has not ended in its time"
            raise NoAgentError(f"{self._domain.name}: {arguments[0]} in the guest: {why}")
        signal = ended.get("signal")
        code = ended.get("exitcode")
        return Ended(
            -signal if isinstance(signal, int) else code if isinstance(code, int) else -1,
            _decoded(ended.get("out-data")),
            _decoded(ended.get("err-data")),
        )

    def _ask(self, command: str, arguments: Mapping[str, object]) -> Mapping[str, object]:
        answer = self._domain.agent(command, arguments, ANSWER_SECONDS)
        if not isinstance(answer, Mapping):
            raise NoAgentError(f"{self._domain.name}: the guest agent answered {command} oddly")
        return answer

    def _enabled(self) -> frozenset[str]:
        commands = self._ask("guest-info", {}).get("supported_commands")
        if not isinstance(commands, list):
            return frozenset()
        return frozenset(
            str(command.get("name"))
            for command in commands
            if isinstance(command, Mapping) and command.get("enabled") is True
        )

    def _system(self) -> str:
        return str(self._ask("guest-get-osinfo", {}).get("id", ""))


def _decoded(data: object) -> bytes:
    if not isinstance(data, str):
        return b""
    try:
        return base64.b64decode(data[: _LARGEST_OUTPUT * 4 // 3])
    except (binascii.Error, ValueError):
        return b""


def trim(agent: Agent, *, seconds: float, compact: bool) -> tuple[str, Mapping[str, object]]:
    """Have the guest free what it can, and say how, with the report of hibprep there if it is
    there. NoAgentError and AgentRefusedError say why nothing could be done."""
    report, why = _by_hibprep(agent, seconds)
    if report is not None:
        how = "hibprep prepare there, started by the guest agent"
    else:
        how = f"sync and drop_caches, started by the guest agent; {why}"
        _must(agent, ("sync",), seconds=seconds)
        _must(agent, ("tee", "/proc/sys/vm/drop_caches"), seconds=seconds, data=b"3\n")
    if compact:
        # free page reporting knows whole page blocks only
        done = agent.run(
            ("tee", "/proc/sys/vm/compact_memory"), seconds=min(seconds, 30.0), data=b"1\n"
        )
        how += ", then compacted" if done.code == 0 else f"; compacting failed, {done.words}"
    return how, report or {}


def _by_hibprep(agent: Agent, seconds: float) -> tuple[Mapping[str, object] | None, str]:
    """The report of hibprep in the guest, or why there is none."""
    inner = max(1, math.floor(seconds) - 2)  # it reports by itself before timeout(1) ends it
    ended = agent.run(
        (*_PREPARE, "--timeout", str(inner), "--json"),
        seconds=seconds,
    )
    if ended.code == NOT_FOUND:
        return None, "hibprep is not there"
    if ended.code not in (0, 3):  # done, and partly done
        return None, f"hibprep there failed, {ended.words}"
    try:
        report = json.loads(ended.output)
    except ValueError:
        report = None
    if not isinstance(report, dict):
        return None, "hibprep there gave no report"
    return report, ""


def _must(agent: Agent, arguments: Sequence[str], *, seconds: float, data: bytes = b"") -> None:
    ended = agent.run(arguments, seconds=seconds, data=data)
    if ended.code == TIMED_OUT:
        raise AgentRefusedError(f"{arguments[0]} in the guest was not done after {seconds:.0f} s")
    if ended.code != 0:
        raise AgentRefusedError(f"{' '.join(arguments)} in the guest: {ended.words}")
