# SPDX-License-Identifier: LGPL-2.1-or-later
"""A table as a person reads it."""

from __future__ import annotations

import os
from pathlib import Path

from rich.console import Console
from rich.table import Table


def text_of(table: Table) -> str:
    """What is printed where lines are wide."""
    with Path(os.devnull).open("w") as nowhere:
        console = Console(width=160, record=True, file=nowhere)
        console.print(table)
        return console.export_text()
