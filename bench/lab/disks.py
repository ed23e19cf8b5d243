# SPDX-License-Identifier: LGPL-2.1-or-later
"""The disks of one guest: a copy of the image and an empty swap device, both sparse."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
import struct
import tempfile
import uuid
from pathlib import Path

from bench.lab.paths import work_root

_PAGE = 4096
_MIB = 1 << 20
_LOCK = ".lock"


class WorkFolder:
    """A folder for one guest's files, gone when it is closed; a killed owner's goes later."""

    def __init__(self, parent: Path | None = None, *, prefix: str = "guest-") -> None:
        parent = parent or work_root()
        parent.mkdir(parents=True, exist_ok=True)
        _sweep(parent, prefix)
        self.path = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
        self._lock = os.open(self.path / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(self._lock, fcntl.LOCK_EX)

    def close(self) -> None:
        """Remove it with all that is in it."""
        shutil.rmtree(self.path, ignore_errors=True)
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1


def _sweep(parent: Path, prefix: str) -> None:
    """Remove the folders whose owner was killed: nobody holds their lock any more."""
    for folder in parent.glob(f"{prefix}*"):
        try:
            if folder.lstat().st_uid != os.geteuid():
                continue  # anybody may make one where all have their temporary files
            descriptor = os.open(folder / _LOCK, os.O_RDWR | os.O_CLOEXEC)
        except OSError:
            continue  # just being made, or just being removed
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            continue
        else:
            shutil.rmtree(folder, ignore_errors=True)
        finally:
            os.close(descriptor)


def copy_sparse(source: Path, target: Path) -> None:
    """Copy only what is there.

    A copy rather than a qcow2 overlay: after QEMU was killed, a raw file holds all that the guest
    was told is written, while an overlay's own tables may be lost (they are cached in QEMU).
    """
    with source.open("rb") as reader, target.open("xb") as writer:
        size = os.fstat(reader.fileno()).st_size
        os.ftruncate(writer.fileno(), size)
        position = 0
        while position < size:
            try:
                start = os.lseek(reader.fileno(), position, os.SEEK_DATA)
            except OSError as error:
                if error.errno == errno.ENXIO:  # a hole up to the end
                    return
                raise
            end = os.lseek(reader.fileno(), start, os.SEEK_HOLE)
            _copy_range(reader.fileno(), writer.fileno(), start, end)
            position = end


def _copy_range(reader: int, writer: int, start: int, end: int) -> None:
    while start < end:
        with contextlib.suppress(OSError):  # not between all file systems
            done = os.copy_file_range(reader, writer, end - start, start, start)
            if done > 0:
                start += done
                continue
        data = os.pread(reader, min(end - start, 1 << 20), start)
        os.pwrite(writer, data, start)
        start += len(data)


def grow(disk: Path, size_bytes: int) -> None:
    """Give a disk at least this size, rounded up to whole MiB; what is new in it is a hole."""
    size = -(-size_bytes // _MIB) * _MIB
    if disk.stat().st_size < size:
        os.truncate(disk, size)


def make_swap(path: Path, size_bytes: int) -> None:
    """A sparse file that Linux takes for an empty swap device (what mkswap writes)."""
    pages = size_bytes // _PAGE
    header = bytearray(_PAGE)
    # From byte 1024: version, last page, number of bad pages, UUID, label.
    struct.pack_into("<III16s16s", header, 1024, 1, pages - 1, 0, uuid.uuid4().bytes, b"hibprep")
    header[-10:] = b"SWAPSPACE2"
    with path.open("xb") as stream:
        stream.truncate(pages * _PAGE)
        stream.write(header)
