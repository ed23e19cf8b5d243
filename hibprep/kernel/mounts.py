# SPDX-License-Identifier: LGPL-2.1-or-later
"""`/proc/self/mountinfo` (Documentation/filesystems/proc.rst, section 3.5)."""

from __future__ import annotations

from typing import NamedTuple

from hibprep.kernel.root import KernelRoot
from hibprep.kernel.text import malformed, unescape

MOUNTINFO = "/proc/self/mountinfo"

_FIXED_FIELDS = 6  # id, parent, device, root, mount point, options; then optional ones up to "-"
_TRAILING_FIELDS = 3


class Mount(NamedTuple):
    """One mount."""

    device: str  # "MAJ:MIN" as stat(2) gives it for files there, except on btrfs
    root: str  # what of the file system is mounted
    point: str
    options: frozenset[str]
    kind: str  # ext4, cgroup2, …
    source: str
    super_options: frozenset[str]


def parse_mountinfo(text: str) -> tuple[Mount, ...]:
    """All mounts, the later ones on top of the earlier."""
    mounts: list[Mount] = []
    for line in text.split("\n"):
        # fields are parted by single spaces, and a source may be empty
        fields = line.split(" ")
        if fields == [""]:
            continue
        try:
            dash = fields.index("-", _FIXED_FIELDS)
        except ValueError:
            raise malformed(MOUNTINFO, 'a " - " between the fields', line) from None
        trailing = fields[dash + 1 :]
        if len(trailing) < _TRAILING_FIELDS:
            raise malformed(MOUNTINFO, "type, source and options", line)
        mounts.append(
            Mount(
                device=fields[2],
                root=unescape(fields[3]),
                point=unescape(fields[4]),
                options=frozenset(fields[5].split(",")),
                kind=trailing[0],
                source=unescape(trailing[1]),
                super_options=frozenset(trailing[2].split(",")),
            )
        )
    return tuple(mounts)


def read_mounts(root: KernelRoot) -> tuple[Mount, ...]:
    """As they are for this process; none when the file cannot be had."""
    text = root.try_read(MOUNTINFO)
    return () if text is None else parse_mountinfo(text)


def mount_of(mounts: tuple[Mount, ...], path: str) -> Mount | None:
    """The mount that holds `path` (absolute, without symbolic links)."""
    best: Mount | None = None
    for mount in mounts:
        start = mount.point.rstrip("/") + "/"
        covers = path == mount.point or path.startswith(start)
        if covers and (best is None or len(mount.point) >= len(best.point)):
            best = mount
    return best
