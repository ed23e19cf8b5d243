# SPDX-License-Identifier: LGPL-2.1-or-later
"""zram devices (Documentation/admin-guide/blockdev/zram.rst): what they hold in memory, and whether
they have a device behind them to write it to (CONFIG_ZRAM_WRITEBACK)."""

from __future__ import annotations

from hibprep.errors import KernelFileError
from hibprep.kernel.root import KernelRoot
from hibprep.kernel.text import malformed, unsigned
from hibprep.model import Zram

_UNIT = 4096  # of bd_stat and writeback_limit, whatever a page is
_USED_FIELD = 2
_NONE = "none"


def zram_file(name: str, file: str) -> str:
    """A file of that device."""
    return f"/sys/block/{name}/{file}"


def read_zram(root: KernelRoot) -> tuple[Zram, ...]:
    """All of them, in the order of their names."""
    try:
        names = root.listdir("/sys/block")
    except KernelFileError:
        return ()
    found = (_read(root, name) for name in names if name.startswith("zram"))
    return tuple(each for each in found if each is not None)


def _read(root: KernelRoot, name: str) -> Zram | None:
    path = zram_file(name, "mm_stat")
    text = root.try_read(path)
    if text is None:
        return None
    fields = text.split()
    if len(fields) <= _USED_FIELD:
        raise malformed(path, "orig_data_size, compr_data_size and mem_used_total", text)
    backing = (root.try_read(zram_file(name, "backing_dev")) or _NONE).strip()
    limited = (root.try_read(zram_file(name, "writeback_limit_enable")) or "0").strip()
    return Zram(
        name=name,
        original_bytes=unsigned(fields[0], path),
        used_bytes=unsigned(fields[_USED_FIELD], path),
        backing="" if backing == _NONE else backing,
        written_bytes=written_bytes(root, name),
        limited=limited != "0",
    )


def written_bytes(root: KernelRoot, name: str) -> int:
    """What lies on the device behind it now (bd_count)."""
    path = zram_file(name, "bd_stat")
    fields = (root.try_read(path) or "0").split()
    if not fields:
        raise malformed(path, "bd_count", "")
    return unsigned(fields[0], path) * _UNIT


def units(size_bytes: int) -> int:
    """So many bytes as writeback_limit counts them, at least one."""
    return max(1, size_bytes // _UNIT)
