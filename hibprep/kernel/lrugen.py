# SPDX-License-Identifier: LGPL-2.1-or-later
"""The multi-gen LRU (Documentation/admin-guide/mm/multigen_lru.rst).

The debugfs file is no stable interface. Ids of cgroups are internal numbers up to 6.12 and inode
numbers later: they are always taken from this file, by path.
"""

from __future__ import annotations

from typing import Literal

from hibprep.errors import KernelFileDenied, KernelFileError, KernelFileMissing
from hibprep.kernel.root import KernelRoot
from hibprep.kernel.text import malformed, unsigned
from hibprep.model import BackendName, Capability, Generation, GenerationList

GENERATIONS_FILE = "/sys/kernel/debug/lru_gen"
ENABLED_FILE = "/sys/kernel/mm/lru_gen/enabled"
SINCE = "6.1"

_MILLISECONDS = 1000
_COLUMNS = 4


def parse_generations(text: str) -> tuple[GenerationList, ...]:
    """The text of the debugfs file, which is empty while the multi-gen LRU was never on."""
    lists: list[GenerationList] = []
    memcg: tuple[int, str] | None = None
    node: int | None = None
    generations: list[Generation] = []

    def finish() -> None:
        if memcg is not None and node is not None:
            lists.append(
                GenerationList(
                    memcg_id=memcg[0], path=memcg[1], node=node, generations=tuple(generations)
                )
            )

    for line in text.split("\n"):
        words = line.split()
        if not words:
            continue
        if words[0] == "memcg":
            finish()
            memcg, node, generations = _memcg(line), None, []
        elif words[0] == "node":
            finish()
            if memcg is None or len(words) != 2:  # noqa: PLR2004 - node N
                raise malformed(GENERATIONS_FILE, '"node N" of a memcg', line)
            node, generations = unsigned(words[1], GENERATIONS_FILE), []
        elif node is None:
            raise malformed(GENERATIONS_FILE, '"memcg" or "node"', line)
        else:
            generations.append(_generation(words, line))
    finish()
    return tuple(lists)


def read_generations(root: KernelRoot) -> tuple[GenerationList, ...]:
    """As they are now."""
    return parse_generations(root.read(GENERATIONS_FILE))


def parse_enabled(text: str) -> bool:
    """Whether it is on: bit 0 is the main switch, the others are parts of it."""
    word = text.strip()
    if word.lower() in ("y", "n"):
        return word.lower() == "y"
    digits = word.removeprefix("0x")
    try:
        return bool(int(digits, 16) & 1)
    except ValueError:
        raise malformed(ENABLED_FILE, "a number", text) from None


def read_enabled(root: KernelRoot) -> bool | None:
    """Whether it is on; None when this kernel has none."""
    try:
        return parse_enabled(root.read(ENABLED_FILE))
    except (KernelFileMissing, KernelFileDenied):
        return None


def try_generations(root: KernelRoot) -> tuple[GenerationList, ...]:
    """`read_generations`, or nothing where there is none to be had: no debugfs, lockdown, or a
    layout of a later kernel, which is free to change it."""
    try:
        return read_generations(root)
    except KernelFileError:
        return ()


def capability(root: KernelRoot) -> Capability:
    """Whether it is built, and whether its debugfs file may be written."""

    def no(reason: str) -> Capability:
        return Capability(BackendName.LRUGEN, available=False, reason=reason, since=SINCE)

    enabled = read_enabled(root)
    if enabled is None:
        return no("this kernel has no multi-gen LRU (CONFIG_LRU_GEN, from 6.1 on)")
    path = GENERATIONS_FILE
    try:
        root.read(path)
    except KernelFileMissing:
        return no(f"no {path}: mount debugfs (mount -t debugfs none /sys/kernel/debug)")
    except KernelFileError as error:
        return no(f"{error}; kernel lockdown (Secure Boot) closes debugfs")
    if not root.writable(path):
        return no(f"{path} cannot be written: be root, without kernel lockdown")
    if not enabled:
        return Capability(
            BackendName.LRUGEN,
            available=True,
            reason="multi-gen LRU, switched off here and switched on for the run",
            since=SINCE,
            features=frozenset({"switched-off"}),
        )
    return Capability(BackendName.LRUGEN, available=True, reason="multi-gen LRU", since=SINCE)


def aging_command(
    memcg_id: int, node: int, max_sequence: int, *, can_swap: bool = True, force_scan: bool = True
) -> str:
    """Begin a generation after `max_sequence`. `force_scan` walks all page tables, so that what
    was touched is found."""
    return f"+ {memcg_id} {node} {max_sequence} {int(can_swap)} {int(force_scan)}\n"


def eviction_command(
    memcg_id: int, node: int, min_sequence: int, *, swappiness: int | Literal["max"], pages: int
) -> str:
    """Evict at most `pages` from the generations up to `min_sequence`. "max" needs 6.16."""
    return f"- {memcg_id} {node} {min_sequence} {swappiness} {pages}\n"


def _memcg(line: str) -> tuple[int, str]:
    # the path is printed as it is: it may have spaces in it
    words = line.strip().split(maxsplit=2)
    if len(words) < 2:  # noqa: PLR2004 - memcg ID [PATH]; a cgroup that is gone has no path
        raise malformed(GENERATIONS_FILE, '"memcg ID PATH"', line)
    return unsigned(words[1], GENERATIONS_FILE), words[2] if len(words) > 2 else ""  # noqa: PLR2004


def _generation(words: list[str], line: str) -> Generation:
    if len(words) != _COLUMNS:
        raise malformed(GENERATIONS_FILE, "sequence, age, anon and file", line)
    # an x marks what is older than the oldest of its type
    numbers = [unsigned(word.rstrip("x"), GENERATIONS_FILE) for word in words]
    return Generation(
        sequence=numbers[0],
        age_seconds=numbers[1] / _MILLISECONDS,
        anon_pages=numbers[2],
        file_pages=numbers[3],
    )
