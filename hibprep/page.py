# SPDX-License-Identifier: LGPL-2.1-or-later
"""A page of titled blocks, and its two forms: tables on a terminal, plain lines elsewhere; and
figures as a person reads them.

Both are made from the same value, so that they cannot tell different stories.
"""

from __future__ import annotations

import io
import math
from dataclasses import dataclass

import humanize

_LONG_SECONDS = 600  # above it, minutes are what a person wants


@dataclass(frozen=True, slots=True)
class Block:
    """One titled table; without a `header` its rows are a name and a value."""

    title: str
    rows: tuple[tuple[str, ...], ...]
    header: tuple[str, ...] = ()
    right: frozenset[int] = frozenset()  # columns with figures


@dataclass(frozen=True, slots=True)
class Page:
    """What a person is shown: one sentence, then blocks, then notes."""

    headline: str
    blocks: tuple[Block, ...] = ()
    notes: tuple[str, ...] = ()


def size(value_bytes: float) -> str:
    """Bytes as a person reads them."""
    return humanize.naturalsize(value_bytes, binary=True, format="%.1f")


def seconds(value: float) -> str:
    """Seconds as a person reads them."""
    if not math.isfinite(value):
        return "unknown"
    return f"{value:.1f} s" if value < _LONG_SECONDS else f"{value / 60:.0f} min"


def render(page: Page, *, terminal: bool = False, color: bool = True, width: int = 0) -> str:
    """The page as text: tables on a terminal, plain lines elsewhere. `width` 0: as needed."""
    return _rich(page, color=color, width=width) if terminal else _lines(page)


def _lines(page: Page) -> str:
    lines = [page.headline]
    for block in page.blocks:
        if not block.rows:
            continue
        table = [row for row in (block.header, *block.rows) if row]
        widths = [max(len(row[column]) for row in table) for column in range(len(table[0]))]
        lines += ["", f"{block.title}:"]
        for row in table:
            cells = [
                cell.rjust(widths[column]) if column in block.right else cell.ljust(widths[column])
                for column, cell in enumerate(row)
            ]
            lines.append("  " + "  ".join(cells).rstrip())
    if page.notes:
        lines += ["", *(f"note: {note}" for note in page.notes)]
    return "\n".join(lines) + "\n"


def _rich(page: Page, *, color: bool, width: int) -> str:
    # rich costs 40 ms, and most runs do not end on a terminal
    from rich.box import SIMPLE_HEAD  # noqa: PLC0415
    from rich.console import Console  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    out = io.StringIO()
    console = Console(
        file=out,
        force_terminal=color,
        no_color=not color,
        width=width or None,
        highlight=False,
        legacy_windows=False,
    )
    # Text everywhere: a cgroup's name may hold what rich would take for markup
    console.print(Text(page.headline, style="bold"))
    for block in page.blocks:
        if not block.rows:
            continue
        table = Table(
            title=Text(block.title), title_justify="left", title_style="bold", box=SIMPLE_HEAD
        )
        for column, name in enumerate(block.header):
            table.add_column(
                Text(name), justify="right" if column in block.right else "left", overflow="fold"
            )
        for row in block.rows:
            table.add_row(*(Text(cell) for cell in row))
        console.print(table)
    for note in page.notes:
        console.print(Text(f"note: {note}", style="yellow"))
    return out.getvalue()
