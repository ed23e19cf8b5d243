# SPDX-License-Identifier: LGPL-2.1-or-later
"""`/proc/swaps`, and what identifies each area as a resume device (proc(5),
Documentation/power/swsusp-and-swap-files.rst).
"""

from __future__ import annotations

from dataclasses import replace

from hibprep.errors import KernelFileError
from hibprep.kernel.extents import first_page
from hibprep.kernel.mounts import Mount, mount_of, read_mounts
from hibprep.kernel.root import KernelRoot
from hibprep.kernel.text import malformed, signed, unescape, unsigned
from hibprep.model import SwapArea

SWAPS = "/proc/swaps"

_KIB = 1024
_FIELDS = 5
_DELETED = " (deleted)"
_MAX_LAYERS = 16  # of devices upon devices; more than anyone stacks


def parse_swaps(text: str) -> tuple[SwapArea, ...]:
    """The text of the file alone; nothing is looked up. A file that was deleted while in use keeps
    its " (deleted)", so that no other file is taken for it."""
    areas: list[SwapArea] = []
    lines = text.split("\n")
    if not lines[0].startswith("Filename"):
        raise malformed(SWAPS, "the header", lines[0])
    for line in lines[1:]:
        if not line.strip():
            continue
        fields = line.rsplit(maxsplit=_FIELDS - 1)
        if len(fields) != _FIELDS:
            raise malformed(SWAPS, "five columns", line)
        path = unescape(fields[0].strip())
        areas.append(
            SwapArea(
                path=path,
                is_file=fields[1] == "file",
                size_bytes=unsigned(fields[2], SWAPS) * _KIB,
                used_bytes=unsigned(fields[3], SWAPS) * _KIB,
                priority=signed(fields[4], SWAPS),
                is_zram=path.rpartition("/")[2].startswith("zram"),
            )
        )
    return tuple(areas)


def read_swaps(root: KernelRoot) -> tuple[SwapArea, ...]:
    """As they are now, with their devices."""
    areas = parse_swaps(root.read(SWAPS))
    mounts = read_mounts(root) if any(area.is_file for area in areas) else ()
    return tuple(
        _with_file(root, area, mounts) if area.is_file else _with_partition(root, area)
        for area in areas
    )


def is_encrypted(root: KernelRoot, name: str) -> bool | None:
    """Whether block device `name` or one below it is dm-crypt. None: no such device is known."""
    if not root.exists(f"/sys/class/block/{name}"):
        return None
    layer, seen = [name], {name}
    for _ in range(_MAX_LAYERS):
        if any(_is_crypt(root, each) for each in layer):
            return True
        layer = [
            below for each in layer for below in _devices_below(root, each) if below not in seen
        ]
        if not layer:
            return False
        seen.update(layer)
    return None


def _is_crypt(root: KernelRoot, name: str) -> bool:
    return (root.try_read(f"/sys/class/block/{name}/dm/uuid") or "").startswith("CRYPT-")


def _devices_below(root: KernelRoot, name: str) -> list[str]:
    try:
        return root.listdir(f"/sys/class/block/{name}/slaves")
    except KernelFileError:
        pass
    # a partition has no slaves of its own; the whole device's (of a partitioned dm or md) count
    if not root.exists(f"/sys/class/block/{name}/partition"):
        return []
    parent = root.resolve(f"/sys/class/block/{name}").rsplit("/", 2)[-2]
    return [parent] if root.exists(f"/sys/class/block/{parent}") else []


def _kernel_name(root: KernelRoot, path: str) -> str:
    """The name in /sys of the device node `path`; /dev/mapper/x is a link to ../dm-0, and a slash
    in a name (cciss/c0d0p1) is written as an exclamation mark."""
    return root.resolve(path).removeprefix("/dev/").replace("/", "!")


def _name_of_number(root: KernelRoot, device: str) -> str:
    target = root.readlink(f"/sys/dev/block/{device}")
    return "" if target is None else target.rpartition("/")[2]


def _with_partition(root: KernelRoot, area: SwapArea) -> SwapArea:
    name = _kernel_name(root, area.path)
    number = root.try_read(f"/sys/class/block/{name}/dev")
    if number is not None:
        return replace(area, device=number.strip(), encrypted=is_encrypted(root, name))
    if not root.is_real:
        return area
    device = root.device_of(area.path)
    name = _name_of_number(root, device)
    return replace(area, device=device, encrypted=is_encrypted(root, name) if name else None)


def _with_file(root: KernelRoot, area: SwapArea, mounts: tuple[Mount, ...]) -> SwapArea:
    if area.path.endswith(_DELETED):
        return area
    mount = mount_of(mounts, root.resolve(area.path))
    if mount is not None and mount.kind == "btrfs":
        return _with_btrfs_file(root, area, mount)
    device = root.device_of(area.path)
    if device.startswith("0:") or not device:
        # overlayfs, bcachefs and others have no device of their own
        return area
    name = _name_of_number(root, device)
    return replace(
        area,
        device=device,
        offset_pages=_first_page(root, area.path) if root.is_real else None,
        encrypted=is_encrypted(root, name) if name else None,
    )


def _with_btrfs_file(root: KernelRoot, area: SwapArea, mount: Mount) -> SwapArea:
    """Btrfs gives its files an anonymous device number. The device is known when the file system
    has just the one; where the file lies on it is root's to ask."""
    name = _kernel_name(root, mount.source)
    number = root.try_read(f"/sys/class/block/{name}/dev")
    if number is None:
        return area
    try:
        for identifier in root.listdir("/sys/fs/btrfs"):
            path = f"/sys/fs/btrfs/{identifier}/devices"
            if not root.is_dir(path):
                continue
            members = root.listdir(path)
            if name in members and len(members) > 1:
                return area
    except KernelFileError:
        return area
    return replace(
        area,
        device=number.strip(),
        offset_pages=_first_page(root, area.path, is_btrfs=True) if root.is_real else None,
        encrypted=is_encrypted(root, name),
    )


def _first_page(root: KernelRoot, path: str, *, is_btrfs: bool = False) -> int | None:
    """The first physical page of a swap file, as resume_offset wants it."""
    return first_page(root.path(path), is_btrfs=is_btrfs)
