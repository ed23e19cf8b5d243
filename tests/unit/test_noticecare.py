# SPDX-License-Identifier: LGPL-2.1-or-later
"""What is done on notices, with a daemon that answers as the test says."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass, field, replace
from datetime import timedelta

import pytest

from hibprep import noticecommand, noticedeeds, webhook
from hibprep.deadline import Verdict
from hibprep.errors import HibprepError
from hibprep.events import NoticeGiven, NoticeWithdrawn, Request, RunEnded, Signal, Tick, Wish
from hibprep.model import Ending, Limits, Stage, Target, TargetKind
from hibprep.noticecare import EARLIEST_SECONDS, NoticeCare
from hibprep.noticecommand import CommandError
from hibprep.noticerules import STALE_SECONDS, Deed, Rule
from hibprep.notices import Key, Notice, NoticeKind, ProviderName, key_of
from hibprep.status import NoticeStatus
from hibprep.waiters import Waiters
from tests.fakes.clock import HandClock
from tests.listening import until_told

VERDICT = Verdict(
    fits=True,
    target=Target(TargetKind.SIZE, 1 << 30),
    limits=Limits(stages=(Stage.SYNC, Stage.CACHE), cold_wait_seconds=0.0),
    left_seconds=120.0,
    prepare_seconds=60.0,
    expected_seconds=40.0,
    prepare_bytes=1 << 30,
    hibernate_seconds_now=41.0,
    hibernate_seconds_after=12.0,
    words="hibernation needs 41 s, 120 s are left",
)


@dataclass
class FakeHands:
    """A daemon that takes one run at a time, in the words of the test: `did` is what it did."""

    clock: HandClock
    did: list[str] = field(default_factory=list)
    requests: list[Request] = field(default_factory=list)
    settled: list[tuple[float, float, bool]] = field(default_factory=list)
    verdict: Verdict | Exception = VERDICT
    ends: bool = True  # a run ends by itself, at once
    stuck: bool = False  # a run does not end when it is told to
    here: ProviderName | None = ProviderName.AWS
    hibernation: asyncio.Future[str] | None = None  # None: at once, and well
    refusal: HibprepError | None = None
    endings: Waiters[RunEnded] = field(default_factory=Waiters)
    run: asyncio.Task[None] | None = None
    ended: asyncio.Event = field(default_factory=asyncio.Event)

    def emit(self, signal: Signal) -> None:
        assert isinstance(signal, Request)
        self.requests.append(signal)
        self.did.append(str(signal.wish))
        if signal.wish is Wish.PREPARE:
            self.ended.clear()
            self.run = asyncio.create_task(self._run())
            if self.ends:
                self.ended.set()
        elif not self.stuck:
            self.ended.set()

    async def _run(self) -> None:
        await self.ended.wait()
        self.run = None
        self.endings.wake(RunEnded(ending=Ending.DONE, reason="the target is reached"))

    async def run_ended(self) -> RunEnded:
        return await self.endings.wait()

    def provider(self) -> ProviderName | None:
        return self.here

    async def settle(self, seconds: float, keep_seconds: float, *, hibernates: bool) -> Verdict:
        self.settled.append((round(seconds, 3), keep_seconds, hibernates))
        if isinstance(self.verdict, Exception):
            raise self.verdict
        return self.verdict

    async def swap_in(self, who: str) -> None:  # noqa: ARG002 - the signature of Hands
        self.did.append("swapped in")

    async def hibernate(self) -> str:
        self.did.append("hibernate")
        if self.refusal is not None:
            raise self.refusal
        return "slept for 60 s" if self.hibernation is None else await self.hibernation

    async def step_aside(self, who: str, seconds: float) -> str:  # noqa: ARG002 - as above
        self.did.append(f"aside for {seconds:g} s")
        return "all is written"

    def step_back(self, who: str) -> None:  # noqa: ARG002 - as above
        self.did.append("back")

    async def acknowledge(self, notice: Notice) -> None:
        self.did.append(f"acknowledged {notice.acknowledge}")


@dataclass
class Cared:
    """The care, and all that was done."""

    care: NoticeCare
    hands: FakeHands
    clock: HandClock
    work: FakeWork
    rules: tuple[Rule, ...]

    async def start_anew(self, rules: tuple[Rule, ...] | None = None) -> None:
        """The daemon ends as by SIGTERM, and the next one begins."""
        self.care.close()
        await asyncio.sleep(0)
        kept = FakeWork(dict(self.work.kept))  # what the first one's end still writes is too late
        self.work, self.did[:] = kept, []
        self.rules = self.rules if rules is None else rules
        self.care = NoticeCare(self.hands, lambda: self.rules, self.clock, self.work)

    @property
    def did(self) -> list[str]:
        return self.hands.did

    def give(self, notice: Notice, seconds: float | None) -> None:
        at = None if seconds is None else self.clock.monotonic() + seconds
        self.care.hear(NoticeGiven(notice, at))

    def withdraw(self, notice: Notice, *, over: bool = False) -> None:
        self.care.hear(NoticeWithdrawn(notice, over=over))

    def shown(self, notice: Notice) -> NoticeStatus:
        (found,) = [each for each in self.care.shown() if each.id == notice.id]
        return found

    async def through(self, notice: Notice, progress: str = "done") -> None:
        await until_told(lambda: self.shown(notice).progress == progress, f"it is {progress}")

    async def doing(self, what: str) -> None:
        await until_told(lambda: what in self.did, f"{what} is done, and not {self.did}")


@dataclass
class FakeWork:
    """What outlives a daemon."""

    kept: dict[Key, tuple[str, ...]] = field(default_factory=dict)

    def behind(self, key: Key) -> tuple[str, ...]:
        return self.kept.get(key, ())

    def at_work(self, key: Key, behind: tuple[str, ...]) -> None:
        self.kept[key] = behind

    def ended(self, key: Key) -> None:
        self.kept.pop(key, None)


@dataclass
class Commands:
    """What was run, and how that ends."""

    did: list[str]
    seconds: list[float] = field(default_factory=list)
    variables: list[dict[str, str]] = field(default_factory=list)
    goes_on: asyncio.Event | None = None
    error: Exception | None = None

    async def __call__(
        self, command: tuple[str, ...], variables: dict[str, str], seconds: float
    ) -> None:
        self.did.append(f"run {command[0]}")
        self.seconds.append(seconds)
        self.variables.append(variables)
        if self.goes_on is not None:
            try:
                await self.goes_on.wait()
            except asyncio.CancelledError:
                self.did.append(f"killed {command[0]}")
                raise
        if self.error is not None:
            raise self.error


def notice(kind: NoticeKind, identity: str = "1", **fields: object) -> Notice:
    made = Notice(kind=kind, source=ProviderName.AWS, id=identity)
    return replace(made, **fields)  # type: ignore[arg-type]


def rule(deed: Deed, *kinds: NoticeKind, **fields: object) -> Rule:
    made = Rule(deed=deed, reason="a test", kinds=kinds or tuple(NoticeKind))
    return replace(made, **fields)  # type: ignore[arg-type]


STOP = notice(NoticeKind.STOP, "stop")
FREEZE = notice(NoticeKind.FREEZE, "freeze", acknowledge="602d")
REBALANCE = notice(NoticeKind.REBALANCE, "rebalance")
DRAIN = rule(Deed.RUN, command=("/drain",))

Test = Callable[[Cared, Commands], Coroutine[None, None, None]]


@pytest.fixture
def on_loop(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Runs a test on a loop of its own, with these rules."""

    @contextlib.asynccontextmanager
    async def caring(rules: tuple[Rule, ...]) -> AsyncIterator[tuple[Cared, Commands]]:
        clock = HandClock()
        hands = FakeHands(clock)
        commands = Commands(hands.did)
        monkeypatch.setattr(noticecommand, "run", commands)
        cared = Cared(NoticeCare(hands, lambda: rules, clock, work := FakeWork()), hands, clock,
                      work, rules)  # fmt: skip
        try:
            yield cared, commands
        finally:
            cared.care.close()

    def run(test: Test, *rules: Rule) -> None:
        async def whole() -> None:
            async with caring(rules) as (cared, commands):
                await test(cared, commands)

        asyncio.run(whole())

    return run


