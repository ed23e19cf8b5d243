# SPDX-License-Identifier: LGPL-2.1-or-later
"""`hibprep coldpgs`: kidled and coldpgs, on kernels that have them."""

from __future__ import annotations

import click

from hibprep import coldpgs as engine
from hibprep.cli import common
from hibprep.errors import ExitCode, UsageError
from hibprep.model import Ending
from hibprep.page import Block, Page, seconds, size


def _parse_buckets(text: str) -> tuple[int, ...]:
    words = [word.strip() for word in text.split(",") if word.strip()]
    if not all(word.isascii() and word.isdigit() and len(word) <= 9 for word in words):  # noqa: PLR2004
        raise ValueError(f"{text!r} is no list of scan periods; give one such as 1,2,5,15")
    return tuple(map(int, words))


def _parse_period(text: str) -> int:
    period = common.parse_seconds(text)
    if period != int(period):
        raise ValueError(f"{text!r} is no whole number of seconds, which a scan period is")
    return int(period)


@click.group("coldpgs", no_args_is_help=False)
@common.common_options
def command() -> None:
    """Show or set kidled and coldpgs, or bring memory back by them (OpenAnolis, Alibaba Cloud)."""


@command.command("show")
@common.json_option
@common.common_options
@click.pass_context
def show(ctx: click.Context, *, as_json: bool) -> int:
    """Show how they are set, and how old the memory of every cgroup is."""
    machine = common.open_machine(ctx, common.load_config(ctx))
    state = engine.state(machine)
    common.show(state, lambda: state_page(state), as_json=as_json)
    return ExitCode.DONE


@command.command("set")
@click.option(
    "--period",
    callback=common.converted(_parse_period),
    metavar="SECONDS",
    help="Have kidled look at every page once in so long; forgets the ages found so far.",
)
@click.option(
    "--scan", type=click.Choice(list(engine.SCANS)), help="Have kidled look at these objects."
)
@click.option(
    "--hierarchy/--no-hierarchy", default=None, help="Count what is below a cgroup with it."
)
@click.option("--batch", type=int, metavar="PAGES", help="Take so many at a time under a lock.")
@click.option("--mlocked/--no-mlocked", default=None, help="Take what programs have locked, too.")
@click.option(
    "--threshold-nonrot",
    type=int,
    metavar="PERIODS",
    help="Put what is no colder into zswap, and the colder into swap; 0: all into swap.",
)
@click.option("--zswap/--no-zswap", default=None, help="Switch zswap on or off.")
@click.option(
    "--buckets",
    callback=common.converted(_parse_buckets),
    metavar="PERIODS,…",
    help="Tell ages apart there, in --cgroup or else the root; an empty list counts no more.",
)
@click.option("--cgroup", metavar="PATH", help="The cgroup that --buckets is for.")
@common.json_option
@common.common_options
@click.pass_context
def set_(
    ctx: click.Context,
    *,
    period: int | None,
    scan: str | None,
    hierarchy: bool | None,
    batch: int | None,
    mlocked: bool | None,
    threshold_nonrot: int | None,
    zswap: bool | None,
    buckets: tuple[int, ...] | None,
    cgroup: str | None,
    as_json: bool,
) -> int:
    """Set them until the next boot: all that is given, or nothing."""
    if cgroup is not None and buckets is None:
        raise UsageError("--cgroup is for --buckets", "give both, or neither")
    common.must_be_root(ctx)
    machine = common.open_machine(ctx, common.load_config(ctx))
    wanted = engine.Change(
        period_seconds=period,
        scan=scan,
        hierarchy=hierarchy,
        batch=batch,
        mlocked=mlocked,
        threshold_nonrot=threshold_nonrot,
        zswap=zswap,
        buckets=buckets,
        path=engine.named(machine, cgroup).path,
    )
    if wanted == engine.Change(path=wanted.path):
        raise UsageError("nothing to set was given", "give a setting, such as --period 15s")
    return _tell(engine.change(machine, wanted), as_json=as_json)


@command.command("off")
@common.json_option
@common.common_options
@click.pass_context
def off(ctx: click.Context, *, as_json: bool) -> int:
    """Switch kidled off: it forgets all ages, and coldpgs takes nothing any more."""
    common.must_be_root(ctx)
    machine = common.open_machine(ctx, common.load_config(ctx))
    return _tell(engine.change(machine, engine.Change(period_seconds=0)), as_json=as_json)


@command.command("swapin")
@common.cgroup_option
@common.timeout_option
@common.json_option
@common.common_options
@click.pass_context
def swapin(ctx: click.Context, *, cgroup: str | None, timeout: float | None, as_json: bool) -> int:
    """Have the kernel bring back all that is in swap, of the machine or a cgroup, where it fits.

    Ctrl-C and --timeout end it early.
    """
    common.must_be_root(ctx)
    machine = common.open_machine(ctx, common.load_config(ctx))
    scope = engine.named(machine, cgroup)
    with common.stop_on_signals() as stop:
        if timeout is not None:
            stop.within(timeout)
        found = engine.swap_in(machine, scope, stop)
    headline = (
        f"swapin: {size(found.read_bytes)} read of {size(found.swapped_bytes)} in swap; "
        f"{found.ending}: {found.reason}"
    )
    common.show(found, lambda: Page(headline), as_json=as_json)
    if found.ending is Ending.INTERRUPTED:
        return ExitCode.INTERRUPTED
    return ExitCode.DONE if found.ending is Ending.DONE else ExitCode.PARTLY


def _tell(words: tuple[str, ...], *, as_json: bool) -> int:
    headline = "set until the next boot" if words else "it was set so already"
    common.show({"set": words}, lambda: Page(headline, notes=words), as_json=as_json)
    return ExitCode.DONE


def state_page(state: engine.State) -> Page:
    """Settings, ages by cgroup and kind, and what was taken so far."""
    period = f"one scan in {state.period_seconds} s" if state.period_seconds else "off"
    nonrot, threshold = state.threshold_nonrot_periods, state.threshold_periods
    rows = (
        ("kidled", period),
        ("takes", ", ".join(state.takes) or "nothing"),
        ("locked pages", "too" if state.mlocked else "not"),
        ("batch", f"{state.batch_pages} pages"),
        ("hierarchy", "with what is below" if state.hierarchy else "each by itself"),
        ("last threshold", f"{threshold} scan periods" if threshold else "none yet"),
        ("to zswap", f"up to {nonrot} scan periods" if nonrot else "nothing"),
    )
    blocks = [Block("Settings", rows)]
    for edges in dict.fromkeys(each.edges_seconds for each in state.cgroups):
        ages = [
            (each.path, kind, *(size(value) for value in values))
            for each in state.cgroups
            if each.edges_seconds == edges
            for kind, values in each.bytes_by_kind.items()
            if any(values)
        ]
        header = ("cgroup", "kind", *(f"{seconds(edge)} …" for edge in edges))
        blocks.append(Block("Not used for", tuple(ages), header, frozenset(range(2, len(header)))))
    done = [
        (each.path, name, size(value))
        for each in state.cgroups
        for name, value in each.statistics.items()
        if value
    ]
    blocks.append(Block("Done so far", tuple(done), ("cgroup", "what", "size"), frozenset({2})))
    return Page(f"coldpgs {state.version}; kidled: {period}", tuple(blocks))
