# SPDX-License-Identifier: LGPL-2.1-or-later
"""A kernel made of arithmetic, whose files react to writes.

`FakeMachine` is the state: memory in cgroups, swap areas, generations, settings. `FakeRoot` shows
it as kernel files and passes writes on, with the errno that a kernel of that version would give.
Everything is exact and deterministic: bytes are conserved, time passes only in `advance`.

After Documentation/admin-guide/cgroup-v2.rst, mm/multigen_lru.rst and sysctl/vm.rst; what is left
out is left out on purpose: one node, no huge pages, no kswapd.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, fields
from pathlib import Path
from random import Random

from hibprep.kernel.root import KernelRoot
from hibprep.model import Vmstat

PAGE = 4096
KIB = 1 << 10
MIB = 1 << 20
GIB = 1 << 30

CGROUPS = "/sys/fs/cgroup"
BOOT_ID = "6b8f1e0c-6c5e-4f57-8c3c-0f4f1d1b2a3c"

_SUFFIXES = {"": 0, "k": 10, "m": 20, "g": 30, "t": 40}
_AMOUNT = re.compile(r"([0-9]+)([kmgt]?)", re.IGNORECASE)
_RECENT_SECONDS = 60.0  # what the classic LRU would have on its active list
_MAX_GENERATIONS = 4
_ANON_ONLY = -1

Reader = Callable[[], str]
Writer = Callable[[str], None]


def _fail(number: int) -> OSError:
    return OSError(number, os.strerror(number))


def _pages(size_bytes: int) -> int:
    return size_bytes // PAGE


def _whole(size_bytes: float) -> int:
    return int(size_bytes) // PAGE * PAGE


@dataclass
class AnonSet:
    """Anonymous memory (or shmem) that is used alike. `size_bytes` is what is resident."""

    size_bytes: int
    idle_seconds: float = 0.0  # at the start
    hot: bool = False  # touched all the time: comes back when it is swapped out
    shmem: bool = False
    swapped_bytes: int = 0
    last_used: float = 0.0
    generation: int = 0
    in_flight_bytes: int = 0  # resident, being written to swap


@dataclass
class FakeCgroup:
    """One cgroup and the memory charged to it (not to those below it)."""

    path: str
    anon: list[AnonSet] = field(default_factory=list)
    file_bytes: int = 0  # clean, unmapped
    dirty_bytes: int = 0
    mapped_bytes: int = 0  # clean, mapped
    slab_bytes: int = 0
    min_bytes: int = 0
    low_bytes: int = 0
    swap_max_bytes: int | None = None
    pids: list[int] = field(default_factory=list)
    zswap_max: str = "max"
    memcg_id: int = 0
    max_generation: int = 1
    births: dict[int, float] = field(default_factory=dict)

    @property
    def anon_bytes(self) -> int:
        return sum(each.size_bytes for each in self.anon)

    @property
    def page_cache_bytes(self) -> int:
        return self.file_bytes + self.dirty_bytes + self.mapped_bytes

    @property
    def resident_bytes(self) -> int:
        return self.anon_bytes + self.page_cache_bytes + self.slab_bytes

    @property
    def swapped_bytes(self) -> int:
        return sum(each.swapped_bytes for each in self.anon)

    @property
    def oldest_generation(self) -> int:
        return min(self.births)


@dataclass
class FakeSwap:
    """One swap area."""

    path: str
    size_bytes: int
    priority: int = -2
    used_bytes: int = 0
    is_zram: bool = False
    is_file: bool = False
    device: str = "254:1"

    @property
    def free_bytes(self) -> int:
        return self.size_bytes - self.used_bytes


@dataclass
class _InFlight:
    due: float
    cgroup: FakeCgroup
    anon: AnonSet
    size_bytes: int


@dataclass
class FakeMachine:
    """The whole machine. Sizes are rounded down to pages."""

    total_bytes: int = 8 * GIB
    kernel: tuple[int, int] = (6, 12)
    cgroups: list[FakeCgroup] = field(default_factory=list)
    swaps: list[FakeSwap] = field(default_factory=list)
    cgroup_version: int = 2  # 2, 1 or 0 (no memory controller at all)
    kernel_bytes: int = 256 * MIB  # neither reclaimable nor on an LRU
    unevictable_bytes: int = 0
    lru_gen: bool | None = True  # None: not built
    generation_ages_seconds: tuple[float, ...] = (600.0, 600.0)  # oldest first
    debugfs: bool = True
    psi: bool = True
    numa: bool = True
    swappiness: int = 60
    laptop_mode: int = 0
    zswap: bool | None = False  # None: not built
    hibernation: bool = True
    lockdown: str = "none"
    command_line: str = "root=/dev/vda1 ro quiet"
    image_size_bytes: int = -1  # two fifths
    reserved_size_bytes: int = MIB
    resume_device: str = ""
    resume_offset_pages: int = 0
    cpus: int = 4
    again_every: int = 0  # every n-th reclaim does half of it and answers EAGAIN
    swap_delay_seconds: float = 0.0  # of disk swap: freed only when written
    bytes_per_second: float = 0.0  # of reclaim; 0: it takes no time
    zram_ratio: float = 3.0
    pressure: dict[str, float] = field(default_factory=dict)  # resource -> some avg10, percent
    now: float = 10_000.0
    writes: list[tuple[str, str]] = field(default_factory=list)  # all that were tried, in order

    def __post_init__(self) -> None:
        self.total_bytes = _whole(self.total_bytes)
        if self.image_size_bytes < 0:
            self.image_size_bytes = _whole(self.total_bytes * 2 / 5)
        self.events: dict[str, int] = {}
        self._in_flight: list[_InFlight] = []
        self._reclaims = 0
        self._stall_seconds: dict[str, float] = {}
        self._by_path: dict[str, FakeCgroup] = {}
        for cgroup in self.cgroups:
            self._by_path[cgroup.path] = cgroup
        for path in [each.path for each in self.cgroups]:
            parts = path.strip("/").split("/")[:-1]
            for depth in range(len(parts)):
                above = "/" + "/".join(parts[: depth + 1])
                self._by_path.setdefault(above, FakeCgroup(above))
        self._by_path.setdefault("/", FakeCgroup("/"))
        for number, path in enumerate(sorted(self._by_path), start=1):
            self._begin(self._by_path[path], number)
        for swap in self.swaps:
            swap.size_bytes, swap.used_bytes = _whole(swap.size_bytes), _whole(swap.used_bytes)
        if self.free_bytes < 0:
            raise ValueError(f"{-self.free_bytes} bytes more than there is memory")
        self._readers: dict[str, Reader] = {}
        self._writers: dict[str, Writer] = {}
        self._directories: dict[str, set[str]] = {}
        self._list_files()

    def _begin(self, cgroup: FakeCgroup, number: int) -> None:
        cgroup.memcg_id = number
        for name in ("file_bytes", "dirty_bytes", "mapped_bytes", "slab_bytes"):
            setattr(cgroup, name, _whole(getattr(cgroup, name)))
        cgroup.births = {
            index: self.now - age for index, age in enumerate(self.generation_ages_seconds)
        }
        cgroup.max_generation = max(cgroup.births)
        for each in cgroup.anon:
            each.size_bytes = _whole(each.size_bytes)
            each.swapped_bytes = _whole(each.swapped_bytes)
            each.last_used = self.now - (0.0 if each.hot else each.idle_seconds)
            each.generation = max(
                (index for index, birth in cgroup.births.items() if birth <= each.last_used),
                default=0,
            )

    # --- figures --------------------------------------------------------------------------------

    @property
    def used_bytes(self) -> int:
        """All that is not free."""
        resident = sum(each.resident_bytes for each in self._by_path.values())
        return self.kernel_bytes + self.unevictable_bytes + self.zram_pool_bytes + resident

    @property
    def free_bytes(self) -> int:
        return self.total_bytes - self.used_bytes

    @property
    def present_bytes(self) -> int:
        """With the memory map, which the kernel takes for itself at boot."""
        return self.total_bytes + _whole(self.total_bytes / 64)

    @property
    def saveable_bytes(self) -> int:
        """What the kernel would put in the image, as far as zones tell."""
        return self.present_bytes - self.free_bytes

    @property
    def zram_pool_bytes(self) -> int:
        stored = sum(each.used_bytes for each in self.swaps if each.is_zram)
        return _whole(stored / self.zram_ratio)

    @property
    def swap_used_bytes(self) -> int:
        return sum(each.used_bytes for each in self.swaps)

    @property
    def swap_free_bytes(self) -> int:
        return sum(each.free_bytes for each in self.swaps)

    @property
    def anon_bytes(self) -> int:
        return sum(each.anon_bytes for each in self._by_path.values())

    @property
    def active_anon_bytes(self) -> int:
        return sum(
            anon.size_bytes
            for cgroup in self._by_path.values()
            for anon in cgroup.anon
            if self._is_active(cgroup, anon)
        )

    def cgroup(self, path: str) -> FakeCgroup:
        """The cgroup of that path."""
        return self._by_path[path]

    def subtree(self, path: str) -> list[FakeCgroup]:
        """The cgroup and all below it, in the order of their names."""
        start = path.rstrip("/") + "/"
        return [
            self._by_path[each]
            for each in sorted(self._by_path)
            if each == path or each.startswith(start)
        ]

    def current_bytes(self, path: str) -> int:
        """Its memory.current."""
        return sum(each.resident_bytes for each in self.subtree(path))

    # --- what happens ---------------------------------------------------------------------------

    def advance(self, seconds: float) -> None:
        """Time passes: swap-out completes, hot memory is touched and comes back."""
        self.now += seconds
        for resource, percent in self.pressure.items():
            stalled = self._stall_seconds.get(resource, 0.0)
            self._stall_seconds[resource] = stalled + seconds * percent / 100
        for each in [each for each in self._in_flight if each.due <= self.now]:
            self._in_flight.remove(each)
            each.anon.in_flight_bytes -= each.size_bytes
            self._swapped_out(each.anon, each.size_bytes)
        for cgroup in self._by_path.values():
            for anon in cgroup.anon:
                if anon.hot:
                    anon.last_used = self.now
                    self._swap_in(cgroup, anon)

    def sync(self) -> None:
        """sync(2): what was dirty is clean."""
        for cgroup in self._by_path.values():
            cgroup.file_bytes += cgroup.dirty_bytes
            cgroup.dirty_bytes = 0

    def pageout(self, pid: int, ranges: Iterable[tuple[int, int]]) -> int:
        """process_madvise(MADV_PAGEOUT) on a process: takes the anonymous memory of its cgroup,
        hot or not, and answers the bytes advised."""
        cgroup = next((each for each in self._by_path.values() if pid in each.pids), None)
        if cgroup is None:
            raise _fail(errno.ESRCH)
        wanted = sum(length for _, length in ranges)
        self._take_anon([cgroup], wanted, "/", counted=self.kernel >= (6, 13))
        return wanted

    def remove_cgroup(self, path: str) -> None:
        """The cgroup ends, and with it its memory, as when a unit is stopped."""
        for each in self.subtree(path):
            for anon in each.anon:
                self._release(anon.swapped_bytes + anon.in_flight_bytes)
            self._in_flight = [flight for flight in self._in_flight if flight.cgroup is not each]
            del self._by_path[each.path]
        self._list_files()

    # --- reclaim --------------------------------------------------------------------------------

    def _is_active(self, cgroup: FakeCgroup, anon: AnonSet) -> bool:
        if self.lru_gen:
            return anon.generation >= cgroup.max_generation - 1
        return anon.hot or self.now - anon.last_used < _RECENT_SECONDS

    def _effective_min(self, path: str) -> int:
        """With memory_recursiveprot: bounded by all above."""
        parts = path.strip("/").split("/")
        return min(
            self._by_path["/" + "/".join(parts[: depth + 1])].min_bytes
            for depth in range(len(parts))
        )

    def _unprotected(self, path: str, target: str) -> int:
        """What reclaim from `target` may take of `path`: the target's own protection does not
        count, that of those below it does."""
        allowed = self.total_bytes
        parts = path.strip("/").split("/") if path != "/" else []
        for depth in range(len(parts)):
            above = "/" + "/".join(parts[: depth + 1])
            if above == target or not above.startswith(target.rstrip("/") + "/"):
                continue
            floor = self._effective_min(above)
            if floor:
                leaving = sum(
                    anon.in_flight_bytes for each in self.subtree(above) for anon in each.anon
                )
                allowed = min(allowed, max(0, self.current_bytes(above) - leaving - floor))
        return _whole(allowed)

    def _swap_room(self, path: str) -> int:
        """What the cgroup may still put into swap."""
        room = self.swap_free_bytes
        parts = path.strip("/").split("/") if path != "/" else []
        for depth in range(len(parts)):
            above = self._by_path["/" + "/".join(parts[: depth + 1])]
            if above.swap_max_bytes is not None:
                swapped = sum(
                    each.swapped_bytes + sum(anon.in_flight_bytes for anon in each.anon)
                    for each in self.subtree(above.path)
                )
                room = min(room, max(0, above.swap_max_bytes - swapped))
        return _whole(room)

    def _reclaim(self, target: str, wanted: int, swappiness: int) -> int:
        """One request on `target` and all below it; what was freed, slab included."""
        groups = self.subtree(target)
        if swappiness == _ANON_ONLY:
            return self._take_anon(groups, wanted, target)
        if swappiness == 0:
            return self._take_cache(groups, wanted, target)
        anon_share = wanted if swappiness == 200 else _whole(wanted * swappiness / 200)
        freed = self._take_anon(groups, anon_share, target)
        freed += self._take_cache(groups, max(0, wanted - freed), target)
        if freed < wanted:
            freed += self._take_anon(groups, wanted - freed, target)
        return freed

    def _take_cache(self, groups: list[FakeCgroup], wanted: int, target: str) -> int:
        """Clean page cache, unmapped before mapped, and a tenth as much of slab."""
        freed = 0
        for group in groups:
            if group.slab_bytes:
                taken = min(
                    group.slab_bytes,
                    _whole(wanted / 10),
                    wanted - freed,
                    self._unprotected(group.path, target),
                )
                group.slab_bytes -= taken
                self._count("slabs_scanned", _pages(taken))
                freed += taken
        for name in ("file_bytes", "mapped_bytes"):
            for group in groups:
                have = int(getattr(group, name))
                if not have or freed >= wanted:
                    continue
                taken = min(have, wanted - freed, self._unprotected(group.path, target))
                setattr(group, name, have - taken)
                self._count("pgsteal_file", _pages(taken))
                freed += taken
        return freed

    def _take_anon(
        self, groups: list[FakeCgroup], wanted: int, target: str, *, counted: bool = True
    ) -> int:
        """Anonymous memory, inactive before active, the longest idle first."""
        candidates = sorted(
            ((group, anon) for group in groups for anon in group.anon),
            key=lambda pair: (self._is_active(*pair), pair[1].last_used, pair[0].path),
        )
        return self._swap_out(candidates, wanted, target, counted=counted)

    def _swap_out(
        self,
        candidates: list[tuple[FakeCgroup, AnonSet]],
        wanted: int,
        target: str,
        *,
        counted: bool = True,
    ) -> int:
        freed = submitted = 0
        for group, anon in candidates:
            if submitted >= wanted or not self.swaps:
                break
            taken = min(
                anon.size_bytes - anon.in_flight_bytes,
                wanted - submitted,
                self._unprotected(group.path, target),
                self._swap_room(group.path),
            )
            for area in sorted(self.swaps, key=lambda each: -each.priority):
                part = min(taken, area.free_bytes)
                if part <= 0:
                    continue
                area.used_bytes += part
                taken -= part
                submitted += part
                self._count("pswpout", _pages(part))
                if self.swap_delay_seconds and not area.is_zram:
                    anon.in_flight_bytes += part
                    due = self.now + self.swap_delay_seconds
                    self._in_flight.append(_InFlight(due, group, anon, part))
                else:
                    self._swapped_out(anon, part, counted=counted)
                    freed += part
        return freed

    def _swapped_out(self, anon: AnonSet, size_bytes: int, *, counted: bool = True) -> None:
        anon.size_bytes -= size_bytes
        anon.swapped_bytes += size_bytes
        if counted:
            self._count("pgsteal_anon", _pages(size_bytes))

    def _swap_in(self, cgroup: FakeCgroup, anon: AnonSet) -> None:
        # the reserve stands for the watermarks, below which the real one would reclaim others
        size = min(anon.swapped_bytes, max(0, _whole(self.free_bytes - self.total_bytes / 100)))
        if not size:
            return
        anon.swapped_bytes -= size
        anon.size_bytes += size
        anon.generation = cgroup.max_generation
        self._release(size)
        self._count("pswpin", _pages(size))
        self._count("workingset_refault_anon", _pages(size))

    def _release(self, size_bytes: int) -> None:
        for area in sorted(self.swaps, key=lambda each: each.priority):
            part = min(size_bytes, area.used_bytes)
            area.used_bytes -= part
            size_bytes -= part

    def _count(self, name: str, pages: int) -> None:
        self.events[name] = self.events.get(name, 0) + pages

    # --- commands -------------------------------------------------------------------------------

    def _amount(self, text: str) -> tuple[int, int]:
        """The bytes and the swappiness of a reclaim command."""
        words = text.split()
        found = _AMOUNT.fullmatch(words[0]) if words else None
        if not found:
            raise _fail(errno.EINVAL)
        amount = _whole(int(found[1]) << _SUFFIXES[found[2].lower()])
        swappiness = self.swappiness
        for word in words[1:]:
            name, _, value = word.partition("=")
            if name != "swappiness" or self.kernel < (6, 11):
                raise _fail(errno.EINVAL)
            if value == "max" and self.kernel >= (6, 16):
                swappiness = _ANON_ONLY
            elif value.isdigit() and int(value) <= 200:
                swappiness = int(value)
            else:
                raise _fail(errno.EINVAL)
        return amount, swappiness

    def _write_reclaim(self, target: str, text: str) -> None:
        amount, swappiness = self._amount(text)
        if not amount:
            return
        self._reclaims += 1
        half = self.again_every > 0 and self._reclaims % self.again_every == 0
        freed = self._reclaim(target, _whole(amount / 2) if half else amount, swappiness)
        if self.bytes_per_second:
            self.advance(freed / self.bytes_per_second)
        if half or freed < amount:
            raise _fail(errno.EAGAIN)

    def _write_node_reclaim(self, text: str) -> None:
        amount, _ = self._amount(text)
        cache = sum(each.file_bytes + each.dirty_bytes for each in self._by_path.values())
        slab = sum(each.slab_bytes for each in self._by_path.values())
        # __node_reclaim() looks at the page cache even when anon is asked for
        if amount and cache <= self.total_bytes / 100 and slab <= self.total_bytes / 20:
            raise _fail(errno.EAGAIN)
        self._write_reclaim("/", text)

    def _write_drop_caches(self, text: str) -> None:
        word = text.strip()
        if word not in ("1", "2", "3", "4"):
            raise _fail(errno.EINVAL)
        if word == "4":
            return
        if int(word) & 1:
            self._count("drop_pagecache", 1)
        if int(word) & 2:
            self._count("drop_slab", 1)
        for each in self._by_path.values():
            if int(word) & 1:
                each.file_bytes = 0
            if int(word) & 2:
                each.slab_bytes = 0

    def _write_generations(self, text: str) -> None:
        for command in re.split(r"[\n,;]", text):
            words = command.split()
            if not words:
                continue
            if len(words) < 4 or not all(word.isdigit() for word in words[1:4]):
                raise _fail(errno.EINVAL)
            number, node, sequence = (int(word) for word in words[1:4])
            cgroup = next((e for e in self._by_path.values() if e.memcg_id == number), None)
            if cgroup is None or node != 0 or not self.lru_gen:
                raise _fail(errno.EINVAL)
            if words[0] == "+":
                self._age(cgroup, sequence)
            elif words[0] == "-":
                self._evict(cgroup, sequence, words[4:])
            else:
                raise _fail(errno.EINVAL)

    def _age(self, cgroup: FakeCgroup, sequence: int) -> None:
        if sequence > cgroup.max_generation:
            raise _fail(errno.EINVAL)
        if sequence < cgroup.max_generation:
            if self.kernel >= (7, 0):
                raise _fail(errno.EEXIST)
            return
        since = cgroup.births[cgroup.max_generation]
        cgroup.max_generation += 1
        cgroup.births[cgroup.max_generation] = self.now
        if len(cgroup.births) > _MAX_GENERATIONS:
            del cgroup.births[cgroup.oldest_generation]
        for anon in cgroup.anon:
            if anon.hot or anon.last_used > since:
                anon.generation = cgroup.max_generation
            anon.generation = max(anon.generation, cgroup.oldest_generation)

    def _evict(self, cgroup: FakeCgroup, sequence: int, options: list[str]) -> None:
        if sequence + 2 > cgroup.max_generation:
            raise _fail(errno.EINVAL)
        word = options[0] if options else str(self.swappiness)
        if word == "max" and self.kernel >= (6, 16):
            swappiness = _ANON_ONLY
        elif word.isdigit() and int(word) <= 200:
            swappiness = int(word)
        else:
            raise _fail(errno.EINVAL)
        wanted = int(options[1]) * PAGE if len(options) > 1 else self.total_bytes
        freed = 0
        if swappiness:
            old = [
                (cgroup, each)
                for each in sorted(cgroup.anon, key=lambda each: each.last_used)
                if each.generation <= sequence
            ]
            # this path does not look at memory.min
            freed = self._swap_out(old, wanted, cgroup.path)
        if swappiness != _ANON_ONLY and freed < wanted:
            freed += self._take_cache([cgroup], wanted - freed, cgroup.path)
        if self.bytes_per_second:
            self.advance(freed / self.bytes_per_second)

    # --- settings -------------------------------------------------------------------------------

    def _write_swappiness(self, text: str) -> None:
        word = text.strip()
        if not word.isdigit() or int(word) > 200:
            raise _fail(errno.EINVAL)
        self.swappiness = int(word)

    def _write_image_size(self, text: str) -> None:
        # sscanf("%lu"): what follows the digits is not looked at
        found = re.match(r"\s*([0-9]+)", text)
        if not found:
            raise _fail(errno.EINVAL)
        self.image_size_bytes = int(found[1])

    def _write_lru_gen(self, text: str) -> None:
        word = text.strip().lower()
        if word in ("y", "n"):
            self.lru_gen = word == "y"
            return
        try:
            self.lru_gen = bool(int(word, 0) & 1)
        except ValueError:
            raise _fail(errno.EINVAL) from None

    def _write_zswap(self, text: str) -> None:
        word = text.strip().lower()
        if word not in ("y", "n", "1", "0"):
            raise _fail(errno.EINVAL)
        self.zswap = word in ("y", "1")

    def _write_limit(self, cgroup: FakeCgroup, name: str, text: str) -> None:
        word = text.strip()
        if word == "max":
            value: int | None = None
        elif word.isdigit():
            value = _whole(int(word))
        else:
            raise _fail(errno.EINVAL)
        if name == "swap_max_bytes":
            cgroup.swap_max_bytes = value
        elif name == "zswap_max":
            cgroup.zswap_max = "max" if value is None else str(value)
        else:
            setattr(cgroup, name, self.total_bytes if value is None else value)

    # --- files ----------------------------------------------------------------------------------

    def read_file(self, path: str) -> str:
        """The present text of a file; OSError as the kernel would give it."""
        reader = self._readers.get(path)
        if reader is not None:
            return reader()
        if path in self._directories:
            raise _fail(errno.EISDIR)
        raise _fail(errno.EACCES if path in self._writers else errno.ENOENT)

    def write_file(self, path: str, text: str) -> None:
        """One write(2); OSError as the kernel would give it."""
        self.writes.append((path, text))
        writer = self._writers.get(path)
        if writer is None:
            raise _fail(errno.EACCES if path in self._readers else errno.ENOENT)
        writer(text)

    def writable(self, path: str) -> bool:
        """Whether there is a file that takes writes."""
        return path in self._writers

    def directory(self, path: str) -> set[str] | None:
        """The names in a directory, None when there is none."""
        return self._directories.get(path.rstrip("/") or "/")

    def render(self, directory: Path) -> None:
        """A tree of ordinary files, for `hibprep --root DIR`: it shows this moment and does not
        react."""
        for path in sorted(set(self._readers) | set(self._writers)):
            target = directory / path.lstrip("/")
            target.parent.mkdir(parents=True, exist_ok=True)
            reader = self._readers.get(path)
            target.write_text(reader() if reader else "")

    def _file(self, path: str, reader: Reader | None, writer: Writer | None = None) -> None:
        if reader is not None:
            self._readers[path] = reader
        if writer is not None:
            self._writers[path] = writer
        name = path
        while name != "/":
            above, _, last = name.rpartition("/")
            above = above or "/"
            names = self._directories.setdefault(above, set())
            if last in names:
                break
            names.add(last)
            name = above

    def _list_files(self) -> None:
        self._readers, self._writers, self._directories = {}, {}, {}
        add = self._file
        add("/proc/meminfo", self._meminfo)
        add("/proc/zoneinfo", self._zoneinfo)
        add("/proc/vmstat", self._vmstat)
        add("/proc/swaps", self._swaps)
        add("/proc/cmdline", lambda: self.command_line + "\n")
        add("/proc/self/mountinfo", self._mountinfo)
        add("/proc/sys/kernel/osrelease", lambda: "{}.{}.0\n".format(*self.kernel))
        add("/proc/sys/kernel/random/boot_id", lambda: BOOT_ID + "\n")
        add("/proc/sys/vm/swappiness", lambda: f"{self.swappiness}\n", self._write_swappiness)
        add("/proc/sys/vm/drop_caches", None, self._write_drop_caches)
        add("/proc/sys/vm/laptop_mode", lambda: f"{self.laptop_mode}\n")
        add("/sys/devices/system/cpu/online", lambda: f"0-{self.cpus - 1}\n")
        self._list_power()
        if self.psi:
            for resource in ("cpu", "io", "memory"):
                add(f"/proc/pressure/{resource}", self._psi(resource))
        if self.lru_gen is not None:
            add(
                "/sys/kernel/mm/lru_gen/enabled",
                lambda: "0x0007\n" if self.lru_gen else "0x0000\n",
                self._write_lru_gen,
            )
            if self.debugfs:
                add("/sys/kernel/debug/lru_gen", self._generations, self._write_generations)
        if self.zswap is not None:
            add(
                "/sys/module/zswap/parameters/enabled",
                lambda: "Y\n" if self.zswap else "N\n",
                self._write_zswap,
            )
        if self.numa and self.kernel >= (6, 17):
            add("/sys/devices/system/node/node0/reclaim", None, self._write_node_reclaim)
        for swap in self.swaps:
            self._list_swap(swap)
        for cgroup in self._by_path.values():
            for pid in cgroup.pids:
                self._list_process(cgroup, pid)
            if self.cgroup_version == 2:
                self._list_cgroup(cgroup)
        if self.cgroup_version == 1:
            add(f"{CGROUPS}/memory/memory.usage_in_bytes", lambda: f"{self.used_bytes}\n")
            add(f"{CGROUPS}/unified/cgroup.controllers", lambda: "\n")

    def _list_power(self) -> None:
        add = self._file
        add("/sys/kernel/security/lockdown", self._lockdown)
        add("/sys/power/pm_freeze_timeout", lambda: "20000\n")
        if not self.hibernation:
            add("/sys/power/state", lambda: "freeze mem\n")
            return
        disabled = self.lockdown != "none" or "nohibernate" in self.command_line.split()
        add("/sys/power/state", lambda: "freeze mem\n" if disabled else "freeze mem disk\n")
        add(
            "/sys/power/disk",
            lambda: "[disabled]\n" if disabled else "[platform] shutdown reboot suspend\n",
        )
        add("/sys/power/image_size", lambda: f"{self.image_size_bytes}\n", self._write_image_size)
        add("/sys/power/reserved_size", lambda: f"{self.reserved_size_bytes}\n")
        add("/sys/power/resume", lambda: f"{self.resume_device or '0:0'}\n")
        add("/sys/power/resume_offset", lambda: f"{self.resume_offset_pages}\n")

    def _list_swap(self, swap: FakeSwap) -> None:
        name = swap.path.rpartition("/")[2]
        if not swap.is_file:
            self._file(f"/sys/class/block/{name}/dev", lambda: f"{swap.device}\n")
        if swap.is_zram:
            self._file(f"/sys/block/{name}/mm_stat", lambda: self._mm_stat(swap))

    def _list_process(self, cgroup: FakeCgroup, pid: int) -> None:
        def maps() -> str:
            share = _whole(cgroup.anon_bytes / len(cgroup.pids)) or PAGE
            start = 0x7F00_0000_0000
            return (
                f"{start:x}-{start + share:x} rw-p 00000000 00:00 0 \n"
                "7ffc00000000-7ffc00021000 rw-p 00000000 00:00 0                  [stack]\n"
            )

        self._file(f"/proc/{pid}/maps", maps)
        self._file(f"/proc/{pid}/comm", lambda: f"process{pid}\n")
        self._file(f"/proc/{pid}/status", lambda: f"Name:\tprocess{pid}\nVmLck:\t       0 kB\n")
        self._file(
            f"/proc/{pid}/stat", lambda: f"{pid} (process{pid}) S " + "0 " * 18 + f"{pid} 0 0\n"
        )

    def _list_cgroup(self, cgroup: FakeCgroup) -> None:
        path = cgroup.path
        start = CGROUPS + path.rstrip("/")
        add = self._file
        add(f"{start}/cgroup.controllers", lambda: "cpuset cpu io memory pids\n")
        add(f"{start}/cgroup.procs", lambda: "".join(f"{pid}\n" for pid in cgroup.pids))
        add(f"{start}/memory.stat", lambda: self._memory_stat(path))
        if self.psi:
            for resource in ("cpu", "io", "memory"):
                add(f"{start}/{resource}.pressure", self._psi(resource))
        if self.kernel >= (5, 19):
            add(f"{start}/memory.reclaim", None, lambda text: self._write_reclaim(path, text))
        if path == "/":
            return
        add(f"{start}/memory.current", lambda: f"{self.current_bytes(path)}\n")
        add(
            f"{start}/memory.swap.current",
            lambda: f"{sum(each.swapped_bytes for each in self.subtree(path))}\n",
        )
        for file, name in (
            ("memory.min", "min_bytes"),
            ("memory.low", "low_bytes"),
            ("memory.swap.max", "swap_max_bytes"),
            ("memory.zswap.max", "zswap_max"),
        ):
            self._list_limit(cgroup, f"{start}/{file}", name)

    def _list_limit(self, cgroup: FakeCgroup, path: str, name: str) -> None:
        def read() -> str:
            value = getattr(cgroup, name)
            return "max\n" if value is None else f"{value}\n"

        self._file(path, read, lambda text: self._write_limit(cgroup, name, text))

    # --- texts ----------------------------------------------------------------------------------

    def _meminfo(self) -> str:
        groups = self._by_path.values()
        active_anon = self.active_anon_bytes
        shmem = sum(each.size_bytes for group in groups for each in group.anon if each.shmem)
        dirty = sum(each.dirty_bytes for each in groups)
        mapped = sum(each.mapped_bytes for each in groups)
        cache = sum(each.page_cache_bytes for each in groups)
        slab = sum(each.slab_bytes for each in groups)
        writeback = sum(each.size_bytes for each in self._in_flight)
        small = _whole(self.kernel_bytes / 16)
        figures = {
            "MemTotal": self.total_bytes,
            "MemFree": self.free_bytes,
            "MemAvailable": self.free_bytes + cache - dirty + slab,
            "Buffers": 0,
            "Cached": cache + shmem,
            "SwapCached": writeback,
            "Active": active_anon + mapped,
            "Inactive": self.anon_bytes - active_anon + cache - mapped,
            "Active(anon)": active_anon,
            "Inactive(anon)": self.anon_bytes - active_anon,
            "Active(file)": mapped,
            "Inactive(file)": cache - mapped,
            "Unevictable": self.unevictable_bytes,
            "Mlocked": self.unevictable_bytes,
            "SwapTotal": sum(each.size_bytes for each in self.swaps),
            "SwapFree": self.swap_free_bytes,
            "Zswap": 0,
            "Zswapped": 0,
            "Dirty": dirty,
            "Writeback": writeback,
            "AnonPages": self.anon_bytes - shmem + self.unevictable_bytes,
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

    def _zoneinfo(self) -> str:
        boundary = 3 * GIB
        sizes = [("DMA32", min(self.total_bytes, boundary))]
        if self.total_bytes > boundary:
            sizes.append(("Normal", self.total_bytes - boundary))
        left_free, left_present = _pages(self.free_bytes), _pages(self.present_bytes)
        text = ""
        for index, (name, size) in enumerate(sizes):
            last = index == len(sizes) - 1
            managed = _pages(size)
            free = left_free if last else left_free * managed // _pages(self.total_bytes)
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
            for cpu in range(self.cpus):
                text += (
                    f"    cpu: {cpu}\n              count:    0\n"
                    "              high:     378\n              batch:    63\n"
                )
        return text + "Node 0, zone  Movable\n" + _EMPTY_ZONE

    def _vmstat(self) -> str:
        names = (field.name for field in fields(Vmstat))
        lines = [f"{name} {self.events.get(name, 0)}\n" for name in names]
        return f"nr_free_pages {_pages(self.free_bytes)}\n" + "".join(lines)

    def _swaps(self) -> str:
        text = "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n"
        for each in self.swaps:
            kind = "file\t" if each.is_file else "partition"
            path = each.path.replace("\\", r"\134").replace(" ", r"\040")
            text += (
                f"{path:<40}{kind}\t{each.size_bytes // KIB}\t\t{each.used_bytes // KIB}"
                f"\t\t{each.priority}\n"
            )
        return text

    def _mountinfo(self) -> str:
        text = "27 1 254:1 / / rw,relatime shared:1 - ext4 /dev/vda1 rw\n"
        if self.cgroup_version == 2:
            text += (
                f"30 27 0:26 / {CGROUPS} rw shared:9 - cgroup2 cgroup2 rw,memory_recursiveprot\n"
            )
        elif self.cgroup_version == 1:
            text += f"30 27 0:26 / {CGROUPS}/memory rw - cgroup cgroup rw,memory\n"
            text += f"31 27 0:27 / {CGROUPS}/unified rw - cgroup2 cgroup2 rw\n"
        return text

    def _lockdown(self) -> str:
        words = ("none", "integrity", "confidentiality")
        return " ".join(f"[{word}]" if word == self.lockdown else word for word in words) + "\n"

    def _psi(self, resource: str) -> Reader:
        def read() -> str:
            percent = self.pressure.get(resource, 0.0)
            total = round(self._stall_seconds.get(resource, 0.0) * 1_000_000)
            return "".join(
                f"{kind} avg10={share:.2f} avg60={share:.2f} avg300={share:.2f} total={stalled}\n"
                for kind, share, stalled in (
                    ("some", percent, total),
                    ("full", percent / 2, total // 2),
                )
            )

        return read

    def _mm_stat(self, swap: FakeSwap) -> str:
        pool = _whole(swap.used_bytes / self.zram_ratio)
        return f"{swap.used_bytes:8} {pool:8} {pool:8} 0 {pool:8} 0 0 0 0\n"

    def _memory_stat(self, path: str) -> str:
        groups = self.subtree(path)
        shmem = sum(each.size_bytes for group in groups for each in group.anon if each.shmem)
        anon = sum(each.anon_bytes for each in groups)
        active = sum(each.size_bytes for g in groups for each in g.anon if self._is_active(g, each))
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
            "unevictable": 0,
            "slab_reclaimable": slab,
            "slab_unreclaimable": 0,
            "slab": slab,
        }
        return "".join(f"{name} {value}\n" for name, value in figures.items())

    def _generations(self) -> str:
        if not self.lru_gen:
            return ""
        text = ""
        for path in sorted(self._by_path):
            cgroup = self._by_path[path]
            text += f"memcg {cgroup.memcg_id:5} {path}\n node     0\n"
            for sequence, birth in sorted(cgroup.births.items()):
                anon = sum(e.size_bytes for e in cgroup.anon if e.generation == sequence)
                file = 0
                if sequence == cgroup.oldest_generation:
                    file += cgroup.file_bytes + cgroup.dirty_bytes
                if sequence == cgroup.max_generation:
                    file += cgroup.mapped_bytes
                age = round((self.now - birth) * 1000)
                text += f" {sequence:10} {age:10} {_pages(anon):10}  {_pages(file):10} \n"
        return text


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


class FakeRoot(KernelRoot):
    """A `KernelRoot` on a machine. `prefix` is where what lives on a disk is put (journal, lock,
    state); kernel files are never looked for there."""

    def __init__(self, machine: FakeMachine, prefix: str | Path = "/nonexistent") -> None:
        super().__init__(prefix)
        self.machine = machine

    def raw_read(self, p: str) -> str:
        return self.machine.read_file(p)

    def raw_write(self, p: str, text: str) -> None:
        self.machine.write_file(p, text)

    def exists(self, p: str) -> bool:
        return self.is_dir(p) or self.writable(p) or self._has(p)

    def is_dir(self, p: str) -> bool:
        return self.machine.directory(p) is not None

    def writable(self, p: str) -> bool:
        return self.machine.writable(p)

    def listdir(self, p: str) -> list[str]:
        names = self.machine.directory(p)
        # what is no kernel directory is on the disk
        return super().listdir(p) if names is None else sorted(names)

    def subdirectories(self, p: str) -> list[str]:
        start = p.rstrip("/")
        names = self.machine.directory(p) or set()
        return sorted(name for name in names if self.is_dir(f"{start}/{name}"))

    def readlink(self, p: str) -> str | None:  # noqa: ARG002 - there are none
        return None

    def resolve(self, p: str) -> str:
        return p

    def device_of(self, p: str) -> str:
        area = next((each for each in self.machine.swaps if each.path == p), None)
        return area.device if area else ""

    def _has(self, p: str) -> bool:
        above, _, name = p.rpartition("/")
        return name in (self.machine.directory(above) or set())


def random_machine(random: Random) -> FakeMachine:
    """Any machine: all versions, layouts and states, within what is possible."""
    total = random.choice([512 * MIB, GIB, 2 * GIB, 4 * GIB, 8 * GIB, 64 * GIB])
    left = total - 256 * MIB

    def some(share: float) -> int:
        nonlocal left
        size = _whole(random.random() * share * left)
        left -= size
        return size

    unevictable = some(0.1)
    paths = random.sample(
        ["/", "/init.scope", "/system.slice/a.service", "/system.slice/b.service",
         "/user.slice", "/user.slice/user-1000.slice/app.slice/x.scope", "/machine.slice/vm.scope"],
        random.randint(1, 6),
    )  # fmt: skip
    cgroups = []
    for number, path in enumerate(paths):
        anon = [
            AnonSet(
                some(0.3),
                idle_seconds=random.choice([0.0, 5.0, 30.0, 300.0, 86400.0]),
                hot=random.random() < 0.3,
                shmem=random.random() < 0.2,
            )
            for _ in range(random.randint(0, 3))
        ]
        cgroups.append(
            FakeCgroup(
                path,
                anon=anon,
                file_bytes=some(0.3),
                dirty_bytes=some(0.1),
                mapped_bytes=some(0.1),
                slab_bytes=some(0.1),
                min_bytes=random.choice([0, 0, 0, 64 * MIB, total]),
                swap_max_bytes=random.choice([None, None, None, 0, 128 * MIB]),
                pids=[1000 + number],
            )
        )
    swaps = [
        FakeSwap(f"/dev/vda{2 + number}", _whole(random.random() * total), priority=-2 - number,
                 device=f"254:{2 + number}")
        for number in range(random.randint(0, 2))
    ]  # fmt: skip
    if random.random() < 0.2:
        swaps.append(FakeSwap("/dev/zram0", total // 2, priority=100, is_zram=True, device="252:0"))
    kernel = random.choice([(5, 10), (6, 1), (6, 12), (6, 17), (6, 18), (7, 3)])
    return FakeMachine(
        total_bytes=total,
        kernel=kernel,
        cgroups=cgroups,
        swaps=swaps,
        cgroup_version=random.choice([2, 2, 2, 2, 1, 0]),
        unevictable_bytes=unevictable,
        lru_gen=random.choice([True, True, False, None]) if kernel >= (6, 1) else None,
        generation_ages_seconds=random.choice([(600.0, 600.0), (900.0, 120.0, 20.0, 5.0)]),
        debugfs=random.random() < 0.8,
        psi=random.random() < 0.9,
        numa=random.random() < 0.9,
        swappiness=random.choice([0, 10, 60, 100, 200]),
        hibernation=random.random() < 0.9,
        resume_device=swaps[0].device if swaps and not swaps[0].is_zram else "",
        again_every=random.choice([0, 0, 1, 3]),
        swap_delay_seconds=random.choice([0.0, 0.0, 0.5]),
    )
