# SPDX-License-Identifier: LGPL-2.1-or-later
"""The reference experiment's own figures, and ours beside them. Pure; seconds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from bench.experiment.parameters import Parameters
from bench.experiment.sample import Arrangement, Condition, Sample, WorkloadKind
from bench.report import figures, words
from bench.report.figures import Spread
from bench.report.groups import HIBERNATE, RESUME, Group, Measure, by_condition, floor, measured

SOURCE = "A. Righi, “PM: hibernate: opportunistic memory reclaim”, RFC v2, linux-pm, 2020"
SETTING = (
    "a KVM guest of 8 GB with a disk of 100 MB/s, 85 % of memory allocated, 60 s of rest; means "
    "of 10 runs"
)


@dataclass(frozen=True, slots=True)
class Theirs:
    """One row of theirs: as it is, and with memory reclaimed beforehand."""

    image_size: str
    measure: Measure
    before: float
    after: float

    @property
    def factor(self) -> float:
        """So many times less."""
        return self.before / self.after


THEIRS = (
    Theirs("default", HIBERNATE, 49.07, 3.40),
    Theirs("default", RESUME, 18.35, 7.13),
    Theirs("0", HIBERNATE, 71.55, 4.72),
    Theirs("0", RESUME, 7.49, 7.41),
)


@dataclass(frozen=True, slots=True)
class Beside:
    """One row of theirs and what we measured of the same."""

    theirs: Theirs
    vanilla: Spread | None = None
    hibprep: Spread | None = None
    floor: Spread | None = None

    @property
    def factor(self) -> float | None:
        """So many times less with hibprep."""
        return figures.ratio(self.vanilla, self.hibprep)

    @property
    def over_floor(self) -> float | None:
        """The factor that there would be if a prepared guest were as quick as the idle one."""
        return figures.ratio(self.vanilla, self.floor)


def beside(samples: Sequence[Sample]) -> list[Beside]:
    """All rows of theirs; without samples of the workload cold, ours are empty."""
    found = []
    for row in THEIRS:
        group = Group(WorkloadKind.COLD, Arrangement.APART, 0.0, row.image_size)
        rows = by_condition(samples, group)
        found.append(
            Beside(
                row,
                measured(rows.get(Condition.VANILLA, []), row.measure),
                measured(rows.get(Condition.HIBPREP, []), row.measure),
                floor(rows, row.measure),
            )
        )
    return found


def has_ours(rows: Sequence[Beside]) -> bool:
    """Whether there is anything of ours beside theirs."""
    return any(row.vanilla or row.hibprep for row in rows)


def ours(rows: Sequence[Beside]) -> str:
    """What the columns of ours are, with how many runs."""
    counts = [found.count for row in rows for found in (row.vanilla, row.hibprep) if found]
    least, most = min(counts, default=0), max(counts, default=0)
    runs = str(least) if least == most else f"{least} to {most}"
    return f"vanilla → hibprep with the workload cold, medians of {runs} runs"


def unlike(parameters: Parameters) -> list[str]:
    """In what our experiment was another than theirs; empty when it was the same."""
    theirs = Parameters()
    found = []
    if parameters.memory_bytes != theirs.memory_bytes:
        found.append(f"{words.size(parameters.memory_bytes)} of memory")
    if parameters.disk_bytes_per_second != theirs.disk_bytes_per_second:
        found.append(
            f"disks of {words.size(parameters.disk_bytes_per_second)}/s"
            if parameters.disk_bytes_per_second
            else "disks that are not throttled"
        )
    if parameters.fill_ratio != theirs.fill_ratio:
        found.append(f"{words.percent(parameters.fill_ratio)} filled")
    if parameters.disk_requests_per_second != theirs.disk_requests_per_second:
        found.append(f"disks of {parameters.disk_requests_per_second} requests/s")
    if parameters.settle_seconds != theirs.settle_seconds:
        found.append(f"{words.number(parameters.settle_seconds)} s of rest")
    return found


def table(rows: Sequence[Beside]) -> tuple[list[str], list[list[str]]]:
    """For Markdown and the terminal alike. Without samples of ours, theirs alone."""
    header = ["image_size, time", "theirs, s", "factor"]
    lines = [
        [
            f"{row.theirs.image_size}, {row.theirs.measure.name}",
            f"{row.theirs.before:.2f} → {row.theirs.after:.2f}",
            words.times(row.theirs.factor),
        ]
        for row in rows
    ]
    if not has_ours(rows):
        return header, lines
    header += ["ours, s", "factor", "idle, s", "vanilla ÷ idle"]
    for line, row in zip(lines, rows, strict=True):
        line += [
            f"{_median(row.vanilla)} → {_median(row.hibprep)}"
            if row.vanilla or row.hibprep
            else words.NOTHING,
            words.times(row.factor),
            _median(row.floor),
            words.times(row.over_floor),
        ]
    return header, lines


def as_json(rows: Sequence[Beside]) -> list[dict[str, object]]:
    """The same for programs; null is what was not measured, and ours is null without samples."""
    return [
        {
            "image_size": row.theirs.image_size,
            "time": row.theirs.measure.name,
            "theirs": {
                "before_seconds": row.theirs.before,
                "after_seconds": row.theirs.after,
                "factor": row.theirs.factor,
            },
            "ours": {
                "vanilla": row.vanilla and asdict(row.vanilla),
                "hibprep": row.hibprep and asdict(row.hibprep),
                "idle": row.floor and asdict(row.floor),
                "factor": row.factor,
                "vanilla_by_idle": row.over_floor,
            }
            if has_ours(rows)
            else None,
        }
        for row in rows
    ]


def _median(found: Spread | None) -> str:
    return words.NOTHING if found is None else words.number(found.median)
