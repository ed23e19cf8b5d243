# SPDX-License-Identifier: LGPL-2.1-or-later
"""QEMU's guest agent at the other end of a socket, as libvirt speaks to it.

Lines of JSON. An answer that came too late for whoever asked is still in the port: before each
command a number that nobody else has used is sent (guest-sync), and everything up to its answer is
thrown away.
"""

from __future__ import annotations

import json
import secrets
import socket
import time
from collections.abc import Mapping

from hibprep.guests.errors import AgentRefusedError, NoAgentError

# What ends a line that was cut: no JSON has it, and so the agent's parser begins anew; it answers
# with an error, which is thrown away too (guest-sync in QEMU's qga/qapi-schema.json).
_SENTINEL = b"\xff"


class AgentPort:
    """One connection to the guest agent; one command at a time."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._buffer = bytearray()

    def ask(self, command: str, arguments: Mapping[str, object], timeout: float) -> object:
        """What it returns. NoAgentError when it is silent, AgentRefusedError when it refuses."""
        deadline = time.monotonic() + timeout
        number = secrets.randbelow(1 << 31)
        self._send({"execute": "guest-sync", "arguments": {"id": number}}, deadline, _SENTINEL)
        while self._answer(deadline).get("return") != number:
            continue
        self._send({"execute": command, "arguments": dict(arguments)}, deadline)
        answer = self._answer(deadline)
        if "error" in answer:
            error = answer["error"]
            said = error.get("desc", error) if isinstance(error, Mapping) else error
            raise AgentRefusedError(f"{command}: {said}")
        return answer.get("return")

    def _send(self, message: Mapping[str, object], deadline: float, before: bytes = b"") -> None:
        try:
            self._socket.settimeout(max(0.01, deadline - time.monotonic()))
            self._socket.sendall(before + json.dumps(message).encode() + b"\n")
        except OSError as error:
            raise NoAgentError(f"the guest agent's port: {error}") from error

    def _answer(self, deadline: float) -> dict[str, object]:
        while True:
            try:
                found = json.loads(self._line(deadline))
            except ValueError:
                continue  # the end of something older
            if isinstance(found, dict):
                return found

    def _line(self, deadline: float) -> bytes:
        while (end := self._buffer.find(b"\n")) < 0:
            left = deadline - time.monotonic()
            if left <= 0:
                raise NoAgentError("the guest agent did not answer in time")
            self._socket.settimeout(left)
            try:
                data = self._socket.recv(1 << 16)
            except TimeoutError:
                continue
            except OSError as error:
                raise NoAgentError(f"the guest agent's port: {error}") from error
            if not data:
                raise NoAgentError("QEMU has closed the guest agent's port")
            self._buffer += data
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 1]
        return line
