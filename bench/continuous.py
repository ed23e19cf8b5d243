# SPDX-License-Identifier: LGPL-2.1-or-later
"""``python -m bench continuous``: what the daemon's policy `continuous` costs a program at work.

In one guest: a Redis from Debian with a data set, all of it in use, and beside it much cold memory
in a service of its own, filled anew for every turn. In turns, in alternating order: the daemon does
not run; it runs by its own unit and frees the cold memory a little at a time. Both times Redis is
loaded twice (`bench/redis_load.py`): at a fixed rate, for the latency, and without a pause, for the
throughput. The second leaves no CPU to anybody: whatever the daemon takes, the load loses, and in
an emulated guest the daemon's own work takes many times longer, as the processor time that it used
shows. What a round has of the one is compared with what the same round has of the other. What was
measured is kept line by line and not measured again.
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
from bench.footprint import spread
from bench.foreground import (
    COLD_BYTES,
    KEYS,
    MEMORY_BYTES,
    PER_SECOND,
    Sample,
    Setting,
    Situation,
    make_ready,
    measure_one,
)
from bench.lab import Guest, LabError, build
from bench.lab.paths import REPOSITORY

MIB = 1 << 20
RECIPE = "redis"
WARM_UP = -1  # a guest's first load runs half as fast again as all later ones; it is not kept
LEAST_THROUGHPUT = 0.97  # of quiet, at the median
MOST_LATENCY = 1.10  # of quiet, the 99th percentile at the median
_MEASURING = tuple(
    REPOSITORY / name
    for name in (
        *(
            "bench/foreground.py",
            "bench/redis_load.py",
            "bench/touched.py",
            "bench/lab/workload.py",
        ),
        "hibprep/resources/hibprep.service",
    )
)


# --- what is kept, and what is still to be done ---------------------------------------------------


def parse_samples(path: Path) -> list[Sample]:
    """What was kept."""
    return kept.load(path, _sample)


def _sample(**values: Any) -> Sample:  # noqa: ANN401 - JSON
    return Sample(**{**values, "situation": Situation(values["situation"])})


def samples_file(
    kernel_release: str, disk_mib: int, setting: Setting, *, again: bool = False
) -> Path:
    """Where the samples are kept. What they depend on beside code and kernel is in the name."""
    what = f"{kernel_release}-{disk_mib}MiB-{setting.seconds:g}s-{setting.bytes_per_second}"
    return kept.samples_file("continuous", what, _MEASURING, again=again)


def order_of(number: int) -> tuple[Situation, ...]:
    """The turns of a round: what drifts is for the one in one round and for the other in the
    next."""
    turns = tuple(Situation)
    return turns if number % 2 == 0 else turns[::-1]


def still_to_do(rounds: int, samples: Iterable[Sample]) -> list[tuple[int, Situation]]:
    """What of so many rounds is not among the samples."""
    done = {(sample.round, sample.situation) for sample in samples}
    order = [(number, each) for number in range(rounds) for each in order_of(number)]
    return [each for each in order if each not in done]


# --- figures --------------------------------------------------------------------------------------

# name -> where it is in a sample; each is compared with quiet's
_COMPARED = {
    "throughput": ("busy", "per_second"),
    "busy p50": ("busy", "p50"),
    "busy p99": ("busy", "p99"),
    "p50": ("latency", "p50"),
    "p99": ("latency", "p99"),
    "p999": ("latency", "p999"),
}


# what a sample with the daemon tells by itself, see `bench.touched`
_WITHIN = {
    "share": "of the time the daemon was at work",
    "throughput": "throughput, by what it is without that time",
    "p99": "p99, by what it is without that time",
}


def value_of(sample: Sample, name: str) -> float:
    """One of the figures that are compared: requests a second, or seconds."""
    part, key = _COMPARED[name]
    found: float = getattr(sample, part)[key]
    return found


def ratios(samples: Iterable[Sample], name: str) -> list[float]:
    """What a figure is with the daemon by what it is in the same round without, by round; of rounds
    that have both."""
    of = {(sample.round, sample.situation): value_of(sample, name) for sample in samples}
    rounds = sorted(number for number, situation in of if situation is Situation.QUIET)
    return [
        of[number, Situation.CONTINUOUS] / of[number, Situation.QUIET]
        for number in rounds
        if of.get((number, Situation.CONTINUOUS)) is not None and of[number, Situation.QUIET] > 0
    ]


def summary(samples: Sequence[Sample]) -> dict[str, Any]:
    """Each situation's medians, and the ratios: median, least and most of the rounds."""
    situations: dict[str, Any] = {}
    for situation in Situation:
        group = [sample for sample in samples if sample.situation is situation]
        if not group:
            continue
        situations[str(situation)] = {
            "rounds": len(group),
            **{name: asdict(spread([value_of(s, name) for s in group])) for name in _COMPARED},
            "lead_seconds": median(s.lead_seconds for s in group),
            "watched_seconds": median(s.watched_seconds for s in group),
            "cold_bytes": median_low(s.cold_bytes for s in group),
            "freed_anon_bytes": median_low(s.anon_bytes for s in group),
            "freed_file_bytes": median_low(s.file_bytes for s in group),
            "swapped_out_bytes": median_low(s.swapped_out_bytes for s in group),
            "swapped_in_bytes": median_low(s.swapped_in_bytes for s in group),
            "fetched_back_pages": median_low(s.fetched_back_pages for s in group),
            "redis_bytes": median_low(s.redis_bytes for s in group),
            "daemon_seconds": median(s.daemon_seconds for s in group),
            "waited_seconds": median(s.waited_seconds for s in group),
        }
    daemon = [sample for sample in samples if sample.situation is Situation.CONTINUOUS]
    within = {
        name: asdict(spread([getattr(sample, f"touched_{name}") for sample in daemon]))
        for name in _WITHIN
        if daemon
    }
    found = {
        name: asdict(spread(values)) for name in _COMPARED if (values := ratios(samples, name))
    }
    return {
        "accelerators": sorted({sample.accelerator for sample in samples}),
        "memory_bytes": MEMORY_BYTES,
        "filled_bytes": COLD_BYTES,
        "keys": KEYS,
        "requests_per_second": PER_SECOND,
        "situations": situations,
        "ratio_to_quiet": found,
        "within_a_load": within,
        "promises": {"throughput": LEAST_THROUGHPUT, "p99": MOST_LATENCY},
        "kept": {
            "throughput": found["throughput"]["median"] >= LEAST_THROUGHPUT,
            "p99": found["p99"]["median"] <= MOST_LATENCY,
        }
        if found
        else {},
    }


