# SPDX-License-Identifier: LGPL-2.1-or-later
"""What `hibprep guest migrate` and `hibprep guest save` share: options, and progress."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, TypeVar

import click

from hibprep.cli import common
from hibprep.cli import guest_options as shared
from hibprep.errors import ExitCode
from hibprep.guests.move_report import MoveReport
from hibprep.guests.progress import MoveProgress, Tell
from hibprep.page import seconds, size

if TYPE_CHECKING:
    from hibprep.config import Config
    from hibprep.guests.balloon import Reserve
    from hibprep.guests.prepare import Options

Decorated = TypeVar("Decorated", bound=Callable[..., object])


def moving_options(command: Decorated) -> Decorated:
    """`--no-prepare`, `--thorough`, `--reserve`, `--prepare-timeout` and `--timeout`."""
    for option in (
        click.option(
            "--timeout",
            callback=common.converted(common.parse_seconds),
            metavar="SECONDS",
            help="Abort when it takes longer, without the time to prepare; the guest runs on.",
        ),
        click.option(
            "--prepare-timeout",
            callback=common.converted(common.parse_seconds),
            metavar="SECONDS",
            help="Prepare no longer than this (default: guests.timeout_seconds).",
        ),
        shared.reserve_option,
        click.option(
            "--thorough",
            is_flag=True,
            help="Prepare for as few bytes as can be, also where that takes longer than it saves.",
        ),
        click.option("--no-prepare", "as_it_is", is_flag=True, help="Leave the guest as it is."),
    ):
        command = option(command)
    return command


def options_of(
    config: Config,
    *,
    as_it_is: bool,
    thorough: bool,
    reserve: Reserve | None,
    prepare_timeout: float | None,
    bytes_per_second: int = 0,
) -> Options | None:
    """How to prepare; None for not at all. `bytes_per_second` is for the estimates, where it is
    known better than configured."""
    if as_it_is:
        return None
    options = shared.options_of(config, reserve, prepare_timeout)
    return dataclasses.replace(
        options,
        while_it_pays=not thorough,
        bytes_per_second=float(bytes_per_second or options.bytes_per_second),
    )


def progress_line(now: MoveProgress) -> str:
    """One line for a person."""
    words = [f"{now.domain}: {now.part}"]
    if now.total_bytes:
        words.append(f"{size(now.done_bytes)} of {size(now.total_bytes)}")
    if now.bytes_per_second:
        words.append(f"{size(now.bytes_per_second)}/s")
    if now.iteration > 1:
        words.append(f"pass {now.iteration}")
    if now.left_seconds is not None:
        words.append(f"{seconds(now.left_seconds)} left")
    if now.note:
        words.append(now.note)
    return ", ".join(words)


@contextlib.contextmanager
def move_progress(*, several: bool = False) -> Iterator[Tell]:
    """Something to call with every `MoveProgress`: on a terminal a line that is written over;
    elsewhere, and for several guests at a time, a line for each new part."""
    terminal = sys.stderr.isatty() and os.environ.get("TERM") != "dumb" and not several
    shown: dict[str, tuple[str, str]] = {}

    def over(now: MoveProgress) -> None:
        click.echo(f"\r\033[Khibprep: {progress_line(now)}", err=True, nl=False)

    def each(now: MoveProgress) -> None:
        if shown.get(now.domain) != (now.part, now.note):
            shown[now.domain] = (now.part, now.note)
            click.echo(f"hibprep: {progress_line(now)}", err=True)

    try:
        yield over if terminal else each
    finally:
        if terminal:
            click.echo("\r\033[K", err=True, nl=False)


def say_aloud(report: MoveReport) -> None:
    """What went wrong, and above all what is left to be done, whatever else is shown."""
    if report.exit_code is not ExitCode.DONE:
        click.echo(f"hibprep: {' '.join(report.reason.split())}", err=True)
    for words in report.left:
        click.echo(
            f"hibprep: {report.name} IS LEFT WITH LESS MEMORY; when it can be done, do: {words}",
            err=True,
        )
