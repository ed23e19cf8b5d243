# SPDX-License-Identifier: LGPL-2.1-or-later
"""`hibprep status`: what runs, and the last report."""

from __future__ import annotations

import dataclasses

import click

from hibprep.cli import common
from hibprep.errors import ExitCode
from hibprep.history import History, Kept
from hibprep.page import Page
from hibprep.report import report_page

NO_DAEMON = "No daemon runs."


@click.command("status")
@common.json_option
@common.common_options
@click.pass_context
def command(ctx: click.Context, *, as_json: bool) -> int:
    """Say what runs, and what the last run did."""
    config = common.load_config(ctx)
    common.open_machine(ctx, config)
    kept = History(common.root_prefix(ctx), config.history.keep).last()
    report = kept.reports[-1] if kept.reports else None
    answer = {"running": False, "report": report, "note": kept.note}
    common.show(answer, lambda: page(kept), as_json=as_json)
    return ExitCode.DONE


def page(kept: Kept) -> Page:
    """The last report, or that there is none."""
    notes = (kept.note,) if kept.note else ()
    if not kept.reports:
        return Page(f"{NO_DAEMON} No run is kept.", notes=notes)
    last = kept.reports[-1]
    shown = report_page(last)
    return dataclasses.replace(
        shown,
        headline=f"{NO_DAEMON} The last run, of {last.started}: {shown.headline}",
        notes=(*shown.notes, *notes),
    )
