# SPDX-License-Identifier: LGPL-2.1-or-later
"""`hibprep sleep-hook`: what the hook of systemd-sleep(8) runs where no daemon does, and what
hibprep-presleep.service runs. Not for people: it is not in the list of commands."""

from __future__ import annotations

import os
import subprocess
import sys

import click

from hibprep.cli import common
from hibprep.errors import ExitCode, NotPossibleError
from hibprep.fitting import fit
from hibprep.kernel.snapshot import read_snapshot
from hibprep.machine import Machine
from hibprep.prepare import make_plan, prepare
from hibprep.sleephook import Leg, after, before

_ASKING_SECONDS = 10.0


@click.command("sleep-hook")
@click.argument("moment", type=click.Choice(["pre", "post", "unit"]))
@click.argument("leg", type=click.Choice([str(leg) for leg in Leg]), default=str(Leg.HIBERNATE))
@common.common_options
@click.pass_context
def command(ctx: click.Context, *, moment: str, leg: str) -> int:
    """Run around a sleep that systemd has begun."""
    config = common.load_config(ctx)
    common.must_be_root(ctx)
    machine = common.open_machine(ctx, config)
    if moment == "unit":
        return _unit(machine)
    with common.stop_on_signals() as stop:
        if moment == "pre":
            # what is held stays held when this process ends: `post` puts it back, or the next start
            words = list(before(machine, Leg(leg), stop).words)
        else:
            report, words = after(machine)
            if config.sleep.swap_in and report is not None and report.hibernation["slept"]:
                words += _bring_back()
    for line in words:
        click.echo(f"hibprep: {line}", err=True)
    return ExitCode.DONE


def _bring_back() -> list[str]:
    """Beside systemd-sleep, which thaws nobody before its hooks have ended."""
    program = os.path.abspath(sys.argv[0])  # noqa: PTH100 - what was called, links as they are
    command = ["systemd-run", "--no-block", "--collect", "--quiet", program, "swapin"]
    try:
        done = subprocess.run(command, timeout=_ASKING_SECONDS, capture_output=True, text=True)  # noqa: PLW1510 - below
    except (OSError, subprocess.TimeoutExpired) as error:
        return [f"memory is not brought back: {error}"]
    return [f"memory is not brought back: {done.stderr.strip()}"] if done.returncode else []


def _unit(machine: Machine) -> int:
    """Before the sleep, with the user's programs still running; 4 when the image would not fit."""
    limits = machine.config.limits()
    with common.stop_on_signals() as stop:
        plan = make_plan(machine, machine.config.target(), limits)
        report = prepare(
            machine, plan, stop=stop, timeout_seconds=machine.config.sleep.unit_budget_seconds
        )
    click.echo(
        f"hibprep: prepared: {report.freed.reclaimed_bytes >> 20} MiB in {report.seconds:.1f} s"
        f"{': ' + report.reason if report.reason else ''}",
        err=True,
    )
    found = fit(read_snapshot(machine.root, machine.tree), limits)
    if not found.ok:
        raise NotPossibleError(f"a hibernation would fail: {found.reason}", "see hibprep check")
    return ExitCode.DONE
