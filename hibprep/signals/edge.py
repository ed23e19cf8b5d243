# SPDX-License-Identifier: LGPL-2.1-or-later
"""Waiting on the loop for changes of a descriptor, and not for its state: EPOLLET of epoll(7).

A virtio port that nobody has open on the host is readable and hung up for as long as that is so:
the loop's own readers, which wait for a state, would never rest.
"""

from __future__ import annotations

import asyncio
import select
from collections.abc import Callable


class EdgeWatch:
    """Calls `happened()` on the running loop whenever something changes with `descriptor`: data has
    come, there is room to write, its other end was opened or closed. Whatever is the case when the
    watch is made is told once. Read until there is no more, or nothing more is told.

    Raises OSError; PermissionError (EPERM) for what cannot be polled, such as an ordinary file.
    """

    def __init__(self, descriptor: int, happened: Callable[[], None]) -> None:
        self._happened = happened
        self._loop = asyncio.get_running_loop()
        # an instance in between, as in hibprep.signals.priority: it is readable until it is asked
        self._epoll = select.epoll()
        try:
            self._epoll.register(descriptor, select.EPOLLIN | select.EPOLLOUT | select.EPOLLET)
            self._loop.add_reader(self._epoll.fileno(), self._ready)
        except BaseException:
            self._epoll.close()
            raise

    def close(self) -> None:
        """Wait no more. Close it before the descriptor."""
        if not self._epoll.closed:
            self._loop.remove_reader(self._epoll.fileno())
            self._epoll.close()

    def _ready(self) -> None:
        self._epoll.poll(0)
        self._happened()
