# SPDX-License-Identifier: LGPL-2.1-or-later
"""What is to be prepared when something happens at a known moment, and what will not fit. Pure.

Before a hibernation: the least with which preparing and hibernating end in time together, so that
as much as can be stays in memory. Page cache and slab go before anonymous memory. Above the
kernel's own image_size nothing is won by holding back: the kernel would take the rest itself, with
less regard for what is in use. Where nothing makes it fit, whatever makes both together shortest.

Before anything else (a migration, a stop): what can be had without touching what is in use.

Every time that is counted on is counted `MARGIN` times.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from hibprep import plan as planning
from hibprep import predict
from hibprep.choice import AGED, Capabilities
from hibprep.model import Limits, Rates, Snapshot, Stage, Target, ZramUse
from hibprep.outlook import Case, Outlook, target_for

MARGIN = 1.15  # what takes longer than its prediction by no more than this still ends in time

# Three agings make known what is cold, one an age; what they bring is worth two more.
_COLD_WAIT_AGES = 5.0
_PATIENCE = 0.5  # so much of what a preparation spares is the most that it can come to cost
_CHEAP = frozenset({Stage.SYNC, Stage.CACHE, Stage.SLAB})
_HALVINGS = 6
_LONG_SECONDS = 600.0
_WHOLE_SECONDS = 9.95  # what would be told as 10.0 is told as 10
_GIGABYTE = 1e9


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What to do by a deadline, and whether that is enough.

    `target` (None: nothing is to be done) is prepared for within `limits`, for no longer than
    `prepare_seconds`; it is expected to take `expected_seconds`. Without a hibernation after it the
    hibernation's times are 0.
    """

    fits: bool
    target: Target | None
    limits: Limits
    left_seconds: float  # until the deadline, without what is kept for others
    prepare_seconds: float
    expected_seconds: float
    prepare_bytes: int  # by which saveable memory is expected to become less
    hibernate_seconds_now: float
    hibernate_seconds_after: float
    words: str

    @property
    def total_seconds(self) -> float:
        """What is promised: preparing, and hibernating after it."""
        return self.expected_seconds + self.hibernate_seconds_after


def settle(
    snapshot: Snapshot,
    rates: Rates,
    limits: Limits,
    capabilities: Capabilities,
    *,
    seconds: float,
    keep_seconds: float = 0.0,
    hibernates: bool,
) -> Verdict:
    """What to prepare, with `seconds` left, of which `keep_seconds` are for others.

    `hibernates`: whether a hibernation has to be over by then, too, whoever begins it (its time is
    not part of `keep_seconds`); image_size is taken to be as it is. What is in zram is left there,
    since nobody knows how long it takes to leave.
    """
    left = max(0.0, seconds - keep_seconds)
    case = Case(
        snapshot=snapshot,
        rates=rates,
        capabilities=capabilities,
        most_seconds=left / MARGIN,
        hibernates=hibernates,
    )
    writing = rates.fixed_prepare_seconds + case.dirty_bytes / rates.disk_write_bytes_per_second
    stages = limits.stages
    if writing > case.most_seconds:
        # It would be all that there is time for. What is clean can go all the same.
        stages = tuple(stage for stage in stages if stage is not Stage.SYNC)
    at_once = replace(limits, stages=stages, zram=ZramUse.LEAVE, cold_wait_seconds=0.0)
    patient = replace(at_once, cold_wait_seconds=_COLD_WAIT_AGES * limits.cold_age_seconds)
    waiting_tells = _tells_ages(at_once, capabilities)
    if not hibernates:
        way = _without_what_is_in_use(case, at_once)
        if waiting_tells and _ends(case, other := _without_what_is_in_use(case, patient)):
            way = other
    elif not snapshot.power.available:
        way = case.nothing(at_once)
    else:
        way = _least(case, at_once)
        # With time to spare for it, what goes is found out to be cold, not just used less lately.
        if way.guessed_bytes and waiting_tells and _ends(case, way):
            other = _least(case, patient)
            way = other if _ends(case, other) else way
    return _verdict(case, way, left, keep_seconds)


def _ends(case: Case, way: Outlook) -> bool:
    """Whether it ends in time, and the hibernation is one that is accepted."""
    return not way.refused and not way.stopped and way.total_seconds <= case.most_seconds


def _least(case: Case, limits: Limits) -> Outlook:
    """The least that ends in time; else what makes both together shortest.

    From one goal to the next the time changes steadily: the kernel's own, what is left without page
    cache and slab, the least. So it is enough to look at these, and between two of them.
    """
    nothing = case.nothing(limits)
    if _ends(case, nothing):
        return nothing
    first = case.saveable_bytes
    kernels = predict.target_pages(case.snapshot) * case.snapshot.page_size
    if first > kernels:
        first = max(0, kernels - planning.headroom_bytes(case.snapshot))
    cheap = replace(limits, stages=tuple(stage for stage in limits.stages if stage in _CHEAP))
    ways = [nothing, case.down_to(first, cheap)]
    if _ends(case, ways[-1]):
        return ways[-1]
    cheapest = case.down_to(0, cheap).goal_bytes
    goals = [first, *([cheapest] if cheapest is not None and cheapest < first else []), 0]
    before = None
    for goal in goals:
        way = case.down_to(goal, limits)
        if _ends(case, way):
            return way if before is None else _between(case, limits, before, way)
        ways.append(way)
        before = goal
    return min(ways, key=lambda each: (bool(each.refused), each.total_seconds))


