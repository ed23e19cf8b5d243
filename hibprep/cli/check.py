# SPDX-License-Identifier: LGPL-2.1-or-later
"""`hibprep check`: will it fit, will it work, and what to change."""

from __future__ import annotations

import os

import click

from hibprep.check import Finding, Severity, findings, gather, possible
from hibprep.cli import common
from hibprep.errors import ExitCode
from hibprep.kernel.root import KernelRoot
from hibprep.page import Block, Page


@click.command("check")
@common.json_option
@common.common_options
@click.pass_context
def command(ctx: click.Context, *, as_json: bool) -> int:
    """Say whether hibernation will fit and will work here, and what to type where not.

    Exit code 4 when it is not possible here.
    """
    limits = common.choose_limits(common.load_config(ctx))
    root = KernelRoot(common.root_prefix(ctx))
    facts = gather(root, limits, is_root=not root.is_real or os.geteuid() == 0)
    found = findings(facts)
    answer = {"possible": possible(found), "fit": facts.fit, "findings": found}
    common.show(answer, lambda: page(found), as_json=as_json)
    return ExitCode.DONE if possible(found) else ExitCode.IMPOSSIBLE


def page(found: tuple[Finding, ...]) -> Page:
    """The findings for a person: each with its remedy right below it."""
    rows: list[tuple[str, ...]] = []
    for item in found:
        rows.append((str(item.severity), item.name, item.text))
        if item.remedy:
            rows.append(("", "", f"→ {item.remedy}"))
    errors = sum(item.severity is Severity.ERROR for item in found)
    warnings = sum(item.severity is Severity.WARNING for item in found)
    verdict = "is possible here" if possible(found) else "is NOT possible here"
    return Page(
        f"Hibernation {verdict}: {_count(errors, 'error')}, {_count(warnings, 'warning')}.",
        (Block("Findings", tuple(rows), ("how bad", "what", "why, and what to type")),),
    )


def _count(number: int, word: str) -> str:
    return f"{number} {word}{'' if number == 1 else 's'}"
