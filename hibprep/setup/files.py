# SPDX-License-Identifier: LGPL-2.1-or-later
"""Files that are replaced as a whole, and put back as they were."""

from __future__ import annotations

import hashlib
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from hibprep.errors import HibprepError
from hibprep.kernel.root import KernelRoot, translate

LARGEST_KEPT_BYTES = 8 << 20


@dataclass(frozen=True, slots=True)
class Kept:
    """A file as it was: None when there was none."""

    path: str
    data: bytes | None


def real_path(root: KernelRoot, path: str) -> str:
    """`path` with its links followed, so that not the link is replaced but what it leads to."""
    found = root.resolve(path)
    if root.path(path).is_symlink() and found == path:
        raise HibprepError(f"{path}: is a link out of {root.prefix}", "replace it by a file")
    return found


def keep(root: KernelRoot, path: str) -> Kept:
    """The file as it is; HibprepError when it cannot be read or is too large to keep."""
    where = root.path(path)
    try:
        if where.stat().st_size > LARGEST_KEPT_BYTES:
            raise HibprepError(f"{path}: is too large to be kept and put back")
        return Kept(path, where.read_bytes())
    except FileNotFoundError:
        return Kept(path, None)
    except OSError as error:
        raise translate(path, error) from error


def missing_directories(root: KernelRoot, path: str) -> tuple[str, ...]:
    """The directories that have to be made for `path`, the outermost first."""
    missing = []
    above = str(Path(path).parent)
    while not root.exists(above):
        missing.append(above)
        above = str(Path(above).parent)
    return tuple(reversed(missing))


def digest(data: bytes) -> str:
    """What tells whether a file is still what was written."""
    return hashlib.sha256(data).hexdigest()


def write(root: KernelRoot, path: str, data: bytes, mode: int) -> None:
    """Give the file this content, in one step; owner, mode and labels stay what they were."""
    where = root.path(path)
    temporary = where.with_name(f".{where.name}.hibprep")
    try:
        for directory in missing_directories(root, path):
            root.path(directory).mkdir(mode=0o755)
        temporary.unlink(missing_ok=True)
        descriptor = os.open(
            temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, mode
        )
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
                file.flush()
                if where.exists():
                    _take_after(where, temporary)
                else:
                    os.fchmod(file.fileno(), mode)  # whatever the umask is
                os.fsync(file.fileno())
            temporary.replace(where)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        _sync(where.parent)
    except OSError as error:
        raise translate(path, error) from error


def put_back(root: KernelRoot, kept: Kept, mode: int) -> None:
    """Have the file again as it was, or not at all."""
    if kept.data is not None:
        if not root.exists(kept.path) or root.path(kept.path).read_bytes() != kept.data:
            write(root, kept.path, kept.data, mode)
        return
    try:
        root.path(kept.path).unlink(missing_ok=True)
        _sync(root.path(kept.path).parent)
    except FileNotFoundError:
        return  # not even its directory
    except OSError as error:
        raise translate(kept.path, error) from error


def _take_after(old: Path, new: Path) -> None:
    status = old.stat()
    os.chown(new, status.st_uid, status.st_gid)
    shutil.copystat(old, new)  # the mode, and labels such as SELinux's
    os.utime(new)  # it is a new one, and programs go by that


def _sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
