# SPDX-License-Identifier: LGPL-2.1-or-later
"""`hibprep guest trim`: have a guest free memory from inside, also when its migration has begun."""

from __future__ import annotations

import click

from hibprep.cli import common
from hibprep.cli import guest_options as shared
from hibprep.errors import ExitCode
from hibprep.guests.trimming import trim_guest, trimmed_page
from hibprep.model import Ending

_CODES = {
    Ending.DONE: ExitCode.DONE,
    Ending.UNAVAILABLE: ExitCode.IMPOSSIBLE,
    Ending.INTERRUPTED: ExitCode.INTERRUPTED,
}


@click.command("trim")
@click.argument("domain")
@shared.connect_option
@common.timeout_option
@common.json_option
@common.common_options
@click.pass_context
def command(
    ctx: click.Context, *, domain: str, uri: str | None, timeout: float | None, as_json: bool
) -> int:
    """Have a guest free what it can, and wait until it has reported that to the host. Needs free
    page reporting. Neither balloon nor metadata are touched: it works while a migration waits.
    """
    config = common.load_config(ctx)
    seconds = timeout if timeout is not None else config.guests.inside_seconds
    with common.stop_on_signals() as stop, shared.host_of(config, uri) as host:
        means = shared.means_of(ctx, host, stop)
        report = trim_guest(host.find(domain), means, timeout_seconds=seconds)
    common.show(report, lambda: trimmed_page(report), as_json=as_json)
    return _CODES.get(report.ending, ExitCode.PARTLY)