def test_all_is_done_in_order_each_in_its_share(on_loop: Callable[..., None]) -> None:
    async def test(cared: Cared, commands: Commands) -> None:
        cared.give(STOP, 120.0)
        await cared.through(STOP)
        assert cared.did == [
            "prepare", "run /drain", "prepare", "stop", "hibernate", "take back",
        ]  # fmt: skip
        asked = cared.hands.requests[0]
        assert asked.target == VERDICT.target
        assert asked.stages == VERDICT.limits.stages
        assert asked.cold_wait_seconds == 0.0
        assert asked.who == "notice stop of aws (stop)"
        assert asked.timeout_seconds == pytest.approx(59.75)
        assert cared.hands.settled[0] == (120.0, 25.0, True)
        assert commands.seconds == [25.0]
        assert commands.variables[0]["HIBPREP_NOTICE_SECONDS"] == "120"
        assert cared.shown(STOP).done == (
            "prepare: done: the target is reached", "run: done", "hibernate: slept for 60 s",
        )  # fmt: skip

    on_loop(
        test,
        rule(Deed.PREPARE),
        replace(DRAIN, timeout_seconds=25.0),
        rule(Deed.HIBERNATE),
    )


def test_what_is_not_announced_is_nobodys_business(on_loop: Callable[..., None]) -> None:
    async def test(cared: Cared, _: Commands) -> None:
        cared.care.hear(Tick())
        cared.withdraw(STOP)
        cared.give(REBALANCE, None)
        assert cared.shown(REBALANCE).progress == "done"
        assert cared.did == []
        assert cared.care.heard == 1

    on_loop(test, rule(Deed.RUN, NoticeKind.STOP, command=("/drain",)))


