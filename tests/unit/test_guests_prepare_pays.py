# SPDX-License-Identifier: LGPL-2.1-or-later
"""Preparing a guest no longer than that pays, and by no statistics but those of now."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hibprep.guests.estimate import Discard
from hibprep.guests.hardware import Hardware
from hibprep.guests.ladder import RungName
from hibprep.guests.prepare import Options
from hibprep.guests.statistics import fresh
from hibprep.model import Ending
from tests.fakes.guest_setting import OPTIONS, PLAIN, REPORTING, Setting
from tests.fakes.libvirt_host import FakeStop
from tests.fakes.libvirt_inside import FakeChannel
from tests.fakes.libvirt_memory import MIB

SLOW = Options(bytes_per_second=1e6, while_it_pays=True)
FAST = replace(SLOW, bytes_per_second=1e12)


# --- no longer than it pays -----------------------------------------------------------------------


def seconds_given(setting: Setting) -> list[float]:
    """What the guest's hibprep was given, by its own command line."""
    assert setting.domain.agent_inside is not None
    return [
        float(words[words.index("--timeout") + 1])
        for words in setting.domain.agent_inside.commands
        if words[0] == "hibprep"
    ]


def test_over_a_slow_network_the_guest_has_all_its_time() -> None:
    slow, usual = Setting(hibprep=True), Setting(hibprep=True)
    slow.prepare(SLOW)
    usual.prepare(OPTIONS)
    assert seconds_given(slow) == seconds_given(usual)


@pytest.mark.parametrize("hardware", [PLAIN, REPORTING])
def test_over_a_fast_network_it_is_left_as_it_is(hardware: Hardware) -> None:
    setting = Setting(hardware, hibprep=True)
    report = setting.prepare(FAST)
    assert report.ending is Ending.DONE
    assert "left as it is: the sending would be 0.0 s shorter" in report.reason
    assert (report.rungs, report.discards, seconds_given(setting)) == ((), (), [])
    assert report.after == report.before
    assert report.seconds < 1
    assert not report.record_kept
    setting.must_be_as_before()


@pytest.mark.parametrize("hardware", [PLAIN, REPORTING])
def test_where_there_is_no_time_to_find_what_is_cold_it_is_the_balloon_alone(
    hardware: Hardware,
) -> None:
    setting = Setting(hardware, hibprep=True)
    report = setting.prepare(replace(SLOW, bytes_per_second=50e6))
    assert [rung.name for rung in report.rungs] == [RungName.BALLOON]
    assert report.discards == (Discard.BALLOON,)
    assert seconds_given(setting) == []
    assert report.notes[0].startswith("the guest was not asked what is cold: the sending can be")
    assert report.after.sent_bytes < report.before.sent_bytes / 2


@pytest.mark.parametrize("hardware", [PLAIN, REPORTING])
def test_of_a_guest_that_tells_nothing_nobody_knows_what_it_would_gain(hardware: Hardware) -> None:
    """It has all its time."""
    setting = Setting(hardware, hibprep=True, driver=False)
    setting.prepare(replace(SLOW, bytes_per_second=1e8))
    (given_seconds,) = seconds_given(setting)
    assert given_seconds > 15


def test_a_guest_that_uses_little_is_not_asked_however_much_it_has_freed() -> None:
    """It was prepared ahead: what is left to do is the balloon's."""
    setting = Setting(hibprep=True, maximum=4096 * MIB, used=300 * MIB, cache=0, touched=3700 * MIB)
    report = setting.prepare(replace(SLOW, bytes_per_second=50e6))
    assert seconds_given(setting) == []
    assert report.discards == (Discard.BALLOON,)
    assert report.after.sent_bytes < report.before.sent_bytes / 5


def test_where_there_is_time_it_is_given_to_the_guest() -> None:
    setting = Setting(hibprep=True, maximum=2048 * MIB, used=600 * MIB, cache=600 * MIB)
    report = setting.prepare(replace(SLOW, bytes_per_second=16e6))
    (given_seconds,) = seconds_given(setting)
    assert 15 < given_seconds < OPTIONS.guest_seconds - 2
    assert any("the guest was given" in note for note in report.notes)


