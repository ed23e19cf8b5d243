# SPDX-License-Identifier: LGPL-2.1-or-later
"""What is promised by a deadline, and what then happens, timed from outside."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import pytest

from bench.lab import Workload
from tests.vm.conftest import GIB, MIB, Boot, Booted
from tests.vm.test_cold_first import calibrate

MARGIN = 1.15
ROOMY = 1500 * MIB  # an image_size with which the kernel has nothing to shrink
FULL = 1250 * MIB


@dataclass(frozen=True)
class Point:
    """What fills the guest, and how much time there is once hibprep is there to settle what to do
    with it: a part of what a hibernation needs."""

    name: str
    anon_mib: int
    cache_mib: int
    factor: float
    roomy: bool = True
    expected: str = ""  # "as it is", "prepared" or "not"


POINTS = (
    Point("quiet", 200, 0, 2.5, expected="as it is"),
    Point("cached", 100, 550, 1.6, expected="as it is"),
    Point("cached", 100, 550, 0.85, expected="prepared"),
    Point("cached", 60, 700, 0.8, expected="prepared"),
    Point("cached", 80, 620, 0.9, expected="prepared"),
    Point("cached", 100, 550, 0.3, expected="not"),
    Point("full", 1250, 0, 1.6, roomy=False, expected="as it is"),
    Point("full", 1250, 0, 0.35, roomy=False, expected="not"),
)


@dataclass(frozen=True)
class Lived:
    """What came of a point. `before_seconds`: until it was settled what to do."""

    point: Point
    seconds: float
    verdict: Any
    before_seconds: float
    prepared_seconds: float
    hibernate_seconds: float
    saveable: str  # expected and found, after preparing

    @property
    def total_seconds(self) -> float:
        return self.prepared_seconds + self.hibernate_seconds

    @property
    def did(self) -> str:
        if not self.verdict["fits"]:
            return "not"
        return "as it is" if self.verdict["target"] is None else "prepared"

    def __str__(self) -> str:
        return (
            f"{self.point.name} {self.point.factor}: {self.seconds:.1f} s: "
            f"{self.verdict['words']}; promised {self.verdict['total_seconds']:.1f} s after "
            f"{self.before_seconds:.1f} s, took {self.total_seconds:.1f} s "
            f"({self.prepared_seconds:.1f} s and {self.hibernate_seconds:.1f} s); {self.saveable}"
        )


def learn(machine: Booted, usual_image_size: int) -> None:
    """What is told from two hibernations is the speed of the image. The speed of the kernel's own
    shrinking takes one more; that of preparing hibprep finds out by itself."""
    workload = Workload(machine.guest, cold_bytes=FULL, name="shrink")
    workload.start()
    before = machine.hibprep("plan")
    parts = before["before"]["parts_seconds"]
    cycle = machine.cycle()
    shrinking = cycle.hibernate_seconds - (sum(parts.values()) - parts["shrink"])
    assert before["before"]["shrink_bytes"] > 100 * MIB
    speed = before["before"]["shrink_bytes"] / max(0.5, shrinking)
    workload.stop()
    print(f"shrinking {speed / 1e6:.0f} MB/s, as of {cycle}")
    config = machine.guest.read("/etc/hibprep/hibprep.toml")
    machine.guest.put(
        f"{config}shrink_bytes_per_second = {speed:.0f}.0\n".encode(),
        "/etc/hibprep/hibprep.toml",
        0o644,
    )
    workload = Workload(machine.guest, cold_bytes=FULL // 2, read_bytes=400 * MIB, name="teach")
    workload.start()
    machine.hibprep("prepare", "--target", "300M", codes=(0, 3))
    workload.stop()
    print(machine.guest.read("/var/lib/hibprep/rates.json"))
    machine.setting("/sys/power/image_size", str(usual_image_size))


def lived(machine: Booted, point: Point, usual_image_size: int, start_seconds: float) -> Lived:
    size = ROOMY if point.roomy else usual_image_size
    machine.setting("/sys/power/image_size", str(size))
    workload = Workload(
        machine.guest,
        cold_bytes=point.anon_mib * MIB,
        read_bytes=point.cache_mib * MIB,
        warm_bytes=16 * MIB,
        name="point",
    )
    workload.start()
    before = machine.hibprep("plan")["before"]
    seconds = round(start_seconds + before["hibernate_seconds"] * point.factor, 1)
    begin = time.monotonic()
    found = machine.hibprep("prepare", "--deadline", str(seconds), codes=(0, 3))
    prepared = time.monotonic() - begin
    cycle = machine.cycle()
    verified = workload.verify()
    assert verified["ok"], verified
    workload.stop()
    verdict = found["verdict"]
    left_bytes = before["saveable_bytes"] - verdict["prepare_bytes"]
    after = found["after"]["saveable_bytes"] >> 20 if "after" in found else "the same"
    return Lived(
        point=point,
        seconds=seconds,
        verdict=verdict,
        before_seconds=seconds - verdict["left_seconds"],
        prepared_seconds=prepared,
        hibernate_seconds=cycle.hibernate_seconds,
        saveable=f"{left_bytes >> 20} MiB saveable expected, {after} found, {cycle.facts}",
    )


@pytest.mark.timeout(2400)
def test_what_is_promised_by_a_deadline_happens(boot: Boot) -> None:
    machine = boot("trixie", memory_bytes=2 * GIB)
    first = Workload(machine.guest, cold_bytes=FULL, name="before")
    first.start()  # to touch an emulated guest's memory for the first time costs its host time
    first.stop()
    usual = int(machine.guest.read("/sys/power/image_size"))
    calibrate(machine, machine.cycle())
    learn(machine, usual)
    wrong = []
    start_seconds = 4.0  # an emulated processor reads a program for so long before it does anything
    for point in POINTS:
        came = lived(machine, point, usual, start_seconds)
        start_seconds = came.before_seconds
        print(came)
        if came.did != point.expected:
            wrong.append(f"expected {point.expected}: {came}")
        took = came.total_seconds - came.before_seconds
        # what cannot be met is no promise: how long it takes nevertheless is its best guess
        if came.verdict["fits"] and took > MARGIN * came.verdict["total_seconds"]:
            wrong.append(f"more than promised: {came}")
        if came.verdict["fits"] is not (came.total_seconds <= came.seconds):
            wrong.append(f"not as said: {came}")
    assert not wrong, "\n".join(wrong)
