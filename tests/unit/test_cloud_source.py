# SPDX-License-Identifier: LGPL-2.1-or-later
"""The poller: what it tells of what a provider says, and what it does when that says nothing."""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hibprep.events import NoticeGiven, NoticeWithdrawn, Signal, SourceChanged
from hibprep.noticebook import NoticeBook
from hibprep.notices import Notice, NoticeKind, ProviderName
from hibprep.signals.cloud import source as source_module
from hibprep.signals.cloud import telling as telling_module
from hibprep.signals.cloud.base import (
    AnswerError,
    Look,
    NoAnswerError,
    NotHereError,
    Provider,
    Watch,
)
from hibprep.signals.cloud.calls import FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS, pause_seconds
from hibprep.signals.cloud.link import HttpLink, date_of, text_of
from hibprep.signals.cloud.skew import DATE_SECONDS, Reading, deadline_at_seconds, reading
from hibprep.signals.cloud.source import MOST_TRIES, Cloud
from tests.cloud.pauses import Pauses
from tests.cloud.server import Answer, Asked, MetadataServer, text
from tests.fakes.clock import START, HandClock
from tests.listening import listening, only, until_told

SECRET = "c2VjcmV0"  # noqa: S105 - one of nobody's
STOP = Notice(
    kind=NoticeKind.STOP, source=ProviderName.AWS, id="stop-1", at=START + timedelta(seconds=120)
)
FREEZE = Notice(kind=NoticeKind.FREEZE, source=ProviderName.AWS, id="f", lead_seconds=60.0)

Said = Look | Exception | Callable[[], Look]


class FakeWatch:
    """Says one thing after another, and the last of them again and again."""

    def __init__(self, name: str, *says: Said, pause_seconds: float = 5.0) -> None:
        self.name = name
        self.pause_seconds = pause_seconds
        self.says: list[Said] = list(says) or [Look(words="404: nothing is announced")]
        self.looks = 0

    def look(self) -> Look:
        self.looks += 1
        said = self.says.pop(0) if len(self.says) > 1 else self.says[0]
        if isinstance(said, Exception):
            raise said
        return said if isinstance(said, Look) else said()


@dataclass
class FakeProvider:
    """A cloud; `troubles` come first, one for each time that it is asked what to look at."""

    seen: Sequence[Watch]
    troubles: list[Exception] = field(default_factory=list)
    name: ProviderName = ProviderName.AWS
    acknowledged: list[Notice] = field(default_factory=list)
    refuses: Exception | None = None
    asked: int = 0

    def watches(self) -> Sequence[Watch]:
        self.asked += 1
        if self.troubles:
            raise self.troubles.pop(0)
        return self.seen

    def acknowledge(self, notice: Notice) -> None:
        if self.refuses is not None:
            raise self.refuses
        self.acknowledged.append(notice)


@dataclass
class Rig:
    """A poller with all that it needs, on a clock that stands still between two looks."""

    folder: Path
    find: Callable[[], Provider]
    poll_seconds: float = 0.0
    clock: HandClock = field(default_factory=HandClock)

    def __post_init__(self) -> None:
        self.pauses = Pauses(self.clock)
        self.book = NoticeBook(str(self.folder))
        self.cloud = Cloud(
            self.clock,
            self.book,
            self.find,
            poll_seconds=self.poll_seconds,
            chance=random.Random(8),  # noqa: S311 - pauses
            sleep=self.pauses.sleep,
        )


def rig(folder: Path, *watches: FakeWatch) -> Rig:
    return Rig(folder, lambda: FakeProvider(watches))


def given_(told: list[Signal]) -> list[Notice]:
    return [each.notice for each in only(NoticeGiven, told)]


def withdrawn(told: list[Signal]) -> list[tuple[Notice, bool]]:
    return [(each.notice, each.over) for each in only(NoticeWithdrawn, told)]


# --- notices --------------------------------------------------------------------------------------


def test_a_notice_is_told_once(tmp_path: Path) -> None:
    watch = FakeWatch("spot", Look(), Look((STOP,), START, "stop"))

    async def check() -> None:
        made = rig(tmp_path, watch)
        async with listening(made.cloud) as told:
            await made.pauses.all_rest()
            assert told == [SourceChanged(made.cloud.name, works=True, reason="aws: looks at spot")]
            for _ in range(3):
                await made.pauses.round()
            assert given_(told) == [STOP]
            assert made.cloud.provider is ProviderName.AWS

    asyncio.run(check())
    assert watch.looks == 4


