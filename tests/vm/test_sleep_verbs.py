# SPDX-License-Identifier: LGPL-2.1-or-later
"""hybrid-sleep and suspend-then-hibernate, whole, in a guest whose suspend the emulator takes part
in: it stands still until it is woken from outside, as by its clock or a key."""

from __future__ import annotations

import time

import pytest

from bench.lab import Workload
from tests.vm.conftest import GIB, MIB, Boot, Booted
from tests.vm.test_sleep import CONFIG, SECONDS, installed, knobs, over, reports
from tests.waiting import until

DELAY_SECONDS = 20
MOMENT_SECONDS = 3


def suspended(machine: Booted) -> bool:
    return bool(machine.guest.monitor("query-status")["status"] == "suspended")


def ready(boot: Boot) -> tuple[Booted, Workload]:
    machine = boot("trixie", memory_bytes=1 * GIB, config=CONFIG)
    installed(machine)
    workload = Workload(machine.guest, cold_bytes=450 * MIB)
    workload.start()
    machine.guest.run(["systemctl", "start", "hibprep"], timeout=SECONDS, check=True)
    return machine, workload


@pytest.mark.timeout(900)
def test_hybrid_sleep(boot: Boot) -> None:
    machine, workload = ready(boot)
    before = knobs(machine)
    machine.guest.run(["systemctl", "hybrid-sleep"], timeout=SECONDS, check=True)
    until(lambda: suspended(machine), "the guest is suspended", SECONDS)
    time.sleep(MOMENT_SECONDS)  # asleep: less than that counts as refused
    machine.guest.monitor("system_wakeup")
    over(machine)
    (report,) = reports(machine)
    print(report["hibernation"], report["freed"]["free_gain_bytes"])
    assert report["hibernation"]["leg"] == "hibernate"
    assert report["hibernation"]["slept"] is True
    assert knobs(machine) == before
    assert workload.verify()["ok"]


@pytest.mark.timeout(900)
def test_suspend_then_hibernate(boot: Boot) -> None:
    machine, workload = ready(boot)
    before = knobs(machine)
    guest = machine.guest
    guest.run(["mkdir", "-p", "/etc/systemd/sleep.conf.d"], check=True)
    guest.put(
        f"[Sleep]\nHibernateDelaySec={DELAY_SECONDS}\n".encode(),
        "/etc/systemd/sleep.conf.d/lab.conf",
    )
    guest.run(["systemctl", "suspend-then-hibernate"], timeout=SECONDS, check=True)
    until(lambda: suspended(machine) or not guest.running, "the guest is suspended", SECONDS)
    if guest.running:
        # not to wait for something: it is the guest that stands still for so long
        time.sleep(DELAY_SECONDS)
        guest.monitor("system_wakeup")
    guest.wait_off(SECONDS)
    guest.resume()
    over(machine)
    suspend, hibernate = reports(machine)
    print(suspend["hibernation"], hibernate["hibernation"])
    assert [suspend["hibernation"]["leg"], hibernate["hibernation"]["leg"]] == [
        "suspend",
        "hibernate",
    ]
    assert hibernate["hibernation"]["slept"] is True
    assert knobs(machine) == before
    assert workload.verify()["ok"]
