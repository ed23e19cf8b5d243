# SPDX-License-Identifier: LGPL-2.1-or-later
"""The host's end of the control channel: tagged requests over a socket, replies by tag."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from typing import Any

from bench.lab.errors import AgentError, GuestTimeout

Message = dict[str, Any]


class Channel:
    """One connection to the agent, as long as one QEMU lives. Safe to use from many threads."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._sending = threading.Lock()
        self._state = threading.Lock()
        self._pending: dict[str, Future[Message]] = {}
        self._followers: dict[str, Callable[[str], None]] = {}
        self._closed = False
        self._count = 0
        # Unlike any tag of an earlier life, so that a reply that slept cannot be taken for ours.
        self._prefix = os.urandom(4).hex()
        self._reader = threading.Thread(target=self._read, name="lab-channel", daemon=True)
        self._reader.start()
        # An empty line ends whatever an earlier connection left unfinished in the agent's buffer.
        self._write(b"\n")

    def post(
        self, op: str, *, follower: Callable[[str], None] | None = None, **fields: object
    ) -> tuple[str, Future[Message]]:
        """Send a request; returns its tag and the future of its reply.

        ``follower`` is called, by the thread that reads, with each line of what the command says
        on its standard error, as it comes.
        """
        return self._post(op, follower, fields)

    def request(self, op: str, timeout: float, **fields: object) -> Message:
        """Send a request and wait for its reply, at most ``timeout`` seconds."""
        tag, future = self._post(op, None, fields)
        return self.wait(op, tag, future, timeout)

    def wait(self, op: str, tag: str, future: Future[Message], timeout: float) -> Message:
        """The reply of a posted request; AgentError when it says that it failed."""
        try:
            reply = future.result(timeout)
        except FutureTimeout:
            with self._state:
                self._pending.pop(tag, None)
            raise GuestTimeout(f"no reply to {op} within {timeout:.0f} s") from None
        if "error" in reply:
            raise AgentError(f"{op}: {reply['error']}")
        return reply

    def tell(self, op: str, **fields: object) -> None:
        """Send a request that has no reply."""
        message = {"op": op, "tag": f"{self._prefix}-none", **fields}
        self._write(json.dumps(message).encode() + b"\n")

    def ping(self, timeout: float) -> str:
        """Ask who is there until somebody answers; returns the agent's identity."""
        deadline = time.monotonic() + timeout
        asked: list[tuple[str, Future[Message]]] = []
        try:
            while (left := deadline - time.monotonic()) > 0:
                asked.append(self.post("ping"))
                # An early question may be answered late: it waits in the port until it is opened.
                try:
                    return str(asked[0][1].result(min(left, 1.0))["identity"])
                except FutureTimeout:
                    for _, future in asked:
                        if future.done():
                            return str(future.result()["identity"])
        finally:
            with self._state:
                for tag, _ in asked:
                    self._pending.pop(tag, None)
        raise GuestTimeout(f"the agent did not answer within {timeout:.0f} s")

    def close(self) -> None:
        """End the connection; everyone who still waits hears of it."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._reader.join(5)
        self._socket.close()

    def _post(
        self, op: str, follower: Callable[[str], None] | None, fields: dict[str, object]
    ) -> tuple[str, Future[Message]]:
        reply: Future[Message] = Future()
        with self._state:
            if self._closed:
                raise AgentError("the connection to the guest has ended")
            self._count += 1
            tag = f"{self._prefix}-{self._count}"
            self._pending[tag] = reply
            if follower is not None:
                self._followers[tag] = follower
                fields["follow"] = True
        self._write(json.dumps({"op": op, "tag": tag, **fields}).encode() + b"\n")
        return tag, reply

    def _write(self, data: bytes) -> None:
        try:
            with self._sending:
                self._socket.sendall(data)
        except OSError as error:
            raise AgentError(f"the connection to the guest has ended: {error}") from error

    def _read(self) -> None:
        try:
            with self._socket.makefile("rb") as stream:
                for line in stream:
                    self._line(line)
        except OSError:
            pass
        with self._state:
            self._closed = True
            pending, self._pending = self._pending, {}
        for future in pending.values():
            future.set_exception(AgentError("the connection to the guest has ended"))

    def _line(self, line: bytes) -> None:
        try:
            message = json.loads(line)
        except ValueError:
            return
        if not isinstance(message, dict):
            return
        tag = str(message.pop("tag", ""))
        if "said" in message:
            with self._state:
                follower = self._followers.get(tag)
            if follower is not None:
                follower(str(message["said"]))
            return
        with self._state:
            future = self._pending.pop(tag, None)
            self._followers.pop(tag, None)
        if future is not None:
            future.set_result(message)
