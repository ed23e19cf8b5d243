# SPDX-License-Identifier: LGPL-2.1-or-later
"""`hibprep damon`: DAMON_RECLAIM, the kernel's own reclaim of what is cold, shown, set, put off."""

from __future__ import annotations

from collections.abc import Mapping

import click

from hibprep.cli import common
from hibprep.damon.choice import chosen
from hibprep.damon.idle import Reason, obstacles, reasons, suspect
from hibprep.damon.parameters import PARAMETERS, PRESETS, Value, kernel_text, shown
from hibprep.damon.state import ReclaimState, Surroundings
from hibprep.errors import ExitCode, NotPossibleError
from hibprep.kernel import damon_reclaim
from hibprep.kernel.damon_around import surroundings
from hibprep.kernel.damon_reclaim import Applied, Changes
from hibprep.kernel.lock import RunLock
from hibprep.machine import Machine
from hibprep.page import Block, Page, size

_SUSPECT = (
    "this kernel may be one that never reclaims with DAMON_RECLAIM (6.11 to 6.16): look with "
    "hibprep damon show once min_age has passed"
)


@click.group("damon", no_args_is_help=False)
@common.common_options
def command() -> None:
    """Show, set or put off DAMON_RECLAIM, the kernel's own reclaim of what is cold."""


@command.command("show")
@common.json_option
@common.common_options
@click.pass_context
def show(ctx: click.Context, *, as_json: bool) -> int:
    """Show its parameters and statistics, and why it does nothing when it is on and yet does
    nothing."""
    machine = _machine(ctx)
    state = damon_reclaim.read_reclaim(machine.root)
    around = surroundings(machine.root, state, machine.clock)
    common.show(answer(state, around), lambda: show_page(state, around), as_json=as_json)
    return ExitCode.DONE


@command.command("set")
@click.argument("parameters", nargs=-1, metavar="[PARAM=VALUE]...")
@click.option("--preset", type=click.Choice(sorted(PRESETS)), help="Begin with these values.")
@click.option("--dry-run", is_flag=True, help="Only say what would be written.")
@common.json_option
@common.common_options
@click.pass_context
def set_parameters(
    ctx: click.Context,
    *,
    parameters: tuple[str, ...],
    preset: str | None,
    dry_run: bool,
    as_json: bool,
) -> int:
    """Set parameters and have it run with them, until it is put off or the machine is restarted.

    With enabled=N they are set and it is off. What is not named stays as it is. Everything that
    is wrong is told at once, and nothing is written then. A running one is made to read its inputs
    again.
    """
    machine = _machine(ctx)
    with RunLock(machine.root), common.stop_on_signals() as stop:
        state = damon_reclaim.read_reclaim(machine.root)
        around = surroundings(machine.root, state, machine.clock)
        choice = chosen(parameters, preset, state, around)
        changes = Changes(choice.inputs, choice.enabled)
        if choice.enabled and not state.enabled:
            _must_be_free(around)
        applied = Applied(())
        if not dry_run:
            applied = damon_reclaim.apply(machine.root, changes, stop.wait)
            state = damon_reclaim.read_reclaim(machine.root)
    common.show(
        {"writes": _writes(applied, changes, state), "committed": applied.committed}
        | {"dry_run": dry_run, "inputs": dict(state.inputs), "enabled": state.enabled},
        lambda: _set_page(changes, applied, state, around, dry_run=dry_run),
        as_json=as_json,
    )
    return ExitCode.DONE


@command.command("off")
@common.json_option
@common.common_options
@click.pass_context
def off(ctx: click.Context, *, as_json: bool) -> int:
    """Put it off. Its parameters stay as they are."""
    machine = _machine(ctx)
    with RunLock(machine.root), common.stop_on_signals() as stop:
        before = damon_reclaim.read_reclaim(machine.root)
        damon_reclaim.apply(machine.root, Changes({}, enabled=False), stop.wait)
    words = "is off" if before.enabled else "was off already"
    common.show(
        {"enabled": False, "was_enabled": before.enabled},
        lambda: Page(f"DAMON_RECLAIM {words}."),
        as_json=as_json,
    )
    return ExitCode.DONE


