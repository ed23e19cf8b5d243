# SPDX-License-Identifier: LGPL-2.1-or-later
"""`hibprep guest migrate`: prepare, migrate, put back; one guest or all."""

from __future__ import annotations

import click

from hibprep.cli import common
from hibprep.cli import guest_moving as moving
from hibprep.cli import guest_options as shared
from hibprep.errors import UsageError
from hibprep.guests.balloon import Reserve
from hibprep.guests.connection import connect
from hibprep.guests.many import Route, migrate_all
from hibprep.guests.migrate import MigrateWish, migrate
from hibprep.guests.move_report import many_page, move_page
from hibprep.guests.port import CopyStorage, MigrateOptions
from hibprep.guests.sides import Side
from hibprep.sizes import parse_size

_LEAST_BANDWIDTH = 1 << 20
_MOST_CONNECTIONS = 255  # multifd-channels is a byte
_MOST_AT_ONCE = 64


def parse_bandwidth(text: str) -> int:
    """Bytes a second; libvirt counts in MiB/s."""
    found = parse_size(text)
    if found < _LEAST_BANDWIDTH:
        raise ValueError(f"{text} a second is less than 1 MiB, which is the least for libvirt")
    return found


@click.command("migrate")
@click.argument("domain", required=False)
@click.argument("destination", required=False, metavar="[DESTINATION]")
@click.option("--all", "every", is_flag=True, help="All guests that run: empty the host.")
@click.option("--to", metavar="URI", help="The destination, as DESTINATION; for --all.")
@click.option(
    "--parallel",
    type=click.IntRange(1, _MOST_AT_ONCE),
    default=1,
    show_default=True,
    metavar="N",
    help="With --all, so many guests at a time.",
)
@shared.connect_option
@moving.moving_options
@click.option("--p2p", is_flag=True, help="The source connects to the destination by itself.")
@click.option("--migrate-uri", metavar="URI", help="Where the destination's QEMU listens.")
@click.option(
    "--bandwidth",
    callback=common.converted(parse_bandwidth),
    metavar="SIZE",
    help="Send no more than this in a second.",
)
@click.option(
    "--parallel-connections",
    type=click.IntRange(1, _MOST_CONNECTIONS),
    metavar="N",
    help="Send over so many connections (multifd).",
)
@click.option("--compressed", is_flag=True, help="Compress what is sent again (xbzrle).")
@click.option("--auto-converge", is_flag=True, help="Slow down a guest that writes too fast.")
@click.option("--post-copy", is_flag=True, help="After one pass the guest runs there, and the rest "
              "follows; it cannot be aborted any more then.")  # fmt: skip
@click.option(
    "--copy-storage",
    type=click.Choice([str(CopyStorage.ALL), str(CopyStorage.INCREMENTAL)]),
    help="Disks go along, all or what differs.",
)
@click.option("--persistent", is_flag=True, help="It is defined at the destination for good.")
@click.option("--undefine-source", is_flag=True, help="It is not defined here any more after it.")
@click.option("--unsafe", is_flag=True, help="Although the caching of its disks makes it unsafe.")
@click.option(
    "--overcommit", is_flag=True, help="Although less memory is free there than the guest has."
)
@common.json_option
@common.common_options
@click.pass_context
def command(
    ctx: click.Context,
    *,
    domain: str | None,
    destination: str | None,
    every: bool,
    to: str | None,
    parallel: int,
    uri: str | None,
    as_it_is: bool,
    thorough: bool,
    reserve: Reserve | None,
    prepare_timeout: float | None,
    timeout: float | None,
    p2p: bool,
    migrate_uri: str | None,
    bandwidth: int | None,
    parallel_connections: int | None,
    compressed: bool,
    auto_converge: bool,
    post_copy: bool,
    copy_storage: str | None,
    persistent: bool,
    undefine_source: bool,
    unsafe: bool,
    overcommit: bool,
    as_json: bool,
) -> int:
    """Prepare a guest, migrate it live to the libvirt at DESTINATION, and give it its memory back
    there; or here, if it does not arrive. With --all, all guests to the libvirt at --to.

    Ctrl-C aborts the migration and puts the guest back.
    """
    where = _destination(domain, destination, to, every=every)
    config = common.load_config(ctx)
    wish = MigrateWish(
        options=MigrateOptions(
            peer_to_peer=p2p,
            migrate_uri=migrate_uri or "",
            bandwidth_bytes_per_second=bandwidth or 0,
            postcopy=post_copy,
            parallel_connections=parallel_connections or 0,
            compressed=compressed,
            auto_converge=auto_converge,
            copy_storage=CopyStorage(copy_storage) if copy_storage else CopyStorage.NONE,
            persist_destination=persistent,
            undefine_source=undefine_source,
            unsafe=unsafe,
        ),
        prepare=moving.options_of(
            config,
            as_it_is=as_it_is,
            thorough=thorough,
            reserve=reserve,
            prepare_timeout=prepare_timeout,
            bytes_per_second=bandwidth or 0,
        ),
        limit_seconds=timeout,
        overcommit=overcommit,
    )
    source = uri if uri is not None else config.guests.uri
    if domain is None:
        return _all(ctx, Route(source=source, destination=where, connect=connect), wish,
                    parallel=parallel, as_json=as_json)  # fmt: skip
    return _one(ctx, domain, Side(source, connect), Side(where, connect), wish, as_json=as_json)


def _destination(
    domain: str | None, destination: str | None, to: str | None, *, every: bool
) -> str:
    """Where to; UsageError for what does not go together."""
    if every and domain is not None:
        raise UsageError("--all and a domain exclude each other", "give --all --to URI")
    if not every and domain is None:
        raise UsageError("no guest is named", "give DOMAIN DESTINATION, or --all --to URI")
    if destination is not None and to is not None:
        raise UsageError("the destination is given twice", "give DESTINATION, or --to")
    where = destination or to
    if not where:
        raise UsageError("no destination is given", "give a URI such as qemu+ssh://host/system")
    return where


def _one(
    ctx: click.Context,
    name: str,
    source: Side,
    destination: Side,
    wish: MigrateWish,
    *,
    as_json: bool,
) -> int:
    try:
        with common.stop_on_signals() as stop, moving.move_progress() as tell:
            means = shared.means_of(ctx, source.host(), stop)
            report = migrate(name, source, destination, wish, means=means, tell=tell)
    finally:
        source.close()
        destination.close()
    common.show(report, lambda: move_page(report), as_json=as_json)
    moving.say_aloud(report)
    return report.exit_code


def _all(
    ctx: click.Context, route: Route, wish: MigrateWish, *, parallel: int, as_json: bool
) -> int:
    with common.stop_on_signals() as stop, moving.move_progress(several=parallel > 1) as tell:
        host = route.connect(route.source)
        try:
            means = shared.means_of(ctx, host, stop)
        finally:
            host.close()
        report = migrate_all(route, wish, means, tell, parallel=parallel)
    common.show(report, lambda: many_page(report), as_json=as_json)
    for each in report.reports:
        moving.say_aloud(each)
    for failure in report.failures:
        click.echo(f"hibprep: {' '.join(failure.reason.split())}", err=True)
    return report.exit_code