@pytest.mark.parametrize("minutes", [-5, 0, 5, 60 * 24 * 365])
def test_the_deadline_is_by_the_clock_of_the_provider(tmp_path: Path, minutes: int) -> None:
    """Ours is so many minutes off; a Date header has whole seconds, of which one may be gone."""
    clock = HandClock(wall=START + timedelta(minutes=minutes))
    watch = FakeWatch("spot", Look((STOP,), START))

    async def check() -> None:
        made = Rig(tmp_path, lambda: FakeProvider([watch]), clock=clock)
        async with listening(made.cloud) as told:
            await made.pauses.all_rest()
            (signal,) = only(NoticeGiven, told)
            assert signal.deadline_at_seconds == 1000.0 + 120.0 - DATE_SECONDS
            assert made.cloud.notices() == (signal,)

    asyncio.run(check())


def test_without_a_date_the_time_of_day_counts(tmp_path: Path) -> None:
    async def check() -> None:
        made = rig(tmp_path, FakeWatch("spot", Look((STOP, FREEZE))))
        async with listening(made.cloud) as told:
            await made.pauses.all_rest()
            assert [each.deadline_at_seconds for each in only(NoticeGiven, told)] == [
                1120.0,
                1060.0,
            ]

    asyncio.run(check())


def test_a_promised_time_is_counted_from_the_first_look_on(tmp_path: Path) -> None:
    async def check() -> None:
        made = rig(tmp_path, FakeWatch("spot", Look((FREEZE,))))
        async with listening(made.cloud):
            await made.pauses.all_rest()
            for _ in range(3):
                await made.pauses.round()
            assert made.cloud.notices() == (NoticeGiven(FREEZE, 1060.0),)

    asyncio.run(check())


def test_a_deadline_in_the_past_is_one(tmp_path: Path) -> None:
    late = replace(STOP, at=START - timedelta(seconds=30))

    async def check() -> None:
        made = rig(tmp_path, FakeWatch("spot", Look((late,), START)))
        async with listening(made.cloud) as told:
            await made.pauses.all_rest()
            (signal,) = only(NoticeGiven, told)
            assert signal.deadline_at_seconds == 970.0 - DATE_SECONDS

    asyncio.run(check())


def test_a_changed_deadline_is_told(tmp_path: Path) -> None:
    sooner = replace(STOP, at=START + timedelta(seconds=30))
    begun = replace(sooner, begun=True)
    looks = [Look((each,), START) for each in (STOP, sooner, sooner, begun)]

    async def check() -> None:
        made = rig(tmp_path, FakeWatch("spot", *looks))
        async with listening(made.cloud) as told:
            await made.pauses.all_rest()
            for _ in range(4):
                await made.pauses.round()
            assert given_(told) == [STOP, sooner, begun]
            deadlines = [each.deadline_at_seconds for each in only(NoticeGiven, told)]
            # looked at after 0, 5 and 15 s
            assert deadlines == [1120.0 - DATE_SECONDS, 1035.0 - DATE_SECONDS, 1015.0]

    asyncio.run(check())


def test_what_is_not_announced_any_more_is_withdrawn(tmp_path: Path) -> None:
    begun = replace(FREEZE, begun=True)
    watch = FakeWatch("spot", Look((STOP, begun), START), Look((), START))

    async def check() -> None:
        made = rig(tmp_path, watch)
        async with listening(made.cloud) as told:
            await made.pauses.all_rest()
            await made.pauses.round()
            await made.pauses.round()
            assert withdrawn(told) == [(STOP, False), (begun, True)]
            assert made.cloud.notices() == ()

    asyncio.run(check())


def test_what_is_new_comes_before_what_is_withdrawn(tmp_path: Path) -> None:
    other = replace(STOP, id="stop-2")
    watch = FakeWatch("spot", Look((STOP,)), Look((other,)))

    async def check() -> None:
        made = rig(tmp_path, watch)
        async with listening(made.cloud) as told:
            await made.pauses.all_rest()
            await made.pauses.round()
            assert told[-2:] == [NoticeGiven(other, 1120.0), NoticeWithdrawn(STOP)]

    asyncio.run(check())


