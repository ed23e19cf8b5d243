# SPDX-License-Identifier: LGPL-2.1-or-later
"""Prepare, hold image_size at what is left (`hibprep.imagesize`), hibernate, put back, report."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

from hibprep import predict
from hibprep.errors import HibprepError, NotPossibleError
from hibprep.imagesize import IMAGE_SIZE, hold_image_size
from hibprep.kernel.areasaway import AreasAway
from hibprep.kernel.knobs import KnobJournal
from hibprep.kernel.lock import RunLock
from hibprep.kernel.snapshot import read_snapshot
from hibprep.machine import Machine
from hibprep.model import Ending, Limits, Report, Target, ZramUse
from hibprep.prepare import Tell, keep, make_plan, run_plan
from hibprep.reclaim.base import Stop
from hibprep.reclaim.worker import ProcessWorker
from hibprep.slept import REFUSED, learn, offset_seconds, was_asleep
from hibprep.zramrun import WayOut

STATE = "/sys/power/state"


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

    Swap on zram is switched off around all of this where `limits` ask for it (`hibprep.zramrun`).

    `direct` writes to /sys/power/state in the place of asking logind. `announce` is called with
    one line when the preparation is over and the sleep is asked for. Raises NotPossibleError when
    hibernation is refused before it begins; a preparation that was interrupted does not hibernate.
    """
    power = read_snapshot(machine.root, machine.tree).power
    if not power.available:
        why = "; ".join(power.disabled_by) or "this kernel does not offer it"
        raise NotPossibleError(f"hibernation is not possible here: {why}", "see hibprep check")
    if timeout_seconds:
        stop.within(timeout_seconds)
    told: list[str] = []
    with _zram_away(machine, limits, stop, told):
        report = _hibernate(
            machine,
            target,
            limits,
            direct=direct,
            stop=stop,
            timeout_seconds=timeout_seconds,
            progress=progress,
            announce=announce,
        )
    return replace(report, notes=(*report.notes, *told))


@contextmanager
def _zram_away(machine: Machine, limits: Limits, stop: Stop, told: list[str]) -> Iterator[None]:
    if limits.zram is not ZramUse.OUT:
        yield
        return
    worker = ProcessWorker(str(machine.root.prefix), machine.clock)
    try:
        way_out = WayOut(
            machine.root,
            worker,
            AreasAway(machine.root),
            look=lambda: read_snapshot(machine.root, machine.tree),
        )
        with way_out.away(limits, stop, told.append):
            worker.close()
            yield
    finally:
        worker.close()


def _hibernate(
    machine: Machine,
    target: Target,
    limits: Limits,
    *,
    direct: bool,
    stop: Stop,
    timeout_seconds: float | None,
    progress: Tell,
    announce: Callable[[str], None] | None,
) -> Report:
    power = read_snapshot(machine.root, machine.tree).power
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
        report = learn(machine, report, predicted.shrink_bytes)
    else:
        report = replace(report, ending=Ending.FAILED, reason=str(facts["reason"]))
    return keep(machine, report)


def _sleep(machine: Machine, *, direct: bool) -> dict[str, object]:
    """Hibernate and come back: whether the machine slept, and if not, why."""
    clock = machine.clock
    before = offset_seconds(clock)
    reason = ""
    if direct:
        reason = _write_state(machine)
    else:
        # Only here: who never asks logind (hooks, --direct) need not load the D-Bus library.
        from hibprep.bus.login1 import hibernate as ask_logind  # noqa: PLC0415

        ask_logind(os.environ.get("DBUS_SYSTEM_BUS_ADDRESS"))
    asleep = offset_seconds(clock) - before
    slept = was_asleep(asleep)
    if not slept and not reason:
        reason = REFUSED
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
