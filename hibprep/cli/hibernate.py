# SPDX-License-Identifier: LGPL-2.1-or-later
"""`hibprep hibernate`: prepare, hibernate, put back, report."""

from __future__ import annotations

import click

from hibprep import hibernate as sleeper
from hibprep import swapin, workingset
from hibprep.cli import common
from hibprep.cli.progress import progress, swapin_progress
from hibprep.errors import HibprepError
from hibprep.machine import Machine
from hibprep.model import Target, TargetKind, ZramUse
from hibprep.page import size
from hibprep.report import report_page


@click.command("hibernate")
@common.target_options
@common.timeout_option
@common.zram_option(*ZramUse)
@click.option(
    "--direct", is_flag=True, help="Write /sys/power/state instead of asking systemd-logind."
)
@common.json_option
@common.common_options
@click.pass_context
def command(
    ctx: click.Context,
    *,
    target: Target | None,
    within: float | None,
    timeout: float | None,
    zram: str | None,
    direct: bool,
    as_json: bool,
) -> int:
    """Prepare, leave the kernel nothing to shrink, hibernate, put back, and report after resume."""
    config = common.load_config(ctx)
    wanted = common.choose_target(config, target, within)
    common.must_be_root(ctx)
    machine = common.open_machine(ctx, config)
    if wanted.kind is TargetKind.SIZE:
        common.refuse_absurd(machine.root, wanted.size_bytes, "a target")
    with common.stop_on_signals() as stop, progress() as tell:
        report = sleeper.hibernate(
            machine,
            wanted,
            common.choose_zram(config, common.choose_limits(config), zram),
            direct=direct,
            stop=stop,
            timeout_seconds=common.choose_timeout(config, timeout),
            progress=tell,
            announce=lambda words: click.echo(f"hibprep: {words}", err=True),
        )
    if config.sleep.swap_in and report.hibernation.get("slept"):
        _bring_back(machine)
    common.show(report, lambda: report_page(report), as_json=as_json)
    return common.exit_code(report)


def _bring_back(machine: Machine) -> None:
    """Whatever becomes of it, the hibernation is over and its report is what was asked for."""
    try:
        with common.stop_on_signals() as stop, swapin_progress() as tell:
            record = workingset.load(machine.root)
            brought = swapin.run(machine, record, swapin.SwapInLimits(), stop, tell)
    except HibprepError as error:
        words = f"memory is not brought back: {error}"
    else:
        words = f"brought back {size(brought.read_bytes)} in {brought.seconds:.1f} s"
    click.echo(f"hibprep: {words}", err=True)
