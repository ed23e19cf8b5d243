# SPDX-License-Identifier: LGPL-2.1-or-later
"""Every parser: real texts by table, and any text at all without another error than malformed."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hibprep.errors import KernelFileMalformed
from hibprep.kernel.cgroup import parse_limit, parse_memory_stat
from hibprep.kernel.lrugen import (
    aging_command,
    eviction_command,
    parse_enabled,
    parse_generations,
)
from hibprep.kernel.meminfo import parse_meminfo
from hibprep.kernel.mounts import mount_of, parse_mountinfo
from hibprep.kernel.power import parse_device, parse_selection
from hibprep.kernel.process import parse_maps, parse_refusing, parse_start_time
from hibprep.kernel.psi import parse_pressure
from hibprep.kernel.snapshot import parse_cpu_list
from hibprep.kernel.swaps import parse_swaps
from hibprep.kernel.text import unescape
from hibprep.kernel.vmstat import parse_vmstat
from hibprep.kernel.zoneinfo import parse_zoneinfo

MEMINFO_6_1 = """\
MemTotal:        4018580 kB
MemFree:          221832 kB
MemAvailable:    2711260 kB
Buffers:           97232 kB
Cached:          2501608 kB
SwapCached:           12 kB
Active:           871652 kB
Inactive:        2583972 kB
Active(anon):      10240 kB
Inactive(anon):   860680 kB
Active(file):     861412 kB
Inactive(file):  1723292 kB
Unevictable:        3072 kB
Mlocked:               0 kB
SwapTotal:       8388604 kB
SwapFree:        8388092 kB
Zswap:                 4 kB
Zswapped:             16 kB
Dirty:               472 kB
Writeback:             8 kB
AnonPages:        859880 kB
Mapped:           223168 kB
Shmem:             14128 kB
KReclaimable:     120004 kB
Slab:             190276 kB
SReclaimable:     120004 kB
SUnreclaim:        70272 kB
KernelStack:        5376 kB
PageTables:        14100 kB
VmallocUsed:       28316 kB
Percpu:             2432 kB
HugePages_Total:       2
HugePages_Free:        2
Hugepagesize:       2048 kB
Hugetlb:            4096 kB
DirectMap4k:      151400 kB
"""

# 6.1 has no promo line in older stables, pagesets of one line less, and empty zones cut short
ZONEINFO_6_1 = """\
Node 0, zone      DMA
  per-node stats
      nr_inactive_anon 215170
      nr_active_anon 2560
  pages free     3840
        boost    0
        min      64
        low      80
        high     96
        spanned  4095
        present  3998
        managed  3840
        cma      0
        protection: (0, 2957, 3898, 3898, 3898)
      nr_free_pages 3840
  pagesets
    cpu: 0
              count: 0
              high:  0
              batch: 1
  vm stats threshold: 4
  node_unreclaimable:  0
  start_pfn:           1
Node 0, zone    DMA32
  pages free     40000
        boost    1024
        min      13000
        low      16000
        high     19000
        spanned  1044480
        present  782288
        managed  757083
        cma      0
        protection: (0, 0, 941, 941, 941)
  pagesets
    cpu: 0
              count: 12
              high:  378
              batch: 63
  vm stats threshold: 24
    cpu: 1
              count: 30
              high:  378
              batch: 63
  vm stats threshold: 24
  node_unreclaimable:  0
  start_pfn:           4096
Node 0, zone  Movable
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
Node 1, zone   Normal
  pages free     11618
        boost    0
        min      4055
        low      5068
        high     6081
        promo    7094
        spanned  262144
        present  262144
        managed  241062
        cma      0
        protection: (0, 0, 0, 0, 0)
      nr_free_pages 11618
      nr_free_pages_blocks 7168
  pagesets
    cpu: 1
              count:    5
              high:     6273
              batch:    63
              high_min: 6273
              high_max: 48307
  vm stats threshold: 24
"""

VMSTAT = """\
nr_free_pages 55458
nr_writeback 0
workingset_refault_anon 7
workingset_refault_file 8
pswpin 3
pswpout 4
pgsteal_anon 100
pgsteal_file 200
drop_pagecache 1
drop_slab 2
slabs_scanned 4096
zswpout 11
"""

SWAPS = (
    "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n"
    "/dev/vda2                               partition\t4194300\t\t1024\t\t-2\n"
    "/var/swap\\040file                       file\t\t1048572\t\t0\t\t5\n"
    "/var/lib/swapfile\\040(deleted)          file\t\t1048572\t\t0\t\t-3\n"
    "/dev/zram0                              partition\t2009288\t\t512\t\t100\n"
)

GENERATIONS = """\
memcg     1 /
 node     0
          0     123456         10          0 
          1       6000        200x        33 
memcg  4242 /user.slice/with space.slice
 node     0
          7      99999          1          2 
 node     1
          3         10          0          0 
