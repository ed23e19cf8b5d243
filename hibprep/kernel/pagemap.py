# SPDX-License-Identifier: LGPL-2.1-or-later
"""Which pages of a process are in memory and which in swap: /proc/PID/pagemap
(Documentation/admin-guide/mm/pagemap.rst).

From 6.7 on the kernel looks for them itself (the ioctl PAGEMAP_SCAN) and answers with ranges;
before, there is a word of 64 bits to be read for every page. Both take the rights of ptrace(2).

Swapped pages that were read into the swap cache are still told as swapped until they are touched,
and so are those that are just being migrated.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import re
import struct
import sys
from collections.abc import Callable
from enum import Enum
from types import TracebackType
from typing import Self

from hibprep.errors import KernelFileError
from hibprep.kernel.areas import Area, Backing
from hibprep.kernel.root import KernelRoot, translate
from hibprep.ranges import Range, join

PAGE = os.sysconf("SC_PAGE_SIZE")
SINCE_SCAN = "6.7"

# struct pm_scan_arg and struct page_region, include/uapi/linux/fs.h
_SCAN = struct.Struct("=12Q")
_REGION = struct.Struct("=3Q")
_PAGEMAP_SCAN = 0xC0606610
_IS_FILE, _IS_PRESENT, _IS_SWAPPED, _IS_ZERO = 1 << 2, 1 << 3, 1 << 4, 1 << 5
_REGIONS = 4096
# 4 GiB: some 20 ms, so that a budget of time is kept to
_PAGES_A_CALL = 1 << 20
# The end of user addresses for who has not asked for more (x86, arm64, riscv: 47 or 48 bits); where
# there are fewer the kernel refuses it, and the areas have to be known.
_HIGHEST = (1 << 47) - (1 << 16)
_UNKNOWN_IOCTL = frozenset({errno.ENOTTY, errno.EINVAL, errno.EFAULT, errno.EOPNOTSUPP})

_WORD_BYTES = 8
_WORDS_A_READ = 1 << 17  # 512 MiB of addresses
# Programs reserve terabytes that they never use, and every page of it is a word to be read.
_LONGEST_AREA_BYTES = 64 << 30

Expired = Callable[[], bool]


class Wanted(Enum):
    """What is looked for: the categories that must be set, those that must not, and the same in the
    highest byte of a pagemap word (63 present, 62 swapped, 61 of a file or shared)."""

    SWAPPED = (_IS_SWAPPED, 0, rb"[\x40-\x7f]+")
    ANON = (_IS_PRESENT, _IS_FILE | _IS_ZERO, rb"[\x80-\x9f]+")  # in memory
    FILE = (_IS_PRESENT | _IS_FILE, 0, rb"[\xa0-\xbf]+")  # in memory, shared memory included


_PATTERNS = {wanted: re.compile(wanted.value[2]) for wanted in Wanted}


def never() -> bool:
    """A budget that does not end."""
    return False


class Pagemap:
    """The pagemap of one process; a context manager. `scan` False reads words on any kernel.

    Raises KernelFileError when the process is gone or closed to us.
    """

    def __init__(self, root: KernelRoot, pid: int, *, scan: bool = True) -> None:
        self._path = f"/proc/{pid}/pagemap"
        self._scan = scan
        try:
            self._descriptor = os.open(root.path(self._path), os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise translate(self._path, error) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        os.close(self._descriptor)

    def find(
        self,
        wanted: Wanted,
        areas: Callable[[], list[Area]],
        *,
        gap_bytes: int = 0,
        expired: Expired = never,
    ) -> list[Range]:
        """The ranges of such pages, in order; those no more than `gap_bytes` apart are made one.

        `areas` are asked for where the kernel cannot search by itself. Ends early, with what was
        found, once `expired` says so.
        """
        try:
            if self._scan:
                found = self._searched(wanted, gap_bytes, expired)
                if found is not None:
                    return found
                self._scan = False
            return self._read(wanted, areas(), gap_bytes, expired)
        except OSError as error:
            raise translate(self._path, error) from error

    def _searched(self, wanted: Wanted, gap_bytes: int, expired: Expired) -> list[Range] | None:
        """By PAGEMAP_SCAN; None where there is no such thing."""
        needed, barred, _ = wanted.value
        regions = (ctypes.c_char * (_REGION.size * _REGIONS))()
        found: list[Range] = []
        start = 0
        while start < _HIGHEST and not expired():
            # categories_inverted turns a bit round before the mask is looked at
            request = bytearray(
                _SCAN.pack(_SCAN.size, 0, start, _HIGHEST, 0, ctypes.addressof(regions), _REGIONS,
                           _PAGES_A_CALL, barred, needed | barred, 0, needed)
            )  # fmt: skip
            try:
                count = fcntl.ioctl(self._descriptor, _PAGEMAP_SCAN, request)
            except OSError as error:
                if error.errno in _UNKNOWN_IOCTL:
                    return None
                raise
            part = memoryview(regions)[: count * _REGION.size]
            new = [(begin, end) for begin, end, _ in _REGION.iter_unpack(part)]
            found = _append(found, new, gap_bytes)
            walked = _SCAN.unpack(request)[4]
            if walked <= start:
                break  # it says that it got nowhere
            start = walked
        return found

    def _read(
        self, wanted: Wanted, areas: list[Area], gap_bytes: int, expired: Expired
    ) -> list[Range]:
        found: list[Range] = []
        for area in areas:
            if not _may_have(area, wanted) or area.end - area.start > _LONGEST_AREA_BYTES:
                continue
            at = area.start
            while at < area.end and not expired():
                words = min(_WORDS_A_READ, (area.end - at) // PAGE)
                data = os.pread(self._descriptor, words * _WORD_BYTES, at // PAGE * _WORD_BYTES)
                if not data:
                    break  # the process has ended
                found = _append(found, runs(data, at, wanted), gap_bytes)
                at += len(data) // _WORD_BYTES * PAGE
        return found


def runs(data: bytes, start: int, wanted: Wanted) -> list[Range]:
    """The ranges of such pages in the words of a pagemap, the first of which is that of `start`."""
    # All that is asked for is in the highest byte; searching these is a hundred times quicker than
    # to look at numbers.
    highest = data[_WORD_BYTES - 1 if sys.byteorder == "little" else 0 :: _WORD_BYTES]
    return [
        (start + match.start() * PAGE, start + match.end() * PAGE)
        for match in _PATTERNS[wanted].finditer(highest)
    ]


def _append(found: list[Range], new: list[Range], gap_bytes: int) -> list[Range]:
    """`found` with `new` behind it; the last and the first may become one."""
    joined = join([*found[-1:], *new], gap_bytes)
    del found[-1:]
    found += joined
    return found


def _may_have(area: Area, wanted: Wanted) -> bool:
    if wanted is Wanted.FILE:
        return area.backing in (Backing.DISK, Backing.SHARED)
    return area.backing is Backing.SWAP or (area.private and area.backing is not Backing.OTHER)


def can_search(root: KernelRoot) -> bool:
    """Whether this kernel has PAGEMAP_SCAN, tried on ourselves."""
    try:
        with Pagemap(root, os.getpid()) as own:
            return own.find(Wanted.ANON, list) != []
    except KernelFileError:
        return False
