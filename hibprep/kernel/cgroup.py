# SPDX-License-Identifier: LGPL-2.1-or-later
"""The cgroup v2 tree with the memory controller (Documentation/admin-guide/cgroup-v2.rst).

Cgroups come and go while the tree is walked; one that is gone is left out.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from hibprep.errors import KernelFileError, KernelFileMissing, UsageError
from hibprep.kernel.mounts import read_mounts
from hibprep.kernel.root import KernelRoot
from hibprep.kernel.text import unsigned
from hibprep.model import Cgroup, Label

LABEL = "user.hibprep.rule"

# what an unlimited `max` becomes where a number is needed
_UNLIMITED = 1 << 63


class FoundTree(NamedTuple):
    """The tree, or why there is none."""

    tree: CgroupTree | None
    reason: str


def find_cgroup2(root: KernelRoot) -> FoundTree:
    """The cgroup v2 hierarchy, if the memory controller is in it.

    On a v1 or hybrid host cgroup2 may be mounted and have no controller: memory is either here or
    there, never in both.
    """
    seen_v2 = seen_v1 = False
    for mount in reversed(read_mounts(root)):
        if mount.kind == "cgroup":
            seen_v1 = seen_v1 or "memory" in mount.super_options
        if mount.kind != "cgroup2":
            continue
        seen_v2 = True
        controllers = root.try_read(f"{mount.point.rstrip('/')}/cgroup.controllers")
        if controllers is not None and "memory" in controllers.split():
            tree = CgroupTree(
                root,
                mount.point,
                recursive_protection="memory_recursiveprot" in mount.super_options,
            )
            return FoundTree(tree, f"cgroup v2 with the memory controller at {mount.point}")
    if seen_v1:
        return FoundTree(
            None,
            "the memory controller is in cgroup v1; boot with systemd.unified_cgroup_hierarchy=1",
        )
    if seen_v2:
        return FoundTree(
            None,
            "cgroup v2 is mounted without the memory controller; see cgroup_disable= on the "
            "kernel command line",
        )
    return FoundTree(None, "cgroup v2 is not mounted; mount it at /sys/fs/cgroup")


def parse_memory_stat(text: str, path: str = "memory.stat") -> dict[str, int]:
    """memory.stat: sizes in bytes, events in pages or counts."""
    values: dict[str, int] = {}
    for line in text.split("\n"):
        if not line:
            continue
        name, _, value = line.partition(" ")
        values[name] = unsigned(value, path)
    return values


def parse_limit(text: str, path: str = "memory.max") -> int | None:
    """A limit in bytes; None for "max"."""
    word = text.strip()
    return None if word == "max" else unsigned(word, path)


class CgroupTree:
    """The tree below `mount` (the mount point, without the root prefix). Cgroups are named by
    their path in it; "/" is the root, which has no limits and no memory.current of its own."""

    def __init__(self, root: KernelRoot, mount: str, *, recursive_protection: bool = False) -> None:
        self.root = root
        self.mount = "/" + mount.strip("/")
        self.recursive_protection = recursive_protection

    def directory(self, path: str) -> str:
        """The directory of cgroup `path`."""
        inside = path.strip("/")
        return f"{self.mount}/{inside}" if inside else self.mount

    def file(self, path: str, name: str) -> str:
        """The file `name` of cgroup `path`."""
        return f"{self.directory(path)}/{name}"

    def exists(self, path: str) -> bool:
        """Whether there is such a cgroup now."""
        return self.root.is_dir(self.directory(path))

    def validate(self, path: str) -> str:
        """The cgroup that a person means with "/user.slice", "user.slice" or
        "/sys/fs/cgroup/user.slice"."""
        if not path.isprintable() or not path.strip():
            raise UsageError(f"{path!r} is no cgroup", "name one such as /user.slice")
        inside = path
        if path == self.mount or path.startswith(self.mount + "/"):
            inside = path[len(self.mount) :]
        parts = [part for part in inside.split("/") if part not in ("", ".")]
        if ".." in parts:
            raise UsageError(f'cgroup {path}: ".." is not taken', "give the path from the root")
        name = "/" + "/".join(parts)
        directory = self.directory(name)
        if not self.root.is_dir(directory):
            raise KernelFileMissing(
                directory, f"there is no cgroup {name}", remedy="systemd-cgls lists what there is"
            )
        if name != "/" and not self.root.exists(f"{directory}/memory.current"):
            raise KernelFileMissing(
                directory,
                f"cgroup {name} has no memory controller",
                remedy="name a cgroup above it, or set MemoryAccounting=yes on its unit",
            )
        return name

    def read(self, path: str) -> Cgroup:
        """One cgroup, as it is now. The root's memory is put together from memory.stat."""
        directory = self.directory(path)
        current_path = f"{directory}/memory.current"
        text = self.root.try_read(current_path)
        if text is not None:
            current = unsigned(text.strip(), current_path)
        elif path.strip("/"):
            # says whether it is missing or denied
            self.root.read(current_path)
            raise KernelFileMissing(current_path, "came and went")
        else:
            stat = self.stat(path)
            # `kernel` has slab, stacks and page tables in it since 5.18
            kernel = stat.get("kernel", stat.get("slab", 0))
            current = stat.get("anon", 0) + stat.get("file", 0) + kernel
        return Cgroup(
            path="/" + path.strip("/"),
            current_bytes=current,
            min_bytes=self._limit(directory, "memory.min", 0),
            low_bytes=self._limit(directory, "memory.low", 0),
            swap_current_bytes=self._limit(directory, "memory.swap.current", 0),
            swap_max_bytes=self._optional_limit(directory, "memory.swap.max"),
        )

    def children(self, path: str) -> list[str]:
        """The cgroups directly below."""
        start = path.rstrip("/")
        return [f"{start}/{name}" for name in self.root.subdirectories(self.directory(path))]

    def walk(self, path: str = "/") -> Iterator[Cgroup]:
        """`path` and everything below it that has memory accounting, parents first."""
        try:
            cgroup = self.read(path)
        except KernelFileMissing:
            return
        yield cgroup
        for child in self.children(path):
            yield from self.walk(child)

    def stat(self, path: str) -> dict[str, int]:
        """memory.stat, which has everything below in it."""
        file = self.file(path, "memory.stat")
        return parse_memory_stat(self.root.read(file), file)

    def label(self, path: str) -> Label | None:
        """The rule that the folder of `path` carries (kernfs has `user.` attributes since 5.7)."""
        directory = self.directory(path)
        text = self.root.attribute(directory, LABEL)
        if text is None:
            return None
        return Label(text=text.strip("\0\n "), by_root=self.root.roots_alone(directory))

    def pids(self, path: str) -> tuple[int, ...]:
        """All processes in `path` and below."""
        found: list[int] = []
        waiting = [path]
        while waiting:
            cgroup = waiting.pop()
            file = self.file(cgroup, "cgroup.procs")
            try:
                text = self.root.read(file)
            except KernelFileError:
                # gone, or threaded, which answers EOPNOTSUPP: its processes are listed above it
                text = ""
            # 0 is a process of another pid namespace
            found += [pid for pid in (unsigned(word, file) for word in text.split()) if pid]
            waiting += self.children(cgroup)
        return tuple(sorted(found))

    def protected_bytes(self) -> int:
        """What reclaim from the root can never touch: memory.min, as far as it is used and as far
        as the cgroups above grant it."""
        return sum(self._protected(child, _UNLIMITED) for child in self.children("/"))

    def swap_barred_bytes(self) -> int:
        """Anonymous memory (shmem included) that finds no room under memory.swap.max. An estimate:
        a limit is looked for from the top, and what is below it is not looked at again."""
        total = 0
        waiting = self.children("/")
        while waiting:
            path = waiting.pop()
            directory = self.directory(path)
            try:
                limit = self._optional_limit(directory, "memory.swap.max")
                if limit is None:
                    waiting += self.children(path)
                    continue
                room = max(0, limit - self._limit(directory, "memory.swap.current", 0))
                stat = self.stat(path)
            except KernelFileMissing:
                continue
            total += max(0, stat.get("anon", 0) + stat.get("shmem", 0) - room)
        return total

    def losable_bytes(self, path: str, *, to_swap: bool, low: bool = False) -> int:
        """How much memory.min (with `low` memory.low too) and, `to_swap`, memory.swap.max let
        `path` lose: its own and those of all above it. Reclaim that names a cgroup is not held
        back by what is set on that cgroup itself, nor by what is set above it."""
        room = _UNLIMITED
        parts = [part for part in path.split("/") if part]
        for depth in range(1, len(parts) + 1):
            try:
                cgroup = self.read("/" + "/".join(parts[:depth]))
            except KernelFileError:
                return 0  # it went away; its memory is somebody else's by now
            floor = max(cgroup.min_bytes, cgroup.low_bytes if low else 0)
            if floor:
                room = min(room, cgroup.current_bytes - floor)
            if to_swap and cgroup.swap_max_bytes is not None:
                room = min(room, cgroup.swap_max_bytes - cgroup.swap_current_bytes)
        return max(0, room)

    def room_bytes(self, path: str) -> int | None:
        """How much `path` may gain until memory.high or memory.max, its own or that of a cgroup
        above it, makes it give back what it has; None where nothing is set."""
        room: int | None = None
        parts = [part for part in path.split("/") if part]
        for depth in range(1, len(parts) + 1):
            directory = self.directory("/" + "/".join(parts[:depth]))
            limits = [
                limit
                for name in ("memory.high", "memory.max")
                if (limit := self._optional_limit(directory, name)) is not None
            ]
            if limits:
                left = max(0, min(limits) - self._limit(directory, "memory.current", 0))
                room = left if room is None else min(room, left)
        return room

    def _protected(self, path: str, granted: int) -> int:
        directory = self.directory(path)
        own = self._limit(directory, "memory.min", 0)
        if not own:
            # a child's protection is bounded by its parent's
            return 0
        granted = min(granted, own, self._limit(directory, "memory.current", 0))
        if self.recursive_protection:
            # what no child claims protects all of them (mount option memory_recursiveprot)
            return granted
        children = self.children(path)
        if not children:
            return granted
        return min(granted, sum(self._protected(child, granted) for child in children))

    def swapped_bytes(self, path: str) -> int:
        """Its memory.swap.current; 0 where there is none."""
        return self._limit(self.directory(path), "memory.swap.current", 0)

    def _limit(self, directory: str, name: str, default: int) -> int:
        path = f"{directory}/{name}"
        text = self.root.try_read(path)
        if text is None:
            return default
        limit = parse_limit(text, path)
        return _UNLIMITED if limit is None else limit

    def _optional_limit(self, directory: str, name: str) -> int | None:
        path = f"{directory}/{name}"
        text = self.root.try_read(path)
        return None if text is None else parse_limit(text, path)
