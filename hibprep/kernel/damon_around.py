# SPDX-License-Identifier: LGPL-2.1-or-later
"""What is around DAMON_RECLAIM: free memory, System RAM, and who else uses DAMON.

Documentation/mm/damon/design.rst ("Special-purpose Access-aware Kernel Modules"); DAMON_STAT is
there from 6.17 on and needs nothing to be switched on, DAMON_LRU_SORT from 6.0 on.
"""

from __future__ import annotations

import os
import re

from hibprep.clock import Clock
from hibprep.damon.state import Holder, ReclaimState, Surroundings
from hibprep.errors import KernelFileError
from hibprep.kernel.damon_reclaim import committed_inputs
from hibprep.kernel.meminfo import read_meminfo
from hibprep.kernel.patience import patiently
from hibprep.kernel.process import start_time
from hibprep.kernel.root import KernelRoot

RELEASE = "/proc/sys/kernel/osrelease"
STAT_ENABLED = "/sys/module/damon_stat/parameters/enabled"
SORT_ENABLED = "/sys/module/damon_lru_sort/parameters/enabled"
KDAMONDS = "/sys/kernel/mm/damon/admin/kdamonds"

_MODULES = (("DAMON_STAT", STAT_ENABLED), ("DAMON_LRU_SORT", SORT_ENABLED))
_RAM = re.compile(r"^([0-9a-f]{1,16})-([0-9a-f]{1,16}) : System RAM$", re.MULTILINE)
_VERSION = re.compile(r"([0-9]{1,4})\.([0-9]{1,4})")


def kernel_version(root: KernelRoot) -> tuple[int, int]:
    """Its first two numbers; (0, 0) when they cannot be told."""
    found = _VERSION.match(root.try_read(RELEASE) or "")
    return (int(found[1]), int(found[2])) if found else (0, 0)


def system_ram(root: KernelRoot) -> tuple[tuple[int, int], ...]:
    """Where memory is, from /proc/iomem; none without root, to whom alone it tells addresses."""
    found = _RAM.findall(root.try_read("/proc/iomem") or "")
    ranges = tuple((int(start, 16), int(end, 16) + 1) for start, end in found)
    return tuple(each for each in ranges if each[0] + 1 < each[1])


def stat_runs(root: KernelRoot) -> bool:
    """Whether DAMON_STAT does, as it does by default where it is built in."""
    return (root.try_read(STAT_ENABLED) or "").strip() == "Y"


def holders(root: KernelRoot) -> tuple[Holder, ...]:
    """The users of DAMON that run now, DAMON_RECLAIM left out."""
    found = [
        Holder(name, pid=_number(root, f"{path[:-7]}kdamond_pid"), switch=path)
        for name, path in _MODULES
        if (root.try_read(path) or "").strip() == "Y"
    ]
    for name in root.subdirectories(KDAMONDS):
        directory = f"{KDAMONDS}/{name}"
        if (patiently(root.try_read, f"{directory}/state") or "").strip() == "on":
            pid = patiently(_number, root, f"{directory}/pid")
            found.append(Holder(f"kdamond {name} of {KDAMONDS}", pid=pid))
    return tuple(found)


def surroundings(root: KernelRoot, state: ReclaimState, clock: Clock) -> Surroundings:
    """All of it as it is now."""
    memory = read_meminfo(root)
    return Surroundings(
        kernel=kernel_version(root),
        total_bytes=memory.total_bytes,
        free_bytes=memory.free_bytes,
        swap_free_bytes=memory.swap_free_bytes,
        page=os.sysconf("SC_PAGE_SIZE"),
        ram=system_ram(root),
        holders=holders(root),
        running_seconds=_running_seconds(root, state.kdamond_pid, clock),
        committed=committed_inputs(root, state),
    )


def _running_seconds(root: KernelRoot, pid: int, clock: Clock) -> float | None:
    """How long it has run; starts are counted in CLOCK_BOOTTIME (proc_pid_stat(5))."""
    try:
        ticks = start_time(root, pid) if pid > 0 else None
    except KernelFileError:
        return None
    if ticks is None:
        return None
    return max(0.0, clock.boottime() - ticks / os.sysconf("SC_CLK_TCK"))


def _number(root: KernelRoot, path: str) -> int:
    word = (root.try_read(path) or "").strip()
    return int(word) if re.fullmatch(r"[0-9]{1,9}", word) else -1
