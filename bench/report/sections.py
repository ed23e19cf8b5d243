# SPDX-License-Identifier: LGPL-2.1-or-later
"""Results files that were measured in the same way belong together: one section. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from bench.experiment.parameters import Parameters
from bench.experiment.results import Results, valid
from bench.experiment.sample import Sample
from bench.report import words

# What says which cells there are, and may differ within a section; all else is how.
CELLS = ("conditions", "workloads", "arrangements", "image_sizes", "warm_ratios", "runs")


@dataclass(frozen=True, slots=True)
class Section:
    """Results of one kind. ``files`` are the places that the samples in it come from."""

    results: Results
    files: tuple[str, ...]

    @property
    def parameters(self) -> Parameters:
        """How it was measured."""
        return self.results.parameters

    @property
    def samples(self) -> list[Sample]:
        """Those that are not outdated; failed ones too."""
        return valid(self.results)

    @property
    def outdated(self) -> int:
        """So many of hibprep's are of earlier code."""
        return len(self.results.samples) - len(self.samples)

    @property
    def kernels(self) -> str:
        """Of the guests."""
        return words.listed(each.kernel for each in self.results.samples)

    @property
    def accelerators(self) -> str:
        """What the guests ran under."""
        return words.listed(each.accelerator for each in self.results.samples)

    @property
    def emulated(self) -> bool:
        """Whether there was no KVM."""
        return any(each.accelerator.startswith("tcg") for each in self.results.samples)

    @property
    def title(self) -> str:
        """What tells it from others at a glance."""
        memory = words.size(self.parameters.memory_bytes)
        return f"{memory}, {self.parameters.recipe}, Linux {self.kernels}, {self.accelerators}"


def sections(files: Sequence[tuple[str, Results]]) -> list[Section]:
    """In the order of the files; those that were measured alike become one."""
    found: dict[object, Section] = {}
    for name, results in files:
        mine = Section(replace(results, parameters=united(results)), (name,))
        key = _key(mine.results)
        found[key] = _joined(found[key], mine) if key in found else mine
    return list(found.values())


def united(*found: Results) -> Parameters:
    """How they were measured, with all the cells that any of their runs was to measure."""
    plans = [plan for each in found for plan in (each.plans or (each.parameters,))]
    both: dict[str, Any] = {
        name: tuple(dict.fromkeys(value for plan in plans for value in getattr(plan, name)))
        for name in CELLS
        if name != "runs"
    }
    return replace(plans[0], **both, runs=max(plan.runs for plan in plans))


def _joined(first: Section, second: Section) -> Section:
    a, b = first.results, second.results
    both = replace(
        a,
        parameters=united(a, b),
        plans=(*a.plans, *b.plans),
        calibration=a.calibration or b.calibration,
        samples=(*a.samples, *b.samples),
    )
    return Section(both, (*first.files, *second.files))


def how(parameters: Parameters) -> Parameters:
    """The same without saying which cells: equal where it was measured in the same way."""
    default = Parameters()
    return replace(parameters, **{name: getattr(default, name) for name in CELLS})


def _key(results: Results) -> object:
    return (
        how(results.parameters),
        tuple(sorted(results.machine.items())),
        frozenset(each.kernel for each in results.samples),
        frozenset(each.accelerator for each in results.samples),
    )
