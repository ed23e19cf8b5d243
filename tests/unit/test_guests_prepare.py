# SPDX-License-Identifier: LGPL-2.1-or-later
"""Preparing a guest and putting it back: what is gained, what is left to it, and that it never
stays small, whatever fails."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hibprep.errors import HibprepError
from hibprep.guests.balloon import Reserve
from hibprep.guests.errors import (
    BusyError,
    GuestError,
    JobActiveError,
    NotRunningError,
    RecordMalformedError,
)
from hibprep.guests.estimate import Discard
from hibprep.guests.hardware import Hardware
from hibprep.guests.ladder import RungName
from hibprep.guests.port import DomainState, JobPhase, JobStats, MigrateOptions, Operation
from hibprep.guests.prepare import prepare
from hibprep.guests.record import NAMESPACE, Record, to_xml
from hibprep.guests.undo import UndoEnding, undo, undo_all
from hibprep.model import Ending
from tests.fakes.guest_setting import OPTIONS, PLAIN, REPORTING, Setting
from tests.fakes.libvirt_host import FakeDomain, FakeHost, Killed, fake_means
from tests.fakes.libvirt_inside import AgentMood, ChannelMood, FakeChannel
from tests.fakes.libvirt_memory import MIB, GuestMemory

# --- what is gained -------------------------------------------------------------------------------


def test_caches_dropped_and_the_balloon_inflated() -> None:
    setting = Setting()
    before = setting.memory.sent
    report = setting.prepare()
    assert report.ending is Ending.DONE
    assert report.discards == (Discard.BALLOON,)
    assert setting.memory.sent < before / 2
    assert report.before.sent_bytes == pytest.approx(before, rel=0.1)
    assert report.after.sent_bytes == pytest.approx(setting.memory.sent, rel=0.1)
    assert report.record_kept
    record = setting.record
    assert record is not None
    assert record.original_bytes == 1024 * MIB
    assert record.set_bytes == report.target_bytes
    assert record.owner.pid == 100
    assert setting.memory.period == 0
    assert [now.step for now in setting.said] == ["in the guest", "balloon"]
    assert setting.undo().ending is UndoEnding.DONE
    setting.must_be_as_before()


def test_without_anybody_inside_the_balloon_alone() -> None:
    setting = Setting(Hardware(balloon=True), None)
    before = setting.memory.sent
    report = setting.prepare()
    assert report.rungs[-1].name is RungName.BALLOON
    assert [rung.used for rung in report.rungs] == [False, False, True]
    assert setting.memory.sent < before / 2


def test_reporting_needs_no_balloon_and_nothing_to_be_undone() -> None:
    setting = Setting(REPORTING)
    before = setting.memory.sent
    report = setting.prepare()
    assert report.discards == (Discard.REPORTING,)
    assert not report.record_kept
    assert setting.memory.sent < 0.4 * before
    assert report.reported is not None
    assert report.reported.given_back_bytes > 300 * MIB
    assert report.reported.settled
    assert 3 <= report.reported.seconds < 10
    assert setting.memory.actual == setting.memory.maximum
    setting.must_be_as_before()


def test_reporting_with_memory_in_fragments_and_the_balloon_as_well() -> None:
    setting = Setting(REPORTING)
    setting.memory.fragments = 3.0
    report = setting.prepare()
    assert report.discards == (Discard.REPORTING, Discard.BALLOON)
    assert "fragments" in report.notes[0]
    assert report.record_kept
    setting.undo()
    setting.must_be_as_before()


def test_reporting_without_anybody_inside_is_the_balloon() -> None:
    setting = Setting(replace(REPORTING, agent=False), None)
    assert setting.prepare().discards == (Discard.BALLOON,)


def test_through_the_channel() -> None:
    setting = Setting(replace(PLAIN, channel=True))
    setting.domain.channel_inside = FakeChannel(setting.clock, setting.memory, ChannelMood.WELL)
    report = setting.prepare()
    assert (report.rungs[0].name, report.rungs[0].used) == (RungName.CHANNEL, True)
    assert len(report.rungs) == 1


def test_a_guest_with_nothing_to_give_is_left_alone() -> None:
    setting = Setting(used=900 * MIB, cache=10 * MIB, touched=0)
    report = setting.prepare()
    assert report.ending is Ending.DONE
    assert "little more than it uses" in report.reason
    assert not report.record_kept
    setting.must_be_as_before()


@pytest.mark.parametrize("period", [0, 1, 10])
def test_the_period_of_the_statistics_is_put_back(period: int) -> None:
    setting = Setting(replace(PLAIN, stats_period_seconds=period))
    setting.prepare()
    assert setting.memory.period == period
    setting.undo()
    setting.must_be_as_before(period=period)


# --- the reserve ----------------------------------------------------------------------------------


@given(
    used=st.integers(64, 700),
    cache=st.integers(0, 300),
    touched=st.integers(0, 24),
    share=st.floats(0.05, 1.0),
    least=st.integers(16, 200),
    inside=st.booleans(),
)
@settings(deadline=None, max_examples=60)
def test_the_reserve_is_always_left(
    used: int, cache: int, touched: int, share: float, least: int, *, inside: bool
) -> None:
    setting = Setting(
        PLAIN,
        AgentMood.WELL if inside else None,
        used=used * MIB,
        cache=cache * MIB,
        touched=touched * MIB,
    )
    reserve = Reserve(share=share, least_bytes=least * MIB)
    setting.prepare(replace(OPTIONS, reserve=reserve))
    memory = setting.memory
    left = memory.free + memory.cache
    assert left >= min(reserve.of(used * MIB), memory.maximum - used * MIB) - 2 * MIB
    assert memory.killed == 0
    setting.undo()
    setting.must_be_as_before()


@given(growth=st.integers(1, 80), rate=st.integers(50, 2000), inside=st.booleans())
@settings(deadline=None, max_examples=50)
def test_a_guest_that_allocates_meanwhile_is_not_short_of_memory(
    growth: int, rate: int, *, inside: bool
) -> None:
    """The reserve is worth four seconds of what the guest allocates; the guest tells what it uses
    once a second."""
    setting = Setting(PLAIN, AgentMood.WELL if inside else None, used=200 * MIB)
    setting.memory.growth = growth * MIB
    setting.memory.balloon_rate = rate * MIB
    # it stops before it would have used up all of its memory anyhow
    end = setting.clock.seconds + 500 / growth

    def look() -> None:
        if setting.clock.seconds >= end:
            setting.memory.growth = 0

    setting.stop.looked = look
    setting.prepare(replace(OPTIONS, reserve=Reserve(fixed_bytes=max(64, 4 * growth) * MIB)))
    assert setting.memory.killed == 0


def test_what_the_guest_has_come_to_need_is_given_back() -> None:
    setting = Setting(used=200 * MIB)
    setting.memory.balloon_rate = 2000 * MIB
    done = False

    def look() -> None:
        nonlocal done
        if setting.memory.actual < 300 * MIB and not done:
            done = True
            setting.memory.allocate(45 * MIB)

    setting.stop.looked = look
    report = setting.prepare()
    assert "some was given back" in report.notes[0]
    assert setting.memory.free + setting.memory.cache >= report.reserve_bytes * 7 // 8


# --- when it cannot be done -----------------------------------------------------------------------


def test_only_a_guest_that_runs() -> None:
    setting = Setting()
    for state in (DomainState.SHUT_OFF, DomainState.PAUSED):
        setting.domain.state = state
        with pytest.raises(NotRunningError):
            setting.prepare()
    assert setting.record is None


def test_not_during_a_job() -> None:
    setting = Setting()
    setting.domain.running_job = JobStats(phase=JobPhase.RUNNING, operation=Operation.MIGRATION_OUT)
    with pytest.raises(JobActiveError, match="migration out is under way"):
        setting.prepare()


def test_not_while_another_hibprep_is_at_it() -> None:
    setting = Setting()
    setting.prepare()
    other = replace(setting.means(300), busy=lambda owner: owner.pid == 100)
    with pytest.raises(BusyError, match="pid 100"):
        prepare(setting.domain, OPTIONS, other, setting.said.append)
    assert undo(setting.domain, other).ending is UndoEnding.LATER
    assert setting.record is not None


@pytest.mark.parametrize(
    ("hardware", "said"),
    [
        (replace(REPORTING, vfio=("the pci device 0000:01:00.0",)), "VFIO"),
        (replace(PLAIN, huge_pages=True), "huge pages"),
        (replace(PLAIN, balloon=False), "no virtio balloon"),
    ],
)
def test_where_it_would_be_useless_nothing_is_done_and_that_is_said(
    hardware: Hardware, said: str
) -> None:
    setting = Setting(hardware)
    report = setting.prepare()
    assert report.ending is Ending.UNAVAILABLE
    assert said in report.reason
    assert setting.memory.cache == 400 * MIB, "the guest keeps its cache, if that gains nothing"
    setting.must_be_as_before()


def test_without_a_driver_in_the_guest() -> None:
    setting = Setting()
    setting.memory.driver = False
    report = setting.prepare()
    assert report.ending is Ending.UNAVAILABLE
    assert "virtio_balloon" in report.reason
    setting.must_be_as_before()


def test_a_balloon_that_is_refused() -> None:
    setting = Setting()
    setting.domain.refuses_balloon = True
    with pytest.raises(GuestError, match="Unable to change memory"):
        setting.prepare()
    setting.domain.refuses_balloon = False
    setting.undo()
    setting.must_be_as_before()


def test_a_slow_guest_is_held_where_it_is() -> None:
    setting = Setting(mood=None)
    setting.memory.balloon_rate = 10 * MIB
    report = setting.prepare(replace(OPTIONS, timeout_seconds=20.0))
    assert report.ending is Ending.DEADLINE
    held = setting.memory.actual
    setting.clock.go_on(60)
    setting.memory.catch_up()
    assert abs(setting.memory.actual - held) <= 4 * MIB
    setting.memory.balloon_rate = 400 * MIB
    setting.undo()
    setting.must_be_as_before()


def test_a_malformed_record_is_not_written_over() -> None:
    setting = Setting()
    setting.domain.live[NAMESPACE] = "<prepared/>"
    with pytest.raises(RecordMalformedError, match="guest undo"):
        setting.prepare()
    undone = setting.undo()
    assert undone.ending is UndoEnding.DONE
    assert "all that it may have" in undone.reason
    setting.must_be_as_before()


def test_a_malformed_record_of_a_guest_without_a_balloon_goes_as_well() -> None:
    setting = Setting(Hardware())
    setting.domain.refuses_balloon = True
    setting.domain.live[NAMESPACE] = "<prepared/>"
    assert setting.undo().ending is UndoEnding.DONE
    setting.must_be_as_before()


# --- putting it back ------------------------------------------------------------------------------


def test_prepared_twice_it_gets_back_what_it_had_at_first() -> None:
    setting = Setting()
    setting.prepare()
    small = setting.memory.actual
    setting.prepare(pid=101)
    record = setting.record
    assert record is not None
    assert record.original_bytes == 1024 * MIB
    assert setting.memory.actual <= small + 2 * MIB
    setting.undo()
    setting.must_be_as_before()


def test_one_that_had_less_than_it_may_gets_that_back() -> None:
    setting = Setting()
    setting.memory.target = setting.memory.actual = 900 * MIB
    setting.prepare()
    setting.undo()
    assert setting.memory.target == 900 * MIB
    setting.must_be_as_before(900 * MIB)


def test_what_somebody_gave_it_meanwhile_it_keeps() -> None:
    setting = Setting()
    setting.memory.target = setting.memory.actual = 900 * MIB
    setting.prepare()
    setting.memory.target = setting.memory.actual = 1000 * MIB
    setting.undo()
    setting.must_be_as_before(1000 * MIB)


def test_undo_can_be_done_again_and_again() -> None:
    setting = Setting()
    assert setting.undo().ending is UndoEnding.NOTHING
    setting.prepare()
    assert setting.undo().ending is UndoEnding.DONE
    assert setting.undo().ending is UndoEnding.NOTHING
    setting.must_be_as_before()


def test_a_guest_that_does_not_take_it_back_keeps_its_record() -> None:
    setting = Setting()
    setting.prepare()
    setting.memory.driver = False
    undone = setting.undo()
    assert undone.ending is UndoEnding.FAILED
    assert setting.record is not None
    assert setting.memory.target == 1024 * MIB, "the order stays"
    setting.memory.driver = True
    assert setting.undo().ending is UndoEnding.DONE
    setting.must_be_as_before()


def test_paused_it_is_asked_and_looked_at_again_later() -> None:
    setting = Setting()
    setting.prepare()
    setting.domain._run(DomainState.PAUSED)
    undone = setting.undo()
    assert (undone.ending, setting.memory.target) == (UndoEnding.LATER, 1024 * MIB)
    setting.domain._run(DomainState.RUNNING)
    assert setting.undo().ending is UndoEnding.DONE
    setting.must_be_as_before()


def test_saved_it_is_put_back_after_it_is_started() -> None:
    setting = Setting()
    setting.prepare()
    setting.domain.managed_save()
    assert setting.undo().ending is UndoEnding.LATER
    assert NAMESPACE in setting.domain.configured
    setting.domain.start()
    assert setting.memory.actual < 500 * MIB, "the balloon survives a save"
    assert setting.undo().ending is UndoEnding.DONE
    setting.must_be_as_before()


def test_shut_off_there_is_nothing_to_give_back() -> None:
    setting = Setting()
    setting.prepare()
    setting.domain._run(DomainState.SHUT_OFF)
    assert setting.undo().ending is UndoEnding.DONE
    assert NAMESPACE not in setting.domain.configured


def test_rebooted_it_would_go_to_the_old_target_again() -> None:
    setting = Setting()
    setting.prepare()
    setting.memory.reboot()
    assert setting.undo().ending is UndoEnding.DONE
    setting.clock.go_on(30)
    setting.memory.catch_up()
    setting.must_be_as_before()


@pytest.mark.parametrize("persist", [False, True])
def test_migrated_it_is_put_back_there(persist: bool) -> None:  # noqa: FBT001 - a parameter
    setting = Setting()
    setting.prepare()
    there = FakeHost(setting.clock, "b")
    options = MigrateOptions(persist_destination=persist)
    arrived = setting.domain.migrate(there, there.uri, options)
    assert isinstance(arrived, FakeDomain)
    assert arrived.memory.actual < 500 * MIB, "the balloon survives a migration"
    (undone,) = undo_all(there, fake_means(setting.clock))
    assert undone.ending is UndoEnding.DONE
    assert arrived.memory.actual == 1024 * MIB
    assert not arrived.live
    assert not arrived.configured
    # the configuration that stayed behind has it too
    (behind,) = undo_all(setting.host, fake_means(setting.clock))
    assert behind.ending is UndoEnding.DONE
    assert not setting.domain.configured


def test_during_a_job_later() -> None:
    setting = Setting()
    setting.prepare()
    setting.domain.running_job = JobStats(phase=JobPhase.RUNNING, operation=Operation.SAVE)
    began = setting.clock.seconds
    undone = setting.undo()
    assert (undone.ending, undone.reason) == (UndoEnding.LATER, "save is under way")
    assert setting.clock.seconds - began < 40


def test_all_of_a_host_whatever_one_of_them_does() -> None:
    setting = Setting()
    setting.prepare()
    others = [setting.host.add(name, GuestMemory(setting.clock)) for name in ("a", "z")]
    for other in others:
        prepare(other, OPTIONS, setting.means(), setting.said.append)
    others[0].refuses_balloon = True
    undone = undo_all(setting.host, fake_means(setting.clock))
    assert [each.ending for each in undone] == [
        UndoEnding.FAILED,
        UndoEnding.DONE,
        UndoEnding.DONE,
    ]
    assert "Unable to change memory" in undone[0].reason
    setting.must_be_as_before()


# --- whatever fails, at whatever step -------------------------------------------------------------

KINDS = [
    (PLAIN, AgentMood.WELL),
    (Hardware(balloon=True), None),
    (REPORTING, AgentMood.WELL),
    (replace(PLAIN, stats_period_seconds=5), AgentMood.HANGS),
]


def calls_of(hardware: Hardware, mood: AgentMood | None) -> int:
    setting = Setting(hardware, mood)
    setting.prepare()
    return setting.host.faults.calls


@pytest.mark.parametrize(("hardware", "mood"), KINDS)
@given(data=st.data())
@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.too_slow])
def test_killed_between_any_two_steps(
    data: st.DataObject, hardware: Hardware, mood: AgentMood | None
) -> None:
    """SIGKILL: no cleaning up. Whoever comes next puts it back, and it may be killed too."""
    setting = Setting(hardware, mood)
    period = hardware.stats_period_seconds
    faults = setting.host.faults
    faults.at = data.draw(st.integers(1, calls_of(hardware, mood)), label="first killed at call")
    faults.error = Killed()
    with pytest.raises(Killed):
        setting.prepare()
    setting.clock.go_on(data.draw(st.floats(0, 20), label="seconds until somebody comes"))
    faults.another_process()
    second = data.draw(st.none() | st.integers(1, 60), label="second killed at call")
    if second is not None:
        faults.at, faults.error = faults.calls + second, Killed()
        try:
            setting.undo(pid=200)
        except Killed:
            setting.clock.go_on(3)
        faults.another_process()
    assert setting.undo(pid=300).ending in (UndoEnding.DONE, UndoEnding.NOTHING)
    setting.clock.go_on(60)
    setting.memory.catch_up()
    setting.must_be_as_before(period=period)


@pytest.mark.parametrize(("hardware", "mood"), KINDS)
@given(data=st.data())
@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.too_slow])
def test_refused_at_any_step(
    data: st.DataObject, hardware: Hardware, mood: AgentMood | None
) -> None:
    """libvirt refuses one call, once or from then on: it is put back at once, or told how."""
    setting = Setting(hardware, mood)
    faults = setting.host.faults
    faults.at = data.draw(st.integers(1, calls_of(hardware, mood)), label="refused at call")
    faults.error = GuestError("web: internal error: no")
    faults.once = data.draw(st.booleans(), label="once")
    try:
        report = setting.prepare()
    except HibprepError as error:
        if "guest undo" not in str(error):
            faults.another_process()
            setting.clock.go_on(60)
            setting.memory.catch_up()
            setting.must_be_as_before(period=hardware.stats_period_seconds)
    else:
        # a call into the guest, whose failing is the next rung's turn
        assert report.record_kept == (setting.record is not None)
    faults.another_process()
    setting.undo()
    setting.clock.go_on(60)
    setting.memory.catch_up()
    setting.must_be_as_before(period=hardware.stats_period_seconds)


@pytest.mark.parametrize(("hardware", "mood"), KINDS)
@given(seconds=st.floats(0, 25))
@settings(deadline=None, max_examples=40)
def test_interrupted_at_any_moment(
    seconds: float, hardware: Hardware, mood: AgentMood | None
) -> None:
    """Ctrl-C: it is put back before the command ends."""
    setting = Setting(hardware, mood)
    setting.stop.at = setting.clock.seconds + seconds
    report = setting.prepare()
    if report.ending is Ending.INTERRUPTED:
        assert not report.record_kept
        assert "SIGINT" in report.reason
        setting.must_be_as_before(period=hardware.stats_period_seconds)


def test_a_record_is_there_before_anything_is_changed() -> None:
    setting = Setting()
    setting.prepare()
    names = setting.host.faults.names
    first = names.index("set_metadata")
    for change in ("set_stats_period", "set_balloon", "agent"):
        assert first < names.index(change)
    # and it says how far the balloon is asked to go before it is asked
    balloon = names.index("set_balloon")
    assert names[:balloon].count("set_metadata") == 2


def test_the_record_can_be_read_by_eye() -> None:
    record = Record(original_bytes=640 * MIB, set_bytes=203 * MIB)
    assert to_xml(record).startswith('<prepared original-kib="655360" set-kib="207872"')
