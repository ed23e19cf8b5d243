# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the seconds of a hibernation and a resume go to, from the medians of a condition. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bench.experiment.parameters import DEFAULT_IMAGE_SIZE
from bench.experiment.sample import Condition, Sample, WorkloadKind
from bench.report.groups import (
    HIBERNATE,
    PREPARE,
    READ,
    RESUME,
    SHRINK,
    USABLE,
    WRITE,
    Group,
    Measure,
    by_condition,
    counts,
    groups,
    measured,
)

# the reference's usual working set, by memory: what is pictured where several were measured
USUAL_WARM_RATIO = 0.10


@dataclass(frozen=True, slots=True)
class Phases:
    """Seconds. What the kernel did not print is in `other` and `boot`, which hold the rest."""

    condition: Condition
    runs: int
    failed: int
    prepare: float = 0.0
    shrink: float = 0.0
    write: float = 0.0
    other: float = 0.0
    boot: float = 0.0
    read: float = 0.0
    touch: float = 0.0

    @property
    def down(self) -> float:
        """From the request to power-off."""
        return self.shrink + self.write + self.other

    @property
    def answer(self) -> float:
        """From power-on to the first answer."""
        return self.boot + self.read

    @property
    def back(self) -> float:
        """From power-on until usable."""
        return self.answer + self.touch


def phases(condition: Condition, samples: Sequence[Sample]) -> Phases:
    """Of one condition; all 0 when no cycle counts."""

    def middle(measure: Measure) -> float:
        found = measured(samples, measure)
        return found.median if found else 0.0

    good = sum(1 for each in samples if counts(each))
    hibernate, resume, usable = middle(HIBERNATE), middle(RESUME), middle(USABLE)
    # The kernel's own figures are parts: never more than the whole, whatever their medians.
    shrink = min(middle(SHRINK), hibernate)
    write = min(middle(WRITE), hibernate - shrink)
    read = min(middle(READ), resume)
    return Phases(
        condition,
        good,
        len(samples) - good,
        prepare=middle(PREPARE),
        shrink=shrink,
        write=write,
        other=hibernate - shrink - write,
        boot=resume - read,
        read=read,
        touch=max(0.0, usable - resume),
    )


def story(samples: Sequence[Sample]) -> list[tuple[Group, list[Phases]]]:
    """What the first picture is made of: cold memory, and below it a working set, if measured."""
    found = []
    for workload in (WorkloadKind.COLD, WorkloadKind.WARM):
        group = usual(samples, workload)
        if group is not None:
            rows = by_condition(samples, group)
            found.append((group, [phases(each, mine) for each, mine in rows.items()]))
    return found


def usual(samples: Sequence[Sample], workload: WorkloadKind) -> Group | None:
    """The group of that workload that a person looks at first: the kernel's own image_size, the
    working set nearest to a tenth of memory, apart; None where there is none."""
    found = [each for each in groups(samples) if each.workload is workload]
    # groups are in order: the default image_size and `apart` come first of equals
    return min(
        found,
        key=lambda each: (
            each.image_size != DEFAULT_IMAGE_SIZE,
            abs(each.warm_ratio - USUAL_WARM_RATIO),
        ),
        default=None,
    )
