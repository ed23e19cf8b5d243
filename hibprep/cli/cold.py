# SPDX-License-Identifier: LGPL-2.1-or-later
"""`hibprep cold`: how long memory has been idle, by cgroup."""

from __future__ import annotations

import click

from hibprep import cold
from hibprep import machine as machines
from hibprep.cli import common
from hibprep.cold_report import cold_page
from hibprep.errors import ExitCode, UsageError
from hibprep.model import MACHINE, Ending

LEAST_AGE_SECONDS = 1.0


@click.command("cold")
@click.option("--cgroup", metavar="PATH", help="This cgroup and those below it alone.")
@click.option(
    "--older-than",
    callback=common.converted(common.parse_seconds),
    metavar="AGE",
    help="Show what is known to have been idle for so long.",
)
@click.option(
    "--age",
    callback=common.converted(common.parse_seconds),
    metavar="SECONDS",
    help="Find out what is idle now, over so many seconds: memory is aged three times.",
)
@common.json_option
@common.common_options
@click.pass_context
def command(
    ctx: click.Context,
    *,
    cgroup: str | None,
    older_than: float | None,
    age: float | None,
    as_json: bool,
) -> int:
    """Say how long memory has been idle, one row a cgroup, as the multi-gen LRU of the kernel knows
    it. Nothing is changed, unless --age has memory looked at anew; Ctrl-C ends that early."""
    if age is not None and age < LEAST_AGE_SECONDS:
        raise UsageError(f"--age {age:g} is too short", "give 1 second or more")
    config = common.load_config(ctx)
    common.must_be_root(ctx)
    machine = common.open_machine(ctx, config)
    scope = MACHINE if cgroup is None else machines.validated_scope(machine, cgroup)
    with common.stop_on_signals() as stop:
        report = cold.run(machine, scope, stop, age_seconds=age, older_than_seconds=older_than)
    common.show(report, lambda: cold_page(report), as_json=as_json)
    return ExitCode.INTERRUPTED if report.ending is Ending.INTERRUPTED else ExitCode.DONE
