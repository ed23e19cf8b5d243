# SPDX-License-Identifier: LGPL-2.1-or-later
"""The speeds of this machine: configured, else measured and kept, else defaults.

Measured ones are kept in /var/lib/hibprep/rates.json, so that `plan` answers at once; `prepare` and
`hibernate` measure when they aim at a time and nothing is known yet. What a preparation takes is
learnt from every one.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import fields, replace

from hibprep import fitting
from hibprep.clock import Clock
from hibprep.errors import KernelFileError
from hibprep.kernel.measure import compress_bytes_per_second, read_bytes_per_second
from hibprep.kernel.root import KernelRoot
from hibprep.model import Rates, Report, Snapshot, Stage

FILE = "/var/lib/hibprep/rates.json"
_NAMES = frozenset(field.name for field in fields(Rates)) - {"sources"}
_LEAST_BYTES = 64 << 20  # the time that less than this takes says little of a speed
_LEAST_SECONDS = 0.05


def combine(measured: Mapping[str, tuple[float, str]], configured: Mapping[str, float]) -> Rates:
    """Defaults, over them what was measured (value and when), over that what is configured."""
    values = {name: value for name, (value, _) in measured.items() if name in _NAMES}
    sources = {name: f"measured {when}" for name, (_, when) in measured.items() if name in _NAMES}
    values.update(configured)
    sources.update(dict.fromkeys(configured, "configured"))
    return replace(
        Rates(),
        **values,
        sources={name: sources.get(name, "default") for name in sorted(_NAMES)},
    )


def load(root: KernelRoot) -> dict[str, tuple[float, str]]:
    """What was measured earlier; nothing when there is no file or it makes no sense."""
    try:
        stored = json.loads(root.try_read(FILE) or "{}")
        return {
            str(name): (float(value), str(when))
            for name, (value, when) in stored.items()
            if 0 < float(value) < math.inf
        }
    except (ValueError, TypeError, AttributeError, OverflowError):
        return {}


def save(root: KernelRoot, measured: Mapping[str, tuple[float, str]]) -> str:
    """Keep them; the note that says why not, when that cannot be done."""
    path = root.path(FILE)
    temporary = path.with_suffix(f".{os.getpid()}")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        temporary.write_text(json.dumps(dict(measured), indent=1, sort_keys=True) + "\n")
        temporary.replace(path)
    except OSError as error:
        return f"measured rates were not kept: {path}: {error.strerror}"
    return ""


def measure(
    root: KernelRoot, snapshot: Snapshot, clock: Clock
) -> tuple[dict[str, tuple[float, str]], tuple[str, ...]]:
    """Measure what can be measured at once (less than a second), and what could not be and why."""
    when = clock.now().strftime("%Y-%m-%d")
    found: dict[str, tuple[float, str]] = {}
    notes = []
    area = fitting.resume_area(snapshot)
    if area is not None:
        try:
            speed = read_bytes_per_second(root, area.path, clock)
        except KernelFileError as error:
            notes.append(f"the speed of the resume device was not measured: {error}")
        else:
            found["disk_read_bytes_per_second"] = (speed, when)
            # Writing is not tried out on somebody's swap; disks that write much more slowly than
            # they read want disk_write_bytes_per_second in the configuration.
            found["disk_write_bytes_per_second"] = (speed, when)
    packing = compress_bytes_per_second(snapshot.cpus, clock)
    found["compress_bytes_per_second"] = (packing, when)
    found["decompress_bytes_per_second"] = (2 * packing, when)
    return found, tuple(notes)


def learnt(
    report: Report, known: Mapping[str, tuple[float, str]], when: str
) -> dict[str, tuple[float, str]]:
    """What a run tells of the speed of preparing; empty when it tells nothing. Pure.

    How fast memory goes depends on what is in it, too, and a deadline that was promised with too
    good a speed is missed: slower than was known counts at once, faster counts half.
    """
    found = {}
    anon = [
        step
        for step in report.steps
        if step.stage in (Stage.COLD_ANON, Stage.ANON)
        # into zswap or as pages of zeros it goes faster, and that does not tell of the disk
        and 2 * step.freed.swapped_out_bytes >= step.freed.anon_bytes
    ]
    cache = [step for step in report.steps if step.stage is Stage.CACHE]
    for name, amount_bytes, steps in (
        ("swap_out_bytes_per_second", sum(step.freed.anon_bytes for step in anon), anon),
        ("drop_bytes_per_second", sum(step.freed.file_bytes for step in cache), cache),
    ):
        seconds = sum(step.seconds - step.waited_seconds for step in steps)
        if amount_bytes >= _LEAST_BYTES and seconds >= _LEAST_SECONDS:
            found[name] = amount_bytes / seconds
    if report.steps:
        beside = report.seconds - sum(step.seconds for step in report.steps)
        found["fixed_prepare_seconds"] = max(_LEAST_SECONDS, beside)
    return {name: (_careful(name, value, known), when) for name, value in found.items()}


def _careful(name: str, value: float, known: Mapping[str, tuple[float, str]]) -> float:
    if name not in known:
        return value
    mean = (value + known[name][0]) / 2
    return max(value, mean) if name.endswith("_seconds") else min(value, mean)
