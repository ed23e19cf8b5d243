# SPDX-License-Identifier: LGPL-2.1-or-later
"""What something beside a load costs it, found within one load: while it was at work, against while
it was not. Pure.

Two loads one after the other differ by what the machine does meanwhile, and by far more than what
is looked for here. What works for seconds in minutes is better found by comparing each of its times
with the times around it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median

AT_WORK_SHARE = 0.05  # of a CPU: an emulated one takes a third of that to look at the clock
REACH = 12  # steps to either side that a touched one is compared with


@dataclass(frozen=True, slots=True)
class Step:
    """A few seconds of a load: requests done before it (`first`) and in it, and whether what is
    beside it was at work in it or right before it (what was taken then is missed now)."""

    seconds: float
    first: int
    done: int
    touched: bool


def steps_of(noted: Sequence[Sequence[float]]) -> list[Step]:
    """From what was noted at their edges: when, the processor time in microseconds of what is
    beside, and how many requests were done."""
    found: list[Step] = []
    before = False
    for (at, usage, done), (next_at, next_usage, next_done) in pairwise(noted):
        seconds = next_at - at
        working = (next_usage - usage) / 1e6 > AT_WORK_SHARE * seconds
        found.append(Step(seconds, int(done), int(next_done - done), working or before))
        before = working
    return found


def share_of(steps: Sequence[Step]) -> float:
    """The part of the time that is touched, 0 to 1."""
    whole = sum(step.seconds for step in steps)
    return sum(step.seconds for step in steps if step.touched) / whole if whole else 0.0


def throughput(steps: Sequence[Step]) -> float:
    """Requests done, by those that would have been with every touched step as quick as those around
    it that are not (their median). 1.0 where nothing is touched, or nothing is not."""
    done = would = 0.0
    for number, step in enumerate(steps):
        around = [
            each.done / each.seconds
            for each in steps[max(0, number - REACH) : number + REACH + 1]
            if not each.touched and each.seconds > 0
        ]
        done += step.done
        would += median(around) * step.seconds if step.touched and around else step.done
    return done / would if would else 1.0


def percentile(steps: Sequence[Step], latencies: Sequence[float], share: float) -> float:
    """That percentile of all requests, by the same of those that were due in steps that are not
    touched. 1.0 where there are none."""
    rest = [
        value
        for step in steps
        if not step.touched
        for value in latencies[step.first : step.first + step.done]
    ]
    if not rest or not latencies:
        return 1.0
    return _percentile(latencies, share) / _percentile(rest, share)


def _percentile(values: Sequence[float], share: float) -> float:
    found = sorted(values)
    return found[max(0, math.ceil(share * len(found)) - 1)]
