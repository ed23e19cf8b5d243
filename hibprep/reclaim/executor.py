# SPDX-License-Identifier: LGPL-2.1-or-later
"""Runs a plan, chunk by chunk, until it is done, is told to stop, or must not go on.

Each chunk is aimed at 100 ms of work, so that a stop never waits for longer. Before a chunk of
anonymous memory both fits are checked with what it would take, after every chunk everything is read
again: what was freed is told from counters and free memory, never from return codes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from hibprep import fitting
from hibprep.clock import Clock
from hibprep.errors import HibprepError, KernelFileError
from hibprep.model import (
    BackendName,
    Ending,
    Freed,
    Kind,
    Limits,
    Plan,
    Progress,
    Snapshot,
    Stage,
    Step,
    StepReport,
)
from hibprep.reclaim.base import Backend, Budget, Outcome, Status, Stop
from hibprep.reclaim.observe import Observation, Observer, add, freed_between
from hibprep.reclaim.pressure import PressureGauge

ROUNDS_WITHOUT_MOVEMENT = 3
_FIRST_CHUNK_BYTES = 4 << 20
_SMALLEST_CHUNK_BYTES = 1 << 20
_LARGEST_CHUNK_BYTES = 256 << 20
_AGAIN_SECONDS = 0.05  # writeback needs a moment before the kernel can free what it wrote
_LONGEST_BRAKE_SECONDS = 1.0
_NOTICEABLE_BYTES = 64 << 10
# Of what was taken lately, so much coming straight back means that only the working set is left:
# going on would wear the disk and hurt work, and gain nothing.
_FUTILE_SHARE = 0.5
_FUTILE_WINDOW_BYTES = 16 << 20


@dataclass(frozen=True, slots=True)
class Settings:
    """How gently: seconds a chunk aims at, and the share of time (0 to 1) that others may be
    stalled on memory before the executor waits for them."""

    chunk_seconds: float = 0.1
    pressure_limit: float = 0.2


@dataclass(slots=True)
class Run:
    """What came of a plan's steps."""

    steps: list[StepReport] = field(default_factory=list)
    ending: Ending = Ending.DONE
    reason: str = ""
    last: Observation | None = None

    @property
    def freed(self) -> Freed:
        """All steps together."""
        total = Freed()
        for step in self.steps:
            total = add(total, step.freed)
        return total


@dataclass(slots=True)
class _StepState:
    """The counters of the step that is running."""

    begin: float
    freed: Freed = field(default_factory=Freed)
    chunk_bytes: int = _FIRST_CHUNK_BYTES
    chunks: int = 0
    still: int = 0  # rounds in a row in which nothing moved
    skipped_bytes: int = 0
    lately: Freed = field(default_factory=Freed)  # in the window of `futile`
    waited_seconds: float = 0.0

    def add(self, freed: Freed, outcome: Outcome) -> None:
        """Add up what a chunk was worth. Waiting is not a round in which nothing moved."""
        self.freed = add(self.freed, freed)
        self.skipped_bytes += outcome.skipped_bytes
        if outcome.status is Status.WAIT:
            return
        self.chunks += 1
        moved = max(freed.reclaimed_bytes, freed.swapped_out_bytes) >= _NOTICEABLE_BYTES
        self.still = 0 if moved or outcome.knows_its_end else self.still + 1

    def futile(self, freed: Freed) -> bool:
        """Whether what is taken comes straight back, judged over a window of some chunks."""
        lately = self.lately = add(self.lately, freed)
        out = lately.anon_bytes + lately.file_bytes
        if out < _FUTILE_WINDOW_BYTES:
            return False
        # By kind: files read again that an earlier step dropped say nothing of anonymous memory.
        back = min(lately.swapped_in_bytes, lately.anon_bytes) + min(
            lately.refaulted_file_bytes, lately.file_bytes
        )
        self.lately = Freed()
        return back / out > _FUTILE_SHARE


