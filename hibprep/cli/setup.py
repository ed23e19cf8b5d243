# SPDX-License-Identifier: LGPL-2.1-or-later
"""`hibprep setup`: make what hibernation needs, shown first and undone on failure; take it back."""

from __future__ import annotations

import dataclasses

import click

from hibprep.cli import common
from hibprep.cli.fixing import ask, carry, must_be_answered
from hibprep.errors import ExitCode, UsageError
from hibprep.kernel.root import KernelRoot
from hibprep.page import Block, Page, size
from hibprep.setup import record, swap
from hibprep.setup.carry import Carried, SystemTools, undo
from hibprep.setup.steps import OFFSET, details
from hibprep.sizes import parse_size


@click.group("setup", no_args_is_help=False)
@common.common_options
def command() -> None:
    """Make what hibernation needs: a swap file; or take back what was made."""


@command.command("swap")
@click.option(
    "--size",
    "size_bytes",
    callback=common.converted(parse_size),
    metavar="SIZE",
    help="Make it so large, instead of what memory and image_size ask for.",
)
@click.option(
    "--path", default=swap.DEFAULT_PATH, show_default=True, metavar="FILE", help="Make it there."
)
@click.option("--dry-run", is_flag=True, help="Only say what would be done.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@common.json_option
@common.common_options
@click.pass_context
def make_swap(
    ctx: click.Context,
    *,
    size_bytes: int | None,
    path: str,
    dry_run: bool,
    yes: bool,
    as_json: bool,
) -> int:
    """Make a swap file for an image, and have the next boot find an image there.

    All of it is undone when a step fails. Exit code 3: something is left to do by hand.
    """
    if not dry_run:
        common.must_be_root(ctx)
    root = KernelRoot(common.root_prefix(ctx))
    if size_bytes is not None:
        common.refuse_absurd(root, size_bytes, "a swap file")
    plan = swap.plan(root, swap.gather(root, path), size_bytes)
    if dry_run:
        common.show(answer(plan), lambda: plan_page(plan), as_json=as_json)
        return ExitCode.DONE
    must_be_answered(yes=yes)
    if not yes:
        common.show({}, lambda: plan_page(plan), as_json=False)
        if not ask("do this?"):
            raise UsageError("nothing was done", "answer y to have it done")
    tools = SystemTools(root)
    carried = carry(swap.NAME, plan.steps, tools)
    by_hand = (*plan.by_hand, *(f"run there: {program}" for program in tools.skipped))
    done = dataclasses.replace(plan, by_hand=by_hand)
    common.show(answer(done, carried), lambda: done_page(done, carried), as_json=as_json)
    return ExitCode.PARTLY if by_hand else ExitCode.DONE


@command.command("undo")
@click.argument("name", required=False)
@common.json_option
@common.common_options
@click.pass_context
def take_back(ctx: click.Context, *, name: str | None, as_json: bool) -> int:
    """Take back what `hibprep setup` or `hibprep check --fix` did under NAME.

    Without NAME, say what there is to be taken back.
    """
    root = KernelRoot(common.root_prefix(ctx))
    known = record.names(root)
    if name is None:
        words = ", ".join(known) or "nothing"
        common.show({"done": known}, lambda: Page(f"To be taken back: {words}."), as_json=as_json)
        return ExitCode.DONE
    common.must_be_root(ctx)
    if name not in known:
        raise UsageError(
            f"nothing was done under the name {name}",
            f"there is: {', '.join(known) or 'nothing'}",
        )
    tools = SystemTools(root)
    left = undo(name, tools)
    common.show(
        {"undone": name, "left": left, "skipped": tools.skipped},
        lambda: Page(f"{name} is taken back.", notes=tuple(left)),
        as_json=as_json,
    )
    return ExitCode.PARTLY if left else ExitCode.DONE


def answer(plan: swap.SwapPlan, carried: Carried | None = None) -> dict[str, object]:
    """A plan as JSON; with what came of it when it was carried out."""
    offset = _offset(carried)
    steps = [
        {"title": step.title, "details": [line.strip() for line in details(step, offset)]}
        for step in plan.steps
    ]
    return {
        "path": plan.path,
        "size_bytes": plan.size_bytes,
        "reckoned": plan.reckoned,
        "parameters": [_filled(word, offset) for word in plan.parameters],
        "steps": steps,
        "by_hand": [_filled(line, offset) for line in plan.by_hand],
        "notes": plan.notes,
        "done": carried is not None,
        "offset_pages": None if carried is None else carried.offset_pages,
        "pieces": None if carried is None else carried.pieces,
    }


def plan_page(plan: swap.SwapPlan) -> Page:
    """What would be done, for a person to agree with."""
    rows = []
    for number, step in enumerate(plan.steps, start=1):
        rows.append((str(number), step.title))
        rows += [("", line) for line in details(step)]
    by_hand = tuple(("", _filled(line, "")) for line in plan.by_hand)
    return Page(
        f"A swap file of {size(plan.size_bytes)} would be made: {plan.path}.",
        (
            Block("Size", _why(plan)),
            Block("Steps", tuple(rows), right=frozenset({0})),
            Block("Left to do by hand", by_hand),
        ),
        plan.notes,
    )


def done_page(plan: swap.SwapPlan, carried: Carried) -> Page:
    """What was done."""
    offset = _offset(carried)
    pieces = "one piece" if carried.pieces == 1 else f"{carried.pieces} pieces"
    rows = (
        ("file", f"{plan.path}, {size(plan.size_bytes)}, in {pieces}"),
        ("resume parameters", " ".join(_filled(word, offset) for word in plan.parameters)),
        ("done", "; ".join(carried.done)),
        ("taken back by", f"hibprep setup undo {swap.NAME}"),
    )
    by_hand = tuple(("", _filled(line, offset)) for line in plan.by_hand)
    return Page(
        f"{plan.path} is made and in use as swap.",
        (Block("Swap file", rows), Block("Left to do by hand", by_hand)),
        plan.notes,
    )


def _why(plan: swap.SwapPlan) -> tuple[tuple[str, str], ...]:
    part = plan.reckoned
    return (
        ("largest image, were it not to compress", size(part.image_worst_bytes)),
        ("what a full machine swaps out beside it", size(part.swapped_bytes)),
        ("slack", size(part.slack_bytes)),
        ("wanted, in all", size(part.size_bytes)),
    )


def _offset(carried: Carried | None) -> str:
    return "" if carried is None or carried.offset_pages is None else str(carried.offset_pages)


def _filled(text: str, offset: str) -> str:
    return text.replace(OFFSET, offset or "(known once the file is there)")
