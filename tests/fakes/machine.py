# SPDX-License-Identifier: LGPL-2.1-or-later
"""A kernel made of arithmetic, whose files react to writes.

`FakeMachine` is the whole of it: which files there are (what they say is in `texts`, what writing
to them does in `commands`) on top of memory that can be reclaimed (`reclaiming`, `state`).
`FakeRoot` shows it to hibprep, with the errno that a kernel of that version would give.

After Documentation/admin-guide/cgroup-v2.rst, mm/multigen_lru.rst and sysctl/vm.rst; what is left
out is left out on purpose: one node, no huge pages, no kswapd.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from functools import partial
from pathlib import Path

from hibprep.kernel.root import KernelRoot
from tests.fakes import commands, texts
from tests.fakes.reclaiming import ReclaimingMachine
from tests.fakes.state import PAGE, FakeCgroup, FakeSwap, failure, whole
from tests.fakes.texts import CGROUPS

BOOT_ID = "6b8f1e0c-6c5e-4f57-8c3c-0f4f1d1b2a3c"

Reader = Callable[[], str]
Writer = Callable[[str], None]


class FakeMachine(ReclaimingMachine):
    """The whole machine. `readers` and `writers` are its files, for a test to change."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.readers: dict[str, Reader] = {}
        self.writers: dict[str, Writer] = {}
        self._directories: dict[str, set[str]] = {}
        self._list_files()

    def remove_cgroup(self, path: str) -> None:
        super().remove_cgroup(path)
        self._list_files()

    def read_file(self, path: str) -> str:
        """The present text of a file; OSError as the kernel would give it."""
        reader = self.readers.get(path)
        if reader is not None:
            return reader()
        if path in self._directories:
            raise failure(errno.EISDIR)
        raise failure(errno.EACCES if path in self.writers else errno.ENOENT)

    def write_file(self, path: str, text: str) -> None:
        """One write(2); OSError as the kernel would give it."""
        self.writes.append((path, text))
        writer = self.writers.get(path)
        if writer is None:
            raise failure(errno.EACCES if path in self.readers else errno.ENOENT)
        writer(text)

    def writable(self, path: str) -> bool:
        """Whether there is a file that takes writes."""
        return path in self.writers

    def directory(self, path: str) -> set[str] | None:
        """The names in a directory, None when there is none."""
        return self._directories.get(path.rstrip("/") or "/")

    def render(self, directory: Path) -> None:
        """A tree of ordinary files, for `hibprep --root DIR`: it shows this moment and does not
        react."""
        for path in sorted(set(self.readers) | set(self.writers)):
            target = directory / path.lstrip("/")
            target.parent.mkdir(parents=True, exist_ok=True)
            reader = self.readers.get(path)
            target.write_text(reader() if reader else "")

    def add_file(self, path: str, reader: Reader | None, writer: Writer | None = None) -> None:
        """One file more (or another in its place), and the directories above it."""
        if reader is not None:
            self.readers[path] = reader
        if writer is not None:
            self.writers[path] = writer
        name = path
        while name != "/":
            above, _, last = name.rpartition("/")
            above = above or "/"
            names = self._directories.setdefault(above, set())
            if last in names:
                break
            names.add(last)
            name = above

    def remove_files(self, directory: str) -> None:
        """A directory and all in it, as when the kernel takes one away."""
        inside = f"{directory}/"
        for table in (self.readers, self.writers, self._directories):
            for path in [each for each in table if f"{each}/".startswith(inside)]:
                del table[path]
        above, _, name = directory.rpartition("/")
        self._directories.get(above, set()).discard(name)

    def _list_files(self) -> None:
        self.readers, self.writers, self._directories = {}, {}, {}
        add = self.add_file
        add("/proc/meminfo", partial(texts.meminfo, self))
        add("/proc/zoneinfo", partial(texts.zoneinfo, self))
        add("/proc/vmstat", partial(texts.vmstat, self))
        add("/proc/swaps", partial(texts.swaps, self))
        add("/proc/cmdline", lambda: self.command_line + "\n")
        add("/proc/self/mountinfo", partial(texts.mountinfo, self))
        add("/proc/sys/kernel/osrelease", lambda: "{}.{}.0\n".format(*self.kernel))
        add("/proc/sys/kernel/random/boot_id", lambda: BOOT_ID + "\n")
        add(
            "/proc/sys/vm/swappiness",
            lambda: f"{self.swappiness}\n",
            partial(commands.write_swappiness, self),
        )
        add("/proc/sys/vm/drop_caches", None, partial(commands.write_drop_caches, self))
        add("/proc/sys/vm/laptop_mode", lambda: f"{self.laptop_mode}\n")
        add("/sys/devices/system/cpu/online", lambda: f"0-{self.cpus - 1}\n")
        self._list_power()
        if self.psi:
            for resource in ("cpu", "io", "memory"):
                add(f"/proc/pressure/{resource}", texts.psi(self, resource))
        self._list_lru_gen()
        if self.zswap is not None:
            add(
                "/sys/module/zswap/parameters/enabled",
                lambda: "Y\n" if self.zswap else "N\n",
                partial(commands.write_zswap, self),
            )
        self._list_node()
        for swap in self.swaps:
            self._list_swap(swap)
        for cgroup in self.by_path.values():
            for pid in cgroup.pids:
                self._list_process(cgroup, pid)
            if self.cgroup_version == 2:
                self._list_cgroup(cgroup)
        if self.cgroup_version == 1:
            add(f"{CGROUPS}/memory/memory.usage_in_bytes", lambda: f"{self.used_bytes}\n")
            add(f"{CGROUPS}/unified/cgroup.controllers", lambda: "\n")

    def _list_lru_gen(self) -> None:
        if self.lru_gen is None:
            return
        self.add_file(
            "/sys/kernel/mm/lru_gen/enabled",
            lambda: "0x0007\n" if self.lru_gen else "0x0000\n",
            partial(commands.write_lru_gen, self),
        )
        if self.debugfs:
            self.add_file(
                "/sys/kernel/debug/lru_gen",
                partial(texts.generations, self),
                partial(commands.write_generations, self),
            )

    def _list_node(self) -> None:
        if not self.numa:
            return
        self._list_ratio("min_unmapped_ratio")
        self._list_ratio("min_slab_ratio")
        if self.kernel >= (6, 17):
            self.add_file(
                "/sys/devices/system/node/node0/reclaim",
                None,
                partial(commands.write_node_reclaim, self),
            )

    def _list_ratio(self, name: str) -> None:
        self.add_file(
            f"/proc/sys/vm/{name}",
            lambda: f"{getattr(self, name)}\n",
            partial(commands.write_ratio, self, name),
        )

    def _list_power(self) -> None:
        add = self.add_file
        add("/sys/kernel/security/lockdown", partial(texts.lockdown, self))
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
        add(
            "/sys/power/image_size",
            lambda: f"{self.image_size_bytes}\n",
            partial(commands.write_image_size, self),
        )
        add("/sys/power/reserved_size", lambda: f"{self.reserved_size_bytes}\n")
        add("/sys/power/resume", lambda: f"{self.resume_device or '0:0'}\n")
        add("/sys/power/resume_offset", lambda: f"{self.resume_offset_pages}\n")

    def _list_swap(self, swap: FakeSwap) -> None:
        name = swap.path.rpartition("/")[2]
        if not swap.is_file:
            self.add_file(f"/sys/class/block/{name}/dev", lambda: f"{swap.device}\n")
        if swap.is_zram:
            self._list_zram(swap, f"/sys/block/{name}")

    def _list_zram(self, swap: FakeSwap, start: str) -> None:
        add = self.add_file
        add(f"{start}/mm_stat", lambda: texts.mm_stat(self, swap))
        add(f"{start}/backing_dev", lambda: f"{swap.backing or 'none'}\n")
        add(f"{start}/bd_stat", lambda: f"{swap.written_bytes // 4096:8} 0 0\n")
        add(f"{start}/idle", None, partial(commands.write_idle, swap))
        add(f"{start}/writeback", None, partial(commands.write_writeback, self, swap))
        for name in ("writeback_limit", "writeback_limit_enable"):
            add(
                f"{start}/{name}",
                partial(texts.writeback_limit, swap, name),
                partial(commands.write_writeback_limit, swap, name),
            )

    def _list_process(self, cgroup: FakeCgroup, pid: int) -> None:
        def maps() -> str:
            share = whole(cgroup.anon_bytes / len(cgroup.pids)) or PAGE
            start = 0x7F00_0000_0000
            return (
                f"{start:x}-{start + share:x} rw-p 00000000 00:00 0 \n"
                "7ffc00000000-7ffc00021000 rw-p 00000000 00:00 0                  [stack]\n"
            )

        self.add_file(f"/proc/{pid}/maps", maps)
        self.add_file(f"/proc/{pid}/comm", lambda: f"process{pid}\n")
        self.add_file(f"/proc/{pid}/status", lambda: texts.status(cgroup, pid))
        self.add_file(
            f"/proc/{pid}/stat", lambda: f"{pid} (process{pid}) S " + "0 " * 18 + f"{pid} 0 0\n"
        )

    def _list_cgroup(self, cgroup: FakeCgroup) -> None:
        path = cgroup.path
        start = CGROUPS + path.rstrip("/")
        add = self.add_file
        add(f"{start}/cgroup.controllers", lambda: "cpuset cpu io memory pids\n")
        add(f"{start}/cgroup.procs", lambda: "".join(f"{pid}\n" for pid in cgroup.pids))
        add(f"{start}/memory.stat", lambda: texts.memory_stat(self, path))
        if self.psi:
            for resource in ("cpu", "io", "memory"):
                add(f"{start}/{resource}.pressure", texts.psi(self, resource))
        if self.kernel >= (5, 19):
            add(
                f"{start}/memory.reclaim",
                None,
                lambda text: commands.write_reclaim(self, path, text),
            )
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
        if self.zswap is not None and self.kernel >= (6, 8):
            add(
                f"{start}/memory.zswap.writeback",
                lambda: f"{int(cgroup.zswap_writeback)}\n",
                partial(commands.write_zswap_writeback, cgroup),
            )

    def _list_limit(self, cgroup: FakeCgroup, path: str, name: str) -> None:
        def read() -> str:
            value = getattr(cgroup, name)
            return "max\n" if value is None else f"{value}\n"

        self.add_file(path, read, lambda text: commands.write_limit(self, cgroup, name, text))


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

    def attribute(self, p: str, name: str) -> str | None:
        return self.machine.attributes.get((p, name))

    def roots_alone(self, p: str) -> bool:
        return not any(p.startswith(f"{CGROUPS}{each}") for each in self.machine.delegated)

    def device_of(self, p: str) -> str:
        area = next((each for each in self.machine.swaps if each.path == p), None)
        return area.device if area else ""

    def _has(self, p: str) -> bool:
        above, _, name = p.rpartition("/")
        return name in (self.machine.directory(above) or set())
