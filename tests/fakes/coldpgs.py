# SPDX-License-Identifier: LGPL-2.1-or-later
"""kidled and coldpgs on a fake machine, as the kernels of OpenAnolis have them.

After Documentation/vm/kidled.rst, the document "Reclaim Cold Page" and mm/coldpgs of those kernels
(2.5.0 for 5.10, 3.0.0 for 6.6): which pages are taken in what order, what clears itself, what is
EINVAL. Pages are kept in sets that are used alike; a set is of one row of `memory.idle_page_stats`.
"""

from __future__ import annotations

import errno
from dataclasses import dataclass, field
from functools import partial

from tests.fakes import coldpgs_texts
from tests.fakes.coldpgs_texts import STATISTICS
from tests.fakes.machine import FakeMachine
from tests.fakes.state import AnonSet, failure, pages, whole
from tests.fakes.texts import CGROUPS

SYSFS = "/sys/kernel/mm/coldpgs"
KIDLED = "/sys/kernel/mm/kidled"
CACHE, ANON, SLAB = 1, 2, 4
MLOCKED = 1
ALL_ALLOWED = 0xF << 32
UNBOUND = 0xFF_FFFF_FFFF  # what the global reclaim has for a size


@dataclass
class ColdSet:
    """Pages of one cgroup that are used alike; `age` in scan periods, at the start."""

    row: str  # csei … dfua, or slab
    size_bytes: int
    age: int
    cgroup: str = "/test"
    anon: AnonSet = field(default_factory=lambda: AnonSet(0))
    ended: bool = False  # its cgroup was removed: no files, its memory still there

    @property
    def is_slab(self) -> bool:
        return self.row == "slab"

    @property
    def is_anon(self) -> bool:
        return not self.is_slab and self.row[1] == "s"

    @property
    def is_locked(self) -> bool:
        return not self.is_slab and self.row[2] == "u"


@dataclass
class _Control:
    """What one cgroup's files keep."""

    threshold: int = 0
    size: int = 0
    flags: int = ALL_ALLOWED
    buckets: tuple[int, ...] = (1, 2, 5, 15, 30, 60, 120, 240)
    statistics: dict[str, int] = field(default_factory=lambda: dict.fromkeys(STATISTICS, 0))