def test_a_look_that_fails_withdraws_nothing(tmp_path: Path) -> None:
    watch = FakeWatch("spot", Look((STOP,)), NoAnswerError("away"))

    async def check() -> None:
        made = rig(tmp_path, watch)
        async with listening(made.cloud) as told:
            await made.pauses.all_rest()
            for _ in range(10):
                await made.pauses.round()
            assert withdrawn(told) == []
            assert [each.notice for each in made.cloud.notices()] == [STOP]

    asyncio.run(check())


# --- restarts -------------------------------------------------------------------------------------


def test_after_a_restart_it_is_not_told_again(tmp_path: Path) -> None:
    async def life(*looks: Look) -> list[Signal]:
        made = rig(tmp_path, FakeWatch("spot", *looks))
        async with listening(made.cloud) as told:
            await made.pauses.all_rest()
            assert len(made.cloud.notices()) == len(looks[0].notices)
            assert all(each.deadline_at_seconds for each in made.cloud.notices())
        return told

    assert given_(asyncio.run(life(Look((STOP,), START)))) == [STOP]
    assert given_(asyncio.run(life(Look((STOP,), START)))) == []
    again = asyncio.run(life(Look((), START)))
    assert withdrawn(again) == [(STOP, False)]  # while nobody looked
    assert withdrawn(asyncio.run(life(Look((), START)))) == []


def test_notices_of_a_cloud_that_it_is_with_no_more_are_withdrawn(tmp_path: Path) -> None:
    async def first() -> None:
        made = rig(tmp_path, FakeWatch("spot", Look((STOP,))))
        async with listening(made.cloud):
            await made.pauses.all_rest()

    async def second() -> list[Signal]:
        told: list[Signal] = []
        with pytest.raises(NotHereError):
            await Rig(tmp_path, nobody_is_here).cloud.run(told.append)
        return told

    asyncio.run(first())
    assert withdrawn(asyncio.run(second())) == [(STOP, False)]


def test_notices_of_another_cloud_are_withdrawn(tmp_path: Path) -> None:
    """An image that was made of an instance elsewhere, say."""

    async def life(name: ProviderName, look: Look) -> list[Signal]:
        made = Rig(tmp_path, lambda: FakeProvider([FakeWatch("spot", look)], name=name))
        async with listening(made.cloud) as told:
            await made.pauses.all_rest()
        return told

    asyncio.run(life(ProviderName.ALIBABA, Look((STOP,))))
    assert withdrawn(asyncio.run(life(ProviderName.AWS, Look()))) == [(STOP, False)]


def test_a_slow_disk_holds_no_notice_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(telling_module, "_KEEP_SECONDS", 0.001)
    free, entered = threading.Event(), threading.Event()
    write = NoticeBook.write

    def slow(self: NoticeBook, content: str) -> str:
        entered.set()
        free.wait()
        return write(self, content)

    monkeypatch.setattr(NoticeBook, "write", slow)

    async def check() -> None:
        made = rig(tmp_path, FakeWatch("spot", Look((STOP,)), Look((STOP, FREEZE)), Look()))
        async with listening(made.cloud) as told:
            await made.pauses.all_rest()
            await until_told(entered.is_set, "the book is being written")
            await made.pauses.round()
            await made.pauses.round()
            assert given_(told) == [STOP, FREEZE]
            assert len(withdrawn(told)) == 2
        assert len(asyncio.all_tasks()) == 1

    asyncio.run(check())
    free.set()


def test_a_disk_that_takes_nothing_is_said_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "var").write_text("no directory")

    async def check() -> None:
        made = rig(tmp_path, FakeWatch("spot", Look((STOP,)), Look(), Look((STOP,))))
        async with listening(made.cloud) as told:
            await made.pauses.all_rest()
            await made.pauses.round()
            await made.pauses.round()
            assert given_(told) == [STOP, STOP]

    asyncio.run(check())
    assert len([r for r in caplog.records if "notices.json" in r.getMessage()]) == 2  # load, write


