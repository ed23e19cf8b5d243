# SPDX-License-Identifier: LGPL-2.1-or-later
"""``python -m bench footprint``: what hibprep itself takes, on this machine.

Memory, processor time and context switches of the commands that change nothing, each in a process
of its own; with ``--reclaim`` also of one at work, for which a swap file is made and a little of
the machine's anonymous memory goes there and back. With ``--daemon`` of the daemon at rest, which
is started for that with its files apart from the machine's, with ``--peers`` of other people's
services beside it, with ``--pid`` of a process that runs.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from bench import options
from bench.apart import STATE, apart
from bench.lab.paths import cache_root
from bench.load import CannotMeasure, Filler, renew_swap, temporary_swap
from bench.peers import watch_peers
from bench.services import watch_daemon
from bench.usage import Run, Watched, run_once, watch

MIB = 1 << 20
CLI = (sys.executable, "-c", "from hibprep.cli import main; main()")
# name -> arguments, and the exit codes that are answers: `check` has 4 for "not possible here".
COMMANDS: dict[str, tuple[tuple[str, ...], tuple[int, ...]]] = {
    "hibprep plan": (("plan", "--json"), (0,)),
    "hibprep check": (("check", "--json"), (0, 4)),
    "hibprep prepare --dry-run": (("prepare", "--dry-run", "--json"), (0,)),
}
RECLAIM_MIB = 128
RECLAIM = f"hibprep reclaim {RECLAIM_MIB}M"
_FILL_BYTES = 2 * RECLAIM_MIB * MIB
_SWAP_BYTES = 4 * RECLAIM_MIB * MIB


# --- figures --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Spread:
    """One figure over all runs."""

    median: float
    min: float
    max: float


@dataclass(frozen=True, slots=True)
class Row:
    """All runs of one command; sizes in bytes, times in seconds a run."""

    what: str
    runs: int
    peak_rss_bytes: Spread
    cpu_seconds: Spread
    context_switches: Spread
    wall_seconds: Spread


def spread(values: Sequence[float]) -> Spread:
    """Median and bounds of at least one value."""
    return Spread(median(values), min(values), max(values))


def rows(runs: Iterable[Run]) -> list[Row]:
    """The runs by command, in the order in which these came first."""
    grouped: dict[str, list[Run]] = {}
    for run in runs:
        grouped.setdefault(run.what, []).append(run)
    return [
        Row(
            what=what,
            runs=len(group),
            peak_rss_bytes=spread([run.peak_rss_bytes for run in group]),
            cpu_seconds=spread([run.cpu_seconds for run in group]),
            context_switches=spread([run.context_switches for run in group]),
            wall_seconds=spread([run.wall_seconds for run in group]),
        )
        for what, group in grouped.items()
    ]


def _shown(figure: Spread, factor: float, digits: int) -> str:
    middle, low, high = (
        f"{value * factor:.{digits}f}" for value in (figure.median, figure.min, figure.max)
    )
    return f"{middle}\n({low}–{high})"


def command_table(found: Sequence[Row]) -> Table:
    """The commands for a person: median, and below it the bounds."""
    shown = Table(title="What a run takes: median and (min–max)", show_lines=True)
    shown.add_column("")
    for name in ("runs", "peak RSS, MiB", "CPU, ms", "switches", "wall, ms"):
        shown.add_column(name, justify="right")
    for row in found:
        shown.add_row(
            row.what,
            str(row.runs),
            _shown(row.peak_rss_bytes, 1 / MIB, 1),
            _shown(row.cpu_seconds, 1e3, 0),
            _shown(row.context_switches, 1, 0),
            _shown(row.wall_seconds, 1e3, 0),
        )
    return shown


def process_table(found: Sequence[Watched]) -> Table:
    """The processes that run, for a person."""
    shown = Table(title="What a running process takes, its descendants included")
    shown.add_column("", no_wrap=True)
    names = ("seconds", "RSS, MiB", "PSS, MiB", "private, MiB", "CPU, %", "wake-ups in 10 s")
    for name in names:
        shown.add_column(name, justify="right")
    for each in found:
        sizes = (each.rss_bytes, each.pss_bytes, each.private_bytes)
        shown.add_row(
            each.what,
            f"{each.seconds:.1f}",
            *(f"{size / MIB:.1f}" for size in sizes),
            f"{each.cpu_seconds / each.seconds * 100:.3f}",
            f"{each.wakeups_per_second * 10:.1f}",
        )
    return shown


# --- measuring ------------------------------------------------------------------------------------


def measure_commands(number: int, tell: Callable[[Run], None]) -> list[Run]:
    """Every command so often, in turns. The first run of each does not count: it compiles what was
    never imported here."""
    runs: list[Run] = []
    for turn in range(number + 1 if number else 0):
        for what, (arguments, codes) in COMMANDS.items():
            run = run_once(what, [*CLI, *arguments], codes=codes)
            if turn > 0:
                runs.append(run)
                tell(run)
    return runs


def measure_reclaim(number: int, folder: Path, tell: Callable[[Run], None]) -> list[Run]:
    """`hibprep reclaim` of a little memory, with twice as much there; it is brought back between
    the runs."""
    command = [*CLI, "reclaim", f"{RECLAIM_MIB}M", "--type", "anon", "--json"]
    # reports of a bench are none of the machine's
    argv = apart({STATE: folder}, command)
    runs = []
    with temporary_swap(_SWAP_BYTES) as swap, Filler(_FILL_BYTES) as filler:
        for _ in range(number):
            runs.append(run_once(RECLAIM, argv, codes=(0, 3)))
            tell(runs[-1])
            renew_swap(swap)
            filler.touch()
    return runs


def result(
    found: Sequence[Row], watched: Sequence[Watched], absent: Sequence[str] = ()
) -> dict[str, Any]:
    """The one JSON object; `absent` is who could not be watched, and why."""
    return {
        "commands": [asdict(row) for row in found],
        "processes": [asdict(each) for each in watched],
        "absent": list(absent),
    }


@click.command()
@click.option(
    "--runs",
    "number",
    type=click.IntRange(min=0),
    default=10,
    show_default=True,
    help="How often each command is run; with 0 none is.",
)
@click.option(
    "--reclaim",
    "with_reclaim",
    is_flag=True,
    help=f"Also a reclaim of {RECLAIM_MIB} MiB, to a swap file of its own; takes root.",
)
@click.option(
    "--daemon", "with_daemon", is_flag=True, help="Also the daemon, with nothing to do; takes root."
)
@click.option(
    "--peers",
    "with_peers",
    is_flag=True,
    help="Also nohang, autosuspend, earlyoom and swayidle where they are installed, told to do "
    "nothing.",
)
@click.option("--pid", "pids", type=click.IntRange(min=1), multiple=True, help="Also a process.")
@click.option(
    "--seconds",
    type=click.FloatRange(min=0.1),
    default=10.0,
    show_default=True,
    help="How long each process is watched.",
)
@click.option(
    "--settle",
    "settle_seconds",
    type=click.FloatRange(min=0.1),
    default=35.0,
    show_default=True,
    help="How long after its start a service is not watched yet.",
)
@options.as_json
def footprint(
    *,
    number: int,
    with_reclaim: bool,
    with_daemon: bool,
    with_peers: bool,
    pids: tuple[int, ...],
    seconds: float,
    settle_seconds: float,
    as_json: bool,
) -> None:
    """Memory, processor time and context switches of hibprep's commands on this machine."""
    console = Console(stderr=True)
    cache_root().mkdir(parents=True, exist_ok=True)
    watched: list[Watched] = []
    absent: list[str] = []
    try:
        with (
            tempfile.TemporaryDirectory(prefix="footprint-", dir=cache_root()) as folder,
            console.status("measuring") as status,
        ):

            def tell(run: Run) -> None:
                status.update(f"{run.what}: {run.wall_seconds * 1e3:.0f} ms")

            def watching(what: str) -> None:
                status.update(f"watching {what} for {seconds:g} s")

            runs = measure_commands(number, tell)
            if with_reclaim:
                status.update("making a swap file")
                runs += measure_reclaim(number, Path(folder), tell)
            if with_daemon:
                watching("the daemon")
                watched.append(
                    watch_daemon(Path(folder), settle_seconds=settle_seconds, seconds=seconds)
                )
            if with_peers:
                found, absent = watch_peers(
                    Path(folder), watching, settle_seconds=settle_seconds, seconds=seconds
                )
                watched += found
            for pid in pids:
                watching(f"process {pid}")
                watched.append(watch(pid, seconds))
    except CannotMeasure as error:
        raise click.ClickException(str(error)) from error
    show(rows(runs), watched, absent, as_json=as_json)


def show(
    found: Sequence[Row], watched: Sequence[Watched], absent: Sequence[str], *, as_json: bool
) -> None:
    """Everything, on standard output."""
    if as_json:
        print(json.dumps(result(found, watched, absent)))
        return
    console = options.output()
    if found:
        console.print(command_table(found))
    if watched:
        console.print(process_table(watched))
    for words in absent:
        console.print(f"not watched: {words}", markup=False, highlight=False, soft_wrap=True)
