# SPDX-License-Identifier: LGPL-2.1-or-later
"""Where on its device a file lies (Documentation/filesystems/fiemap.rst, linux/fiemap.h), and on
btrfs, whose FIEMAP answers in addresses of its own, where that is on the disk
(linux/btrfs_tree.h: the chunk tree).
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
from typing import NamedTuple

from hibprep.errors import KernelFileError
from hibprep.kernel.root import translate

# struct fiemap and struct fiemap_extent
_FS_IOC_FIEMAP = 0xC020660B
_FIEMAP = struct.Struct("=QQLLLL")
_FIEMAP_EXTENT = struct.Struct("=QQQQQLLLL")
_FIEMAP_FLAG_SYNC = 1
_LAST = 0x1
# UNKNOWN, DELALLOC, ENCODED, DATA_ENCRYPTED, DATA_INLINE: no address on the device
_NOT_AN_ADDRESS = 0x2 | 0x4 | 0x8 | 0x80 | 0x200
_EXTENTS_A_CALL = 256

# struct btrfs_ioctl_search_args: key, then what was found
_BTRFS_IOC_TREE_SEARCH = 0xD0009411
_SEARCH_BYTES = 4096
_SEARCH_KEY = struct.Struct("=QQQQQQQLLLLQQQQ")
_SEARCH_HEADER = struct.Struct("=QQQLL")
_CHUNK = struct.Struct("<QQQQLLLHH")
_STRIPE = struct.Struct("<QQ")
_CHUNK_TREE, _CHUNK_OBJECT, _CHUNK_ITEM = 3, 256, 228
# BTRFS_BLOCK_GROUP_RAID0, 1, 10, 5, 6, 1C3, 1C4: no kernel swaps to these
_SPREAD = 0x8 | 0x10 | 0x40 | 0x80 | 0x100 | 0x200 | 0x400
_LARGEST_CHUNK = 16 << 30  # fs/btrfs/volumes.c makes them of 10 GiB at most
_EVERYTHING = 2**64 - 1


class Extent(NamedTuple):
    """A run of a file, in bytes."""

    start: int  # in the file
    place: int  # on the device; on btrfs in its own address space
    length: int
    is_placed: bool  # False: it has no address (yet)


def extents(descriptor: int) -> tuple[Extent, ...]:
    """All of them, in the order of the file; OSError where the file system cannot tell."""
    found: list[Extent] = []
    begin = 0
    while True:
        more, is_last = _extents_from(descriptor, begin, _EXTENTS_A_CALL)
        found += more
        if is_last:
            return tuple(found)
        begin = found[-1].start + found[-1].length


def _extents_from(descriptor: int, begin: int, most: int) -> tuple[list[Extent], bool]:
    request = bytearray(_FIEMAP.size + most * _FIEMAP_EXTENT.size)
    _FIEMAP.pack_into(request, 0, begin, _EVERYTHING - begin, _FIEMAP_FLAG_SYNC, 0, most, 0)
    fcntl.ioctl(descriptor, _FS_IOC_FIEMAP, request)
    mapped = _FIEMAP.unpack_from(request)[3]
    found = []
    is_last = mapped == 0
    for index in range(mapped):
        start, place, length, _, _, flags, *_ = _FIEMAP_EXTENT.unpack_from(
            request, _FIEMAP.size + index * _FIEMAP_EXTENT.size
        )
        found.append(Extent(start, place, length, not flags & _NOT_AN_ADDRESS))
        is_last = is_last or bool(flags & _LAST)
    return found, is_last


def has_holes(found: tuple[Extent, ...], size_bytes: int) -> bool:
    """Whether some of the first so many bytes is nowhere on the device."""
    covered = 0
    for each in found:
        if each.start > covered or not each.is_placed:
            return True
        covered = each.start + each.length
    return covered < size_bytes


def pieces(found: tuple[Extent, ...]) -> int:
    """How many runs lie apart from each other; extents that are adjacent are one."""
    count, end = 0, -1
    for each in found:
        count += each.place != end
        end = each.place + each.length
    return count


def first_page(path: str | os.PathLike[str], *, is_btrfs: bool = False) -> int | None:
    """The first physical page of a swap file, as resume_offset wants it; None where that cannot be
    told (no FIEMAP, no such file, and on btrfs not root)."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        found, _ = _extents_from(descriptor, 0, 1)
        if not found or found[0].start != 0 or not found[0].is_placed:
            return None
        place = found[0].place
        if is_btrfs:
            place = _on_the_disk(descriptor, place)
    except (OSError, KernelFileError):
        return None
    finally:
        os.close(descriptor)
    return place // os.sysconf("SC_PAGE_SIZE")


def _on_the_disk(descriptor: int, address: int) -> int:
    """Where btrfs keeps what it calls `address`: the chunk that holds it, and in that its only
    stripe (or the first of two copies on the same disk)."""
    begin = max(0, address - _LARGEST_CHUNK)
    while True:
        request = bytearray(_SEARCH_BYTES)
        _SEARCH_KEY.pack_into(
            request,
            0,
            *(_CHUNK_TREE, _CHUNK_OBJECT, _CHUNK_OBJECT, begin, address, 0, _EVERYTHING),
            *(_CHUNK_ITEM, _CHUNK_ITEM, _EXTENTS_A_CALL, 0, 0, 0, 0, 0),
        )
        fcntl.ioctl(descriptor, _BTRFS_IOC_TREE_SEARCH, request)
        count = _SEARCH_KEY.unpack_from(request)[9]
        if count == 0:
            raise translate("btrfs chunk tree", OSError(errno.ENOENT, "no such address"))
        position = _SEARCH_KEY.size
        for _ in range(count):
            _, _, start, kind, length = _SEARCH_HEADER.unpack_from(request, position)
            position += _SEARCH_HEADER.size
            if kind == _CHUNK_ITEM and start <= address:
                size, _, _, profile, *_ = _CHUNK.unpack_from(request, position)
                if address < start + size:
                    if profile & _SPREAD:
                        raise translate("btrfs", OSError(errno.EINVAL, "on several disks"))
                    stripe = _STRIPE.unpack_from(request, position + _CHUNK.size)[1]
                    return int(stripe) + address - int(start)
            position += length
            begin = start + 1
