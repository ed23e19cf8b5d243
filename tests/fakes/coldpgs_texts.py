# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the files of a fake kidled and coldpgs say, in the words of the real ones."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hibprep.kernel.kidled import ROWS
from tests.fakes import texts
from tests.fakes.state import KIB, pages

if TYPE_CHECKING:
    from tests.fakes.coldpgs import ColdKernel

STATISTICS = (
    "pagecache migrate in",
    "pagecache migrate out",
    "pagecache dropped",
    "anon migrate in",
    "anon zswap in",
    "anon swap in",
    "anon migrate out",
    "anon zswap out",
    "anon swap out",
    "slab drop",
)


def idle_stats(kernel: ColdKernel, path: str, *, local: bool) -> str:
    buckets = kernel.controls[path].buckets
    counted = kernel.of(path)
    if not local and (kernel.later or kernel.use_hierarchy):
        start = path.rstrip("/") + "/"
        counted = [e for e in kernel.sets if e.cgroup == path or e.cgroup.startswith(start)]
    scans = "# page_scans: 7\n# slab_scans: 7\n" if kernel.later else "# scans: 7\n"
    text = f"# version: 1.0\n{scans}# scan_period_in_seconds: {kernel.period}\n"
    if not buckets:
        return f"{text}# buckets: no valid bucket available\n"
    text += f"# buckets: {','.join(map(str, buckets))}\n#\n#   _-----=> clean/dirty\n"
    uppers = (*buckets[1:], 256)
    for row in (*ROWS, "slab") if kernel.later else ROWS:
        figures = (
            sum(
                each.size_bytes
                for each in counted
                if each.row == row and lower <= kernel.age_of(each) < upper
            )
            for lower, upper in zip(buckets, uppers, strict=True)
        )
        text += f"  {row:<6}" + " ".join(f"{figure:14}" for figure in figures) + "\n"
    return text


def statistics(kernel: ColdKernel, path: str) -> str:
    own = kernel.controls[path].statistics
    if kernel.in_pages:
        return "".join(f"{name:<24}: {pages(own[name])}\n" for name in STATISTICS[:-1])
    start = path.rstrip("/") + "/"
    below = [
        control.statistics
        for other, control in kernel.controls.items()
        if other == path or (kernel.hierarchy and other.startswith(start))
    ]
    lines = [f"{name:<32}: {own[name] // KIB:20} kB\n" for name in STATISTICS]
    lines += [
        f"Total {name:<26}: {sum(each[name] for each in below) // KIB:20} kB\n"
        for name in STATISTICS
    ]
    return "".join(lines)


def meminfo(kernel: ColdKernel) -> str:
    """What is locked of the page cache is cache, and no anonymous page."""
    locked = sum(e.size_bytes for e in kernel.sets if e.is_locked and not e.is_anon)
    lines = []
    for line in texts.meminfo(kernel.machine).splitlines():
        name, _, figure = line.partition(":")
        if name in ("Cached", "AnonPages"):
            size = int(figure.split()[0]) + (locked if name == "Cached" else -locked) // KIB
            line = f"{name + ':':<16}{size:>8} kB"  # noqa: PLW2901
        lines.append(line)
    return "\n".join(lines) + "\n"
