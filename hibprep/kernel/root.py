# SPDX-License-Identifier: LGPL-2.1-or-later
"""The kernel's files under a root that tests can put elsewhere, with errors that say where.

Kernel files are not files: a read is made in one go, a write is one command
(Documentation/filesystems/proc.rst, sysfs.rst). Nothing is created and nothing is truncated.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

from hibprep.errors import KernelFileDenied, KernelFileError, KernelFileMissing

_CHUNK = 1 << 16
_MISSING = frozenset({errno.ENOENT, errno.ENODEV, errno.ESRCH, errno.ENOTDIR, errno.ENXIO})
_DENIED = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})
# kernfs counts a directory's subdirectories in its links, as most disk file systems do
_LINKS_OF_LEAF = 2


def translate(path: str, error: OSError) -> KernelFileError:
    """The project's error for what the system said about `path`."""
    number = error.errno or 0
    text = os.strerror(number) if number else str(error)
    if number in _MISSING:
        return KernelFileMissing(path, text, number)
    if number in _DENIED:
        remedy = "" if os.geteuid() == 0 else "run as root"
        return KernelFileDenied(path, text, number, remedy)
    return KernelFileError(path, text, number)


class KernelRoot:
    """Access to the kernel's files below `prefix`.

    All paths given are absolute kernel paths, without the prefix. The `raw_` methods raise OSError,
    for callers that need the errno; the others raise the tree of `KernelFileError`.
    """

    def __init__(self, prefix: str | Path = "/") -> None:
        self.prefix = Path(prefix).absolute()
        self._start = str(self.prefix).rstrip("/")

    @property
    def is_real(self) -> bool:
        """Whether this is the running kernel, and not a tree made for a test."""
        return not self._start

    def path(self, p: str) -> Path:
        """Where `p` is on this machine."""
        return Path(self._where(p))

    def raw_read(self, p: str) -> str:
        """All of the file `p`. Bytes that are not UTF-8 (names of files, of processes) are
        replaced."""
        descriptor = os.open(self._where(p), os.O_RDONLY | os.O_CLOEXEC)
        try:
            data = os.read(descriptor, _CHUNK)
            parts = [data]
            # only an empty read is the end: seq_files return less than was asked for
            while data:
                data = os.read(descriptor, _CHUNK)
                parts.append(data)
        finally:
            os.close(descriptor)
        return b"".join(parts).decode(errors="replace")

    def raw_write(self, p: str, text: str) -> None:
        """Write `text` to `p` in one write(2): the kernel takes each as one command.

        os.write and not a file object: an unbuffered file's write() answers None on EAGAIN, a
        buffered one raises only on close.
        """
        descriptor = os.open(self._where(p), os.O_WRONLY | os.O_CLOEXEC)
        try:
            data = text.encode()
            if not self.is_real:
                # an ordinary file keeps what is behind the new text; padding replaces it in the
                # same write, so that a test's tree is never seen half written either
                data = data.ljust(os.fstat(descriptor).st_size, b"\n")
            os.write(descriptor, data)
        finally:
            os.close(descriptor)

    def read(self, p: str) -> str:
        """`raw_read` with this project's errors."""
        try:
            return self.raw_read(p)
        except OSError as error:
            raise translate(p, error) from error

    def write(self, p: str, text: str) -> None:
        """`raw_write` with this project's errors."""
        try:
            self.raw_write(p, text)
        except OSError as error:
            raise translate(p, error) from error

    def try_read(self, p: str) -> str | None:
        """`read`, or None when it is not there or not allowed."""
        try:
            return self.read(p)
        except (KernelFileMissing, KernelFileDenied):
            return None

    def exists(self, p: str) -> bool:
        """Whether `p` is there (and may be known to be)."""
        try:
            os.stat(self._where(p))  # noqa: PTH116 - Path.exists raises on EACCES
        except (OSError, ValueError):
            return False
        return True

    def is_dir(self, p: str) -> bool:
        """Whether `p` is a directory."""
        try:
            return stat.S_ISDIR(os.stat(self._where(p)).st_mode)  # noqa: PTH116 - as above
        except (OSError, ValueError):
            return False

    def writable(self, p: str) -> bool:
        """Whether `p` could be opened for writing. access(2) knows of read-only mounts; it does
        not know of lockdown."""
        return os.access(self._where(p), os.W_OK)

    def listdir(self, p: str) -> list[str]:
        """The names in directory `p`, sorted."""
        try:
            return sorted(os.listdir(self._where(p)))  # noqa: PTH208 - names are what is wanted
        except OSError as error:
            raise translate(p, error) from error

    def subdirectories(self, p: str) -> list[str]:
        """The names of the directories in `p`; none when it has vanished or is closed to us."""
        where = self._where(p)
        try:
            # cgroup directories hold some sixty files each: leaves need not be listed
            if os.stat(where).st_nlink == _LINKS_OF_LEAF:  # noqa: PTH116 - in a hot loop
                return []
            with os.scandir(where) as entries:
                return sorted(e.name for e in entries if e.is_dir(follow_symlinks=False))
        except OSError:
            return []

    def readlink(self, p: str) -> str | None:
        """What the symbolic link `p` says, or None when it is none."""
        try:
            return str(self.path(p).readlink())
        except OSError:
            return None

    def attribute(self, p: str, name: str) -> str | None:
        """The extended attribute of that name (xattr(7)), or None when there is none."""
        try:
            return os.getxattr(self._where(p), name, follow_symlinks=False).decode(errors="replace")
        except OSError:
            return None

    def roots_alone(self, p: str) -> bool:
        """Whether nobody but root may change the inode `p`: it is root's, and closed to others."""
        try:
            status = os.stat(self._where(p), follow_symlinks=False)  # noqa: PTH116 - as above
        except OSError:
            return False
        return status.st_uid == 0 and not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)

    def resolve(self, p: str) -> str:
        """`p` with its symbolic links followed. Links that lead out of a relocated root are left
        alone."""
        try:
            real = str(self.path(p).resolve())
        except (OSError, RuntimeError):
            return p
        if self.is_real:
            return real
        start = str(self.prefix.resolve()) + "/"
        return "/" + real.removeprefix(start) if real.startswith(start) else p

    def device_of(self, p: str) -> str:
        """The "MAJ:MIN" of the block device `p`, or of the file system that `p` is on; "" when
        that cannot be told."""
        try:
            status = os.stat(self._where(p))  # noqa: PTH116 - as above
        except (OSError, ValueError):
            return ""
        device = status.st_rdev if stat.S_ISBLK(status.st_mode) else status.st_dev
        return f"{os.major(device)}:{os.minor(device)}"

    def _where(self, p: str) -> str:
        return f"{self._start}/{p.lstrip('/')}"
