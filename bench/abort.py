# SPDX-License-Identifier: LGPL-2.1-or-later
"""``python -m bench abort``: how soon Ctrl-C, SIGTERM and ``--timeout`` end a running ``prepare``.

On the kernel of this machine, with the parts in `bench/load.py` and `bench/stopping.py`; here
the moments are chosen and the figures made of what came out. How soon the daemon stops, when
somebody is back and when the machine is to sleep, takes a guest: `bench/keypress.py` and
`bench/asleep.py`.
"""

from __future__ import annotations

import json
import mmap
import os
import random
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from bench import options
from bench.lab import LabError
from bench.lab.paths import cache_root
from bench.load import (
    FILL_BYTES,
    SWAP_BYTES,
    CannotMeasure,
    Filler,
    renew_swap,
    swap_used_bytes,
    temporary_swap,
)
from bench.stopping import Stopped, stop_once

PROMISE_SECONDS = 0.25


def seeded(seed: int) -> random.Random:
    """The same moments every time."""
    return random.Random(seed)  # noqa: S311 - nothing is kept secret with it


HOWS = ("SIGINT", "SIGTERM", "timeout")


def measure(
    stops: int,
    folder: Path,
    *,
    seed: int = 1,
    fill_bytes: int = FILL_BYTES,
    swap_bytes: int = SWAP_BYTES,
    dirty_bytes: int = 0,
    chunk_seconds: float = 0.0,
    tell: Callable[[Stopped], None] | None = None,
) -> list[Stopped]:
    """So many stops of `prepare --target min`, at random moments (of `seed`) of its run."""
    chance = seeded(seed)
    arguments = ["prepare", "--target", "min"]
    if chunk_seconds:
        config = folder / "bench.toml"
        config.write_text(f"[reclaim]\nchunk_seconds = {chunk_seconds}\n")
        arguments += ["--config", str(config)]
    found: list[Stopped] = []
    failures = 0
    with temporary_swap(swap_bytes) as swap, Filler(fill_bytes) as filler:
        longest = 2.0
        while len(found) < stops:
            filler.touch()
            if swap_used_bytes(swap) > swap_bytes // 3:
                renew_swap(swap)
            if dirty_bytes:
                _make_dirty(folder, dirty_bytes)
            one, done = stop_once(
                HOWS[len(found) % len(HOWS)],
                chance.uniform(0.0, longest),
                folder,
                arguments,
                at_work=chance.random() < 0.7,
            )
            if one is None:
                failures += 1
                longest = max(0.1, longest * 0.8)  # it had ended by itself: be quicker
                if failures > stops + 20:
                    raise CannotMeasure(
                        f"runs end before they can be stopped: exit code {done.code}, "
                        f"{done.stderr.strip() or done.stdout[:200]}"
                    )
                continue
            found.append(one)
            if tell is not None:
                tell(one)
    return found


def _make_dirty(folder: Path, size_bytes: int) -> None:
    noise = os.urandom(1 << 20)
    with (folder / "dirty").open("wb") as file:
        for _ in range(size_bytes >> 20):
            file.write(noise)