def answer(state: ReclaimState, around: Surroundings) -> dict[str, object]:
    """What `show` tells, for a program."""
    found = reasons(state, around)
    return {
        "enabled": state.enabled,
        "doing": doing(state, found),
        "kdamond_pid": state.kdamond_pid,
        "running_seconds": around.running_seconds,
        "committing": state.committing,
        "free_per_mille": around.free_per_mille,
        "inputs": dict(state.inputs),
        "statistics": dict(state.statistics),
        "reasons": found,
        "others": around.holders,
        "obstacles": () if state.enabled else obstacles(around),
    }


def doing(state: ReclaimState, found: tuple[Reason, ...]) -> str:
    """In one word: off, nothing or working."""
    if not state.enabled:
        return "off"
    return "nothing" if found else "working"


def show_page(state: ReclaimState, around: Surroundings) -> Page:
    """The same for a person."""
    found = reasons(state, around)
    headline = {
        "off": "DAMON_RECLAIM is off.",
        "nothing": "DAMON_RECLAIM is on, and does nothing now.",
        "working": f"DAMON_RECLAIM is on: {size(state.reclaimed_bytes)} reclaimed so far.",
    }[doing(state, found)]
    why = found if state.enabled else obstacles(around)
    rows: list[tuple[str, ...]] = []
    for each in why:
        rows += [(each.name, each.text), ("", f"→ {each.remedy}")]
    free = f"{around.free_per_mille / 10:g} %"
    return Page(
        headline,
        (
            Block("Why" if state.enabled else "What stands in its way", tuple(rows)),
            Block("Parameters", _parameter_rows(state.inputs), ("name", "value", "default")),
            Block(
                "Now",
                (
                    ("kdamond", str(state.kdamond_pid)),
                    ("free memory", free),
                    *((name, str(value)) for name, value in state.statistics.items()),
                ),
            ),
        ),
        _doubts(state, around),
    )


def _doubts(state: ReclaimState, around: Surroundings) -> tuple[str, ...]:
    """What is not certain yet, as other reasons come first."""
    found = reasons(state, around)
    if not found or state.tried_bytes or any(each.name == "kernel" for each in found):
        return ()
    return (_SUSPECT,) if suspect(around.kernel) else ()


def _machine(ctx: click.Context) -> Machine:
    config = common.load_config(ctx)
    common.must_be_root(ctx)
    machine = common.open_machine(ctx, config)
    missing = damon_reclaim.missing_reason(machine.root)
    if missing:
        raise NotPossibleError("DAMON_RECLAIM", missing)
    return machine


def _must_be_free(around: Surroundings) -> None:
    """Say what stands in its way before anything is written: the kernel's EBUSY does not tell."""
    for each in obstacles(around):
        raise NotPossibleError(each.text, each.remedy)


def _parameter_rows(inputs: Mapping[str, Value]) -> tuple[tuple[str, ...], ...]:
    return tuple(
        (name, shown(PARAMETERS[name], value), shown(PARAMETERS[name], PARAMETERS[name].default))
        for name, value in inputs.items()
    )


def _writes(applied: Applied, changes: Changes, state: ReclaimState) -> list[dict[str, str]]:
    """What was written, or for a dry run what would be."""
    done = applied.writes or tuple(
        (damon_reclaim.path_of(name), kernel_text(value))
        for name, value in changes.inputs.items()
        if state.inputs.get(name) != value
    )
    return [{"path": path, "text": text} for path, text in done]


def _set_page(
    changes: Changes, applied: Applied, state: ReclaimState, around: Surroundings, *, dry_run: bool
) -> Page:
    wanted = state.enabled if changes.enabled is None else changes.enabled
    what = f"DAMON_RECLAIM would be {'on' if wanted else 'off'}"
    if not dry_run:
        what = f"DAMON_RECLAIM is {'on' if state.enabled else 'off'}"
        what += ", and has read its inputs again" if applied.committed else ""
    rows = tuple((each["path"], each["text"]) for each in _writes(applied, changes, state))
    notes = (_SUSPECT,) if wanted and suspect(around.kernel) else ()
    return Page(f"{what}.", (Block("To be written" if dry_run else "Written", rows),), notes)
