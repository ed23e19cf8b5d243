# SPDX-License-Identifier: LGPL-2.1-or-later
"""`hibprep guest`: guests of libvirt on this host, or on another."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import click

from hibprep.cli import common, guest_migrate, guest_save, guest_trim
from hibprep.cli import guest_options as shared
from hibprep.errors import ExitCode, HibprepError
from hibprep.guests.balloon import Reserve
from hibprep.guests.estimating import estimate_guest
from hibprep.guests.listing import list_guests, listing_page
from hibprep.guests.port import Domain
from hibprep.guests.prepare import prepare as prepare_guest
from hibprep.guests.report import (
    Failure,
    GuestEstimate,
    GuestReport,
    Guests,
    estimate_page,
    prepared_page,
    undone_page,
)
from hibprep.guests.undo import UndoEnding, Undone, undo_all
from hibprep.guests.undo import undo as undo_guest
from hibprep.model import Ending
from hibprep.page import Page

names_argument = click.argument("names", nargs=-1, metavar="[DOMAIN]...")


def all_option(words: str) -> Callable[[shared.Decorated], shared.Decorated]:
    """`--all`, with what all are."""
    return click.option("--all", "every", is_flag=True, help=words)


@click.group("guest", no_args_is_help=False)
@common.common_options
def command() -> None:
    """Prepare guests of libvirt for a migration or a managed save, and put them back after it."""


@command.command("list")
@shared.connect_option
@common.json_option
@common.common_options
@click.pass_context
def list_(ctx: click.Context, *, uri: str | None, as_json: bool) -> int:
    """Show the guests, what can be done for each, and what it would gain. Changes nothing."""
    config = common.load_config(ctx)
    with shared.host_of(config, uri) as host:
        listing = list_guests(host, shared.reserve_of(config, None))
    common.show(listing, lambda: listing_page(listing), as_json=as_json)
    return ExitCode.PARTLY if listing.failures else ExitCode.DONE


@command.command("estimate")
@names_argument
@all_option("All guests that run.")
@shared.connect_option
@shared.reserve_option
@common.json_option
@common.common_options
@click.pass_context
def estimate(
    ctx: click.Context,
    *,
    names: tuple[str, ...],
    every: bool,
    uri: str | None,
    reserve: Reserve | None,
    as_json: bool,
) -> int:
    """Say what migrating or saving a guest would send, as it is and prepared."""
    shared.named_or_all(names, every=every)
    config = common.load_config(ctx)
    kept = shared.reserve_of(config, reserve)
    found: list[GuestEstimate] = []
    failures: list[Failure] = []
    with common.stop_on_signals() as stop, shared.host_of(config, uri) as host:
        means = shared.means_of(ctx, host, stop)
        for domain in shared.chosen(host, names):
            if stop.requested():
                break
            try:
                found.append(estimate_guest(domain, means, kept, config.guests.bytes_per_second))
            except HibprepError as error:
                _tell_failure(domain, error, names, failures)
    guests = Guests(guests=tuple(found), failures=tuple(failures))
    _show_guests(guests, [estimate_page(each) for each in found], as_json=as_json)
    if stop.requested():
        return ExitCode.INTERRUPTED
    return ExitCode.PARTLY if failures else ExitCode.DONE


@command.command("prepare")
@names_argument
@all_option("All guests that run, one after the other.")
@shared.connect_option
@shared.preparing_options
@common.json_option
@common.common_options
@click.pass_context
def prepare(
    ctx: click.Context,
    *,
    names: tuple[str, ...],
    every: bool,
    uri: str | None,
    reserve: Reserve | None,
    timeout: float | None,
    as_json: bool,
) -> int:
    """Prepare guests: have them free what they can, and give that back to the host, so that it need
    not be sent. What was done to the balloon stays until `hibprep guest undo`.

    Ctrl-C puts the guest back that is being prepared.
    """
    shared.named_or_all(names, every=every)
    config = common.load_config(ctx)
    options = shared.options_of(config, reserve, timeout)
    reports: list[GuestReport] = []
    failures: list[Failure] = []
    with (
        common.stop_on_signals() as stop,
        shared.host_of(config, uri) as host,
        shared.guest_progress() as tell,
    ):
        means = shared.means_of(ctx, host, stop)
        for domain in shared.chosen(host, names):
            if stop.requested():
                break
            try:
                reports.append(prepare_guest(domain, options, means, tell))
            except HibprepError as error:
                _tell_failure(domain, error, names, failures)
    guests = Guests(guests=tuple(reports), failures=tuple(failures))
    _show_guests(guests, [prepared_page(each) for each in reports], as_json=as_json)
    if stop.requested():
        return ExitCode.INTERRUPTED
    return _code(reports, failures)


@command.command("undo")
@names_argument
@all_option("All guests that were prepared and not put back.")
@shared.connect_option
@common.timeout_option
@common.json_option
@common.common_options
@click.pass_context
def undo(
    ctx: click.Context,
    *,
    names: tuple[str, ...],
    every: bool,
    uri: str | None,
    timeout: float | None,
    as_json: bool,
) -> int:
    """Give guests back the memory that was taken from them for a migration or a save: after it, or
    after a run that was interrupted, on whatever host they are now."""
    shared.named_or_all(names, every=every)
    config = common.load_config(ctx)
    seconds = timeout if timeout is not None else config.guests.timeout_seconds
    with common.stop_on_signals() as stop, shared.host_of(config, uri) as host:
        means = shared.means_of(ctx, host, stop)
        if every:
            undone = undo_all(host, means, seconds=seconds)
        else:
            undone = tuple(
                undo_guest(domain, means, seconds=seconds)
                for domain in shared.chosen(host, names)
                if not stop.requested()
            )
        where = host.uri
    common.show(Guests(guests=undone), lambda: undone_page(undone, where), as_json=as_json)
    if stop.requested():
        return ExitCode.INTERRUPTED
    return ExitCode.DONE if all(map(_is_settled, undone)) else ExitCode.PARTLY


command.add_command(guest_migrate.command)
command.add_command(guest_save.command)
command.add_command(guest_trim.command)


def _is_settled(undone: Undone) -> bool:
    return undone.ending in (UndoEnding.DONE, UndoEnding.NOTHING)


def _tell_failure(
    domain: Domain, error: HibprepError, names: tuple[str, ...], failures: list[Failure]
) -> None:
    """One of several is told, and the others are done; the only one is the command's own error."""
    if len(names) == 1:
        raise error
    failures.append(Failure(domain.name, str(error)))
    click.echo(f"hibprep: {' '.join(str(error).split())}", err=True)


def _itself(page: Page) -> Page:
    return page


def _show_guests(guests: Guests, pages: list[Page], *, as_json: bool) -> None:
    if as_json:
        common.show_json(guests)
        return
    for page in pages or [Page("no guest was prepared or looked at")]:
        common.show(guests, partial(_itself, page), as_json=False)


def _code(reports: list[GuestReport], failures: list[Failure]) -> ExitCode:
    endings = {report.ending for report in reports}
    if failures or endings - {Ending.DONE, Ending.UNAVAILABLE}:
        return ExitCode.PARTLY
    if endings == {Ending.UNAVAILABLE}:
        return ExitCode.IMPOSSIBLE
    return ExitCode.PARTLY if Ending.UNAVAILABLE in endings else ExitCode.DONE
