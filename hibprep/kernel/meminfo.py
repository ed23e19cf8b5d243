# SPDX-License-Identifier: LGPL-2.1-or-later
"""`/proc/meminfo` (Documentation/filesystems/proc.rst, "meminfo")."""

from __future__ import annotations

from hibprep.kernel.root import KernelRoot
from hibprep.kernel.text import malformed, unsigned
from hibprep.model import Memory

MEMINFO = "/proc/meminfo"

_FIELDS = {
    "MemTotal": "total_bytes",
    "MemFree": "free_bytes",
    "MemAvailable": "available_bytes",
    "Buffers": "buffers_bytes",
    "Cached": "cached_bytes",
    "SwapCached": "swap_cached_bytes",
    "Active(anon)": "active_anon_bytes",
    "Inactive(anon)": "inactive_anon_bytes",
    "Active(file)": "active_file_bytes",
    "Inactive(file)": "inactive_file_bytes",
    "Unevictable": "unevictable_bytes",
    "Mlocked": "mlocked_bytes",
    "Dirty": "dirty_bytes",
    "Writeback": "writeback_bytes",
    "AnonPages": "anon_pages_bytes",
    "Mapped": "mapped_bytes",
    "Shmem": "shmem_bytes",
    "SReclaimable": "slab_reclaimable_bytes",
    "SUnreclaim": "slab_unreclaimable_bytes",
    "KernelStack": "kernel_stack_bytes",
    "PageTables": "page_tables_bytes",
    "Percpu": "percpu_bytes",
    "VmallocUsed": "vmalloc_used_bytes",
    "Hugetlb": "hugetlb_bytes",
    "Zswap": "zswap_bytes",
    "Zswapped": "zswapped_bytes",
    "SwapTotal": "swap_total_bytes",
    "SwapFree": "swap_free_bytes",
}
_REQUIRED = ("total_bytes", "free_bytes")
_KIB = 1024


def parse_meminfo(text: str) -> Memory:
    """The text of the file. Lines that are not known are passed over."""
    values: dict[str, int] = {}
    for line in text.splitlines():
        name, colon, rest = line.partition(":")
        field = _FIELDS.get(name)
        if field is None or not colon:
            continue
        words = rest.split()
        if not words or words[1:] not in (["kB"], []):
            raise malformed(MEMINFO, f"{name} in kB", line)
        # every field that is used here is in kB; the unit is missing only in HugePages_*
        values[field] = unsigned(words[0], MEMINFO) * _KIB
    for field in _REQUIRED:
        if field not in values:
            raise malformed(MEMINFO, "MemTotal and MemFree", text)
    return Memory(**values)


def read_meminfo(root: KernelRoot) -> Memory:
    """As it is now."""
    return parse_meminfo(root.read(MEMINFO))
