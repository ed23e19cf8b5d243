# SPDX-License-Identifier: LGPL-2.1-or-later
"""`hibprep plan`: what would be done and what it would gain; changes nothing."""

from __future__ import annotations

import click

from hibprep import prepare as engine
from hibprep.cli import by_deadline, common
from hibprep.errors import ExitCode
from hibprep.model import Target, TargetKind
from hibprep.report import plan_page


@click.command("plan")
@common.target_options
@by_deadline.deadline_option
@common.json_option
@common.common_options
@click.pass_context
def command(
    ctx: click.Context,
    *,
    target: Target | None,
    within: float | None,
    deadline: float | None,
    as_json: bool,
) -> int:
    """Say what would be done and what it would gain. Changes nothing."""
    config = common.load_config(ctx)
    if deadline is not None:
        by_deadline.refuse_others(target=target, within=within)
    wanted = common.choose_target(config, target, within)
    machine = common.open_machine(ctx, config)
    limits = common.choose_limits(config)
    if deadline is not None:
        return by_deadline.show_plan(machine, limits, deadline, as_json=as_json)
    if wanted.kind is TargetKind.SIZE:
        common.refuse_absurd(machine.root, wanted.size_bytes, "a target")
    plan = engine.make_plan(machine, wanted, limits, name_holders=True)
    common.show(plan, lambda: plan_page(plan), as_json=as_json)
    return ExitCode.DONE
