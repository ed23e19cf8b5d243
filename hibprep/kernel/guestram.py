# SPDX-License-Identifier: LGPL-2.1-or-later
"""How much of a guest's memory has something in it, as its host sees it: pages of QEMU's mapping of
it, looked at one in so many.

That is what a migration goes by: a page that was never touched, was given back, or reads as zeros
is a mark of a few bytes, and any other one is sent (ram_save_iterate() in QEMU's migration/ram.c).
The size of QEMU's process is no measure of it: it has its own memory in it, under emulation twice
as much, and pages of zeros, and it has not what the host has swapped out.
"""

from __future__ import annotations

import itertools
import os
import sys
from collections.abc import Iterable
from contextlib import ExitStack

from hibprep.errors import KernelFileError
from hibprep.kernel.pagemap import PAGE
from hibprep.kernel.process import Mapping, all_pids, parse_maps
from hibprep.kernel.root import KernelRoot, translate
from hibprep.ranges import join

# The standard deviation of a share p is below sqrt(p (1 - p) / n): 0.4 % of the guest's memory.
# 64 MiB are read for it, in 0.1 s or less.
SAMPLES = 16384

_WORD_BYTES = 8
_PRESENT, _SWAPPED = 1 << 63, 1 << 62  # Documentation/admin-guide/mm/pagemap.rst
_ZEROS = bytes(PAGE)


def content_bytes(
    root: KernelRoot, pid: int, memory_bytes: int, *, samples: int = SAMPLES, seed: int = 0
) -> int | None:
    """How much of the `memory_bytes` that QEMU, process `pid`, has for its guest is there and is
    not zeros; None where its mapping is not found (several NUMA nodes, say) or may not be looked at
    (that takes the rights of ptrace(2)). Pages that the host has swapped out count in full, and are
    not read in. `seed` says with which page to begin."""
    try:
        mapping = _find(parse_maps(root.read(f"/proc/{pid}/maps")), memory_bytes)
        return None if mapping is None else _look(root, pid, mapping, samples, seed)
    except KernelFileError:
        return None


def find_emulator(root: KernelRoot, uuid: str) -> int | None:
    """The process of the guest with that UUID, which libvirt names to QEMU by ``-uuid``; None when
    there is none, or more than one (a guest that comes or goes)."""
    found = [pid for pid in all_pids(root) if _is_emulator(root, pid, uuid)]
    return found[0] if len(found) == 1 else None


def _is_emulator(root: KernelRoot, pid: int, uuid: str) -> bool:
    words = (root.try_read(f"/proc/{pid}/cmdline") or "").split("\0")
    return any(pair == ("-uuid", uuid) for pair in itertools.pairwise(words))


def _find(mappings: Iterable[Mapping], memory_bytes: int) -> tuple[int, int] | None:
    """The addresses of the one mapping of that size, which the kernel may show in pieces (parts of
    it locked, or merged by KSM)."""
    pieces = [(each.start, each.end) for each in mappings if each.permissions.startswith("rw")]
    for ranges in (pieces, join(pieces, 0)):
        found = [(start, end) for start, end in ranges if end - start == memory_bytes]
        if found:
            return found[0] if len(found) == 1 else None
    return None


def _look(root: KernelRoot, pid: int, where: tuple[int, int], samples: int, seed: int) -> int:
    start, end = where
    pages = (end - start) // PAGE
    step = max(1, pages // samples)
    numbers = range(seed % step, pages, step)
    with ExitStack() as opened:
        pagemap = _open(opened, root, f"/proc/{pid}/pagemap")
        memory = _open(opened, root, f"/proc/{pid}/mem")
        full = sum(_has_content(pagemap, memory, start + number * PAGE) for number in numbers)
    return full * pages * PAGE // len(numbers)


def _open(opened: ExitStack, root: KernelRoot, path: str) -> int:
    try:
        descriptor = os.open(root.path(path), os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise translate(path, error) from error
    opened.callback(os.close, descriptor)
    return descriptor


def _has_content(pagemap: int, memory: int, address: int) -> bool:
    try:
        word = os.pread(pagemap, _WORD_BYTES, address // PAGE * _WORD_BYTES)
        state = int.from_bytes(word, sys.byteorder)
        if not state & _PRESENT:
            # to read what is not there would put it there
            return bool(state & _SWAPPED)
        return os.pread(memory, PAGE, address) != _ZEROS
    except OSError:
        return False  # given back meanwhile, or the guest has ended
