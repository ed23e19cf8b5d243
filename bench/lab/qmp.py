# SPDX-License-Identifier: LGPL-2.1-or-later
"""QEMU's own control socket: for what only the machine's owner can do (power button, wake up)."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Mapping
from typing import Any

from bench.lab.errors import GuestTimeout, LabError


class Monitor:
    """One connection to a QEMU; commands one after the other, events are passed over."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._stream = connection.makefile("rb")
        self._negotiated = False

    def execute(self, command: str, arguments: Mapping[str, object], timeout: float = 30) -> Any:  # noqa: ANN401  # as QEMU has it
        """Run one QMP command and return what it returns."""
        deadline = time.monotonic() + timeout
        if not self._negotiated:
            self._reply("QMP", deadline)
            self._send({"execute": "qmp_capabilities"})
            self._reply("return", deadline)
            self._negotiated = True
        self._send({"execute": command, "arguments": dict(arguments)})
        return self._reply("return", deadline)

    def close(self) -> None:
        """End the connection."""
        self._stream.close()
        self._socket.close()

    def _send(self, message: dict[str, Any]) -> None:
        try:
            self._socket.sendall(json.dumps(message).encode() + b"\n")
        except OSError as error:
            raise LabError(f"QEMU's monitor is gone: {error}") from error

    def _reply(self, wanted: str, deadline: float) -> Any:  # noqa: ANN401  # JSON
        while (left := deadline - time.monotonic()) > 0:
            self._socket.settimeout(left)
            try:
                line = self._stream.readline()
            except OSError:
                break
            if not line:
                raise LabError("QEMU's monitor is gone")
            message = json.loads(line)
            if "error" in message:
                raise LabError(f"QEMU: {message['error'].get('desc', message['error'])}")
            if wanted in message:
                return message[wanted]
        raise GuestTimeout("QEMU's monitor did not answer in time")
