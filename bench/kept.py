# SPDX-License-Identifier: LGPL-2.1-or-later
"""Samples that are kept line by line, so that a run that was broken off goes on where it was."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from bench.lab.paths import cache_root
from bench.lab.wheel import code_key

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Sample = TypeVar("Sample")


def samples_file(bench: str, what: str, measuring: Iterable[Path], *, again: bool = False) -> Path:
    """Where a benchmark keeps its samples of `what` (a kernel, an arrangement).

    The code that is measured and the files that measure belong to the name: samples of others are
    not mixed with theirs. `again`: those that are there are forgotten.
    """
    digest = hashlib.sha256(code_key().encode())
    for path in measuring:
        digest.update(path.read_bytes() + b"\0")
    found = cache_root() / bench / f"{what}-{digest.hexdigest()[:12]}.jsonl"
    found.parent.mkdir(parents=True, exist_ok=True)
    if again:
        found.unlink(missing_ok=True)
    return found


def keep(path: Path, sample: DataclassInstance) -> None:
    """Add one to the file."""
    with path.open("a") as lines:
        lines.write(json.dumps(asdict(sample)) + "\n")


def load(path: Path, make: Callable[..., Sample]) -> list[Sample]:
    """What was kept, made of its fields. A line that was broken off with the process that wrote it
    is left out."""
    if not path.exists():
        return []
    found = []
    for line in path.read_text().splitlines():
        try:
            found.append(make(**json.loads(line)))
        except (ValueError, TypeError, KeyError):
            continue
    return found
