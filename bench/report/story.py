# SPDX-License-Identifier: LGPL-2.1-or-later
"""The first picture: where the seconds go, down on the left and back on the right."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MultipleLocator

from bench.experiment.parameters import DEFAULT_IMAGE_SIZE
from bench.experiment.sample import OF_HIBPREP, Arrangement, Sample, WorkloadKind
from bench.report import words
from bench.report.canvas import FAINT, INK, WIDTH, only_grid
from bench.report.groups import Group
from bench.report.phases import Phases
from bench.report.phases import story as blocks_of


@dataclass(frozen=True, slots=True)
class _Part:
    """One colour: an attribute of Phases, and what the legend calls it."""

    attribute: str
    words: str
    colour: str


# grey is what there is even when there is nothing to do
_GREY = "#999999"
_DOWN = (
    _Part("shrink", "kernel shrinks memory", "#D55E00"),
    _Part("write", "kernel writes the image", "#0072B2"),
    _Part("other", "freeze, devices, copy", _GREY),
)
_BACK = (
    _Part("boot", "boot, devices", _GREY),
    _Part("read", "read the image", "#56B4E9"),
    _Part("touch", "working set comes in", "#E69F00"),
)
_PREPARE_COLOUR = "#BFE3D6"
_PREPARE_INK = "#3f6f60"
_HATCH = "////"

# inches
_ROW = 0.42
_TOP = 0.62
_BLOCK_TITLE = 0.3
_BETWEEN = 0.3
_BOTTOM = 1.3
_LEFT = 1.3
_RIGHT = 0.1
_GAP = 0.36
_BAR = 0.58  # of a row
# of all seconds shown: room for the figures at the ends of bars
_ROOM = 0.09
_STEPS = (0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)


def draw(samples: Sequence[Sample], fill_ratio: float) -> Figure | None:
    """The picture; None without a sample of the workloads it shows. Within `canvas.look`."""
    blocks = [(group, rows) for group, rows in blocks_of(samples) if any(r.down for r in rows)]
    if not blocks:
        return None
    every = [row for _, rows in blocks for row in rows]
    ahead, down, back = (
        max(getattr(row, name) for row in every) for name in ("prepare", "down", "back")
    )
    room = _ROOM * (ahead + down + back)
    ahead, down, back = (ahead + room if ahead else 0.0), down + room, back + room
    # one scale for both panels: a second is as long on the right as on the left
    inches = (WIDTH - _LEFT - _RIGHT - _GAP) / (ahead + down + back)
    height = _TOP + _BOTTOM - _BETWEEN
    height += sum(_BLOCK_TITLE + _ROW * len(rows) + _BETWEEN for _, rows in blocks)
    figure = Figure(figsize=(WIDTH, height))
    zero, right_zero = _LEFT + ahead * inches, WIDTH - _RIGHT - back * inches
    _headings(figure, height, zero, right_zero, prepared=ahead > 0)

    y = height - _TOP
    for group, rows in blocks:
        title = _title(group, fill_ratio)
        figure.text(0.08 / WIDTH, (y - 0.15) / height, title, va="center", style="italic")
        tall = _ROW * len(rows)
        y -= _BLOCK_TITLE + tall
        left, right = (
            figure.add_axes((x / WIDTH, y / height, wide * inches / WIDTH, tall / height))
            for x, wide in ((_LEFT, ahead + down), (right_zero, back))
        )
        left.set_xlim(-ahead, down)
        right.set_xlim(0, back)
        for axes in (left, right):
            axes.xaxis.set_major_locator(MultipleLocator(_step(ahead + down + back)))
        _panel(left, rows, _DOWN)
        _panel(right, rows, _BACK)
        right.set_yticklabels([])
        _ahead(left, rows)
        y -= _BETWEEN

    top = (y + _BETWEEN - 0.36) / height
    for x, parts, prepared in ((_LEFT, _DOWN, ahead > 0), (right_zero, _BACK, False)):
        figure.legend(
            handles=_handles(parts, prepared=prepared),
            bbox_to_anchor=(x / WIDTH, top),
            loc="upper left",
            handlelength=1.2,
            borderaxespad=0,
            borderpad=0,
        )
    return figure


def _step(span: float) -> float:
    """Seconds between two lines of the grid: a round number, and about eleven of them."""
    return min(_STEPS, key=lambda each: abs(math.log(span / each / 11)))


def _title(group: Group, fill_ratio: float) -> str:
    found = f"{words.percent(fill_ratio)} of memory filled, "
    if group.workload is WorkloadKind.COLD:
        found += "none of it in use"
    else:
        found += f"{words.percent(group.warm_ratio)} in use all the time"
        if group.arrangement is Arrangement.TOGETHER:
            found += ", all in one program"
    if group.image_size != DEFAULT_IMAGE_SIZE:
        found += f"; image_size {words.image_size(group.image_size)}"
    return found


def _headings(figure: Figure, height: float, zero: float, right: float, *, prepared: bool) -> None:
    y = (height - 0.3) / height
    for x, text in ((zero, "Going down"), (right, "Coming back")):
        figure.text(x / WIDTH, y, text, fontweight="bold", fontsize=11.5)
    small = (height - 0.48) / height
    figure.text(zero / WIDTH, small, "from the request to power-off", color=INK)
    figure.text(right / WIDTH, small, "from power-on to usable", color=INK)
    if prepared:
        x = (zero - 0.08) / WIDTH
        figure.text(x, y, "Ahead of time", color=_PREPARE_INK, fontsize=11.5, ha="right")
        figure.text(x, small, "while programs run", color=_PREPARE_INK, ha="right")


def _panel(axes: Axes, rows: Sequence[Phases], parts: Sequence[_Part]) -> None:
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_yticks(range(len(rows)), [words.SHORT[row.condition] for row in rows])
    axes.spines["left"].set_visible(False)
    axes.axvline(0, color=INK, linewidth=1.0)
    axes.xaxis.set_major_formatter(lambda value, _: f"{abs(value):g} s")
    only_grid(axes, "x")
    for place, row in enumerate(rows):
        own = row.condition in OF_HIBPREP
        axes.get_yticklabels()[place].set_fontweight("bold" if own else "normal")
        if not row.runs:
            axes.text(0, place, f" failed ({row.failed})", va="center", color=FAINT)
            continue
        begin = 0.0
        for part in parts:
            wide = float(getattr(row, part.attribute))
            axes.barh(
                place, wide, _BAR, left=begin, color=part.colour, edgecolor="white", linewidth=0.4
            )
            begin += wide
        axes.annotate(
            f"{begin:.1f}",
            (begin, place),
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
            fontweight="bold" if own else "normal",
        )


def _ahead(axes: Axes, rows: Sequence[Phases]) -> None:
    """What was done before the request is to the left of it."""
    for place, row in enumerate(rows):
        if not row.prepare:
            continue
        axes.barh(
            place,
            -row.prepare,
            _BAR,
            color=_PREPARE_COLOUR,
            edgecolor="white",
            hatch=_HATCH,
            linewidth=0.4,
        )
        axes.annotate(
            f"{row.prepare:.1f}",
            (-row.prepare, place),
            xytext=(-4, 0),
            textcoords="offset points",
            va="center",
            ha="right",
            color=_PREPARE_INK,
        )


def _handles(parts: Sequence[_Part], *, prepared: bool) -> list[Patch]:
    found = [Patch(facecolor=part.colour, label=part.words) for part in parts]
    if prepared:
        label = "prepared before the request"
        found.insert(
            0, Patch(facecolor=_PREPARE_COLOUR, edgecolor="white", hatch=_HATCH, label=label)
        )
    return found
