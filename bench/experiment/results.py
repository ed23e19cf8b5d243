# SPDX-License-Identifier: LGPL-2.1-or-later
"""Results files: JSON lines. The first says how it was measured, each other one is a sample.

A line is written whole and flushed as soon as its cycle has ended, so that a run that is broken
off goes on where it was; a line that was cut in the middle is dropped when it goes on.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, get_type_hints

from bench.experiment.parameters import Parameters, SwapKind
from bench.experiment.sample import OF_HIBPREP, Arrangement, Condition, Sample, WorkloadKind

FORMAT = 1
_ENUMS = (Condition, WorkloadKind, Arrangement)


class ResultsError(Exception):
    """A results file that cannot be used, with its name and line."""


@dataclass(frozen=True, slots=True)
class Calibration:
    """What hibprep in the guest is told of this machine's speed (see `calibrate`)."""

    fixed_seconds: float
    bytes_per_second: float
    idle_seconds: float
    fuller_seconds: float
    idle_pages: int
    fuller_pages: int


@dataclass(frozen=True, slots=True)
class Results:
    """One results file. ``machine`` is what it was measured on: names to words.

    A run that went on in the same file with other conditions or workloads has written a header of
    its own: ``parameters`` is the last of them, ``plans`` are all.
    """

    parameters: Parameters
    machine: Mapping[str, str] = field(default_factory=dict)
    plans: tuple[Parameters, ...] = ()
    calibration: Calibration | None = None
    samples: tuple[Sample, ...] = ()


def header_line(parameters: Parameters, machine: Mapping[str, str]) -> str:
    """The first line of a results file."""
    return json.dumps(
        {
            "kind": "header",
            "format": FORMAT,
            "machine": dict(machine),
            "parameters": asdict(parameters),
        }
    )


def calibration_line(calibration: Calibration) -> str:
    """The line of a calibration."""
    return json.dumps({"kind": "calibration", **asdict(calibration)})


def sample_line(sample: Sample) -> str:
    """The line of a sample; what was not measured is null."""
    return json.dumps({"kind": "sample", **asdict(sample)})


def parse(text: str, name: str = "results") -> Results:
    """Read a results file; ResultsError with the line that is not one of ours."""
    lines = text.splitlines(keepends=True)
    if lines and not lines[-1].endswith("\n"):
        lines.pop()  # cut when the process that wrote it was killed
    if not lines:
        raise ResultsError(f"{name}: empty")
    plans: list[Parameters] = []
    machine: dict[str, str] = {}
    calibration: Calibration | None = None
    samples: list[Sample] = []
    for number, line in enumerate(lines, 1):
        try:
            values: dict[str, Any] = json.loads(line)
            kind = values.pop("kind")
            if kind == "header":
                if values["format"] != FORMAT:
                    raise ResultsError(f"{name}:{number}: format {values['format']}, not {FORMAT}")
                plans.append(_parameters(values["parameters"]))
                machine = values["machine"]
            elif kind == "calibration":
                calibration = Calibration(**values)
            elif kind == "sample":
                samples.append(_sample(values))
            else:
                raise ResultsError(f"{name}:{number}: no kind of line: {kind!r}")
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise ResultsError(f"{name}:{number}: {error}") from error
    if not plans:
        raise ResultsError(f"{name}:1: the header is missing")
    return Results(plans[-1], machine, tuple(plans), calibration, tuple(samples))


def load(path: Path) -> Results:
    """Read a results file from disk."""
    try:
        return parse(path.read_text(), str(path))
    except OSError as error:
        raise ResultsError(f"{path}: {error.strerror}") from error


def valid(results: Results) -> list[Sample]:
    """The samples that count: hibprep's, its daemon's too, only of the code measured last."""
    codes = [each.code for each in results.samples if each.condition in OF_HIBPREP]
    return [
        each
        for each in results.samples
        if each.condition not in OF_HIBPREP or each.code == codes[-1]
    ]


def _parameters(values: Mapping[str, Any]) -> Parameters:
    listed: dict[str, Any] = {
        "conditions": Condition,
        "workloads": WorkloadKind,
        "arrangements": Arrangement,
        "image_sizes": str,
        "warm_ratios": float,
    }
    found = dict(values)
    for key, make in listed.items():
        items: Iterable[Any] = found[key]
        found[key] = tuple(make(item) for item in items)
    found["swap"] = SwapKind(found["swap"])
    return Parameters(**found)


def _sample(values: Mapping[str, Any]) -> Sample:
    hints = get_type_hints(Sample)
    enums = {name: kind for name, kind in hints.items() if kind in _ENUMS}
    return Sample(**{key: enums.get(key, _as_is)(value) for key, value in values.items()})


def _as_is(value: object) -> object:
    return value
