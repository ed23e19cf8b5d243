# SPDX-License-Identifier: LGPL-2.1-or-later
"""`hibprep cold` says of memory that was touched at a known moment how long ago that was."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from typing import Any

import pytest

from bench.lab import Workload
from tests.vm.conftest import GIB, MIB, Boot, Booted
from tests.waiting import until

LRU_GEN = "/sys/kernel/mm/lru_gen/enabled"
GENERATIONS = "/sys/kernel/debug/lru_gen"
YOUNGEST = '$1 == "memcg" { own = $3 == path } own && NF == 4 { last = $1 } END { print last + 0 }'
ANSWER = "/run/cold.json"
SLICE = "user.slice"
PROGRAM_BYTES = 16 * MIB  # the interpreter, and what pages are made from: idle, and rightly so
ALWAYS_SECONDS = 5.0  # a period, and what an emulated guest may be late by


@dataclass
class Touched:
    """Memory in a cgroup of its own, and between which moments, seen from here, it was touched
    last."""

    workload: Workload
    size_bytes: int
    first: float = 0.0
    last: float = 0.0

    @property
    def path(self) -> str:
        return f"/{SLICE}/{self.workload.unit}"

    def start(self) -> None:
        self.workload.start()
        self.last = time.monotonic()

    def touch(self) -> None:
        self.first = time.monotonic()
        self.workload.touch()
        self.last = time.monotonic()


def region(machine: Booted, name: str, size_bytes: int, period_seconds: float) -> Touched:
    workload = Workload(
        machine.guest, warm_bytes=size_bytes, period_seconds=period_seconds,
        slice_name=SLICE, name=name,
    )  # fmt: skip
    return Touched(workload, size_bytes)


def youngest(machine: Booted, path: str) -> int:
    """The number of the youngest generation of that cgroup."""
    found = machine.guest.run(["awk", "-v", f"path={path}", YOUNGEST, GENERATIONS], check=True)
    return int(found.text)


def first_aging(machine: Booted, path: str, before: int) -> None:
    """Wait for it in the guest: asking from here again and again would keep an emulated CPU from
    the very thing that is waited for."""
    begun = 'i=0; until [ "$(awk -v path="$1" "$2" "$3")" -gt "$4" ]; do sleep 0.2; '
    begun += "i=$((i + 1)); [ $i -lt 600 ] || exit 1; done"
    machine.guest.run(
        ["sh", "-c", begun, "sh", path, YOUNGEST, GENERATIONS, str(before)], timeout=180, check=True
    )


def begin(machine: Booted, seconds: float) -> None:
    """`hibprep cold --age` beside what the test does."""
    machine.guest.run(["rm", "-f", ANSWER], check=True)
    machine.guest.run(
        [
            *("systemd-run", "--quiet", "--unit=cold", "--collect"),
            *("-p", f"StandardOutput=file:{ANSWER}"),
            *("hibprep", "cold", "--age", str(seconds), "--json"),
        ],
        check=True,
    )


def finish(machine: Booted, seconds: float) -> Any:  # noqa: ANN401 - whatever the JSON is
    """What it printed."""

    there = f"i=0; until grep -qs '^}}' {ANSWER}; do sleep 0.5; i=$((i + 1)); "
    there += f"[ $i -lt {2 * seconds:.0f} ] || exit 1; done"
    machine.guest.run(["sh", "-c", there], timeout=2 * seconds, check=True)
    return json.loads(machine.guest.read(ANSWER))


def share(
    report: Any,  # noqa: ANN401
    touched: Touched,
    *,
    at_least: float,
    at_most: float,
) -> float:
    """The part of the region that is in rows that lie within `at_least` and cover `at_most`."""
    rows = next(each for each in report["cgroups"] if each["path"] == touched.path)["rows"]
    print(touched.path, rows)
    found = sum(
        row["anon_bytes"]
        for row in rows
        if row["at_least_seconds"] >= at_least
        and (row["at_most_seconds"] is None or row["at_most_seconds"] >= at_most)
        # a row that begins later than the region was touched does not cover it
        and row["at_least_seconds"] <= at_most
    )
    return float(found / touched.size_bytes)


def check_ages(machine: Booted, seconds: float) -> None:
    """Three regions, of which one is left alone from before `seconds` on, one is touched between
    the first aging and the second, one all the time: each is found in the row that covers it."""
    old = region(machine, "old", 300 * MIB, 3600.0)
    middle = region(machine, "middle", 200 * MIB, 3600.0)
    always = region(machine, "always", 100 * MIB, 1.0)
    for each in (old, middle, always):
        each.start()

    before = youngest(machine, middle.path)
    begin(machine, seconds)
    first_aging(machine, middle.path, before)
    middle.touch()
    assert youngest(machine, middle.path) == before + 1, "it was touched too late"
    report = finish(machine, seconds + 180)
    now = time.monotonic()

    print("aged", report["agings"], report["round_seconds"], report["notes"])
    assert report["agings"] == 3
    assert share(report, old, at_least=seconds, at_most=now - old.last) >= 0.95
    half = seconds / 2
    assert share(report, middle, at_least=half, at_most=seconds) >= 0.95
    idle = now - middle.last
    assert half <= now - middle.first
    assert share(report, middle, at_least=half, at_most=min(idle, seconds)) >= 0.95
    rows = next(each for each in report["cgroups"] if each["path"] == always.path)["rows"]
    young = sum(row["anon_bytes"] for row in rows if row["at_least_seconds"] <= ALWAYS_SECONDS)
    assert young >= 0.95 * always.size_bytes
    # no more of it is called cold than what is
    listed = machine.hibprep("cold", "--cgroup", f"/{SLICE}", "--older-than", str(seconds))
    assert {each["path"] for each in listed["cgroups"]} >= {old.path, middle.path, always.path}
    assert all(each["path"].startswith(f"/{SLICE}") for each in listed["cgroups"])
    colder = {each["path"]: each["evictable_anon_bytes"] for each in listed["colder"]}
    assert colder[old.path] >= 0.95 * old.size_bytes
    assert colder.get(always.path, 0) <= 0.05 * always.size_bytes + PROGRAM_BYTES


@pytest.mark.parametrize("suite", ["backports", "trixie"])
def test_regions_are_in_the_rows_that_cover_them(boot: Boot, suite: str) -> None:
    check_ages(boot(suite), 60.0)


@pytest.mark.timeout(1800)
def test_regions_that_are_idle_for_minutes(boot: Boot) -> None:
    check_ages(boot("trixie"), 300.0)


def test_where_it_is_switched_off_it_is_switched_on_meanwhile(boot: Boot) -> None:
    machine = boot("bookworm", memory_bytes=2 * GIB)
    before = machine.guest.read(LRU_GEN)
    assert int(before, 16) == 0
    refused = machine.guest.run(["hibprep", "cold", "--json"], timeout=120)
    assert refused.returncode == 4
    assert "switched off" in refused.error_text

    check_ages_where_off(machine)
    assert machine.guest.read(LRU_GEN) == before

    begin(machine, 600.0)
    until(lambda: machine.guest.read(LRU_GEN) != before, "it is switched on", 120)
    machine.guest.run(["systemctl", "kill", "--signal=KILL", "cold"], check=True)
    assert machine.guest.read(LRU_GEN) != before
    machine.hibprep("plan")
    assert machine.guest.read(LRU_GEN) == before


def check_ages_where_off(machine: Booted) -> None:
    """Nothing is known from before it was switched on, however long it was left alone."""
    old = region(machine, "old", 300 * MIB, 3600.0)
    always = region(machine, "always", 100 * MIB, 1.0)
    for each in (old, always):
        each.start()
    report = machine.hibprep("cold", "--age", "30", timeout=300)
    print("aged", report["agings"], report["round_seconds"], report["notes"])
    assert share(report, old, at_least=30.0, at_most=60.0) >= 0.95
    longest = max(row["at_least_seconds"] for each in report["cgroups"] for row in each["rows"])
    assert longest < 60.0
    rows = next(each for each in report["cgroups"] if each["path"] == always.path)["rows"]
    young = sum(row["anon_bytes"] for row in rows if row["at_least_seconds"] <= ALWAYS_SECONDS)
    assert young >= 0.95 * always.size_bytes
