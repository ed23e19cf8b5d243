# SPDX-License-Identifier: LGPL-2.1-or-later
"""Which samples are compared with one another, what is measured of each, and what counts. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from bench.experiment.parameters import DEFAULT_IMAGE_SIZE
from bench.experiment.sample import Arrangement, Condition, Sample, WorkloadKind
from bench.report import figures, words
from bench.report.figures import Spread

# the guests are x86-64
PAGE_BYTES = 4096


@dataclass(frozen=True, slots=True)
class Measure:
    """Something that a sample may have, in seconds unless it says otherwise."""

    name: str
    of: Callable[[Sample], float | None]


PREPARE = Measure("prepare", lambda sample: sample.prepare_seconds)
HIBERNATE = Measure("hibernate", lambda sample: sample.hibernate_seconds)
RESUME = Measure("resume", lambda sample: sample.resume_seconds)
USABLE = Measure("usable", lambda sample: sample.usable_seconds)
TIMES = (PREPARE, HIBERNATE, RESUME, USABLE)

SHRINK = Measure("shrink", lambda sample: sample.shrink_seconds)
WRITE = Measure("write", lambda sample: sample.write_seconds)
READ = Measure("read", lambda sample: sample.read_seconds)
IMAGE_PAGES = Measure("image_pages", lambda sample: sample.image_pages)
IMAGE_BYTES = Measure(
    "image_bytes",
    lambda sample: None if sample.image_pages is None else sample.image_pages * PAGE_BYTES,
)
COMPRESSED_BYTES = Measure("compressed_bytes", lambda sample: sample.image_compressed_bytes)
SWAP_BYTES = Measure("swap_bytes", lambda sample: sample.swap_used_bytes)
BUDGET = Measure("budget", lambda sample: sample.budget_seconds)
PREDICTED = Measure("predicted", lambda sample: sample.predicted_seconds)
# without a working set there is no pass over it, whatever the programs answer
USUAL_PASS = Measure("usual_pass", lambda sample: _warm(sample, sample.usual_pass_seconds))
SLOWEST_PASS = Measure("slowest_pass", lambda sample: _warm(sample, sample.slowest_pass_seconds))
RESIDENT = Measure("resident", lambda sample: _warm(sample, sample.resident_ratio))
# from the first answer on: what bringing memory back can make shorter
TOUCH = Measure("touch", lambda sample: _warm(sample, _touch_seconds(sample)))


def _touch_seconds(sample: Sample) -> float | None:
    if sample.usable_seconds is None or sample.resume_seconds is None:
        return None
    return sample.usable_seconds - sample.resume_seconds


def _warm(sample: Sample, value: float | None) -> float | None:
    return value if sample.warm_ratio > 0 else None


@dataclass(frozen=True, slots=True)
class Group:
    """What was the same for all conditions that are set beside one another."""

    workload: WorkloadKind
    arrangement: Arrangement
    warm_ratio: float
    image_size: str

    @property
    def load(self) -> str:
        """The workload in words."""
        if self.warm_ratio <= 0:
            return str(self.workload)
        return f"{self.workload}, working set {words.percent(self.warm_ratio)}, {self.arrangement}"

    def __str__(self) -> str:
        """In words, for headings."""
        return f"{self.load}, image_size {words.image_size(self.image_size)}"


def group_of(sample: Sample) -> Group:
    """The group that a sample was measured for."""
    return Group(sample.workload, sample.arrangement, sample.warm_ratio, sample.image_size)


def group_order(group: Group) -> tuple[int, int, float, tuple[int, int, str]]:
    """By workload, arrangement and working set; the kernel's own image_size before numbers."""
    size = group.image_size
    place = (0, 0, "") if size == DEFAULT_IMAGE_SIZE else (1, _whole(size), size)
    workload = list(WorkloadKind).index(group.workload)
    return workload, list(Arrangement).index(group.arrangement), group.warm_ratio, place


def _whole(text: str) -> int:
    return int(text) if text.isdecimal() else 0


def groups(samples: Iterable[Sample]) -> list[Group]:
    """In order. The idle guest is a group of its own only where it is alone with its image_size."""
    found = {group_of(sample) for sample in samples}
    sizes = {each.image_size for each in found if each.workload is not WorkloadKind.NONE}
    return sorted(
        (each for each in found if each.workload is not WorkloadKind.NONE or _alone(each, sizes)),
        key=group_order,
    )


def _alone(group: Group, sizes: set[str]) -> bool:
    return group.image_size not in sizes


def counts(sample: Sample) -> bool:
    """Whether its figures count: it came back, and undamaged."""
    return not sample.failed and sample.intact is not False


def reason(sample: Sample) -> str:
    """Why it does not count; "" where it does."""
    return sample.failure or ("came back damaged" if sample.intact is False else "")


def by_condition(samples: Iterable[Sample], group: Group) -> dict[Condition, list[Sample]]:
    """The samples of a group, failed ones too, in the order of conditions.

    The idle guest's of the same image_size are with them: it is the floor of every workload.
    """
    every = list(samples)
    found = {}
    for condition in Condition:
        mine = [
            each
            for each in every
            if each.condition is condition
            and each.image_size == group.image_size
            and (condition is Condition.IDLE or group_of(each) == group)
        ]
        if mine:
            found[condition] = mine
    return found


def measured(samples: Iterable[Sample], measure: Measure) -> Spread | None:
    """The median and spread of what counts; None when nothing does."""
    return figures.spread(measure.of(sample) for sample in samples if counts(sample))


def floor(rows: dict[Condition, list[Sample]], measure: Measure) -> Spread | None:
    """The idle guest's. With nothing in it to touch, it is usable once it answers."""
    idle = rows.get(Condition.IDLE, [])
    found = measured(idle, measure)
    return measured(idle, RESUME) if found is None and measure is USABLE else found


def intact(samples: Sequence[Sample]) -> str:
    """So many came back undamaged of those that were compared, failed ones too."""
    compared = [each for each in samples if each.intact is not None]
    if not compared:
        return words.NOTHING
    return f"{sum(1 for each in compared if each.intact)}/{len(compared)}"


def runs(samples: Sequence[Sample]) -> str:
    """How many count, and how many failed."""
    good = sum(1 for each in samples if counts(each))
    failed = len(samples) - good
    return f"{good} ({failed} failed)" if failed else str(good)
