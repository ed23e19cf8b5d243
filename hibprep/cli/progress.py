# SPDX-License-Identifier: LGPL-2.1-or-later
"""Progress on stderr: a bar on a terminal, elsewhere one line for each stage."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import click
import humanize

if TYPE_CHECKING:
    from rich.progress import Progress as Bar
    from rich.progress import TaskID

    from hibprep.model import Progress, Stage
    from hibprep.swapin_report import SwapInProgress

Show = Callable[["Progress"], None]


@contextlib.contextmanager
def progress() -> Iterator[Show]:
    """Something to call with every `Progress`."""
    if not sys.stderr.isatty():
        yield _by_stage()
        return
    with _bar() as show:
        yield show


def _size(value_bytes: int) -> str:
    return humanize.naturalsize(value_bytes, binary=True)


def _by_stage() -> Show:
    shown: set[Stage] = set()

    def show(now: Progress) -> None:
        if now.stage in shown:
            return
        shown.add(now.stage)
        note = f" ({now.note})" if now.note else ""
        click.echo(
            f"hibprep: stage {now.stage}: step {now.step} of {now.steps}, "
            f"{_size(now.amount_bytes)}{note}",
            err=True,
        )

    return show


@contextlib.contextmanager
def swapin_progress() -> Iterator[Callable[[SwapInProgress], None]]:
    """The same for bringing memory back: elsewhere than on a terminal one line for each part."""
    if not sys.stderr.isatty():
        shown: set[str] = set()

        def say(now: SwapInProgress) -> None:
            if now.part not in shown:
                shown.add(now.part)
                click.echo(f"hibprep: {now.part}, after {_size(now.done_bytes)}", err=True)

        yield say
        return
    with _new_bar() as (bar, task):

        def show(now: SwapInProgress) -> None:
            bar.update(
                task,
                description=str(now.part),
                completed=now.done_bytes,
                total=now.amount_bytes,
                left=now.name,
            )
            bar.refresh()

        yield show


@contextlib.contextmanager
def _bar() -> Iterator[Show]:
    with _new_bar() as (bar, task):

        def show(now: Progress) -> None:
            bar.update(
                task,
                description=f"{now.stage} ({now.step}/{now.steps})",
                completed=min(now.done_bytes, now.amount_bytes),
                total=now.amount_bytes,
                left=f"saveable {_size(now.saveable_bytes)}, goal {_size(now.goal_bytes)}",
            )
            bar.refresh()

        yield show


@contextlib.contextmanager
def _new_bar() -> Iterator[tuple[Bar, TaskID]]:
    from rich.console import Console  # noqa: PLC0415 - only on a terminal
    from rich.progress import (  # noqa: PLC0415
        BarColumn,
        DownloadColumn,
        TextColumn,
        TimeElapsedColumn,
    )
    from rich.progress import Progress as NewBar  # noqa: PLC0415

    console = Console(stderr=True, no_color=bool(os.environ.get("NO_COLOR")))
    bar = NewBar(
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(binary_units=True),
        TimeElapsedColumn(),
        TextColumn("{task.fields[left]}"),
        console=console,
        transient=True,
        # no thread: children are forked while the bar is shown, and it is shown anew with each
        # chunk anyway
        auto_refresh=False,
    )
    with bar:
        yield bar, bar.add_task("starting", total=None, left="")
