# SPDX-License-Identifier: LGPL-2.1-or-later
"""The picture of guests that move: what each condition sends, and what a smaller reserve gains."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bench import movefigures
from bench.movefigures import MIB, Row
from bench.moves import Condition, Load, Sample
from bench.report import canvas
from bench.report.canvas import FAINT, INK, WIDTH, only_grid

# Okabe and Ito's, as in the other pictures: hibprep has the colours that it has there
_COLOURS = {
    Condition.NOTHING: "#D55E00",
    Condition.DROPCACHES: "#E69F00",
    Condition.BALLOON: "#56B4E9",
    Condition.REPORTING: "#CC79A7",
    Condition.HIBPREP: "#0072B2",
    Condition.HIBPREP_REPORTING: "#009E73",
    Condition.AHEAD: "#0072B2",
    Condition.AHEAD_REPORTING: "#009E73",
}


def picture(samples: Sequence[Sample]) -> bytes | None:
    """An SVG file's content; None when there is nothing to show."""
    rows = movefigures.rows(samples)
    loads = [each for each in Load if any(_of(rows, each))]
    if not loads:
        return None
    reserves = movefigures.curve(rows)
    with canvas.look():
        heights = [len(_of(rows, load)) + 1.0 for load in loads] + ([7.0] if reserves else [])
        figure = Figure(figsize=(WIDTH, 0.27 * sum(heights) + 0.4), layout="constrained")
        grid = figure.subplots(
            len(heights), 1, squeeze=False, gridspec_kw={"height_ratios": heights}
        )
        for axes, load in zip(grid.flat, loads, strict=False):
            _bars(axes, load, _of(rows, load))
        if reserves:
            _curve(grid.flat[-1], reserves)
        return canvas.encode(figure)


def _of(rows: Sequence[Row], load: Load) -> list[Row]:
    return [row for row in rows if row.load is load and not row.reserve_bytes]


def _bars(axes: Axes, load: Load, rows: Sequence[Row]) -> None:
    places = range(len(rows))
    axes.barh(
        places,
        [row.sent_bytes / MIB for row in rows],
        color=[_COLOURS[row.condition] for row in rows],
        height=0.7,
    )
    for place, row in zip(places, rows, strict=True):
        share = "" if not row.saved else f"  {100 * row.saved:.0f} % fewer"
        text = f" {row.sent_bytes / MIB:.0f}{share}; {row.total_seconds:.1f} s with preparation"
        axes.text(row.sent_bytes / MIB, place, text, va="center", fontsize=7.5, color=INK)
    axes.set_yticks(places, [str(row.condition) for row in rows])
    axes.set_ylim(len(rows) - 0.4, -0.6)
    # room for the words behind the longest
    axes.set_xlim(0, 1.45 * max(row.sent_bytes / MIB for row in rows))
    axes.set_title(f"{load}: sent, MiB", fontsize=9)
    only_grid(axes, "x")


def _curve(axes: Axes, rows: Sequence[Row]) -> None:
    axes.plot(
        [row.reserve_bytes / MIB for row in rows],
        [row.sent_bytes / MIB for row in rows],
        color=_COLOURS[Condition.HIBPREP],
        marker="D",
        markersize=5,
    )
    axes.axhline(0, color=FAINT, linewidth=0.5)
    axes.set_ylim(bottom=0)
    axes.set_xlim(left=0)
    axes.set_xlabel("reserve that the balloon leaves, MiB")
    axes.set_ylabel("sent, MiB")
    axes.set_title("hibprep, default device, mixed: what a smaller reserve gains", fontsize=9)
