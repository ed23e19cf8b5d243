# SPDX-License-Identifier: LGPL-2.1-or-later
"""``python -m bench migrate``: what a guest that moves has to send, as it is and prepared.

Each sample has a guest of its own: booted, filled, prepared in one way or another, sent by QEMU at
a limited rate to a program that throws it away, put back, and every byte compared. By QMP alone: no
libvirt, no second host. Preparing and undoing are hibprep's own (`hibprep.guests`), on a guest as
`bench/qmpdomain.py` shows it. Bytes are QEMU's count, and are nearly the same in every run; times
of an emulated guest say how the ways compare, not what they take elsewhere. What was measured is
kept line by line and not measured again.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from bench import kept, movefigures, options
from bench.experiment.run import machine_facts
from bench.lab import LabError, build, build_wheel, qemu
from bench.lab.cli import size
from bench.lab.images import Image
from bench.lab.paths import REPOSITORY
from bench.moveresults import MigrateResults, sample_of, text_of
from bench.moves import AHEAD, MIB, Cell, Condition, Load, Sample, Setting
from bench.moving import RECIPE, measure_one

RESERVES_MIB = (16, 32, 64, 128, 256)
_MEASURING = tuple(
    REPOSITORY / "bench" / name
    for name in ("moving.py", "qmpdomain.py", "paced.py", "pacing.py", "lab/workload.py")
)


# --- what is kept, and what is still to be done ---------------------------------------------------


def samples_file(kernel_release: str, setting: Setting, *, again: bool = False) -> Path:
    """Where the samples are kept. What they depend on beside code and kernel is in the name."""
    what = (
        f"{kernel_release}-{setting.memory_bytes // MIB}MiB-{setting.bytes_per_second}"
        f"-{setting.disk_bytes_per_second}{'-while-it-pays' if setting.while_it_pays else ''}"
    )
    return kept.samples_file("migrate", what, _MEASURING, again=again)


def cells_of(
    conditions: Sequence[Condition], loads: Sequence[Load], reserves_mib: Iterable[int]
) -> list[Cell]:
    """Every condition with every load; and hibprep with each reserve, with the mixed one. A guest
    that is busy all the time is never prepared while it is idle."""
    found = [
        Cell(condition, load)
        for load in loads
        for condition in conditions
        if not (condition in AHEAD and load is Load.BUSY)
    ]
    return found + [Cell(Condition.HIBPREP, Load.MIXED, mib * MIB) for mib in reserves_mib]


def still_to_do(
    rounds: int, cells: Sequence[Cell], samples: Iterable[Sample]
) -> list[tuple[int, Cell]]:
    """What of so many rounds is not among the samples; a whole round before the next."""
    done = {(sample.round, sample.cell) for sample in samples}
    order = [(number, cell) for number in range(rounds) for cell in cells]
    return [each for each in order if each not in done]


# --- for a person ---------------------------------------------------------------------------------

_COLUMNS = (
    *("runs", "sent, MiB", "saved", "prepare, s", "migrate, s", "together, s", "by nothing"),
    *("downtime, ms", "left, MiB", "estimate", "foretold", "slowed"),
)


def table(found: Sequence[movefigures.Row], setting: Setting) -> Table:
    """One row a condition."""
    shown = Table(
        title=f"A guest of {setting.memory_bytes // MIB} MiB, sent at "
        f"{setting.bytes_per_second * 8 / 1e9:g} Gbit/s"
    )
    for name in ("load", "condition"):
        shown.add_column(name, no_wrap=True)
    for name in _COLUMNS:
        shown.add_column(name, justify="right")
    for row in found:
        reserve = f", reserve {row.reserve_bytes // MIB} MiB" if row.reserve_bytes else ""
        shown.add_row(
            str(row.load),
            f"{row.condition}{reserve}",
            str(row.runs),
            f"{row.sent_bytes / MIB:.1f} (±{row.spread * 50:.1f} %)",
            _percent(row.saved),
            f"{row.prepare_seconds:.1f}",
            f"{row.migrate_seconds:.1f}",
            f"{row.total_seconds:.1f}",
            "" if row.total_ratio is None else f"{row.total_ratio:.2f}",
            f"{row.downtime_seconds * 1000:.0f}",
            f"{row.actual_bytes / MIB:.0f}",
            f"{row.estimated_ratio:.2f}",
            f"{row.predicted_ratio:.2f}",
            _percent(row.slowed),
        )
    return shown


def _percent(value: float | None) -> str:
    return "" if value is None else f"{value:.1%}"


def _told(sample: Sample) -> str:
    return (
        f"{sample.round + 1} {sample.load} {sample.condition} {sample.reserve_bytes // MIB}: "
        f"{sample.sent_bytes / MIB:.1f} MiB sent, prepared in {sample.prepare_seconds:.1f} s, "
        f"sent in {sample.migrate_seconds:.1f} s, estimate "
        f"{sample.estimated_bytes / sample.sent_bytes:.3f}; {sample.ending}"
    )


# --- the command ----------------------------------------------------------------------------------


def _listed(kind: type[Condition | Load], text: str) -> list[Any]:
    try:
        return [kind(word) for word in text.split(",") if word]
    except ValueError as error:
        known = ",".join(kind)
        raise click.BadParameter(f"{error}; known are {known}") from error


@click.command()
@click.option("--rounds", type=click.IntRange(min=1), default=3, show_default=True)
@click.option(
    "--condition",
    default=",".join(Condition),
    callback=lambda _ctx, _option, text: _listed(Condition, text),
    show_default=True,
    metavar="LIST",
)
@click.option(
    "--load",
    default=",".join(Load),
    callback=lambda _ctx, _option, text: _listed(Load, text),
    show_default=True,
    metavar="LIST",
)
@click.option(
    "--curve",
    is_flag=True,
    help=f"Also hibprep with a reserve of {', '.join(map(str, RESERVES_MIB))} MiB.",
)
@click.option("--memory", type=size, default="1G", show_default=True)
@click.option(
    "--rate",
    "megabits",
    type=click.IntRange(min=1),
    default=1000,
    show_default=True,
    metavar="MBIT",
    help="What the migration is limited to, a second.",
)
@click.option(
    "--disk-rate",
    "disk_mib",
    type=click.IntRange(min=1),
    default=500,
    show_default=True,
    metavar="MIB",
    help="What each disk of the guest is throttled to, a second.",
)
@click.option(
    "--while-it-pays",
    is_flag=True,
    help="Prepare no longer than that spares the sending, as `hibprep guest migrate` does.",
)
@click.option(
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Also write a results file, for `python -m bench report`.",
)
@options.again
@options.as_json
def migrate(
    *,
    rounds: int,
    condition: list[Condition],
    load: list[Load],
    curve: bool,
    memory: int,
    megabits: int,
    disk_mib: int,
    while_it_pays: bool,
    output: Path | None,
    again: bool,
    as_json: bool,
) -> None:
    """What a guest that moves has to send: nothing done, caches dropped, balloon, hibprep."""
    console = Console(stderr=True)
    options.end_on_sigterm()
    setting = Setting(
        memory, megabits * 1_000_000 // 8, disk_mib * MIB, while_it_pays=while_it_pays
    )
    cells = cells_of(condition, load, RESERVES_MIB if curve else ())
    if not cells:
        raise click.UsageError(
            "nothing to measure: a busy guest is never prepared while it is idle"
        )
    try:
        with console.status("looking for the image") as status:
            image = build(RECIPE, status.update)
            path = samples_file(image.kernel_release, setting, again=again)
            samples = kept.load(path, sample_of)
            left = still_to_do(rounds, cells, samples)
            wheel = build_wheel() if left else Path()
            for number, cell in left:
                status.update(f"round {number + 1} of {rounds}: {cell.load}, {cell.condition}")
                sample = measure_one(image, wheel, number, cell, setting)
                samples.append(sample)
                kept.keep(path, sample)
                if not console.is_terminal:
                    print(_told(sample), file=sys.stderr)
    except LabError as error:
        raise click.ClickException(str(error)) from error
    samples = [each for each in samples if each.round < rounds and each.cell in cells]
    if output is not None:
        _write(output, image, setting, samples)
    show(samples, setting, image.kernel_release, as_json=as_json)


def _write(output: Path, image: Image, setting: Setting, samples: Sequence[Sample]) -> None:
    machine = machine_facts(qemu.find(lambda _: None).version)
    found = MigrateResults(setting, image.kernel_release, machine, tuple(samples))
    try:
        output.write_text(text_of(found))
    except OSError as error:
        raise click.ClickException(f"{output}: {error.strerror}") from error


def show(samples: Sequence[Sample], setting: Setting, kernel: str, *, as_json: bool) -> None:
    """Everything, on standard output."""
    found = movefigures.rows(samples)
    if as_json:
        result = {
            "kernel": kernel,
            "accelerators": sorted({each.accelerator for each in samples}),
            "setting": asdict(setting),
            "rows": movefigures.as_json(found),
            "kept": movefigures.kept(found, while_it_pays=setting.while_it_pays),
            "samples": [asdict(each) for each in samples],
        }
        print(json.dumps(result))
        return
    console = options.output()
    console.print(table(found, setting))
    promises = movefigures.kept(found, while_it_pays=setting.while_it_pays)
    for promise, held in promises.items():
        console.print(f"{'kept' if held else 'NOT KEPT'}: {promise}", highlight=False)
