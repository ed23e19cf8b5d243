# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the commands that measure in guests have in common: options, and their end by SIGTERM."""

from __future__ import annotations

import signal
from types import FrameType
from typing import NoReturn

import click
from rich.console import Console

_WIDE_COLUMNS = 160

disk_rate = click.option(
    "--disk-rate",
    "disk_mib",
    type=click.IntRange(min=1),
    default=100,
    show_default=True,
    metavar="MIB",
    help="What the swap disk is throttled to, a second.",
)
again = click.option("--again", is_flag=True, help="Forget what was measured before.")
as_json = click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON object and nothing else."
)


def output() -> Console:
    """Standard output for tables: where it is no terminal, wide enough for all columns."""
    found = Console()
    return found if found.is_terminal else Console(width=_WIDE_COLUMNS)


def end_on_sigterm() -> None:
    """From now on SIGTERM is an exception, so that the guest is ended and its disks removed on the
    way out."""
    signal.signal(signal.SIGTERM, _terminated)


def _terminated(number: int, frame: FrameType | None) -> NoReturn:
    del number, frame
    raise SystemExit(143)