"""  # noqa: W291 - the kernel prints a mark or a space there

PRESSURE = """\
some avg10=1.50 avg60=0.30 avg300=0.00 total=2500000
full avg10=0.25 avg60=0.00 avg300=0.00 total=500000
"""

MOUNTS = """\
22 27 0:21 / /proc rw,relatime - proc proc rw
27 1 254:1 / / rw,relatime shared:1 master:2 - ext4 /dev/vda1 rw
28 27 0:40 /@home /home\\040dir rw - btrfs /dev/vdb rw,subvolid=256
30 22 0:26 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,memory_recursiveprot
31 22 0:27 / /odd rw - tmpfs  rw
"""

MAPS = """\
55d0c0000000-55d0c0021000 rw-p 00000000 00:00 0                          [heap]
7f0000000000-7f0000100000 rw-p 00000000 00:00 0 
7f0000100000-7f0000200000 r-xp 00000000 fe:01 1234                       /usr/lib/a b.so
7ffc00000000-7ffc00021000 rw-p 00000000 00:00 0                          [stack]
ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0                  [vsyscall]
"""  # noqa: W291 - as printed

SMAPS = """\
55d0c0000000-55d0c0021000 rw-p 00000000 00:00 0                          [heap]
Rss:                  96 kB
VmFlags: rd wr mr mw me ac 
7f0000000000-7f0000100000 rw-p 00000000 00:00 0 
Rss:                1024 kB
VmFlags: rd wr mr mw me lo ac 
"""  # noqa: W291 - as printed

STAT = "12 (a) b (c) S 1 12 12 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 98765 1 1"

MEMORY_STAT = "anon 4096\nfile 8192\nshmem 0\npgsteal 12\n"

PARSERS: dict[str, tuple[Callable[[str], object], str]] = {
    "meminfo": (parse_meminfo, MEMINFO_6_1),
    "zoneinfo": (parse_zoneinfo, ZONEINFO_6_1),
    "vmstat": (parse_vmstat, VMSTAT),
    "swaps": (parse_swaps, SWAPS),
    "generations": (parse_generations, GENERATIONS),
    "enabled": (parse_enabled, "0x0007\n"),
    "pressure": (parse_pressure, PRESSURE),
    "mountinfo": (parse_mountinfo, MOUNTS),
    "selection": (parse_selection, "[platform] shutdown\n"),
    "device": (parse_device, "254:2\n"),
    "maps": (parse_maps, MAPS),
    "smaps": (parse_refusing, SMAPS),
    "start_time": (parse_start_time, STAT),
    "memory_stat": (parse_memory_stat, MEMORY_STAT),
    "limit": (parse_limit, "max\n"),
    "cpus": (parse_cpu_list, "0-3,5\n"),
    "unescape": (unescape, "/a\\040b"),
}

NUMBERS = ("-1", "99999999999999999999999", "1_0", "٣", "0x", "", "1e5", "nan", "\ufffd")


@st.composite
def damaged(draw: st.DrawFn, text: str) -> str:
    """A real text that is cut off, has a word exchanged, or bytes that are not text."""
    start, end = sorted((draw(st.integers(0, len(text))), draw(st.integers(0, len(text)))))
    how = draw(st.sampled_from(["cut", "word", "bytes", "remove"]))
    if how == "cut":
        return text[:end]
    if how == "remove":
        return text[:start] + text[end:]
    if how == "word":
        words = text.split(" ")
        words[draw(st.integers(0, len(words) - 1))] = draw(st.sampled_from(NUMBERS))
        return " ".join(words)
    raw = bytearray(text.encode())
    for position in draw(st.lists(st.integers(0, len(raw) - 1), max_size=8)) if raw else []:
        raw[position] = draw(st.integers(0, 255))
    return raw.decode(errors="replace")


@pytest.mark.parametrize("name", PARSERS)
@given(data=st.data())
def test_no_text_raises_anything_but_malformed(name: str, data: st.DataObject) -> None:
    parse, sample = PARSERS[name]
    any_text = st.text() | st.binary().map(lambda raw: raw.decode(errors="replace"))
    text = data.draw(any_text | damaged(sample))
    with contextlib.suppress(KernelFileMalformed):
        parse(text)


@pytest.mark.parametrize("name", PARSERS)
def test_the_real_text_is_taken(name: str) -> None:
    parse, sample = PARSERS[name]
    parse(sample)


def test_meminfo_is_in_bytes() -> None:
    memory = parse_meminfo(MEMINFO_6_1)
    assert memory.total_bytes == 4018580 * 1024
    assert memory.anon_lru_bytes == (10240 + 860680) * 1024
    assert memory.file_lru_bytes == (861412 + 1723292) * 1024
    assert memory.hugetlb_bytes == 4096 * 1024
    assert memory.zswapped_bytes == 16 * 1024


def test_fields_that_are_not_printed_are_0() -> None:
    memory = parse_meminfo("MemTotal: 10 kB\nMemFree: 5 kB\nNovelty: 7 kB\n")
    assert (memory.free_bytes, memory.percpu_bytes) == (5120, 0)


@pytest.mark.parametrize(
    "text", ["", "MemTotal: 10 kB\n", "MemTotal: x kB\nMemFree: 1 kB\n", "MemTotal:\nMemFree: 1 kB"]
)
def test_meminfo_needs_total_and_free(text: str) -> None:
    with pytest.raises(KernelFileMalformed, match="/proc/meminfo"):
        parse_meminfo(text)


def test_only_populated_zones_count() -> None:
    zones = parse_zoneinfo(ZONEINFO_6_1)
    assert [(zone.node, zone.name) for zone in zones] == [(0, "DMA"), (0, "DMA32"), (1, "Normal")]


def test_a_zone_is_read_in_full() -> None:
    zone = parse_zoneinfo(ZONEINFO_6_1)[1]
    assert zone.free_pages == 40000
    assert zone.present_pages == 782288
    assert zone.protection_pages == (0, 0, 941, 941, 941)
    assert zone.per_cpu_pages == 42


def test_the_boost_is_in_high_already() -> None:
    # high_wmark_pages() adds it before it is printed
    assert parse_zoneinfo(ZONEINFO_6_1)[1].high_pages == 19000


def test_the_high_of_a_pageset_is_not_the_watermark() -> None:
    assert parse_zoneinfo(ZONEINFO_6_1)[2].high_pages == 6081


def test_vmstat() -> None:
    counters = parse_vmstat(VMSTAT)
    assert (counters.pgsteal_anon, counters.pgsteal_file, counters.pswpout) == (100, 200, 4)
    assert counters.swpout_zero == 0


def test_swaps() -> None:
    partition, file, deleted, zram = parse_swaps(SWAPS)
    assert (partition.path, partition.priority, partition.is_file) == ("/dev/vda2", -2, False)
    assert partition.free_bytes == (4194300 - 1024) * 1024
    assert (file.path, file.is_file) == ("/var/swap file", True)
    assert deleted.path == "/var/lib/swapfile (deleted)"
    assert (zram.is_zram, partition.is_zram) == (True, False)


def test_generations_by_memcg_and_node() -> None:
    first, second, third = parse_generations(GENERATIONS)
    assert (first.memcg_id, first.path, first.node) == (1, "/", 0)
    assert first.generations[0].age_seconds == 123.456
    assert first.generations[1].anon_pages == 200
    assert (second.path, second.node) == ("/user.slice/with space.slice", 0)
    assert (third.memcg_id, third.node) == (4242, 1)


@pytest.mark.parametrize(
    ("text", "on"), [("0x0007\n", True), ("0x0000\n", False), ("0x0006", False), ("y", True)]
)
def test_lru_gen_enabled(text: str, on: bool) -> None:  # noqa: FBT001 - a table's column
    assert parse_enabled(text) is on


def test_commands_of_the_multi_gen_lru() -> None:
    assert aging_command(42, 0, 7) == "+ 42 0 7 1 1\n"
    assert aging_command(42, 0, 7, can_swap=False, force_scan=False) == "+ 42 0 7 0 0\n"
    assert eviction_command(42, 1, 5, swappiness=200, pages=8192) == "- 42 1 5 200 8192\n"
    assert eviction_command(42, 1, 5, swappiness="max", pages=1) == "- 42 1 5 max 1\n"


def test_pressure() -> None:
    pressure = parse_pressure(PRESSURE)
    assert (pressure.some_avg10, pressure.full_avg10) == (1.5, 0.25)
    assert (pressure.some_total_seconds, pressure.full_total_seconds) == (2.5, 0.5)


def test_pressure_without_full() -> None:
    assert parse_pressure(PRESSURE.splitlines()[0]).full_total_seconds == 0.0


def test_mounts() -> None:
    mounts = parse_mountinfo(MOUNTS)
    assert mounts[2].point == "/home dir"
    assert mounts[4].source == ""
    assert "memory_recursiveprot" in mounts[3].super_options
    found = mount_of(mounts, "/home dir/swap")
    assert found is not None
    assert found.kind == "btrfs"
    elsewhere = mount_of(mounts, "/home dirty/swap")
    assert elsewhere is not None
    assert elsewhere.kind == "ext4"


def test_maps_and_flags() -> None:
    mappings = parse_maps(MAPS)
    assert mappings[0].name == "[heap]"
    assert mappings[2].name == "/usr/lib/a b.so"
    assert mappings[4].end == 0xFFFFFFFFFF601000
    assert parse_refusing(SMAPS) == frozenset({0x7F0000000000})


def test_start_time_behind_a_name_with_brackets() -> None:
    assert parse_start_time(STAT) == 98765


@pytest.mark.parametrize(
    ("text", "plain"),
    [("/a\\040b", "/a b"), ("\\134", "\\"), ("/\\303\\244", "/ä"), ("/ä", "/ä"), ("\\9", "\\9")],
)
def test_unescape(text: str, plain: str) -> None:
    assert unescape(text) == plain


@pytest.mark.parametrize(("text", "count"), [("0", 1), ("0-3,5\n", 5)])
def test_cpu_list(text: str, count: int) -> None:
    assert parse_cpu_list(text) == count
