# SPDX-License-Identifier: LGPL-2.1-or-later
"""`hibprep reclaim`: an amount of memory, as the opportunistic-reclaim interface did it."""

from __future__ import annotations

import click

from hibprep import machine as machines
from hibprep import prepare as engine
from hibprep.cli import common
from hibprep.cli.progress import progress
from hibprep.errors import ExitCode, UsageError
from hibprep.model import MACHINE, BackendName, Ending, Kind, Report
from hibprep.page import size

LEAST_AGE_SECONDS = 1.0  # the generations of the kernel are no finer


@click.command("reclaim", context_settings={"ignore_unknown_options": True})
@click.argument("amount", callback=common.converted(common.parse_amount), metavar="AMOUNT|max")
@common.cgroup_option
@click.option(
    "--type",
    "kind",
    type=click.Choice([str(kind) for kind in Kind]),
    default=str(Kind.ANY),
    show_default=True,
    help="The kind of memory.",
)
@click.option(
    "--colder-than",
    callback=common.converted(common.parse_seconds),
    metavar="AGE",
    help="Only memory that was not used for so many seconds.",
)
@click.option(
    "--backend",
    type=click.Choice([str(name) for name in BackendName]),
    metavar="NAME",
    help="Use this back-end alone (hibprep backends lists them).",
)
@common.timeout_option
@common.json_option
@common.common_options
@click.pass_context
def command(
    ctx: click.Context,
    *,
    amount: int,
    cgroup: str | None,
    kind: str,
    colder_than: float | None,
    backend: str | None,
    timeout: float | None,
    as_json: bool,
) -> int:
    """Reclaim AMOUNT (such as 512M), or all that gives way with max, and print the bytes that
    were really reclaimed. Ctrl-C and --timeout end it early with what was reclaimed so far."""
    if colder_than is not None and colder_than < LEAST_AGE_SECONDS:
        raise UsageError(f"--colder-than {colder_than:g} is too short", "give 1 second or more")
    config = common.load_config(ctx)
    common.must_be_root(ctx)
    machine = common.open_machine(ctx, config)
    if amount:
        common.refuse_absurd(machine.root, amount, "an amount")
    scope = MACHINE if cgroup is None else machines.validated_scope(machine, cgroup)
    with common.stop_on_signals() as stop, progress() as tell:
        report = engine.reclaim(
            machine,
            amount or None,
            scope,
            Kind(kind),
            min_age_seconds=colder_than or 0.0,
            backend=BackendName(backend) if backend else config.limits().backend,
            stop=stop,
            timeout_seconds=common.choose_timeout(config, timeout),
            progress=tell,
        )
    if as_json:
        common.show_json(report)
    else:
        reclaimed = report.freed.reclaimed_bytes
        click.echo(f"reclaimed {reclaimed} bytes ({size(reclaimed)})")
        if report.ending is not Ending.DONE:
            click.echo(f"hibprep: ended early ({report.ending}): {report.reason}", err=True)
    return _exit_code(report, everything=not amount)


def _exit_code(report: Report, *, everything: bool) -> ExitCode:
    # "max" asks for all that gives way, so that nothing more gives way is its success
    if everything and report.ending is Ending.EXHAUSTED:
        return ExitCode.DONE
    return common.exit_code(report)
