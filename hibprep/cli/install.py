# SPDX-License-Identifier: LGPL-2.1-or-later
"""`hibprep install`: put the unit, the hooks and all else into the system's places."""

from __future__ import annotations

import sys
from pathlib import Path

import click

import hibprep
from hibprep.cli import common
from hibprep.errors import ExitCode
from hibprep.install.changes import Changes, Wish, install
from hibprep.install.completions import completions
from hibprep.install.manifest import RESOURCES, Extra
from hibprep.install.manpages import command_page, configuration_page
from hibprep.install.program import find_program
from hibprep.install.steps import Action
from hibprep.kernel.root import KernelRoot
from hibprep.page import Block, Page

_DONE = {
    Action.WRITE: "wrote",
    Action.REPLACE: "replaced",
    Action.REMOVE: "removed",
    Action.SAME: "there already",
    Action.KEEP: "kept",
    Action.GONE: "gone",
}
_WOULD = {Action.WRITE: "write", Action.REPLACE: "replace", Action.REMOVE: "remove"}


@click.command("install")
@click.option(
    "--with",
    "extras",
    type=click.Choice([str(extra) for extra in Extra]),
    multiple=True,
    help="Also put this: logind-delay lets a sleep wait up to 20 s for the daemon; libvirt (put in "
    "any case where libvirt is) tells the daemon of guests; vdsm prepares guests of oVirt.",
)
@click.option("--enable", is_flag=True, help="Start the daemon, now and at every boot.")
@click.option("--program", metavar="PATH", help="The hibprep that units and hooks are to run.")
@click.option(
    "--no-record",
    is_flag=True,
    help="Keep no record of what was put: for who builds a package.",
)
@click.option("--dry-run", is_flag=True, help="Say what would be done, and do nothing.")
@common.json_option
@common.common_options
@click.pass_context
def command(
    ctx: click.Context,
    *,
    extras: tuple[str, ...],
    enable: bool,
    program: str | None,
    no_record: bool,
    dry_run: bool,
    as_json: bool,
) -> int:
    """Put the unit, the sleep hook, the bus policy, the configuration, man pages and completions
    into the system's places, or bring them up to date.

    A file that somebody has changed or put there is kept, and that is said (exit code 3).
    """
    common.load_config(ctx)  # the daemon would not start with one that is wrong
    if not dry_run:
        common.must_be_root(ctx)
    root = KernelRoot(common.root_prefix(ctx))
    found = find_program(
        root,
        program,
        called=sys.argv[0],
        interpreter=sys.executable,
        library=str(Path(hibprep.__file__).parent),
    )
    wish = Wish(frozenset(map(Extra, extras)), enable, not no_record, dry_run)
    changes = install(root, found, generated(), wish)
    return show(changes, as_json=as_json)


def generated() -> dict[str, str]:
    """The files that are made from the command line: man pages and completions."""
    # the whole of it, which imports this module
    from hibprep.cli import cli  # noqa: PLC0415

    manual = RESOURCES / "man"
    configuration = (RESOURCES / "hibprep.toml").read_text()
    return {
        "hibprep.8": command_page(cli, (manual / "hibprep.8").read_text()),
        "hibprep.toml.5": configuration_page(
            configuration, (manual / "hibprep.toml.5").read_text()
        ),
        **completions(cli),
    }


def show(changes: Changes, *, as_json: bool) -> int:
    """Print what was done; returns the exit code."""
    common.show(changes, lambda: page(changes), as_json=as_json)
    return ExitCode.DONE if changes.whole else ExitCode.PARTLY


def page(changes: Changes) -> Page:
    """What was done with each file, for a person."""
    words = {**_DONE, **_WOULD} if changes.dry_run else _DONE
    files = tuple((words[step.action], step.path, step.reason) for step in changes.files)
    count = sum(step.action in _WOULD for step in changes.files)
    kept = sum(step.short for step in changes.files)
    verb = "would change" if changes.dry_run else "changed"
    headline = f"{count} file{'' if count == 1 else 's'} {verb}"
    if kept:
        headline += f", {kept} kept that {'is' if kept == 1 else 'are'} not ours to change"
    commands = tuple(
        (" ".join(done.argv), f"FAILED: {done.error}" if done.error else done.why)
        for done in changes.commands
    )
    planned, offered = (
        tuple((" ".join(command.argv), command.why) for command in listed)
        for listed in (changes.planned, changes.offered)
    )
    return Page(
        f"{headline}.",
        (
            Block("Files", files, ("what", "file", "why")),
            Block("Commands", commands, ("run", "why")),
            Block("Would be run", planned, ("run", "why")),
            Block("Left to you", offered, ("run", "why")),
        ),
        (
            *(f"{name} is missing from this installation of hibprep" for name in changes.missing),
            *changes.notes,
        ),
    )
