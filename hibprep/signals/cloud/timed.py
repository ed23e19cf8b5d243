# SPDX-License-Identifier: LGPL-2.1-or-later
"""Connections whose time-out is for a whole answer.

The time-out of a socket counts for each of its reads anew: an answer that comes byte by byte, or a
head without an end, would hold a thread for days.
"""

from __future__ import annotations

import logging
import socket
import time
from typing import TYPE_CHECKING

import urllib3
from urllib3.connection import HTTPConnection

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

# Its warnings about headers that it cannot read have in them what came instead, which may be a
# token; what goes wrong is told by the errors.
logging.getLogger("urllib3").setLevel(logging.ERROR)


class _TimedSocket(socket.socket):
    """All that is received until the time-out is set again has to come within it."""

    _until_seconds: float | None = None

    def settimeout(self, value: float | None) -> None:
        """See `socket.settimeout`."""
        self._until_seconds = None if value is None else time.monotonic() + value
        super().settimeout(value)

    def recv_into(self, buffer: WriteableBuffer, nbytes: int = 0, flags: int = 0) -> int:
        """What http.client reads by."""
        if self._until_seconds is not None:
            left = self._until_seconds - time.monotonic()
            if left <= 0:
                raise TimeoutError("timed out")
            super().settimeout(left)
        return super().recv_into(buffer, nbytes, flags)


class _TimedConnection(HTTPConnection):
    def _new_conn(self) -> socket.socket:
        plain = super()._new_conn()
        seconds = plain.gettimeout()
        timed = _TimedSocket(plain.family, plain.type, plain.proto, plain.detach())
        timed.settimeout(seconds)
        return timed


class TimedPool(urllib3.HTTPConnectionPool):
    """urllib3 sets the time-out before it reads a head, and not again before a body."""

    ConnectionCls = _TimedConnection
