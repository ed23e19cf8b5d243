# SPDX-License-Identifier: LGPL-2.1-or-later
"""`hibprep plan`: what would be done and what it would gain; changes nothing."""

from __future__ import annotations

import click

from hibprep import prepare as engine
from hibprep.cli import common
from hibprep.errors import ExitCode
from hibprep.model import Target, TargetKind
from hibprep.report import plan_page


@click.command("plan")
@common.target_options
@common.json_option
@common.common_options
@click.pass_context
def command(
    ctx: click.Context, *, target: Target | None, within: float | None, as_json: bool
) -> int:
    """Say what would be done and what it would gain. Changes nothing."""
    config = common.load_config(ctx)
    wanted = common.choose_target(config, target, within)
    machine = common.open_machine(ctx, config)
    if wanted.kind is TargetKind.SIZE:
        common.refuse_absurd(machine.root, wanted.size_bytes, "a target")
    plan = engine.make_plan(machine, wanted, common.choose_limits(config), name_holders=True)
    common.show(plan, lambda: plan_page(plan), as_json=as_json)
    return ExitCode.DONE
