# SPDX-License-Identifier: LGPL-2.1-or-later
"""Hibernations that somebody else asks for: systemd's own path with our hook in it, with the daemon
and without it; and those that are refused or fail."""

from __future__ import annotations

from typing import Any

import pytest

from bench.lab import HibernationRefused, Workload
from tests.vm.conftest import GIB, MIB, Boot, Booted, Cycle
from tests.waiting import until

SLEEP = "/usr/lib/systemd/systemd-sleep"
IMAGE_SIZE = "/sys/power/image_size"
KNOBS = (IMAGE_SIZE, "/proc/sys/vm/swappiness", "/sys/kernel/mm/lru_gen/enabled")
CONFIG = """
[target]
kind = "min"
[sleep]
budget_seconds = 20
suspend_budget_seconds = 40
[daemon]
settle_seconds = 1
policy = "on-request"
"""
SECONDS = 300
UNITS = ("systemd-hibernate", "systemd-hybrid-sleep", "systemd-suspend-then-hibernate")


def knobs(machine: Booted) -> list[str]:
    return [machine.guest.read(path).strip() for path in KNOBS]


def reports(machine: Booted) -> list[dict[str, Any]]:
    """The sleeps in the history, oldest first."""
    found = machine.hibprep("history")["reports"]
    return [report for report in found if report["command"] == "sleep"]


def installed(machine: Booted) -> None:
    # 3: the lab's configuration is there already, and is kept
    done = machine.guest.run(["hibprep", "install"], timeout=SECONDS)
    assert done.returncode in (0, 3), done
    machine.guest.run(["systemctl", "daemon-reload"], timeout=SECONDS, check=True)


def over(machine: Booted) -> None:
    """The hooks run on for a while after the resume."""

    def ended() -> bool:
        state = machine.guest.run(["systemctl", "is-active", *UNITS], timeout=SECONDS)
        return set(state.text.split()) <= {"inactive", "failed"}

    until(ended, "the sleep is over", SECONDS)


def asleep(machine: Booted, number: int | None) -> Cycle:
    """One `systemctl hibernate`; everything is back, and its record is true; `number` of them are
    kept, where that is known."""
    before = knobs(machine)
    cycle = machine.cycle()
    over(machine)
    kept = reports(machine)
    journal = machine.guest.run(["journalctl", "-b", "-u", "systemd-hibernate", "-n", "20"]).text
    assert number is None or len(kept) == number, journal
    last = kept[-1]
    print(number, cycle, last["seconds"], last["freed"]["free_gain_bytes"], last["hibernation"])
    assert last["hibernation"]["slept"] is True, (last, journal)
    assert last["hibernation"]["leg"] == "hibernate"
    # nothing was left to the kernel to shrink
    held_pages = last["hibernation"]["image_size_held_bytes"] // 4096
    assert cycle.image_pages <= held_pages * 1.02
    assert knobs(machine) == before
    return cycle


@pytest.mark.timeout(2400)
@pytest.mark.parametrize(("suite", "cycles"), [("trixie", 10), ("bookworm", 3), ("backports", 3)])
def test_one_after_the_other(boot: Boot, suite: str, cycles: int) -> None:
    machine = boot(suite, memory_bytes=1 * GIB, config=CONFIG)
    installed(machine)
    workload = Workload(machine.guest, cold_bytes=450 * MIB, warm_bytes=32 * MIB)
    workload.start()
    machine.guest.run(["systemctl", "start", "hibprep"], timeout=SECONDS, check=True)
    first = asleep(machine, 1)
    assert first.facts.allocated_pages is None or first.image_pages < 450 * MIB // 4096
    for number in range(2, cycles + 1):
        asleep(machine, number)
    # and where no daemon runs the hook does the same alone
    machine.guest.run(["systemctl", "stop", "hibprep"], timeout=SECONDS, check=True)
    for number in (cycles + 1, cycles + 2):
        asleep(machine, number)
    verified = workload.verify()
    assert verified["ok"], verified


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("daemon", [True, False], ids=["daemon", "alone"])
def test_refused_and_failed(boot: Boot, *, daemon: bool) -> None:
    """With too little swap logind refuses before any hook; and past logind the kernel fails."""
    machine = boot("trixie", memory_bytes=1 * GIB, swap_bytes=96 * MIB, config=CONFIG)
    installed(machine)
    workload = Workload(machine.guest, cold_bytes=450 * MIB, compressible=0.0)
    workload.start()
    if daemon:
        machine.guest.run(["systemctl", "start", "hibprep"], timeout=SECONDS, check=True)
    before = knobs(machine)
    with pytest.raises(HibernationRefused):
        machine.guest.hibernate(timeout=SECONDS)
    assert reports(machine) == []
    with pytest.raises(HibernationRefused):
        machine.guest.hibernate([SLEEP, "hibernate"], timeout=SECONDS)
    over(machine)
    (failed,) = reports(machine)
    print(failed["reason"], failed["hibernation"])
    assert failed["hibernation"]["slept"] is False
    assert failed["ending"] == "failed"
    assert knobs(machine) == before
    assert workload.verify()["ok"]


@pytest.mark.timeout(1200)
def test_the_legs_of_suspend_then_hibernate(boot: Boot) -> None:
    """The emulator's clock does not wake a guest out of its suspend, so that the hook is called for
    the first leg as systemd-sleep calls it, and the second leg is a real hibernation."""
    machine = boot("trixie", memory_bytes=1 * GIB, config=CONFIG)
    installed(machine)
    workload = Workload(machine.guest, cold_bytes=450 * MIB, warm_bytes=32 * MIB)
    workload.start()
    before = knobs(machine)
    hook = "/usr/lib/systemd/system-sleep/hibprep"
    environment = {"SYSTEMD_SLEEP_ACTION": "suspend"}
    for moment in ("pre", "post"):
        machine.guest.run(
            [hook, moment, "suspend-then-hibernate"], env=environment, timeout=SECONDS, check=True
        )
    (suspended,) = reports(machine)
    print(suspended["steps"], suspended["hibernation"])
    assert suspended["hibernation"]["leg"] == "suspend"
    assert suspended["freed"]["anon_bytes"] > 200 * MIB
    assert workload.residency().warm_share > 0.95
    assert knobs(machine) == before
    asleep(machine, 2)
    assert workload.verify()["ok"]


@pytest.mark.timeout(900)
def test_the_unit_that_may_refuse(boot: Boot) -> None:
    machine = boot("trixie", memory_bytes=1 * GIB, swap_bytes=2 * GIB, config=CONFIG)
    installed(machine)
    guest = machine.guest
    guest.run(["systemctl", "enable", "hibprep-presleep"], timeout=SECONDS, check=True)
    workload = Workload(guest, cold_bytes=450 * MIB)
    workload.start()
    machine.cycle()
    over(machine)
    prepared = [each["command"] for each in machine.hibprep("history")["reports"]]
    assert prepared == ["prepare", "sleep"]
    active = guest.run(["systemctl", "is-active", "hibprep-presleep"], timeout=SECONDS)
    assert active.text.strip() != "active"  # it has to run anew before the next sleep
    assert workload.verify()["ok"]
