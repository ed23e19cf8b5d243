# SPDX-License-Identifier: LGPL-2.1-or-later
"""`--deadline` of `plan` and `prepare`: how it is read, and what is done and told by it."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import datetime
from typing import TypeVar

import click

from hibprep import bydeadline
from hibprep import prepare as engine
from hibprep.cli import common
from hibprep.cli.progress import progress
from hibprep.clock import Clock, SystemClock
from hibprep.deadline import Verdict
from hibprep.errors import ExitCode, UsageError
from hibprep.kernel.process import start_time
from hibprep.kernel.root import KernelRoot
from hibprep.machine import Machine
from hibprep.model import Ending, Limits, Plan, Report
from hibprep.report import plan_page, report_page, to_plain
from hibprep.sizes import shorten

Decorated = TypeVar("Decorated", bound=Callable[..., object])

_FORMS = "give seconds from now, such as 90, or a time with its zone, such as 2030-01-31T04:30:00Z"


def parse_deadline(text: str, clock: Clock, running_seconds: float = 0.0) -> float:
    """CLOCK_MONOTONIC at the deadline. Seconds count from when this process was started, which is
    `running_seconds` ago. Raises ValueError for a time that is past, or has no zone."""
    word = text.strip()
    when = _date(word)
    if when is None:
        try:
            seconds = common.parse_seconds(word)
        except ValueError:
            raise ValueError(f"{shorten(repr(text))} is no deadline; {_FORMS}") from None
        return clock.monotonic() + seconds - running_seconds
    if when.tzinfo is None:
        raise ValueError(f"{word} has no time zone; add Z for UTC, or one such as +01:00")
    seconds = (when - clock.now()).total_seconds()
    if seconds <= 0:
        raise ValueError(f"{word} is past by {abs(seconds):.0f} s; give a time that is to come")
    if seconds > common.LONGEST_SECONDS:
        raise ValueError(f"{word} is more than a year away; {_FORMS}")
    return clock.monotonic() + seconds


def _date(word: str) -> datetime | None:
    """A moment in ISO 8601: a day alone is none, and eight digits are seconds."""
    if "-" not in word or ":" not in word:
        return None
    try:
        return datetime.fromisoformat(word)
    except ValueError:
        return None


def running_seconds(clock: Clock) -> float:
    """How long this process has been running: Python itself takes a while to start, longest on the
    machines that have the least time."""
    ticks = start_time(KernelRoot("/"), os.getpid())
    if ticks is None:
        return 0.0
    return max(0.0, clock.boottime() - ticks / os.sysconf("SC_CLK_TCK"))


def _read(ctx: click.Context, param: click.Parameter, value: str | None) -> float | None:
    if value is None:
        return None
    clock = SystemClock()
    try:
        return parse_deadline(value, clock, running_seconds(clock))
    except ValueError as error:
        raise click.BadParameter(str(error), ctx, param) from None


def deadline_option(command: Decorated) -> Decorated:
    """`--deadline`, as CLOCK_MONOTONIC."""
    return click.option(
        "--deadline",
        callback=_read,
        metavar="WHEN",
        help="Take as little as lets a hibernation end by then: seconds from now, or a time with "
        "its zone.",
    )(command)


def refuse_others(**others: object) -> None:
    """A deadline says itself what is aimed at, and how long that may take."""
    for name, given in others.items():
        if given is not None:
            raise UsageError(f"--deadline and --{name} exclude each other", "give one of them")


def show_plan(machine: Machine, limits: Limits, deadline: float, *, as_json: bool) -> ExitCode:
    """Say what would be done, and whether the deadline can be met."""
    verdict = bydeadline.settle_by(machine, limits, deadline, measure=False).verdict
    plan: Plan | None = None
    if verdict.target is not None:
        plan = engine.make_plan(machine, verdict.target, verdict.limits, name_holders=True)
    if as_json:
        _show_json(verdict, plan)
    else:
        click.echo(verdict.words)
        if plan is not None:
            found = plan
            common.show(plan, lambda: plan_page(found), as_json=False)
    return ExitCode.DONE if verdict.fits else ExitCode.PARTLY


def prepare(machine: Machine, limits: Limits, deadline: float, *, as_json: bool) -> ExitCode:
    """Do it, and report; whether the deadline can be met is said before."""
    # from here on Ctrl-C is an answer with a report, not an accident
    with common.stop_on_signals() as stop:
        settled = bydeadline.settle_by(machine, limits, deadline)
        verdict = settled.verdict
        if not as_json:
            click.echo(verdict.words)
        with progress() as tell:
            report = bydeadline.prepare_by(machine, settled, stop=stop, progress=tell)
    left = deadline - machine.clock.monotonic()
    if as_json:
        _show_json(verdict, report)
    elif report is not None:
        found = report
        common.show(report, lambda: report_page(found), as_json=False)
    if report is not None and report.ending in (Ending.INTERRUPTED, Ending.UNAVAILABLE):
        return common.exit_code(report)
    if verdict.fits and report is not None and _too_late(report, left):
        return ExitCode.PARTLY
    return ExitCode.DONE if verdict.fits else ExitCode.PARTLY


def _too_late(report: Report, left_seconds: float) -> bool:
    """Whether it came otherwise than was expected; says so."""
    needs = report.after.hibernate_seconds
    if report.fit_after.ok and needs <= left_seconds:
        return False
    why = report.fit_after.reason
    if report.fit_after.ok:
        why = f"hibernation needs {needs:.1f} s, {max(0.0, left_seconds):.1f} s are left"
    click.echo(f"hibprep: it did not come as expected: {why}", err=True)
    return True


def _show_json(verdict: Verdict, found: Plan | Report | None) -> None:
    fields = to_plain(found) if found is not None else {}
    common.show_json({"verdict": verdict, **(fields if isinstance(fields, dict) else {})})