class ColdKernel:
    """Adds both to a machine: its memory becomes what `sets` say, its files appear."""

    def __init__(
        self,
        machine: FakeMachine,
        sets: list[ColdSet],
        *,
        period: int = 15,
        version: tuple[int, int, int] = (2, 5, 0),
        slab: bool = False,  # the later kidled: scan_target and no use_hierarchy
        pages_in_statistics: bool = False,  # the earliest coldpgs
        flags: int = ALL_ALLOWED,
    ) -> None:
        self.machine = machine
        self.sets = sets
        self.period, self.since = period, machine.now
        self.version = version
        self.scan_target = 1
        self.use_hierarchy = 0
        self.hierarchy, self.batch, self.mode, self.flags = 0, 32, 0, 0
        self.threshold = self.nonrot = 0
        self.in_pages = pages_in_statistics
        self.later = slab
        self.controls = {path: _Control(flags=flags) for path in machine.by_path}
        for each in sets:
            self._add(each)
        self._list_files()

    def _add(self, each: ColdSet) -> None:
        cgroup = self.machine.by_path[each.cgroup]
        each.size_bytes = whole(each.size_bytes)
        if each.is_locked:
            self.machine.unevictable_bytes += each.size_bytes
        elif each.is_slab:
            cgroup.slab_bytes += each.size_bytes
        elif each.is_anon:
            each.anon.size_bytes = each.size_bytes
            cgroup.anon.append(each.anon)
        else:
            cgroup.file_bytes += each.size_bytes

    def age_of(self, each: ColdSet) -> int:
        """In scan periods, as kidled has counted them."""
        if not self.period:
            return 0
        return min(255, each.age + int((self.machine.now - self.since) // self.period))

    def of(self, path: str) -> list[ColdSet]:
        return [each for each in self.sets if each.cgroup == path and not each.ended]

    # --- reclaim --------------------------------------------------------------------------------

    def reclaim_all(self, threshold: int) -> None:
        self.threshold = threshold
        for path in sorted(self.machine.by_path):
            self._reclaim(path, threshold, UNBOUND)
        self._reclaim_ended("/", threshold)

    def reclaim(self, path: str) -> None:
        """What a cgroup's threshold and size ask for together, once both are set."""
        control = self.controls[path]
        if not control.threshold or not control.size:
            return
        self._reclaim(path, control.threshold, control.size)
        self._reclaim_ended(path, control.threshold)
        control.threshold = control.size = 0

    def _reclaim_ended(self, path: str, threshold: int) -> None:
        """Ended cgroups below go along, without limit."""
        for each in self.sets:
            if each.ended and each.cgroup.startswith(path):
                self._take(each, threshold, UNBOUND, self.mode, self.flags)

    def _reclaim(self, path: str, threshold: int, size: int) -> None:
        allowed = self.controls[path].flags
        mode = self.mode & allowed >> 32 & 7
        flags = self.flags & allowed >> 35 & MLOCKED
        if self.version >= (3, 0, 0):
            flags &= ~MLOCKED
        taken = 0
        # the lists in the kernel's order: anon, file, unevictable, then slab
        order = sorted(self.of(path), key=lambda s: (s.is_slab, s.is_locked, not s.is_anon))
        for each in order:
            taken += self._take(each, threshold, size - taken, mode, flags)

    def _take(self, each: ColdSet, threshold: int, size: int, mode: int, flags: int) -> int:
        wanted = SLAB if each.is_slab else ANON if each.is_anon else CACHE
        dirty_file = not each.is_slab and each.row.startswith("df")
        if not mode & wanted or dirty_file or (each.is_locked and not flags & MLOCKED):
            return 0
        age = self.age_of(each)
        if age < threshold:
            return 0
        taken = whole(min(each.size_bytes, max(0, size)))
        if each.is_anon:
            taken = whole(min(taken, self.machine.swap_free_bytes))
        cgroup = self.machine.by_path[each.cgroup]
        counted = self.controls[each.cgroup].statistics
        each.size_bytes -= taken
        if each.is_locked:
            self.machine.unevictable_bytes -= taken
        elif each.is_slab:
            cgroup.slab_bytes -= taken
        elif each.is_anon:
            each.anon.size_bytes -= taken
        else:
            cgroup.file_bytes -= taken
        if each.is_slab:
            counted["slab drop"] += taken
        elif each.is_anon:
            each.anon.swapped_bytes += taken
            self.machine.swaps[0].used_bytes += taken
            to_zswap = bool(self.machine.zswap) and 0 < self.nonrot >= age
            counted["anon zswap out" if to_zswap else "anon swap out"] += taken
            self.machine.count("zswpout" if to_zswap else "pswpout", pages(taken))
        else:
            counted["pagecache dropped"] += taken
        return taken

    def swap_in(self, path: str) -> None:
        start = path.rstrip("/") + "/"
        for each in self.sets:
            if not (each.cgroup == path or each.cgroup.startswith(start)):
                continue
            back = each.anon.swapped_bytes
            each.anon.swapped_bytes = 0
            each.size_bytes += back
            if each.is_locked:
                self.machine.unevictable_bytes += back
            else:
                each.anon.size_bytes += back
            self.machine.swaps[0].used_bytes -= back
            self.machine.count("pswpin", pages(back))

    # --- files ----------------------------------------------------------------------------------

    def _list_files(self) -> None:
        add = self.machine.add_file
        add("/proc/meminfo", partial(coldpgs_texts.meminfo, self))
        add(f"{KIDLED}/scan_period_in_seconds", lambda: f"{self.period}\n", self._write_period)
        if self.later:
            self._number(f"{KIDLED}/scan_target", "scan_target", 1, 3)
        else:
            self._number(f"{KIDLED}/use_hierarchy", "use_hierarchy", 0, 1)
        major, minor, revision = self.version
        add(f"{SYSFS}/version", lambda: f"0x{major << 16 | minor << 8 | revision:x}\n")
        self._number(f"{SYSFS}/hierarchy", "hierarchy", 0, 1)
        self._number(f"{SYSFS}/batch", "batch", 1, 0xFFFF_FFFF)
        self._number(f"{SYSFS}/threshold_nonrot", "nonrot", 0, 255)
        self._number(f"{SYSFS}/flags", "flags", 0, 0xFFFF_FFFF, base=16)
        self._number(f"{SYSFS}/mode", "mode", 0, 0xFFFF_FFFF, base=16)
        add(f"{SYSFS}/threshold", lambda: f"{self.threshold}\n", self._write_threshold)
        add(f"{SYSFS}/swapin", lambda: "swapin\n", partial(self._write_swapin, "/"))
        mount = CGROUPS if self.machine.cgroup_version == 2 else f"{CGROUPS}/memory"
        for path in self.machine.by_path:
            self._list_cgroup(f"{mount}{path.rstrip('/')}", path, self.controls[path])

    def _list_cgroup(self, directory: str, path: str, control: _Control) -> None:
        add = self.machine.add_file
        for name, local in (("", False), (".local", True)):
            if local and not self.later:
                continue
            add(
                f"{directory}/memory.idle_page_stats{name}",
                partial(coldpgs_texts.idle_stats, self, path, local=local),
                partial(self._write_buckets, control),
            )
        start = f"{directory}/memory.coldpgs"
        add(
            f"{start}.threshold",
            lambda: f"{control.threshold}\n",
            partial(self._write_control, path, "threshold"),
        )
        add(
            f"{start}.size", lambda: f"{control.size}\n", partial(self._write_control, path, "size")
        )
        add(
            f"{start}.flags",
            lambda: f"0x{control.flags:x}\n",
            partial(self._write_control, path, "flags"),
        )
        add(f"{start}.stats", partial(coldpgs_texts.statistics, self, path))
        add(f"{start}.swapin", lambda: "swapin\n", partial(self._write_swapin, path))

    def _number(self, path: str, name: str, least: int, most: int, *, base: int = 10) -> None:
        def write(text: str) -> None:
            setattr(self, name, _parsed(text, least, most, base))

        def read() -> str:
            value: int = getattr(self, name)
            return f"0x{value:x}\n" if base == 16 else f"{value}\n"

        self.machine.add_file(path, read, write)

    def _write_period(self, text: str) -> None:
        period = _parsed(text, 0, 0xFFFF)
        if period and self.machine.lru_gen:
            raise failure(errno.EINVAL)
        self.period, self.since = period, self.machine.now
        for each in self.sets:
            each.age = 0

    def _write_threshold(self, text: str) -> None:
        threshold = _parsed(text, 1, 255)
        if self.version >= (3, 0, 0) and self.flags & MLOCKED:
            raise failure(errno.EINVAL)
        self.reclaim_all(threshold)

    def _write_control(self, path: str, name: str, text: str) -> None:
        most = 255 if name == "threshold" else (1 << 64) - 1
        setattr(self.controls[path], name, _parsed(text, 0, most, 16 if name == "flags" else 10))
        if name != "flags":
            self.reclaim(path)

    def _write_swapin(self, path: str, text: str) -> None:
        if text != "swapin\n":
            raise failure(errno.EINVAL)
        self.swap_in(path)

    def _write_buckets(self, control: _Control, text: str) -> None:
        values = tuple(_parsed(word, 1, 255) for word in text.split(",") if word.strip())
        if len(values) > 8 or list(values) != sorted(set(values)):
            raise failure(errno.EINVAL)
        control.buckets = values


def _parsed(text: str, least: int, most: int, base: int = 10) -> int:
    word = text.strip()
    try:
        value = int(word, base)
    except ValueError:
        raise failure(errno.EINVAL) from None
    if not least <= value <= most or word.startswith(("-", "_")):
        raise failure(errno.EINVAL)
    return value
