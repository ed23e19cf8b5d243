# SPDX-License-Identifier: LGPL-2.1-or-later
"""``python -m bench throughput``: what chunks, checks and pacing cost.

In one guest with a throttled swap disk, in turns: one bare large write to the root's
memory.reclaim, and ``hibprep reclaim`` of the same amount; between them the program that fills
memory is started anew. Both are judged by the same counters of the guest's kernel. What was
measured is kept line by line and not measured again, so that it can be broken off at any time.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from statistics import median
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from bench import kept, options
from bench.lab import Guest, LabError, Workload, build, build_wheel

MIB = 1 << 20
GIB = 1 << 30
RECIPE = "trixie"
MEMORY_BYTES = 2 * GIB
COLD_BYTES = 1331 * MIB
AMOUNT_BYTES = GIB
PROMISE = 0.9
TIMEOUT_SECONDS = 600.0

# Runs in the guest. With arguments behind the amount they are a command that is to do it; without,
# it is one write. Memory is anonymous and swappiness 200 says so, as hibprep does on this kernel.
_PROGRAM = """
import json, os, subprocess, sys, time
def counters():
    with open("/proc/vmstat") as lines:
        found = dict(line.split() for line in lines)
    return [int(found.get(name, 0)) * os.sysconf("SC_PAGE_SIZE")
            for name in ("pgsteal_anon", "pgsteal_file", "pswpout")]
amount, *command = sys.argv[1:]
before, error, report = counters(), "", None
begin = time.monotonic()
if command:
    done = subprocess.run(command, capture_output=True, text=True)
    error = done.stderr.strip() if done.returncode not in (0, 3) else ""
    report = json.loads(done.stdout) if done.stdout else None
else:
    handle = os.open("/sys/fs/cgroup/memory.reclaim", os.O_WRONLY)
    try:
        os.write(handle, f"{amount} swappiness=200".encode())
    except BlockingIOError:
        pass
    except OSError as problem:
        error = str(problem)
seconds = time.monotonic() - begin
anon, file, swapped = (new - old for new, old in zip(counters(), before))
print(json.dumps({"seconds": seconds, "anon_bytes": anon, "file_bytes": file,
                  "swapped_bytes": swapped, "error": error, "report": report}))
"""


class Way(StrEnum):
    """How memory is asked for."""

    BARE = "bare"
    HIBPREP = "hibprep"


@dataclass(frozen=True, slots=True)
class Sample:
    """One run. `seconds` is the write's, or hibprep's own run without its start;
    `command_seconds` has the start of the interpreter in it."""

    pair: int
    way: Way
    seconds: float
    command_seconds: float
    anon_bytes: int
    file_bytes: int
    swapped_bytes: int

    @property
    def bytes_per_second(self) -> float:
        """Anonymous memory that was freed, by the kernel's counter."""
        return self.anon_bytes / self.seconds if self.seconds > 0 else 0.0


# --- what is kept, and what is still to be done ---------------------------------------------------


def samples_file(kernel_release: str, disk_mib: int, *, again: bool = False) -> Path:
    """Where the samples of this code on this kernel are kept."""
    what = f"{kernel_release}-{disk_mib}MiB"
    return kept.samples_file("throughput", what, [Path(__file__)], again=again)


def parse_samples(path: Path) -> list[Sample]:
    """What was kept."""
    return kept.load(path, _sample)


def _sample(**values: Any) -> Sample:  # noqa: ANN401 - JSON
    return Sample(**{**values, "way": Way(values["way"])})


def still_to_do(pairs: int, samples: Iterable[Sample]) -> list[tuple[int, Way]]:
    """In turns, and the other way round in every second pair: what drifts, drifts for both."""
    done = {(sample.pair, sample.way) for sample in samples}
    order = [
        (pair, way)
        for pair in range(pairs)
        for way in ((Way.BARE, Way.HIBPREP) if pair % 2 == 0 else (Way.HIBPREP, Way.BARE))
    ]
    return [each for each in order if each not in done]


def ratios(samples: Iterable[Sample]) -> dict[int, float]:
    """The rate of hibprep by the bare write's, of every pair that is whole."""
    rates = {(sample.pair, sample.way): sample.bytes_per_second for sample in samples}
    return {
        pair: rates[pair, Way.HIBPREP] / rates[pair, Way.BARE]
        for pair, way in sorted(rates)
        if way is Way.BARE and (pair, Way.HIBPREP) in rates and rates[pair, Way.BARE] > 0
    }


