# SPDX-License-Identifier: LGPL-2.1-or-later
"""Words of pagemap, lines of maps, and who a process is; the search by ioctl is in tests/kernel."""

from __future__ import annotations

import os
import struct
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hibprep.errors import KernelFileMissing
from hibprep.kernel import pagemap as module
from hibprep.kernel.areas import Area, Backing, parse_areas, read_areas, read_kinds
from hibprep.kernel.members import (
    Member,
    foreground,
    parse_cgroup,
    parse_sizes,
    read_member,
    read_members,
)
from hibprep.kernel.pagemap import Pagemap, Wanted, runs
from hibprep.kernel.root import KernelRoot
from hibprep.ranges import Range, join
from tests.fakes.processes import PAGE, FakeProcess, Mapped, write_kernel_thread

# Documentation/admin-guide/mm/pagemap.rst
SOFT_DIRTY, EXCLUSIVE, UFFD, GUARD = 1 << 55, 1 << 56, 1 << 57, 1 << 58
FILE, SWAPPED, PRESENT = 1 << 61, 1 << 62, 1 << 63
WORDS = st.lists(
    st.builds(
        lambda bits, low: sum(bits) | low,
        st.sets(st.sampled_from([SOFT_DIRTY, EXCLUSIVE, UFFD, GUARD, FILE, SWAPPED, PRESENT])),
        st.integers(0, (1 << 55) - 1),
    ).filter(lambda word: not (word & SWAPPED and word & PRESENT)),
    max_size=40,
)


def is_wanted(word: int, wanted: Wanted) -> bool:
    if wanted is Wanted.SWAPPED:
        return bool(word & SWAPPED)
    return bool(word & PRESENT) and bool(word & FILE) == (wanted is Wanted.FILE)


@settings(deadline=None)
@given(WORDS, st.sampled_from(Wanted), st.integers(0, 1 << 30))
def test_words(words: list[int], wanted: Wanted, first: int) -> None:
    start = first * PAGE
    found = runs(struct.pack(f"={len(words)}Q", *words), start, wanted)
    pages = [
        (start + index * PAGE, start + (index + 1) * PAGE)
        for index, word in enumerate(words)
        if is_wanted(word, wanted)
    ]
    assert found == join(pages)


# --- a process ------------------------------------------------------------------------------------

STATES = st.text("asf.", max_size=30)


def find(root: Path, process: FakeProcess, wanted: Wanted, gap_pages: int = 0) -> list[Range]:
    kernel = KernelRoot(root)
    with Pagemap(kernel, process.pid) as opened:
        return opened.find(
            wanted, lambda: read_areas(kernel, process.pid, {}), gap_bytes=gap_pages * PAGE
        )


@settings(deadline=None)
@given(first=STATES, second=STATES, gap=st.integers(0, 3))
def test_pages_of_a_process(
    tmp_path_factory: pytest.TempPathFactory, first: str, second: str, gap: int
) -> None:
    root = tmp_path_factory.mktemp("root")
    process = FakeProcess(
        7,
        (
            Mapped(16, first),
            Mapped(50, second, "fe:01", 12, "/usr/lib/lib c.so", "r--p"),
        ),
    )
    process.write(root)
    # a kernel that cannot search has nothing of a file to look for in memory of its own
    for wanted, letter in ((Wanted.SWAPPED, "s"), (Wanted.ANON, "a")):
        assert find(root, process, wanted, gap) == join(process.ranges(letter), gap * PAGE)
    files = [each for each in process.ranges("f") if each[0] >= 50 * PAGE]
    assert find(root, process, Wanted.FILE, gap) == join(files, gap * PAGE)


def test_ranges_go_on_over_the_ends_of_areas_and_reads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_WORDS_A_READ", 3)
    process = FakeProcess(7, (Mapped(16, "sssss"), Mapped(21, "ss.s")))
    process.write(tmp_path)
    assert find(tmp_path, process, Wanted.SWAPPED) == process.ranges("s")


def test_what_is_only_reserved_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_LONGEST_AREA_BYTES", 4 * PAGE)
    process = FakeProcess(7, (Mapped(16, "sssss"), Mapped(30, "ssss")))
    process.write(tmp_path)
    assert find(tmp_path, process, Wanted.SWAPPED) == [(30 * PAGE, 34 * PAGE)]


def test_no_time_no_pages(tmp_path: Path) -> None:
    process = FakeProcess(7, (Mapped(16, "ssss"),))
    process.write(tmp_path)
    kernel = KernelRoot(tmp_path)
    with Pagemap(kernel, 7) as opened:
        found = opened.find(Wanted.SWAPPED, lambda: read_areas(kernel, 7, {}), expired=lambda: True)
    assert found == []


def test_a_process_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(KernelFileMissing, match="/proc/7/pagemap"):
        Pagemap(KernelRoot(tmp_path), 7)


# --- areas ----------------------------------------------------------------------------------------

