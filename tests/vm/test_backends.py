# SPDX-License-Identifier: LGPL-2.1-or-later
"""Every back-end on every kernel of the lab: there exactly where the kernel has what it needs,
taken away whole when it is killed, and never two at once."""

from __future__ import annotations

import json
from collections.abc import Mapping

import pytest

from bench.lab import Workload
from tests.vm.conftest import GIB, MIB, Boot, Booted

KILLS = 4  # of each back-end
# What Debian builds (its cloud flavour), and what hangs on it.
BUILT = {
    "bookworm": {"LRU_GEN": True, "LRU_GEN_ENABLED": False, "DAMON_SYSFS": False, "ZSWAP": False,
                 "DAMON_STAT_ENABLED_DEFAULT": False, "IDLE_PAGE_TRACKING": False},
    "trixie": {"LRU_GEN": True, "LRU_GEN_ENABLED": True, "DAMON_SYSFS": True, "ZSWAP": False,
               "DAMON_STAT_ENABLED_DEFAULT": False, "IDLE_PAGE_TRACKING": False},
    "backports": {"LRU_GEN": True, "LRU_GEN_ENABLED": True, "DAMON_SYSFS": True, "ZSWAP": True,
                  "DAMON_STAT_ENABLED_DEFAULT": True, "IDLE_PAGE_TRACKING": False},
}  # fmt: skip
ALWAYS = {"writeback", "memcg", "dropcaches", "madvise", "lrugen"}
AVAILABLE = {
    "bookworm": ALWAYS,
    "trixie": ALWAYS | {"damon"},
    "backports": ALWAYS | {"damon", "node"},
}
# What each is asked for; long enough to be killed in the middle of.
LOCK = "/run/hibprep/lock"  # held by whoever is at work
RECLAIM = ("hibprep", "reclaim", "max")
ASKED = {
    "memcg": (*RECLAIM, "--type", "anon", "--backend", "memcg"),
    "node": (*RECLAIM, "--type", "anon", "--backend", "node"),
    "dropcaches": (*RECLAIM, "--type", "slab", "--backend", "dropcaches"),
    "lrugen": (*RECLAIM, "--type", "anon", "--colder-than", "5s", "--backend", "lrugen"),
    "damon": (*RECLAIM, "--type", "anon", "--colder-than", "5s", "--backend", "damon"),
    "madvise": (*RECLAIM, "--type", "anon", "--backend", "madvise"),
}
SETTINGS = (
    *("/proc/sys/vm/swappiness", "/proc/sys/vm/laptop_mode", "/sys/power/image_size"),
    *("/proc/sys/vm/min_unmapped_ratio", "/proc/sys/vm/min_slab_ratio"),
    *("/sys/kernel/mm/lru_gen/enabled", "/sys/module/damon_stat/parameters/enabled"),
    *("/sys/module/damon_reclaim/parameters/enabled", "/sys/module/zswap/parameters/enabled"),
    "/sys/kernel/mm/damon/admin/kdamonds/nr_kdamonds",
)

# Runs in the guest: asking from outside takes longer than what is to be hit.
_KILLER = """
import glob, json, os, random, signal, subprocess, sys, time

def cgroup():
    where = "/sys/fs/cgroup/system.slice/run.service/cgroup.procs"
    try:
        return open(where).read().split()
    except OSError:
        return []

chance = random.Random(sys.argv[1])
begin = time.monotonic()
subprocess.run(["hibprep", "backends"], check=True, capture_output=True)
# as long again as it takes to start, which differs with the machine
spread = 2 * (time.monotonic() - begin)
for number in range(int(sys.argv[2])):
    # the service manager is not to clean up: what is left over must end by itself
    subprocess.run(["systemd-run", "--quiet", "--unit=run", "--collect",
                    "-p", "KillMode=process", "--", *sys.argv[3:]], check=True)
    time.sleep(chance.uniform(0, spread))
    found = cgroup()
    at_work = len(found) > 1
    main = subprocess.run(["systemctl", "show", "-p", "MainPID", "--value", "run"],
                          capture_output=True, text=True).stdout.strip()
    if main not in ("", "0"):
        try:
            os.kill(int(main), signal.SIGKILL)
        except ProcessLookupError:
            pass
    deadline = time.monotonic() + 60
    while cgroup():
        if time.monotonic() > deadline:
            raise SystemExit(f"still there: {cgroup()}")
        time.sleep(0.1)
    subprocess.run(["systemctl", "reset-failed", "run"], capture_output=True)
    # the next one puts right what this one left
    subprocess.run(["hibprep", "plan", "--json"], check=True, capture_output=True)
    print(json.dumps({"number": number, "killed": bool(found), "at_work": at_work,
                      "left": sorted(name for pattern in ("knobs-*", "damon*")
                                     for name in glob.glob("/run/hibprep/" + pattern))}),
          flush=True)
"""


