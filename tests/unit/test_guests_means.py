# SPDX-License-Identifier: LGPL-2.1-or-later
"""Who is at work on a guest, and whether that process is there still."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from hibprep.guests.means import real_means
from hibprep.guests.record import Owner
from hibprep.guests.waiting import Uninterrupted, until
from hibprep.kernel.root import KernelRoot
from tests.fakes.clock import HandClock
from tests.fakes.libvirt_host import FakeStop

STAT = "{pid} (hibprep) S 1 1 1 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 {start} 0 0"


@pytest.fixture
def root(tmp_path: Path) -> KernelRoot:
    boot = tmp_path / "proc/sys/kernel/random/boot_id"
    boot.parent.mkdir(parents=True)
    boot.write_text("this-boot\n")
    for pid, start in ((os.getpid(), 5000), (77, 9000)):
        (tmp_path / f"proc/{pid}").mkdir()
        (tmp_path / f"proc/{pid}/stat").write_text(STAT.format(pid=pid, start=start))
    return KernelRoot(tmp_path)


def test_this_process(root: KernelRoot) -> None:
    means = real_means(root, "a-host", Uninterrupted())
    assert means.owner == Owner(host="a-host", boot="this-boot", pid=os.getpid(), start=5000)
    assert not means.busy(means.owner)
    # the same process that has prepared it on another host
    assert not means.busy(replace(means.owner, host="b-host"))


@pytest.mark.parametrize(
    ("owner", "busy"),
    [
        (Owner(host="a", boot="this-boot", pid=77, start=9000), True),
        (Owner(host="a", boot="this-boot", pid=77, start=8000), False),  # the number is used again
        (Owner(host="a", boot="this-boot", pid=78, start=9000), False),  # it has ended
        (
            Owner(host="a", boot="other-boot", pid=77, start=9000),
            False,
        ),  # another machine
        (Owner(), False),
    ],
)
def test_others(root: KernelRoot, owner: Owner, *, busy: bool) -> None:
    assert real_means(root, "a-host", Uninterrupted()).busy(owner) is busy


def test_calmly_nobody_stops_it() -> None:
    clock = HandClock()
    stop = FakeStop(clock, at=clock.seconds)
    assert until(lambda: None, clock=clock, stop=stop, seconds=100) is None
    assert clock.seconds < 1002
    calm = Uninterrupted()
    assert not calm.requested()
    assert not calm.wait(0)


def test_it_is_asked_once_at_least_and_once_more_at_the_end() -> None:
    clock = HandClock()
    asked = []

    def ask() -> bool | None:
        asked.append(clock.seconds)
        return True if len(asked) == 3 else None

    answer = until(ask, clock=clock, stop=FakeStop(clock), seconds=0.2, every_seconds=0.1)
    assert answer is True
    assert until(lambda: 7, clock=clock, stop=FakeStop(clock), seconds=0) == 7
