# SPDX-License-Identifier: LGPL-2.1-or-later
"""`hibprep prepare`: do now what `hibprep plan` says."""

from __future__ import annotations

import click

from hibprep import machine as machines
from hibprep import prepare as engine
from hibprep.cli import by_deadline, common
from hibprep.cli.progress import progress
from hibprep.errors import ExitCode
from hibprep.model import Stage, Target, TargetKind, ZramUse
from hibprep.report import plan_page, report_page


@click.command("prepare")
@common.target_options
@by_deadline.deadline_option
@common.timeout_option
@click.option(
    "--stages",
    callback=common.converted(common.parse_stages),
    metavar="LIST",
    help=f"Use only these stages, of {','.join(Stage)}.",
)
@common.cgroup_option
@common.zram_option(ZramUse.LEAVE, ZramUse.WRITEBACK)
@click.option("--dry-run", is_flag=True, help="Only say what would be done.")
@common.json_option
@common.common_options
@click.pass_context
def command(
    ctx: click.Context,
    *,
    target: Target | None,
    within: float | None,
    deadline: float | None,
    timeout: float | None,
    stages: tuple[Stage, ...] | None,
    cgroup: str | None,
    zram: str | None,
    dry_run: bool,
    as_json: bool,
) -> int:
    """Make the machine ready for hibernation now, and report."""
    config = common.load_config(ctx)
    if deadline is not None:
        by_deadline.refuse_others(target=target, within=within, timeout=timeout, zram=zram)
    wanted = common.choose_target(config, target, within)
    if not dry_run:
        common.must_be_root(ctx)
    machine = common.open_machine(ctx, config)
    if wanted.kind is TargetKind.SIZE:
        common.refuse_absurd(machine.root, wanted.size_bytes, "a target")
    scope = None if cgroup is None else machines.validated_scope(machine, cgroup)
    limits = common.choose_zram(config, common.choose_limits(config, stages, scope), zram)
    if deadline is not None:
        act = by_deadline.show_plan if dry_run else by_deadline.prepare
        return act(machine, limits, deadline, as_json=as_json)
    # from here on Ctrl-C is an answer with a report, not an accident
    with common.stop_on_signals() as stop, progress() as tell:
        plan = engine.make_plan(machine, wanted, limits, measure=not dry_run, name_holders=True)
        if dry_run:
            common.show(plan, lambda: plan_page(plan), as_json=as_json)
            return ExitCode.DONE
        report = engine.prepare(
            machine,
            plan,
            stop=stop,
            timeout_seconds=common.choose_timeout(config, timeout),
            progress=tell,
            command="prepare",
            limits=limits,
        )
    common.show(report, lambda: report_page(report), as_json=as_json)
    return common.exit_code(report)
