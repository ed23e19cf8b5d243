# SPDX-License-Identifier: LGPL-2.1-or-later
"""`hibprep check`: will it fit, will it work, and what to change; with `--fix`, changing it."""

from __future__ import annotations

import os
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from hibprep.check import CheckFacts, Finding, Severity, findings, gather, possible
from hibprep.cli import common
from hibprep.errors import ExitCode, HibprepError, UsageError
from hibprep.fitting import resume_area
from hibprep.kernel.root import KernelRoot
from hibprep.page import Block, Page, size

if TYPE_CHECKING:
    from hibprep.machine import Machine
    from hibprep.model import Plan


@click.command("check")
@click.option("--fix", is_flag=True, help="Offer to change what can safely be changed, one by one.")
@click.option("--yes", is_flag=True, help="With --fix: do not ask, do all of it.")
@common.json_option
@common.common_options
@click.pass_context
def command(ctx: click.Context, *, fix: bool, yes: bool, as_json: bool) -> int:
    """Say whether hibernation will fit and will work here, and what to type where not.

    Exit code 4 when it is not possible here.
    """
    if yes and not fix:
        raise UsageError("--yes goes with --fix", "leave it away to look alone")
    if fix:
        common.must_be_root(ctx)
    root = KernelRoot(common.root_prefix(ctx))
    facts = _look(ctx, root)
    found = findings(facts)
    answer: dict[str, object] = {}
    failed = False
    if fix:
        from hibprep.cli.fixing import offer  # noqa: PLC0415 - who only looks does not need it

        results = offer(root, facts, found, yes=yes)
        answer["fixes"] = [asdict(result) for result in results]
        failed = any(result.failed for result in results)
        facts = _look(ctx, root)
        found = findings(facts)
    answer |= {
        "possible": possible(found),
        "fit": facts.fit,
        "areas": [{"area": area, "fit": fit} for area, fit in facts.fits],
        "prepared": None if facts.plan is None else facts.plan.fit_after,
        "findings": found,
    }
    common.show(answer, lambda: page(found, facts), as_json=as_json)
    if not possible(found):
        return ExitCode.IMPOSSIBLE
    return ExitCode.PARTLY if failed else ExitCode.DONE


def _look(ctx: click.Context, root: KernelRoot) -> CheckFacts:
    config = common.load_config(ctx)
    machine = common.open_machine(ctx, config)
    return gather(
        root,
        common.choose_limits(config),
        is_root=not root.is_real or os.geteuid() == 0,
        rates=config.rates(),
        plan=_plan(machine),
    )


def _plan(machine: Machine) -> Plan | None:
    """What a preparation would do, for the fits after it; None where it cannot be planned, which
    the findings then have a reason for."""
    from hibprep.prepare import make_plan  # noqa: PLC0415 - after the configuration was checked

    try:
        return make_plan(machine, machine.config.target(), machine.config.limits())
    except HibprepError:
        return None


def page(found: tuple[Finding, ...], facts: CheckFacts | None = None) -> Page:
    """The findings for a person: each with its remedy right below it."""
    rows: list[tuple[str, ...]] = []
    for item in found:
        rows.append((str(item.severity), item.name, item.text))
        if item.remedy:
            rows.append(("", "", f"→ {item.remedy}"))
    errors = sum(item.severity is Severity.ERROR for item in found)
    warnings = sum(item.severity is Severity.WARNING for item in found)
    verdict = "is possible here" if possible(found) else "is NOT possible here"
    blocks = [Block("Findings", tuple(rows), ("how bad", "what", "why, and what to type"))]
    if facts is not None and facts.fits:
        blocks.append(_areas(facts))
    return Page(
        f"Hibernation {verdict}: {_count(errors, 'error')}, {_count(warnings, 'warning')}.",
        tuple(blocks),
    )


def _areas(facts: CheckFacts) -> Block:
    """Both fits for every area, now; and for the resume device after a preparation."""
    current = resume_area(facts.snapshot)
    rows = []
    fits = [(area.path, area.size_bytes, fit) for area, fit in facts.fits]
    if facts.plan is not None and current is not None:
        prepared = facts.plan.fit_after
        fits.append((f"{prepared.resume_path}, prepared", current.size_bytes, prepared))
    for name, size_bytes, fit in fits:
        mark = " (resume)" if current is not None and name == current.path else ""
        rows.append(
            (
                name + mark,
                size(size_bytes),
                size(fit.kernel_has_bytes),
                size(fit.systemd_needs_bytes),
                "accepts" if fit.systemd_ok else "refuses",
                size(fit.kernel_needs_bytes),
                "fits" if fit.kernel_ok else "does not fit",
            )
        )
    header = ("device", "size", "free", "systemd needs", "and", "the kernel needs", "and it")
    return Block("Room for an image", tuple(rows), header, frozenset({1, 2, 3, 5}))


def _count(number: int, word: str) -> str:
    return f"{number} {word}{'' if number == 1 else 's'}"
