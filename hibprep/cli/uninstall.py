# SPDX-License-Identifier: LGPL-2.1-or-later
"""`hibprep uninstall`: take away what `hibprep install` has put."""

from __future__ import annotations

import click

from hibprep.cli import common
from hibprep.cli.install import show
from hibprep.install.changes import uninstall
from hibprep.kernel.root import KernelRoot


@click.command("uninstall")
@click.option(
    "--purge", is_flag=True, help="Also take away the history and all else that hibprep has kept."
)
@click.option("--dry-run", is_flag=True, help="Say what would be done, and do nothing.")
@common.json_option
@common.common_options
@click.pass_context
def command(ctx: click.Context, *, purge: bool, dry_run: bool, as_json: bool) -> int:
    """Stop the daemon and take away exactly what was put.

    A file that somebody has changed since is kept, and that is said (exit code 3).
    """
    if common.config_given(ctx):  # a wrong one in /etc is no reason to stay
        common.load_config(ctx)
    if not dry_run:
        common.must_be_root(ctx)
    root = KernelRoot(common.root_prefix(ctx))
    return show(uninstall(root, purge=purge, dry_run=dry_run), as_json=as_json)
