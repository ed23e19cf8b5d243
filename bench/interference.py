# SPDX-License-Identifier: LGPL-2.1-or-later
"""``python -m bench interference``: what freeing memory costs the programs that go on running.

In one guest with a throttled swap disk: much cold memory in one service, and in another, in a
user's slice, a working set of whose every page a byte is read four times a second. In turns, with
both filled anew each time: nothing happens; ``hibprep reclaim`` takes as many bytes as are cold;
one write to the root's memory.reclaim takes them. How long each pass over the working set takes
meanwhile, and a while after, is what is compared.

Passes are timed by the workload, inside the guest (`bench/witness.py` collects them): they are of
milliseconds, which a question from outside would be slower than. In an emulated guest everything
takes many times longer, so the ratios say more than the milliseconds. A pass brings back what was
taken, so that what is resident at the end says little where passes are short; how many pages had
to be fetched back says more. What was measured is kept line by line and not measured again.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import median, median_low
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from bench import kept, options
from bench.abort import at_percentile
from bench.bystander import (
    COLD_BYTES,
    MEMORY_BYTES,
    PERIOD_SECONDS,
    WARM_BYTES,
    Sample,
    Situation,
    make_ready,
    measure_one,
)
from bench.lab import Guest, LabError, build

MIB = 1 << 20
RECIPE = "trixie"
QUIET_SECONDS = 20.0  # when no other has been measured yet
_MEASURING = tuple(
    Path(__file__).parent / name for name in ("bystander.py", "witness.py", "lab/workload.py")
)

# Quiet comes last in the first round: it lasts as long as the others did.
TURNS = (Situation.HIBPREP, Situation.ONELINER, Situation.QUIET)


# --- what is kept, and what is still to be done ---------------------------------------------------


def samples_file(kernel_release: str, disk_mib: int, *, again: bool = False) -> Path:
    """Where the samples of this code on this kernel are kept. What watches and what is asked for
    belong to it; how the figures are made and shown does not."""
    what = f"{kernel_release}-{disk_mib}MiB"
    return kept.samples_file("interference", what, _MEASURING, again=again)


def parse_samples(path: Path) -> list[Sample]:
    """What was kept."""
    return kept.load(path, _sample)


def _sample(**values: Any) -> Sample:  # noqa: ANN401 - JSON
    turned = {"situation": Situation(values["situation"]), "passes": tuple(values["passes"])}
    return Sample(**{**values, **turned})


def order_of(number: int) -> tuple[Situation, ...]:
    """The turns of a round: each begins with another, so that each follows on each."""
    start = number % len(TURNS)
    return TURNS[start:] + TURNS[:start]


def still_to_do(rounds: int, samples: Iterable[Sample]) -> list[tuple[int, Situation]]:
    """What of so many rounds is not among the samples."""
    done = {(sample.round, sample.situation) for sample in samples}
    order = [(number, each) for number in range(rounds) for each in order_of(number)]
    return [each for each in order if each not in done]


def quiet_seconds(samples: Iterable[Sample]) -> float:
    """How long nothing is to happen: as long as the longest of the others took."""
    others = [each.seconds for each in samples if each.situation is not Situation.QUIET]
    return max(others, default=QUIET_SECONDS)


# --- figures --------------------------------------------------------------------------------------


def pass_figures(samples: Iterable[Sample]) -> dict[str, float]:
    """Median, 95th percentile and slowest of all passes, in seconds; empty when there are none."""
    kept = list(samples)
    seconds = [each for sample in kept for each in sample.passes]
    if not seconds:
        return {}
    return {
        "median": median(seconds),
        "p95": at_percentile(seconds, 95),
        "slowest": max(sample.slowest_seconds for sample in kept),
    }


def passes_per_second(sample: Sample) -> float:
    """How often the working set was gone through. A pass that takes seconds is only one of many in
    the percentiles, and a program that waits between its passes does not show there at all."""
    count = len(sample.passes) + sample.missed
    return count / sample.watched_seconds if sample.watched_seconds > 0 else 0.0


def summary(samples: Sequence[Sample]) -> dict[str, Any]:
    """For each situation: the passes of all rounds together and what they are by those of quiet;
    of everything else, the median over the rounds."""
    grouped = {each: [s for s in samples if s.situation is each] for each in Situation}
    figures = {each: pass_figures(group) for each, group in grouped.items()}
    quiet = figures[Situation.QUIET]
    found: dict[str, Any] = {}
    for each, group in grouped.items():
        if not group:
            continue
        fetched = [s.fetched_back_pages for s in group if s.fetched_back_pages is not None]
        found[str(each)] = {
            "rounds": len(group),
            "seconds": median(s.seconds for s in group),
            "passes": sum(len(s.passes) for s in group),
            "missed_passes": sum(s.missed for s in group),
            "passes_per_second": median(passes_per_second(s) for s in group),
            "pass_seconds": figures[each],
            "ratio_to_quiet": {
                name: value / quiet[name]
                for name, value in figures[each].items()
                if quiet.get(name, 0) > 0
            },
            "warm_resident_pages": median_low(s.warm_present for s in group),
            "warm_pages": group[0].warm_pages,
            "fetched_back_pages": median_low(fetched) if fetched else None,
            "cold_resident_pages": median_low(s.cold_present for s in group),
            "cold_pages": group[0].cold_pages,
            "freed_anon_bytes": median_low(s.anon_bytes for s in group),
            "freed_file_bytes": median_low(s.file_bytes for s in group),
            "swapped_out_bytes": median_low(s.swapped_out_bytes for s in group),
            "swapped_in_bytes": median_low(s.swapped_in_bytes for s in group),
        }
    return {
        "asked_bytes": COLD_BYTES,
        "warm_bytes": WARM_BYTES,
        "period_seconds": PERIOD_SECONDS,
        "situations": found,
    }


def table(samples: Sequence[Sample]) -> Table:
    """The figures for a person: a situation is a column."""
    situations = summary(samples)["situations"]
    shown = Table(
        title=f"A working set of {WARM_BYTES // MIB} MiB while {COLD_BYTES // MIB} MiB are freed"
    )
    shown.add_column("")
    for name in situations:
        shown.add_column(name, justify="right")

    def row(name: str, *values: str) -> None:
        shown.add_row(name, *values)

    all_of = list(situations.values())
    row("rounds", *(str(each["rounds"]) for each in all_of))
    row("passes seen", *(str(each["passes"]) for each in all_of))
    row("passes a second", *(_scaled(each["passes_per_second"], 1, 2) for each in all_of))
    for key in ("median", "p95", "slowest"):
        row(f"{key} pass, ms", *(_scaled(each["pass_seconds"].get(key), 1e3, 1) for each in all_of))
        row("  by quiet", *(_scaled(each["ratio_to_quiet"].get(key), 1, 2) for each in all_of))
    row(
        "resident at the end",
        *(f"{each['warm_resident_pages']} of {each['warm_pages']}" for each in all_of),
    )
    row("pages fetched back", *(_scaled(each["fetched_back_pages"], 1, 0) for each in all_of))
    row("freed anonymous, MiB", *(_scaled(each["freed_anon_bytes"], 1 / MIB, 1) for each in all_of))
    row("freed cache, MiB", *(_scaled(each["freed_file_bytes"], 1 / MIB, 1) for each in all_of))
    row("lasted, s", *(_scaled(each["seconds"], 1, 1) for each in all_of))
    return shown


def _scaled(value: float | None, factor: float, digits: int) -> str:
    return "" if value is None else f"{value * factor:.{digits}f}"


# --- the command ----------------------------------------------------------------------------------


@click.command()
@click.option("--rounds", type=click.IntRange(min=1), default=3, show_default=True)
@options.disk_rate
@options.again
@options.as_json
def interference(*, rounds: int, disk_mib: int, again: bool, as_json: bool) -> None:
    """What freeing memory costs a program that goes on: hibprep, one bare write, and neither."""
    console = Console(stderr=True)
    options.end_on_sigterm()
    try:
        with console.status("looking for the image") as status:
            image = build(RECIPE, status.update)
            path = samples_file(image.kernel_release, disk_mib, again=again)
            samples = parse_samples(path)
            left = still_to_do(rounds, samples)
            if left:
                with Guest(
                    image,
                    memory_bytes=MEMORY_BYTES,
                    disk_bytes_per_second=disk_mib * MIB,
                    progress=status.update,
                ) as guest:
                    guest.start()
                    make_ready(guest)
                    for number, situation in left:
                        status.update(f"round {number + 1} of {rounds}: {situation}")
                        sample = measure_one(guest, number, situation, quiet_seconds(samples))
                        samples.append(sample)
                        kept.keep(path, sample)
                        if not console.is_terminal:
                            print(_told(sample), file=sys.stderr)
    except LabError as error:
        raise click.ClickException(str(error)) from error
    samples = [sample for sample in samples if sample.round < rounds]
    if as_json:
        print(json.dumps({**summary(samples), "samples": [asdict(each) for each in samples]}))
    else:
        options.output().print(table(samples))


def _told(sample: Sample) -> str:
    found = pass_figures([sample])
    words = ", ".join(f"{name} {seconds * 1e3:.1f} ms" for name, seconds in found.items())
    return (
        f"{sample.round + 1} {sample.situation}: {sample.seconds:.1f} s, passes: {words or 'none'}"
    )
