# SPDX-License-Identifier: LGPL-2.1-or-later
"""coldpgs, which reclaims what kidled has found cold: a module of OpenAnolis and Alibaba Cloud
kernels ("Reclaim Cold Page" in their Documentation; its source, mm/coldpgs, is of 2.5.0 for 5.10
and 3.0.0 for 6.6; not in mainline).

A write to a threshold is the command: the one in /sys reclaims from all cgroups without limit, the
one of a cgroup as soon as its `size` is set too, and both are 0 again after it. Only that cgroup
and ended ones below it are taken from, whatever memory.min says.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntFlag

from hibprep.kernel.cgroup import CgroupTree
from hibprep.kernel.mounts import read_mounts
from hibprep.kernel.root import KernelRoot
from hibprep.kernel.text import hexadecimal, malformed, unsigned
from hibprep.model import Kind

DIRECTORY = "/sys/kernel/mm/coldpgs"
VERSION_FILE = f"{DIRECTORY}/version"
FLAGS_FILE = f"{DIRECTORY}/flags"
BATCH_FILE = f"{DIRECTORY}/batch"
HIERARCHY_FILE = f"{DIRECTORY}/hierarchy"
MODE_FILE = f"{DIRECTORY}/mode"
# A trigger that keeps what was written to it last: it cannot be put back without reclaiming.
THRESHOLD_FILE = f"{DIRECTORY}/threshold"
NONROT_FILE = f"{DIRECTORY}/threshold_nonrot"
SWAPIN_FILE = f"{DIRECTORY}/swapin"

CGROUP_FLAGS = "memory.coldpgs.flags"
CGROUP_THRESHOLD = "memory.coldpgs.threshold"
CGROUP_SIZE = "memory.coldpgs.size"
CGROUP_STATS = "memory.coldpgs.stats"
CGROUP_SWAPIN = "memory.coldpgs.swapin"

SWAPIN = "swapin\n"  # compared as a whole, with the newline
MAX_THRESHOLD = 255
MAX_BATCH = 0xFFFF_FFFF

_TAKEN = ("pagecache dropped", "anon swap out", "anon zswap out", "slab drop")
_TOTAL = "Total "
_CGROUP_MODE_SHIFT, _CGROUP_CONTROL_SHIFT = 32, 35
_WORD = 0xFFFF_FFFF


class Mode(IntFlag):
    """What is taken."""

    CACHE = 1  # clean page cache
    ANON = 2
    SLAB = 4  # dentries and inodes


class Flag(IntFlag):
    """What is taken although it would not be."""

    MLOCKED = 1  # refused by 3.0.0, which has it to come
    ANY_AGE = 2


MODES = {
    Kind.FILE: Mode.CACHE,
    Kind.ANON: Mode.ANON,
    Kind.SLAB: Mode.SLAB,
    Kind.ANY: Mode.CACHE | Mode.ANON,
}


@dataclass(frozen=True, slots=True)
class Settings:
    """The files of /sys/kernel/mm/coldpgs. `threshold_nonrot`: anonymous memory up to that age goes
    to zswap, what is colder to swap itself; 0: all to swap itself."""

    version: str
    mode: Mode
    flags: Flag
    batch: int
    hierarchy: bool
    threshold: int
    threshold_nonrot: int


@dataclass(frozen=True, slots=True)
class CgroupFlags:
    """A cgroup's `memory.coldpgs.flags`: the coldness that the daemon of that kernel's makers keeps
    there, and what may be taken of the cgroup at all."""

    coldness: int
    mode: Mode
    control: Flag

    def text(self) -> str:
        """As it is written."""
        word = self.control << _CGROUP_CONTROL_SHIFT | self.mode << _CGROUP_MODE_SHIFT
        return f"0x{word | self.coldness:x}"


@dataclass(frozen=True, slots=True)
class Statistics:
    """What coldpgs did so far, in bytes: of the cgroup itself, and with all below it where
    `hierarchy` is set."""

    own: dict[str, int]
    total: dict[str, int]

    @property
    def taken_bytes(self) -> int:
        """All that left the cgroup itself."""
        return sum(self.own.get(name, 0) for name in _TAKEN)


def parse_version(text: str) -> str:
    """Three bytes in one hexadecimal number: 0x20500 is 2.5.0."""
    number = _hexadecimal(text, VERSION_FILE)
    return f"{number >> 16 & 0xFF}.{number >> 8 & 0xFF}.{number & 0xFF}"


def parse_cgroup_flags(text: str, path: str = CGROUP_FLAGS) -> CgroupFlags:
    """The 64 bits of the file."""
    word = _hexadecimal(text, path)
    return CgroupFlags(
        coldness=word & _WORD,
        mode=Mode(word >> _CGROUP_MODE_SHIFT & 7),
        control=Flag(word >> _CGROUP_CONTROL_SHIFT & 3),
    )


def parse_statistics(text: str, page_size: int, path: str = CGROUP_STATS) -> Statistics:
    """The text of the file. The first ones count in pages, later ones in kB and say so."""
    own: dict[str, int] = {}
    total: dict[str, int] = {}
    for line in text.split("\n"):
        if not line.strip():
            continue
        name, colon, figure = line.partition(":")
        words = figure.split()
        if not colon or len(words) not in (1, 2) or words[1:] not in ([], ["kB"]):
            raise malformed(path, '"name : figure"', line.strip())
        unit = page_size if len(words) == 1 else 1 << 10
        name = name.strip()
        into = total if name.startswith(_TOTAL) else own
        into[name.removeprefix(_TOTAL)] = unsigned(words[0], path) * unit
    return Statistics(own, total or own)


def read_settings(root: KernelRoot) -> Settings:
    """As they are now; raises KernelFileError where this kernel has no coldpgs."""

    def number(path: str) -> int:
        return unsigned(root.read(path).strip(), path)

    return Settings(
        version=parse_version(root.read(VERSION_FILE)),
        mode=Mode(_hexadecimal(root.read(MODE_FILE), MODE_FILE) & 7),
        flags=Flag(_hexadecimal(root.read(FLAGS_FILE), FLAGS_FILE) & 3),
        batch=number(BATCH_FILE),
        hierarchy=bool(number(HIERARCHY_FILE)),
        threshold=number(THRESHOLD_FILE),
        threshold_nonrot=number(NONROT_FILE),
    )


def read_cgroup_flags(root: KernelRoot, directory: str) -> CgroupFlags:
    """Those of the cgroup in `directory`."""
    path = f"{directory}/{CGROUP_FLAGS}"
    return parse_cgroup_flags(root.read(path), path)


def read_statistics(root: KernelRoot, directory: str, page_size: int) -> Statistics:
    """Those of the cgroup in `directory`."""
    path = f"{directory}/{CGROUP_STATS}"
    return parse_statistics(root.read(path), page_size, path)


def find_tree(root: KernelRoot, tree: CgroupTree | None) -> CgroupTree | None:
    """The tree whose cgroups have the files: `tree`, or that of cgroup v1, where these kernels
    have them too (its cgroups can be listed and no more)."""
    if tree is not None:
        return tree
    for mount in reversed(read_mounts(root)):
        if mount.kind == "cgroup" and "memory" in mount.super_options:
            return CgroupTree(root, mount.point)
    return None


def _hexadecimal(text: str, path: str) -> int:
    return hexadecimal(text.strip().removeprefix("0x"), path)
