# SPDX-License-Identifier: LGPL-2.1-or-later
"""What `hibprep coldpgs` does on kernels that have kidled and coldpgs: shows what they know and how
they are set, sets them until the next boot, and has swapped-out memory brought back by the kernel.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable
from dataclasses import dataclass

from hibprep.errors import KernelFileError, KernelFileMissing, NotPossibleError, UsageError
from hibprep.kernel import coldpgs, kidled, lrugen
from hibprep.kernel.cgroup import CgroupTree
from hibprep.kernel.lock import RunLock
from hibprep.kernel.meminfo import read_meminfo
from hibprep.kernel.pagemap import PAGE
from hibprep.kernel.snapshot import ZSWAP_ENABLED
from hibprep.kernel.vmstat import read_pages_in
from hibprep.kernel.zoneinfo import read_zoneinfo
from hibprep.machine import Machine
from hibprep.model import MACHINE, Ending, Kind, Scope, ScopeKind
from hibprep.reclaim.base import Stop
from hibprep.reclaim.worker import ProcessWorker
from hibprep.swapin_pace import reserve_bytes

KINDS = (Kind.FILE, Kind.ANON, Kind.SLAB)
SCANS = {"pages": 1, "slab": 2, "both": 3}


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """What is to be set; None is left as it is. `buckets` are those of the cgroup `path`, and none
    at all ends the counting there."""

    period_seconds: int | None = None
    scan: str | None = None  # of SCANS
    hierarchy: bool | None = None
    batch: int | None = None
    mlocked: bool | None = None
    threshold_nonrot: int | None = None
    zswap: bool | None = None
    buckets: tuple[int, ...] | None = None
    path: str = "/"


@dataclass(frozen=True, slots=True, kw_only=True)
class CgroupAges:
    """How old the memory of one cgroup is by kind, in bytes from each bucket's age on; and what
    coldpgs has taken of it so far."""

    path: str
    edges_seconds: tuple[int, ...]
    bytes_by_kind: dict[str, tuple[int, ...]]
    statistics: dict[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """How both are set, and what they know."""

    version: str
    takes: tuple[str, ...]  # of cache, anon, slab; as the last command had it
    mlocked: bool
    batch_pages: int
    hierarchy: bool
    threshold_periods: int  # the last one for all cgroups; 0: none yet
    threshold_nonrot_periods: int
    period_seconds: int  # 0: kidled is off
    cgroups: tuple[CgroupAges, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class SwappedIn:
    """What bringing memory back came to; `read_bytes` from the machine's counters."""

    ending: Ending
    reason: str
    swapped_bytes: int
    read_bytes: int


def state(machine: Machine) -> State:
    """As they are now. Raises NotPossibleError on other kernels."""
    tree = _tree(machine)
    found = []
    waiting = ["/"]
    while waiting:
        path = waiting.pop()
        waiting += reversed(tree.children(path))
        try:
            found.append(_ages(machine, tree, path))
        except KernelFileMissing:  # it went away, or has no memory of its own
            continue
    settings = coldpgs.read_settings(machine.root)
    return State(
        version=settings.version,
        takes=tuple(str(mode.name).lower() for mode in coldpgs.Mode if mode in settings.mode),
        mlocked=coldpgs.Flag.MLOCKED in settings.flags,
        batch_pages=settings.batch,
        hierarchy=settings.hierarchy,
        threshold_periods=settings.threshold,
        threshold_nonrot_periods=settings.threshold_nonrot,
        period_seconds=kidled.read_period_seconds(machine.root) or 0,
        cgroups=tuple(found),
    )


def _ages(machine: Machine, tree: CgroupTree, path: str) -> CgroupAges:
    directory = tree.directory(path)
    stats = kidled.read_idle_stats(machine.root, directory, local=True)
    return CgroupAges(
        path=path,
        edges_seconds=tuple(each * stats.period_seconds for each in stats.buckets),
        bytes_by_kind={str(kind): stats.of(kind, mlocked=True) for kind in KINDS if stats.of(kind)},
        statistics=coldpgs.read_statistics(machine.root, directory, PAGE).own,
    )


