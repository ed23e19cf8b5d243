# SPDX-License-Identifier: LGPL-2.1-or-later
"""What commands that change the machine's configuration share: showing the steps, asking, carrying
them out so that Ctrl-C undoes them; and the offers of `hibprep check --fix`."""

from __future__ import annotations

import contextlib
import signal
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import click

from hibprep.check import CheckFacts, Finding
from hibprep.clock import SystemClock
from hibprep.errors import HibprepError, UsageError
from hibprep.fixes import Fix, fixes_for
from hibprep.kernel.root import KernelRoot
from hibprep.setup.carry import Carried, SystemTools, carry_out
from hibprep.setup.steps import Step, details

if TYPE_CHECKING:
    from types import FrameType


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What became of an offer."""

    name: str
    title: str
    done: bool = False
    failed: bool = False
    words: str = ""  # why not, or how to take it back
    skipped: tuple[str, ...] = ()  # programs that are for the other root to run


def can_ask() -> bool:
    """Whether there is somebody to ask."""
    return sys.stdin.isatty() and sys.stderr.isatty()


def must_be_answered(*, yes: bool) -> None:
    """Without a terminal, what is to be done has to be said beforehand."""
    if not yes and not can_ask():
        raise UsageError("there is no terminal to ask on", "give --yes to have it done")


def ask(question: str) -> bool:
    """Ask on the terminal; no is the answer of who only presses Enter."""
    return click.confirm(question, default=False, err=True)


def show_steps(steps: Sequence[Step]) -> None:
    """Say on standard error what exactly would be done."""
    for step in steps:
        for line in details(step):
            click.echo(f"    {line}", err=True)


@contextlib.contextmanager
def broken_off_by_signals() -> Iterator[None]:
    """The first Ctrl-C, SIGTERM or loss of the terminal breaks off and has all undone; while that
    is done, more of them are not heard."""
    heard = False

    def break_off(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 - its signature
        nonlocal heard
        if not heard:
            heard = True
            raise KeyboardInterrupt

    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, break_off) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def carry(name: str, steps: Sequence[Step], tools: SystemTools) -> Carried:
    """Carry the steps out, and say each on standard error."""
    with broken_off_by_signals():
        return carry_out(
            name,
            steps,
            tools,
            SystemClock(),
            lambda step: click.echo(f"hibprep: {step.title}", err=True),
        )


def offer(
    root: KernelRoot, facts: CheckFacts, found: tuple[Finding, ...], *, yes: bool
) -> tuple[Result, ...]:
    """Offer what can be mended, one by one, and do what is agreed to."""
    offers = fixes_for(root, facts, found)
    if not offers:
        click.echo("hibprep: nothing is found that could be changed for you", err=True)
        return ()
    must_be_answered(yes=yes)
    return tuple(_one(root, fix, yes=yes) for fix in offers)


def _one(root: KernelRoot, fix: Fix, *, yes: bool) -> Result:
    click.echo(f"{fix.title} ({', '.join(fix.findings)}):", err=True)
    show_steps(fix.steps)
    if not yes and not ask("do this?"):
        return Result(name=fix.name, title=fix.title, words="was not wanted")
    tools = SystemTools(root)
    try:
        carry(fix.name, fix.steps, tools)
    except HibprepError as error:
        click.echo(f"hibprep: {error}", err=True)
        return Result(name=fix.name, title=fix.title, failed=True, words=str(error))
    words = f"hibprep setup undo {fix.name} takes it back"
    click.echo(f"hibprep: done; {words}", err=True)
    return Result(
        name=fix.name, title=fix.title, done=True, words=words, skipped=tuple(tools.skipped)
    )
