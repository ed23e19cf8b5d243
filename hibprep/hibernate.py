# SPDX-License-Identifier: LGPL-2.1-or-later
"""Prepare, hold image_size at what is left, hibernate, put back, report.

Holding image_size just above what is saveable matters as much as the preparation: with a smaller
one the kernel allocates and clears most of memory to force a shrinking that has already happened
(`hibernate_preallocate_memory()`).
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace

from hibprep import fitting, predict, rates
from hibprep import plan as planning
from hibprep.errors import HibprepError, NotPossibleError
from hibprep.kernel.kmsg import read_hibernation_log
from hibprep.kernel.knobs import KnobJournal
from hibprep.kernel.lock import RunLock
from hibprep.kernel.snapshot import read_snapshot
from hibprep.model import Ending, Limits, Report, Snapshot, Target
from hibprep.prepare import Machine, Tell, keep, make_plan, run_plan
from hibprep.reclaim.base import Stop
from hibprep.reclaim.worker import ProcessWorker

IMAGE_SIZE = "/sys/power/image_size"
STATE = "/sys/power/state"
_SLEPT_SECONDS = 0.5  # CLOCK_BOOTTIME gains what CLOCK_MONOTONIC does not count


@dataclass(frozen=True, slots=True)
class Hold:
    """The image_size to hold; 0 leaves it as it is, for the reason given."""

    value_bytes: int
    reason: str


def hold_image_size(snapshot: Snapshot, limits: Limits) -> Hold:
    """Just above what is saveable, unless what is left of the resume device cannot take that."""
    page = snapshot.page_size
    saveable = predict.saveable_pages(snapshot) * page
    wanted = saveable + planning.headroom_bytes(snapshot)
    area = fitting.resume_area(snapshot)
    room = area.free_bytes if area else 0
    if predict.max_image_pages(snapshot) * page < saveable:
        return Hold(0, "more is left than the largest possible image; the kernel has to shrink it")
    if fitting.image_needs_bytes(saveable, limits.swap_reserve_ratio) > room:
        return Hold(0, "the resume device has no room for more; the kernel's own size is kept")
    return Hold(wanted, "just above what is saveable, so that the kernel has nothing to shrink")


def hibernate(
    machine: Machine,
    target: Target,
    limits: Limits,
    *,
    direct: bool,
    stop: Stop,
    timeout_seconds: float | None = None,
    progress: Tell = None,
    announce: Callable[[str], None] | None = None,
) -> Report:
    """Prepare for `target`, hibernate, and report after the resume.

    `direct` writes to /sys/power/state in the place of asking logind. `announce` is called with
    one line when the preparation is over and the sleep is asked for. Raises NotPossibleError when
    hibernation is refused before it begins; a preparation that was interrupted does not hibernate.
    """
    power = read_snapshot(machine.root, machine.tree).power
    if not power.available:
        why = "; ".join(power.disabled_by) or "this kernel does not offer it"
        raise NotPossibleError(f"hibernation is not possible here: {why}", "see hibprep check")
    plan = make_plan(machine, target, limits, measure=True)
    report = run_plan(
        machine, [plan], limits, stop, timeout_seconds=timeout_seconds, progress=progress,
        command="hibernate",
    )  # fmt: skip
    if report.ending is Ending.INTERRUPTED:
        return keep(machine, report)
    words: list[str] = []
    if not direct:
        # Only here: who never asks logind (hooks, --direct) need not load the D-Bus library. And
        # before memory is looked at, so that the image_size to be held counts it in.
        from hibprep.bus import login1  # noqa: F401, PLC0415
    # This process does not end before the image is written: none of its memory comes free.
    snapshot = replace(read_snapshot(machine.root, machine.tree), own_bytes=0)
    hold = hold_image_size(snapshot, limits)
    if stop.requested() and not stop.timed_out:
        # Asked to stop after the last chunk: nobody who pressed Ctrl-C wants the machine off now.
        return keep(machine, replace(report, ending=Ending.INTERRUPTED, reason=stop.reason))
    with RunLock(machine.root):
        journal = KnobJournal(machine.root)
        try:
            if hold.value_bytes:
                journal.set(IMAGE_SIZE, str(hold.value_bytes), hold.reason)
            if announce is not None:
                announce(f"hibernating; image_size: {hold.reason}")
            facts = _sleep(machine, direct=direct)
        except HibprepError as error:
            keep(machine, replace(report, ending=Ending.FAILED, reason=str(error)))
            raise
        finally:
            words += journal.restore_all()
    facts["image_size_held_bytes"] = hold.value_bytes or power.image_size_bytes
    facts["image_size_reason"] = hold.reason
    predicted = predict.predict(
        snapshot, plan.rates, image_size_bytes=hold.value_bytes or power.image_size_bytes
    )
    facts["predicted_hibernate_seconds"] = round(predicted.hibernate_seconds, 2)
    report = replace(
        report,
        after=predicted,
        knobs=(*report.knobs, *words),
        hibernation=facts,
    )
    if facts["slept"]:
        report = _learn(machine, report, predicted.shrink_bytes)
    else:
        report = replace(report, ending=Ending.FAILED, reason=str(facts["reason"]))
    return keep(machine, report)


def _learn(machine: Machine, report: Report, shrink_bytes: int) -> Report:
    """Keep what the kernel's log tells of this machine's speed, for the next prediction."""
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


def _sleep(machine: Machine, *, direct: bool) -> dict[str, object]:
    """Hibernate and come back: whether the machine slept, and if not, why."""
    clock = machine.clock
    off_before = clock.boottime() - clock.monotonic()
    reason = ""
    if direct:
        reason = _write_state(machine)
    else:
        # Only here: who never asks logind (hooks, --direct) need not load the D-Bus library.
        from hibprep.bus.login1 import hibernate as ask_logind  # noqa: PLC0415

        ask_logind(os.environ.get("DBUS_SYSTEM_BUS_ADDRESS"))
    asleep = clock.boottime() - clock.monotonic() - off_before
    slept = asleep > _SLEPT_SECONDS
    if not slept and not reason:
        reason = "the kernel refused or broke it off; see journalctl -k -u systemd-hibernate"
    return {
        "how": "direct" if direct else "logind",
        "slept": slept,
        "asleep_seconds": round(asleep, 1),
        "reason": "" if slept else reason,
    }


def _write_state(machine: Machine) -> str:
    """Write "disk" in a child process, which blocks until the resume; why not, when it fails."""
    stop = Stop(machine.clock)  # nothing stops a hibernation that has begun
    worker = ProcessWorker(str(machine.root.prefix), machine.clock)
    try:
        result = worker.write(STATE, "disk", stop)
    finally:
        worker.close()
        stop.close()
    return f"{STATE}: {os.strerror(result.errno)}" if result.errno else ""
