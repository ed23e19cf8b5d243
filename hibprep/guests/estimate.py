# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a migration or a managed save of a guest would send, as it is and prepared. Pure.

QEMU looks at every page of a guest's memory: one that reads as zeros costs a few bytes, any other
all of its own (ram_save_iterate() in migration/ram.c). Memory that the guest never touched, and
what was given back to the host by a balloon or by free page reporting, reads as zeros. Memory that
the guest has freed does not: it keeps what was in it. So what is sent is what the guest has touched
and the host still keeps, and that is told from both sides:

- the guest says what it uses (all but MemFree);
- the size of QEMU's process in memory (rss), less what QEMU is by itself, says what was touched.

Only the latter knows of freed pages. The former is what holds where the host has swapped the guest
out. Both count pages of zeros. Where the guest runs on this host its pages can be looked at
(`content_bytes`, see `hibprep.kernel.guestram`), and that takes the place of both. What the guest
goes on writing during a migration is sent again; that is not in here, since nobody knows how fast
it will.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from hibprep.guests.balloon import Reserve, target_bytes, used_bytes
from hibprep.guests.hardware import Hardware
from hibprep.guests.port import MemoryStats

DEFAULT_BYTES_PER_SECOND = 125_000_000.0  # 1 Gbit/s

# QEMU's own pages in memory: program, heap, video memory, page tables of devices; with TCG the
# translated code as well
OWN_BYTES = 48 << 20
OWN_EMULATED_BYTES = 80 << 20
# A page goes with a header of 8 bytes (page and flags), a page of zeros as 9; so says put_zero_page
_PAGE_BYTES = 4096
_HEADER_BYTES = 8
_ZERO_BYTES = 9
# What free page reporting leaves of freed memory: it reports whole page blocks (2 MiB), and some
# have a page in them that is in use, even after compaction
_FRAGMENTS_SHARE = 0.05
_SETUP_SECONDS = 0.3  # connecting, the devices' state, the last round


class Discard(StrEnum):
    """How what a guest has freed gets out of what is sent."""

    REPORTING = "free page reporting"
    BALLOON = "balloon"
    NONE = "none"


@dataclass(frozen=True, slots=True)
class Term:
    """One part of an estimate; all of them together are the estimate."""

    name: str
    bytes: int
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """What would be sent and how long that takes. `basis` says how much it is worth, in words."""

    sent_bytes: int
    seconds: float
    bytes_per_second: float
    terms: tuple[Term, ...]
    basis: str


def as_it_is(
    stats: MemoryStats,
    hardware: Hardware,
    maximum_bytes: int,
    bytes_per_second: float = DEFAULT_BYTES_PER_SECOND,
    *,
    content_bytes: int | None = None,
) -> Estimate:
    """What would be sent now."""
    terms, basis = _content(stats, hardware, content_bytes)
    return _estimate(terms, maximum_bytes, bytes_per_second, basis)


def _content(
    stats: MemoryStats, hardware: Hardware, content_bytes: int | None
) -> tuple[tuple[Term, ...], str]:
    """What of the guest's memory has something in it, and how that is known."""
    if content_bytes is None:
        return _touched(stats, hardware)
    seen = Term("has something in it", content_bytes, "as the host sees its pages")
    return (seen,), "its pages, one in so many"


def _touched(stats: MemoryStats, hardware: Hardware) -> tuple[tuple[Term, ...], str]:
    """What of the guest's memory has something in it, and how far that is known."""
    actual = stats.actual_bytes
    own = OWN_EMULATED_BYTES if hardware.emulated else OWN_BYTES
    touched = None if stats.rss_bytes is None else min(max(0, stats.rss_bytes - own), actual)
    if hardware.huge_pages:
        touched = None  # they are not in the process's size (proc(5), VmRSS)
    used = None if stats.unused_bytes is None else max(0, actual - stats.unused_bytes)
    if used is None and touched is None:
        all_of_it = Term("all of its memory", actual, "neither the guest nor the host tells more")
        return (all_of_it,), "the most that it can be"
    if used is None or touched is None:
        if touched is not None:
            only = Term("touched", touched, f"rss less QEMU's own {own >> 20} MiB")
            return (only,), "rss alone: the guest tells no statistics"
        in_use = _in_use(used or 0)
        free = Term("free", actual - in_use.bytes, "as if it had all been touched: no rss is told")
        return (in_use, free), "the guest alone; the most that it can be"
    if touched <= used:
        return (_in_use(used),), "the guest; rss is no more"
    freed = Term(
        "freed, not given back",
        touched - used,
        f"rss less QEMU's own {own >> 20} MiB and what is in use: free pages keep what was in them",
    )
    return (_in_use(used), freed), "the guest and rss"


def _in_use(amount_bytes: int) -> Term:
    return Term("in use", amount_bytes, "all but MemFree, page cache included")


def prepared(
    stats: MemoryStats,
    hardware: Hardware,
    maximum_bytes: int,
    *,
    discard: Discard,
    trimmed: bool,
    reserve: Reserve,
    bytes_per_second: float = DEFAULT_BYTES_PER_SECOND,
    content_bytes: int | None = None,
) -> Estimate | None:
    """What would be sent after preparing: `trimmed` says whether something in the guest drops its
    caches first. None where the guest's statistics do not tell. Memory that is cold and could go to
    the guest's own swap is not known from outside and not counted."""
    usable, unused = stats.usable_bytes, stats.unused_bytes
    if usable is None or unused is None:
        return None
    terms, basis = _content(stats, hardware, content_bytes)
    payload = sum(term.bytes for term in terms)
    used = min(used_bytes(stats), payload)
    needed = Term("needed", used, "all but MemAvailable: it cannot go without swapping")
    if discard is Discard.REPORTING and trimmed:
        freed = payload - used
        kept = Term(
            "fragments",
            int(_FRAGMENTS_SHARE * freed),
            "freed in blocks that are in use in part, which are not reported",
        )
    elif discard is Discard.BALLOON:
        left = max(0, target_bytes(stats, reserve) - used_bytes(stats))
        gone = payload - used  # what could go of what would be sent
        # the balloon takes free pages first, touched and untouched alike, and then the page cache,
        # all of which was touched
        cache = 0 if trimmed else min(gone, max(0, usable - unused))
        free = max(1, stats.actual_bytes - used - cache)
        share = min(1.0, (gone - cache) / free)
        kept = Term(
            "reserve",
            min(gone, min(left, cache) + int(max(0, left - cache) * share)),
            "left to the guest; sent as far as it was ever touched",
        )
    else:
        return _estimate(terms, maximum_bytes, bytes_per_second, basis)

    return _estimate((needed, kept), maximum_bytes, bytes_per_second, f"{discard}; {basis}")


def _estimate(
    terms: tuple[Term, ...], maximum_bytes: int, bytes_per_second: float, basis: str
) -> Estimate:
    payload = sum(term.bytes for term in terms)
    pages = payload // _PAGE_BYTES
    zeros = max(0, maximum_bytes // _PAGE_BYTES - pages)
    marks = Term(
        "marks", pages * _HEADER_BYTES + zeros * _ZERO_BYTES, "headers, and a mark for a zero page"
    )
    sent = payload + marks.bytes
    return Estimate(
        sent_bytes=sent,
        seconds=_SETUP_SECONDS + sent / bytes_per_second,
        bytes_per_second=bytes_per_second,
        terms=(*terms, marks),
        basis=basis,
    )
