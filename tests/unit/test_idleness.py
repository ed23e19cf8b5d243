# SPDX-License-Identifier: LGPL-2.1-or-later
"""Whether anybody uses the machine, from what the sources said."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from hibprep import idleness
from hibprep.events import (
    Cpu,
    Inhibitors,
    Moment,
    Pressure,
    Session,
    Sessions,
    Signal,
    SourceChanged,
    SourceName,
)
from hibprep.idleness import Idleness, IdlePolicy, View, judge, see, spell

START = 1000.0
NOON = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
POLICY = IdlePolicy()


def at(seconds: float) -> Moment:
    """So many seconds after the daemon's start, at noon."""
    return Moment(START + seconds, START + seconds, NOON + timedelta(seconds=seconds))


def view(*signals: Signal, seconds: float = 0.0, policy: IdlePolicy = POLICY) -> View:
    made = idleness.begin(at(0))
    for signal in signals:
        made = see(made, signal, at(seconds), policy)
    return made


def quiet(seconds: float = 30.0) -> Cpu:
    return Cpu(idle_share=0.991, least_idle_share=0.97, seconds=seconds)


BUSY = Cpu(idle_share=0.4, least_idle_share=0.0, seconds=30.0)


ADA = Session(id="2", user="ada", session_class="user", session_type="wayland", seat="seat0")


def session(**changes: Any) -> Session:  # noqa: ANN401 - fields of any type
    return replace(ADA, **changes)


def idle_for(found: Idleness, now: Moment) -> float:
    assert found.at_seconds is not None, found.words
    return now.monotonic_seconds - found.at_seconds


def test_a_session_that_says_it_is_idle() -> None:
    seen = view(
        Sessions((session(idle=True, idle_at_seconds=START + 100, hints=True),)), seconds=402
    )
    found = judge(seen, at(402), POLICY)
    assert idle_for(found, at(402)) == 302
    assert found.words == "seat0 idle, no input since 12:01"


def test_a_session_in_use() -> None:
    found = judge(view(Sessions((session(hints=True),)), quiet()), at(900), POLICY)
    assert found == Idleness(None, "seat0 is used by ada")


def test_one_in_use_among_idle_ones() -> None:
    everybody = (
        session(id="1", idle=True, idle_at_seconds=START, hints=True),
        session(id="2", user="bob", seat="seat1", hints=True),
    )
    found = judge(view(Sessions(everybody)), at(900), POLICY)
    assert found == Idleness(None, "seat1 is used by bob")


@pytest.mark.parametrize("name", ["greeter", "lock-screen", "background", "manager", "none"])
def test_what_is_no_person_neither_uses_nor_idles(name: str) -> None:
    # a greeter never sets a hint, and a machine that shows one is as good as left
    seen = view(Sessions((session(session_class=name, hints=True),)), quiet(), seconds=30)
    found = judge(seen, at(900), POLICY)
    assert found.at_seconds is not None
    assert found.words.startswith("nobody is logged in; cpu 99.1 % idle")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"locked": True}, "seat0 locked since 12:01"),
        ({"active": False}, "seat0 in the background since 12:01"),
    ],
)
def test_a_session_that_was_left_is_idle_since_then(changes: dict[str, object], words: str) -> None:
    left = session(hints=True, **changes)
    seen = view(Sessions((session(hints=True),)))
    seen = see(seen, Sessions((left,)), at(60), POLICY)
    # told once more for another reason, it is still as long ago
    seen = see(seen, Sessions((left, session(id="9", session_class="manager"))), at(90), POLICY)
    found = judge(seen, at(100), POLICY)
    assert idle_for(found, at(100)) == 40
    assert found.words == words


def test_unlocking_is_use() -> None:
    seen = view(Sessions((session(hints=True, locked=True),)))
    seen = see(seen, Sessions((session(hints=True),)), at(60), POLICY)
    assert judge(seen, at(61), POLICY).at_seconds is None
    # and the next lock counts from its own beginning
    seen = see(seen, Sessions((session(hints=True, locked=True),)), at(70), POLICY)
    assert idle_for(judge(seen, at(100), POLICY), at(100)) == 30


def test_a_terminal_is_as_quiet_as_its_last_input() -> None:
    remote = session(
        session_type="tty", seat="", tty="pts/3", remote=True, input_at_seconds=START + 300
    )
    found = judge(view(Sessions((remote,)), quiet(), seconds=30), at(2700), POLICY)
    assert idle_for(found, at(2700)) == 2400
    assert found.words == "ssh pts/3 quiet 40 min; cpu 99.1 % idle"


