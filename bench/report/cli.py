# SPDX-License-Identifier: LGPL-2.1-or-later
"""``python -m bench compare`` and ``table``."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from itertools import groupby
from pathlib import Path
from typing import TypedDict

import click
from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table

from bench import options
from bench.experiment.results import Results, ResultsError, load
from bench.report import reference, words
from bench.report.comparison import Line, as_json, compare
from bench.report.sections import Section, sections


class _Style(TypedDict):
    highlight: bool
    markup: bool


RESULTS_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


_PLAIN: _Style = {"highlight": False, "markup": False}
# where there is no terminal to fit in


def read(path: Path) -> Results:
    """A results file; one that is none ends the command with its name and line."""
    try:
        return load(path)
    except (ResultsError, UnicodeDecodeError) as error:
        words_of = str(error) if isinstance(error, ResultsError) else f"{path}: {error}"
        raise click.ClickException(words_of) from error


def read_sections(paths: tuple[Path, ...]) -> list[Section]:
    """Of all files, each read once."""
    return sections([(str(path), read(path)) for path in dict.fromkeys(paths)])


def _table(title: str) -> Table:
    return Table(title=escape(title), title_justify="left", box=SIMPLE_HEAD, pad_edge=False)


@click.command("compare")
@click.argument("a", type=RESULTS_FILE)
@click.argument("b", type=RESULTS_FILE)
@click.option("--json", "wants_json", is_flag=True, help="Print one JSON object and nothing else.")
def compare_command(*, a: Path, b: Path, wants_json: bool) -> None:
    """B's times by A's, with the 95 % interval of the ratio (paired bootstrap of medians)."""
    found = compare(read(a), read(b))
    if wants_json:
        print(json.dumps(as_json(found)))
        return
    console = options.output()
    console.print(f"A is {a}, B is {b}; medians in seconds of the runs that both have", **_PLAIN)
    for group, lines in groupby(found.lines, key=lambda line: line.group):
        console.print(_comparison_table(str(group), lines))
    if not found.lines:
        console.print("Nothing was measured in both.")
    for note in found.notes:
        console.print(f"note: {note}", **_PLAIN)


def _comparison_table(title: str, lines: Iterable[Line]) -> Table:
    shown = _table(title)
    for name in ("condition", "time"):
        shown.add_column(name, no_wrap=True)
    for name in ("A", "B", "B ÷ A", "95 % interval", "pairs"):
        shown.add_column(name, justify="right", no_wrap=True)
    shown.add_column("")
    last = None
    for line in lines:
        shown.add_row(
            "" if line.condition is last else line.condition,
            line.time,
            words.number(line.before),
            words.number(line.after),
            f"{line.ratio:.3f}",
            words.interval(line.interval),
            str(line.pairs),
            line.reading,
        )
        last = line.condition
    return shown


@click.command("table")
@click.argument("results", type=RESULTS_FILE, nargs=-1)
@click.option("--json", "wants_json", is_flag=True, help="Print one JSON object and nothing else.")
def table_command(*, results: tuple[Path, ...], wants_json: bool) -> None:
    """The reference experiment's figures, and beside them those of RESULTS, vanilla → hibprep."""
    found = read_sections(results)
    if wants_json:
        print(json.dumps(_tables_json(found)))
        return
    console = options.output()
    if not found:
        console.print(_reference_table("The reference experiment", reference.beside([])))
    for section in found:
        rows = reference.beside(section.samples)
        console.print(_reference_table(section.title, rows))
        for note in _notes(section, rows):
            console.print(f"note: {note}", **_PLAIN)
    console.print(f"theirs: {reference.SOURCE}: {reference.SETTING}", **_PLAIN)


def _reference_table(title: str, rows: Sequence[reference.Beside]) -> Table:
    shown = _table(title)
    header, lines = reference.table(rows)
    for column, name in enumerate(header):
        # it is the heads that are wide
        head = name.replace(", ", ",\n").replace(" ÷ ", "\n÷ ")
        shown.add_column(head, justify="right" if column else "left", no_wrap=True)
    for line in lines:
        shown.add_row(*line)
    return shown


def _notes(section: Section, rows: Sequence[reference.Beside]) -> list[str]:
    if not reference.has_ours(rows):
        return [f"{', '.join(section.files)}: no samples of vanilla or hibprep, workload cold"]
    unlike = reference.unlike(section.parameters)
    found = [f"ours: {reference.ours(rows)}"]
    if unlike:
        found.append(f"unlike theirs: {', '.join(unlike)}")
    if section.emulated:
        found.append("emulated: some 5 s of a hibernation and 10 s of a resume are fixed cost")
    return found


def _tables_json(found: Sequence[Section]) -> dict[str, object]:
    return {
        "source": reference.SOURCE,
        "setting": reference.SETTING,
        "reference": reference.as_json(reference.beside([])),
        "results": [
            {
                "files": list(section.files),
                "kernel": section.kernels,
                "accelerator": section.accelerators,
                "unlike": reference.unlike(section.parameters),
                "rows": reference.as_json(reference.beside(section.samples)),
            }
            for section in found
        ],
    }
