# SPDX-License-Identifier: LGPL-2.1-or-later
"""What answers in a guest: a guest agent, and hibprep on its channel, well and otherwise."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from hibprep.guests.agent import NOT_FOUND, TIMED_OUT
from hibprep.guests.errors import AgentRefusedError, ChannelError, NoAgentError
from tests.fakes.clock import HandClock
from tests.fakes.libvirt_memory import MIB, GuestMemory

EXEC = ("guest-exec", "guest-exec-status")
OTHERS = ("guest-ping", "guest-info", "guest-get-osinfo", "guest-fsfreeze-freeze")


class AgentMood(StrEnum):
    WELL = "well"
    SILENT = "silent"  # nobody is behind the port
    BLOCKED = "blocked"  # guest-exec is not allowed, as on RHEL
    HANGS = "hangs"  # what it starts never ends by itself
    DIES = "dies"  # after it has started something
    WINDOWS = "windows"


@dataclass
class _Process:
    ends_at: float
    code: int
    output: bytes = b""
    done: Callable[[], None] | None = None


@dataclass
class FakeAgent:
    """A guest agent, and the programs of the guest."""

    clock: HandClock
    memory: GuestMemory
    mood: AgentMood = AgentMood.WELL
    hibprep: bool = False  # is installed in the guest
    cold: int = 0  # what hibprep there can swap out
    seconds: float = 0.4  # that anything takes
    commands: list[tuple[str, ...]] = field(default_factory=list)
    _processes: dict[int, _Process] = field(default_factory=dict)

    def ask(self, command: str, arguments: Mapping[str, object], timeout: int) -> object:
        if self.mood is AgentMood.SILENT:
            self.clock.go_on(timeout)
            raise NoAgentError("web: the guest agent does not answer", "start it")
        if command == "guest-info":
            return {"supported_commands": [self._command(name) for name in (*OTHERS, *EXEC)]}
        if command == "guest-get-osinfo":
            return {"id": "mswindows" if self.mood is AgentMood.WINDOWS else "debian"}
        if command == "guest-exec" and self.mood is not AgentMood.BLOCKED:
            return {"pid": self._start(arguments)}
        if command == "guest-exec-status" and self.mood is not AgentMood.BLOCKED:
            if self.mood is AgentMood.DIES:
                raise NoAgentError("web: the guest agent does not answer", "start it")
            return self._status(arguments)
        raise AgentRefusedError(f"web: the command {command} has been disabled for this instance")

    def _command(self, name: str) -> dict[str, object]:
        return {"name": name, "enabled": not (name in EXEC and self.mood is AgentMood.BLOCKED)}

    def _start(self, arguments: Mapping[str, object]) -> int:
        words = arguments["arg"]
        assert arguments["path"] == "timeout", "what hangs in the guest must end"
        assert isinstance(words, list)
        flag, _grace, limit, *program = map(str, words)
        assert flag == "-k"
        data = base64.b64decode(str(arguments.get("input-data", "")))
        self.commands.append(tuple(program))
        pid = 1000 + len(self._processes)
        if self.mood is AgentMood.HANGS:
            self._processes[pid] = _Process(self.clock.seconds + float(limit), TIMED_OUT)
        else:
            self._processes[pid] = self._program(tuple(program), data)
        return pid

    def _program(self, words: tuple[str, ...], data: bytes) -> _Process:
        ends = self.clock.seconds + self.seconds
        if words[0] == "hibprep":
            if not self.hibprep:
                return _Process(ends, NOT_FOUND)
            return _Process(ends, 0, json.dumps(self._report()).encode(), self._prepare)
        if words == ("sync",):
            return _Process(ends, 0)
        if words == ("tee", "/proc/sys/vm/drop_caches") and data == b"3\n":
            return _Process(ends, 0, data, self.memory.drop_caches)
        if words == ("tee", "/proc/sys/vm/compact_memory") and data == b"1\n":
            return _Process(ends, 0, data, self._compact)
        raise AssertionError(f"nobody should run {words} in a guest")

    def _report(self) -> dict[str, object]:
        return {"version": 1, "ending": "done", "freed": {"anon_bytes": self.cold}}

    def _prepare(self) -> None:
        prepare_inside(self.memory, self.cold)

    def _compact(self) -> None:
        self.memory.compacted = True

    def _status(self, arguments: Mapping[str, object]) -> dict[str, object]:
        process = self._processes[int(str(arguments["pid"]))]
        if self.clock.seconds < process.ends_at:
            return {"exited": False}
        if process.done is not None:
            process.done()
            process.done = None
        output = base64.b64encode(process.output).decode()
        return {"exited": True, "exitcode": process.code, "out-data": output}


def prepare_inside(memory: GuestMemory, cold: int) -> None:
    """What hibprep in a guest comes to: caches dropped, and what is cold swapped out."""
    cold = min(cold, memory.used - 20 * MIB)
    memory.used -= cold
    memory.touched += cold
    memory.drop_caches()


class ChannelMood(StrEnum):
    WELL = "well"
    SILENT = "silent"
    IN_USE = "in use"
    LEFTOVERS = "leftovers"  # of a host that was killed: half a line, and answers to others
    GARBAGE = "garbage"  # without end
    REFUSES = "refuses"
    NEVER_DONE = "never done"
    CLOSES = "closes"  # in the middle of the run


@dataclass
class FakeChannel:
    """hibprep in the guest behind its virtio port."""

    clock: HandClock
    memory: GuestMemory
    mood: ChannelMood = ChannelMood.WELL
    cold: int = 0
    seconds: float = 1.0  # that preparing takes, as far as it is given so much
    closed: bool = False
    heard: list[dict[str, object]] = field(default_factory=list)
    _due: list[tuple[float, bytes]] = field(default_factory=list)
    _running: int | None = None

    def open(self) -> FakeChannel:
        if self.mood is ChannelMood.IN_USE:
            raise ChannelError("web: Active channel stream exists for this domain")
        self.closed = False
        if self.mood is ChannelMood.LEFTOVERS:
            self._say(0.0, b'port":{"x":1}}\n{"id":4,"done":true,"report":{}}\n\xff\xfe\n[]\n')
        return self

    def send(self, data: bytes, timeout_seconds: float) -> None:
        assert not self.closed
        assert timeout_seconds > 0
        if self.mood is ChannelMood.SILENT:
            return
        for line in data.splitlines():
            if not line.strip():
                continue
            request = json.loads(line)
            assert request["v"] == 1
            self.heard.append(request)
            self._answer(request)

    def receive(self, timeout_seconds: float) -> bytes:
        assert not self.closed
        if self.mood is ChannelMood.GARBAGE:
            self.clock.go_on(min(timeout_seconds, 0.1))
            return b"x" * 50_000
        if self._due and self._due[0][0] <= self.clock.seconds + timeout_seconds:
            at, data = self._due.pop(0)
            self.clock.go_on(max(0.0, at - self.clock.seconds))
            if not data:
                raise ChannelError("web: the channel was closed")
            return data
        self.clock.go_on(timeout_seconds)
        return b""

    def close(self) -> None:
        self.closed = True
        self._due.clear()

    def _answer(self, request: Mapping[str, object]) -> None:
        number, do = request["id"], request["do"]
        if do == "hello":
            able = ["hello", "status", "prepare", "stop", "compact"]
            self._tell(0.1, {"id": number, "ok": True, "hibprep": "0.1.0", "able": able})
        elif self.mood is ChannelMood.REFUSES:
            self._tell(0.1, {"id": number, "ok": False, "error": "busy", "place": "prepare"})
        elif do == "prepare":
            self._running = int(str(number))
            self._tell(0.1, {"id": number, "ok": True, "started": True})
            if self.mood is ChannelMood.CLOSES:
                self._say(0.3, b"")
            elif self.mood is not ChannelMood.NEVER_DONE:
                prepare_inside(self.memory, self.cold)
                self._done(min(self.seconds, float(str(request["timeout_seconds"]))))
        elif do == "stop":
            self._tell(0.1, {"id": number, "ok": True})
            if self._running is not None and self.mood is not ChannelMood.NEVER_DONE:
                self._done(0.2)

    def _done(self, seconds: float) -> None:
        report = {"ending": "done"}
        self._tell(seconds, {"id": self._running, "done": True, "report": report})

    def _tell(self, seconds: float, answer: Mapping[str, object]) -> None:
        self._say(seconds, json.dumps({"v": 1, **answer}).encode() + b"\n")

    def _say(self, seconds: float, data: bytes) -> None:
        self._due.append((self.clock.seconds + seconds, data))
        self._due.sort(key=lambda due: due[0])
