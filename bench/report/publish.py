# SPDX-License-Identifier: LGPL-2.1-or-later
"""``python -m bench report``: the page and its pictures. The only command that needs matplotlib."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

import click

from bench import moveresults
from bench.report import migration, migration_plot, plots
from bench.report.cli import RESULTS_FILE, read_sections
from bench.report.render import page
from bench.report.sections import Section


@click.command("report")
@click.argument("results", type=RESULTS_FILE, nargs=-1, required=True)
@click.option(
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    default=Path("docs/benchmarks.md"),
    show_default=True,
    help="The page; its pictures go into a folder of the same name beside it.",
)
def report_command(*, results: tuple[Path, ...], output: Path) -> None:
    """Write a page of Markdown with pictures from RESULTS, the first of which is the main one.
    Those of `python -m bench migrate` become a part of their own."""
    moving = tuple(path for path in results if moveresults.is_one(path))
    found = read_sections(tuple(path for path in results if path not in moving))
    if not found:
        raise click.ClickException("give a results file of `python -m bench hibernate` as well")
    folder = output.with_suffix("")
    if folder == output:
        raise click.BadParameter(
            f"{output} is the name of the folder for the pictures: give it a suffix such as .md",
            param_hint="--output",
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        pictures = write_pictures(found, folder)
        more = [write_migration(path, number, output) for number, path in enumerate(moving, 1)]
        output.write_text(page(found, pictures, links(found, output), more))
    except OSError as error:
        raise click.ClickException(f"{error.filename}: {error.strerror}") from error
    print(f"{output}: {len(found)} sections, {sum(map(len, pictures))} pictures")


def write_pictures(found: Sequence[Section], folder: Path) -> list[dict[str, str]]:
    """The pictures of each section; returns their links by name. Takes away those of before."""
    ours = re.compile(rf"({'|'.join((*plots.NAMES, migration.PICTURE))})(-\d+)?\.svg")
    for path in folder.iterdir():
        if ours.fullmatch(path.name):
            path.unlink()
    linked = []
    for number, section in enumerate(found, 1):
        end = "" if number == 1 else f"-{number}"
        drawn = plots.pictures(section.samples, section.parameters.fill_ratio)
        for name, content in drawn.items():
            (folder / f"{name}{end}.svg").write_bytes(content)
        linked.append({name: f"{folder.name}/{name}{end}.svg" for name in drawn})
    return linked


def write_migration(path: Path, number: int, output: Path) -> str:
    """The part about guests that move, from one file; its picture is written."""
    try:
        found = moveresults.load(path)
    except moveresults.MigrateResultsError as error:
        raise click.ClickException(str(error)) from error
    drawn = migration_plot.picture(found.samples)
    linked = None
    if drawn is not None:
        name = f"{migration.PICTURE}{'' if number == 1 else f'-{number}'}.svg"
        folder = output.with_suffix("")
        (folder / name).write_bytes(drawn)
        linked = f"{folder.name}/{name}"
    return migration.section(found, linked, reachable([str(path)], output).get(str(path)))


def links(found: Sequence[Section], output: Path) -> dict[str, str]:
    """Those of the results files in the sections, by their place."""
    return reachable([name for section in found for name in section.files], output)


def reachable(names: Sequence[str], output: Path) -> dict[str, str]:
    """Results files that a reader of the page has too: those below the page's folder, and where
    this command was run those of the same tree. Nobody can follow any other."""
    page_folder, here = output.resolve().parent, Path.cwd().resolve()
    known = {}
    for name in names:
        place = Path(name).resolve()
        together = place.is_relative_to(here) and page_folder.is_relative_to(here)
        if together or place.is_relative_to(page_folder):
            known[name] = Path(os.path.relpath(place, page_folder)).as_posix()
    return known