def summary(samples: Sequence[Sample]) -> dict[str, Any]:
    """Median rates, the ratio of each pair, and whether the median ratio keeps the promise."""
    by_way = {
        way: [sample.bytes_per_second for sample in samples if sample.way is way] for way in Way
    }
    found = ratios(samples)
    middle = median(found.values()) if found else None
    return {
        "median_bytes_per_second": {
            str(way): median(rates) if rates else None for way, rates in by_way.items()
        },
        "ratios": {str(pair): ratio for pair, ratio in found.items()},
        "median_ratio": middle,
        "promise": PROMISE,
        "kept": None if middle is None else middle >= PROMISE,
    }


def sample_of(pair: int, way: Way, answer: dict[str, Any]) -> Sample:
    """The sample from what the program in the guest printed; LabError when it did not work."""
    if answer["error"]:
        raise LabError(f"{way}: {answer['error']}")
    report = answer["report"]
    return Sample(
        pair=pair,
        way=way,
        seconds=answer["seconds"] if report is None else report["seconds"],
        command_seconds=answer["seconds"],
        anon_bytes=answer["anon_bytes"],
        file_bytes=answer["file_bytes"],
        swapped_bytes=answer["swapped_bytes"],
    )


# --- measuring ----------------------------------------------------------------------------------


def measure_one(guest: Guest, pair: int, way: Way) -> Sample:
    """Fill memory, free the amount one way or the other, give the memory back."""
    workload = Workload(guest, cold_bytes=COLD_BYTES, name=f"fill-{pair}-{way}")
    workload.start()
    try:
        guest.run(["sync"], check=True)
        command = (
            ["hibprep", "reclaim", str(AMOUNT_BYTES), "--type", "anon", "--json"]
            if way is Way.HIBPREP
            else []
        )
        answer = guest.run(
            ["/usr/bin/python3", "-I", "-S", "-c", _PROGRAM, str(AMOUNT_BYTES), *command],
            timeout=TIMEOUT_SECONDS,
            check=True,
        )
        return sample_of(pair, way, answer.json())
    finally:
        workload.stop()


def table(samples: Sequence[Sample]) -> Table:
    """The pairs for a person, in MB/s."""
    shown = Table(title=f"Freeing {AMOUNT_BYTES // MIB} MiB of anonymous memory, in MB/s")
    for name in ("pair", "bare write", "hibprep", "with its start", "ratio"):
        shown.add_column(name, justify="right")
    of = {(sample.pair, sample.way): sample for sample in samples}
    for pair, ratio in ratios(samples).items():
        bare, own = of[pair, Way.BARE], of[pair, Way.HIBPREP]
        shown.add_row(
            str(pair + 1),
            f"{bare.bytes_per_second / 1e6:.1f}",
            f"{own.bytes_per_second / 1e6:.1f}",
            f"{own.anon_bytes / own.command_seconds / 1e6:.1f}",
            f"{ratio:.2f}",
        )
    found = summary(samples)
    rates = found["median_bytes_per_second"]
    if found["median_ratio"] is not None:
        shown.add_row(
            "median",
            f"{rates[Way.BARE] / 1e6:.1f}",
            f"{rates[Way.HIBPREP] / 1e6:.1f}",
            "",
            f"{found['median_ratio']:.2f} ({'at least' if found['kept'] else 'BELOW'} {PROMISE})",
        )
    return shown


@click.command()
@click.option("--pairs", type=click.IntRange(min=1), default=5, show_default=True)
@options.disk_rate
@options.again
@options.as_json
def throughput(*, pairs: int, disk_mib: int, again: bool, as_json: bool) -> None:
    """How fast hibprep frees anonymous memory, by what one bare large write reaches."""
    console = Console(stderr=True)
    options.end_on_sigterm()
    try:
        with console.status("looking for the image") as status:
            image = build(RECIPE, status.update)
            path = samples_file(image.kernel_release, disk_mib, again=again)
            samples = parse_samples(path)
            left = still_to_do(pairs, samples)
            if left:
                with Guest(
                    image,
                    memory_bytes=MEMORY_BYTES,
                    disk_bytes_per_second=disk_mib * MIB,
                    progress=status.update,
                ) as guest:
                    guest.start()
                    guest.install(build_wheel())
                    for pair, way in left:
                        status.update(f"pair {pair + 1} of {pairs}: {way}")
                        sample = measure_one(guest, pair, way)
                        samples.append(sample)
                        kept.keep(path, sample)
                        if not console.is_terminal:
                            rate = sample.bytes_per_second / 1e6
                            print(f"{pair + 1} {way}: {rate:.1f} MB/s", file=sys.stderr)
    except LabError as error:
        raise click.ClickException(str(error)) from error
    samples = [sample for sample in samples if sample.pair < pairs]
    if as_json:
        print(json.dumps({**summary(samples), "samples": [asdict(each) for each in samples]}))
    else:
        options.output().print(table(samples))