def change(machine: Machine, wanted: Change) -> tuple[str, ...]:
    """Set what is wanted, all of it or nothing, until the next boot; what was set, in words.

    What is so already is not written: a scan period that is written clears every age that kidled
    has found. Raises UsageError before anything is written, NotPossibleError on other kernels.
    """
    with RunLock(machine.root):
        writes = [each for each in _writes(machine, wanted) if not each.is_so]
        done: list[_Write] = []
        try:
            for each in writes:
                machine.root.write(each.path, each.text)
                done.append(each)
        except KernelFileError as error:
            left = _undo(machine, done)
            raise _explained(machine, error, left) from error
    return tuple(f"{each.path} is {each.text.strip() or 'empty'}" for each in writes)


@dataclass(frozen=True, slots=True)
class _Write:
    path: str
    text: str
    before: str

    @property
    def is_so(self) -> bool:
        """Whether it reads like that already."""
        return self.before == self.text.strip()


def _writes(machine: Machine, wanted: Change) -> Iterable[_Write]:
    root, tree = machine.root, _tree(machine)
    settings = coldpgs.read_settings(root)
    directory = tree.directory(wanted.path)
    plain: list[tuple[str, int | None, int, int]] = [
        (kidled.TARGET_FILE, SCANS[wanted.scan] if wanted.scan else None, 1, 3),
        (kidled.PERIOD_FILE, wanted.period_seconds, 0, kidled.MAX_PERIOD_SECONDS),
        (coldpgs.BATCH_FILE, wanted.batch, 1, coldpgs.MAX_BATCH),
        (coldpgs.NONROT_FILE, wanted.threshold_nonrot, 0, coldpgs.MAX_THRESHOLD),
    ]
    if wanted.hierarchy is not None:
        files = [coldpgs.HIERARCHY_FILE, kidled.HIERARCHY_FILE]
        # later kernels tell both apart by two files instead
        plain += [(file, int(wanted.hierarchy), 0, 1) for file in files if root.exists(file)]
    found = []
    for path, value, least, most in plain:
        if value is not None:
            if not least <= value <= most:
                raise UsageError(f"{path}: {value} is out of range", f"give {least} to {most}")
            found.append(_Write(path, f"{value}\n", root.read(path).strip()))
    if wanted.mlocked is not None:
        mlocked = coldpgs.Flag.MLOCKED
        flags = settings.flags | mlocked if wanted.mlocked else settings.flags & ~mlocked
        found.append(_Write(coldpgs.FLAGS_FILE, f"0x{flags:x}\n", f"0x{settings.flags:x}"))
    if wanted.zswap is not None:
        switch = "Y" if wanted.zswap else "N"
        found.append(_Write(ZSWAP_ENABLED, f"{switch}\n", root.read(ZSWAP_ENABLED).strip()))
    if wanted.buckets is not None:
        before = kidled.read_idle_stats(root, directory, local=True).buckets
        text = _buckets_text(wanted.buckets)
        found.append(
            _Write(f"{directory}/{kidled.STATS}", text, kidled.buckets_text(before).strip())
        )
    return found


def _buckets_text(buckets: tuple[int, ...]) -> str:
    try:
        return kidled.buckets_text(buckets)
    except ValueError as error:
        raise UsageError(str(error)) from error


def _undo(machine: Machine, done: list[_Write]) -> str:
    """Put back what was written; what could not be, in words."""
    for each in reversed(done):
        try:
            machine.root.write(each.path, f"{each.before}\n")
        except KernelFileError as error:
            return f"; {each.path} could not be put back to {each.before}: {error}"
    return ""


