# SPDX-License-Identifier: LGPL-2.1-or-later
"""What happens to a fake machine's memory: reclaim, generations, swap, and time that passes.

Everything is exact and deterministic: bytes are conserved, time passes only in `advance` (and in
reclaim that has a speed).
"""

from __future__ import annotations

import errno
from collections.abc import Iterable

from tests.fakes.state import (
    PAGE,
    AnonSet,
    FakeCgroup,
    InFlight,
    MachineState,
    failure,
    pages,
    whole,
)

ANON_ONLY = -1  # swappiness=max

_MAX_GENERATIONS = 4


class ReclaimingMachine(MachineState):
    """A machine that memory can be taken from."""

    def advance(self, seconds: float) -> None:
        """Time passes: swap-out completes, hot memory is touched and comes back."""
        self.now += seconds
        for resource, percent in self.pressure.items():
            stalled = self.stall_seconds.get(resource, 0.0)
            self.stall_seconds[resource] = stalled + seconds * percent / 100
        for each in [each for each in self.in_flight if each.due <= self.now]:
            self.in_flight.remove(each)
            each.anon.in_flight_bytes -= each.size_bytes
            self._swapped_out(each.anon, each.size_bytes)
        for cgroup in self.by_path.values():
            for anon in cgroup.anon:
                if anon.hot:
                    anon.last_used = self.now
                    self._swap_in(cgroup, anon)

    def sync(self) -> None:
        """sync(2): what was dirty is clean."""
        for cgroup in self.by_path.values():
            cgroup.file_bytes += cgroup.dirty_bytes
            cgroup.dirty_bytes = 0

    def pageout(self, pid: int, ranges: Iterable[tuple[int, int]]) -> int:
        """process_madvise(MADV_PAGEOUT) on a process: takes the anonymous memory of its cgroup,
        hot or not, and answers the bytes advised."""
        cgroup = next((each for each in self.by_path.values() if pid in each.pids), None)
        if cgroup is None:
            raise failure(errno.ESRCH)
        wanted = sum(length for _, length in ranges)
        self._take_anon([cgroup], wanted, "/", counted=self.kernel >= (6, 13))
        return wanted

    def page_out_idle(
        self, under: str, idle_seconds: float, wanted: int, *, alone: bool = False
    ) -> int:
        """DAMON's pageout: anonymous memory that was idle for so long, no regard paid to memory.min
        (reclaim_pages()); what was sent to swap. `alone`: nothing of the cgroups below."""
        done = 0
        for group in [self.by_path[under]] if alone else self.subtree(under):
            for anon in group.anon:
                if not anon.hot and self.now - anon.last_used >= idle_seconds:
                    counted = self.kernel >= (6, 13)
                    before = anon.in_flight_bytes + anon.swapped_bytes
                    self._swap_out([(group, anon)], wanted - done, group.path, counted=counted)
                    done += anon.in_flight_bytes + anon.swapped_bytes - before
        return done

    def remove_cgroup(self, path: str) -> None:
        """The cgroup ends, and with it its memory, as when a unit is stopped."""
        for each in self.subtree(path):
            for anon in each.anon:
                self._release(anon.swapped_bytes + anon.in_flight_bytes)
            self.in_flight = [flight for flight in self.in_flight if flight.cgroup is not each]
            del self.by_path[each.path]

    # --- reclaim --------------------------------------------------------------------------------

    def _effective_min(self, path: str) -> int:
        """With memory_recursiveprot: bounded by all above."""
        parts = path.strip("/").split("/")
        return min(
            self.by_path["/" + "/".join(parts[: depth + 1])].min_bytes
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
        return whole(allowed)

    def _swap_room(self, path: str) -> int:
        """What the cgroup may still put into swap."""
        room = self.swap_free_bytes
        parts = path.strip("/").split("/") if path != "/" else []
        for depth in range(len(parts)):
            above = self.by_path["/" + "/".join(parts[: depth + 1])]
            if above.swap_max_bytes is not None:
                swapped = sum(
                    each.swapped_bytes + sum(anon.in_flight_bytes for anon in each.anon)
                    for each in self.subtree(above.path)
                )
                room = min(room, max(0, above.swap_max_bytes - swapped))
        return whole(room)

    def reclaim(self, target: str, wanted: int, swappiness: int) -> int:
        """One request on `target` and all below it; what was freed, slab included."""
        groups = self.subtree(target)
        if swappiness == ANON_ONLY:
            return self._take_anon(groups, wanted, target)
        if swappiness == 0:
            return self._take_cache(groups, wanted, target)
        anon_share = wanted if swappiness == 200 else whole(wanted * swappiness / 200)
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
                    whole(wanted / 10),
                    wanted - freed,
                    self._unprotected(group.path, target),
                )
                group.slab_bytes -= taken
                self.count("slabs_scanned", pages(taken))
                freed += taken
        for name in ("file_bytes", "mapped_bytes"):
            for group in groups:
                have = int(getattr(group, name))
                if not have or freed >= wanted:
                    continue
                taken = min(have, wanted - freed, self._unprotected(group.path, target))
                setattr(group, name, have - taken)
                self.count("pgsteal_file", pages(taken))
                freed += taken
        return freed

    def _take_anon(
        self, groups: list[FakeCgroup], wanted: int, target: str, *, counted: bool = True
    ) -> int:
        """Anonymous memory, inactive before active, the longest idle first."""
        candidates = sorted(
            ((group, anon) for group in groups for anon in group.anon),
            key=lambda pair: (self.is_active(*pair), pair[1].last_used, pair[0].path),
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
            pooled = self._may(group.path, "zswap_max")
            if self.zswap and not pooled and not self._may(group.path, "zswap_writeback"):
                continue  # neither in the pool nor on the disk
            for area in sorted(self.swaps, key=lambda each: -each.priority):
                part = min(taken, area.free_bytes)
                if part <= 0:
                    continue
                if self.zswap and pooled and not area.is_zram:
                    area.used_bytes += part
                    taken -= part
                    submitted += part
                    freed += part
                    anon.zswapped_bytes += part
                    self.count("zswpout", pages(part))
                    self._swapped_out(anon, part, counted=counted)
                    continue
                area.used_bytes += part
                taken -= part
                submitted += part
                self.count("pswpout", pages(part))
                if self.swap_delay_seconds and not area.is_zram:
                    anon.in_flight_bytes += part
                    due = self.now + self.swap_delay_seconds
                    self.in_flight.append(InFlight(due, group, anon, part))
                else:
                    self._swapped_out(anon, part, counted=counted)
                    freed += part
        return freed

    def _may(self, path: str, setting: str) -> bool:
        """What memory.zswap.max and memory.zswap.writeback, its own and those above it, allow."""
        parts = path.strip("/").split("/") if path != "/" else []
        above = (self.by_path["/" + "/".join(parts[: n + 1])] for n in range(len(parts)))
        return all(getattr(each, setting) not in ("0", False) for each in above)

    def _swapped_out(self, anon: AnonSet, size_bytes: int, *, counted: bool = True) -> None:
        anon.size_bytes -= size_bytes
        anon.swapped_bytes += size_bytes
        if counted:
            self.count("pgsteal_anon", pages(size_bytes))

    def _swap_in(self, cgroup: FakeCgroup, anon: AnonSet) -> None:
        # the reserve stands for the watermarks, below which the real one would reclaim others
        size = min(anon.swapped_bytes, max(0, whole(self.free_bytes - self.total_bytes / 100)))
        if not size:
            return
        anon.swapped_bytes -= size
        anon.zswapped_bytes = min(anon.zswapped_bytes, anon.swapped_bytes)
        anon.size_bytes += size
        anon.generation = cgroup.max_generation
        self._release(size)
        self.count("pswpin", pages(size))
        self.count("workingset_refault_anon", pages(size))

    def _release(self, size_bytes: int) -> None:
        for area in sorted(self.swaps, key=lambda each: each.priority):
            part = min(size_bytes, area.used_bytes)
            area.used_bytes -= part
            area.written_bytes = min(area.written_bytes, area.used_bytes)
            size_bytes -= part

    def unuse(self, path: str, size_bytes: int) -> bool:
        """Some of what swapoff(2) does: so much of an area comes back, and others go to the disk
        where there is no room for it. Whether the area is empty and gone; ENOMEM when the kernel
        would have to kill."""
        area = next(each for each in self.swaps if each.path == path)
        area.leaving = True
        groups = list(self.by_path.values())
        for anon in [anon for group in groups for anon in group.anon]:
            part = min(size_bytes, area.used_bytes, anon.swapped_bytes)
            lacking = part - self.free_bytes
            if lacking > 0 and self._take_anon(groups, whole(lacking + PAGE), "/") < lacking:
                area.leaving = False
                raise failure(errno.ENOMEM)
            area.used_bytes -= part
            area.written_bytes = min(area.written_bytes, area.used_bytes)
            anon.swapped_bytes -= part
            anon.size_bytes += part
            size_bytes -= part
        if area.used_bytes:
            return False
        self.swaps.remove(area)
        return True

    # --- generations ----------------------------------------------------------------------------

    def fill_generations(self) -> None:
        """The multi-gen LRU is switched on: what the other LRU took for active is put into the
        youngest generation, the rest into the oldest, whose age is the cgroup's."""
        for cgroup in self.by_path.values():
            for anon in cgroup.anon:
                active = self.is_active(cgroup, anon)
                anon.generation = cgroup.max_generation if active else cgroup.oldest_generation
            cgroup.looked = self.now

    def age(self, cgroup: FakeCgroup, sequence: int) -> None:
        """A new youngest generation, when `sequence` is the youngest so far. What was touched
        since that was created goes into that, before the new one begins."""
        if sequence > cgroup.max_generation:
            raise failure(errno.EINVAL)
        if sequence < cgroup.max_generation:
            if self.kernel >= (7, 0):
                raise failure(errno.EEXIST)
            return
        since = max(cgroup.births[sequence], cgroup.looked)
        cgroup.max_generation += 1
        cgroup.births[cgroup.max_generation] = self.now
        if len(cgroup.births) > _MAX_GENERATIONS:
            del cgroup.births[cgroup.oldest_generation]
        for anon in cgroup.anon:
            if anon.last_used > since:
                anon.generation = sequence
            anon.generation = max(anon.generation, cgroup.oldest_generation)

    def evict(self, cgroup: FakeCgroup, sequence: int, options: list[str]) -> None:
        """Take what is no younger than `sequence`; the options are a swappiness and pages."""
        if sequence + 2 > cgroup.max_generation:
            raise failure(errno.EINVAL)
        word = options[0] if options else str(self.swappiness)
        if word == "max" and self.kernel >= (6, 16):
            swappiness = ANON_ONLY
        elif word.isdigit() and int(word) <= 200:
            swappiness = int(word)
        else:
            raise failure(errno.EINVAL)
        wanted = int(options[1]) * PAGE if len(options) > 1 else self.total_bytes
        freed = 0
        if swappiness:
            looked = max(cgroup.births[cgroup.max_generation], cgroup.looked)
            for each in cgroup.anon:
                if each.last_used > looked:
                    # lru_gen_look_around(): eviction sees what was touched since the last aging
                    each.generation = cgroup.max_generation
            old = [
                (cgroup, each)
                for each in sorted(cgroup.anon, key=lambda each: each.last_used)
                if each.generation <= sequence
            ]
            # this path does not look at memory.min
            freed = self._swap_out(old, wanted, cgroup.path)
        if swappiness != ANON_ONLY and freed < wanted:
            freed += self._take_cache([cgroup], wanted - freed, cgroup.path)
        if self.bytes_per_second:
            self.advance(freed / self.bytes_per_second)
