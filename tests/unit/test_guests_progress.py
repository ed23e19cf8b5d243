# SPDX-License-Identifier: LGPL-2.1-or-later
from __future__ import annotations

import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hibprep.clock import SystemClock
from hibprep.guests import job as jobs
from hibprep.guests.calls import Call, NoAnswerError, within
from hibprep.guests.errors import ConnectionFailedError, GuestError
from hibprep.guests.job import JobStuckError
from hibprep.guests.port import JobPhase, JobStats, Operation
from hibprep.guests.progress import JobWatch, Part, left_seconds, of_job
from tests.fakes.libvirt_memory import MIB
from tests.waiting import GENEROUS_SECONDS, until

from .moving_guests import TwoHosts

RUNNING = JobStats(phase=JobPhase.RUNNING, operation=Operation.MIGRATION_OUT)


def job(**what: object) -> JobStats:
    return JobStats(phase=JobPhase.RUNNING, operation=Operation.MIGRATION_OUT, **what)  # type: ignore[arg-type]


def test_in_the_first_pass_what_is_left_goes_as_what_went() -> None:
    now = job(
        memory_total_bytes=1000 * MIB,
        memory_remaining_bytes=250 * MIB,
        elapsed_seconds=4.0,
        setup_seconds=1.0,
        iteration=1,
    )
    assert left_seconds(now) == pytest.approx(1.0)


def test_later_what_the_guest_writes_comes_on_top() -> None:
    now = job(
        memory_total_bytes=1000 * MIB,
        memory_remaining_bytes=100 * MIB,
        bytes_per_second=100 * MIB,
        dirty_pages_per_second=12800,  # 50 MiB
        page_bytes=4096,
        iteration=3,
        elapsed_seconds=20.0,
    )
    assert left_seconds(now) == pytest.approx(2.0)


def test_a_guest_that_writes_faster_than_is_sent_never_arrives() -> None:
    now = job(
        memory_remaining_bytes=100 * MIB,
        bytes_per_second=10 * MIB,
        dirty_pages_per_second=12800,
        iteration=5,
        elapsed_seconds=60.0,
    )
    assert left_seconds(now) is None
    assert of_job("web", Part.MIGRATING, now).note == (
        "the guest writes to its memory faster than it is sent"
    )


def test_disks_count_too() -> None:
    now = job(
        memory_total_bytes=100,
        memory_remaining_bytes=0,
        disk_total_bytes=1000,
        disk_processed_bytes=450,
        elapsed_seconds=5.5,
    )
    assert left_seconds(now) == pytest.approx(5.5)


amounts = st.integers(0, 1 << 50)
times = st.floats(0, 1e6)


@given(
    total=amounts, remaining=amounts, rate=amounts, dirty=amounts, page=st.sampled_from([0, 4096]),
    disk=amounts, disk_done=amounts, elapsed=times, setup=times, passes=st.integers(0, 9),
)  # fmt: skip
def test_it_is_no_time_below_nought_whatever_libvirt_tells(
    *, total: int, remaining: int, rate: int, dirty: int, page: int, disk: int, disk_done: int,
    elapsed: float, setup: float, passes: int,
) -> None:  # fmt: skip
    progress = of_job(
        "web",
        Part.MIGRATING,
        job(
            memory_total_bytes=total,
            memory_remaining_bytes=remaining,
            bytes_per_second=rate,
            dirty_pages_per_second=dirty,
            page_bytes=page,
            disk_total_bytes=disk,
            disk_processed_bytes=disk_done,
            elapsed_seconds=elapsed,
            setup_seconds=setup,
            iteration=passes,
        ),
    )
    assert progress.left_seconds is None or progress.left_seconds >= 0
    assert 0 <= progress.done_bytes <= progress.total_bytes


def test_a_call_is_waited_for_no_longer_than_that() -> None:
    ever = threading.Event()
    with pytest.raises(NoAnswerError, match="asking: libvirt does not answer"):
        within(0.0, ever.wait, "asking")
    ever.set()
    assert within(GENEROUS_SECONDS, lambda: 7, "asking") == 7


def test_what_a_call_raises_is_raised_where_it_is_waited_for() -> None:
    def fail() -> None:
        raise GuestError("no")

    call = Call(fail, "asking")
    assert call.wait(GENEROUS_SECONDS)
    with pytest.raises(GuestError, match="no"):
        call.result()


def test_a_watch_ends_with_the_connection_and_goes_on_after_anything_else(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("hibprep.guests.progress.FIRST_SECONDS", 0.001)
    guest = TwoHosts().guest(running_job=RUNNING)
    answers = iter([GuestError("not now"), None, ConnectionFailedError("lost")])
    looks: list[JobStats] = []
    really = guest.job

    def ask() -> JobStats:
        answer = next(answers)
        if answer is not None:
            raise answer
        return really()

    monkeypatch.setattr(guest, "job", ask)
    watch = JobWatch(guest, SystemClock(), looks.append)
    watch.start()
    until(lambda: watch.trouble == "lost", "the connection is lost")
    assert looks == [RUNNING]
    assert watch.latest == RUNNING


def test_a_job_that_does_not_end_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "ABORT_AGAIN_SECONDS", 0.001)
    hosts = TwoHosts()
    guest = hosts.guest()
    hosts.interrupt()
    ever = threading.Event()

    class Passing:
        def monotonic(self) -> float:
            hosts.clock.go_on(1.0)
            return hosts.clock.seconds

    with pytest.raises(JobStuckError, match="interrupted by SIGINT; its job was aborted"):
        jobs.run(
            guest,
            ever.wait,
            Part.MIGRATING,
            clock=Passing(),  # type: ignore[arg-type]
            stop=hosts.stop,
            tell=hosts.told.append,
        )
    ever.set()
    assert guest.aborted
