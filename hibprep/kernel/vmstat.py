# SPDX-License-Identifier: LGPL-2.1-or-later
"""The counters of `/proc/vmstat` that tell what was reclaimed; those that this kernel lacks are 0
(Documentation/admin-guide/cgroup-v2.rst explains the ones of the same name in memory.stat).
"""

from __future__ import annotations

import os
from dataclasses import fields
from typing import NamedTuple

from hibprep.kernel.root import KernelRoot
from hibprep.kernel.text import malformed, unsigned
from hibprep.model import Vmstat

VMSTAT = "/proc/vmstat"

_NAMES = frozenset(field.name for field in fields(Vmstat))


def parse_vmstat(text: str) -> Vmstat:
    """The text of the file."""
    values: dict[str, int] = {}
    plausible = False
    for line in text.splitlines():
        name, _, value = line.partition(" ")
        if name in _NAMES:
            values[name] = unsigned(value.strip(), VMSTAT)
        elif name == "nr_free_pages":
            plausible = True
    if not plausible:
        raise malformed(VMSTAT, "nr_free_pages", text)
    return Vmstat(**values)


class PagesIn(NamedTuple):
    """What was read into memory since boot."""

    swap_bytes: int  # from swap areas, with what zswap and pages of zeroes saved of that
    file_bytes: int  # from disks otherwise

    def since(self, earlier: PagesIn) -> PagesIn:
        """What came in between."""
        return PagesIn(
            max(0, self.swap_bytes - earlier.swap_bytes),
            max(0, self.file_bytes - earlier.file_bytes),
        )


def parse_pages_in(text: str, page: int) -> PagesIn:
    """From the text of the file; `pgpgin` counts in KiB and has what was read from swap in it."""
    values = dict.fromkeys(("pgpgin", "pswpin", "zswpin", "swpin_zero"), 0)
    for line in text.splitlines():
        name, _, value = line.partition(" ")
        if name in values:
            values[name] = unsigned(value.strip(), VMSTAT)
    from_disk = values["pswpin"] * page
    return PagesIn(
        swap_bytes=from_disk + (values["zswpin"] + values["swpin_zero"]) * page,
        file_bytes=max(0, (values["pgpgin"] << 10) - from_disk),
    )


def read_pages_in(root: KernelRoot) -> PagesIn:
    """As it is now."""
    return parse_pages_in(root.read(VMSTAT), os.sysconf("SC_PAGE_SIZE"))


def read_vmstat(root: KernelRoot) -> Vmstat:
    """As it is now."""
    return parse_vmstat(root.read(VMSTAT))
