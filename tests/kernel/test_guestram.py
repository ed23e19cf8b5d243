# SPDX-License-Identifier: LGPL-2.1-or-later
"""Of memory like a guest's, in this very process: what has something in it, on the real kernel."""

from __future__ import annotations

import mmap
import os
import re
from pathlib import Path

import pytest

from hibprep.kernel.guestram import SAMPLES, content_bytes, find_emulator
from hibprep.kernel.pagemap import PAGE
from hibprep.kernel.root import KernelRoot

# of no other mapping of this process, and not a multiple of the samples
MEMORY = 4 * SAMPLES * PAGE // 8 + 4321 * PAGE


@pytest.fixture
def memory() -> mmap.mmap:
    found = mmap.mmap(-1, MEMORY, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    found.madvise(mmap.MADV_NOHUGEPAGE)  # a page that is touched is not to bring others with it
    return found


def fill(memory: mmap.mmap, begin: int, end: int, byte: bytes) -> None:
    for at in range(begin // PAGE * PAGE, end // PAGE * PAGE, PAGE):
        memory[at : at + 1] = byte


@pytest.mark.parametrize("samples", [SAMPLES, 10_000, 1 << 30])
def test_what_was_written_counts_and_zeros_do_not(memory: mmap.mmap, samples: int) -> None:
    fill(memory, 0, MEMORY // 2, b"x")
    fill(memory, MEMORY // 2, 3 * MEMORY // 4, b"\0")
    found = content_bytes(KernelRoot(), os.getpid(), MEMORY, samples=samples, seed=5)
    assert found is not None
    assert found == pytest.approx(MEMORY / 2, rel=0.01)


def test_what_was_never_touched_stays_so(memory: mmap.mmap) -> None:
    fill(memory, 0, PAGE, b"x")
    assert content_bytes(KernelRoot(), os.getpid(), MEMORY, samples=1 << 30) == PAGE
    assert resident_pages(memory) == 1


def test_what_was_given_back_is_gone(memory: mmap.mmap) -> None:
    fill(memory, 0, MEMORY, b"x")
    assert content_bytes(KernelRoot(), os.getpid(), MEMORY) == MEMORY
    memory.madvise(mmap.MADV_DONTNEED)
    assert content_bytes(KernelRoot(), os.getpid(), MEMORY) == 0


def test_no_such_mapping_or_process(memory: mmap.mmap) -> None:
    assert len(memory) == MEMORY
    assert content_bytes(KernelRoot(), os.getpid(), MEMORY + PAGE) is None
    assert content_bytes(KernelRoot(), 1 << 30, MEMORY) is None


def test_of_two_alike_none_is_taken(memory: mmap.mmap) -> None:
    with mmap.mmap(-1, MEMORY, flags=mmap.MAP_SHARED) as second:
        assert len(second) == len(memory)
        assert content_bytes(KernelRoot(), os.getpid(), MEMORY) is None


def test_no_process_has_that_uuid() -> None:
    assert find_emulator(KernelRoot(), "5f0c1e2d-0000-4000-8000-c0ffee000000") is None


def resident_pages(memory: mmap.mmap) -> int:
    """As the kernel counts them in smaps."""
    text = Path("/proc/self/smaps").read_text(encoding="ascii")
    size = re.compile(rf"^Size: +{len(memory) // 1024} kB$", re.MULTILINE)
    found = size.search(text)
    assert found is not None
    rss = re.compile(r"^Rss: +(\d+) kB$", re.MULTILINE).search(text, found.end())
    assert rss is not None
    return int(rss[1]) * 1024 // PAGE
