# SPDX-License-Identifier: LGPL-2.1-or-later
"""`hibprep swapin`: bring memory back after a resume."""

from __future__ import annotations

import click

from hibprep import machine as machines
from hibprep import swapin, workingset
from hibprep.cli import common
from hibprep.cli.progress import swapin_progress
from hibprep.errors import ExitCode, UsageError
from hibprep.model import MACHINE, Ending, Scope, ScopeKind
from hibprep.sizes import parse_size
from hibprep.swapin_report import SwapInReport, swapin_page


def _parse_limit(text: str) -> int:
    size_bytes = parse_size(text)
    if size_bytes == 0:
        raise ValueError("0 bytes are nothing to bring back; give a size such as 512M")
    return size_bytes


@click.command("swapin")
@common.cgroup_option
@click.option(
    "--pid", type=click.IntRange(min=1), metavar="PID", help="Work on this process alone."
)
@click.option(
    "--limit",
    callback=common.converted(_parse_limit),
    metavar="SIZE",
    help="Bring back no more than SIZE.",
)
@common.timeout_option
@common.json_option
@common.common_options
@click.pass_context
def command(
    ctx: click.Context,
    *,
    cgroup: str | None,
    pid: int | None,
    limit: int | None,
    timeout: float | None,
    as_json: bool,
) -> int:
    """Bring back from swap what was in use before a hibernation, then the rest, the foreground
    first, as long as memory is free. Ctrl-C and --timeout end it early."""
    if cgroup is not None and pid is not None:
        raise UsageError("--cgroup and --pid exclude each other", "give one of them")
    config = common.load_config(ctx)
    common.must_be_root(ctx)
    machine = common.open_machine(ctx, config)
    if limit is not None:
        common.refuse_absurd(machine.root, limit, "a limit")
    scope = MACHINE
    if cgroup is not None:
        scope = machines.validated_scope(machine, cgroup)
    elif pid is not None:
        scope = Scope(ScopeKind.PROCESS, pid=pid)
    limits = swapin.SwapInLimits(scope=scope, limit_bytes=limit, timeout_seconds=timeout)
    with common.stop_on_signals() as stop, swapin_progress() as tell:
        report = swapin.run(machine, workingset.load(machine.root), limits, stop, tell)
    common.show(report, lambda: swapin_page(report), as_json=as_json)
    return _exit_code(report)


def _exit_code(report: SwapInReport) -> ExitCode:
    if report.ending is Ending.INTERRUPTED:
        return ExitCode.INTERRUPTED
    return ExitCode.DONE if report.ending is Ending.DONE else ExitCode.PARTLY
