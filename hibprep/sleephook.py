# SPDX-License-Identifier: LGPL-2.1-or-later
"""Around a sleep that somebody else has begun: the last pass before it, what is held meanwhile,
and what is put back and told after it.

systemd-sleep(8) freezes user.slice before its hooks run, so that nothing of it comes back while
memory is taken here. Nothing in this module ever hinders a sleep: what goes wrong is told in words.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum

from hibprep import predict
from hibprep.errors import HibprepError
from hibprep.imagesize import IMAGE_SIZE, Hold, hold_image_size
from hibprep.kernel.knobs import BOOT_ID, KnobJournal
from hibprep.kernel.lock import LockedError
from hibprep.kernel.snapshot import read_snapshot
from hibprep.machine import Machine
from hibprep.model import Ending, Limits, Plan, Rates, Report, Snapshot, Stage, TargetKind
from hibprep.prepare import keep, make_plan, run_plan
from hibprep.reclaim.base import Stop
from hibprep.sleeprecord import RecordFile, SleepRecord
from hibprep.slept import REFUSED, learn, offset_seconds, was_asleep

COMMAND = "sleep"
_ANON = frozenset({Stage.COLD_ANON, Stage.ANON})
# Of a suspend the person may come back any moment: what is in use stays.
_BEFORE_SUSPEND = frozenset({Stage.SYNC, Stage.CACHE, Stage.SLAB, Stage.COLD_ANON})
# Where all goes, nobody need wait until it is known what is cold.
_ALL_AT_ONCE = frozenset({Stage.SYNC, Stage.CACHE, Stage.SLAB, Stage.ANON})


class Leg(StrEnum):
    """What comes: an image, or a suspend that a hibernation may follow."""

    HIBERNATE = "hibernate"
    SUSPEND = "suspend"


@dataclass(frozen=True, slots=True)
class Before:
    """What was done before a sleep, in words for the journal, and the settings that are held."""

    words: tuple[str, ...]
    journal: KnobJournal | None = None


def worthwhile(plan: Plan) -> tuple[Plan, str]:
    """The plan without what would take longer than it saves; why.

    What goes to swap here is written as it is, at the speed of the disk, and the image compressed:
    it pays where the kernel would otherwise have to shrink, one page after the other.
    """
    amounts = {step.stage: step.amount_bytes for step in plan.steps}
    anon = max((amounts.get(stage, 0) for stage in _ANON), default=0)
    if not anon:
        return plan, ""
    gain = plan.before.hibernate_seconds - plan.after.hibernate_seconds
    cost = anon / plan.rates.disk_write_bytes_per_second
    if gain > cost:
        return plan, f"a last pass is to save {gain:.1f} s for {cost:.1f} s"
    kept = tuple(step for step in plan.steps if step.stage not in _ANON)
    words = f"nothing more is swapped out: {cost:.1f} s of writing would save {gain:.1f} s"
    return replace(plan, steps=kept), words


def before(machine: Machine, leg: Leg, stop: Stop) -> Before:
    """Make ready for `leg`, within the time that is configured for it."""
    words = list(machine.recovered)
    words += _close_stale(machine)
    limits = _limits(machine, leg)
    done: tuple[Report, Rates] | None = None
    try:
        done = _last_pass(machine, leg, limits, stop, words)
    except LockedError as error:
        # `hibprep hibernate` asked for this sleep, or a preparation is frozen with its user
        words.append(f"no last pass: {error.message}")
    except (HibprepError, OSError) as error:
        words.append(f"no last pass: {error}")
    try:
        # The daemon does not end before the image is written: none of its memory comes free.
        snapshot = replace(read_snapshot(machine.root, machine.tree), own_bytes=0)
    except (HibprepError, OSError) as error:
        return Before((*words, f"image_size is left as it is: {error}"))
    journal, hold = None, Hold(0, "left as it is for a suspend")
    if leg is Leg.HIBERNATE:
        journal, hold = _held(machine, snapshot, limits, words)
    if done is not None:
        words += _record(machine, leg, snapshot, hold, done)
    return Before(tuple(words), journal)


def _limits(machine: Machine, leg: Leg) -> Limits:
    limits = machine.config.limits()
    if leg is Leg.SUSPEND:
        wanted = _BEFORE_SUSPEND
    elif machine.config.target().kind is TargetKind.MIN:
        wanted = _ALL_AT_ONCE
    else:
        return limits
    return replace(limits, stages=tuple(stage for stage in limits.stages if stage in wanted))


def _last_pass(
    machine: Machine, leg: Leg, limits: Limits, stop: Stop, words: list[str]
) -> tuple[Report, Rates]:
    settings = machine.config.sleep
    hibernates = leg is Leg.HIBERNATE
    budget = settings.budget_seconds if hibernates else settings.suspend_budget_seconds
    plan = make_plan(machine, machine.config.target(), limits)
    if not budget:
        plan = replace(plan, steps=())
    elif hibernates and plan.target.kind is not TargetKind.MIN:
        # who wants as small an image as can be has not asked how soon the machine is off
        plan, why = worthwhile(plan)
        words += [why] if why else []
    report = run_plan(
        machine, [plan], limits, stop, timeout_seconds=budget, progress=None, command=COMMAND,
        frozen=True,
    )  # fmt: skip
    words.append(
        f"last pass: {report.freed.reclaimed_bytes >> 20} MiB in {report.seconds:.1f} s"
        f"{': ' + report.reason if report.reason else ''}"
    )
    return report, plan.rates


def _held(
    machine: Machine, snapshot: Snapshot, limits: Limits, words: list[str]
) -> tuple[KnobJournal | None, Hold]:
    hold = hold_image_size(snapshot, limits)
    words.append(f"image_size: {hold.reason}")
    if not hold.value_bytes:
        return None, hold
    journal = KnobJournal(machine.root)
    try:
        journal.set(IMAGE_SIZE, str(hold.value_bytes), hold.reason)
    except HibprepError as error:
        words.append(f"image_size is left as it is: {error}")
        return None, Hold(0, str(error))
    return journal, hold


def _record(
    machine: Machine, leg: Leg, snapshot: Snapshot, hold: Hold, done: tuple[Report, Rates]
) -> list[str]:
    report, speeds = done
    in_force = hold.value_bytes or snapshot.power.image_size_bytes
    predicted = predict.predict(snapshot, speeds, image_size_bytes=in_force)
    record = SleepRecord(
        boot_id=_boot_id(machine),
        leg=leg,
        offset_seconds=offset_seconds(machine.clock),
        image_size_held_bytes=in_force,
        image_size_reason=hold.reason,
        report=replace(report, after=predicted),
    )
    note = RecordFile(str(machine.root.prefix)).save(record)
    return [note] if note else []


# --- after it -------------------------------------------------------------------------------------


def after(machine: Machine, journal: KnobJournal | None = None) -> tuple[Report | None, list[str]]:
    """Put back what is held, close the record, keep the report; and the words for the journal.

    `journal` is what `before` held, where that was this process; else it has ended, and its
    settings were put back when `machine` was opened.
    """
    words = list(machine.recovered)
    if journal is not None:
        words += journal.restore_all()
    file = RecordFile(str(machine.root.prefix))
    record = file.load()
    if record is None:
        return None, words
    report = _closed(machine, record, words)
    words.append(_told(report))
    note = file.remove()
    return report, [*words, note] if note else words


def _close_stale(machine: Machine) -> list[str]:
    """A record that nobody closed: the machine was started anew, or no hook ran after the sleep."""
    file = RecordFile(str(machine.root.prefix))
    record = file.load()
    if record is None:
        return []
    return [_told(_closed(machine, record, []))]


def close_lost(machine: Machine) -> list[str]:
    """At the start of the daemon: a sleep out of which this boot did not come back."""
    file = RecordFile(str(machine.root.prefix))
    record = file.load()
    if record is None or record.boot_id == _boot_id(machine):
        return []  # of this boot: its end is still to come
    report = _closed(machine, record, [])
    note = file.remove()
    return [_told(report), *([note] if note else [])]


def _closed(machine: Machine, record: SleepRecord, words: list[str]) -> Report:
    asleep, reason = 0.0, ""
    if record.boot_id != _boot_id(machine):
        reason = "the machine was started anew: the image was lost, or never written"
    else:
        asleep = offset_seconds(machine.clock) - record.offset_seconds
        reason = "" if was_asleep(asleep) else REFUSED
    predicted = record.report.after
    report = replace(
        record.report,
        knobs=(*record.report.knobs, *words),
        hibernation={
            "how": "systemd-sleep",
            "leg": record.leg,
            "slept": not reason,
            "asleep_seconds": round(max(0.0, asleep), 1),
            "reason": reason,
            "image_size_held_bytes": record.image_size_held_bytes,
            "image_size_reason": record.image_size_reason,
            "predicted_hibernate_seconds": round(predicted.hibernate_seconds, 2),
        },
    )
    if reason:
        report = replace(report, ending=Ending.FAILED, reason=reason)
    elif record.leg == Leg.HIBERNATE:
        report = learn(machine, report, predicted.shrink_bytes)
    return keep(machine, report)


def _told(report: Report) -> str:
    leg = report.hibernation["leg"]
    if report.hibernation["slept"]:
        return f"back from {leg}, asleep for {report.hibernation['asleep_seconds']} s"
    return f"no {leg}: {report.reason}"


def _boot_id(machine: Machine) -> str:
    return (machine.root.try_read(BOOT_ID) or "").strip()