def test_one_that_is_withdrawn_has_all_stopped_that_was_begun_for_it(
    on_loop: Callable[..., None],
) -> None:
    async def test(cared: Cared, _: Commands) -> None:
        cared.hands.ends = False
        cared.give(STOP, 120.0)
        await cared.doing("prepare")
        cared.withdraw(STOP)
        await cared.doing("take back")
        assert cared.hands.requests[-1].who == cared.hands.requests[0].who
        assert cared.shown(STOP).progress == "withdrawn"
        assert "run /drain" not in cared.did
        # and when it comes again it is done again
        cared.hands.ends = True
        cared.give(STOP, 120.0)
        await cared.doing("run /drain")

    on_loop(test, rule(Deed.PREPARE), DRAIN)


def test_what_is_days_away_is_left_until_its_time_is_near(on_loop: Callable[..., None]) -> None:
    async def test(cared: Cared, _: Commands) -> None:
        cared.give(STOP, 9 * 86400.0)
        cared.give(REBALANCE, None)
        await cared.through(REBALANCE)  # it does not wait for the other
        assert cared.did == ["run /drain"]
        assert cared.shown(STOP).progress == "at work"
        cared.give(STOP, EARLIEST_SECONDS - 1)
        await cared.through(STOP)
        assert cared.did == ["run /drain", "run /drain"]

    on_loop(test, DRAIN)


def test_a_command_ends_with_the_notice_that_it_was_for(on_loop: Callable[..., None]) -> None:
    async def test(cared: Cared, commands: Commands) -> None:
        commands.goes_on = asyncio.Event()
        cared.give(STOP, 120.0)
        await cared.doing("run /drain")
        assert cared.shown(STOP).doing == "run"
        cared.withdraw(STOP)
        await cared.doing("killed /drain")

    on_loop(test, DRAIN)