MAPS = """\
55d0c0000000-55d0c0021000 rw-p 00000000 00:00 0                          [heap]
7f0000000000-7f0000001000 r--p 00002000 fe:01 1234                       /usr/lib/lib (deleted) x.so
7f0000002000-7f0000003000 rw-s 00000000 00:01 5                          /memfd:pulse (deleted)
7f0000003000-7f0000004000 rw-s 00000000 00:18 6                          /dev/shm/x
7f0000004000-7f0000005000 rw-s 00000000 00:05 7                          /dev/dri/card0
7f0000005000-7f0000006000 r--p 00000000 00:2a 8                          /home/anna/file
7f0000006000-7f0000007000 r--s 00000000 00:2b 9                          /run/user/1000/doc/x
7f0000007000-7f0000008000 r--p 00000000 00:2c 10                         /mnt/nfs/x
7f0000008000-7f0000009000 r--p 00000000 08:11 11                         /media/ntfs/x
7f0000009000-7f000000a000 r--p 00000000 00:2d 12                         /tmp/x
7ffc00000000-7ffc00021000 rw-p 00000000 00:00 0                          [stack]
7ffc00022000-7ffc00024000 r-xp 00000000 00:00 0                          [vdso]
ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0                  [vsyscall]
7f000000b000-7f000000c000 rw-p 00000000 00:00 0
what is this
"""
KINDS = {
    "fe:01": "ext4", "00:2a": "btrfs", "00:2b": "fuse.portal", "00:2c": "nfs4",
    "08:11": "fuseblk", "00:2d": "tmpfs", "00:05": "devtmpfs", "00:18": "tmpfs",
}  # fmt: skip


def test_what_is_behind_addresses() -> None:
    found = parse_areas(MAPS, KINDS)
    assert [area.backing for area in found] == [
        Backing.SWAP, Backing.DISK, Backing.SHARED, Backing.SHARED, Backing.OTHER, Backing.DISK,
        Backing.OTHER, Backing.OTHER, Backing.OTHER, Backing.SHARED, Backing.SWAP, Backing.OTHER,
        Backing.OTHER, Backing.SWAP,
    ]  # fmt: skip
    assert found[1] == Area(
        start=0x7F0000000000,
        end=0x7F0000001000,
        backing=Backing.DISK,
        private=True,
        file=("fe:01", 1234),
        offset=0x2000,
    )
    assert not found[2].private


def test_a_disk_is_known_without_its_mount() -> None:
    # of another mount namespace: what has a block device is on a disk
    assert parse_areas(MAPS, {})[1].backing is Backing.DISK
    assert parse_areas(MAPS, {})[5].backing is Backing.OTHER


@settings(deadline=None)
@given(st.text(max_size=200))
def test_any_text_is_areas_or_none(text: str) -> None:
    for area in parse_areas(text, {}):
        assert area.start >= 0


def test_kinds_by_device_as_maps_writes_it(tmp_path: Path) -> None:
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/mountinfo").write_text(
        "29 1 254:1 / / rw - ext4 /dev/vda1 rw\n30 29 0:42 / /home rw - btrfs /dev/vdb rw\n"
    )
    assert read_kinds(KernelRoot(tmp_path)) == {"fe:01": "ext4", "00:2a": "btrfs"}


# --- members --------------------------------------------------------------------------------------


def test_who_it_is(tmp_path: Path) -> None:
    FakeProcess(7, (Mapped(16, "aaas"),), start=55, name="a) b (c", tty=1026).write(tmp_path)
    assert read_member(KernelRoot(tmp_path), 7) == Member(
        pid=7, start=55, name="a) b (c", cgroup="/user.slice/user-1000.slice/session-1.scope",
        tty=1026, anon_bytes=3 * PAGE, swapped_bytes=PAGE,
    )  # fmt: skip


def test_kernel_threads_and_those_who_are_gone_are_nobody(tmp_path: Path) -> None:
    write_kernel_thread(tmp_path, 2)
    FakeProcess(7).write(tmp_path)
    assert [each.pid for each in read_members(KernelRoot(tmp_path), [2, 3, 7])] == [7]


def test_sizes() -> None:
    assert parse_sizes("RssAnon:\t      12 kB\nVmSwap:\t       4 kB\n") == (12288, 4096)
    assert parse_sizes("Name:\tkthreadd\n") is None


@pytest.mark.parametrize(
    ("text", "cgroup"),
    [
        ("0::/user.slice/x\n", "/user.slice/x"),
        ("12:memory:/m\n1:name=systemd:/user.slice/y\n0::/z\n", "/user.slice/y"),
        ("0::/a:b\n", "/a:b"),
        ("", ""),
    ],
)
def test_cgroups(text: str, cgroup: str) -> None:
    assert parse_cgroup(text) == cgroup


def member(pid: int, cgroup: str, tty: int) -> Member:
    return Member(pid=pid, start=1, name="", cgroup=cgroup, tty=tty)


def test_who_is_at_the_console(tmp_path: Path) -> None:
    (tmp_path / "sys/class/tty/tty0").mkdir(parents=True)
    (tmp_path / "sys/class/tty/tty0/active").write_text("tty2\n")
    root = KernelRoot(tmp_path)
    members = [
        member(1, "/user.slice/user-1000.slice/session-2.scope", 4 << 8 | 2),
        member(2, "/user.slice/user-1001.slice/session-3.scope", 4 << 8 | 3),
        member(3, "/user.slice/user-1002.slice/session-4.scope", 136 << 8 | 2),
        member(4, "/system.slice/getty@tty2.service", 4 << 8 | 2),
        member(5, "", 4 << 8 | 2),
    ]
    assert foreground(root, members) == {"/user.slice/user-1000.slice"}
    (tmp_path / "sys/class/tty/tty0/active").write_text("ttyS0\n")
    assert foreground(root, members) == set()


def test_a_machine_without_consoles(tmp_path: Path) -> None:
    assert foreground(KernelRoot(tmp_path), [member(1, "/user.slice/user-1.slice", 0)]) == set()


def test_our_own_page_size() -> None:
    assert module.PAGE == os.sysconf("SC_PAGE_SIZE") == PAGE
