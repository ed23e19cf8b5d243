# SPDX-License-Identifier: LGPL-2.1-or-later
"""Having the kernel gather free memory in large blocks (compact_memory in
Documentation/admin-guide/sysctl/vm.rst; since 2.6.35, with CONFIG_COMPACTION).

A guest reports free memory to its host in blocks of a pageblock, 2 MiB on x86-64, and no smaller
ones (mm/page_reporting.c, since 5.7).
"""

from __future__ import annotations

from hibprep.kernel.root import KernelRoot

FILE = "/proc/sys/vm/compact_memory"


def can_compact(root: KernelRoot) -> bool:
    """Whether this kernel can, and we may."""
    return root.exists(FILE) and root.writable(FILE)


def compact(root: KernelRoot) -> None:
    """All zones, once; takes as long as it takes, seconds with much memory. Raises
    KernelFileError."""
    root.write(FILE, "1")
