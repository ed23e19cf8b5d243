# SPDX-License-Identifier: LGPL-2.1-or-later
"""`hibprep host-shutdown`: what hibprep-guests.service runs when it is stopped. Not for people: it
is not in the list of commands."""

from __future__ import annotations

import click

from hibprep.cli import common
from hibprep.errors import ExitCode
from hibprep.hostshutdown import why_not_saved
from hibprep.kernel.root import KernelRoot


@click.command("host-shutdown")
@click.option(
    "--timeout",
    "seconds",
    default="20",
    callback=common.converted(common.parse_seconds),
    help="Preparing a guest takes no longer.",
)
@common.common_options
@click.pass_context
def command(ctx: click.Context, *, seconds: float) -> int:
    """Prepare all guests if they are about to be saved."""
    why_not = why_not_saved(KernelRoot(common.root_prefix(ctx)))
    if why_not:
        click.echo(f"hibprep: no guest is prepared: {why_not}", err=True)
        return ExitCode.DONE
    # the whole of the command line, which imports this module
    from hibprep.cli import run  # noqa: PLC0415

    return run(["guest", "prepare", "--all", "--timeout", f"{seconds:g}"])
