# SPDX-License-Identifier: LGPL-2.1-or-later
"""How all pictures look, and how they become files: the same bytes for the same samples."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bench.experiment.sample import Condition

# inches; at 96 dots to the inch as wide as a page of documentation shows it
WIDTH = 8.2

INK = "#222222"
FAINT = "#8a8a8a"
GRID = "#e3e3e3"

# Okabe and Ito's palette, which can be told apart with any kind of colour vision
COLOURS = MappingProxyType(
    {
        Condition.VANILLA: "#D55E00",
        Condition.DROPCACHES: "#E69F00",
        Condition.ONELINER: "#56B4E9",
        Condition.DAMON_RECLAIM: "#CC79A7",
        Condition.HIBPREP: "#0072B2",
        Condition.HIBPREPD: "#009E73",
        Condition.ALL_OUT: "#F0E442",
        Condition.ALL_BACK: "#000000",
        Condition.IDLE: "#666666",
    }
)
# and without any
MARKERS = MappingProxyType(
    {
        Condition.VANILLA: "o",
        Condition.DROPCACHES: "v",
        Condition.ONELINER: "s",
        Condition.DAMON_RECLAIM: "^",
        Condition.HIBPREP: "D",
        Condition.HIBPREPD: ">",
        Condition.ALL_OUT: "P",
        Condition.ALL_BACK: "*",
        Condition.IDLE: "X",
    }
)

# Any: the type of the keys is another in each version of matplotlib.
_LOOK: Any = {
    # Letters as outlines, of the one font that comes with matplotlib: whoever looks at them needs
    # no font, and no other font shifts them.
    "svg.fonttype": "path",
    # otherwise random, and another file each time
    "svg.hashsalt": "hibprep",
    "font.family": "DejaVu Sans",
    "font.size": 9.0,
    "axes.titlesize": 10.0,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlecolor": INK,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "legend.frameon": False,
    "hatch.linewidth": 0.6,
}


@contextmanager
def look() -> Iterator[None]:
    """Our settings, on top of matplotlib's own defaults and not of this person's."""
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(_LOOK)
        yield


def encode(figure: Figure, kind: str = "svg") -> bytes:
    """The picture as a file's content. Within `look`."""
    stream = io.BytesIO()
    metadata = {"Date": None, "Creator": None} if kind == "svg" else None
    figure.savefig(stream, format=kind, metadata=metadata, facecolor="white")
    return stream.getvalue()


def only_grid(axes: Axes, which: str) -> None:
    """Lines for the one axis that has figures; no ticks where there are names."""
    axes.grid(visible=False, axis="y" if which == "x" else "x")
    axes.tick_params(axis="y" if which == "x" else "x", length=0)