def test_a_daemon_that_is_started_anew_goes_on_where_the_last_one_was(
    on_loop: Callable[..., None],
) -> None:
    async def test(cared: Cared, commands: Commands) -> None:
        cared.hands.ends = False
        cared.give(STOP, 120.0)
        await cared.doing("prepare")
        assert cared.work.kept == {key_of(STOP): ()}
        cared.hands.ends = True
        commands.goes_on = asyncio.Event()
        await cared.start_anew()
        cared.give(STOP, 110.0)
        await cared.doing("run /drain")  # it has prepared again, which does no harm
        assert cared.did[0] == "prepare"
        await cared.start_anew()
        cared.give(STOP, 100.0)
        await cared.through(STOP)
        assert "run /drain" not in cared.did  # nobody knows how far it was
        assert "hibernate" in cared.did
        assert cared.shown(STOP).done[:2] == (
            "prepare: begun before the daemon was started anew",
            "run: begun before the daemon was started anew",
        )
        assert cared.work.kept == {}

    on_loop(test, rule(Deed.PREPARE), DRAIN, rule(Deed.HIBERNATE))


def test_a_hibernation_that_was_under_way_is_not_begun_again(on_loop: Callable[..., None]) -> None:
    async def test(cared: Cared, _: Commands) -> None:
        cared.hands.hibernation = asyncio.get_running_loop().create_future()
        cared.give(STOP, 120.0)
        await cared.doing("hibernate")
        await cared.start_anew()
        cared.give(STOP, 60.0)
        assert cared.shown(STOP).progress == "done"
        assert cared.did == []
        assert cared.work.kept == {}

    on_loop(test, rule(Deed.HIBERNATE))


def test_what_waits_for_its_time_outlives_the_daemon(on_loop: Callable[..., None]) -> None:
    async def test(cared: Cared, _: Commands) -> None:
        cared.give(STOP, 9 * 86400.0)
        assert cared.work.kept == {key_of(STOP): ()}
        await cared.start_anew()
        cared.give(STOP, EARLIEST_SECONDS - 1)
        await cared.through(STOP)
        assert cared.did == ["run /drain"]
        cared.withdraw(STOP)
        assert cared.work.kept == {}

    on_loop(test, DRAIN)


def test_with_other_rules_all_of_them_are_followed(on_loop: Callable[..., None]) -> None:
    async def test(cared: Cared, commands: Commands) -> None:
        commands.goes_on = asyncio.Event()
        cared.give(STOP, 120.0)
        await cared.doing("run /drain")
        commands.goes_on.set()
        await cared.start_anew((rule(Deed.PREPARE), DRAIN))
        cared.give(STOP, 100.0)
        await cared.through(STOP)
        assert cared.did == ["prepare", "run /drain"]

    on_loop(test, DRAIN)


def test_one_that_is_over_has_its_actions_ended(on_loop: Callable[..., None]) -> None:
    async def test(cared: Cared, commands: Commands) -> None:
        commands.goes_on = asyncio.Event()
        cared.give(FREEZE, 120.0)
        await cared.doing("run /drain")
        cared.withdraw(FREEZE, over=True)
        commands.goes_on.set()
        await cared.through(FREEZE, "over")
        assert "killed /drain" not in cared.did

    on_loop(test, DRAIN)


def test_a_command_begins_in_time_although_memory_is_still_being_taken(
    on_loop: Callable[..., None],
) -> None:
    async def test(cared: Cared, commands: Commands) -> None:
        cared.hands.ends, cared.hands.stuck = False, True
        cared.give(STOP, 1.0)
        await cared.doing("run /drain")
        assert cared.did == ["prepare", "take back", "run /drain"]
        assert cared.hands.run is not None  # it has not ended
        assert commands.seconds == [pytest.approx(0.4)]
        await cared.through(STOP)
        assert cared.shown(STOP).done[0] == "prepare: its time was over before it had ended"

    on_loop(test, rule(Deed.PREPARE), replace(DRAIN, timeout_seconds=0.4))


def test_a_more_urgent_one_takes_over_and_the_other_goes_on_after_it(
    on_loop: Callable[..., None],
) -> None:
    async def test(cared: Cared, commands: Commands) -> None:
        cared.hands.ends = False
        commands.goes_on = asyncio.Event()
        cared.give(REBALANCE, None)
        await cared.doing("prepare")
        cared.give(STOP, 120.0)
        await cared.doing("run /drain")
        await cared.doing("take back")
        assert sorted(cared.did) == ["prepare", "run /drain", "take back"]
        assert [each.id for each in cared.care.shown()] == ["stop", "rebalance"]
        assert cared.shown(REBALANCE).todo == ("prepare",)
        cared.hands.ends = True
        commands.goes_on.set()
        await cared.through(REBALANCE)
        assert cared.did[3:] == ["prepare"]

    on_loop(
        test,
        rule(Deed.PREPARE, NoticeKind.REBALANCE),
        rule(Deed.RUN, NoticeKind.STOP, command=("/drain",)),
    )


