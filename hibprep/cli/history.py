# SPDX-License-Identifier: LGPL-2.1-or-later
"""`hibprep history`: past runs."""

from __future__ import annotations

import click

from hibprep.cli import common
from hibprep.errors import ExitCode
from hibprep.history import History
from hibprep.report import history_page


@click.command("history")
@common.json_option
@common.common_options
@click.pass_context
def command(ctx: click.Context, *, as_json: bool) -> int:
    """Show past runs, the latest last."""
    config = common.load_config(ctx)
    kept = History(common.root_prefix(ctx), config.history.keep).read()
    notes = (kept.note,) if kept.note else ()
    common.show(kept, lambda: history_page(kept.reports, notes), as_json=as_json)
    return ExitCode.DONE
