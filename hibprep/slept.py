# SPDX-License-Identifier: LGPL-2.1-or-later
"""After a sleep: whether there was one, and what the kernel's log tells of it."""

from __future__ import annotations

from dataclasses import replace

from hibprep import rates
from hibprep.clock import Clock
from hibprep.kernel.kmsg import read_hibernation_log
from hibprep.machine import Machine
from hibprep.model import Report

_SLEPT_SECONDS = 0.5  # CLOCK_BOOTTIME gains what CLOCK_MONOTONIC does not count
REFUSED = "the kernel refused or broke it off; see journalctl -k -u systemd-hibernate"


def offset_seconds(clock: Clock) -> float:
    """CLOCK_BOOTTIME − CLOCK_MONOTONIC: what the machine has slept since it was started."""
    return clock.boottime() - clock.monotonic()


def was_asleep(seconds: float) -> bool:
    """Whether `offset_seconds` grew by more than a refusal takes."""
    return seconds > _SLEPT_SECONDS


def learn(machine: Machine, report: Report, shrink_bytes: int) -> Report:
    """Keep what the kernel's log tells of this machine's speed, for the next prediction.

    `shrink_bytes`: what the kernel was expected to shrink; only where that was nothing is the time
    of its allocation that of the copy.
    """
    log = read_hibernation_log(machine.root)
    if log is None:
        return report
    facts = {
        **report.hibernation,
        "allocated_bytes": log.allocated_bytes,
        "allocate_seconds": log.allocate_seconds,
        "until_copy_seconds": round(log.until_copy_seconds, 2),
    }
    if shrink_bytes == 0 and log.allocate_seconds > 0 and log.allocated_bytes > 0:
        speed = log.allocated_bytes / log.allocate_seconds
        known = rates.load(machine.root)
        known["copy_bytes_per_second"] = (speed, machine.clock.now().strftime("%Y-%m-%d"))
        note = rates.save(machine.root, known)
        if note:
            report = replace(report, notes=(*report.notes, note))
    return replace(report, hibernation=facts)
