# SPDX-License-Identifier: LGPL-2.1-or-later
"""What preparing comes to when there is so much time for it, and the hibernation after it. Pure.

The time that a preparation takes is

    fixed + dirty / disk + (page cache, slab) / dropping + wait + anonymous / min(swapping, disk)

in this order, and what is not reached in time stays. `wait` is what stage cold-anon may take to
find out what is cold, all of it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from hibprep import fitting, predict
from hibprep import plan as planning
from hibprep.choice import Capabilities
from hibprep.model import Limits, Plan, Rates, Snapshot, Stage, Target, TargetKind


@dataclass(frozen=True, slots=True, kw_only=True)
class Outlook:
    """One way to go: what is prepared, how long that takes, the hibernation after it."""

    limits: Limits
    saveable_bytes: int  # when it ends
    goal_bytes: int | None = None  # where it would end with time enough; None: nothing to prepare
    prepare_seconds: float = 0.0
    hibernate_seconds: float = 0.0
    refused: str = ""  # why the hibernation would be
    stopped: bool = False  # time is over before it ends
    guessed_bytes: int = 0  # of anonymous memory that goes without being known to be cold

    @property
    def total_seconds(self) -> float:
        """Preparing, and hibernating after it."""
        return self.prepare_seconds + self.hibernate_seconds


def target_for(snapshot: Snapshot, goal_bytes: int) -> Target:
    """The target whose plan ends with so much saveable (no more than the largest image)."""
    size = max(snapshot.page_size, goal_bytes) + planning.headroom_bytes(snapshot)
    return Target(TargetKind.SIZE, size_bytes=size)


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A machine, and what preparing it may take: `most_seconds`. `hibernates`: whether it is to
    hibernate then; otherwise all that is about a hibernation is 0."""

    snapshot: Snapshot
    rates: Rates
    capabilities: Capabilities
    most_seconds: float
    hibernates: bool

    @property
    def saveable_bytes(self) -> int:
        """What is saveable now."""
        return predict.saveable_pages(self.snapshot) * self.snapshot.page_size

    @property
    def dirty_bytes(self) -> int:
        """What is dirty now, or being written."""
        memory = self.snapshot.memory
        return memory.dirty_bytes + memory.writeback_bytes

    def nothing(self, limits: Limits) -> Outlook:
        """Preparing nothing."""
        return self._then(limits, self.saveable_bytes, self.dirty_bytes)

    def down_to(self, goal_bytes: int, limits: Limits) -> Outlook:
        """Preparing until so much is saveable, or as far as there is something to be had."""
        target = target_for(self.snapshot, goal_bytes)
        plan = planning.make(self.snapshot, self.capabilities, target, limits, self.rates)
        watch, disk = _Watch(self.most_seconds), self.rates.disk_write_bytes_per_second
        watch.take(self.rates.fixed_prepare_seconds, 1.0)
        if watch.is_over() or not plan.steps:
            return self.nothing(limits)
        work = _work(plan, limits)
        memory = self.snapshot.memory
        # what is dirty does not go before it is written
        clean = memory.file_lru_bytes + memory.slab_reclaimable_bytes - self.dirty_bytes
        file_bytes = work.file_bytes if work.syncs else max(0, min(work.file_bytes, clean))
        written = watch.take(self.dirty_bytes if work.syncs else 0, disk)
        dropped = watch.take(file_bytes, self.rates.drop_bytes_per_second)
        watch.take(work.wait_seconds, 1.0)
        swapped = watch.take(work.anon_bytes, min(self.rates.swap_out_bytes_per_second, disk))
        gone = plan.before.saveable_bytes - plan.after.saveable_bytes
        gone -= work.file_bytes - file_bytes
        if watch.is_over():
            # what goes to zswap does not leave memory as a whole
            share = max(0, gone - file_bytes) / max(1, work.anon_bytes)
            gone = min(gone, dropped + int(swapped * share))
        found = self._then(
            limits,
            max(0, self.saveable_bytes - gone),
            self.dirty_bytes - written,
            dropped=dropped,
            swapped=swapped,
        )
        return replace(
            found,
            goal_bytes=plan.after.saveable_bytes,
            prepare_seconds=watch.spent_seconds,
            stopped=watch.is_over(),
            guessed_bytes=max(0, work.anon_bytes - work.known_bytes),
        )

    def _then(
        self, limits: Limits, saveable: int, dirty: int, *, dropped: int = 0, swapped: int = 0
    ) -> Outlook:
        """The hibernation with so much saveable and dirty, when so much of cache and of anonymous
        memory has gone."""
        if not self.hibernates:
            return Outlook(limits=limits, saveable_bytes=saveable)
        after = predict.predict(
            self.snapshot, self.rates, saveable_bytes=saveable, dirty_bytes=dirty
        )
        fit = fitting.fit(
            self.snapshot,
            limits,
            saveable_bytes=max(0, self.saveable_bytes - dropped),
            swapped_bytes=swapped,
        )
        refused = "" if fit.ok else fit.reason
        power = self.snapshot.power
        if not power.available:
            refused = "; ".join(power.disabled_by) or "this kernel does not offer it"
        return Outlook(
            limits=limits,
            saveable_bytes=saveable,
            hibernate_seconds=after.hibernate_seconds,
            refused=refused,
        )


@dataclass(slots=True)
class _Watch:
    """Time that is spent, of what there is."""

    most_seconds: float
    spent_seconds: float = 0.0
    _over: bool = False

    def is_over(self) -> bool:
        """Whether something was asked for that there was no time for."""
        return self._over

    def take(self, amount: float, per_second: float) -> int:
        """Spend time on so much; how much of it is done before time is over."""
        seconds = amount / per_second
        there = max(0.0, self.most_seconds - self.spent_seconds)
        if seconds <= there:
            self.spent_seconds += seconds
            return round(amount)
        self._over = True
        self.spent_seconds = max(self.spent_seconds, self.most_seconds)
        return int(there * per_second)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Work:
    """What a plan takes, as far as it takes time."""

    syncs: bool
    file_bytes: int  # with slab
    anon_bytes: int
    known_bytes: int  # of these, known to be cold
    wait_seconds: float


def _work(plan: Plan, limits: Limits) -> _Work:
    """What comes first for a rule is in the amounts of the whole, and each step of anonymous memory
    makes up for what the one before it left."""
    steps = [step for step in plan.steps if step.scope == limits.scope]

    def amount(stage: Stage, *, waits: bool = True) -> int:
        return sum(
            step.amount_bytes for step in steps if step.stage is stage and step.waits is waits
        )

    known, found_out = amount(Stage.COLD_ANON, waits=False), amount(Stage.COLD_ANON)
    return _Work(
        syncs=any(step.stage is Stage.SYNC for step in plan.steps),
        file_bytes=amount(Stage.CACHE) + amount(Stage.SLAB),
        anon_bytes=max(amount(Stage.ANON), known, found_out),
        known_bytes=known,
        wait_seconds=(limits.cold_wait_seconds or 0.0) if found_out else 0.0,
    )
