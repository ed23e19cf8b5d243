# SPDX-License-Identifier: LGPL-2.1-or-later
"""Random histories of signals: what must hold after every one of them.

HIBPREP_HISTORIES says how many.
"""

from __future__ import annotations

import os
from dataclasses import replace

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from hibprep.decide import decide
from hibprep.events import (
    Cpu,
    DevicesChanged,
    Inhibitors,
    Moment,
    PowerSupply,
    Predicted,
    Pressure,
    Request,
    RunEnded,
    Sessions,
    Shutdown,
    Signal,
    Sleep,
    SourceChanged,
    SourceName,
    Tick,
    Wish,
)
from hibprep.idleness import IdlePolicy
from hibprep.model import Ending
from hibprep.policy import Battery, Kind, Policy
from hibprep.state import Act, Decision, Phase, State, begin
from tests.unit.deciding import ADA, WRITING, moment_at

EXAMPLES = int(os.environ.get("HIBPREP_HISTORIES", "1000"))
SHARES = st.floats(0, 1)
SESSION_CLASSES = st.sampled_from(
    ["user", "user-early", "greeter", "lock-screen", "manager", "odd"]
)
SESSION_TYPES = st.sampled_from(["tty", "x11", "wayland", "unspecified"])


class Histories(RuleBasedStateMachine):
    """A daemon's life. `running` and `asleep` are what the outside knows to be true."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds = 0.0
        self.asleep_seconds = 0.0
        self.running: Decision | None = None
        self.stopped = False
        self.asked = False
        self.asleep = False
        self.released = False
        self.policy = Policy()
        self.state: State = begin(self.now)

    @property
    def now(self) -> Moment:
        return moment_at(self.seconds, self.asleep_seconds)

    @initialize(
        kind=st.sampled_from(Kind),
        battery=st.sampled_from(Battery),
        low=st.sampled_from(Battery),
        budget=st.sampled_from([0, 1 << 30]),
        each=st.booleans(),
        swap_in=st.booleans(),
        older_than=st.sampled_from([0.0, 60.0]),
    )
    def configure(
        self,
        *,
        kind: Kind,
        battery: Battery,
        low: Battery,
        budget: int,
        each: bool,
        swap_in: bool,
        older_than: float,
    ) -> None:
        self.policy = Policy(
            kind=kind,
            on_battery=battery,
            on_low_battery=low,
            write_budget_bytes=budget,
            idle=IdlePolicy(cpu_each=each),
            swap_in=swap_in,
            older_than_seconds=older_than,
        )

    def tell(self, signal: Signal) -> None:
        if isinstance(signal, (Sleep, Shutdown)) and signal.coming:
            self.asleep, self.released = True, False
        before = self.state
        self.state, made = decide(before, signal, self.now, self.policy)
        if self.asleep and self.state.phase is not Phase.SLEEPING:
            self.asleep = False
        for decision in made:
            assert decision.reason
            self.carry_out(decision)

    def carry_out(self, decision: Decision) -> None:
        if decision.act is Act.START:
            assert self.running is None, "two runs at once"
            assert not self.asleep, "a run in the middle of a sleep"
            assert decision.stages
            asked = self.state.request is not None
            if self.policy.write_budget_bytes and not asked:
                assert decision.write_bytes is not None
                assert decision.write_bytes > 0 or not WRITING & set(decision.stages)
            if self.policy.kind is Kind.ON_REQUEST:
                assert asked
            if decision.older_than_seconds:
                assert self.policy.kind is Kind.CONTINUOUS
                assert decision.older_than_seconds == self.policy.older_than_seconds
                assert decision.amount_bytes
                assert not asked
            self.running, self.stopped = decision, False
        elif decision.act is Act.STOP:
            assert self.running is not None, "nothing to stop"
            assert not self.stopped, "stopped twice"
            self.stopped = True
        elif decision.act is Act.RELEASE:
            assert self.running is None, "out of the way with a run under way"
            assert self.asleep
            self.released = True

    @rule(seconds=st.sampled_from([0.0, 0.1, 1.0, 10.0, 61.0, 400.0, 4000.0]))
    def time_passes(self, seconds: float) -> None:
        self.seconds += seconds
        self.tell(Tick())

    @rule(
        idle=st.booleans(),
        locked=st.booleans(),
        active=st.booleans(),
        hints=st.booleans(),
        session_class=SESSION_CLASSES,
        session_type=SESSION_TYPES,
        ago=st.one_of(st.none(), st.floats(-10, 5000)),
        number=st.integers(0, 3),
    )
    def sessions(
        self,
        *,
        idle: bool,
        locked: bool,
        active: bool,
        hints: bool,
        session_class: str,
        session_type: str,
        ago: float | None,
        number: int,
    ) -> None:
        since = None if ago is None else self.now.monotonic_seconds - ago
        one = replace(
            ADA,
            session_class=session_class,
            session_type=session_type,
            idle=idle,
            idle_at_seconds=since,
            locked=locked,
            active=active,
            hints=hints,
            input_at_seconds=since if session_type == "tty" else None,
        )
        self.tell(Sessions(tuple(replace(one, id=str(n)) for n in range(number))))

    @rule(idle=SHARES, least=SHARES, seconds=st.floats(0.1, 60))
    def cpu(self, idle: float, least: float, seconds: float) -> None:
        self.tell(Cpu(idle_share=idle, least_idle_share=min(idle, least), seconds=seconds))

    @rule(share=SHARES, resource=st.sampled_from(["memory", "io"]))
    def pressure(self, share: float, resource: str) -> None:
        self.tell(Pressure(resource=resource, scope="user.slice", share=share))

    @rule(idle=st.booleans(), sleep=st.booleans())
    def inhibitors(self, *, idle: bool, sleep: bool) -> None:
        self.tell(Inhibitors(("film",) if idle else (), ("upgrade",) if sleep else ()))

    @rule(mains=st.sampled_from([None, True, False]), percent=st.integers(0, 100))
    def power(self, *, mains: bool | None, percent: int) -> None:
        self.tell(PowerSupply(mains=mains, battery_percent=percent))

    @rule(source=st.sampled_from(SourceName), works=st.booleans())
    def source(self, *, source: SourceName, works: bool) -> None:
        self.tell(SourceChanged(source, works, "said so"))

    @rule(seconds=st.floats(0, 1000))
    def predicted(self, seconds: float) -> None:
        self.tell(Predicted(hibernate_seconds=seconds, resume_seconds=1.0, saveable_bytes=1 << 30))

    @rule(wish=st.sampled_from(Wish))
    def request(self, wish: Wish) -> None:
        self.tell(Request(wish=wish, who="somebody"))

    @rule()
    def devices(self) -> None:
        self.tell(DevicesChanged("swap came or went"))

    @rule(shutdown=st.booleans())
    def sleep_comes(self, *, shutdown: bool) -> None:
        self.tell(Shutdown(coming=True) if shutdown else Sleep(coming=True))

    @rule(seconds=st.sampled_from([0.0, 3600.0]))
    def sleep_ends(self, seconds: float) -> None:
        self.asleep_seconds += seconds
        self.tell(Sleep(coming=False))

    @precondition(lambda self: self.running is not None)
    @rule(
        ending=st.sampled_from(Ending),
        reached=st.booleans(),
        freed=st.integers(0, 1 << 30),
        back=SHARES,
    )
    def run_ends(self, *, ending: Ending, reached: bool, freed: int, back: float) -> None:
        self.running, self.stopped = None, False
        self.tell(
            RunEnded(
                ending=ending,
                reason=str(ending),
                goal_reached=reached,
                freed_bytes=freed,
                refaulted_bytes=int(freed * back),
                swapped_out_bytes=freed,
            )
        )

    @invariant()
    def it_knows_what_runs(self) -> None:
        assert bool(self.state.running) == (self.running is not None)
        assert self.state.stopping == (self.stopped and self.running is not None)

    @invariant()
    def a_sleep_is_never_kept_waiting(self) -> None:
        if self.asleep:
            assert self.released or self.stopped

    @invariant()
    def whoever_uses_the_machine_has_it(self) -> None:
        if self.policy.kind is Kind.IDLE and self.state.phase is Phase.ACTIVE and self.running:
            assert self.stopped

    @invariant()
    def there_is_a_reason(self) -> None:
        assert self.state.reason
        assert self.state.written_bytes >= 0

    @invariant()
    def it_never_waits_for_nothing(self) -> None:
        """Whatever it waits for comes by itself or has a time."""
        if self.state.phase in (Phase.SLEEPING, Phase.RESUMING) and self.running is None:
            assert self.state.wake_at_seconds is not None
        if self.state.phase is Phase.RECLAIMING and self.running is None:
            # between two parts of a trickle
            assert self.policy.kind is Kind.CONTINUOUS
            assert self.state.wake_at_seconds is not None


Histories.TestCase.settings = settings(max_examples=EXAMPLES, stateful_step_count=40, deadline=None)
# a hundredth of a second each, on a machine with nothing else to do
TestHistories = pytest.mark.timeout(120 + EXAMPLES / 10)(Histories.TestCase)
