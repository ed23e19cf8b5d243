# SPDX-License-Identifier: LGPL-2.1-or-later
"""``python -m bench hibernate``: the experiment from the command line."""

from __future__ import annotations

import contextlib
import json
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from datetime import timedelta
from enum import StrEnum
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn, TypeVar

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from bench import options as shared
from bench.experiment.parameters import DEFAULT_IMAGE_SIZE, Parameters, SwapKind
from bench.experiment.results import Results, ResultsError, load, valid
from bench.experiment.run import Step, Watch, run
from bench.experiment.sample import Arrangement, Condition, Sample, WorkloadKind
from bench.lab import RECIPES, LabError
from bench.lab.paths import REPOSITORY
from hibprep.sizes import parse_size

Value = TypeVar("Value")
Words = TypeVar("Words", bound=StrEnum)


# --- options ------------------------------------------------------------------------------------


def _converted(
    read: Callable[[str], Value],
) -> Callable[[click.Context, click.Parameter, str | None], Value | None]:
    def callback(ctx: click.Context, param: click.Parameter, value: str | None) -> Value | None:
        if value is None:
            return None
        try:
            return read(value)
        except ValueError as error:
            raise click.BadParameter(str(error), ctx, param) from None

    return callback


def _list(read: Callable[[str], Value]) -> Callable[[str], tuple[Value, ...]]:
    def parse(text: str) -> tuple[Value, ...]:
        return tuple(dict.fromkeys(read(word.strip()) for word in text.split(",")))

    return parse


def _words(kind: type[Words]) -> Callable[[str], Words]:
    def parse(text: str) -> Words:
        try:
            return kind(text)
        except ValueError:
            raise ValueError(f"{text!r} is none of {', '.join(kind)}") from None

    return parse


def _image_size(text: str) -> str:
    return text if text == DEFAULT_IMAGE_SIZE else str(parse_size(text))


def _ratio(text: str) -> float:
    value = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    if not 0 < value <= 1:
        raise ValueError(f"{text!r} is not a share: give one above 0 and up to 1, or in per cent")
    return value


def _workload(text: str) -> WorkloadKind:
    found = _words(WorkloadKind)(text)
    if found is WorkloadKind.NONE:
        raise ValueError("none is what the condition idle has; name what is to fill the memory")
    return found


def _option(name: str, read: Callable[[str], Any], words: str, metavar: str) -> Any:  # noqa: ANN401  # click's decorator
    return click.option(f"--{name}", callback=_converted(read), help=words, metavar=metavar)


_OPTIONS = (
    click.option("--recipe", type=click.Choice(sorted(RECIPES)), help="The guest's distribution."),
    _option("memory", parse_size, "The guest's memory.", "SIZE"),
    click.option("--cpus", type=click.IntRange(min=1), help="The guest's processors."),
    _option("fill", _ratio, "The share of memory that is filled.", "SHARE"),
    click.option("--settle", type=click.FloatRange(min=0), help="Rest after filling, seconds."),
    _option("disk-rate", parse_size, "What each disk is throttled to, a second.", "SIZE"),
    click.option(
        "--disk-requests",
        type=click.IntRange(min=0),
        help="To how many requests, a second; 0: to none.",
    ),
    _option("swap", _words(SwapKind), "A partition, or a file on ext4.", "partition|file"),
    _option("swap-size", parse_size, "How large it is.", "SIZE"),
    click.option("--compressor", help="The image's: lzo, lz4 (where the kernel has a choice)."),
    _option("image-size", _list(_image_size), "image_size: default or bytes.", "LIST"),
    _option("condition", _list(_words(Condition)), "What is done before.", "LIST"),
    _option("workload", _list(_workload), "What fills the memory.", "LIST"),
    _option("arrangement", _list(_words(Arrangement)), "One program, or two.", "LIST"),
    _option("warm", _list(_ratio), "The working set by memory.", "LIST"),
    click.option(
        "--within", type=click.FloatRange(min=1), help="hibprep's time, by the idle guest's."
    ),
    click.option("--runs", type=click.IntRange(min=1), help="How often each is measured."),
)
# option -> field of Parameters, where they differ
_FIELDS = {
    "memory": "memory_bytes",
    "fill": "fill_ratio",
    "settle": "settle_seconds",
    "disk_rate": "disk_bytes_per_second",
    "disk_requests": "disk_requests_per_second",
    "swap_size": "swap_bytes",
    "image_size": "image_sizes",
    "condition": "conditions",
    "workload": "workloads",
    "arrangement": "arrangements",
    "warm": "warm_ratios",
    "within": "within_ratio",
}


def _with_options(command: Callable[..., None]) -> Callable[..., None]:
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def plans_from(like: Path | None, options: dict[str, Any]) -> tuple[Parameters, ...]:
    """The reference experiment, or what a results file was made with; with what was given."""
    given = {_FIELDS.get(name, name): value for name, value in options.items() if value is not None}
    if like is None and "memory_bytes" in given:
        given.setdefault("swap_bytes", 2 * given["memory_bytes"])
    plans = (Parameters(),) if like is None else load(like).plans
    return tuple(dict.fromkeys(replace(plan, **given) for plan in plans))


