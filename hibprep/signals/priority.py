# SPDX-License-Identifier: LGPL-2.1-or-later
"""Waiting on the loop for what the kernel tells as an exceptional condition: POLLPRI of poll(2).

/proc/swaps, PSI triggers and sysfs attributes that call sysfs_notify() are always readable and tell
a change with POLLPRI; the loop's own readers wait for EPOLLIN and would never rest. An epoll
instance is itself readable when something that it watches is ready (epoll(7)), so that one in
between translates, without a thread.
"""

from __future__ import annotations

import asyncio
import select
from collections.abc import Callable
from typing import Protocol

Happened = Callable[[bool], None]


class Watch(Protocol):
    """Something that is waited for until it is closed."""

    def close(self) -> None:
        """Wait no more. The descriptor stays its owner's."""


class Watcher(Protocol):
    """What makes a watch of a descriptor; see `PriorityWatch`."""

    def __call__(self, descriptor: int, happened: Happened) -> Watch:
        """Wait for POLLPRI on `descriptor` until the watch is closed."""


class PriorityWatch:
    """Calls `happened(broken)` on the running loop whenever `descriptor` has POLLPRI; `broken` says
    that there is a POLLERR as well that stays.

    One epoll instance a descriptor: the files mentioned above forget the event when they are asked
    for it, and the loop, looking whether this instance is readable, asks them. What is left to know
    afterwards is that something happened to this descriptor, not what. For the same reason what
    happens before the watch stands may go unnoticed: read the state after making it.

    Raises OSError; PermissionError (EPERM) for what cannot be polled, such as an ordinary file.
    """

    def __init__(self, descriptor: int, happened: Happened) -> None:
        self._happened = happened
        self._loop = asyncio.get_running_loop()
        self._epoll = select.epoll()
        try:
            self._epoll.register(descriptor, select.EPOLLPRI)
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
        broken = select.EPOLLERR | select.EPOLLHUP
        self._happened(any(mask & broken for _, mask in self._epoll.poll(0)))
