# SPDX-License-Identifier: LGPL-2.1-or-later
"""Which cycles there are, in what order, and which are still to be done. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median

from bench.experiment.loads import HAS_WORKING_SET
from bench.experiment.parameters import DEFAULT_IMAGE_SIZE, Parameters
from bench.experiment.sample import OF_HIBPREP, Arrangement, Condition, Sample, WorkloadKind

# Until a cycle of its kind has been measured: seconds for each GiB of memory, and for any guest.
_SECONDS_PER_GIB = 26.0
_SECONDS_AT_LEAST = 60.0


@dataclass(frozen=True, slots=True)
class Cell:
    """One cycle that is to be measured."""

    condition: Condition
    workload: WorkloadKind
    arrangement: Arrangement
    warm_ratio: float
    image_size: str
    run: int

    def __str__(self) -> str:
        """In words, for the progress bar."""
        words = [f"run {self.run + 1}", str(self.condition)]
        if self.workload is not WorkloadKind.NONE:
            words.append(str(self.workload))
        if self.warm_ratio:
            words.append(f"{self.warm_ratio:.0%} warm, {self.arrangement}")
        return ", ".join([*words, f"image_size {self.image_size}"])


def cell_of(sample: Sample) -> Cell:
    """The cell that a sample was measured for."""
    return Cell(
        sample.condition,
        sample.workload,
        sample.arrangement,
        sample.warm_ratio,
        sample.image_size,
        sample.run,
    )


def cells(parameters: Parameters) -> list[Cell]:
    """All cycles, whole runs one after the other; within each the order of conditions is rotated.

    What drifts during the hours that it takes, drifts for all of them. The idle guest has no
    workload: it is measured once for each run and image_size, and comes first in the first run,
    because it is the floor that the time budgets of others are made of.
    """
    found: list[Cell] = []
    for run in range(parameters.runs):
        for image_size in parameters.image_sizes:
            found += _idle(parameters, run, image_size)
            others = _others(parameters, image_size)
            turn = run % len(others) if others else 0
            for workload, arrangement, warm_ratio in _groups(parameters):
                found += [
                    Cell(condition, workload, arrangement, warm_ratio, image_size, run)
                    for condition in (*others[turn:], *others[:turn])
                ]
    return found


def _idle(parameters: Parameters, run: int, image_size: str) -> list[Cell]:
    if Condition.IDLE not in parameters.conditions:
        return []
    none = WorkloadKind.NONE
    return [Cell(Condition.IDLE, none, Arrangement.APART, 0.0, image_size, run)]


def _others(parameters: Parameters, image_size: str) -> list[Condition]:
    """The conditions beside the idle guest.

    The daemon does not hold image_size for a hibernation that others ask for, so that with a small
    one it is the kernel's own work that is measured, whatever was prepared: it is left out there,
    unless nothing else is asked for.
    """
    left_out = {Condition.IDLE}
    if image_size != DEFAULT_IMAGE_SIZE and DEFAULT_IMAGE_SIZE in parameters.image_sizes:
        left_out.add(Condition.HIBPREPD)
    return [each for each in parameters.conditions if each not in left_out]


def _groups(parameters: Parameters) -> list[tuple[WorkloadKind, Arrangement, float]]:
    found = []
    for workload in parameters.workloads:
        if workload not in HAS_WORKING_SET:
            found.append((workload, Arrangement.APART, 0.0))
            continue
        found += [
            (workload, arrangement, ratio)
            for ratio in parameters.warm_ratios
            for arrangement in parameters.arrangements
        ]
    return found


def still_to_do(
    parameters: Parameters, samples: Iterable[Sample], code: str, *, failed_too: bool
) -> list[Cell]:
    """What has no sample yet; hibprep's count only when they are of the code at hand.

    A cycle that failed is a result: it is repeated only when that is asked for.
    """
    done = {
        cell_of(each)
        for each in samples
        if (each.condition not in OF_HIBPREP or each.code == code)
        and not (failed_too and each.failed)
    }
    return [cell for cell in cells(parameters) if cell not in done]


def floor_seconds(samples: Iterable[Sample], image_size: str) -> float | None:
    """The median of the idle guest's hibernations so far; None when there is none."""
    found = [
        each.hibernate_seconds
        for each in samples
        if each.condition is Condition.IDLE
        and each.image_size == image_size
        and not each.failed
        and each.hibernate_seconds is not None
    ]
    return median(found) if found else None


def expected_seconds(
    left: Sequence[Cell], spent: Sequence[tuple[Cell, float]], parameters: Parameters
) -> float:
    """How long the cells that are left will take, from those that were measured in this run."""
    guess = _SECONDS_AT_LEAST + parameters.settle_seconds
    guess += _SECONDS_PER_GIB * parameters.memory_bytes / (1 << 30)
    total = 0.0
    for cell in left:
        alike = [
            seconds
            for other, seconds in spent
            if (other.condition, other.workload) == (cell.condition, cell.workload)
        ]
        total += median(alike) if alike else guess
    return total