def table(samples: Sequence[Sample]) -> Table:
    """The figures for a person: a situation is a column."""
    found = summary(samples)
    situations, ratio = found["situations"], found["ratio_to_quiet"]
    shown = Table(
        title=f"Redis, {PER_SECOND} requests a second and then without a pause; "
        f"{COLD_BYTES // MIB} MiB cold beside it"
    )
    for name in ("", *situations, "by quiet", "least–most"):
        shown.add_column(name, justify="left" if not name else "right")

    def row(title: str, values: Iterable[str], name: str = "") -> None:
        each = ratio.get(name)
        ends = ["", ""]
        if each is not None:
            ends = [f"{each['median']:.3f}", f"{each['min']:.3f}–{each['max']:.3f}"]
        shown.add_row(title, *values, *ends)

    all_of = list(situations.values())
    row("rounds", (str(each["rounds"]) for each in all_of))
    row("requests a second", (f"{x['throughput']['median']:.0f}" for x in all_of), "throughput")
    for name in (name for name in _COMPARED if name != "throughput"):
        row(f"{name}, ms", (f"{x[name]['median'] * 1e3:.2f}" for x in all_of), name)
    for title, key in (
        ("cold memory freed, MiB", "cold_bytes"),
        ("freed anonymous, MiB", "freed_anon_bytes"),
        ("freed cache, MiB", "freed_file_bytes"),
        ("swapped in, MiB", "swapped_in_bytes"),
        ("Redis in memory, MiB", "redis_bytes"),
    ):
        row(title, (f"{each[key] / MIB:.1f}" for each in all_of))
    row("pages Redis fetched back", (str(each["fetched_back_pages"]) for each in all_of))
    for name, each in found["within_a_load"].items():
        ends = (f"{each['median']:.3f}", f"{each['min']:.3f}–{each['max']:.3f}")
        shown.add_row(_WITHIN[name], *("" for _ in all_of), *ends)
    row("watched, s", (f"{each['watched_seconds']:.1f}" for each in all_of))
    row("CPU time of the daemon, s", (f"{each['daemon_seconds']:.2f}" for each in all_of))
    row("the guest waited for a CPU, s", (f"{each['waited_seconds']:.1f}" for each in all_of))
    return shown


# --- the command ----------------------------------------------------------------------------------


@click.command()
@click.option("--rounds", type=click.IntRange(min=1), default=4, show_default=True)
@click.option(
    "--seconds",
    type=click.FloatRange(min=1),
    default=25.0,
    show_default=True,
    help="At the fixed rate, and about so long without a pause.",
)
@click.option(
    "--pace",
    "pace_mib",
    type=click.IntRange(min=1),
    metavar="MIB",
    help="continuous.bytes_per_second of the daemon. It begins with a quarter of it.",
)
@options.disk_rate
@options.again
@options.as_json
def continuous(
    *,
    rounds: int,
    seconds: float,
    pace_mib: int | None,
    disk_mib: int,
    again: bool,
    as_json: bool,
) -> None:
    """What policy `continuous` costs a busy Redis: with the daemon by without."""
    console = Console(stderr=True)
    options.end_on_sigterm()
    setting = Setting(seconds, (pace_mib or 0) * MIB)
    try:
        with console.status("looking for the image") as status:
            image = build(RECIPE, status.update)
            path = samples_file(image.kernel_release, disk_mib, setting, again=again)
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
                    status.update("filling Redis")
                    requests = make_ready(guest, setting)
                    status.update("a load that does not count")
                    measure_one(guest, WARM_UP, Situation.QUIET, setting, requests)
                    for number, situation in left:
                        status.update(f"round {number + 1} of {rounds}: {situation}")
                        sample = measure_one(guest, number, situation, setting, requests)
                        samples.append(sample)
                        kept.keep(path, sample)
                        if not console.is_terminal:
                            print(_told(sample), file=sys.stderr)
    except LabError as error:
        raise click.ClickException(str(error)) from error
    samples = [sample for sample in samples if sample.round < rounds]
    if as_json:
        found = {"kernel": image.kernel_release, **summary(samples)}
        print(json.dumps({**found, "samples": [asdict(each) for each in samples]}))
    else:
        options.output().print(table(samples))


def _told(sample: Sample) -> str:
    return (
        f"{sample.round + 1} {sample.situation}: {sample.busy['per_second']:.0f} requests a second,"
        f" p99 {sample.latency['p99'] * 1e3:.2f} ms at {PER_SECOND} a second; "
        f"{sample.cold_bytes / MIB:.0f} MiB of cold memory freed"
    )
