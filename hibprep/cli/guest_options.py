# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the commands for guests share: their options, the host, the guests that are meant."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, TypeVar

import click

from hibprep.cli import common
from hibprep.errors import UsageError
from hibprep.guests.balloon import Reserve
from hibprep.sizes import parse_size

if TYPE_CHECKING:
    from hibprep.config import Config
    from hibprep.guests.means import Means
    from hibprep.guests.port import Domain, Host
    from hibprep.guests.prepare import Options
    from hibprep.guests.report import GuestProgress
    from hibprep.guests.waiting import Stopping

Decorated = TypeVar("Decorated", bound=Callable[..., object])

LEAST_RESERVE_BYTES = 16 << 20
_LEAST_PERCENT, _MOST_PERCENT = 5.0, 400.0

connect_option = click.option(
    "--connect",
    "uri",
    metavar="URI",
    help="libvirt's URI of the host (default: guests.uri, qemu:///system).",
)


def parse_reserve(text: str) -> Reserve:
    """A size, or a share of what the guest uses as `N%`."""
    word = text.strip()
    if not word.endswith("%"):
        size_bytes = parse_size(word)
        if size_bytes < LEAST_RESERVE_BYTES:
            raise ValueError(f"a reserve of {size_bytes} bytes would have guests run out of memory")
        return Reserve(fixed_bytes=size_bytes)
    try:
        percent = float(word[:-1])
    except ValueError:
        raise ValueError(f"{word!r} is no reserve; give a size such as 256M, or 20%") from None
    if not _LEAST_PERCENT <= percent <= _MOST_PERCENT:
        raise ValueError(f"{word} is not from {_LEAST_PERCENT:g}% up to {_MOST_PERCENT:g}%")
    return Reserve(share=percent / 100)


reserve_option = click.option(
    "--reserve",
    callback=common.converted(parse_reserve),
    metavar="SIZE|N%",
    help="Leave a guest so much beyond what it uses, or N percent of that.",
)


def preparing_options(command: Decorated) -> Decorated:
    """`--reserve` and `--timeout`."""
    return reserve_option(common.timeout_option(command))


def reserve_of(config: Config, given: Reserve | None) -> Reserve:
    """What is left to a guest. A share that was given holds with the least that is configured."""
    least = config.guests.reserve_least
    if given is None:
        return Reserve(share=config.guests.reserve_percent / 100, least_bytes=least)
    return given if given.fixed_bytes else Reserve(share=given.share, least_bytes=least)


def options_of(config: Config, reserve: Reserve | None, timeout: float | None) -> Options:
    """How to prepare."""
    from hibprep.guests.prepare import Options  # noqa: PLC0415

    settings = config.guests
    whole = timeout if timeout is not None else settings.timeout_seconds
    return Options(
        reserve=reserve_of(config, reserve),
        timeout_seconds=whole,
        guest_seconds=min(settings.inside_seconds, whole),
        bytes_per_second=settings.bytes_per_second,
    )


@contextlib.contextmanager
def host_of(config: Config, uri: str | None) -> Iterator[Host]:
    """A connection to the host that was named, or else is configured."""
    from hibprep.guests.connection import connect  # noqa: PLC0415

    host = connect(uri if uri is not None else config.guests.uri)
    try:
        yield host
    finally:
        host.close()


def means_of(ctx: click.Context, host: Host, stop: Stopping) -> Means:
    """What a run of this process on that host works with."""
    from hibprep.guests.means import real_means  # noqa: PLC0415
    from hibprep.kernel.root import KernelRoot  # noqa: PLC0415

    return real_means(KernelRoot(common.root_prefix(ctx)), host.uuid(), stop)


def named_or_all(names: Sequence[str], *, every: bool) -> None:
    """UsageError unless guests are named, or all are meant."""
    if bool(names) == every:
        said = "--all and names exclude each other" if every else "no guest is named"
        raise UsageError(said, "name guests, or give --all; `hibprep guest list` shows them")


def chosen(host: Host, names: Sequence[str]) -> tuple[Domain, ...]:
    """The guests of those names, or all that run; one that is not there is told before anything is
    done with the others."""
    if names:
        return tuple({found.uuid: found for found in map(host.find, names)}.values())
    return tuple(domain for domain in host.domains(active=True) if domain.info().running)


@contextlib.contextmanager
def guest_progress() -> Iterator[Callable[[GuestProgress], None]]:
    """Something to call with what a guest is at: one line each time, which on a terminal is the
    same line."""
    terminal = sys.stderr.isatty() and os.environ.get("TERM") != "dumb"

    def show(now: GuestProgress) -> None:
        amount = f", {now.amount_bytes >> 20} MiB" if now.amount_bytes else ""
        line = f"hibprep: {now.name}: {now.step}{amount}"
        click.echo(f"\r\033[K{line}" if terminal else line, err=True, nl=not terminal)

    try:
        yield show
    finally:
        if terminal:
            click.echo("\r\033[K", err=True, nl=False)
