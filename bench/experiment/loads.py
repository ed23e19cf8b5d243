# SPDX-License-Identifier: LGPL-2.1-or-later
"""What fills a guest's memory in each workload."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from bench.experiment.parameters import GIB, Parameters
from bench.experiment.sample import Arrangement, WorkloadKind
from bench.lab import Workload

if TYPE_CHECKING:
    from bench.experiment.schedule import Cell
    from bench.lab import Guest

# Where a person's programs are; the cold bulk of the reference is nobody's in particular.
SESSION_SLICE = "user-1000.slice"
FILL_SECONDS = 900.0

HAS_WORKING_SET = frozenset({WorkloadKind.WARM, WorkloadKind.MIXED})


@dataclass(frozen=True, slots=True)
class Fill:
    """How many bytes of each kind."""

    cold_bytes: int = 0
    warm_bytes: int = 0
    tmpfs_bytes: int = 0
    read_bytes: int = 0
    mapped_bytes: int = 0

    @property
    def file_bytes(self) -> int:
        """What must fit on the guest's root disk."""
        return self.read_bytes + self.mapped_bytes


def fill_of(workload: WorkloadKind, parameters: Parameters, warm_ratio: float) -> Fill:
    """The share of memory that is filled, divided up as the workload has it."""
    total = int(parameters.memory_bytes * parameters.fill_ratio)
    warm = int(parameters.memory_bytes * warm_ratio)
    if workload is WorkloadKind.COLD:
        return Fill(cold_bytes=total)
    if workload is WorkloadKind.WARM:
        return Fill(cold_bytes=max(0, total - warm), warm_bytes=warm)
    if workload is WorkloadKind.CACHE:
        return Fill(read_bytes=total * 2 // 3, mapped_bytes=total // 3)
    if workload is WorkloadKind.TMPFS:
        return Fill(tmpfs_bytes=total)
    if workload is WorkloadKind.MIXED:
        # of what the working set leaves: half anonymous, the rest shared memory and cache
        rest = max(0, total - warm)
        return Fill(
            cold_bytes=rest // 2,
            warm_bytes=warm,
            tmpfs_bytes=rest // 6,
            read_bytes=rest // 6,
            mapped_bytes=rest // 6,
        )
    return Fill()


def root_bytes(fill: Fill, image_bytes: int) -> int | None:
    """How large the guest's root disk has to be; None for as large as it is."""
    return image_bytes + fill.file_bytes + GIB if fill.file_bytes else None


class Loads:
    """The programs that fill one guest; none in the idle guest."""

    def __init__(self, guest: Guest, cell: Cell, parameters: Parameters) -> None:
        fill = fill_of(cell.workload, parameters, cell.warm_ratio)
        together = cell.arrangement is Arrangement.TOGETHER or not fill.warm_bytes
        self._working: Workload | None = None
        self._bulk: Workload | None = None
        if cell.workload is WorkloadKind.NONE:
            return
        if not together:
            self._working = Workload(
                guest, warm_bytes=fill.warm_bytes, slice_name=SESSION_SLICE, name="working-set"
            )
        self._bulk = Workload(
            guest,
            cold_bytes=fill.cold_bytes,
            warm_bytes=fill.warm_bytes if together else 0,
            tmpfs_bytes=fill.tmpfs_bytes,
            read_bytes=fill.read_bytes,
            mapped_bytes=fill.mapped_bytes,
            slice_name=SESSION_SLICE,
            name="bulk",
        )

    @property
    def _all(self) -> list[Workload]:
        return [each for each in (self._working, self._bulk) if each is not None]

    @property
    def _touched(self) -> Workload | None:
        return self._working or self._bulk

    def start(self) -> float:
        """Fill; the seconds it took, by the programs' own clocks (it is no result)."""
        return sum(float(each.start(FILL_SECONDS)["fill_seconds"]) for each in self._all)

    def reset(self) -> None:
        """From here on the slowest pass over the working set is looked for anew."""
        for each in self._all:
            each.reset()

    def touch(self, timeout: float) -> None:
        """Have the working set touched once in full; a program without one just answers."""
        if self._touched is not None:
            self._touched.touch(timeout)

    def usual_pass_seconds(self) -> float:
        """How long the last pass over the working set took."""
        return float(self._touched.state()["last_pass_seconds"]) if self._touched else 0.0

    def slowest_pass_seconds(self) -> float | None:
        """The slowest pass that ended between `reset` and the hibernation; None if none did."""
        return (self._touched.slowest_before_sleep_seconds() or None) if self._touched else None

    def resident_ratio(self) -> float | None:
        """How much of the working set was in memory when the guest was back, before it was touched;
        None where there is none, and when that cannot be told."""
        return self._touched.warm_share_at_wake() if self._touched else None

    def damage(self, timeout: float) -> str:
        """Compare every byte; what is wrong, "" when nothing is."""
        found = [each.verify(timeout) for each in self._all]
        wrong = [f"{verified}" for verified in found if not verified["ok"]]
        return "; ".join(wrong)
