# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the fake kernel's longer files say, in the words of the real ones."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields

from hibprep.model import Vmstat
from tests.fakes.state import GIB, KIB, FakeCgroup, FakeSwap, MachineState, pages, whole

CGROUPS = "/sys/fs/cgroup"

_EMPTY_ZONE = """\
  pages free     0
        boost    0
        min      32
        low      32
        high     32
        spanned  0
        present  0
        managed  0
        cma      0
        protection: (0, 0, 0, 0, 0)
"""


def meminfo(machine: MachineState) -> str:
    groups = machine.by_path.values()
    active_anon = machine.active_anon_bytes
    shmem = sum(each.size_bytes for group in groups for each in group.anon if each.shmem)
    dirty = sum(each.dirty_bytes for each in groups)
    mapped = sum(each.mapped_bytes for each in groups)
    cache = sum(each.page_cache_bytes for each in groups)
    slab = sum(each.slab_bytes for each in groups)
    writeback = sum(each.size_bytes for each in machine.in_flight)
    small = whole(machine.kernel_bytes / 16)
    locked = machine.unevictable_bytes + sum(each.locked_bytes for each in groups)
    figures = {
        "MemTotal": machine.total_bytes,
        "MemFree": machine.free_bytes,
        "MemAvailable": machine.free_bytes + cache - dirty + slab,
        "Buffers": 0,
        "Cached": cache + shmem,
        "SwapCached": writeback,
        "Active": active_anon + mapped,
        "Inactive": machine.anon_bytes - active_anon + cache - mapped,
        "Active(anon)": active_anon,
        "Inactive(anon)": machine.anon_bytes - active_anon,
        "Active(file)": mapped,
        "Inactive(file)": cache - mapped,
        "Unevictable": locked,
        "Mlocked": locked,
        "SwapTotal": sum(each.size_bytes for each in machine.swaps),
        "SwapFree": machine.swap_free_bytes,
        "Zswap": machine.zswap_pool_bytes,
        "Zswapped": machine.zswapped_bytes,
        "Dirty": dirty,
        "Writeback": writeback,
        "AnonPages": machine.anon_bytes - shmem + locked,
        "Mapped": mapped,
        "Shmem": shmem,
        "KReclaimable": slab,
        "Slab": slab + 4 * small,
        "SReclaimable": slab,
        "SUnreclaim": 4 * small,
        "KernelStack": small,
        "PageTables": small,
        "VmallocUsed": small,
        "Percpu": small,
        "Hugetlb": 0,
    }
    return "".join(f"{name + ':':<16}{size // KIB:>8} kB\n" for name, size in figures.items())


def zoneinfo(machine: MachineState) -> str:
    boundary = 3 * GIB
    sizes = [("DMA32", min(machine.total_bytes, boundary))]
    if machine.total_bytes > boundary:
        sizes.append(("Normal", machine.total_bytes - boundary))
    left_free, left_present = pages(machine.free_bytes), pages(machine.present_bytes)
    text = ""
    for index, (name, size) in enumerate(sizes):
        last = index == len(sizes) - 1
        managed = pages(size)
        free = left_free if last else left_free * managed // pages(machine.total_bytes)
        present = left_present if last else managed + managed // 64
        left_free, left_present = left_free - free, left_present - present
        high = managed // 256
        text += (
            f"Node 0, zone {name:>8}\n  pages free     {free}\n        boost    0\n"
            f"        min      {high // 2}\n        low      {high * 3 // 4}\n"
            f"        high     {high}\n        spanned  {present}\n"
            f"        present  {present}\n        managed  {managed}\n        cma      0\n"
            f"        protection: (0, 0, 0, 0, 0)\n      nr_free_pages {free}\n  pagesets\n"
        )
        for cpu in range(machine.cpus):
            text += (
                f"    cpu: {cpu}\n              count:    0\n"
                "              high:     378\n              batch:    63\n"
            )
    return text + "Node 0, zone  Movable\n" + _EMPTY_ZONE


def vmstat(machine: MachineState) -> str:
    names = (field.name for field in fields(Vmstat))
    lines = [f"{name} {machine.events.get(name, 0)}\n" for name in names]
    return f"nr_free_pages {pages(machine.free_bytes)}\n" + "".join(lines)


