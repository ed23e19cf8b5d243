# SPDX-License-Identifier: LGPL-2.1-or-later
"""``python -m bench report``: the page and its pictures. The only command that needs matplotlib."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

import click

from bench.report import plots
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
    """Write a page of Markdown with pictures from RESULTS, the first of which is the main one."""
    found = read_sections(results)
    folder = output.with_suffix("")
    if folder == output:
        raise click.BadParameter(
            f"{output} is the name of the folder for the pictures: give it a suffix such as .md",
            param_hint="--output",
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        pictures = write_pictures(found, folder)
        output.write_text(page(found, pictures, links(found, output)))
    except OSError as error:
        raise click.ClickException(f"{error.filename}: {error.strerror}") from error
    print(f"{output}: {len(found)} sections, {sum(map(len, pictures))} pictures")


def write_pictures(found: Sequence[Section], folder: Path) -> list[dict[str, str]]:
    """The pictures of each section; returns their links by name. Takes away those of before."""
    ours = re.compile(rf"({'|'.join(plots.NAMES)})(-\d+)?\.svg")
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


def links(found: Sequence[Section], output: Path) -> dict[str, str]:
    """Results files that a reader of the page has too: those below the page's folder, and where
    this command was run those of the same tree. Nobody can follow any other."""
    page_folder, here = output.resolve().parent, Path.cwd().resolve()
    known = {}
    for name in (name for section in found for name in section.files):
        place = Path(name).resolve()
        together = place.is_relative_to(here) and page_folder.is_relative_to(here)
        if together or place.is_relative_to(page_folder):
            known[name] = Path(os.path.relpath(place, page_folder)).as_posix()
    return known
