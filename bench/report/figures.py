# SPDX-License-Identifier: LGPL-2.1-or-later
"""Medians, spreads, ratios of medians and their bootstrap interval. Pure, without units."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median

CONFIDENCE = 0.95
RESAMPLES = 4000
# of a pair or two no interval can be had, and of few it is little more than their range
LEAST_PAIRS = 2
FEW_PAIRS = 5
# Fixed, so that the same results always give the same interval.
_SEED = 20200604


@dataclass(frozen=True, slots=True)
class Spread:
    """The median of some runs, and from the least to the most of them."""

    median: float
    least: float
    most: float
    count: int


@dataclass(frozen=True, slots=True)
class Interval:
    """From the one to the other, both included."""

    low: float
    high: float

    def __contains__(self, value: float) -> bool:
        return self.low <= value <= self.high


def spread(values: Iterable[float | None]) -> Spread | None:
    """Of the values that there are; None when there is none."""
    found = [value for value in values if value is not None]
    if not found:
        return None
    return Spread(float(median(found)), float(min(found)), float(max(found)), len(found))


def ratio(value: Spread | None, by: Spread | None) -> float | None:
    """The one median by the other; None where either is missing or the divisor is nothing."""
    if value is None or by is None or by.median <= 0:
        return None
    return value.median / by.median


def ratio_of_medians(pairs: Sequence[tuple[float, float]]) -> float | None:
    """The median of the second values by that of the first; None when that is not above 0."""
    if not pairs:
        return None
    divisor = median(first for first, _ in pairs)
    return median(second for _, second in pairs) / divisor if divisor > 0 else None


def paired_interval(pairs: Sequence[tuple[float, float]]) -> Interval | None:
    """The 95 % percentile bootstrap interval of `ratio_of_medians`; None with fewer than 2 pairs.

    Whole pairs are drawn, with replacement, because what disturbs one run of a pair may disturb
    the other. Ratios need values above 0: None where there are others. The interval always holds
    the ratio itself: where the percentiles leave it out (it happens with few, uneven pairs), it
    is widened up to it.
    """
    middle = ratio_of_medians(pairs)
    if len(pairs) < LEAST_PAIRS or middle is None or any(first <= 0 for first, _ in pairs):
        return None
    ordered = sorted(pairs)  # the order they were measured in must not matter
    source = random.Random(_SEED)  # noqa: S311 - statistics, not cryptography
    found = sorted(
        value
        for _ in range(RESAMPLES)
        if (value := ratio_of_medians(source.choices(ordered, k=len(ordered)))) is not None
    )
    outside = int(len(found) * (1 - CONFIDENCE) / 2)
    return Interval(min(found[outside], middle), max(found[-1 - outside], middle))
