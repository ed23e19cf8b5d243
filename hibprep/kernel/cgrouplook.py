# SPDX-License-Identifier: LGPL-2.1-or-later
"""Looks at a whole tree of cgroups (Documentation/admin-guide/cgroup-v2.rst)."""

from __future__ import annotations

from hibprep.bycgroup import Level, level_of
from hibprep.errors import KernelFileMissing
from hibprep.kernel.cgroup import CgroupTree
from hibprep.model import ZswapCgroup


def read_zswap(tree: CgroupTree) -> tuple[ZswapCgroup, ...]:
    """The cgroups with a limit of their own for zswap, and whether they may write to a disk: none
    that is below one that may not may."""
    found: list[ZswapCgroup] = []
    waiting = [(path, True) for path in tree.children("/")]
    while waiting:
        path, allowed = waiting.pop()
        text = tree.root.try_read(tree.file(path, "memory.zswap.writeback"))
        allowed = allowed and (text or "1").strip() != "0"
        max_file = tree.file(path, "memory.zswap.max")
        if tree.root.exists(max_file):
            found.append(ZswapCgroup(path=path, max_file=max_file, writeback=allowed))
        waiting += [(child, allowed) for child in tree.children(path)]
    return tuple(sorted(found, key=lambda each: each.path))


def read_levels(tree: CgroupTree, path: str) -> dict[str, Level]:
    """What `path` and every cgroup below it holds now."""
    found: dict[str, Level] = {}
    waiting = [path]
    while waiting:
        one = waiting.pop()
        try:
            found[one] = level_of(tree.stat(one), tree.swapped_bytes(one))
        except KernelFileMissing:
            continue  # gone, or without the memory controller, as is all below it
        waiting += tree.children(one)
    return found
