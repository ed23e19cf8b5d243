# SPDX-License-Identifier: LGPL-2.1-or-later
"""Events of devices, as a test tells them."""

from __future__ import annotations

import os
import socket

from hibprep.signals.power import Uevent, Uevents


class FakeUevents:
    """A socket pair: what is sent is an uevent, or the number of an error."""

    def __init__(self) -> None:
        self._sender, self._receiver = socket.socketpair(
            socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK
        )
        self.source = ""

    def __call__(self, source: str) -> Uevents:
        self.source = source
        return self

    def fileno(self) -> int:
        return self._receiver.fileno()

    def receive(self) -> Uevent | None:
        try:
            words = self._receiver.recv(1024).decode().split()
        except BlockingIOError:
            return None
        if len(words) == 1:
            raise OSError(int(words[0]), os.strerror(int(words[0])))
        return Uevent(*words)

    def close(self) -> None:
        self._sender.close()
        self._receiver.close()

    def send(self, *messages: str) -> None:
        for each in messages:
            self._sender.send(each.encode())