@pytest.mark.parametrize(
    "changes",
    [
        {},  # a desktop that never sets a hint
        {"session_type": "tty", "seat": "", "remote": True},  # ssh without a terminal
        {"session_type": "web", "seat": ""},
    ],
)
def test_where_nobody_tells_of_input_the_cpus_must_be_quiet_for_long(
    changes: dict[str, object],
) -> None:
    seen = view(Sessions((session(**changes),)))
    assert judge(seen, at(5000), POLICY).at_seconds is None  # nothing is known of the CPUs
    seen = see(seen, quiet(), at(130), POLICY)
    assert idle_for(judge(seen, at(400), POLICY), at(400)) == 300 - POLICY.blind_seconds
    assert idle_for(judge(seen, at(1000), POLICY), at(1000)) == 900 - POLICY.blind_seconds
    assert "gives no idle hint" in judge(seen, at(1000), POLICY).words


def test_a_machine_without_sessions_is_idle_no_earlier_than_its_start() -> None:
    seen = view(Sessions(()), quiet(seconds=5000), seconds=30)
    found = judge(seen, at(1000), IdlePolicy(blind_seconds=0))
    assert idle_for(found, at(1000)) == 1000


def test_without_logind_the_cpus_alone_tell() -> None:
    seen = view(Sessions((session(hints=True),)), quiet(), seconds=30)
    assert judge(seen, at(40), POLICY).at_seconds is None
    seen = see(seen, SourceChanged(SourceName.LOGIND, works=False, reason="gone"), at(50), POLICY)
    found = judge(seen, at(1000), POLICY)
    assert idle_for(found, at(1000)) == 1000 - POLICY.blind_seconds
    assert found.words == "logind tells nothing; cpu 99.1 % idle"


@pytest.mark.parametrize(
    ("inhibitors", "words"),
    [
        (
            Inhibitors(idle=("player (pid 7): a film",)),
            "player (pid 7): a film keeps the machine from being idle",
        ),
        (
            Inhibitors(sleep=("apt (pid 8): upgrade",)),
            "apt (pid 8): upgrade keeps the machine from sleeping",
        ),
    ],
)
def test_block_inhibitors_are_respected(inhibitors: Inhibitors, words: str) -> None:
    idle = Sessions((session(idle=True, idle_at_seconds=START, hints=True),))
    assert judge(view(idle, inhibitors), at(5000), POLICY) == Idleness(None, words)
    assert judge(view(idle, inhibitors, Inhibitors()), at(5000), POLICY).at_seconds is not None


def test_busy_cpus_are_use() -> None:
    idle = Sessions((session(idle=True, idle_at_seconds=START, hints=True),))
    seen = view(idle, quiet(), seconds=30)
    seen = see(seen, BUSY, at(60), POLICY)
    assert judge(seen, at(900), POLICY) == Idleness(None, "the CPUs are busy (cpu 40.0 % idle)")
    seen = see(seen, quiet(), at(90), POLICY)
    assert idle_for(judge(seen, at(90), POLICY), at(90)) == 30  # from the beginning of that sample


def test_the_busiest_cpu_decides_where_that_is_the_policy() -> None:
    each = IdlePolicy(cpu_each=True)
    sample = Cpu(idle_share=0.98, least_idle_share=0.9, seconds=30)
    idle = Sessions((session(idle=True, idle_at_seconds=START, hints=True),))
    assert judge(view(idle, sample, seconds=30), at(90), POLICY).at_seconds is not None
    found = judge(view(idle, sample, seconds=30, policy=each), at(90), each)
    assert found == Idleness(None, "the CPUs are busy (busiest cpu 90.0 % idle)")


def test_writing_to_swap_is_not_somebodys_work() -> None:
    idle = Sessions((session(idle=True, idle_at_seconds=START, hints=True),))
    swapping = Cpu(idle_share=0.7, least_idle_share=0.2, seconds=10)
    seen = see(view(idle, quiet(), seconds=30), swapping, at(60), POLICY, reclaiming=True)
    assert judge(seen, at(70), POLICY).at_seconds is not None
    seen = see(seen, BUSY, at(80), POLICY, reclaiming=True)
    assert judge(seen, at(90), POLICY).at_seconds is None


def test_pressure_on_others_is_use_for_a_minute() -> None:
    idle = Sessions((session(idle=True, idle_at_seconds=START, hints=True),))
    pressed = Pressure(resource="memory", scope="user.slice", share=0.2)
    seen = see(view(idle), pressed, at(100), POLICY)
    assert judge(seen, at(130), POLICY) == Idleness(None, "programs in user.slice wait for memory")
    assert judge(seen, at(161), POLICY).at_seconds is not None
    ours = see(view(idle), pressed, at(100), POLICY, reclaiming=True)
    assert judge(ours, at(101), POLICY).at_seconds is not None


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "0 s"),
        (59.4, "59 s"),
        (60, "1 min"),
        (302, "5 min 2 s"),
        (2400, "40 min"),
        (2455, "40 min"),
        (3600, "1 h"),
        (7380, "2 h 3 min"),
        (-5, "0 s"),
    ],
)
def test_lengths_of_time_in_words(seconds: float, words: str) -> None:
    assert spell(seconds) == words
