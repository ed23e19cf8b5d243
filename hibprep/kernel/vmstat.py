# SPDX-License-Identifier: LGPL-2.1-or-later
"""The counters of `/proc/vmstat` that tell what was reclaimed; those that this kernel lacks are 0
(Documentation/admin-guide/cgroup-v2.rst explains the ones of the same name in memory.stat).
"""

from __future__ import annotations

from dataclasses import fields

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


def read_vmstat(root: KernelRoot) -> Vmstat:
    """As it is now."""
    return parse_vmstat(root.read(VMSTAT))
