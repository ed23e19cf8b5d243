# SPDX-License-Identifier: LGPL-2.1-or-later
"""``python -m bench plan``: how quick ``hibprep plan`` is, on this machine and on a large tree.

Three things are timed, each in a process of its own: the whole command on this machine, the reading
and planning alone on a rendered tree of many cgroups, and the whole command on that tree.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

import click
from rich.console import Console
from rich.table import Table

from bench import options
from bench.lab.paths import REPOSITORY, cache_root
from tests.fakes.machine import FakeMachine
from tests.fakes.state import GIB, MIB, AnonSet, FakeCgroup, FakeSwap

COLD_START = "hibprep plan, this machine"
READ_AND_PLAN = "make_plan, the tree"
WHOLE_COMMAND = "hibprep plan, the tree"
TARGET_SECONDS = {COLD_START: 0.3, READ_AND_PLAN: 0.2}
TIMEOUT_SECONDS = 120.0

_CLI = "from hibprep.cli import main; main()"
# Imports are not what is timed here; the first plan of a process is, for no second one follows.
_READ_AND_PLAN = """
import sys, time
from hibprep.config import Config
from hibprep.model import Limits, Target
from hibprep.machine import open_machine
from hibprep.prepare import make_plan
begin = time.perf_counter()
make_plan(open_machine(sys.argv[1], Config()), Target(), Limits())
print(time.perf_counter() - begin)
"""


class CannotMeasure(Exception):
    """A command that is to be timed does not work here."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One run."""

    what: str
    seconds: float


@dataclass(frozen=True, slots=True)
class Row:
    """All runs of one thing; `met` is None where no target is set."""

    what: str
    runs: int
    median_seconds: float
    min_seconds: float
    max_seconds: float
    target_seconds: float | None
    met: bool | None


def tree_machine(cgroups: int) -> FakeMachine:
    """A machine with so many services, in slices of fifty."""
    return FakeMachine(
        total_bytes=64 * GIB,
        cgroups=[
            FakeCgroup(
                f"/slice{number // 50}.slice/service{number}.service",
                anon=[AnonSet(4 * MIB, idle_seconds=30.0)],
                file_bytes=MIB,
                pids=[10_000 + number],
            )
            for number in range(cgroups)
        ],
        swaps=[FakeSwap("/dev/vdb", 64 * GIB, device="254:16")],
        resume_device="254:16",
    )


def rows(samples: Iterable[Sample]) -> list[Row]:
    """The samples by what was timed, in the order in which they came."""
    grouped: dict[str, list[float]] = {}
    for sample in samples:
        grouped.setdefault(sample.what, []).append(sample.seconds)
    found = []
    for what, seconds in grouped.items():
        target = TARGET_SECONDS.get(what)
        found.append(
            Row(
                what=what,
                runs=len(seconds),
                median_seconds=median(seconds),
                min_seconds=min(seconds),
                max_seconds=max(seconds),
                target_seconds=target,
                met=None if target is None else median(seconds) <= target,
            )
        )
    return found


def run_python(program: str, *arguments: str) -> tuple[float, str]:
    """Run a program in a fresh interpreter: the seconds from start to end, and its output."""
    begin = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        cwd=REPOSITORY,
        capture_output=True,
        check=False,
        text=True,
        timeout=TIMEOUT_SECONDS,
    )
    seconds = time.perf_counter() - begin
    if done.returncode != 0:
        words = done.stderr.strip() or f"exit code {done.returncode}"
        raise CannotMeasure(f"{' '.join(arguments) or program.strip()}: {words}")
    return seconds, done.stdout


def measure(runs: int, tree: Path, tell: Callable[[Sample], None]) -> list[Sample]:
    """Time everything so many times, in turns, so that a noisy minute hits all alike.

    One run of each goes before and does not count: it compiles what was never imported here.
    """
    samples: list[Sample] = []
    for number in range(runs + 1):
        alone, _ = run_python(_CLI, "plan", "--json")
        inside = float(run_python(_READ_AND_PLAN, str(tree))[1])
        whole, _ = run_python(_CLI, "plan", "--json", "--root", str(tree))
        if number == 0:
            continue
        for what, seconds in (
            (COLD_START, alone),
            (READ_AND_PLAN, inside),
            (WHOLE_COMMAND, whole),
        ):
            samples.append(Sample(what, seconds))
            tell(samples[-1])
    return samples


def table(found: Sequence[Row], cgroups: int) -> Table:
    """The rows for a person, in milliseconds."""
    shown = Table(title=f"Planning, in milliseconds (the tree: {cgroups} cgroups)")
    for name in ("", "runs", "median", "min", "max", "target", "met"):
        shown.add_column(name, justify="left" if name in ("", "met") else "right")
    for row in found:
        figures = (row.median_seconds, row.min_seconds, row.max_seconds)
        shown.add_row(
            row.what,
            str(row.runs),
            *(f"{figure * 1000:.0f}" for figure in figures),
            "" if row.target_seconds is None else f"{row.target_seconds * 1000:.0f}",
            {None: "", True: "yes", False: "NO"}[row.met],
        )
    return shown


@click.command()
@click.option("--runs", type=click.IntRange(min=1), default=10, show_default=True)
@click.option("--cgroups", type=click.IntRange(min=1), default=2000, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a sample.")
def plan(*, runs: int, cgroups: int, as_json: bool) -> None:
    """How quick `hibprep plan` is from a cold start, and on a tree of many cgroups."""
    console = Console(stderr=True)
    cache_root().mkdir(parents=True, exist_ok=True)
    try:
        with (
            tempfile.TemporaryDirectory(prefix="plan-", dir=cache_root()) as folder,
            console.status(f"making a tree of {cgroups} cgroups") as status,
        ):
            tree_machine(cgroups).render(Path(folder))

            def tell(sample: Sample) -> None:
                status.update(f"{sample.what}: {sample.seconds * 1000:.0f} ms")
                if as_json:
                    print(json.dumps({**asdict(sample), "cgroups": cgroups}), flush=True)

            samples = measure(runs, Path(folder), tell)
    except (CannotMeasure, subprocess.TimeoutExpired) as error:
        raise click.ClickException(str(error)) from error
    if not as_json:
        options.output().print(table(rows(samples), cgroups))
