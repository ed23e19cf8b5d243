# SPDX-License-Identifier: LGPL-2.1-or-later
"""``python -m bench``: the lab's command line (and, later, the benchmark's)."""

from __future__ import annotations

import click

from bench.lab.cli import lab


@click.group()
def main() -> None:
    """Guests that really hibernate, and measuring with them."""


main.add_command(lab)

if __name__ == "__main__":
    main(prog_name="python -m bench")
