# SPDX-License-Identifier: LGPL-2.1-or-later
"""The readers on the kernel that these tests run on."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import mmap
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hibprep.errors import KernelFileMissing
from hibprep.kernel.cgroup import find_cgroup2
from hibprep.kernel.meminfo import read_meminfo
from hibprep.kernel.mounts import mount_of, read_mounts
from hibprep.kernel.process import (
    MADV_PAGEOUT,
    all_pids,
    name_of,
    open_pidfd,
    pageout_ranges,
    process_madvise,
    start_time,
)
from hibprep.kernel.psi import try_pressure
from hibprep.kernel.root import KernelRoot
from hibprep.kernel.snapshot import read_snapshot
from hibprep.kernel.swaps import _first_page, read_swaps
from hibprep.kernel.vmstat import read_vmstat
from hibprep.kernel.zoneinfo import read_zoneinfo

pytestmark = pytest.mark.kernel
ROOT = KernelRoot()

# include/uapi/linux/fs.h
FIBMAP, FIGETBSZ = 1, 2


def test_meminfo_is_plausible() -> None:
    memory = read_meminfo(ROOT)
    assert 0 < memory.free_bytes < memory.total_bytes
    assert memory.anon_lru_bytes + memory.file_lru_bytes < memory.total_bytes


def test_zones_hold_what_they_say() -> None:
    # no equality with MemTotal: hypervisors that lend memory show more of it than is in the zones
    zones = read_zoneinfo(ROOT)
    assert zones
    for zone in zones:
        assert 0 < zone.present_pages <= zone.spanned_pages
        assert zone.free_pages <= zone.present_pages
        assert zone.managed_pages <= zone.present_pages
    managed = sum(zone.managed_pages for zone in zones) * mmap.PAGESIZE
    assert managed <= read_meminfo(ROOT).total_bytes + len(zones) * mmap.PAGESIZE


def test_the_first_page_of_a_file_is_where_its_first_block_is(tmp_path: Path) -> None:
    """FIBMAP is the older call for the same thing, and needs root."""
    file = tmp_path / "file"
    file.write_bytes(b"x" * (1 << 20))
    block, size = bytearray(4), bytearray(4)
    with file.open("rb") as opened:
        os.fsync(opened.fileno())
        try:
            fcntl.ioctl(opened, FIGETBSZ, size)
            fcntl.ioctl(opened, FIBMAP, block)
        except OSError as error:
            pytest.skip(f"FIBMAP: {error.strerror}")
    address = int.from_bytes(block, sys.byteorder) * int.from_bytes(size, sys.byteorder)
    if not address:
        pytest.skip("a file system without blocks")
    assert _first_page(ROOT, str(file)) == address // mmap.PAGESIZE


def test_counters_only_grow() -> None:
    before, after = read_vmstat(ROOT), read_vmstat(ROOT)
    assert after.slabs_scanned >= before.slabs_scanned


def test_swap_areas_have_devices_or_none() -> None:
    for area in read_swaps(ROOT):
        assert area.used_bytes <= area.size_bytes
        assert area.device == "" or area.device.count(":") == 1


def test_pressure_if_there_is_any() -> None:
    pressure = try_pressure(ROOT, "memory")
    if pressure is None:
        pytest.skip("this kernel has no pressure information")
    assert pressure.some_total_seconds >= pressure.full_total_seconds >= 0


def test_a_cgroup_tree_or_a_reason() -> None:
    found = find_cgroup2(ROOT)
    assert found.reason
    if found.tree is not None:
        assert found.tree.read("/").current_bytes > 0
        assert found.tree.protected_bytes() >= 0


def test_the_mount_of_a_file() -> None:
    mount = mount_of(read_mounts(ROOT), "/proc/self")
    assert mount is not None
    assert mount.kind == "proc"


def test_a_snapshot_is_quick() -> None:
    read_snapshot(ROOT)
    taken = []
    for _ in range(5):
        begun = time.monotonic()
        read_snapshot(ROOT)
        taken.append(time.monotonic() - begun)
    assert min(taken) < 0.03


def test_this_process() -> None:
    pid = os.getpid()
    assert pid in all_pids(ROOT)
    assert name_of(ROOT, pid)
    assert start_time(ROOT, pid)
    assert start_time(ROOT, 2**22 + 1) is None
    with pytest.raises(KernelFileMissing):
        open_pidfd(2**22 + 1)


def test_pageout_is_taken_by_the_kernel() -> None:
    """Without swap nothing leaves; that the call is accepted for all ranges is what counts."""
    size = 1 << 20
    memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory.write(b"x" * size)
    buffer = ctypes.c_char.from_buffer(memory)
    address = ctypes.addressof(buffer)
    del buffer
    ranges = pageout_ranges(ROOT, os.getpid())
    assert any(start <= address and address + size <= start + length for start, length in ranges)
    pidfd = open_pidfd(os.getpid())
    try:
        # of its own mapping: those of the interpreter come and go between the two calls
        assert process_madvise(pidfd, ((address, size),), MADV_PAGEOUT) == size
        with pytest.raises(OSError, match=os.strerror(errno.ENOMEM)):
            process_madvise(pidfd, ((0, mmap.PAGESIZE),), MADV_PAGEOUT)
    finally:
        os.close(pidfd)
        memory.close()


def test_importing_is_quick_and_needs_nothing_else() -> None:
    code = (
        "import sys, hibprep.kernel.snapshot, hibprep.kernel.knobs\n"
        "print(*sorted({'psutil', 'pydantic', 'rich', 'click'} & set(sys.modules)))"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code],
        check=True,
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
        timeout=60,
    )
    assert answer.stdout.strip() == ""
