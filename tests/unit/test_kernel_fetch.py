# SPDX-License-Identifier: LGPL-2.1-or-later
"""Having pages fetched, against a kernel that ends in front of what it does not like."""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hibprep.errors import KernelFileMissing
from hibprep.kernel import fetch as module
from hibprep.kernel.fetch import fetch
from hibprep.kernel.pagemap import PAGE
from hibprep.kernel.process import MADV_WILLNEED, MAX_RANGES, start_time
from hibprep.kernel.root import KernelRoot
from hibprep.kernel.vmstat import PagesIn, parse_pages_in
from hibprep.ranges import Range, ordered, total_bytes

ROOT = KernelRoot()


@dataclass
class FakeKernel:
    """Knows which pages are there; `refuses` every request with an errno of its own."""

    gone: set[int] = field(default_factory=set)
    refuses: int = 0
    advised: list[Range] = field(default_factory=list)
    touched: list[int] = field(default_factory=list)

    def madvise(self, pidfd: int, ranges: Sequence[tuple[int, int]], advice: int) -> int:
        assert pidfd >= 0
        assert advice == MADV_WILLNEED
        assert 0 < len(ranges) <= MAX_RANGES
        if self.refuses:
            raise OSError(self.refuses, os.strerror(self.refuses))
        done = 0
        for start, length in ranges:
            if self.gone & set(range(start, start + length, PAGE)):
                if not done:
                    raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))
                return done
            self.advised.append((start, start + length))
            done += length
        return done

    def touch(self, pid: int, addresses: Sequence[int]) -> int:
        assert pid == os.getpid()
        assert 0 < len(addresses) <= MAX_RANGES
        for done, address in enumerate(addresses):
            if address in self.gone:
                if not done:
                    raise OSError(errno.EFAULT, os.strerror(errno.EFAULT))
                return done
            self.touched.append(address)
        return len(addresses)


def fetched(kernel: FakeKernel, ranges: Sequence[Range], how: str) -> int:
    start = start_time(ROOT, os.getpid())
    assert start is not None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "process_madvise", kernel.madvise)
        patch.setattr(module, "touch", kernel.touch)
        return fetch(ROOT, os.getpid(), start, ranges, how)


PLACES = st.sets(st.integers(0, 3000), max_size=40)


def ranges_of(pages: set[int]) -> list[Range]:
    return ordered((page * PAGE, (page + 1) * PAGE) for page in pages)


@settings(deadline=None)
@given(PLACES, PLACES)
def test_what_is_there_is_asked_for_once(pages: set[int], gone: set[int]) -> None:
    kernel = FakeKernel({page * PAGE for page in gone})
    wanted = ranges_of(pages)
    good = [each for each in wanted if not kernel.gone & set(range(*each, PAGE))]
    assert fetched(kernel, wanted, "willneed") == total_bytes(good)
    assert kernel.advised == good
    # waited for by the last page, if it is there
    last = [wanted[-1][1] - PAGE] if wanted else []
    assert kernel.touched == [page for page in last if page not in kernel.gone]


@settings(deadline=None)
@given(PLACES, PLACES)
def test_or_touched_once(pages: set[int], gone: set[int]) -> None:
    kernel = FakeKernel({page * PAGE for page in gone})
    assert fetched(kernel, ranges_of(pages), "touch") == len(pages - gone) * PAGE
    assert kernel.touched == [page * PAGE for page in sorted(pages - gone)]
    assert kernel.advised == []


def test_more_than_the_kernel_takes_at_once() -> None:
    kernel = FakeKernel({0, 2 * PAGE * MAX_RANGES})
    pages = set(range(0, 4 * MAX_RANGES, 2))
    assert fetched(kernel, ranges_of(pages), "willneed") == (len(pages) - 2) * PAGE
    assert fetched(kernel, ranges_of(pages), "touch") == (len(pages) - 2) * PAGE


@pytest.mark.parametrize("number", [errno.EPERM, errno.EINVAL, errno.ENOSYS, errno.ESRCH])
def test_what_is_refused_altogether(number: int) -> None:
    with pytest.raises(OSError, match=os.strerror(number)) as caught:
        fetched(FakeKernel(refuses=number), ranges_of({1, 5}), "willneed")
    assert caught.value.errno == number


def test_somebody_else_of_that_number() -> None:
    with pytest.raises(OSError, match="No such process"):
        fetch(ROOT, os.getpid(), 1, ranges_of({1}), "willneed")
    with pytest.raises(KernelFileMissing):
        fetch(ROOT, 2**22 + 1, 1, ranges_of({1}), "willneed")


def test_what_was_read_in() -> None:
    before = parse_pages_in("pgpgin 1000\npswpin 10\n", 4096)
    after = parse_pages_in("pgpgin 1200\npswpin 30\nzswpin 5\nswpin_zero 7\nother x\n", 4096)
    assert after.since(before) == PagesIn(swap_bytes=32 * 4096, file_bytes=(200 << 10) - 20 * 4096)
    assert before.since(after) == PagesIn(0, 0)
