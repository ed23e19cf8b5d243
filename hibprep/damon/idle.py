# SPDX-License-Identifier: LGPL-2.1-or-later
"""Why DAMON_RECLAIM is on and yet does nothing: every reason that can be told from outside, each
with its remedy. Pure.

It never says so itself: it takes any watermark and any quota, and monitors, or sleeps, without a
word (Documentation/admin-guide/mm/damon/reclaim.rst, `enabled`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from hibprep.damon.parameters import PARAMETERS, shown
from hibprep.damon.state import ReclaimState, Surroundings

# 11ddcfc257a3 ("mm/damon/reclaim: use damon_commit_ctx()") hands the kdamond a context without
# its scheme; fed48693bdfe ("mm/damon/reclaim: use parameter context correctly") put it right.
# Not in 6.12.107; a stable kernel may get it yet, so what was tried is looked at as well.
SCHEME_LOST_FROM, SCHEME_LOST_UNTIL = (6, 11), (6, 17)

_SETTLING_AGGREGATIONS = 2
_SMALL_SHARE = 2  # a region of less than one part in so many of memory


@dataclass(frozen=True, slots=True)
class Reason:
    """One reason, and what to type."""

    name: str
    text: str
    remedy: str


def reasons(state: ReclaimState, around: Surroundings) -> tuple[Reason, ...]:
    """Why it does nothing now; empty when nothing stands in its way, or it is off."""
    if not state.enabled:
        return ()
    ended = tuple(_thread(state, around))
    if ended:
        return ended
    asleep = (*_age(state, around), *_commit(state, around), *_watermarks(state, around))
    limits = (*_quota(state, around), *_region(state, around), *_swap(state, around))
    # one that has not had its time yet, or sleeps, says nothing of the kernel
    lost = () if asleep or state.tried_bytes else tuple(_scheme_lost(around))
    return (*lost, *asleep, *limits)


def obstacles(around: Surroundings) -> tuple[Reason, ...]:
    """Why it cannot be switched on now: it wants DAMON for itself alone."""
    return tuple(
        Reason(
            "holder",
            f"{each.name} runs"
            + (f" (kdamond {each.pid})" if each.pid > 0 else "")
            + ", and DAMON_RECLAIM cannot be started beside it (EBUSY)",
            f"echo N > {each.switch}" if each.switch else "end it with the tool that started it",
        )
        for each in around.holders
    )


def suspect(kernel: tuple[int, int]) -> bool:
    """Whether a kernel of that version may have lost the scheme of its DAMON_RECLAIM."""
    return SCHEME_LOST_FROM <= kernel < SCHEME_LOST_UNTIL


def _thread(state: ReclaimState, around: Surroundings) -> Iterator[Reason]:
    if state.kdamond_pid < 0 or around.running_seconds is None:
        yield Reason(
            "kdamond",
            "its thread (kdamond) has ended: inputs that were read again were not valid",
            "hibprep damon off, then hibprep damon set enabled=Y",
        )


def _commit(state: ReclaimState, around: Surroundings) -> Iterator[Reason]:
    if state.committing:
        yield Reason(
            "commit", "commit_inputs is Y: its inputs have not been read again yet", "wait"
        )
        return
    before = around.committed
    if before is None:
        return
    changed = [name for name, value in state.inputs.items() if before.get(name, value) != value]
    if changed:
        yield Reason(
            "uncommitted",
            f"{', '.join(changed)} was changed since its inputs were read, and is not in force",
            "echo Y > /sys/module/damon_reclaim/parameters/commit_inputs",
        )


def _watermarks(state: ReclaimState, around: Surroundings) -> Iterator[Reason]:
    inputs, free = state.inputs, around.free_per_mille
    if free > inputs["wmarks_high"]:
        text = f"{free / 10:g} % of memory is free, above wmarks_high ({_of(state, 'wmarks_high')})"
    elif free < inputs["wmarks_low"]:
        text = f"{free / 10:g} % of memory is free, below wmarks_low ({_of(state, 'wmarks_low')})"
    elif free >= inputs["wmarks_mid"] and not state.tried_bytes:
        text = (
            f"{free / 10:g} % of memory is free: it begins below wmarks_mid "
            f"({_of(state, 'wmarks_mid')})"
        )
    else:
        return
    yield Reason(
        "watermarks", text, "hibprep damon set wmarks_high=1000 wmarks_mid=999 wmarks_low=0"
    )


def _age(state: ReclaimState, around: Surroundings) -> Iterator[Reason]:
    running = around.running_seconds
    if running is None or state.tried_bytes:
        return
    settling = _SETTLING_AGGREGATIONS * state.inputs["aggr_interval"]
    least = (state.inputs["min_age"] + settling) / 1e6
    if running < least:
        yield Reason(
            "age",
            f"it has watched for {running:.0f} s, and nothing can be {_of(state, 'min_age')} old "
            "before that",
            f"wait {least - running:.0f} s, or set a shorter min_age",
        )


def _quota(state: ReclaimState, around: Surroundings) -> Iterator[Reason]:
    size = state.inputs["quota_sz"]
    if 0 < size < around.page:
        yield Reason(
            "quota",
            f"quota_sz is {size} bytes, less than a page",
            "hibprep damon set quota_sz=128M",
        )
    elif state.tried_bytes and not state.reclaimed_bytes:
        yield Reason(
            "accessed",
            f"of {state.tried_bytes} bytes that it tried, every page was found in use, or was "
            "sent to swap and has yet to leave memory: a page is taken the second time that it is "
            "found cold",
            "wait for another min_age; quota_ms=0 makes the rounds shorter",
        )


def _region(state: ReclaimState, around: Surroundings) -> Iterator[Reason]:
    inputs = state.inputs
    unit = inputs.get("addr_unit", 1)
    covered = (inputs["monitor_region_end"] - inputs["monitor_region_start"]) * unit
    if 0 < covered < around.total_bytes // _SMALL_SHARE:
        yield Reason(
            "region",
            f"it watches {covered} bytes of memory's {around.total_bytes}",
            "hibprep damon off, then hibprep damon set monitor_region_start=0 "
            "monitor_region_end=0 enabled=Y",
        )


def _swap(state: ReclaimState, around: Surroundings) -> Iterator[Reason]:
    if not around.swap_free_bytes and not state.inputs.get("skip_anon", False):
        yield Reason("swap", "no swap is free: only files can leave memory", "hibprep setup swap")


def _scheme_lost(around: Surroundings) -> Iterator[Reason]:
    if suspect(around.kernel):
        yield Reason(
            "kernel",
            "kernels from 6.11 on lose the scheme of DAMON_RECLAIM when it is switched on "
            "(11ddcfc257a3), and watch without ever reclaiming; 6.17 put it right (fed48693bdfe)",
            "hibprep reclaim max --backend damon --colder-than AGE, which needs no DAMON_RECLAIM",
        )


def _of(state: ReclaimState, name: str) -> str:
    return shown(PARAMETERS[name], state.inputs[name])
