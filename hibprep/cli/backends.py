# SPDX-License-Identifier: LGPL-2.1-or-later
"""`hibprep backends`: what this kernel offers, since which version, why not."""

from __future__ import annotations

import click

from hibprep import session
from hibprep.cli import common
from hibprep.errors import ExitCode
from hibprep.report import capabilities_page


@click.command("backends")
@common.json_option
@common.common_options
@click.pass_context
def command(ctx: click.Context, *, as_json: bool) -> int:
    """Say which ways of reclaiming this kernel offers, since which version, and why not."""
    config = common.load_config(ctx)
    found = session.capabilities(common.open_machine(ctx, config))
    common.show({"backends": found}, lambda: capabilities_page(found), as_json=as_json)
    return ExitCode.DONE