def test_a_less_urgent_one_waits_for_its_turn(on_loop: Callable[..., None]) -> None:
    async def test(cared: Cared, commands: Commands) -> None:
        commands.goes_on = asyncio.Event()
        cared.give(STOP, 60.0)
        await cared.doing("run /drain")
        cared.give(FREEZE, 900.0)
        cared.give(REBALANCE, None)
        await asyncio.sleep(0)
        assert cared.did == ["run /drain"]
        cared.withdraw(FREEZE)
        commands.goes_on.set()
        await cared.through(REBALANCE)
        assert cared.did == ["run /drain", "run /drain"]

    on_loop(test, DRAIN)


@pytest.mark.parametrize("begun", [True, False])
def test_without_any_time_what_is_quick_is_still_done(
    on_loop: Callable[..., None],
    begun: bool,  # noqa: FBT001 - pytest's
) -> None:
    async def test(cared: Cared, commands: Commands) -> None:
        gone = replace(FREEZE, begun=begun)
        cared.give(gone, 500.0 if begun else -3.0)
        await cared.through(gone)
        assert cared.did == ["run /drain", "acknowledged 602d"]
        assert commands.seconds == [30.0]
        assert cared.shown(gone).done[0] == "prepare: no time is left for it"
        assert cared.shown(gone).seconds_left == 0

    on_loop(
        test, rule(Deed.PREPARE), DRAIN, rule(Deed.HIBERNATE), rule(Deed.ACKNOWLEDGE)
    )  # fmt: skip


def test_what_was_to_happen_long_ago_did_not(on_loop: Callable[..., None]) -> None:
    async def test(cared: Cared, _: Commands) -> None:
        cared.give(STOP, -STALE_SECONDS - 1)
        assert cared.shown(STOP).progress == "done"
        assert cared.did == []

    on_loop(test, DRAIN)


def test_one_that_begins_meanwhile_is_not_prepared_for_any_more(
    on_loop: Callable[..., None],
) -> None:
    async def test(cared: Cared, _: Commands) -> None:
        cared.hands.ends = False
        cared.give(FREEZE, 900.0)
        await cared.doing("prepare")
        cared.give(replace(FREEZE, begun=True), 0.0)
        await cared.through(FREEZE)
        assert cared.did == ["prepare", "take back", "run /drain"]
        assert cared.care.heard == 1

    on_loop(test, rule(Deed.PREPARE), DRAIN)


def test_another_time_is_reckoned_with(on_loop: Callable[..., None]) -> None:
    async def test(cared: Cared, _: Commands) -> None:
        cared.hands.ends = False
        cared.give(STOP, 900.0)
        await cared.doing("prepare")
        cared.hands.ends = True
        cared.give(STOP, 90.0)
        await cared.through(STOP)
        assert [seconds for seconds, _, _ in cared.hands.settled] == [900.0, 90.0]

    on_loop(test, rule(Deed.PREPARE))


def test_what_is_done_is_not_done_again(on_loop: Callable[..., None]) -> None:
    async def test(cared: Cared, _: Commands) -> None:
        cared.give(STOP, 900.0)
        await cared.through(STOP)
        cared.give(STOP, 90.0)
        await asyncio.sleep(0)
        assert cared.did == ["run /drain"]
        cared.give(replace(STOP, kind=NoticeKind.TERMINATE), 90.0)  # but that is another thing
        await until_told(lambda: cared.did == ["run /drain", "run /drain"], "it is done")

    on_loop(test, DRAIN)


