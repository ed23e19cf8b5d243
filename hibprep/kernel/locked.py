# SPDX-License-Identifier: LGPL-2.1-or-later
"""Whose memory it is that nothing can reclaim (proc_pid_status(5), Documentation/filesystems/
proc.rst, and `unevictable` in Documentation/admin-guide/cgroup-v2.rst).

Processes tell of mlock(2), memfd_secret(2), pinned and huge pages; cgroups of locked shared memory
(SHM_LOCK) as well, which no process counts as its own. Both are a look at everything there is, and
are taken only where it is worth that.
"""

from __future__ import annotations

from collections.abc import Iterator

from hibprep.errors import KernelFileError
from hibprep.kernel.cgroup import CgroupTree
from hibprep.kernel.process import all_pids, name_of
from hibprep.kernel.root import KernelRoot
from hibprep.kernel.text import malformed, unsigned
from hibprep.model import Holder, Memory

WORTH_ASKING_BYTES = 64 << 20  # or a hundredth of memory, whichever is more
_MOST_HOLDERS = 5  # of each kind
_LEAST_SHARE = 20  # who holds less than this part of what is held is not named

_FIELDS = ("VmLck", "VmPin", "VmRSS", "HugetlbPages")


def read_holders(root: KernelRoot, tree: CgroupTree | None, memory: Memory) -> tuple[Holder, ...]:
    """The processes that hold most, then the cgroups, each the most first. None where little is
    held in all, or nobody can be named."""
    held = max(memory.unevictable_bytes, memory.mlocked_bytes) + memory.hugetlb_bytes
    if held < max(WORTH_ASKING_BYTES, memory.total_bytes // 100):
        return ()
    least = held // _LEAST_SHARE
    processes = (_exact(root, each) for each in _most(_processes(root), least))
    return (
        *sorted(processes, key=_order),
        *(_most(_cgroups(tree, "/", least), least) if tree is not None else ()),
    )


def _most(holders: Iterator[Holder], least: int) -> list[Holder]:
    return sorted((each for each in holders if each.held_bytes >= least), key=_order)[
        :_MOST_HOLDERS
    ]


def _order(holder: Holder) -> tuple[int, int, str]:
    return -holder.held_bytes, holder.pid, holder.name


def _processes(root: KernelRoot) -> Iterator[Holder]:
    for pid in all_pids(root):
        path = f"/proc/{pid}/status"
        sizes = parse_sizes(root.try_read(path) or "", path)
        # What is locked is a range of addresses, and need not be in memory yet (MLOCK_ONFAULT).
        locked = min(max(sizes["VmLck"], sizes["VmPin"]), sizes["VmRSS"])
        if locked or sizes["HugetlbPages"]:
            yield Holder(
                name=name_of(root, pid),
                pid=pid,
                locked_bytes=locked,
                huge_bytes=sizes["HugetlbPages"],
            )


def parse_sizes(text: str, path: str = "/proc/PID/status") -> dict[str, int]:
    """The sizes in a status file that tell of memory that stays, in bytes; 0 for those that are
    not there (kernel threads have none)."""
    found = dict.fromkeys(_FIELDS, 0)
    for line in text.split("\n"):
        name, colon, value = line.partition(":")
        if colon and name in found:
            words = value.split()
            if not words:
                raise malformed(path, f"a size for {name}", line)
            found[name] = unsigned(words[0], path) << 10
    return found


def _exact(root: KernelRoot, holder: Holder) -> Holder:
    """With what is locked *and* in memory, its share of it where others lock the same pages: costs
    a walk of the page tables, so it is asked of the few alone (since 4.14; ptrace(2) rights)."""
    path = f"/proc/{holder.pid}/smaps_rollup"
    try:
        text = root.read(path)
    except KernelFileError:
        return holder
    for line in text.split("\n"):
        if line.startswith("Locked:") and len(line.split()) > 1:
            locked = unsigned(line.split()[1], path) << 10
            # pinned pages are not among them
            return Holder(
                name=holder.name,
                pid=holder.pid,
                locked_bytes=locked or holder.locked_bytes,
                huge_bytes=holder.huge_bytes,
            )
    return holder


def _cgroups(tree: CgroupTree, path: str, least: int) -> Iterator[Holder]:
    """From the top, for as long as there is anything worth telling below."""
    try:
        whole = left = tree.stat(path).get("unevictable", 0)
    except KernelFileError:
        return  # it went away
    if whole < least:
        return
    for child in tree.children(path):
        for holder in _cgroups(tree, child, least):
            left -= holder.locked_bytes
            yield holder
    if path != "/" and left >= least:
        yield Holder(name=path, locked_bytes=left)