@given(
    used=st.integers(100, 1000),
    cache=st.integers(0, 2500),
    touched=st.integers(0, 400),
    rate=st.floats(4e7, 1e10),
    seconds=st.floats(0.1, 100),
    hardware=st.sampled_from([PLAIN, REPORTING, replace(REPORTING, channel=True)]),
)
@settings(deadline=None, max_examples=60)
def test_what_is_prepared_while_it_pays_is_there_little_later_if_at_all(  # noqa: PLR0917 - hypothesis gives them
    used: int, cache: int, touched: int, rate: float, seconds: float, hardware: Hardware
) -> None:
    """However long the guest would be at it. A balloon takes memory faster than it could be sent
    where there is a KVM."""
    setting = Setting(
        hardware, maximum=4096 * MIB, used=used * MIB, cache=cache * MIB, touched=touched * MIB,
        balloon_rate=int(10 * rate),
    )  # fmt: skip
    setting.domain.channel_inside = FakeChannel(setting.clock, setting.memory, seconds=seconds)
    report = setting.prepare(replace(SLOW, bytes_per_second=rate, timeout_seconds=1e3))
    sooner = report.before.seconds - report.after.seconds
    assert report.seconds <= 1.5 * sooner + 4.0
    setting.undo()
    setting.must_be_as_before()


def test_a_balloon_that_is_slower_than_the_network_is_held_where_it_is() -> None:
    setting = Setting(maximum=4096 * MIB, cache=3000 * MIB, balloon_rate=50 * MIB)
    report = setting.prepare(replace(SLOW, bytes_per_second=200e6))
    assert "more slowly than it can be sent" in report.reason
    assert report.target_bytes < setting.memory.target == setting.memory.actual
    assert report.seconds < 5
    setting.undo()
    setting.must_be_as_before()


def test_the_same_balloon_goes_on_where_bytes_matter_more() -> None:
    setting = Setting(maximum=4096 * MIB, cache=3000 * MIB, balloon_rate=50 * MIB)
    thorough = replace(SLOW, bytes_per_second=200e6, while_it_pays=False, timeout_seconds=1e3)
    assert setting.prepare(thorough).actual_bytes < 400 * MIB


def test_who_does_not_ask_for_it_is_not_cut_short() -> None:
    setting = Setting(hibprep=True)
    setting.prepare(replace(FAST, while_it_pays=False))
    assert seconds_given(setting) == [OPTIONS.guest_seconds - 2]


# --- statistics -----------------------------------------------------------------------------------


def test_what_was_told_before_nothing_was_done_is_not_asked_for_again() -> None:
    """The same figures in the same second are not known to be new: that would be a second lost."""
    options = replace(SLOW, bytes_per_second=50e6)
    setting = Setting(balloon_rate=100 << 30)
    began = setting.clock.seconds
    report = setting.prepare(options)
    assert [rung.name for rung in report.rungs] == [RungName.BALLOON]
    assert setting.clock.seconds - began < 1
    names = setting.host.faults.names
    assert names[: names.index("set_balloon")].count("set_stats_period") == 2


def test_after_the_guest_was_asked_the_balloon_goes_by_what_it_tells_then() -> None:
    """Of the 200 MiB that it used, 50 went to its swap; 64 are left to it beside the rest."""
    setting = Setting(hibprep=True)
    assert setting.prepare().target_bytes == (150 + 64) * MIB


def test_statistics_are_asked_for_at_once() -> None:
    setting = Setting(replace(PLAIN, stats_period_seconds=1))
    setting.domain.set_stats_period(1)
    setting.clock.go_on(1.2)
    stop = FakeStop(setting.clock)
    old = fresh(setting.domain, clock=setting.clock, stop=stop, at_once=True)
    began = setting.clock.seconds
    setting.memory.allocate(MIB)
    new = fresh(setting.domain, clock=setting.clock, stop=stop, at_once=True)
    assert setting.clock.seconds - began < 0.5
    assert old is not None
    assert new is not None
    assert new.usable_bytes == (old.usable_bytes or 0) - MIB


@given(growth=st.integers(-3, 3), moved=st.integers(0, 100))
def test_what_was_told_before_is_not_fresh(growth: int, moved: int) -> None:
    """The balloon's size is the host's word, and of now: that it changes says nothing."""
    setting = Setting(replace(PLAIN, stats_period_seconds=1))
    setting.domain.set_stats_period(1)
    setting.clock.go_on(1.2)
    setting.memory.catch_up()
    setting.memory.used += growth * MIB
    setting.memory.actual -= moved * MIB
    setting.memory.target = setting.memory.actual
    stop = FakeStop(setting.clock)
    found = fresh(setting.domain, clock=setting.clock, stop=stop, at_once=True)
    assert found is not None
    assert found.usable_bytes == setting.memory.free + setting.memory.cache
