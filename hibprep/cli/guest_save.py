# SPDX-License-Identifier: LGPL-2.1-or-later
"""`hibprep guest save`: prepare a guest, and save it to libvirt's file."""

from __future__ import annotations

import click

from hibprep.cli import common
from hibprep.cli import guest_moving as moving
from hibprep.cli import guest_options as shared
from hibprep.guests.balloon import Reserve
from hibprep.guests.connection import connect
from hibprep.guests.move_report import move_page
from hibprep.guests.save import SaveWish, save
from hibprep.guests.sides import Side


@click.command("save")
@click.argument("domain")
@shared.connect_option
@moving.moving_options
@click.option(
    "--bypass-cache", is_flag=True, help="The file does not go through this host's page cache."
)
@common.json_option
@common.common_options
@click.pass_context
def command(
    ctx: click.Context,
    *,
    domain: str,
    uri: str | None,
    as_it_is: bool,
    thorough: bool,
    reserve: Reserve | None,
    prepare_timeout: float | None,
    timeout: float | None,
    bypass_cache: bool,
    as_json: bool,
) -> int:
    """Prepare a guest, and have libvirt save it (virsh managedsave): the next start goes on from
    there. Its memory is given back then by the daemon, or by `hibprep guest undo`.

    Ctrl-C aborts the save and puts the guest back.
    """
    config = common.load_config(ctx)
    wish = SaveWish(
        prepare=moving.options_of(
            config,
            as_it_is=as_it_is,
            thorough=thorough,
            reserve=reserve,
            prepare_timeout=prepare_timeout,
        ),
        limit_seconds=timeout,
        bypass_cache=bypass_cache,
    )
    side = Side(uri if uri is not None else config.guests.uri, connect)
    try:
        with common.stop_on_signals() as stop, moving.move_progress() as tell:
            means = shared.means_of(ctx, side.host(), stop)
            report = save(domain, side, wish, means=means, tell=tell)
    finally:
        side.close()
    common.show(report, lambda: move_page(report), as_json=as_json)
    moving.say_aloud(report)
    return report.exit_code