# --- failures -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "error",
    [
        NoAnswerError("away"),
        AnswerError("nonsense"),
        NotHereError("switched off", "switch it on"),
        ValueError(f"invalid literal: {SECRET}"),
        OSError(f"{SECRET}"),
    ],
)
def test_one_place_that_fails_stops_no_other(
    tmp_path: Path, error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    broken = FakeWatch("broken", error)
    sound = FakeWatch("sound", Look(), Look(), Look((STOP,)))

    async def check() -> None:
        made = rig(tmp_path, broken, sound)
        async with listening(made.cloud) as told:
            await made.pauses.all_rest(2)
            for _ in range(3):
                await made.pauses.round(2)
            assert given_(told) == [STOP]
            first, second = made.cloud.states()
            assert (first.name, first.failures >= 3) == ("broken", True)
            assert (second.name, second.failures) == ("sound", 0)
            last = only(SourceChanged, told)[-1]
            assert last.works
            assert "broken" in last.reason
            assert SECRET not in f"{first}{told}"

    asyncio.run(check())
    assert SECRET not in caplog.text


def test_a_defect_is_told_with_its_place(tmp_path: Path) -> None:
    def bad() -> Look:
        return Look((), None, str(int(SECRET)))

    async def check() -> None:
        made = rig(tmp_path, FakeWatch("spot", bad))
        async with listening(made.cloud):
            await made.pauses.all_rest()
            (state,) = made.cloud.states()
            assert state.words.startswith("a defect of hibprep's: ValueError in test_cloud_source")

    asyncio.run(check())


def test_a_place_that_hangs_stops_no_other_and_is_asked_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(source_module, "LOOK_SECONDS", 0.001)
    free = threading.Event()

    def hang() -> Look:
        free.wait()
        return Look((FREEZE,))

    hanging = FakeWatch("hanging", hang)

    def comes() -> Look:
        return Look((STOP,))

    async def check() -> None:
        # the sound one has to come within the same millisecond, so it may need some tries
        sound = FakeWatch("sound", comes)
        made = rig(tmp_path, hanging, sound)
        async with listening(made.cloud) as told:
            for _ in range(3):
                await made.pauses.all_rest(2)
                made.pauses.go_on()
            await made.pauses.all_rest(2)
            assert hanging.looks == 1
            assert "no answer within" in made.cloud.states()[0].words
            monkeypatch.setattr(source_module, "LOOK_SECONDS", 30.0)
            free.set()
            await made.pauses.round(2)
            assert {each.id for each in given_(told)} == {STOP.id, FREEZE.id}
            assert hanging.looks == 1  # the late answer was good enough

    asyncio.run(check())


def test_failures_make_the_pauses_longer_and_success_makes_them_short(tmp_path: Path) -> None:
    troubles = [NoAnswerError("away")] * 12
    again = NoAnswerError("away")
    watch = FakeWatch("spot", Look(), *troubles, Look(), again, Look(), pause_seconds=2.0)

    async def check() -> None:
        made = rig(tmp_path, watch)
        async with listening(made.cloud) as told:
            await made.pauses.all_rest()
            for _ in range(15):
                await made.pauses.round()
            pauses = made.pauses.of("spot")
            assert pauses[0] == 2.0
            assert all(2.0 <= each <= LONGEST_PAUSE_SECONDS for each in pauses)
            assert pauses[1] == 2.0  # one answer that is missing costs nothing
            assert pauses[12] > LONGEST_PAUSE_SECONDS / 2
            assert len(set(pauses[7:13])) == 6  # by chance
            assert pauses[13:] == [2.0, 2.0, 2.0]  # and the next one is the first again
            assert [each.works for each in only(SourceChanged, told)] == [True, False, True]

    asyncio.run(check())


def test_what_is_switched_off_is_seldom_asked(tmp_path: Path) -> None:
    async def check() -> None:
        made = rig(tmp_path, FakeWatch("spot", NotHereError("switched off", "switch it on")))
        async with listening(made.cloud) as told:
            await made.pauses.all_rest()
            await made.pauses.round()
            assert made.pauses.of("spot") == [LONGEST_PAUSE_SECONDS] * 2
            assert not only(SourceChanged, told)[-1].works

    asyncio.run(check())


@pytest.mark.parametrize(
    ("own", "wanted", "pause"),
    [(5.0, 0.0, 5.0), (5.0, 1.0, 5.0), (5.0, 30.0, 30.0), (0.0, 30.0, 0.0)],
)
def test_no_shorter_pause_than_the_providers(
    tmp_path: Path, own: float, wanted: float, pause: float
) -> None:
    watch = FakeWatch("spot", pause_seconds=own)

    async def check() -> None:
        made = Rig(tmp_path, lambda: FakeProvider([watch]), poll_seconds=wanted)
        async with listening(made.cloud):
            await made.pauses.all_rest()
            assert made.pauses.of("spot") == [pause]

    asyncio.run(check())


@given(st.integers(0, 10_000), st.floats(0, 600), st.integers())
def test_pauses_keep_within_their_bounds(failures: int, own: float, seed: int) -> None:
    pause = pause_seconds(failures, own, random.Random(seed))  # noqa: S311 - pauses
    if failures == 0:
        assert pause == own
    else:
        assert max(own, FIRST_PAUSE_SECONDS / 2) <= pause <= max(own, LONGEST_PAUSE_SECONDS)


# --- who it is ------------------------------------------------------------------------------------


def nobody_is_here() -> Provider:
    raise NotHereError("this is no virtual machine, and with no cloud", "name it")


def test_a_machine_on_no_cloud_is_told_so_and_not_looked_at_again(tmp_path: Path) -> None:
    tries = 0

    def find() -> Provider:
        nonlocal tries
        tries += 1
        return nobody_is_here()

    async def check() -> None:
        made = Rig(tmp_path, find)
        told: list[Signal] = []
        for _ in range(3):  # as its supervisor does
            with pytest.raises(NotHereError, match="no cloud: name it"):
                await made.cloud.run(told.append)
        assert told == []
        assert made.cloud.provider is None
        assert made.cloud.states() == ()

    asyncio.run(check())
    assert tries == 1


def test_a_provider_that_gives_no_notices_now_may_later(tmp_path: Path) -> None:
    found = FakeProvider([FakeWatch("spot")], [NotHereError("switched off", "switch it on")])

    async def check() -> None:
        made = Rig(tmp_path, lambda: found)
        with pytest.raises(NotHereError):
            await made.cloud.run(lambda _: None)
        async with listening(made.cloud):
            await made.pauses.all_rest()

    asyncio.run(check())
    assert found.asked == 2


def test_a_metadata_service_that_comes_late_is_waited_for(tmp_path: Path) -> None:
    found = FakeProvider([FakeWatch("spot", Look((STOP,)))], [NoAnswerError("away")] * 30)

    async def check() -> None:
        made = Rig(tmp_path, lambda: found)
        task = asyncio.create_task(made.cloud.run(told.append))
        for _ in range(30):
            await made.pauses.all_rest()
            made.pauses.go_on()
        await made.pauses.all_rest()
        assert given_(told) == [STOP]
        assert [each.works for each in only(SourceChanged, told)] == [False, True]
        task.cancel()
        await asyncio.wait((task,))

    told: list[Signal] = []
    asyncio.run(check())


def test_who_is_nowhere_to_be_found_is_given_up(tmp_path: Path) -> None:
    tries = 0

    def find() -> Provider:
        nonlocal tries
        tries += 1
        raise NoAnswerError("no metadata service answers")

    async def check() -> None:
        made = Rig(tmp_path, find)
        task = asyncio.create_task(made.cloud.run(lambda _: None))
        for _ in range(MOST_TRIES - 1):
            await made.pauses.all_rest()
            (state,) = made.cloud.states()
            assert "no metadata service answers" in state.words
            made.pauses.go_on()
        with pytest.raises(NotHereError, match=r"notices\.provider"):
            await task
        with pytest.raises(NotHereError):
            await made.cloud.run(lambda _: None)

    asyncio.run(check())
    assert tries == MOST_TRIES


# --- ends -----------------------------------------------------------------------------------------


def test_nothing_is_left_running(tmp_path: Path) -> None:
    free = threading.Event()

    def hang() -> Look:
        free.wait()
        return Look()

    async def check() -> None:
        made = rig(tmp_path, FakeWatch("a", hang), FakeWatch("b", Look((STOP,))))
        task = asyncio.create_task(made.cloud.run(told.append))
        await until_told(lambda: given_(told), "the notice is told")
        made.cloud.simulate(replace(FREEZE, source=ProviderName.SIMULATED), 100.0)
        task.cancel()
        await asyncio.wait((task,))
        assert task.cancelled()
        assert len(asyncio.all_tasks()) == 1

    told: list[Signal] = []
    before = threading.active_count()
    asyncio.run(check())
    free.set()
    for thread in threading.enumerate():
        if thread.name.startswith(("aws", "the book", "finding")):
            thread.join()
    assert threading.active_count() <= before
    kept = NoticeBook(str(tmp_path))
    kept.load()
    assert STOP in kept.holding()


# --- made-up notices ------------------------------------------------------------------------------

MADE_UP = Notice(kind=NoticeKind.TERMINATE, source=ProviderName.SIMULATED, id="made-up-1")


def test_a_simulated_notice_is_told_and_withdrawn_by_itself(tmp_path: Path) -> None:
    async def check() -> None:
        made = rig(tmp_path, FakeWatch("spot"))
        with pytest.raises(NoAnswerError):
            made.cloud.simulate(MADE_UP, 0.01)
        async with listening(made.cloud) as told:
            made.cloud.simulate(MADE_UP, 0.01)
            assert only(NoticeGiven, told) == [NoticeGiven(MADE_UP, 1000.01)]
            assert made.cloud.notices() == (NoticeGiven(MADE_UP, 1000.01),)
            await until_told(lambda: withdrawn(told), "it is withdrawn")
            assert made.cloud.notices() == ()

    asyncio.run(check())


def test_two_simulated_notices_and_a_real_one(tmp_path: Path) -> None:
    other = replace(MADE_UP, id="made-up-2", at=START + timedelta(seconds=30))

    async def check() -> None:
        made = rig(tmp_path, FakeWatch("spot", Look((STOP,))))
        async with listening(made.cloud) as told:
            await made.pauses.all_rest()
            made.cloud.simulate(MADE_UP, 500.0)
            made.cloud.simulate(other, 30.0)
            await made.pauses.round()
            assert only(NoticeGiven, told)[1:] == [
                NoticeGiven(MADE_UP, 1500.0),
                NoticeGiven(other, 1030.0),
            ]
            assert withdrawn(told) == []
            sooner = replace(MADE_UP, begun=True)
            made.cloud.simulate(sooner, None)
            assert told[-1] == NoticeGiven(sooner, 1005.0)
            assert len(made.cloud.notices()) == 3

    asyncio.run(check())


def test_a_notice_that_is_simulated_anew_holds_for_its_new_time(tmp_path: Path) -> None:
    async def check() -> None:
        made = rig(tmp_path, FakeWatch("spot"))
        async with listening(made.cloud) as told:
            made.cloud.simulate(MADE_UP, 0.0)
            made.cloud.simulate(MADE_UP, 500.0)
            made.cloud.simulate(replace(MADE_UP, id="made-up-2"), 0.0)
            await until_told(lambda: withdrawn(told), "the other one is withdrawn")
            assert [each.notice for each in made.cloud.notices()] == [MADE_UP]

    asyncio.run(check())


def test_notices_can_be_simulated_on_a_machine_on_no_cloud(tmp_path: Path) -> None:
    async def check() -> None:
        made = Rig(tmp_path, nobody_is_here)
        told: list[Signal] = []
        with pytest.raises(NotHereError):
            await made.cloud.run(told.append)
        made.cloud.simulate(MADE_UP, 100.0)
        assert given_(told) == [MADE_UP]
        with pytest.raises(NotHereError):  # its supervisor tries again, and takes nothing away
            await made.cloud.run(told.append)
        assert withdrawn(told) == []
        made.cloud.simulate(MADE_UP, 0.0)
        await until_told(lambda: withdrawn(told), "it is withdrawn")

    asyncio.run(check())


# --- acknowledging --------------------------------------------------------------------------------


def test_the_provider_is_told_that_we_are_ready(tmp_path: Path) -> None:
    found = FakeProvider([FakeWatch("events", Look((STOP,)))])

    async def check() -> None:
        made = Rig(tmp_path, lambda: found)
        with pytest.raises(NotHereError):
            await made.cloud.acknowledge(STOP)
        async with listening(made.cloud):
            await made.pauses.all_rest()
            await made.cloud.acknowledge(STOP)
            with pytest.raises(NotHereError, match="simulated is not who"):
                await made.cloud.acknowledge(MADE_UP)
            found.refuses = NoAnswerError("away")
            with pytest.raises(NoAnswerError):
                await made.cloud.acknowledge(STOP)
            found.refuses = KeyError(SECRET)
            with pytest.raises(AnswerError, match="KeyError in"):
                await made.cloud.acknowledge(STOP)

    asyncio.run(check())
    assert found.acknowledged == [STOP]


# --- clocks, purely -------------------------------------------------------------------------------

MOMENTS = st.floats(-1e9, 1e9).map(lambda seconds: START + timedelta(seconds=seconds))


@given(
    at=MOMENTS,
    now=MOMENTS,
    own=MOMENTS,
    uptime=st.floats(0, 1e8),
)
def test_a_deadline_is_never_later_than_it_is(
    at: datetime, now: datetime, own: datetime, uptime: float
) -> None:
    """Whatever our own clock says: by the server's, whose Date header is cut to seconds."""
    notice = replace(STOP, at=at)
    found = deadline_at_seconds(notice, reading(now.replace(microsecond=0), own, uptime))
    assert found is not None
    true = uptime + (at - now).total_seconds()
    assert true - DATE_SECONDS - 1e-3 <= found <= true + 1e-3


@given(uptime=st.floats(0, 1e8), lead=st.floats(0, 1e6))
def test_where_no_time_is_told(uptime: float, lead: float) -> None:
    read = Reading(START, uptime)
    assert deadline_at_seconds(replace(STOP, at=None), read) is None
    assert deadline_at_seconds(replace(STOP, at=None, lead_seconds=lead), read) == uptime + lead
    assert deadline_at_seconds(replace(STOP, begun=True), read) == uptime


# --- over a real link -----------------------------------------------------------------------------


class NoticeServer(MetadataServer):
    """Says when the machine is stopped."""

    def __init__(self) -> None:
        super().__init__()
        self.at: datetime | None = None
        self.told = 0

    def answer(self, asked: Asked) -> Answer:
        if self.at is None:
            return super().answer(asked)
        self.told += 1
        return text(self.at.isoformat())


class HttpWatch:
    """Reads it."""

    name = "stop"
    pause_seconds = 0.005

    def __init__(self, link: HttpLink) -> None:
        self._link = link

    def look(self) -> Look:
        reply = self._link.request("GET", "/stop", timeout_seconds=30.0)
        if reply.status == 404:
            return Look(now=date_of(reply))
        at = datetime.fromisoformat(text_of(reply))
        return Look((replace(STOP, at=at),), date_of(reply), "200")


def test_the_first_look_that_finds_a_notice_tells_of_it(tmp_path: Path) -> None:
    """So that no more than a pause and a look is between the two; over one connection, with a
    server whose clock is five minutes off."""

    async def check(server: NoticeServer, link: HttpLink) -> None:
        told: list[Signal] = []
        answers_until_given: list[int] = []

        def emit(signal: Signal) -> None:
            told.append(signal)
            if isinstance(signal, NoticeGiven):
                answers_until_given.append(server.told)

        watch = HttpWatch(link)
        cloud = Cloud(HandClock(), NoticeBook(str(tmp_path)), lambda: FakeProvider([watch]))
        task = asyncio.create_task(cloud.run(emit))
        await until_told(lambda: len(server.asked) > 3, "it is looked at again and again")
        at = server.clock.now() + timedelta(seconds=120)
        server.at = at
        await until_told(lambda: given_(told), "the notice is told")
        assert answers_until_given == [1]
        (signal,) = only(NoticeGiven, told)
        assert signal.notice.at == at
        assert signal.deadline_at_seconds is not None
        assert 1000 + 120 - 32 < signal.deadline_at_seconds <= 1000 + 120
        server.at = None
        await until_told(lambda: withdrawn(told), "it is withdrawn")
        task.cancel()
        await asyncio.wait((task,))
        assert server.connections == 1

    with NoticeServer() as server:
        server.clock.off = timedelta(minutes=-5)
        link = HttpLink(server.place)
        asyncio.run(check(server, link))
        link.close()
