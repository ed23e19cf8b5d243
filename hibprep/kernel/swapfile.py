# SPDX-License-Identifier: LGPL-2.1-or-later
"""Making a file that can be swapped to: no holes, no copy-on-write, in as few pieces as the file
system gives (Documentation/power/swsusp-and-swap-files.rst, swapon(8) "NOTES", ioctl_iflags(2)).
"""

from __future__ import annotations

import fcntl
import os
import struct
from typing import NamedTuple

from hibprep.errors import HibprepError, NotPossibleError
from hibprep.kernel.extents import extents, first_page, has_holes, pieces
from hibprep.kernel.root import KernelRoot, translate

# include/uapi/linux/fs.h; the two calls are declared with a long and take an int
_FS_IOC_GETFLAGS = 0x80086601
_FS_IOC_SETFLAGS = 0x40086602
_FLAGS = struct.Struct("=Lxxxx")
_FS_NOCOW_FL = 0x00800000
_FS_COMPR_FL = 0x00000004


class Made(NamedTuple):
    """A swap file as it came out."""

    offset_pages: int  # as resume_offset wants it
    pieces: int  # on the disk; one is best


def make(root: KernelRoot, path: str, size_bytes: int, *, is_btrfs: bool) -> Made:
    """Make the file, which must not be there, of that size and mode 0600.

    What was begun is taken away when this fails; HibprepError says why.
    """
    where = root.path(path)
    try:
        descriptor = os.open(
            where, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600
        )
    except OSError as error:
        raise translate(path, error) from error
    try:
        os.fchmod(descriptor, 0o600)  # whatever the umask is
        if is_btrfs:
            _no_copy_on_write(descriptor)
        # in one call, which is how a file system can keep it in one piece
        os.posix_fallocate(descriptor, 0, size_bytes)
        os.fsync(descriptor)
        return _looked_at(descriptor, path, size_bytes, first_page(where, is_btrfs=is_btrfs))
    except OSError as error:
        where.unlink()
        raise translate(path, error) from error
    except BaseException:
        where.unlink()
        raise
    finally:
        os.close(descriptor)


def _looked_at(descriptor: int, path: str, size_bytes: int, offset: int | None) -> Made:
    found = extents(descriptor)
    if has_holes(found, size_bytes):
        raise HibprepError(f"{path}: came out with holes", "give another place with --path")
    if offset is None:
        raise NotPossibleError(
            f"{path}: where it lies on the disk cannot be told",
            "give a place on ext4, xfs, or btrfs on one disk with --path",
        )
    return Made(offset, pieces(found))


def _no_copy_on_write(descriptor: int) -> None:
    """While it is empty: btrfs takes the flag later only for what is written anew."""
    flags = bytearray(_FLAGS.size)
    fcntl.ioctl(descriptor, _FS_IOC_GETFLAGS, flags)
    (now,) = _FLAGS.unpack(flags)
    _FLAGS.pack_into(flags, 0, (now | _FS_NOCOW_FL) & ~_FS_COMPR_FL)
    fcntl.ioctl(descriptor, _FS_IOC_SETFLAGS, flags)
