# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a plan for a swap file is made from: the disk that it would be on, the boot loader."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass

from hibprep.errors import KernelFileError, UsageError
from hibprep.kernel.mounts import mount_of, read_mounts
from hibprep.kernel.root import KernelRoot, translate
from hibprep.kernel.snapshot import read_snapshot
from hibprep.model import Snapshot
from hibprep.system import blocks
from hibprep.system.bootloader import Loader, find_loaders
from hibprep.system.initramfs import Initramfs, read_initramfs

FSTAB = "/etc/fstab"
_SELINUX = "/sys/fs/selinux/enforce"


@dataclass(frozen=True, slots=True, kw_only=True)
class SwapFacts:
    """What a plan is made from."""

    snapshot: Snapshot
    path: str
    is_there: bool  # something is, at that path
    directory_is_there: bool
    directory_is_ours: bool = True  # nobody but root can put another file in its place
    kind: str  # of the file system
    source: str  # what it is on
    device: str  # "MAJ:MIN" of that; "" when it is none, or more than one
    uuid: str
    available_bytes: int
    disk_bytes: int
    fstab: str
    loaders: tuple[Loader, ...] = ()
    initramfs: Initramfs | None = None
    selinux: bool = False


def gather(root: KernelRoot, path: str) -> SwapFacts:
    """Look at this machine. KernelFileError when memory, swap or the disk cannot be looked at."""
    _refuse_odd(path)
    above = os.path.dirname(path) or "/"  # noqa: PTH120 - of the root's paths, not of ours
    real = root.resolve(above)
    mount = mount_of(read_mounts(root), real)
    kind = mount.kind if mount is not None else ""
    device = ""
    if mount is not None:
        # btrfs gives its files no number of a device; its mount names one
        device = blocks.number_of(root, mount.source) if kind == "btrfs" else mount.device
    available = total = 0
    if root.is_dir(above):
        try:
            status = os.statvfs(root.path(above))
        except OSError as error:
            raise translate(above, error) from error
        available = status.f_bavail * status.f_frsize
        total = status.f_blocks * status.f_frsize
    if kind == "btrfs" and _btrfs_disks(root, device) > 1:
        device = ""
    return SwapFacts(
        snapshot=read_snapshot(root),
        path=path,
        is_there=root.exists(path) or root.readlink(path) is not None,
        directory_is_there=root.is_dir(above),
        directory_is_ours=_is_ours(root, real),
        kind=kind,
        source=mount.source if mount is not None else "",
        device=device,
        uuid=blocks.uuid_of(root, device) if device else "",
        available_bytes=available,
        disk_bytes=total,
        fstab=root.try_read(FSTAB) or "",
        loaders=find_loaders(root),
        initramfs=read_initramfs(root),
        selinux=root.exists(_SELINUX),
    )


def _refuse_odd(path: str) -> None:
    if not path.startswith("/") or os.path.normpath(path) != path or path == "/":
        raise UsageError(f"--path {path} is no absolute path", "give one such as /swapfile")
    if not path.isprintable():
        raise UsageError("--path has letters that cannot be printed", "give one without")


def _is_ours(root: KernelRoot, directory: str) -> bool:
    """Whether it and all above it belong to root (or who runs this), and are nobody else's to
    write to."""
    while True:
        try:
            status = root.path(directory).stat()
        except OSError:
            return True  # there is none, which is said elsewhere
        writable = status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
        if status.st_uid not in (0, os.geteuid()) or writable:
            return False
        if directory == "/":
            return True
        directory = os.path.dirname(directory)  # noqa: PTH120 - of the root's paths, not of ours


def _btrfs_disks(root: KernelRoot, device: str) -> int:
    """How many devices the btrfs that has `device` is on; 1 when that cannot be told."""
    name = blocks.name_of(root, device).removeprefix("/dev/")
    try:
        for identifier in root.listdir("/sys/fs/btrfs"):
            path = f"/sys/fs/btrfs/{identifier}/devices"
            if root.is_dir(path) and name in (members := root.listdir(path)):
                return len(members)
    except KernelFileError:
        return 1
    return 1