def default_output(plan: Parameters) -> Path:
    """A file for each kind of guest."""
    name = f"hibernate-{plan.recipe}-{plan.memory_bytes / (1 << 30):g}GiB.jsonl"
    return REPOSITORY / "bench" / "results" / name


# --- what is seen ---------------------------------------------------------------------------------


@contextlib.contextmanager
def _watching(console: Console) -> Iterator[Watch]:
    """A bar with the time left on a terminal, elsewhere a line for each cycle."""
    if not console.is_terminal:

        def tell(step: Step) -> None:
            if step.sample is not None:
                left = timedelta(seconds=round(step.left_seconds))
                print(
                    f"{step.done}/{step.total} {step.what}: {_in_words(step.sample)}; {left} left",
                    file=sys.stderr,
                    flush=True,
                )

        yield tell
        return
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[left]} left"),
        console=console,
    )
    with bar:
        task = bar.add_task("starting", total=None, left="?")

        def show(step: Step) -> None:
            if step.sample is not None:
                bar.console.print(f"{step.what}: {_in_words(step.sample)}", highlight=False)
            left = str(timedelta(seconds=round(step.left_seconds)))
            bar.update(
                task, description=step.what, completed=step.done, total=step.total, left=left
            )

        yield show


def _in_words(sample: Sample) -> str:
    if sample.failed:
        return f"FAILED: {sample.failure}"
    words = [
        f"prepared in {sample.prepare_seconds:.1f} s" if sample.prepare_seconds else "",
        f"off in {sample.hibernate_seconds:.1f} s",
        f"answers after {sample.resume_seconds:.1f} s",
        f"usable after {sample.usable_seconds:.1f} s",
    ]
    return ", ".join(word for word in words if word)


def summary(results: Results) -> Table:
    """Every sample that counts, a row each."""
    shown = Table(title="Seconds, from outside the guest")
    shown.add_column("condition", no_wrap=True)  # hibprep and hibprepd begin alike
    for name in ("workload", "image_size", "run"):
        shown.add_column(name)
    for name in ("prepare", "hibernate", "first answer", "usable", "image"):
        shown.add_column(name, justify="right")
    for sample in valid(results):
        working = f" {sample.warm_ratio:.0%} {sample.arrangement}" if sample.warm_ratio else ""
        row = [sample.condition, sample.workload + working, sample.image_size, str(sample.run + 1)]
        if sample.failed:
            shown.add_row(*row, "failed", sample.failure[:60])
            continue
        times = (
            sample.prepare_seconds,
            sample.hibernate_seconds,
            sample.resume_seconds,
            sample.usable_seconds,
        )
        image = (sample.image_pages or 0) * 4096 / 1e6
        shown.add_row(*row, *(f"{each or 0:.1f}" for each in times), f"{image:.0f} MB")
    return shown


def _terminated(number: int, frame: FrameType | None) -> NoReturn:
    # As an exception, so that the guest is ended and its disks removed on the way out.
    del number, frame
    raise SystemExit(143)


@click.command()
@_with_options
@click.option(
    "--like",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="RESULTS",
    help="Take all that is not given from this file's own run.",
)
@click.option(
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Where samples go, and where a run that was broken off goes on.  "
    "[default: bench/results/hibernate-RECIPE-MEMORY.jsonl]",
)
@click.option("--again", is_flag=True, help="Forget what the file has.")
@click.option("--retry-failed", is_flag=True, help="Measure cycles that failed once more.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object and nothing else.")
def hibernate(
    *,
    like: Path | None,
    output: Path | None,
    again: bool,
    retry_failed: bool,
    as_json: bool,
    **options: Any,  # noqa: ANN401  # of many types, named in _OPTIONS
) -> None:
    """The reference experiment: fill a guest, prepare it in several ways, hibernate, resume.

    Without options it is the reference's own: 8 GiB, 85 % filled, 60 s of rest, 100 MB/s. LISTs
    are separated by commas. All times are taken from outside the guest. A run that is broken off
    goes on where it was when it is started again. hibprepd, the daemon, is left out of an
    image_size other than the kernel's own, unless that is all that is asked for.
    """
    console = Console(stderr=True)
    signal.signal(signal.SIGTERM, _terminated)
    try:
        plans = plans_from(like, options)
        path = output or default_output(plans[0])
        if again:
            path.unlink(missing_ok=True)
        with _watching(console) as watch:
            results = run(path, plans, watch, failed_too=retry_failed)
    except (LabError, ResultsError) as error:
        raise click.ClickException(str(error)) from error
    if as_json:
        print(json.dumps({"samples": [asdict(each) for each in results.samples]}))
    else:
        shared.output().print(summary(results))
        print(f"{path}: {len(results.samples)} samples")
