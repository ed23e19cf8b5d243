# SPDX-License-Identifier: LGPL-2.1-or-later
"""hibprep's own virtio port of a guest of the lab, at the other end of a socket."""

from __future__ import annotations

import socket

from hibprep.guests.errors import ChannelError

_AT_ONCE_BYTES = 1 << 16


class ChannelPort:
    """A `hibprep.guests.port.Channel`. The socket is the guest's, and stays open."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection

    def send(self, data: bytes, timeout_seconds: float) -> None:
        """See `hibprep.guests.port.Channel.send`."""
        self._socket.settimeout(max(0.01, timeout_seconds))
        try:
            self._socket.sendall(data)
        except OSError as error:
            raise ChannelError(f"hibprep's port: {error}") from error

    def receive(self, timeout_seconds: float) -> bytes:
        """See `hibprep.guests.port.Channel.receive`."""
        self._socket.settimeout(max(0.01, timeout_seconds))
        try:
            data = self._socket.recv(_AT_ONCE_BYTES)
        except TimeoutError:
            return b""
        except OSError as error:
            raise ChannelError(f"hibprep's port: {error}") from error
        if not data:
            raise ChannelError("QEMU has closed hibprep's port")
        return data

    def close(self) -> None:
        """See `hibprep.guests.port.Channel.close`."""
