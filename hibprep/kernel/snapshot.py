# SPDX-License-Identifier: LGPL-2.1-or-later
"""Everything a plan is made from, read at one moment (Documentation/filesystems/proc.rst and
Documentation/admin-guide/sysctl/vm.rst for what is not in a module of its own)."""

from __future__ import annotations

import os

from hibprep.kernel.cgroup import CgroupTree, find_cgroup2
from hibprep.kernel.damon_around import stat_runs
from hibprep.kernel.kidled import read_period_seconds
from hibprep.kernel.lrugen import read_enabled, try_generations
from hibprep.kernel.meminfo import read_meminfo
from hibprep.kernel.power import read_power
from hibprep.kernel.root import KernelRoot
from hibprep.kernel.swaps import read_swaps
from hibprep.kernel.text import malformed, unsigned
from hibprep.kernel.zoneinfo import read_zoneinfo
from hibprep.kernel.zram import read_zram
from hibprep.model import Snapshot

LAPTOP_MODE = "/proc/sys/vm/laptop_mode"
ONLINE_CPUS = "/sys/devices/system/cpu/online"
OWN_SIZE = "/proc/self/statm"
ZSWAP_ENABLED = "/sys/module/zswap/parameters/enabled"


def parse_cpu_list(text: str) -> int:
    """How many CPUs there are in a list such as "0-3,5"."""
    count = 0
    for part in text.strip().split(","):
        first, dash, last = part.partition("-")
        low = unsigned(first, ONLINE_CPUS)
        high = unsigned(last, ONLINE_CPUS) if dash else low
        if high < low:
            raise malformed(ONLINE_CPUS, "a range", part)
        count += high - low + 1
    return count


def own_bytes(root: KernelRoot) -> int:
    """Resident memory of this process that it shares with no other (proc_pid_statm(5)); 0 on
    another machine's tree."""
    words = (root.try_read(OWN_SIZE) or "").split()
    if not root.is_real or len(words) < 3:  # noqa: PLR2004 - size, resident, shared
        return 0
    resident, shared = unsigned(words[1], OWN_SIZE), unsigned(words[2], OWN_SIZE)
    return max(0, resident - shared) * os.sysconf("SC_PAGE_SIZE")


def read_snapshot(root: KernelRoot, tree: CgroupTree | None = None) -> Snapshot:
    """All of it. What this kernel does not have is empty or 0; only memory, its zones and the swap
    areas have to be there. Without `tree` the cgroups are looked for."""
    if tree is None:
        tree = find_cgroup2(root).tree
    # the fast-changing ones next to each other: a plan compares them
    memory = read_meminfo(root)
    zones = read_zoneinfo(root)
    swaps = read_swaps(root)
    laptop_mode = root.try_read(LAPTOP_MODE)
    cpus = root.try_read(ONLINE_CPUS)
    return Snapshot(
        page_size=os.sysconf("SC_PAGE_SIZE"),
        memory=memory,
        zones=zones,
        swaps=swaps,
        power=read_power(root),
        generations=try_generations(root),
        protected_bytes=tree.protected_bytes() if tree else 0,
        swap_barred_bytes=tree.swap_barred_bytes() if tree else 0,
        zram_used_bytes=sum(each.used_bytes for each in read_zram(root)),
        zswap_enabled=(root.try_read(ZSWAP_ENABLED) or "").strip() in ("Y", "1"),
        lru_gen_enabled=read_enabled(root),
        damon_stat=stat_runs(root),
        kidled_period_seconds=read_period_seconds(root) or 0,
        laptop_mode=0 if laptop_mode is None else unsigned(laptop_mode.strip(), LAPTOP_MODE),
        own_bytes=own_bytes(root),
        cpus=(os.cpu_count() or 1) if cpus is None else parse_cpu_list(cpus),
    )