def test_a_promised_time_counts_from_when_it_was_heard(on_loop: Callable[..., None]) -> None:
    async def test(cared: Cared, _: Commands) -> None:
        cared.give(replace(STOP, lead_seconds=25.0), None)
        await cared.through(STOP)
        assert cared.hands.settled == [(25.0, 0.0, False)]

    on_loop(test, rule(Deed.PREPARE))


def test_without_a_time_it_is_prepared_as_configured(on_loop: Callable[..., None]) -> None:
    async def test(cared: Cared, _: Commands) -> None:
        cared.give(REBALANCE, None)
        await cared.through(REBALANCE)
        (asked,) = cared.hands.requests
        assert (asked.target, asked.timeout_seconds, asked.stages) == (None, None, tuple(Stage))
        assert cared.hands.settled == []

    on_loop(test, rule(Deed.PREPARE))


@pytest.mark.parametrize("error", [HibprepError("no meminfo"), OSError("gone")])
def test_when_it_cannot_be_told_what_fits_the_time_is_used(
    on_loop: Callable[..., None], error: Exception
) -> None:
    async def test(cared: Cared, _: Commands) -> None:
        cared.hands.verdict = error
        cared.give(STOP, 120.0)
        await cared.through(STOP)
        (asked,) = cared.hands.requests
        assert asked.target is None
        assert asked.timeout_seconds == pytest.approx(119.75)

    on_loop(test, rule(Deed.PREPARE))


def test_nothing_to_prepare(on_loop: Callable[..., None]) -> None:
    async def test(cared: Cared, _: Commands) -> None:
        cared.hands.verdict = replace(VERDICT, target=None, words="nothing has to be prepared")
        cared.give(STOP, 120.0)
        await cared.through(STOP)
        assert cared.did == []
        assert cared.shown(STOP).done == ("prepare: nothing has to be prepared",)

    on_loop(test, rule(Deed.PREPARE))


# --- hibernating ----------------------------------------------------------------------------------


def test_it_prepares_holds_all_else_back_and_hibernates(on_loop: Callable[..., None]) -> None:
    async def test(cared: Cared, _: Commands) -> None:
        cared.give(STOP, 120.0)
        await cared.through(STOP)
        assert cared.did == ["prepare", "stop", "hibernate", "take back", "run /drain"]
        assert cared.hands.settled == [(120.0, 0.0, True)] * 2
        assert cared.shown(STOP).done[0] == "hibernate: slept for 60 s"

    on_loop(test, rule(Deed.HIBERNATE), DRAIN)


def test_a_hibernation_that_would_not_end_in_time_is_not_begun(
    on_loop: Callable[..., None], caplog: pytest.LogCaptureFixture
) -> None:
    async def test(cared: Cared, _: Commands) -> None:
        cared.hands.verdict = replace(VERDICT, fits=False, words="CANNOT BE MET: by far")
        cared.give(STOP, 40.0)
        await cared.through(STOP)
        assert cared.did == ["prepare", "run /drain"]
        assert cared.hands.settled == [
            (40.0, 0.0, True), (40.0, 30.0, True), (40.0, 0.0, True),
        ]  # fmt: skip
        words = "hibernation needs 41 s and 40 s are left: it is not begun"
        assert cared.shown(STOP).done[0] == f"hibernate: {words}"
        loud = [each.getMessage() for each in caplog.records if each.levelname == "WARNING"]
        assert any("CANNOT BE MET: by far" in each for each in loud)
        assert any(words in each for each in loud)

    on_loop(test, rule(Deed.HIBERNATE), DRAIN)


def test_what_comes_after_a_hibernation_takes_no_time_from_its_preparation(
    on_loop: Callable[..., None],
) -> None:
    async def test(cared: Cared, _: Commands) -> None:
        cared.hands.verdict = replace(VERDICT, prepare_seconds=55.0)
        cared.give(STOP, 70.0)
        await cared.through(STOP)
        assert cared.hands.settled[0] == (70.0, 0.0, True)
        # although 30 s of the 70 s are for the program, where the machine does not sleep by then
        assert cared.hands.requests[0].timeout_seconds == pytest.approx(54.75)

    on_loop(test, rule(Deed.PREPARE), rule(Deed.HIBERNATE), DRAIN)


