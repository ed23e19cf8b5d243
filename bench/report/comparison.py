# SPDX-License-Identifier: LGPL-2.1-or-later
"""Two results files, B against A: by group and condition, the ratio of each time. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from statistics import median

from bench.experiment.results import Results, valid
from bench.experiment.sample import Condition, Sample
from bench.report import figures, words
from bench.report.figures import Interval
from bench.report.groups import TIMES, Group, counts, group_of, group_order, reason
from bench.report.sections import how

Key = tuple[Group, Condition]


@dataclass(frozen=True, slots=True)
class Line:
    """One time of one condition. Medians are seconds, of the runs that both files have."""

    group: Group
    condition: Condition
    time: str
    before: float
    after: float
    pairs: int
    ratio: float
    interval: Interval | None

    @property
    def reading(self) -> str:
        """What it means, plainly."""
        if self.interval is None:
            return f"no interval: {words.counted(self.pairs, 'pair', 'pairs')}"
        if 1.0 in self.interval:
            return "includes 1: no difference shown"
        found = "B takes less" if self.ratio < 1 else "B takes longer"
        return found if self.pairs >= figures.FEW_PAIRS else f"{found}, by few pairs"


@dataclass(frozen=True, slots=True)
class Comparison:
    """All that can be said of the two; `notes` are sentences for a person."""

    lines: tuple[Line, ...]
    notes: tuple[str, ...]


def compare(a: Results, b: Results) -> Comparison:
    """B against A. Runs are paired by their number within a group and condition."""
    first, second = _runs(valid(a)), _runs(valid(b))
    lines = []
    alone: dict[tuple[Group, str], list[str]] = {}
    for group, condition in sorted({*first, *second}, key=_order):
        key = (group, condition)
        before, after = first.get(key, {}), second.get(key, {})
        common = sorted(before.keys() & after.keys())
        if not common:
            alone.setdefault((group, _why_not(before, after)), []).append(condition)
            continue
        for measure in TIMES:
            found = ((measure.of(before[run]), measure.of(after[run])) for run in common)
            pairs = [(x, y) for x, y in found if x is not None and y is not None]
            ratio = figures.ratio_of_medians(pairs)
            if ratio is None:  # not measured, or nothing was prepared
                continue
            lines.append(
                Line(
                    group=group,
                    condition=condition,
                    time=measure.name,
                    before=median(x for x, _ in pairs),
                    after=median(y for _, y in pairs),
                    pairs=len(pairs),
                    ratio=ratio,
                    interval=figures.paired_interval(pairs),
                )
            )
    notes = differences(a, b)
    notes += [f"{why}: {group}: {', '.join(names)}" for (group, why), names in alone.items()]
    for name, results in (("A", a), ("B", b)):
        notes += [f"{name}: {each}" for each in _left_out(results)]
    if any(line.interval and line.pairs < figures.FEW_PAIRS for line in lines):
        notes.append(
            f"with fewer than {figures.FEW_PAIRS} pairs an interval is little more than the range "
            "of what was seen, and chance is easily taken for a difference"
        )
    return Comparison(tuple(lines), tuple(notes))


def differences(a: Results, b: Results) -> list[str]:
    """In what the two were measured differently, each a sentence."""
    first, second = asdict(how(a.parameters)), asdict(how(b.parameters))
    found = [
        f"measured differently: {name} is {first[name]} in A, {second[name]} in B"
        for name in first
        if first[name] != second[name]
    ]
    for name, of in (("kernel", _kernels), ("accelerator", _accelerators)):
        mine, others = of(a), of(b)
        if mine != others:
            found.append(f"measured differently: the guests' {name} is {mine} in A, {others} in B")
    found += [
        f"measured differently: the machine's {name} is {a.machine.get(name, '')!r} in A, "
        f"{b.machine.get(name, '')!r} in B"
        for name in sorted({*a.machine, *b.machine})
        if a.machine.get(name) != b.machine.get(name)
    ]
    return found


def as_json(comparison: Comparison) -> dict[str, object]:
    """The same for programs."""
    return {
        "confidence": figures.CONFIDENCE,
        "comparisons": [
            {
                **asdict(line.group),
                "condition": line.condition,
                "time": line.time,
                "a_seconds": line.before,
                "b_seconds": line.after,
                "pairs": line.pairs,
                "ratio": line.ratio,
                "interval": line.interval and [line.interval.low, line.interval.high],
                "includes_1": None if line.interval is None else 1.0 in line.interval,
                "reading": line.reading,
            }
            for line in comparison.lines
        ],
        "notes": list(comparison.notes),
    }


def _runs(samples: Iterable[Sample]) -> dict[Key, dict[int, Sample]]:
    found: dict[Key, dict[int, Sample]] = {}
    for each in samples:
        if counts(each):  # one that was measured again takes the place of the first
            found.setdefault((group_of(each), each.condition), {})[each.run] = each
    return found


def _order(key: Key) -> tuple[object, ...]:
    return (*group_order(key[0]), list(Condition).index(key[1]))


def _why_not(before: dict[int, Sample], after: dict[int, Sample]) -> str:
    if not before or not after:
        return f"only in {'A' if before else 'B'}"
    return "no run in common"


def _left_out(results: Results) -> list[str]:
    good = valid(results)
    found = [
        f"left out: {group_of(each)}: {each.condition}, run {each.run + 1}: {reason(each)}"
        for each in good
        if not counts(each)
    ]
    earlier = len(results.samples) - len(good)
    if earlier:
        several = words.counted(earlier, "sample", "samples")
        found.append(f"left out: {several} of hibprep's earlier code")
    return found


def _kernels(results: Results) -> str:
    return words.listed(each.kernel for each in results.samples)


def _accelerators(results: Results) -> str:
    return words.listed(each.accelerator for each in results.samples)