def _between(case: Case, limits: Limits, high_bytes: int, found: Outlook) -> Outlook:
    """The least that ends in time, between a goal with which it does not and a way that does."""
    low_bytes = found.goal_bytes or 0
    for _ in range(_HALVINGS):
        middle = (low_bytes + high_bytes) // 2
        way = case.down_to(middle, limits)
        if _ends(case, way):
            low_bytes, found = middle, way
        else:
            high_bytes = middle
    return found


def _without_what_is_in_use(case: Case, limits: Limits) -> Outlook:
    stages = tuple(stage for stage in limits.stages if stage is not Stage.ANON)
    return case.down_to(0, replace(limits, stages=stages))


def _tells_ages(limits: Limits, capabilities: Capabilities) -> bool:
    """Whether what is cold can be found out."""
    known = (capabilities.get(name) for name in AGED)
    return Stage.COLD_ANON in limits.stages and any(each and each.available for each in known)


# --- what it comes to -----------------------------------------------------------------------------


def _verdict(case: Case, way: Outlook, left_seconds: float, keep_seconds: float) -> Verdict:
    nothing, fits = case.nothing(way.limits), _ends(case, way)
    target, budget = None, 0.0
    if way.goal_bytes is not None:
        target, budget = target_for(case.snapshot, way.goal_bytes), case.most_seconds
        if fits and case.hibernates:
            # Not done by the time that it was to be done by, it goes on for as long as it may yet
            # be faster than writing the same to the image.
            spared = nothing.hibernate_seconds - way.hibernate_seconds
            promised = left_seconds - MARGIN * way.hibernate_seconds
            budget = min(left_seconds, max(promised, _PATIENCE * spared))
    gone = case.saveable_bytes - way.saveable_bytes
    left = f"{_time(left_seconds)} are left"
    if keep_seconds:
        left += f" beside {_time(keep_seconds)} for what follows"
    if case.hibernates:
        words = _hibernation_words(way, nothing, left, gone, fits=fits)
        if not fits and not way.refused:
            over = way.total_seconds - left_seconds
            late = f"{_time(over)} too late" if over > 0 else "too close to count on"
            words = f"{'CANNOT' if over > 0 else 'MAY NOT'} BE MET: {words}; that is {late}"
    else:
        words = _words(way, left, gone)
    return Verdict(
        fits=fits,
        target=target,
        limits=way.limits,
        left_seconds=left_seconds,
        prepare_seconds=budget,
        expected_seconds=way.prepare_seconds,
        prepare_bytes=gone,
        hibernate_seconds_now=nothing.hibernate_seconds,
        hibernate_seconds_after=way.hibernate_seconds,
        words=words,
    )


def _hibernation_words(way: Outlook, nothing: Outlook, left: str, gone: int, *, fits: bool) -> str:
    if way.refused:
        return f"CANNOT BE MET: hibernation would be refused: {way.refused}"
    words = f"hibernation needs {_time(nothing.hibernate_seconds)}, {left}"
    if nothing.refused:
        words = f"hibernation would be refused as it is ({nothing.refused}), {left}"
    if way.goal_bytes is None:
        if fits:
            return f"{words}: nothing has to be prepared"
        return f"{words}: nothing that can be prepared in time makes it shorter"
    what = f"preparing {_size(gone)}" if gone else "writing what is dirty"
    times = f"{_time(way.hibernate_seconds)}, {_time(way.total_seconds)} in all"
    return f"{words}: {what} first makes it {times}"


def _words(way: Outlook, left: str, gone: int) -> str:
    if way.goal_bytes is None:
        return f"{left}: nothing is prepared"
    does = f"preparing {_size(gone)} without touching what is in use"
    if way.stopped:
        return f"CANNOT BE MET: {left}: {does} is as far as it gets"
    return f"{left}: {does} takes {_time(way.prepare_seconds)}"


def _time(seconds: float) -> str:
    if seconds >= _LONG_SECONDS:
        return f"{seconds / 60:.0f} min"
    return f"{seconds:.0f} s" if seconds >= _WHOLE_SECONDS else f"{seconds:.1f} s"


def _size(size_bytes: int) -> str:
    if size_bytes >= _GIGABYTE:
        return f"{size_bytes / _GIGABYTE:.1f} GB"
    return f"{size_bytes / 1e6:.0f} MB"
