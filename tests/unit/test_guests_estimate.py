# SPDX-License-Identifier: LGPL-2.1-or-later
"""What would be sent: against guests whose every page is known."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hibprep.guests.balloon import DEFAULT_RESERVE, Reserve, target_bytes, used_bytes
from hibprep.guests.estimate import Discard, as_it_is, prepared
from hibprep.guests.hardware import Hardware
from hibprep.guests.port import MemoryStats
from tests.fakes.clock import HandClock
from tests.fakes.libvirt_memory import MIB, GuestMemory

PLAIN = Hardware(balloon=True)


def stats_of(memory: GuestMemory) -> MemoryStats:
    return MemoryStats(
        actual_bytes=memory.actual,
        rss_bytes=memory.rss,
        available_bytes=memory.actual - 20 * MIB,
        unused_bytes=memory.free,
        usable_bytes=memory.free + memory.cache,
        disk_caches_bytes=memory.cache,
        last_update=1,
    )


@st.composite
def memories(draw: st.DrawFn) -> GuestMemory:
    maximum = draw(st.integers(256, 1 << 16)) * MIB
    used = draw(st.integers(64 * MIB, maximum // 2))
    cache = draw(st.integers(0, maximum - used))
    touched = draw(st.integers(0, maximum - used - cache))
    return GuestMemory(HandClock(), maximum=maximum, used=used, cache=cache, touched=touched)


@given(memories())
def test_within_ten_percent_of_what_is_sent(memory: GuestMemory) -> None:
    estimate = as_it_is(stats_of(memory), PLAIN, memory.maximum)
    assert estimate.sent_bytes == pytest.approx(memory.sent, rel=0.1)
    assert sum(term.bytes for term in estimate.terms) == estimate.sent_bytes


@given(memories(), st.booleans())
def test_prepared_within_ten_percent_of_what_is_then_sent(
    memory: GuestMemory,
    trimmed: bool,  # noqa: FBT001 - hypothesis gives it
) -> None:
    stats = stats_of(memory)
    before = memory.sent
    estimate = prepared(
        stats,
        PLAIN,
        memory.maximum,
        discard=Discard.BALLOON,
        trimmed=trimmed,
        reserve=DEFAULT_RESERVE,
    )
    assert estimate is not None
    if trimmed:
        memory.drop_caches()
    memory.target = target_bytes(stats, DEFAULT_RESERVE)
    while memory.actual > memory.target + MIB:
        memory.clock.go_on(10)
        memory.catch_up()
    assert estimate.sent_bytes == pytest.approx(memory.sent, rel=0.1)
    assert estimate.sent_bytes <= before * 1.01


@given(memories())
def test_reporting_leaves_fragments(memory: GuestMemory) -> None:
    estimate = prepared(
        stats_of(memory),
        Hardware(balloon=True, free_page_reporting=True),
        memory.maximum,
        discard=Discard.REPORTING,
        trimmed=True,
        reserve=DEFAULT_RESERVE,
    )
    assert estimate is not None
    assert used_bytes(stats_of(memory)) <= estimate.sent_bytes
    assert estimate.sent_bytes <= as_it_is(stats_of(memory), PLAIN, memory.maximum).sent_bytes


def test_dropping_alone_gains_nothing() -> None:
    memory = GuestMemory(HandClock())
    before = as_it_is(stats_of(memory), PLAIN, memory.maximum)
    memory.drop_caches()
    after = as_it_is(stats_of(memory), PLAIN, memory.maximum)
    assert after.sent_bytes == before.sent_bytes
    assert [term.name for term in after.terms] == ["in use", "freed, not given back", "marks"]


def test_where_the_host_has_swapped_it_out_it_is_sent_all_the_same() -> None:
    memory = GuestMemory(HandClock())
    stats = stats_of(memory)
    little = MemoryStats(
        actual_bytes=stats.actual_bytes,
        rss_bytes=100 * MIB,
        unused_bytes=stats.unused_bytes,
        usable_bytes=stats.usable_bytes,
    )
    assert as_it_is(little, PLAIN, memory.maximum).sent_bytes >= memory.used + memory.cache


@pytest.mark.parametrize(
    ("stats", "sent_mib", "basis"),
    [
        (MemoryStats(actual_bytes=1024 * MIB), 1024, "the most that it can be"),
        (MemoryStats(actual_bytes=1024 * MIB, rss_bytes=348 * MIB), 300, "rss alone"),
        (
            MemoryStats(actual_bytes=1024 * MIB, unused_bytes=512 * MIB, usable_bytes=1),
            1024,
            "the guest alone",
        ),
    ],
)
def test_less_is_known(stats: MemoryStats, sent_mib: int, basis: str) -> None:
    estimate = as_it_is(stats, PLAIN, 1024 * MIB)
    assert estimate.sent_bytes == pytest.approx(sent_mib * MIB, rel=0.01)
    assert basis in estimate.basis


def test_huge_pages_are_not_in_the_size_of_the_process() -> None:
    stats = MemoryStats(actual_bytes=1024 * MIB, rss_bytes=60 * MIB, unused_bytes=0, usable_bytes=0)
    huge = as_it_is(stats, Hardware(balloon=True, huge_pages=True), 1024 * MIB)
    assert huge.sent_bytes >= 1024 * MIB


def test_nothing_is_said_of_a_guest_that_tells_nothing() -> None:
    stats = MemoryStats(actual_bytes=1024 * MIB, rss_bytes=300 * MIB)
    for discard in Discard:
        assert (
            prepared(
                stats, PLAIN, 1024 * MIB, discard=discard, trimmed=True, reserve=DEFAULT_RESERVE
            )
            is None
        )


@given(memories(), st.floats(0.05, 4.0), st.integers(16, 1024))
def test_the_target_leaves_the_reserve(memory: GuestMemory, share: float, least_mib: int) -> None:
    reserve = Reserve(share=share, least_bytes=least_mib * MIB)
    stats = stats_of(memory)
    target = target_bytes(stats, reserve)
    used = used_bytes(stats)
    assert target <= stats.actual_bytes
    assert target == stats.actual_bytes or target - used >= reserve.of(used)
    assert reserve.of(used) >= max(share * used - 1, least_mib * MIB)


def test_time_is_bytes_by_speed() -> None:
    memory = GuestMemory(HandClock())
    slow = as_it_is(stats_of(memory), PLAIN, memory.maximum, 1e8)
    fast = as_it_is(stats_of(memory), PLAIN, memory.maximum, 1e9)
    assert slow.seconds == pytest.approx(0.3 + slow.sent_bytes / 1e8)
    assert fast.seconds < slow.seconds


def test_what_the_host_sees_takes_the_place_of_what_is_concluded() -> None:
    memory = GuestMemory(HandClock())
    estimate = as_it_is(stats_of(memory), PLAIN, memory.maximum, content_bytes=300 * MIB)
    assert estimate.terms[0].bytes == 300 * MIB
    assert 300 * MIB <= estimate.sent_bytes <= 301 * MIB + memory.maximum // 4096 * 9
    best = prepared(
        stats_of(memory),
        PLAIN,
        memory.maximum,
        discard=Discard.BALLOON,
        trimmed=True,
        reserve=Reserve(),
        content_bytes=300 * MIB,
    )
    assert best is not None
    assert best.sent_bytes <= estimate.sent_bytes
