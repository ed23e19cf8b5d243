# SPDX-License-Identifier: LGPL-2.1-or-later
"""Markdown tables of samples: for each group, one row a condition. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from bench.experiment.sample import Condition, Sample
from bench.report import figures, words
from bench.report.groups import (
    BUDGET,
    COMPRESSED_BYTES,
    HIBERNATE,
    IMAGE_BYTES,
    IMAGE_PAGES,
    PREDICTED,
    READ,
    RESIDENT,
    RESUME,
    SHRINK,
    SLOWEST_PASS,
    SWAP_BYTES,
    TIMES,
    TOUCH,
    USABLE,
    USUAL_PASS,
    WRITE,
    Group,
    Measure,
    by_condition,
    counts,
    floor,
    group_of,
    group_order,
    intact,
    measured,
    reason,
    runs,
)

MB = 1e6

Table = tuple[list[str], list[list[str]]]

# what a ratio is made of; a preparation has no floor
_RATED = (HIBERNATE, RESUME, USABLE)

_DETAILS: tuple[tuple[str, Measure, float], ...] = (
    ("image, MB", IMAGE_BYTES, MB),
    ("compressed, MB", COMPRESSED_BYTES, MB),
    ("shrink, s", SHRINK, 1),
    ("write, s", WRITE, 1),
    ("read, s", READ, 1),
    ("swap used, MB", SWAP_BYTES, MB),
    ("left of the working set, %", RESIDENT, 0.01),
    ("answer to usable, s", TOUCH, 1),
    ("usual pass, s", USUAL_PASS, 1),
    ("slowest pass, s", SLOWEST_PASS, 1),
    ("time given, s", BUDGET, 1),
    ("predicted, s", PREDICTED, 1),
)


def times(samples: Sequence[Sample], group: Group) -> Table:
    """Seconds, as median (least–most)."""
    header = ["condition", "runs", *(f"{measure.name}, s" for measure in TIMES)]
    rows = [
        [str(condition), runs(mine), *(words.spread(measured(mine, each)) for each in TIMES)]
        for condition, mine in by_condition(samples, group).items()
    ]
    return words.without_empty(header, rows)


def ratios(samples: Sequence[Sample], group: Group) -> Table:
    """Medians by the floor's, and by those of the unprepared guest."""
    rows = by_condition(samples, group)
    vanilla = rows.get(Condition.VANILLA, [])
    header = ["condition"]
    for measure in _RATED:
        header += [f"{measure.name} ÷ floor", f"{measure.name} ÷ vanilla"]
    lines = []
    for condition, mine in rows.items():
        line = [str(condition)]
        for measure in _RATED:
            # the floor's own median where it stands for itself
            value = floor(rows, measure) if condition is Condition.IDLE else measured(mine, measure)
            line += [
                words.times(figures.ratio(value, floor(rows, measure))),
                words.times(figures.ratio(value, measured(vanilla, measure))),
            ]
        lines.append(line)
    return words.without_empty(header, lines)


def details(samples: Sequence[Sample], group: Group) -> Table:
    """The image, what the kernel said it spent, the working set; medians of pages alone."""
    header = ["condition", "image, pages", *(name for name, _, _ in _DETAILS), "intact"]
    rows = []
    for condition, mine in by_condition(samples, group).items():
        pages = measured(mine, IMAGE_PAGES)
        rows.append(
            [
                str(condition),
                words.NOTHING if pages is None else f"{pages.median:,.0f}",
                *(words.spread(measured(mine, measure), unit) for _, measure, unit in _DETAILS),
                intact(mine),
            ]
        )
    return words.without_empty(header, rows)


def raw(samples: Sequence[Sample]) -> Table:
    """Every sample, failed ones too, in the order of groups."""
    header = [
        "workload",
        "image_size",
        "condition",
        "run",
        *(f"{measure.name}, s" for measure in TIMES),
        *(name for name, _, _ in _DETAILS),
        "intact",
        "failure",
    ]
    rows = [
        [
            group_of(each).load,
            words.image_size(each.image_size),
            str(each.condition),
            str(each.run + 1),
            *(_one(measure.of(each)) for measure in TIMES),
            *(_one(measure.of(each), unit) for _, measure, unit in _DETAILS),
            {True: "yes", False: "NO", None: words.NOTHING}[each.intact],
            each.failure or words.NOTHING,
        ]
        for each in in_order(samples)
    ]
    return words.without_empty(header, rows)


def failures(samples: Sequence[Sample]) -> Table:
    """The cycles that do not count, with their reasons."""
    header = ["workload", "image_size", "condition", "run", "reason"]
    rows = [
        [
            group_of(each).load,
            words.image_size(each.image_size),
            str(each.condition),
            str(each.run + 1),
            reason(each),
        ]
        for each in in_order(samples)
        if not counts(each)
    ]
    return header, rows


def in_order(samples: Sequence[Sample]) -> list[Sample]:
    """By group, condition and run."""
    order = list(Condition)
    return sorted(
        samples,
        key=lambda each: (group_order(group_of(each)), order.index(each.condition), each.run),
    )


def _one(value: float | None, unit: float = 1.0) -> str:
    return words.NOTHING if value is None else words.number(value / unit)
