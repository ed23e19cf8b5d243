# SPDX-License-Identifier: LGPL-2.1-or-later
"""What each condition does before the request to hibernate, and what the request is."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING

from bench.experiment import daemon
from bench.experiment.sample import ASKED, EMPTIED, Condition
from bench.lab import LabError

if TYPE_CHECKING:
    from bench.lab import Guest

PREPARE_SECONDS = 900.0
SYSTEMCTL = ("systemctl", "hibernate")
# What `hibprep hibernate` says when it has prepared and asks for the sleep.
ASKING = "hibprep: hibernating"

_DAMON = "/sys/module/damon_reclaim/parameters"
# The example of Documentation/admin-guide/mm/damon/reclaim.rst, "enabled" last.
_DAMON_EXAMPLE: Mapping[str, str] = MappingProxyType(
    {
        "min_age": "30000000",
        "quota_sz": str(1 << 30),
        "quota_reset_interval_ms": "1000",
        "wmarks_high": "500",
        "wmarks_mid": "400",
        "wmarks_low": "200",
        "enabled": "Y",
    }
)

# One write of a size, as a person at a shell would do it. That it ends with EAGAIN is usual, says
# Documentation/admin-guide/cgroup-v2.rst: less than that could be reclaimed.
_ONE_WRITE = """
import os, sys
handle = os.open("/sys/fs/cgroup/memory.reclaim", os.O_WRONLY)
try:
    os.write(handle, sys.argv[1].encode())
except BlockingIOError:
    pass
"""


@dataclass(frozen=True, slots=True)
class Prepared:
    """What a preparation took (seconds from outside) and gained (free memory, bytes)."""

    seconds: float = 0.0
    freed_bytes: int = 0


def set_file(guest: Guest, path: str, value: str) -> None:
    """Write a file of the guest's kernel."""
    done = guest.run(["sh", "-c", 'printf %s "$2" > "$1"', "sh", path, value])
    if done.returncode != 0:
        raise LabError(f"{path} does not take {value}: {done.error_text.strip()}")


def before_settling(guest: Guest, condition: Condition) -> None:
    """What has to be started before the guest is left alone."""
    if condition is Condition.HIBPREPD:
        daemon.start(guest)
    if condition is not Condition.DAMON_RECLAIM:
        return
    if guest.run(["test", "-e", f"{_DAMON}/enabled"]).returncode != 0:
        raise LabError("this kernel has no DAMON_RECLAIM (since 5.16, and where it is built)")
    for name, value in _DAMON_EXAMPLE.items():
        set_file(guest, f"{_DAMON}/{name}", value)


def prepare(
    guest: Guest, condition: Condition, memory_bytes: int, filled_free_bytes: int
) -> Prepared:
    """Prepare as the condition has it. hibprep's is in its own request, DAMON's has been.

    Its daemon has begun by itself: what is left of it is waited for. What it gained is told from
    ``filled_free_bytes``, those that were free before the guest was left alone.
    """
    if condition is Condition.HIBPREPD:
        started = time.monotonic()
        daemon.wait_ready(guest, PREPARE_SECONDS)
        seconds = time.monotonic() - started
        return Prepared(seconds, free_bytes(guest) - filled_free_bytes)
    if condition is Condition.DROPCACHES:
        argv = ["sh", "-c", "sync; echo 3 > /proc/sys/vm/drop_caches"]
    elif condition is Condition.ONELINER:
        argv = ["/usr/bin/python3", "-I", "-S", "-c", _ONE_WRITE, str(memory_bytes)]
    elif condition in EMPTIED:
        argv = ["hibprep", "prepare", "--target", "min"]
    else:
        return Prepared()
    before = free_bytes(guest)
    started = time.monotonic()
    guest.run(argv, timeout=PREPARE_SECONDS, check=True)
    seconds = time.monotonic() - started
    return Prepared(seconds, free_bytes(guest) - before)


def request(condition: Condition, budget_seconds: float | None) -> tuple[str, ...]:
    """The command that is to hibernate the guest.

    hibprep prepares for as small an image as can be, or for one that fits in the budget.
    """
    if condition not in ASKED:
        return SYSTEMCTL
    goal = ("--target", "min") if budget_seconds is None else ("--within", f"{budget_seconds:.2f}")
    return ("hibprep", "hibernate", *goal, "--json")


def free_bytes(guest: Guest) -> int:
    """The guest's free memory."""
    for line in guest.read("/proc/meminfo").splitlines():
        name, _, value = line.partition(":")
        if name == "MemFree":
            return int(value.split()[0]) * 1024
    raise LabError("the guest's /proc/meminfo tells no MemFree")


def swap_used_bytes(guest: Guest) -> int:
    """What is used of all the guest's swap."""
    rows = guest.read("/proc/swaps").splitlines()[1:]
    return sum(int(row.split()[3]) for row in rows) * 1024