def settings(machine: Booted) -> Mapping[str, str]:
    """What a run may change, as it is now; without what this kernel has not."""
    found = machine.guest.run(["sh", "-c", 'grep -s . "$@"; true', "sh", *SETTINGS]).text
    return dict(line.split(":", 1) for line in found.splitlines())


def built(machine: Booted, option: str) -> bool:
    """What the kernel's own list says."""
    line = f"^CONFIG_{option}=[ym]$"
    return machine.guest.run(["sh", "-c", f'grep -qE "{line}" /boot/config-*']).returncode == 0


@pytest.mark.parametrize("suite", sorted(AVAILABLE))
def test_they_are_there_where_the_kernel_has_what_they_need(boot: Boot, suite: str) -> None:
    machine = boot(suite, memory_bytes=1 * GIB)
    assert {option: built(machine, option) for option in BUILT[suite]} == BUILT[suite]
    listed = {each["backend"]: each for each in machine.hibprep("backends")["backends"]}
    assert {name for name, each in listed.items() if each["available"]} == AVAILABLE[suite]
    assert all(each["reason"] for each in listed.values())
    switched_off = "switched-off" in listed["lrugen"]["features"]
    assert switched_off is not BUILT[suite]["LRU_GEN_ENABLED"]
    # as Debian builds it, it runs from the start
    stat = "damon-stat" in listed["damon"]["features"]
    assert stat is BUILT[suite]["DAMON_STAT_ENABLED_DEFAULT"]


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("suite", sorted(AVAILABLE))
def test_killed_at_any_moment_nothing_stays_switched_on(boot: Boot, suite: str) -> None:
    machine = boot(suite, memory_bytes=1 * GIB)
    guest = machine.guest
    workload = Workload(guest, cold_bytes=400 * MIB, warm_bytes=32 * MIB)
    workload.start()
    before = settings(machine)
    guest.put(_KILLER.encode(), "/tmp/killer.py")  # noqa: S108 - in the guest
    at_work = 0
    for name in sorted(AVAILABLE[suite] & set(ASKED)):
        words = [name, str(KILLS), *ASKED[name]]
        done = guest.run(["python3", "/tmp/killer.py", *words], timeout=900)  # noqa: S108
        print(suite, name, done.text, done.error_text)
        assert done.returncode == 0, done.error_text
        rows = [json.loads(line) for line in done.text.splitlines()]
        assert [row["left"] for row in rows] == [[]] * KILLS
        at_work += sum(row["at_work"] for row in rows)
        assert settings(machine) == before, name
    assert at_work >= KILLS  # or nothing was tried
    verified = workload.verify()
    assert verified["ok"], verified


@pytest.mark.parametrize("suite", sorted(AVAILABLE))
def test_of_two_at_once_one_is_refused(boot: Boot, suite: str) -> None:
    machine = boot(suite, memory_bytes=1 * GIB)
    guest = machine.guest
    workload = Workload(guest, cold_bytes=300 * MIB)
    workload.start()
    before = settings(machine)
    # it waits for longer than this takes until anything can be so old
    first = (*RECLAIM, "--type", "anon", "--colder-than", "2000s", "--backend")
    for name in sorted(AVAILABLE[suite] & {"lrugen", "damon"}):
        begin = ["systemd-run", "--quiet", "--unit=run", "--collect", "--"]
        guest.run([*begin, *first, name], check=True)
        there = f'i=0; until grep -q ":$(stat -c %i {LOCK} || echo none) " /proc/locks'
        there += "; do sleep 0.2; i=$((i + 1)); [ $i -lt 1500 ] || exit 1; done"
        guest.run(["sh", "-c", there], timeout=600, check=True)
        for other in sorted(AVAILABLE[suite] & set(ASKED)):
            refused = guest.run(ASKED[other], timeout=120)
            assert refused.returncode not in (0, 3), (name, other, refused)
            assert "another hibprep is at work" in refused.error_text, (name, other, refused)
        guest.run(["systemctl", "stop", "run"], timeout=120, check=True)
        assert settings(machine) == before, name
    assert workload.residency().cold_share > 0.95
