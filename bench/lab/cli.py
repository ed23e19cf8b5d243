# SPDX-License-Identifier: LGPL-2.1-or-later
"""``python -m bench lab``: build, boot and look into guests by hand."""

from __future__ import annotations

import re
import shlex
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType
from typing import NoReturn

import click
from rich.console import Console
from rich.table import Table

from bench.lab import debian, images
from bench.lab.errors import LabError
from bench.lab.guest import Guest
from bench.lab.recipe import RECIPES

_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


def size(text: str) -> int:
    """A number of bytes, written such as 2G, 512M or 4096."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMG]?)(?:i?B)?", text, re.IGNORECASE)
    if match is None:
        raise click.BadParameter(f"{text!r} is not a size such as 2G, 512M or 4096")
    return int(float(match.group(1)) * _UNITS[match.group(2).upper()])


@contextmanager
def _reporting() -> Iterator[Callable[[str], None]]:
    """A place to say what goes on: a spinner on a terminal, lines elsewhere; errors as one line."""
    console = Console(stderr=True)
    signal.signal(signal.SIGTERM, _terminated)
    try:
        if console.is_terminal:
            with console.status("") as status:
                yield status.update
        else:
            yield lambda text: print(text, file=sys.stderr, flush=True)
    except LabError as error:
        raise click.ClickException(str(error)) from error


def _terminated(number: int, frame: FrameType | None) -> NoReturn:
    # As an exception, so that guests are ended and their disks removed on the way out.
    del number, frame
    raise SystemExit(143)


_recipe = click.argument("recipe", type=click.Choice(sorted(RECIPES)))


def _hardware(command: Callable[..., None]) -> Callable[..., None]:
    options = (
        click.option("--memory", type=size, default="2G", show_default=True),
        click.option(
            "--swap", type=size, default=None, help="Twice the memory by default; 0 for none."
        ),
        click.option("--cpus", type=click.IntRange(1), default=2, show_default=True),
        click.option(
            "--disk-rate", type=size, default="100M", show_default=True, help="A second; 0: any."
        ),
    )
    for option in reversed(options):
        command = option(command)
    return command


@click.group()
def lab() -> None:
    """Debian guests under QEMU that really hibernate and resume."""


@lab.command()
@click.argument("names", nargs=-1, type=click.Choice(sorted(RECIPES)))
def build(names: tuple[str, ...]) -> None:
    """Build the images of the recipes named, or of all."""
    with _reporting() as say:
        for name in names or tuple(RECIPES):
            image = images.build(name, say)
            click.echo(f"{name}: {image.root.parent} (Linux {image.kernel_release})")


@lab.command("list")
def list_images() -> None:
    """Show the recipes, and which images are built."""
    titles = ("recipe", "suite", "kernel", "built in", "folder")
    rows = []
    for recipe in RECIPES.values():
        image = images.find(recipe)
        suites = " + ".join(recipe.suites)
        if image is None:
            rows.append((recipe.name, suites, "-", "not built", "-"))
        else:
            spent = f"{image.build_seconds:.0f} s"
            place = str(image.root.parent)
            rows.append((recipe.name, suites, image.kernel_release, spent, place))
    console = Console()
    if not console.is_terminal:
        for row in (titles, *rows):
            click.echo("\t".join(row))
        return
    table = Table()
    for title in titles:
        table.add_column(title, overflow="fold")
    for row in rows:
        table.add_row(*row)
    console.print(table)


@lab.command()
@click.option("--all", "every", is_flag=True, help="Also those that are up to date.")
def clean(every: bool) -> None:  # noqa: FBT001  # click passes it
    """Remove the images that are out of date."""
    with _reporting():
        removed = images.clean(every=every)
    for place in removed:
        click.echo(f"removed {place}")
    if not removed:
        click.echo("nothing to remove")


@lab.command()
@click.option(
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    default="dist",
    show_default=True,
    help="The folder that the package is put into.",
)
@click.option("--version", help="Another version than the project's, to try an upgrade.")
def deb(output: Path, version: str | None) -> None:
    """Build the Debian package, for the release that it is for, and check it."""
    with _reporting() as say:
        package = debian.build_deb(output, say, version=version)
    click.echo(package)


def _guest(recipe: str, say: Callable[[str], None], options: dict[str, int | None]) -> Guest:
    return Guest(
        images.build(recipe, say),
        memory_bytes=options["memory"] or 0,
        cpus=options["cpus"] or 1,
        swap_bytes=options["swap"],
        disk_bytes_per_second=options["disk_rate"] or 0,
        progress=say,
    )


@lab.command()
@_recipe
@_hardware
@click.option("--hibernate", is_flag=True, help="Hibernate and resume it once, too.")
@click.argument("argv", nargs=-1)
def boot(recipe: str, hibernate: bool, argv: tuple[str, ...], **options: int | None) -> None:  # noqa: FBT001
    """Boot a guest, run ARGV in it if given, and say how long things took."""
    with _reporting() as say, _guest(recipe, say, options) as guest:
        say(f"{recipe}: booting")
        click.echo(f"first answer after {guest.start():.1f} s")
        if argv:
            result = guest.run(argv, timeout=600)
            click.echo(result.stdout, nl=False)
            click.echo(result.stderr, nl=False, err=True)
            click.echo(f"return code {result.returncode}")
        if hibernate:
            say(f"{recipe}: hibernating")
            click.echo(f"off after {guest.hibernate().seconds:.1f} s")
            say(f"{recipe}: resuming")
            click.echo(f"first answer after {guest.resume():.1f} s")
            click.echo(guest.hibernation_facts())


@lab.command()
@_recipe
@_hardware
def shell(recipe: str, **options: int | None) -> None:
    """Boot a guest and run the lines typed, each by sh in the guest.

    Lines of their own kind: :hibernate, :resume, :console, :quit (or end of input).
    """
    with ExitStack() as stack:
        with _reporting() as say:
            guest = stack.enter_context(_guest(recipe, say, options))
            say(f"{recipe}: booting")
            seconds = guest.start()
        click.echo(f"first answer after {seconds:.1f} s; :quit to leave")
        while True:
            try:
                line = input(f"{recipe}# ").strip()
            except EOFError:
                break
            if line == ":quit":
                break
            try:
                _line(guest, line)
            except LabError as error:
                click.echo(str(error), err=True)


def _line(guest: Guest, line: str) -> None:
    if line == ":hibernate":
        click.echo(f"off after {guest.hibernate().seconds:.1f} s")
    elif line == ":resume":
        click.echo(f"first answer after {guest.resume():.1f} s")
    elif line == ":console":
        click.echo(guest.console)
    elif line.startswith(":"):
        click.echo(f"{shlex.quote(line)}: one of :hibernate :resume :console :quit")
    elif line:
        # The guest's shell, for the person at this prompt; nothing of it runs on this machine.
        result = guest.run(["/bin/sh", "-c", line], timeout=600)
        click.echo(result.stdout, nl=False)
        click.echo(result.stderr, nl=False, err=True)