class Executor:
    """Runs plans with the given back-ends; knows the rules and no kernel file."""

    def __init__(
        self,
        backends: Mapping[BackendName, Backend],
        *,
        observer: Observer,
        gauge: PressureGauge,
        clock: Clock,
        limits: Limits,
        settings: Settings,
    ) -> None:
        self._backends = backends
        self._observer = observer
        self._gauge = gauge
        self._clock = clock
        self._limits = limits
        self._settings = settings

    def run(
        self,
        plan: Plan,
        stop: Stop,
        progress: Callable[[Progress], None] | None = None,
        enter: Callable[[Step], None] | None = None,
    ) -> Run:
        """Run every step; never raises for what the kernel does, it ends the step and says so.
        `enter` is called before each step, for what has to be made ready."""
        run = Run()
        begin = self._clock.monotonic()
        cold = [step for step in plan.steps if step.stage is Stage.COLD_ANON]
        # What is known to be old goes first: an aging would forget how old it is.
        if all(step.waits for step in cold):
            for step in cold:
                if not stop.requested():
                    self._backends[step.backend].prime(step, stop)

        for number, step in enumerate(plan.steps, start=1):

            def tell(
                done: int, saveable: int, note: str, step: Step = step, number: int = number
            ) -> None:
                if progress is not None:
                    progress(
                        Progress(
                            stage=step.stage,
                            step=number,
                            steps=len(plan.steps),
                            done_bytes=min(done, step.amount_bytes),
                            amount_bytes=step.amount_bytes,
                            saveable_bytes=saveable,
                            goal_bytes=plan.goal_bytes,
                            seconds=self._clock.monotonic() - begin,
                            note=note,
                        )
                    )

            if enter is not None and not stop.requested():
                enter(step)
            report = self._run_step(step, run, stop, tell)
            run.steps.append(report)
            if report.ending in (Ending.INTERRUPTED, Ending.DEADLINE):
                run.ending, run.reason = report.ending, report.reason
                return run
        run.ending, run.reason = _ending_of(run.steps)
        return run

    def _run_step(
        self, step: Step, run: Run, stop: Stop, tell: Callable[[int, int, str], None]
    ) -> StepReport:
        state = _StepState(begin=self._clock.monotonic())
        try:
            now = run.last = run.last or self._observer.observe()
            self._gauge.sample()
            while True:
                tell(_done_bytes(step, state.freed), now.saveable_bytes, "")
                end = self._before_chunk(step, state, now, stop)
                if end is not None:
                    return self._report(step, state, *end)
                outcome, seconds = self._chunk(step, state, now, stop)
                before, now = now, self._observer.observe()
                run.last = now
                freed = freed_between(before, now, step.backend)
                if outcome.counted_file_bytes is not None:
                    freed = replace(freed, file_bytes=outcome.counted_file_bytes)
                state.add(freed, outcome)
                end = self._after_chunk(step, state, outcome, freed, stop)
                if end is not None:
                    tell(_done_bytes(step, state.freed), now.saveable_bytes, "")
                    return self._report(step, state, *end)
                self._pace(state, outcome, seconds, stop, step)
                if outcome.status is Status.WAIT and outcome.wait_seconds > 0:
                    if self._waits_too_long(step, state, outcome.wait_seconds, stop):
                        why = "there is no more time to wait for what proves cold"
                        return self._report(step, state, Ending.DONE, why)
                    tell(_done_bytes(step, state.freed), now.saveable_bytes, outcome.note)
                    begin = self._clock.monotonic()
                    stop.wait(outcome.wait_seconds)
                    state.waited_seconds += self._clock.monotonic() - begin
                    now = run.last = self._observer.observe()
        except KernelFileError as error:
            return self._report(step, state, Ending.FAILED, str(error))

    def _waits_too_long(self, step: Step, state: _StepState, seconds: float, stop: Stop) -> bool:
        """Whether so much more waiting is over what stage cold-anon may take, or is not over before
        the run's own time is: what it is for would not be had, and others can use that time."""
        if step.stage is not Stage.COLD_ANON:
            return False
        most, left = self._limits.cold_wait_seconds, stop.remaining_seconds()
        if left is not None and seconds >= left:
            return True
        return most is not None and state.waited_seconds + seconds > most

    def _before_chunk(
        self, step: Step, state: _StepState, now: Observation, stop: Stop
    ) -> tuple[Ending, str] | None:
        """Whether the step is over, seen from the state of the machine."""
        if stop.requested():
            return _stopped(stop)
        if step.goal_bytes and now.saveable_bytes <= step.goal_bytes:
            return Ending.DONE, "the target is reached"
        if state.chunks and _done_bytes(step, state.freed) >= step.amount_bytes:
            return Ending.DONE, "its amount is reached"
        if step.kind in (Kind.ANON, Kind.ANY) and self._room_bytes(now, state) <= 0:
            return Ending.LIMIT, (
                "no more may go to swap: the rest is kept for the image and for systemd's check"
                if now.snapshot.power.available
                else "the swap is full"
            )
        return None

    def _room_bytes(self, now: Observation, state: _StepState) -> int:
        """How much the next chunk may swap out without doing harm (0: nothing).

        Reclaim may take more than it was asked for, and what it wrote stays in memory until it is
        scanned once more: so twice the chunk is checked, and as if none of it had left memory yet.
        """
        snapshot = now.snapshot
        swap_free = sum(area.free_bytes for area in snapshot.swaps if not area.is_zram)
        if not self._protects(snapshot):
            return min(state.chunk_bytes, swap_free)
        amount = min(state.chunk_bytes, swap_free)
        while amount >= 32 * snapshot.page_size:
            if fitting.safe_to_swap(snapshot, self._limits, 2 * amount, in_flight=True):
                return amount
            amount //= 2
        if not fitting.accepted(snapshot, self._limits):
            # There is nothing to harm, and perhaps something to cure.
            return min(state.chunk_bytes, fitting.swap_budget_bytes(snapshot, self._limits))
        ahead = fitting.swap_ahead_bytes(snapshot)
        return min(state.chunk_bytes, ahead // 2) if ahead > 64 * snapshot.page_size else 0

    @staticmethod
    def _protects(snapshot: Snapshot) -> bool:
        """Whether there is a hibernation that could be harmed."""
        return snapshot.power.available and fitting.resume_area(snapshot) is not None

    def _chunk(
        self, step: Step, state: _StepState, now: Observation, stop: Stop
    ) -> tuple[Outcome, float]:
        amount = min(
            state.chunk_bytes,
            max(step.amount_bytes - _done_bytes(step, state.freed), now.snapshot.page_size),
        )
        if step.goal_bytes:
            amount = min(amount, now.saveable_bytes - step.goal_bytes)
        if step.kind in (Kind.ANON, Kind.ANY):
            amount = min(amount, self._room_bytes(now, state))
        page = now.snapshot.page_size
        budget = Budget(max(page, amount // page * page), self._settings.chunk_seconds)
        begin = self._clock.monotonic()
        try:
            outcome = self._backends[step.backend].run(step, budget, stop)
        except HibprepError as error:
            outcome = Outcome(Status.FAILED, str(error))
        return outcome, self._clock.monotonic() - begin

    @staticmethod
    def _after_chunk(
        step: Step, state: _StepState, outcome: Outcome, freed: Freed, stop: Stop
    ) -> tuple[Ending, str] | None:
        """Whether the step is over, seen from what the back-end said and what moved."""
        if outcome.status is Status.STOPPED or stop.requested():
            return _stopped(stop)
        if outcome.status is Status.EXHAUSTED:
            done = step.stage in (Stage.SYNC, Stage.COLD_ANON)
            return (Ending.DONE if done else Ending.EXHAUSTED), outcome.note
        if outcome.status is Status.GONE:
            return Ending.EXHAUSTED, outcome.note
        if outcome.status is Status.FAILED:
            return Ending.FAILED, outcome.note
        if state.futile(freed):
            return Ending.EXHAUSTED, "what is taken comes straight back: it is the working set"
        if outcome.status is not Status.WAIT and state.still >= ROUNDS_WITHOUT_MOVEMENT:
            return Ending.EXHAUSTED, f"nothing moved in {state.still} rounds"
        return None

    def _pace(
        self, state: _StepState, outcome: Outcome, seconds: float, stop: Stop, step: Step
    ) -> None:
        """Size the next chunk by how long this one took, and wait where others suffer."""
        if outcome.status in (Status.OK, Status.AGAIN) and seconds > 0:
            factor = min(2.0, max(0.5, self._settings.chunk_seconds / seconds))
            state.chunk_bytes = min(
                _LARGEST_CHUNK_BYTES, max(_SMALLEST_CHUNK_BYTES, int(state.chunk_bytes * factor))
            )
        if outcome.status is Status.AGAIN:
            stop.wait(_AGAIN_SECONDS * max(1, state.still * 2))
        pressure = self._gauge.sample()
        if step.kind is not Kind.SLAB and pressure > self._settings.pressure_limit:
            over = pressure / self._settings.pressure_limit
            stop.wait(min(_LONGEST_BRAKE_SECONDS, self._settings.chunk_seconds * over))

    def _report(self, step: Step, state: _StepState, ending: Ending, reason: str) -> StepReport:
        if state.skipped_bytes and "skipped" not in reason:
            reason += f"; {state.skipped_bytes} bytes were skipped"
        return StepReport(
            stage=step.stage,
            scope=str(step.scope),
            backend=step.backend,
            asked_bytes=step.amount_bytes,
            freed=state.freed,
            seconds=self._clock.monotonic() - state.begin,
            chunks=state.chunks,
            ending=ending,
            reason=reason,
            waited_seconds=state.waited_seconds,
        )


def _done_bytes(step: Step, freed: Freed) -> int:
    """What counts towards the step's amount."""
    if step.backend is BackendName.MADVISE:
        # What it wrote stays in the swap cache until reclaim comes by; asking for more of it would
        # page out everything there is.
        return max(freed.anon_bytes, freed.swapped_out_bytes)
    if step.kind is Kind.FILE:
        return freed.file_bytes
    if step.kind is Kind.ANON:
        return freed.anon_bytes
    if step.kind is Kind.SLAB:
        return freed.slab_bytes
    return freed.reclaimed_bytes


def _stopped(stop: Stop) -> tuple[Ending, str]:
    if stop.timed_out:
        return Ending.DEADLINE, stop.reason
    return Ending.INTERRUPTED, stop.reason


def _ending_of(steps: list[StepReport]) -> tuple[Ending, str]:
    """The last step says how a run that was not stopped ended; a failed one is never hidden."""
    for step in steps:
        if step.ending is Ending.FAILED:
            return Ending.FAILED, f"{step.stage}: {step.reason}"
    for step in reversed(steps):
        if step.ending is Ending.LIMIT:
            return Ending.LIMIT, f"{step.stage}: {step.reason}"
    if steps:
        return steps[-1].ending, f"{steps[-1].stage}: {steps[-1].reason}"
    return Ending.DONE, "nothing to do"