def test_where_no_hibernation_fits_its_preparation_leaves_what_comes_after_its_time(
    on_loop: Callable[..., None],
) -> None:
    async def test(cared: Cared, _: Commands) -> None:
        cared.hands.verdict = replace(VERDICT, fits=False, prepare_seconds=55.0)
        cared.give(STOP, 38.0)
        await cared.through(STOP)
        assert cared.hands.settled[:2] == [(38.0, 0.0, True), (38.0, 30.0, True)]
        assert cared.hands.requests[0].timeout_seconds == pytest.approx(7.75)
        assert cared.did[-1] == "run /drain"
        assert "hibernate" not in cared.did

    on_loop(test, rule(Deed.PREPARE), rule(Deed.HIBERNATE), DRAIN)


def test_one_that_is_refused_lets_the_rest_be_done(on_loop: Callable[..., None]) -> None:
    async def test(cared: Cared, _: Commands) -> None:
        cared.hands.refusal = HibprepError("this user may not hibernate the machine")
        cared.give(STOP, 120.0)
        await cared.through(STOP)
        assert cared.did == ["prepare", "stop", "hibernate", "take back", "run /drain"]

    on_loop(test, rule(Deed.HIBERNATE), DRAIN)


def test_a_hibernation_is_waited_for_with_what_still_takes_memory(
    on_loop: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def test(cared: Cared, _: Commands) -> None:
        monkeypatch.setattr(noticedeeds, "_QUIET_SECONDS", 0.01)
        cared.hands.ends, cared.hands.stuck = False, True
        cared.hands.verdict = replace(VERDICT, prepare_seconds=0.5)
        cared.give(STOP, 120.0)
        await cared.through(STOP)
        assert cared.did == ["prepare", "take back", "stop", "take back"]
        assert cared.shown(STOP).done == ("hibernate: what was taking memory has not ended",)

    on_loop(test, rule(Deed.HIBERNATE))


def test_without_a_time_it_prepares_a_while_and_hibernates(on_loop: Callable[..., None]) -> None:
    async def test(cared: Cared, _: Commands) -> None:
        cared.give(REBALANCE, None)
        await cared.through(REBALANCE)
        assert cared.did == ["prepare", "stop", "hibernate", "take back"]
        assert cared.hands.requests[0].timeout_seconds == pytest.approx(59.75)

    on_loop(test, rule(Deed.HIBERNATE))


def test_after_a_hibernation_time_has_gone_on(on_loop: Callable[..., None]) -> None:
    async def test(cared: Cared, commands: Commands) -> None:
        cared.hands.hibernation = asyncio.get_running_loop().create_future()
        cared.give(STOP, 120.0)
        await cared.doing("hibernate")
        cared.clock.go_on(3600.0)
        cared.hands.hibernation.set_result("slept for 3600 s")
        await cared.through(STOP)
        assert cared.did[-1] == "run /drain"
        assert commands.seconds == [30.0]  # its time has passed, and it is quick

    on_loop(test, rule(Deed.HIBERNATE), rule(Deed.PREPARE), DRAIN)


# --- the others -----------------------------------------------------------------------------------


def test_aside_until_it_is_withdrawn(on_loop: Callable[..., None]) -> None:
    async def test(cared: Cared, _: Commands) -> None:
        cared.give(STOP, 120.0)
        await cared.through(STOP)
        assert cared.did == ["aside for 10 s"]
        cared.withdraw(STOP)
        await cared.doing("back")

    on_loop(test)  # the default


def test_back_when_what_was_announced_did_not_happen(on_loop: Callable[..., None]) -> None:
    async def test(cared: Cared, _: Commands) -> None:
        cared.care._back_seconds = 0.0
        cared.give(STOP, 0.01)
        await cared.doing("back")
        assert cared.did == ["aside for 0.01 s", "back"]

    on_loop(test)


def test_it_is_acknowledged_only_when_a_rule_says_so_and_after_the_work(
    on_loop: Callable[..., None],
) -> None:
    async def test(cared: Cared, commands: Commands) -> None:
        cared.hands.ends = False
        commands.goes_on = asyncio.Event()
        cared.give(FREEZE, 900.0)
        await cared.doing("prepare")
        cared.hands.ended.set()
        await cared.doing("run /drain")
        assert "acknowledged 602d" not in cared.did
        commands.goes_on.set()
        await cared.through(FREEZE)
        assert cared.did == ["prepare", "run /drain", "acknowledged 602d"]

    on_loop(test, rule(Deed.PREPARE), DRAIN, rule(Deed.ACKNOWLEDGE))


def test_it_is_not_acknowledged_while_memory_is_being_taken(on_loop: Callable[..., None]) -> None:
    async def test(cared: Cared, _: Commands) -> None:
        cared.hands.ends, cared.hands.stuck = False, True
        cared.give(FREEZE, 5.6)
        await cared.doing("take back")
        cared.clock.go_on(5.5)
        await cared.through(FREEZE)
        assert cared.did == ["prepare", "take back"]

    on_loop(test, rule(Deed.PREPARE), rule(Deed.ACKNOWLEDGE))


def test_what_needs_no_acknowledgement_gets_none(on_loop: Callable[..., None]) -> None:
    async def test(cared: Cared, _: Commands) -> None:
        cared.give(STOP, 60.0)
        await cared.through(STOP)
        assert cared.did == []
        assert "the provider waits for no word" in cared.shown(STOP).done[0]

    on_loop(test, rule(Deed.ACKNOWLEDGE))


@pytest.mark.parametrize("error", [CommandError("drain ended with code 3"), KeyError("a defect")])
def test_what_fails_lets_the_next_be_done(on_loop: Callable[..., None], error: Exception) -> None:
    async def test(cared: Cared, commands: Commands) -> None:
        commands.error = error
        cared.give(STOP, 60.0)
        await cared.through(STOP)
        assert cared.did == ["run /drain", "swapped in"]
        first, second = cared.shown(STOP).done
        assert first.startswith(("run: drain ended with code 3", "run: KeyError"))
        assert second == "swapin: done"

    on_loop(test, DRAIN, rule(Deed.SWAPIN))


def test_a_webhook_has_the_notice_and_no_more_time_than_its_share(
    on_loop: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[tuple[object, ...]] = []

    def send(url: str, body: dict[str, object], *, credential: str, seconds: float) -> None:
        sent.append((url, body["id"], body["seconds"], credential, seconds))

    monkeypatch.setattr(webhook, "send", send)

    async def test(cared: Cared, _: Commands) -> None:
        cared.give(STOP, 60.0)
        await cared.through(STOP)
        assert sent == [("https://example.org/", "stop", 60.0, "hook", 5.0)]

    hook = rule(Deed.WEBHOOK, url="https://example.org/", credential="hook")
    on_loop(test, hook)


def test_only_so_many_are_remembered(on_loop: Callable[..., None]) -> None:
    async def test(cared: Cared, _: Commands) -> None:
        for number in range(40):
            cared.give(notice(NoticeKind.REBALANCE, str(number)), None)
            await cared.through(notice(NoticeKind.REBALANCE, str(number)))
        assert len(cared.care.shown()) <= 17
        assert cared.care.heard == 40

    on_loop(test, DRAIN)


def test_what_a_provider_says_is_one_line(
    on_loop: Callable[..., None], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")

    async def test(cared: Cared, _: Commands) -> None:
        odd = notice(NoticeKind.STOP, "a\nb\x1b" + "x" * 500, text="c\nd\x00" + "y" * 5000)
        odd = replace(odd, at=cared.clock.now() + timedelta(seconds=60))
        cared.give(odd, 60.0)
        await until_told(lambda: cared.care.shown()[0].progress == "done", "it is done")
        (shown,) = cared.care.shown()
        assert shown.id.isprintable()
        assert shown.text.isprintable()
        assert len(shown.text) <= 200
        assert shown.deadline == "2026-03-01T12:01:00+00:00"
        for record in caplog.records:
            assert record.getMessage().isprintable()
            assert len(record.getMessage()) < 400

    on_loop(test, DRAIN)