def at_percentile(values: Sequence[float], percent: float) -> float:
    """The smallest value that so many percent of all do not exceed."""
    ordered = sorted(values)
    rank = -(-len(ordered) * percent // 100)
    return ordered[max(0, int(rank) - 1)]


def summary(found: Sequence[Stopped]) -> dict[str, Any]:
    """The figures of a measurement, by way of stopping and together."""
    groups: dict[str, list[Stopped]] = {"all": list(found)}
    for how in HOWS:
        groups[how] = [one for one in found if one.how == how]
    groups["in the kernel"] = [one for one in found if one.in_kernel]
    rows = {
        name: {
            "stops": len(group),
            "median_seconds": median(one.seconds for one in group),
            "p99_seconds": at_percentile([one.seconds for one in group], 99),
            "max_seconds": max(one.seconds for one in group),
        }
        for name, group in groups.items()
        if group
    }
    return {
        "kernel": os.uname().release,
        "page_bytes": mmap.PAGESIZE,
        "promise_seconds": PROMISE_SECONDS,
        "results": rows,
        "stops": [asdict(one) for one in found],
    }


@click.command()
@click.option("--stops", type=click.IntRange(min=1), default=100, show_default=True)
@click.option("--seed", type=int, default=1, show_default=True, help="Of the moments.")
@click.option(
    "--dirty",
    "dirty_mib",
    type=click.IntRange(min=0),
    default=0,
    metavar="MIB",
    help="So much unwritten data before every run: stops that fall into its writing back.",
)
@click.option(
    "--chunk",
    "chunk_seconds",
    type=click.FloatRange(0.02, 1),
    metavar="SECONDS",
    help="Another reclaim.chunk_seconds than that of hibprep's default configuration.",
)
@click.option(
    "--guest",
    "presses",
    type=click.IntRange(min=1),
    metavar="N",
    help="Instead, in a guest: how soon the daemon's reclaim stops when somebody is back, N times.",
)
@click.option(
    "--sleeps",
    type=click.IntRange(min=1),
    metavar="N",
    help="Instead, in a guest: N hibernations in the middle of the daemon's reclaim.",
)
@click.option("--again", is_flag=True, help="Forget what was measured in guests before.")
@options.as_json
def abort(
    *,
    stops: int,
    seed: int,
    dirty_mib: int,
    chunk_seconds: float | None,
    presses: int | None,
    sleeps: int | None,
    again: bool,
    as_json: bool,
) -> None:
    """How soon Ctrl-C, SIGTERM and --timeout end a running prepare on this machine's kernel."""
    if presses and sleeps:
        raise click.UsageError("--guest and --sleeps are two measurements: one at a time")
    if presses or sleeps:
        _in_a_guest(presses or 0, sleeps or 0, seed=seed, again=again, as_json=as_json)
        return
    console = Console(stderr=True)
    cache_root().mkdir(parents=True, exist_ok=True)
    try:
        with (
            tempfile.TemporaryDirectory(prefix="abort-", dir=cache_root()) as folder,
            console.status("filling memory") as status,
        ):
            count = 0

            def tell(one: Stopped) -> None:
                nonlocal count
                count += 1
                status.update(f"{count} of {stops}: {one.how} {one.seconds * 1000:.0f} ms")

            found = measure(
                stops,
                Path(folder),
                seed=seed,
                dirty_bytes=dirty_mib << 20,
                chunk_seconds=chunk_seconds or 0.0,
                tell=tell,
            )
    except CannotMeasure as error:
        raise click.ClickException(str(error)) from error
    result = summary(found)
    if as_json:
        print(json.dumps(result))
        return
    table = Table(title=f"Stops of prepare on {result['kernel']}, in milliseconds")
    for name in ("", "stops", "median", "p99", "max"):
        table.add_column(name, justify="right" if name else "left")
    for name, row in result["results"].items():
        figures = (row[f"{key}_seconds"] * 1000 for key in ("median", "p99", "max"))
        table.add_row(name, str(row["stops"]), *(f"{figure:.0f}" for figure in figures))
    options.output().print(table)


def _in_a_guest(presses: int, sleeps: int, *, seed: int, again: bool, as_json: bool) -> None:
    from bench import asleep, keypress  # noqa: PLC0415 - they make figures with ours

    options.end_on_sigterm()
    try:
        if presses:
            keypress.run(presses, seed=seed, again=again, as_json=as_json)
        else:
            asleep.run(sleeps, seed=seed, again=again, as_json=as_json)
    except LabError as error:
        raise click.ClickException(str(error)) from error


def main(argv: Sequence[str] | None = None) -> int:
    """`python -m bench.abort`; returns the exit code."""
    try:
        abort.main(args=argv, prog_name="python -m bench abort", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        print("interrupted", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
