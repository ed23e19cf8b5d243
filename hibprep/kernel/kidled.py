# SPDX-License-Identifier: LGPL-2.1-or-later
"""kidled, the idle-page scanner of OpenAnolis and Alibaba Cloud kernels
(Documentation/vm/kidled.rst there; not in mainline).

It looks at every page once a scan period and counts for how many periods in a row nobody used it: a
byte, so that 255 means "that or more". With the multi-gen LRU on, its kernels refuse to switch it
on. A page of age n has been idle for n whole periods at least.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from hibprep.kernel.root import KernelRoot
from hibprep.kernel.text import malformed, unsigned
from hibprep.model import Kind

DIRECTORY = "/sys/kernel/mm/kidled"
PERIOD_FILE = f"{DIRECTORY}/scan_period_in_seconds"
HIERARCHY_FILE = f"{DIRECTORY}/use_hierarchy"  # older ones; later ones have the .local file instead
TARGET_FILE = f"{DIRECTORY}/scan_target"  # from the one on that scans slab: 1 pages, 2 slab, 3 both
STATS = "memory.idle_page_stats"  # with all below, as far as use_hierarchy or the kernel says
LOCAL_STATS = "memory.idle_page_stats.local"

MAX_AGE = 255  # scan periods
MAX_PERIOD_SECONDS = 0xFFFF
MAX_BUCKETS = 8
ROWS = tuple(
    clean + file + evictable + active
    for active in "ia"
    for evictable in "eu"
    for file in "sf"
    for clean in "cd"
)
SLAB_ROW = "slab"

_NO_BUCKETS = "no valid bucket available"
_HEADER = re.compile(r"#\s*([a-z_]+):\s*(.*)", re.ASCII)
_SCANS_PAGES, _SCANS_SLAB = 1, 2


@dataclass(frozen=True, slots=True)
class Cold:
    """How much is as old as was asked: `sure_bytes` is; with what lies in the bucket that the age
    falls into it is `most_bytes`."""

    sure_bytes: int = 0
    most_bytes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class IdleStats:
    """One `memory.idle_page_stats`: bytes by row and bucket.

    `buckets` are the lower edges in scan periods; none when this cgroup is not counted. `rows` are
    the sixteen of ROWS (clean or dirty, swap or file, evictable or unevictable, inactive or active)
    and, where slab is scanned, SLAB_ROW.
    """

    version: str
    scans: int
    period_seconds: int
    buckets: tuple[int, ...]
    rows: dict[str, tuple[int, ...]]

    def of(self, kind: Kind, *, mlocked: bool = False) -> tuple[int, ...]:
        """The buckets of what coldpgs takes as `kind`: clean page cache, anonymous memory, slab;
        with `mlocked` also of what cannot be evicted otherwise."""
        chosen = [
            values
            for name, values in self.rows.items()
            if _is_of(name, kind) and (mlocked or name == SLAB_ROW or name[2] == "e")
        ]
        return tuple(sum(column) for column in zip(*chosen, strict=True)) if chosen else ()

    def cold(self, kind: Kind, periods: int, *, mlocked: bool = False) -> Cold:
        """What was not used for so many scan periods."""
        sure = straddling = 0
        uppers = (*self.buckets[1:], MAX_AGE + 1)
        values = self.of(kind, mlocked=mlocked)
        for lower, upper, value in zip(self.buckets, uppers, values, strict=False):
            if lower >= periods:
                sure += value
            elif upper > periods:
                straddling += value
        return Cold(sure, sure + straddling)


def _is_of(name: str, kind: Kind) -> bool:
    if name == SLAB_ROW:
        return kind is Kind.SLAB
    clean_file, anon = name.startswith("cf"), name[1] == "s"
    if kind is Kind.ANY:
        return clean_file or anon
    return clean_file if kind is Kind.FILE else anon and kind is Kind.ANON


def parse_idle_stats(text: str, path: str = STATS) -> IdleStats:
    """The text of the file."""
    header: dict[str, str] = {}
    rows: dict[str, tuple[int, ...]] = {}
    for line in text.split("\n"):
        words = line.split()
        if line.startswith("#"):
            found = _HEADER.fullmatch(line.strip())
            if found:
                header[found[1]] = found[2].strip()
        elif words:
            if words[0] not in (*ROWS, SLAB_ROW):
                raise malformed(path, "a kind of page such as csei", line.strip())
            rows[words[0]] = tuple(unsigned(word, path) for word in words[1:])
    buckets = _parse_buckets(header.get("buckets"), path)
    for name, values in rows.items():
        if len(values) != len(buckets):
            raise malformed(path, f"{len(buckets)} figures", f"{name} with {len(values)}")
    # "scans" became "page_scans" when slab was scanned too
    scans = header.get("scans", header.get("page_scans", "0"))
    return IdleStats(
        version=header.get("version", ""),
        scans=unsigned(scans, path),
        period_seconds=unsigned(header.get("scan_period_in_seconds", "0"), path),
        buckets=buckets,
        rows=rows,
    )


def _parse_buckets(text: str | None, path: str) -> tuple[int, ...]:
    if text is None:
        raise malformed(path, '"# buckets:"', "none")
    if text == _NO_BUCKETS:
        return ()
    buckets = tuple(unsigned(word.strip(), path) for word in text.split(","))
    if list(buckets) != sorted(set(buckets)):
        raise malformed(path, "rising buckets", text)
    return buckets


def read_idle_stats(root: KernelRoot, directory: str, *, local: bool) -> IdleStats:
    """Those of the cgroup in `directory`. `local`: without what is below, where the kernel can
    tell."""
    path = f"{directory}/{LOCAL_STATS}"
    if not local or not root.exists(path):
        path = f"{directory}/{STATS}"
    return parse_idle_stats(root.read(path), path)


def buckets_text(buckets: Sequence[int]) -> str:
    """What to write to the file for other buckets, which clears what was counted; nothing stops the
    counting of this cgroup. Raises ValueError for what the kernel would refuse."""
    if len(buckets) > MAX_BUCKETS:
        raise ValueError(f"{len(buckets)} buckets are more than the {MAX_BUCKETS} that there are")
    if any(not 1 <= each <= MAX_AGE for each in buckets):
        raise ValueError(f"a bucket begins at an age of 1 to {MAX_AGE} scan periods")
    if list(buckets) != sorted(set(buckets)):
        raise ValueError("buckets rise from one to the next, such as 1,2,5,15")
    return ",".join(map(str, buckets)) + "\n"


def read_period_seconds(root: KernelRoot) -> int | None:
    """How long a scan takes; 0 when it is off, None when this kernel has no kidled."""
    text = root.try_read(PERIOD_FILE)
    return None if text is None else unsigned(text.strip(), PERIOD_FILE)


def scans(root: KernelRoot, kind: Kind) -> bool:
    """Whether the ages of that kind are known at all: slab is looked at only where it is asked
    for, and by later ones only."""
    text = root.try_read(TARGET_FILE)
    target = _SCANS_PAGES if text is None else unsigned(text.strip(), TARGET_FILE)
    return bool(target & (_SCANS_SLAB if kind is Kind.SLAB else _SCANS_PAGES))


def periods_for(age_seconds: float, period_seconds: int) -> int:
    """The least age, in scan periods, that is `age_seconds` for certain. Raises ValueError for an
    age that kidled cannot tell, in words."""
    if period_seconds == 0:
        raise ValueError("kidled is off: hibprep coldpgs set --period 15s switches it on")
    if age_seconds < period_seconds:
        raise ValueError(
            f"an age of {age_seconds:g} s is under one scan period of kidled ({period_seconds} s)"
        )
    periods = math.ceil(age_seconds / period_seconds)
    if periods > MAX_AGE:
        raise ValueError(
            f"an age of {age_seconds:g} s is over {MAX_AGE} scan periods of kidled, which counts "
            f"no further ({MAX_AGE * period_seconds} s)"
        )
    return periods
