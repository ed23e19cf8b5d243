# SPDX-License-Identifier: LGPL-2.1-or-later
"""What is decided, when, and for what reason."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import date

import pytest

from hibprep.decide import LONGEST_SLEEP_SECONDS, decide
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
    Session,
    Sessions,
    Shutdown,
    Signal,
    Sleep,
    Tick,
    Wish,
)
from hibprep.model import Ending, Stage, Target, TargetKind
from hibprep.policy import Battery, Kind, Policy
from hibprep.state import Act, Decision, Phase, State, begin
from tests.unit.deciding import ADA, START, WRITING, moment_at

DONE = RunEnded(ending=Ending.DONE, reason="its amount is reached")
REACHED = replace(DONE, reason="the target is reached", goal_reached=True)
STOPPED = RunEnded(ending=Ending.INTERRUPTED, reason="stopped")


@dataclass
class Daemon:
    """Tells signals to the machine under test, at its own time."""

    policy: Policy = field(default_factory=Policy)
    seconds: float = 0.0
    asleep_seconds: float = 0.0
    state: State = field(init=False)
    made: list[Decision] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.state = begin(self.now)

    @property
    def now(self) -> Moment:
        return moment_at(self.seconds, self.asleep_seconds)

    def phase(self) -> Phase:
        return self.state.phase

    def tell(self, signal: Signal, *, after: float = 0.0) -> tuple[Decision, ...]:
        self.seconds += after
        self.state, made = decide(self.state, signal, self.now, self.policy)
        self.made += made
        return made

    def tick(self, after: float) -> tuple[Decision, ...]:
        return self.tell(Tick(), after=after)

    def used(self) -> tuple[Decision, ...]:
        return self.tell(Sessions((session(),)))

    def left(self) -> tuple[Decision, ...]:
        return self.tell(Sessions((session(idle=True, idle_at_seconds=START + self.seconds),)))

    def until_ready(self) -> list[tuple[Stage, ...]]:
        """Leave the machine alone and let every run succeed; the stages of each."""
        self.left()
        runs = []
        while self.phase() is not Phase.READY:
            assert self.seconds < 10_000, self.state
            for each in self.tick(10):
                if each.act is Act.START:
                    runs.append(each.stages)
                    self.tell(DONE, after=5)
        return runs


def session(*, idle: bool = False, idle_at_seconds: float | None = None) -> Session:
    return replace(ADA, idle=idle, idle_at_seconds=idle_at_seconds, hints=True)


def acts(made: tuple[Decision, ...]) -> list[Act]:
    return [each.act for each in made]


def test_stage_by_stage_each_with_its_own_delay_and_then_ready() -> None:
    daemon = Daemon()
    daemon.used()
    assert daemon.phase() is Phase.ACTIVE
    daemon.left()
    assert daemon.tick(50) == ()
    assert daemon.phase() is Phase.ACTIVE
    begun: dict[tuple[Stage, ...], float] = {}
    while daemon.phase() is not Phase.READY:
        for each in daemon.tick(10):
            assert each.act is Act.START
            assert daemon.phase() is Phase.RECLAIMING
            begun[each.stages] = daemon.seconds
            daemon.tell(DONE)
    assert list(begun) == [
        (Stage.SYNC,),
        (Stage.CACHE, Stage.SLAB),
        (Stage.COLD_ANON,),
        (Stage.ANON,),
    ]
    assert list(begun.values()) == [60, 120, 300, 900]
    assert daemon.state.reason.startswith("idle 15 min: seat0 idle, no input since 12:00")


def test_between_the_stages_the_next_one_is_known() -> None:
    daemon = Daemon()
    daemon.left()
    daemon.tick(60)
    daemon.tell(DONE)
    daemon.tick(10)
    assert (daemon.phase(), daemon.state.next_stage) == (Phase.IDLE, Stage.CACHE)
    assert daemon.state.wake_at_seconds == START + 120


def test_once_the_target_is_reached_no_more_is_taken() -> None:
    daemon = Daemon()
    daemon.left()
    daemon.tick(60)
    daemon.tell(REACHED)
    assert daemon.phase() is Phase.READY
    assert daemon.tick(200) == ()


def test_activity_stops_at_once_and_begins_anew() -> None:
    daemon = Daemon()
    daemon.left()
    assert acts(daemon.tick(130)) == [Act.START]
    made = daemon.used()
    assert acts(made) == [Act.STOP]
    assert made[0].reason == "seat0 is used by ada"
    assert daemon.used() == ()  # once is enough
    daemon.tell(STOPPED)
    assert daemon.phase() is Phase.ACTIVE
    daemon.left()
    assert daemon.tick(59) == ()
    assert acts(daemon.tick(1)) == [Act.START]


def test_typing_on_a_terminal_is_activity_although_nothing_is_signalled() -> None:
    daemon = Daemon()

    def typed(at: float) -> Sessions:
        return Sessions(
            (replace(session(), session_type="tty", tty="pts/3", input_at_seconds=START + at),)
        )

    daemon.tell(typed(0))
    assert acts(daemon.tick(70)) == [Act.START]
    assert acts(daemon.tell(typed(71), after=2)) == [Act.STOP]


@pytest.mark.parametrize("signal", [Sleep(coming=True), Shutdown(coming=True)])
def test_a_sleep_waits_for_nothing_when_nothing_runs(signal: Signal) -> None:
    daemon = Daemon()
    assert acts(daemon.tell(signal)) == [Act.RELEASE]
    assert daemon.phase() is Phase.SLEEPING
    assert acts(daemon.tell(signal)) == [Act.RELEASE]  # said twice: released already, no harm


def test_a_sleep_stops_the_run_first_and_lets_go_when_it_has_ended() -> None:
    daemon = Daemon()
    daemon.left()
    daemon.tick(130)
    assert acts(daemon.tell(Sleep(coming=True))) == [Act.STOP]
    assert daemon.tell(Sleep(coming=True)) == ()
    assert daemon.tick(1) == ()
    assert acts(daemon.tell(STOPPED)) == [Act.RELEASE]


def test_after_a_sleep_it_settles_and_counts_idleness_from_the_resume() -> None:
    daemon = Daemon()
    daemon.left()
    daemon.tell(Sleep(coming=True), after=100)
    daemon.asleep_seconds += 5000
    assert daemon.tell(Sleep(coming=False), after=1) == ()
    assert daemon.phase() is Phase.RESUMING
    assert daemon.tick(30) == ()
    assert daemon.phase() is Phase.RESUMING
    assert acts(daemon.tick(30)) == [Act.START]  # idle since before, but counted from the resume
    assert daemon.made[-1].stages == (Stage.SYNC,)


def test_swap_in_at_once_after_the_resume_where_that_is_wanted() -> None:
    daemon = Daemon(Policy(swap_in=True))
    daemon.used()
    daemon.tell(Sleep(coming=True))
    assert acts(daemon.tell(Sleep(coming=False))) == [Act.SWAP_IN]
    assert daemon.phase() is Phase.RESUMING
    assert daemon.tell(Sleep(coming=False)) == ()
    assert daemon.tick(60) == ()


def test_a_sleep_whose_end_nobody_tells_of() -> None:
    daemon = Daemon()
    daemon.used()
    daemon.tell(Sleep(coming=True))
    daemon.tick(10)
    assert daemon.phase() is Phase.SLEEPING
    daemon.asleep_seconds += 600  # its clocks tell that it slept
    daemon.tick(10)
    assert daemon.phase() is Phase.RESUMING

    refused = Daemon()
    refused.used()
    refused.tell(Sleep(coming=True))
    refused.tick(LONGEST_SLEEP_SECONDS)
    assert refused.phase() is Phase.RESUMING
    assert refused.state.reason == "nobody said that the sleep ended"


def test_the_end_of_a_sleep_that_never_began_changes_nothing() -> None:
    daemon = Daemon()
    before = daemon.state
    assert daemon.tell(Sleep(coming=False)) == ()
    assert daemon.phase() is before.phase


def test_a_request_runs_all_stages_whoever_is_there() -> None:
    daemon = Daemon()
    daemon.used()
    target = Target(TargetKind.MIN)
    asked = Request(
        wish=Wish.PREPARE, who="hibprep prepare (pid 7)", target=target, timeout_seconds=9
    )
    made = daemon.tell(asked)
    assert made[0] == Decision(
        act=Act.START,
        reason="asked for by hibprep prepare (pid 7)",
        stages=tuple(Stage),
        target=target,
        timeout_seconds=9,
    )
    assert daemon.used() == ()  # activity does not stop what was asked for
    assert daemon.tell(REACHED) == ()
    assert daemon.phase() is Phase.ACTIVE


def test_a_request_takes_the_place_of_a_run() -> None:
    daemon = Daemon()
    daemon.left()
    daemon.tick(130)
    asked = Request(wish=Wish.PREPARE, who="bus")
    assert acts(daemon.tell(asked)) == [Act.STOP]
    assert acts(daemon.tell(STOPPED)) == [Act.START]


def test_stopping_holds_until_somebody_was_here() -> None:
    daemon = Daemon()
    daemon.left()
    daemon.tick(130)
    assert acts(daemon.tell(Request(wish=Wish.STOP, who="hibprep stop (pid 9)"))) == [Act.STOP]
    daemon.tell(STOPPED)
    assert daemon.tick(3000) == ()
    assert daemon.state.reason == "held back by hibprep stop (pid 9) until somebody was here"
    daemon.used()
    daemon.left()
    assert acts(daemon.tick(130)) == [Act.START]


def test_what_is_taken_back_is_stopped_and_nobody_elses() -> None:
    daemon = Daemon()
    daemon.left()
    notice, other = "notice freeze of azure (1)", "hibprep prepare (pid 7)"
    assert acts(daemon.tell(Request(wish=Wish.PREPARE, who=notice))) == [Act.START]
    assert daemon.tell(Request(wish=Wish.TAKE_BACK, who=other)) == ()
    made = daemon.tell(Request(wish=Wish.TAKE_BACK, who=notice))
    assert acts(made) == [Act.STOP]
    assert made[0].reason == f"{notice}: it is not wanted any more"
    assert daemon.tell(Request(wish=Wish.TAKE_BACK, who=notice)) == ()
    daemon.tell(STOPPED)
    assert acts(daemon.tick(130)) == [Act.START]  # nothing is held back
    daemon.tell(Request(wish=Wish.PREPARE, who=other))
    assert daemon.tell(Request(wish=Wish.TAKE_BACK, who=notice)) == ()
    assert acts(daemon.tell(STOPPED)) == [Act.START]  # that of the other


def test_what_was_held_back_for_a_notice_is_not_when_it_is_taken_back() -> None:
    daemon = Daemon()
    daemon.left()
    notice = "notice stop of aws (1)"
    daemon.tell(Request(wish=Wish.STOP, who=notice))
    assert daemon.tick(3000) == ()
    daemon.tell(Request(wish=Wish.TAKE_BACK, who="notice stop of aws (2)"))
    assert daemon.tick(60) == ()
    assert acts(daemon.tell(Request(wish=Wish.TAKE_BACK, who=notice))) == [Act.START]


def test_how_long_it_may_wait_for_what_is_cold_reaches_the_run() -> None:
    daemon = Daemon()
    stages = (Stage.SYNC, Stage.CACHE)
    asked = Request(wish=Wish.PREPARE, who="notice", stages=stages, cold_wait_seconds=0.0)
    (made,) = daemon.tell(asked)
    assert (made.stages, made.cold_wait_seconds) == (stages, 0.0)


def test_a_request_during_a_sleep_does_nothing() -> None:
    daemon = Daemon()
    daemon.tell(Sleep(coming=True))
    assert daemon.tell(Request(wish=Wish.PREPARE, who="bus")) == ()
    assert daemon.phase() is Phase.SLEEPING


def test_a_swap_that_goes_away_ends_the_run_that_was_planned_with_it() -> None:
    daemon = Daemon()
    daemon.left()
    daemon.tick(130)
    made = daemon.tell(DevicesChanged("swap area /dev/sdb2 is gone"))
    assert acts(made) == [Act.STOP]
    assert made[0].reason == "swap area /dev/sdb2 is gone"
    daemon.tell(STOPPED)
    assert acts(daemon.tick(5)) == [Act.START]


def test_a_run_that_fails_is_tried_again_ever_later() -> None:
    daemon = Daemon()
    daemon.left()
    failed = RunEnded(ending=Ending.FAILED, reason="cache: /proc/sys/vm/drop_caches: no")
    gaps, last = [], 60.0
    for _ in range(8):
        while Act.START not in acts(daemon.tick(1)):
            assert daemon.seconds < 20_000
        gaps.append(daemon.seconds - last)
        last = daemon.seconds
        daemon.tell(failed)
        assert "after: cache: /proc/sys/vm/drop_caches: no" in daemon.state.reason
    assert gaps == [0, 60, 120, 240, 480, 960, 1920, 3600]


def test_when_ready_it_looks_again_ever_more_seldom() -> None:
    daemon = Daemon()
    daemon.until_ready()
    gaps, last = [], daemon.seconds
    for _ in range(5):
        while not (made := daemon.tick(10)):
            pass
        assert made[0].stages == tuple(Stage)
        gaps.append(daemon.seconds - last)
        daemon.tell(REACHED)
        last = daemon.seconds
    assert gaps == [300, 600, 1200, 2400, 3600]


@pytest.mark.parametrize(
    ("power", "policy", "stages", "words"),
    [
        (PowerSupply(mains=True, battery_percent=5), Policy(), set(Stage), ""),
        (
            PowerSupply(mains=False, battery_percent=80),
            Policy(on_battery=Battery.CACHE_ONLY),
            set(Stage) - WRITING,
            "nothing is written (on battery)",
        ),
        (
            PowerSupply(mains=False, battery_percent=80),
            Policy(on_battery=Battery.HOLD),
            set(),
            "held back (on battery)",
        ),
        (
            PowerSupply(mains=True, low_power=True),
            Policy(on_low_power=Battery.HOLD),
            set(),
            "held back (low-power mode)",
        ),
    ],
)
def test_power_holds_stages_back(
    power: PowerSupply, policy: Policy, stages: set[Stage], words: str
) -> None:
    daemon = Daemon(policy)
    daemon.tell(power)
    daemon.left()
    run: set[Stage] = set()
    for _ in range(120):
        for each in daemon.tick(10):
            run |= set(each.stages)
            daemon.tell(DONE)
    assert run == stages
    assert words in daemon.state.reason


def test_a_battery_that_runs_low_brings_the_stages_forward() -> None:
    daemon = Daemon()
    daemon.tell(PowerSupply(mains=False, battery_percent=12))
    daemon.left()
    made = daemon.tick(75)
    assert set(made[0].stages) == {Stage.SYNC, Stage.CACHE, Stage.SLAB, Stage.COLD_ANON}
    assert "earlier than usual (battery at 12 %)" in made[0].reason


def test_the_write_budget_of_a_day() -> None:
    daemon = Daemon(Policy(write_budget_bytes=100))
    daemon.left()
    made = daemon.tick(300)
    assert made[0].write_bytes == 100
    daemon.tell(replace(DONE, swapped_out_bytes=120))
    assert daemon.state.written_bytes == 120
    assert daemon.phase() is Phase.READY
    assert "today's write budget is spent" in daemon.state.reason
    made = daemon.tick(300)
    assert set(made[0].stages) == set(Stage) - WRITING
    daemon.tell(DONE)
    daemon.tick(86_400)  # the next day has its own
    assert daemon.state.written_bytes == 0


def test_a_clock_that_is_set_back_gives_no_second_budget() -> None:
    daemon = Daemon(Policy(write_budget_bytes=100))
    daemon.state = begin(daemon.now, written_day=date(2026, 11, 22), written_bytes=90)
    daemon.tick(1)
    assert (daemon.state.written_day, daemon.state.written_bytes) == (date(2026, 11, 22), 90)


def test_an_inhibitor_stops_what_runs() -> None:
    daemon = Daemon()
    daemon.left()
    daemon.tick(130)
    made = daemon.tell(Inhibitors(idle=("player (pid 7): a film",)))
    assert acts(made) == [Act.STOP]
    daemon.tell(STOPPED)
    assert daemon.tick(1000) == ()


def test_the_first_sample_after_a_run_is_not_taken_for_work() -> None:
    daemon = Daemon()
    daemon.left()
    daemon.tell(Cpu(idle_share=0.99, least_idle_share=0.9, seconds=10), after=10)
    daemon.tick(50)
    daemon.tell(DONE, after=1)
    swapping = Cpu(idle_share=0.7, least_idle_share=0.1, seconds=10)
    daemon.tell(swapping)
    assert daemon.phase() is Phase.IDLE
    assert daemon.tell(swapping, after=10) == ()
    assert daemon.phase() is Phase.ACTIVE


def test_what_is_still_being_written_after_a_run_is_not_taken_for_work() -> None:
    daemon = Daemon()
    daemon.left()
    daemon.tell(Cpu(idle_share=0.99, least_idle_share=0.9, seconds=10), after=10)
    daemon.tick(50)
    writeback = Pressure(resource="io", scope="user.slice", share=0.3)
    daemon.tell(writeback, after=1)
    daemon.tell(DONE, after=1)
    daemon.tell(writeback, after=2)
    daemon.tell(Cpu(idle_share=0.99, least_idle_share=0.9, seconds=10), after=10)
    daemon.tick(5)
    assert daemon.phase() is Phase.IDLE
    assert daemon.state.done
    daemon.tell(writeback, after=1)
    assert daemon.phase() is Phase.ACTIVE
    assert "wait for io" in daemon.state.reason


def test_on_request_nothing_happens_by_itself() -> None:
    daemon = Daemon(Policy(kind=Kind.ON_REQUEST))
    daemon.left()
    assert daemon.tick(50_000) == ()
    assert acts(daemon.tell(Request(wish=Wish.PREPARE, who="hook"))) == [Act.START]
    assert acts(daemon.tell(Sleep(coming=True))) == [Act.STOP]
    assert acts(daemon.tell(STOPPED)) == [Act.RELEASE]


def continuous() -> Daemon:
    daemon = Daemon(Policy(kind=Kind.CONTINUOUS))
    daemon.used()
    return daemon


def slow(seconds: float = 20.0) -> Predicted:
    return Predicted(hibernate_seconds=seconds, resume_seconds=9.0, saveable_bytes=4 << 30)


def test_continuous_trickles_while_the_machine_is_used() -> None:
    daemon = continuous()
    made = daemon.tell(slow(), after=10)
    assert acts(made) == [Act.START]
    amount = made[0].amount_bytes
    assert amount is not None
    assert 0 < amount <= 20e6 * 10
    assert made[0].reason == "would hibernate in 20.0 s, wanted within 10 s"
    daemon.tell(replace(DONE, freed_bytes=50 << 20), after=1)
    assert daemon.tell(slow(), after=1) == ()  # not before the period is over
    assert acts(daemon.tell(slow(), after=9)) == [Act.START]
    daemon.tell(DONE)
    assert daemon.tell(slow(9.5), after=10) == ()
    assert daemon.phase() is Phase.READY
    assert daemon.state.reason == "would hibernate in 9.5 s, within 10 s"


def test_continuous_gives_way_to_pressure() -> None:
    daemon = continuous()
    daemon.tell(Pressure(resource="memory", scope="user.slice", share=0.02))
    assert daemon.tell(slow(), after=10) == ()
    assert "others are under pressure" in daemon.state.reason


def test_continuous_backs_off_from_the_working_set() -> None:
    daemon = continuous()
    first = daemon.tell(slow(), after=10)[0].amount_bytes
    daemon.tell(replace(DONE, freed_bytes=100 << 20, refaulted_bytes=20 << 20), after=1)
    assert daemon.tell(slow(), after=30) == ()
    assert "pausing: 20 % of what was taken came back" in daemon.state.reason
    later = daemon.tell(slow(), after=60)[0].amount_bytes
    assert first is not None
    assert later is not None
    assert later == first // 2


def by_age(seconds: float = 300.0) -> Daemon:
    daemon = Daemon(Policy(kind=Kind.CONTINUOUS, older_than_seconds=seconds))
    daemon.used()
    return daemon


def test_what_is_old_goes_although_the_hibernation_is_within_its_time() -> None:
    daemon = by_age()
    (made,) = daemon.tell(slow(6.0), after=10)
    assert made.act is Act.START
    assert made.older_than_seconds == 300
    assert made.stages == (Stage.CACHE, Stage.COLD_ANON)
    assert made.reason == "would hibernate in 6.0 s, within 10 s; what is idle for 5 min goes"
    assert made.amount_bytes
    daemon.tell(replace(DONE, freed_bytes=50 << 20), after=1)
    assert daemon.phase() is Phase.READY
    # there was something: there may be more of it
    assert acts(daemon.tell(slow(6.0), after=9)) == [Act.START]


def test_where_nothing_was_old_the_next_look_is_a_quarter_of_the_age_away() -> None:
    daemon = by_age()
    daemon.tell(slow(6.0), after=10)
    daemon.tell(DONE, after=1)
    assert daemon.phase() is Phase.READY
    for _ in range(7):
        assert daemon.tell(slow(6.0), after=10) == ()
        assert daemon.phase() is Phase.READY
    assert daemon.state.wake_at_seconds == START + 11 + 75
    assert acts(daemon.tick(5)) == [Act.START]


def test_a_hibernation_that_would_take_too_long_goes_before_age() -> None:
    daemon = by_age()
    (made,) = daemon.tell(slow(20.0), after=10)
    assert made.older_than_seconds == 0
    assert Stage.ANON in made.stages
    daemon.tell(replace(DONE, freed_bytes=50 << 20), after=1)
    (made,) = daemon.tell(slow(9.0), after=10)
    assert made.older_than_seconds == 300


def test_what_is_old_stays_while_others_are_under_pressure_or_the_cpus_were_used() -> None:
    daemon = by_age()
    daemon.tell(Pressure(resource="io", scope="user.slice", share=0.5))
    assert daemon.tell(slow(6.0), after=10) == ()
    assert daemon.phase() is Phase.READY
    assert "others are under pressure" in daemon.state.reason
    assert acts(daemon.tell(slow(6.0), after=30)) == [Act.START]
    daemon.tell(replace(DONE, freed_bytes=50 << 20, cpu_seconds=1.0), after=1)
    assert daemon.tell(slow(6.0), after=60) == ()
    assert "1.00 s of a CPU" in daemon.state.reason


def test_on_battery_only_the_cache_that_is_old_goes() -> None:
    daemon = Daemon(
        Policy(kind=Kind.CONTINUOUS, older_than_seconds=60, on_battery=Battery.CACHE_ONLY)
    )
    daemon.tell(PowerSupply(mains=False, battery_percent=80))
    (made,) = daemon.tell(slow(6.0), after=10)
    assert made.stages == (Stage.CACHE,)
