# SPDX-License-Identifier: LGPL-2.1-or-later
"""``python -m bench abort --guest N``: how soon reclaim has stopped when somebody is back.

In one guest, with its own logind and the daemon run by its unit: cold memory, a session of a
desktop whose idle hint is set, and, at a random moment of the reclaim that follows, taken back.
Measured inside the guest and on one clock (`bench/returning.py`): from the moment at which the call
is sent to logind to the end of the process that writes to the kernel: after that nothing is taken
any more. When logind has answered, and when every setting is back and the report is kept, is
measured beside it. In an emulated guest everything takes many times longer.

What was measured is kept and not measured again.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Console
from rich.table import Table

from bench import desktop, kept, options
from bench.abort import PROMISE_SECONDS, at_percentile
from bench.lab import Guest, Image, LabError, build, build_wheel

MIB = 1 << 20
GIB = 1 << 30
RECIPE = "trixie"
MEMORY_BYTES = GIB
COLD_BYTES = 448 * MIB
BATCH = 5  # presses by one call of the program in the guest
BATCH_SECONDS = 900.0
_MEASURING = tuple(
    Path(__file__).with_name(name) for name in ("keypress.py", "returning.py", "watching.py")
)


@dataclass(frozen=True, slots=True)
class Press:
    """One stop, in seconds since the hint was sent to logind: until logind had answered, until the
    process that writes to the kernel had ended, and until the report of the run was kept, with
    every setting back. `into_run_seconds` is how long the writer had been there."""

    number: int
    accelerator: str  # what ran the guest's code
    stage: str
    in_kernel: bool
    into_run_seconds: float
    answered_seconds: float
    stopped_seconds: float
    reported_seconds: float


# --- figures --------------------------------------------------------------------------------------


def press_of(number: int, accelerator: str, found: dict[str, Any]) -> Press:
    """The sample from what the program in the guest says."""
    asked = float(found["asked_at"])
    return Press(
        number=number,
        accelerator=accelerator,
        stage=str(found["stage"]),
        in_kernel=bool(found["in_kernel"]),
        into_run_seconds=float(found["into_run_seconds"]),
        answered_seconds=found["answered_at"] - asked,
        stopped_seconds=found["stopped_at"] - asked,
        reported_seconds=found["reported_at"] - asked,
    )


def figures(values: Sequence[float]) -> dict[str, float]:
    """In seconds; empty when there are none."""
    if not values:
        return {}
    return {
        "median": median(values),
        "p95": at_percentile(values, 95),
        "p99": at_percentile(values, 99),
        "max": max(values),
    }


def summary(found: Sequence[Press], kernel: str) -> dict[str, Any]:
    """The figures of all stops, of those that met the writer in the kernel, and by stage."""
    groups: dict[str, list[Press]] = {
        "all": list(found),
        "in the kernel": [one for one in found if one.in_kernel],
    }
    for one in found:
        groups.setdefault(f"stage {one.stage}", []).append(one)
    stopped = figures([one.stopped_seconds for one in found])
    return {
        "kernel": kernel,
        "accelerator": " and ".join(sorted({one.accelerator for one in found})),
        "promise_seconds": PROMISE_SECONDS,
        "kept": stopped["p99"] <= PROMISE_SECONDS if stopped else None,
        "results": {
            name: {
                "stops": len(group),
                "answered_seconds": figures([one.answered_seconds for one in group]),
                "stopped_seconds": figures([one.stopped_seconds for one in group]),
                "reported_seconds": figures([one.reported_seconds for one in group]),
            }
            for name, group in groups.items()
            if group
        },
        "stops": [asdict(one) for one in found],
    }


_SHOWN = (
    ("reclaim has stopped", "stopped_seconds"),
    ("  logind has answered", "answered_seconds"),
    ("  settings are back, report kept", "reported_seconds"),
)


def table(result: dict[str, Any]) -> Table:
    """For a person, in milliseconds since the key press."""
    title = f"From a key press, in milliseconds: {result['kernel']} under {result['accelerator']}"
    drawn = Table(title=title)
    for name in ("", "stops", "median", "p95", "p99", "max"):
        drawn.add_column(name, justify="right" if name else "left")
    for group, row in result["results"].items():
        for words, key in _SHOWN if group == "all" else _SHOWN[:1]:
            name = words if group == "all" else f"{group}: {words}"
            values = row[key]
            cells = (f"{values[each] * 1000:.0f}" for each in ("median", "p95", "p99", "max"))
            drawn.add_row(name, str(row["stops"]), *cells)
    return drawn


# --- measuring ------------------------------------------------------------------------------------


def still_to_do(presses: int, found: Iterable[Press]) -> list[int]:
    """The numbers of those that have not been measured."""
    done = {one.number for one in found}
    return [number for number in range(presses) if number not in done]


def make_ready(guest: Guest) -> desktop.Desktop:
    """What a guest needs once: hibprep as a daemon, a session, the program that measures."""
    guest.install(build_wheel())
    session = desktop.open_session(guest)
    desktop.start_daemon(guest, desktop.AT_ONCE)
    desktop.put_program(guest)
    return session


def measure_batch(
    guest: Guest, session: desktop.Desktop, numbers: Sequence[int], seed: int
) -> list[Press]:
    """So many stops in a row; their moments are of the seed and of the first number."""
    done = guest.run(
        [
            *(*desktop.RETURNING, "press", f"--session={session.path}"),
            *(f"--presses={len(numbers)}", f"--seed={seed * 1000 + numbers[0]}"),
            f"--cold-bytes={COLD_BYTES}",
        ],
        timeout=BATCH_SECONDS,
    )
    if done.returncode:
        raise LabError(f"{done.error_text.strip()}\n{desktop.said(desktop.journal(guest)[-30:])}")
    samples = done.json()["samples"]
    return [
        press_of(number, guest.accelerator, one)
        for number, one in zip(numbers, samples, strict=True)
    ]


def measure(
    image: Image,
    left: Sequence[int],
    seed: int,
    tell: Callable[[str], None],
    done: Callable[[list[Press]], None],
) -> None:
    """Boot a guest and measure what is left; `done` gets each batch."""
    with Guest(image, memory_bytes=MEMORY_BYTES, progress=tell) as guest:
        guest.start()
        tell("installing hibprep in the guest")
        session = make_ready(guest)
        for at in range(0, len(left), BATCH):
            tell(f"key press {at + 1} of {len(left)}")
            done(measure_batch(guest, session, left[at : at + BATCH], seed))


def run(presses: int, *, seed: int, again: bool, as_json: bool) -> None:
    """Measure what is still to be measured, and print the figures. Raises LabError."""
    console = Console(stderr=True)
    with console.status("looking for the image") as status:
        image = build(RECIPE, status.update)
        path = kept.samples_file(
            "keypress", f"{image.kernel_release}-{seed}", _MEASURING, again=again
        )
        found = kept.load(path, Press)

        def done(batch: list[Press]) -> None:
            for one in batch:
                found.append(one)
                kept.keep(path, one)
            if not console.is_terminal:
                words = ", ".join(f"{one.stopped_seconds * 1000:.0f}" for one in batch)
                print(f"{len(found)} of {presses}: {words} ms", file=sys.stderr, flush=True)

        left = still_to_do(presses, found)
        if left:
            measure(image, left, seed, status.update, done)
    found = sorted((one for one in found if one.number < presses), key=lambda one: one.number)
    result = summary(found, image.kernel_release)
    if as_json:
        print(json.dumps(result))
    else:
        options.output().print(table(result))
