# SPDX-License-Identifier: LGPL-2.1-or-later
"""The pictures of a report, as the contents of SVG files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import zip_longest
from typing import Literal

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from bench.experiment.parameters import DEFAULT_IMAGE_SIZE
from bench.experiment.sample import Arrangement, Condition, Sample, WorkloadKind
from bench.report import canvas, story, words
from bench.report.canvas import COLOURS, FAINT, INK, MARKERS, WIDTH, only_grid
from bench.report.groups import (
    HIBERNATE,
    IMAGE_BYTES,
    RESUME,
    SLOWEST_PASS,
    USABLE,
    Group,
    Measure,
    by_condition,
    counts,
    groups,
    measured,
)
from bench.report.phases import usual

GB = 1e9

STORY = "story"
IMAGE_SIZE = "image-size"
RUNS = "runs"
WORKING_SET = "working-set"
NAMES = (STORY, IMAGE_SIZE, RUNS, WORKING_SET)

# hundredths of a second and many seconds: on one linear scale the former are all nothing
_WIDE = 20

_CURVES = (Condition.VANILLA, Condition.ONELINER, Condition.HIBPREP, Condition.HIBPREPD)


def pictures(samples: Sequence[Sample], fill_ratio: float, kind: str = "svg") -> dict[str, bytes]:
    """By name, those for which there is something to show."""
    with canvas.look():
        drawn: Mapping[str, Figure | None] = {
            STORY: story.draw(samples, fill_ratio),
            IMAGE_SIZE: image_size(samples),
            RUNS: runs(samples),
            WORKING_SET: working_set(samples),
        }
        return {name: canvas.encode(each, kind) for name, each in drawn.items() if each}


def image_size(samples: Sequence[Sample]) -> Figure | None:
    """Each sample: the bytes in its image, and how long it took to hibernate."""
    shown = [each for each in samples if counts(each) and each.hibernate_seconds is not None]
    shown = [each for each in shown if each.image_pages is not None]
    if not shown:
        return None
    figure = Figure(figsize=(WIDTH, 4.4), layout="constrained")
    axes = figure.add_subplot()
    for condition in Condition:
        for default in (True, False):
            mine = [
                each
                for each in shown
                if each.condition is condition
                and (each.image_size == DEFAULT_IMAGE_SIZE) is default
            ]
            axes.scatter(
                [(IMAGE_BYTES.of(each) or 0) / GB for each in mine],
                [each.hibernate_seconds or 0 for each in mine],
                s=38,
                marker=MARKERS[condition],
                facecolors=COLOURS[condition] if default else "white",
                edgecolors="white" if default else COLOURS[condition],
                linewidths=0.5 if default else 1.3,
                zorder=3,
            )
    axes.set_xlim(left=0)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("image, GB (as the kernel counts it, before it is compressed)")
    axes.set_ylabel("hibernate, s")
    axes.set_title("The size of the image and the time to hibernate, each run")
    handles = _condition_handles({each.condition for each in shown})
    if any(each.image_size != DEFAULT_IMAGE_SIZE for each in shown):
        handles.append(_marker("hollow: image_size not the default", INK, "o", hollow=True))
    figure.legend(handles=handles, loc="outside lower center", ncols=3, handletextpad=0.3)
    return figure


def runs(samples: Sequence[Sample]) -> Figure | None:
    """Each run a dot, the median a tick; the usual working set where there are several.

    Where it was not measured when a guest was usable, its first answer takes the place.
    """
    shown = [each for each in groups(samples) if _is_usual(samples, each)]
    tables = [(group, by_condition(samples, group)) for group in shown]
    tables = [
        (group, {each: mine for each, mine in rows.items() if measured(mine, HIBERNATE)})
        for group, rows in tables
    ]
    tables = [(group, rows) for group, rows in tables if rows]
    if not tables:
        return None
    heights = [0.3 * len(rows) + 0.5 for _, rows in tables]
    figure = Figure(figsize=(WIDTH, sum(heights) + 0.5), layout="constrained")
    grid = figure.subplots(
        len(tables),
        2,
        sharex="col",
        sharey="row",
        squeeze=False,
        gridspec_kw={"height_ratios": [len(rows) + 0.5 for _, rows in tables]},
    )
    for line, (group, rows) in zip(grid, tables, strict=True):
        left, right = line
        left.set_title(str(group), fontsize=9)
        for axes, measures in ((left, (HIBERNATE,)), (right, (USABLE, RESUME))):
            axes.set_yticks(range(len(rows)), list(map(str, rows)))
            axes.set_ylim(len(rows) - 0.5, -0.5)
            only_grid(axes, "x")
            for place, (condition, mine) in enumerate(rows.items()):
                _dots(axes, place, condition, mine, measures)
    grid[-1][0].set_xlabel("hibernate, s")
    grid[-1][1].set_xlabel("usable, s from power-on")
    for axes in grid.flat:
        axes.set_xlim(left=0)
    return figure


def _is_usual(samples: Sequence[Sample], group: Group) -> bool:
    found = usual(samples, group.workload)
    return found is not None and found.warm_ratio == group.warm_ratio


def _dots(
    axes: Axes,
    place: int,
    condition: Condition,
    samples: Sequence[Sample],
    measures: Sequence[Measure],
) -> None:
    """Of the first measure that there is anything of."""
    for measure in measures:
        middle = measured(samples, measure)
        if middle is None:
            continue
        values = [measure.of(each) for each in samples if counts(each)]
        found = [value for value in values if value is not None]
        axes.plot([middle.median] * 2, [place - 0.36, place + 0.36], color=INK, linewidth=1.4)
        # one below the other, in the order they were measured: none hides another
        steps = [0.4 * (index + 0.5) / len(found) - 0.2 for index in range(len(found))]
        axes.scatter(
            found,
            [place + step for step in steps],
            s=24,
            marker=MARKERS[condition],
            facecolors=COLOURS[condition],
            edgecolors="white",
            linewidths=0.5,
            zorder=3,
        )
        return


def working_set(samples: Sequence[Sample]) -> Figure | None:
    """Against the size of the working set; None unless several sizes were measured."""
    shown = _curves(samples)
    if not shown:
        return None
    figure = Figure(figsize=(WIDTH, 5.8), layout="constrained")
    panels = list(figure.subplots(2, 2, sharex=True).flat)
    for index, (axes, (title, _)) in enumerate(zip(panels, _PANELS, strict=True)):
        axes.set_title(title, fontsize=9.5)
        for (condition, arrangement), lines in shown.items():
            found = [(100 * ratio, values[index]) for ratio, values in lines]
            axes.plot(
                [ratio for ratio, value in found if value is not None],
                [value for _, value in found if value is not None],
                color=COLOURS[condition],
                marker=MARKERS[condition],
                markersize=5,
                linestyle=_STYLES[arrangement],
                linewidth=1.6,
            )
    for axes in panels:
        axes.set_ylim(bottom=0)
    passes = [values[-1] or 0 for lines in shown.values() for _, values in lines]
    passes = [seconds for seconds in passes if seconds > 0]
    if passes and max(passes) > _WIDE * min(passes):
        panels[-1].set_title(f"{_PANELS[-1][0]} (logarithmic)", fontsize=9.5)
        panels[-1].set_ylim(min(passes) / 2, max(passes) * 2)
        panels[-1].set_yscale("log")
        panels[-1].yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    for axes in panels[2:]:
        axes.set_xlabel("working set, % of memory")
    coloured = _condition_handles({condition for condition, _ in shown})
    lined = [
        Line2D([], [], color=FAINT, linestyle=_STYLES[each], label=_ARRANGED[each])
        for each in Arrangement
        if any(arrangement is each for _, arrangement in shown)
    ]
    # a legend is filled column by column: conditions are to be in its first row
    columns = zip_longest(coloured, lined)
    handles = [each for column in columns for each in column if each is not None]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(coloured))
    return figure


_STYLES: dict[Arrangement, Literal["-", "--"]] = {
    Arrangement.APART: "-",
    Arrangement.TOGETHER: "--",
}
_ARRANGED = {
    Arrangement.APART: "in a program of its own",
    Arrangement.TOGETHER: "in the program with the cold memory",
}

_Lines = dict[tuple[Condition, Arrangement], list[tuple[float, tuple[float | None, ...]]]]


def _curves(samples: Sequence[Sample]) -> _Lines:
    """By curve, at each working set: the medians of what the four panels show."""
    for workload in (WorkloadKind.WARM, WorkloadKind.MIXED):
        first = usual(samples, workload)
        if first is None:
            continue
        mine = [
            each
            for each in groups(samples)
            if (each.workload, each.image_size) == (workload, first.image_size)
        ]
        if len({each.warm_ratio for each in mine}) < 2:
            continue
        found: _Lines = {}
        for group in mine:
            rows = by_condition(samples, group)
            for condition in _CURVES:
                if measured(rows.get(condition, []), HIBERNATE):
                    values = tuple(_median(rows[condition], each) for _, each in _PANELS)
                    found.setdefault((condition, group.arrangement), []).append(
                        (group.warm_ratio, values)
                    )
        return found
    return {}


_COMING_BACK = Measure(
    "coming_back",
    lambda sample: (
        None
        if sample.usable_seconds is None or sample.resume_seconds is None
        else sample.usable_seconds - sample.resume_seconds
    ),
)
_PANELS = (
    ("Hibernate, s", HIBERNATE),
    ("Usable, s from power-on", USABLE),
    ("Usable, s from the first answer", _COMING_BACK),
    ("Slowest pass while preparing, s", SLOWEST_PASS),
)


def _median(samples: Sequence[Sample], measure: Measure) -> float | None:
    found = measured(samples, measure)
    return found.median if found else None


def _condition_handles(conditions: set[Condition]) -> list[Line2D]:
    return [
        _marker(words.SHORT[each].replace("\n", " "), COLOURS[each], MARKERS[each])
        for each in Condition
        if each in conditions
    ]


def _marker(label: str, colour: str, marker: str, *, hollow: bool = False) -> Line2D:
    return Line2D(
        [],
        [],
        linestyle="none",
        marker=marker,
        markersize=6,
        markerfacecolor="white" if hollow else colour,
        markeredgecolor=colour,
        label=label,
    )
