# SPDX-License-Identifier: LGPL-2.1-or-later
"""Runs what is still to be done of a results file, cycle by cycle."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from bench.experiment.calibrate import calibrate
from bench.experiment.cycle import Bench, measure, new_guest
from bench.experiment.loads import HAS_WORKING_SET
from bench.experiment.parameters import Parameters
from bench.experiment.results import (
    Calibration,
    Results,
    ResultsError,
    calibration_line,
    header_line,
    load,
    sample_line,
)
from bench.experiment.sample import GIVEN_TIME, Condition, Sample
from bench.experiment.schedule import Cell, expected_seconds, floor_seconds, still_to_do
from bench.lab import LabError, build, build_wheel, qemu
from bench.lab.wheel import code_key
from hibprep import __version__

# What decides the cells, and may differ between the parts of one file; all else must be the same.
_MAY_DIFFER = ("conditions", "workloads", "arrangements", "image_sizes", "warm_ratios", "runs")
_CALIBRATE_RATIO = 0.10


@dataclass(frozen=True, slots=True)
class Step:
    """How far it is: for a progress bar."""

    done: int
    total: int
    what: str
    left_seconds: float
    sample: Sample | None = None


Watch = Callable[[Step], None]


def machine_facts(qemu_version: str) -> dict[str, str]:
    """What the guests run on."""
    model = ""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            model = value.strip()
            break
    pages, size = os.sysconf("SC_PHYS_PAGES"), os.sysconf("SC_PAGE_SIZE")
    return {
        "processor": model,
        "processors": str(os.cpu_count()),
        "memory": f"{pages * size / (1 << 30):.1f} GiB",
        "kernel": platform.release(),
        "qemu": qemu_version,
        "python": platform.python_version(),
        "hibprep": __version__,
    }


def open_results(path: Path, plans: Sequence[Parameters]) -> Results | None:
    """What is in the file already; ResultsError when it was measured in another way."""
    if not path.exists():
        return None
    found = load(path)
    for plan in plans:
        alike = replace(plan, **{name: getattr(found.parameters, name) for name in _MAY_DIFFER})
        if alike != found.parameters:
            raise ResultsError(
                f"{path} was measured with {_differences(found.parameters, alike)}; give another "
                "file with --output, or --again to begin anew"
            )
    return found


def _differences(old: Parameters, new: Parameters) -> str:
    names = [name for name in Parameters.__slots__ if getattr(old, name) != getattr(new, name)]
    return ", ".join(f"{name} {getattr(old, name)}, not {getattr(new, name)}" for name in names)


def run(path: Path, plans: Sequence[Parameters], watch: Watch, *, failed_too: bool) -> Results:
    """Measure what the file lacks of all plans, and return what is in it then."""
    found = open_results(path, plans)
    code = code_key()
    samples = list(found.samples) if found else []
    left = _left(plans, samples, code, failed_too=failed_too)
    if left:
        _must_have_floors(left, samples)
        _Run(path, plans, watch, code).measure(found, left, samples)
    return load(path)


def _left(
    plans: Sequence[Parameters], samples: Sequence[Sample], code: str, *, failed_too: bool
) -> list[Cell]:
    """The cells of all plans, each once."""
    found: dict[Cell, None] = {}
    for plan in plans:
        found.update(dict.fromkeys(still_to_do(plan, samples, code, failed_too=failed_too)))
    return list(found)


def _must_have_floors(left: Sequence[Cell], samples: Sequence[Sample]) -> None:
    """Raise LabError now rather than after an hour."""
    to_come = {cell.image_size for cell in left if cell.condition is Condition.IDLE}
    for cell in left:
        known = cell.image_size in to_come or floor_seconds(samples, cell.image_size) is not None
        if needs_budget(cell) and not known:
            raise LabError(
                f"{cell}: hibprep's time is made of the idle guest's, and none was measured",
                "add --condition idle",
            )


def needs_budget(cell: Cell) -> bool:
    """Whether hibprep is given a time in this cell."""
    return cell.condition in GIVEN_TIME and cell.workload in HAS_WORKING_SET


@dataclass
class _Run:
    path: Path
    plans: Sequence[Parameters]
    watch: Watch
    code: str
    spent: list[tuple[Cell, float]] = field(default_factory=list)

    def measure(self, found: Results | None, left: list[Cell], samples: list[Sample]) -> None:
        parameters = self.plans[0]
        total = len(left)

        def say(words: str) -> None:
            waiting = expected_seconds(left, self.spent, parameters)
            self.watch(Step(total - len(left), total, words, waiting))

        bench = Bench(
            parameters=parameters,
            image=build(parameters.recipe, say),
            wheel=build_wheel(),
            code=self.code,
            calibration=found.calibration if found else None,
        )
        self._heads(found, qemu.find(say).version)
        if bench.calibration is None and any(needs_budget(cell) for cell in left):
            bench = replace(bench, calibration=self._calibrate(bench, say))
        while left:
            cell = left[0]
            began = time.monotonic()
            budget = self._budget(cell, samples)
            sample = measure(bench, cell, budget, self._about(cell, say))
            self._append(sample_line(sample))
            samples.append(sample)
            self.spent.append((left.pop(0), time.monotonic() - began))
            waiting = expected_seconds(left, self.spent, parameters)
            self.watch(Step(total - len(left), total, str(cell), waiting, sample))

    @staticmethod
    def _about(cell: Cell, say: Callable[[str], None]) -> Callable[[str], None]:
        return lambda words: say(f"{cell}: {words}")

    def _heads(self, found: Results | None, qemu_version: str) -> None:
        if found is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.path.write_text("")
        else:
            _drop_cut_line(self.path)
        for plan in self.plans:
            if found is None or plan not in found.plans:
                self._append(header_line(plan, machine_facts(qemu_version)))

    def _calibrate(self, bench: Bench, say: Callable[[str], None]) -> Calibration:
        say("calibrating: two hibernations of different size")
        with new_guest(bench, None, say) as guest:
            guest.start()
            found = calibrate(guest, int(bench.parameters.memory_bytes * _CALIBRATE_RATIO))
        self._append(calibration_line(found))
        return found

    def _budget(self, cell: Cell, samples: Sequence[Sample]) -> float | None:
        if not needs_budget(cell):
            return None
        floor = floor_seconds(samples, cell.image_size)
        if floor is None:
            raise LabError(
                f"{cell}: hibprep's time is made of the idle guest's, and that failed",
                "--retry-failed measures it once more",
            )
        return round(self.plans[0].within_ratio * floor, 2)

    def _append(self, line: str) -> None:
        with self.path.open("a") as stream:
            stream.write(line + "\n")
            stream.flush()
            os.fsync(stream.fileno())


def _drop_cut_line(path: Path) -> None:
    """A process that was killed may have left half a line: what follows must not be glued to it."""
    data = path.read_bytes()
    if data and not data.endswith(b"\n"):
        with path.open("r+b") as stream:
            stream.truncate(data.rfind(b"\n") + 1)