def swaps(machine: MachineState) -> str:
    text = "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n"
    for each in machine.swaps:
        kind = "file\t" if each.is_file else "partition"
        path = each.path.replace("\\", r"\134").replace(" ", r"\040")
        text += (
            f"{path:<40}{kind}\t{each.size_bytes // KIB}\t\t{each.used_bytes // KIB}"
            f"\t\t{each.priority}\n"
        )
    return text


def mountinfo(machine: MachineState) -> str:
    text = "27 1 254:1 / / rw,relatime shared:1 - ext4 /dev/vda1 rw\n"
    if machine.cgroup_version == 2:
        text += f"30 27 0:26 / {CGROUPS} rw shared:9 - cgroup2 cgroup2 rw,memory_recursiveprot\n"
    elif machine.cgroup_version == 1:
        text += f"30 27 0:26 / {CGROUPS}/memory rw - cgroup cgroup rw,memory\n"
        text += f"31 27 0:27 / {CGROUPS}/unified rw - cgroup2 cgroup2 rw\n"
    return text


def lockdown(machine: MachineState) -> str:
    words = ("none", "integrity", "confidentiality")
    return " ".join(f"[{word}]" if word == machine.lockdown else word for word in words) + "\n"


def psi(machine: MachineState, resource: str) -> Callable[[], str]:
    def read() -> str:
        percent = machine.pressure.get(resource, 0.0)
        total = round(machine.stall_seconds.get(resource, 0.0) * 1_000_000)
        return "".join(
            f"{kind} avg10={share:.2f} avg60={share:.2f} avg300={share:.2f} total={stalled}\n"
            for kind, share, stalled in (
                ("some", percent, total),
                ("full", percent / 2, total // 2),
            )
        )

    return read


def status(cgroup: FakeCgroup, pid: int) -> str:
    locked = cgroup.locked_bytes if pid == cgroup.pids[0] else 0
    resident = cgroup.anon_bytes // len(cgroup.pids) + locked
    sizes = {"VmLck": locked, "VmPin": 0, "VmRSS": resident, "HugetlbPages": 0}
    lines = (f"{name}:\t{size // KIB:8} kB\n" for name, size in sizes.items())
    return f"Name:\tprocess{pid}\n" + "".join(lines)


def mm_stat(machine: MachineState, swap: FakeSwap) -> str:
    pool = whole((swap.used_bytes - swap.written_bytes) / machine.zram_ratio)
    return f"{swap.used_bytes:8} {pool:8} {pool:8} 0 {pool:8} 0 0 0 0\n"


def writeback_limit(swap: FakeSwap, name: str) -> str:
    limit = swap.writeback_limit if name == "writeback_limit" else swap.writeback_limited
    return f"{int(limit)}\n"


def memory_stat(machine: MachineState, path: str) -> str:
    groups = machine.subtree(path)
    shmem = sum(each.size_bytes for group in groups for each in group.anon if each.shmem)
    anon = sum(each.anon_bytes for each in groups)
    active = sum(each.size_bytes for g in groups for each in g.anon if machine.is_active(g, each))
    cache = sum(each.page_cache_bytes for each in groups)
    mapped = sum(each.mapped_bytes for each in groups)
    slab = sum(each.slab_bytes for each in groups)
    figures = {
        "anon": anon - shmem,
        "file": cache + shmem,
        "kernel": slab,
        "shmem": shmem,
        "file_mapped": mapped,
        "file_dirty": sum(each.dirty_bytes for each in groups),
        "inactive_anon": anon - active,
        "active_anon": active,
        "inactive_file": cache - mapped,
        "active_file": mapped,
        "unevictable": sum(each.locked_bytes for each in groups),
        "slab_reclaimable": slab,
        "slab_unreclaimable": 0,
        "slab": slab,
    }
    return "".join(f"{name} {value}\n" for name, value in figures.items())


def generations(machine: MachineState) -> str:
    if not machine.lru_gen:
        return ""
    text = ""
    for path in sorted(machine.by_path):
        cgroup = machine.by_path[path]
        text += f"memcg {cgroup.memcg_id:5} {path}\n node     0\n"
        for sequence, birth in sorted(cgroup.births.items()):
            anon = sum(e.size_bytes for e in cgroup.anon if e.generation == sequence)
            file = 0
            if sequence == cgroup.oldest_generation:
                file += cgroup.file_bytes + cgroup.dirty_bytes
            if sequence == cgroup.max_generation:
                file += cgroup.mapped_bytes
            age = round((machine.now - birth) * 1000)
            text += f" {sequence:10} {age:10} {pages(anon):10}  {pages(file):10} \n"
    return text
