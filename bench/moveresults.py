# SPDX-License-Identifier: LGPL-2.1-or-later
"""Results of `bench/migrate.py` as a file that goes with the project: JSON lines. The first says
how and where it was measured, each other one is a sample."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from bench.moves import Condition, Load, Sample, Setting

KIND = "migrate"
FORMAT = 1


class MigrateResultsError(Exception):
    """A file that cannot be used, with its name and line."""


@dataclass(frozen=True, slots=True)
class MigrateResults:
    """One file. ``machine`` is what it was measured on: names to words."""

    setting: Setting
    kernel: str
    machine: Mapping[str, str] = field(default_factory=dict)
    samples: tuple[Sample, ...] = ()


def sample_of(**values: Any) -> Sample:  # noqa: ANN401 - JSON
    """A sample from its fields as JSON has them."""
    enums = {"condition": Condition(values["condition"]), "load": Load(values["load"])}
    return Sample(**{**values, **enums})


def text_of(found: MigrateResults) -> str:
    """The whole file."""
    header = {
        "kind": KIND,
        "format": FORMAT,
        "kernel": found.kernel,
        "machine": dict(found.machine),
        "setting": asdict(found.setting),
    }
    lines: Sequence[object] = [header, *(asdict(each) for each in found.samples)]
    return "".join(json.dumps(line) + "\n" for line in lines)


def is_one(path: Path) -> bool:
    """Whether the file says that it is one of these."""
    try:
        with path.open() as stream:
            first = json.loads(stream.readline())
    except (OSError, ValueError):
        return False  # whoever reads it as another kind will say what is wrong with it
    return isinstance(first, dict) and first.get("kind") == KIND


def parse(text: str, name: str = "results") -> MigrateResults:
    """Read one; MigrateResultsError with the line that is not one of ours."""
    lines = text.splitlines()
    number = 1
    try:
        header = json.loads(lines[0])
        if header["format"] != FORMAT:
            raise MigrateResultsError(f"{name}:1: format {header['format']}, not {FORMAT}")
        setting = Setting(**header["setting"])
        samples = []
        for number, line in enumerate(lines[1:], 2):  # noqa: B007 - for the message
            samples.append(sample_of(**json.loads(line)))
        return MigrateResults(setting, header["kernel"], header["machine"], tuple(samples))
    except (ValueError, TypeError, KeyError, IndexError) as error:
        raise MigrateResultsError(f"{name}:{number}: {error}") from error


def load(path: Path) -> MigrateResults:
    """Read one from disk."""
    try:
        return parse(path.read_text(), str(path))
    except OSError as error:
        raise MigrateResultsError(f"{path}: {error.strerror}") from error
