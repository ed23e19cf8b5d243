# SPDX-License-Identifier: LGPL-2.1-or-later
"""`hibprep history`: past runs."""

from __future__ import annotations

import click

from hibprep.cli import common
from hibprep.errors import ExitCode
from hibprep.guestjobs import GuestJobs, guest_jobs_page
from hibprep.history import History
from hibprep.report import history_page


@click.command("history")
@click.option(
    "--guests", is_flag=True, help="What migrations and saves of this host's guests took."
)
@common.json_option
@common.common_options
@click.pass_context
def command(ctx: click.Context, *, guests: bool, as_json: bool) -> int:
    """Show past runs, the latest last."""
    config = common.load_config(ctx)
    prefix, keep = common.root_prefix(ctx), config.history.keep
    if guests:
        jobs, _, note = GuestJobs(prefix, keep).entries()
        notes = (note,) if note else ()
        common.show(
            {"jobs": jobs, "note": note}, lambda: guest_jobs_page(jobs, notes), as_json=as_json
        )
        return ExitCode.DONE
    kept = History(prefix, keep).read()
    notes = (kept.note,) if kept.note else ()
    common.show(kept, lambda: history_page(kept.reports, notes), as_json=as_json)
    return ExitCode.DONE