def _explained(machine: Machine, error: KernelFileError, left: str) -> NotPossibleError:
    if error.path == kidled.PERIOD_FILE and lrugen.read_enabled(machine.root):
        return NotPossibleError(
            f"{error}{left}",
            "kidled and the multi-gen LRU exclude each other here; "
            f"write n to {lrugen.ENABLED_FILE} first",
        )
    remedy = " (another change is under way)" if error.errno == errno.EBUSY else ""
    return NotPossibleError(f"{error}{remedy}{left}", "nothing was changed" if not left else "")


def _tree(machine: Machine) -> CgroupTree:
    if not machine.root.exists(coldpgs.VERSION_FILE):
        raise NotPossibleError(
            f"no {coldpgs.DIRECTORY}",
            "kernels of OpenAnolis and Alibaba Cloud have it (modprobe coldpgs there); on others "
            "hibprep works by the multi-gen LRU",
        )
    tree = coldpgs.find_tree(machine.root, machine.tree)
    if tree is None:
        raise NotPossibleError("there are no cgroups with the memory controller", "mount them")
    return tree


def named(machine: Machine, path: str | None) -> Scope:
    """The scope for what a person called a cgroup, of v1 too; raises when there is none."""
    if path is None:
        return MACHINE
    tree = _tree(machine)
    name = "/" + path.removeprefix(tree.mount).strip("/")
    if ".." in name.split("/") or not tree.exists(name):
        raise UsageError(f"there is no cgroup {path}", "systemd-cgls lists what there is")
    return Scope(ScopeKind.CGROUP, name)


def swap_in(machine: Machine, scope: Scope, stop: Stop) -> SwappedIn:
    """Have the kernel bring back all of `scope` from swap and zswap. It knows no bound, so that all
    of it has to fit into free memory, and into the cgroup's own limits; else NotPossibleError."""
    tree = _tree(machine)
    path = coldpgs.SWAPIN_FILE
    if scope.kind is ScopeKind.CGROUP:
        path = tree.file(scope.path, coldpgs.CGROUP_SWAPIN)
    with RunLock(machine.root):
        swapped, room = _swapped_bytes(machine, tree, scope), _room_bytes(machine, scope)
        if swapped > room:
            raise NotPossibleError(
                f"{swapped} bytes are in swap, and there is room for {room}",
                "hibprep swapin brings back as much as fits",
            )
        before = read_pages_in(machine.root)
        worker = ProcessWorker(str(machine.root.prefix), machine.clock)
        try:
            result = worker.write(path, coldpgs.SWAPIN, stop)
        finally:
            worker.close()
        read = read_pages_in(machine.root).since(before).swap_bytes
    ending, reason = Ending.DONE, "all that there was"
    if result.stopped:
        ending = Ending.DEADLINE if stop.timed_out else Ending.INTERRUPTED
        reason = stop.reason
    elif result.errno:  # EIO for whatever stood in its way
        ending, reason = Ending.FAILED, f"the kernel gave up: {errno.errorcode[result.errno]}"
    return SwappedIn(ending=ending, reason=reason, swapped_bytes=swapped, read_bytes=read)


def _swapped_bytes(machine: Machine, tree: CgroupTree, scope: Scope) -> int:
    """What is in swap, of a cgroup with all below it; where that is not told, of everybody."""
    memory = read_meminfo(machine.root)
    everybody = memory.swap_total_bytes - memory.swap_free_bytes
    if scope.kind is ScopeKind.CGROUP and machine.tree is not None and scope.path != "/":
        return min(everybody, tree.read(scope.path).swap_current_bytes)
    return everybody


def _room_bytes(machine: Machine, scope: Scope) -> int:
    memory = read_meminfo(machine.root)
    room = memory.free_bytes - reserve_bytes(memory, read_zoneinfo(machine.root), PAGE)
    if scope.kind is ScopeKind.CGROUP and machine.tree is not None:
        own = machine.tree.room_bytes(scope.path)
        room = room if own is None else min(room, own)
    return max(0, room)
