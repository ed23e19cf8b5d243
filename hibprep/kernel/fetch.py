# SPDX-License-Identifier: LGPL-2.1-or-later
"""Having pages of other processes read into memory, in the child process that may block in the
kernel (`hibprep.kernel.writer`).

Two ways. MADV_WILLNEED begins to read many pages at a time, into the swap cache or the page cache,
from where the process takes them without waiting for a disk; 5.15 and later. Reading a byte of
every page waits for each (with the kernel's own small read-ahead), and is left for what the first
does not know: pages of a privately mapped file that were written to, and older kernels.

What was begun is waited for by its last page. A disk's queue holds seconds of reading, and whatever
a program needs meanwhile would have to wait behind it.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator, Sequence

from hibprep.kernel.pagemap import PAGE
from hibprep.kernel.process import (
    MADV_WILLNEED,
    MAX_RANGES,
    open_pidfd,
    process_madvise,
    start_time,
    touch,
)
from hibprep.kernel.root import KernelRoot
from hibprep.ranges import Range

# The range is not there any more, or a file that cannot be read: the next one may be.
_OF_ONE_RANGE = frozenset({errno.ENOMEM, errno.EFAULT, errno.EIO, errno.EBADF})


def fetch(root: KernelRoot, pid: int, start: int, ranges: Sequence[Range], how: str) -> int:
    """Fetch by `how` ("willneed" or "touch"); for how many bytes that was done. ESRCH when `pid` is
    not the process that started at `start` (ticks since boot). Raises OSError and
    KernelFileError."""
    pidfd = open_pidfd(pid)
    try:
        if start_time(root, pid) != start:
            raise OSError(errno.ESRCH, os.strerror(errno.ESRCH))
        if how == "touch":
            return _touch(pid, list(_pages(ranges))) * PAGE
        done = _advise(pidfd, list(ranges))
        if ranges:
            # not allowed, or not there any more: then there is nothing to wait for
            with contextlib.suppress(OSError):
                touch(pid, [ranges[-1][1] - PAGE])
        return done
    finally:
        os.close(pidfd)


def _advise(pidfd: int, ranges: list[Range]) -> int:
    done = 0
    while ranges:
        part = ranges[:MAX_RANGES]
        try:
            advised = process_madvise(
                pidfd, [(start, end - start) for start, end in part], MADV_WILLNEED
            )
        except OSError as error:
            if error.errno not in _OF_ONE_RANGE:
                raise
            advised = 0
        done += advised
        ranges = ranges[_complete(part, advised) :]
    return done


def _complete(ranges: Sequence[Range], advised: int) -> int:
    """How many of them are done with: those that make up `advised` bytes, and the one behind them,
    in front of which the kernel ended because it did not like it."""
    for index, (start, end) in enumerate(ranges):
        advised -= end - start
        if advised < 0:
            return index + 1
    return len(ranges)


def _touch(pid: int, pages: list[int]) -> int:
    done = 0
    while pages:
        part = pages[:MAX_RANGES]
        try:
            touched = touch(pid, part)
        except OSError as error:
            if error.errno not in _OF_ONE_RANGE:
                raise
            touched = 0
        done += touched
        pages = pages[touched + (touched < len(part)) :]
    return done


def _pages(ranges: Sequence[Range]) -> Iterator[int]:
    for start, end in ranges:
        yield from range(start, end, PAGE)
