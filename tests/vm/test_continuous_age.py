# SPDX-License-Identifier: LGPL-2.1-or-later
"""Policy `continuous` with an age: memory is held at the working set and a little, for ten minutes,
and whoever works with it hardly notices."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from bench import desktop
from bench.lab import GuestTimeout, Workload
from bench.lab.workload_client import Residency
from tests.vm.conftest import GIB, MIB, Boot

COLD, WARM = 900 * MIB, 256 * MIB
PERIOD_SECONDS = 0.2  # between two passes: often enough to see what slows them
AGE_SECONDS = 60
HELD_SECONDS = 600
QUIET_SECONDS = 120
LOOK_SECONDS = 30
# Emulated, an aging takes so much of the CPUs that minutes of rest follow each round.
SETTLE_SECONDS = 900

CONFIG = f"""
[daemon]
policy = "continuous"

[continuous]
# by age alone: no hibernation of this guest takes so long
within_seconds = 600
older_than_seconds = {AGE_SECONDS}
bytes_per_second = 1e8
"""


@dataclass(frozen=True)
class Look:
    """What is in memory at one moment, by the process's own pagemap; passes so far."""

    at_seconds: float
    passes: int
    residency: Residency

    @property
    def over_working_set(self) -> float:
        """All that is in memory, by the working set."""
        found = self.residency
        return (found.cold_present + found.warm_present) / found.warm_pages


def look(workload: Workload) -> Look:
    """The passes first: to read the pagemap takes a while."""
    passes, at = int(workload.state()["passes"]), time.monotonic()
    return Look(at, passes, workload.residency())


def looks(workload: Workload, seconds: float) -> Iterator[Look]:
    """Now, and again and again for so long."""
    until = time.monotonic() + seconds
    while True:
        found = look(workload)
        yield found
        if found.at_seconds >= until:
            return
        time.sleep(min(LOOK_SECONDS, max(0.0, until - time.monotonic())))


def pace(seen: list[Look]) -> float:
    """Passes a second."""
    first, last = seen[0], seen[-1]
    return (last.passes - first.passes) / (last.at_seconds - first.at_seconds)


def until_held(workload: Workload) -> float:
    """Wait until the cold is gone; how long that took."""
    begin = time.monotonic()
    for found in looks(workload, SETTLE_SECONDS):
        print(f"{found.at_seconds - begin:.0f} s: {found.over_working_set:.3f} {found.residency}")
        if found.over_working_set <= 1.1:
            return found.at_seconds - begin
    raise GuestTimeout(f"memory did not come down to the working set in {SETTLE_SECONDS} s")


@pytest.mark.timeout(4500)
def test_memory_is_held_at_the_working_set(boot: Boot) -> None:
    machine = boot("trixie", memory_bytes=2 * GIB)
    guest = machine.guest
    workload = Workload(guest, cold_bytes=COLD, warm_bytes=WARM, period_seconds=PERIOD_SECONDS)
    workload.start()
    before = list(looks(workload, QUIET_SECONDS))
    assert before[-1].residency.cold_share > 0.95  # nobody else takes it

    desktop.start_daemon(guest, CONFIG)
    taken = until_held(workload)
    workload.reset()
    held = list(looks(workload, HELD_SECONDS))
    slowest = workload.slowest_pass_seconds()
    lines = desktop.journal(guest)
    (status,) = desktop.shown(guest, "StatusText")
    guest.run(["systemctl", "stop", desktop.UNIT], timeout=120, check=True)
    after = list(looks(workload, QUIET_SECONDS))

    # one before and one after: what drifts is for neither
    quiet = (pace(before) + pace(after)) / 2
    most = max(found.over_working_set for found in held)
    print(
        f"held after {taken:.0f} s; at most {most:.3f} of the working set; "
        f"{pace(held):.3f} passes a second, {pace(before):.3f} and {pace(after):.3f} without; "
        f"slowest {slowest:.3f} s; {status}"
    )
    assert f"what is idle for {AGE_SECONDS // 60} min goes" in status, desktop.said(lines[-40:])
    assert most <= 1.1
    assert min(found.residency.warm_share for found in held) >= 0.97
    assert pace(held) >= 0.97 * quiet
    # a round is no news: the journal is not filled with them
    assert sum(line.text.startswith(("ready:", "reclaiming:")) for line in lines) <= 4
    verified = workload.verify()
    assert verified["ok"], verified
