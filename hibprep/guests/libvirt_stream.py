# SPDX-License-Identifier: LGPL-2.1-or-later
"""A channel of a guest over libvirt's stream.

The stream does not block, and libvirt's event loop, which runs in a thread of its own, tells when
something has come: a stream that blocks could not be left after a deadline.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from typing import Any, TypeAlias

from hibprep.clock import Clock, SystemClock
from hibprep.errors import HibprepError
from hibprep.guests.errors import ChannelError

Raw: TypeAlias = Any  # an object of libvirt-python, which has no types
Guard = Callable[[str, Callable[[], Raw]], Raw]

_READ_BYTES = 64 << 10
_READABLE, _WRITABLE, _ERROR, _HANGUP = 1, 2, 4, 8  # virStreamEventType
_WOULD_BLOCK = -2


class LibvirtChannel:
    """`hibprep.guests.port.Channel`. `guard` makes our errors of libvirt's."""

    def __init__(self, name: str, stream: Raw, guard: Guard, clock: Clock | None = None) -> None:
        self._name = name
        self._stream = stream
        self._guard = guard
        self._clock = clock or SystemClock()
        self._stirred = threading.Event()
        self._listening = 0
        self._closed = False
        self._ask(lambda: stream.eventAddCallback(_READABLE | _ERROR | _HANGUP, self._stir, None))
        self._listening = _READABLE

    def send(self, data: bytes, timeout_seconds: float) -> None:
        """See `Channel.send`."""
        end = self._clock.monotonic() + timeout_seconds
        while data:
            sent = self._ask(partial(self._stream.send, data))
            if sent != _WOULD_BLOCK:
                data = data[sent:]
            elif not self._wait(_READABLE | _WRITABLE, end):
                raise ChannelError(f"{self._name}: the guest does not take what it is sent")

    def receive(self, timeout_seconds: float) -> bytes:
        """See `Channel.receive`."""
        end = self._clock.monotonic() + timeout_seconds
        while True:
            data = self._ask(lambda: self._stream.recv(_READ_BYTES))
            if data == _WOULD_BLOCK:
                if not self._wait(_READABLE, end):
                    return b""
            elif data:
                return bytes(data)
            else:
                raise ChannelError(f"{self._name}: the channel was closed")

    def close(self) -> None:
        """See `Channel.close`."""
        if self._closed:
            return
        self._closed = True
        for end in (self._stream.eventRemoveCallback, self._stream.abort):
            try:
                self._guard(self._name, end)
            except HibprepError:
                continue  # it is closed already: the guest or libvirtd is gone

    def _wait(self, events: int, end: float) -> bool:
        """Wait until something stirs; False when the time is over."""
        if events != self._listening:
            self._ask(lambda: self._stream.eventUpdateCallback(events | _ERROR | _HANGUP))
            self._listening = events
        left = end - self._clock.monotonic()
        if left <= 0 or not self._stirred.wait(left):
            return False
        self._stirred.clear()
        return True

    def _stir(self, _stream: Raw, _events: int, _opaque: object) -> None:
        # runs in the thread of the event loop, again and again until what came is read
        self._stirred.set()

    def _ask(self, call: Callable[[], Raw]) -> Raw:
        try:
            return self._guard(self._name, call)
        except ChannelError:
            raise
        except HibprepError as error:
            raise ChannelError(f"{self._name}: {error.message}") from error
