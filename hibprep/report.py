# SPDX-License-Identifier: LGPL-2.1-or-later
"""Plans, reports and findings for a program (JSON) and for a person (tables or plain lines).

Pure: a value goes in, and JSON or a `Page` of titled blocks comes out (`hibprep.page` makes text
of it).
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterable, Mapping

from hibprep.ages_report import ages_block, ages_notes
from hibprep.model import (
    Capability,
    Fit,
    Holder,
    Limit,
    Plan,
    Prediction,
    Report,
    Target,
    TargetKind,
)
from hibprep.page import Block, Page, seconds, size
from hibprep.supply import HUGE_PAGES, LOCKED

# --- for a program ------------------------------------------------------------------------------


def to_plain(value: object) -> object:
    """The same in what JSON knows: dataclasses with their properties, enums as text, bytes as they
    are; a number that JSON has no word for becomes null."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {
            item.name: to_plain(getattr(value, item.name)) for item in dataclasses.fields(value)
        }
        derived = {
            name: to_plain(getattr(value, name))
            for name, attribute in vars(type(value)).items()
            if isinstance(attribute, property)
        }
        return fields | derived
    if isinstance(value, Mapping):
        return {str(key): to_plain(item) for key, item in value.items()}
    if isinstance(value, set | frozenset):
        return sorted(str(item) for item in value)
    if isinstance(value, str):
        return str(value)
    if isinstance(value, Iterable):
        return [to_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def to_json(value: object, *, indent: int | None = 2) -> str:
    """One JSON document; the order of the keys is that of the declarations, so it is stable."""
    return json.dumps(to_plain(value), indent=indent, ensure_ascii=False, allow_nan=False)


# --- for a person -------------------------------------------------------------------------------


def target_words(target: Target) -> str:
    """What is aimed at, in words."""
    words = {
        TargetKind.IMAGE_SIZE: "the kernel's image_size",
        TargetKind.MIN: "the smallest image possible",
        TargetKind.SIZE: f"an image of {size(target.size_bytes)}",
        TargetKind.WITHIN: f"a hibernation within {target.seconds:g} s",
    }
    return words[target.kind]


def _predictions(before: Prediction, after: Prediction, after_title: str) -> Block:
    def sizes(name: str, field: str) -> tuple[str, ...]:
        return (name, size(getattr(before, field)), size(getattr(after, field)))

    def times(name: str, field: str) -> tuple[str, ...]:
        return (name, seconds(getattr(before, field)), seconds(getattr(after, field)))

    return Block(
        "Hibernation",
        (
            sizes("saveable memory", "saveable_bytes"),
            sizes("image", "image_bytes"),
            sizes("image, compressed", "compressed_bytes"),
            sizes("left to the kernel to shrink", "shrink_bytes"),
            times("time to hibernate", "hibernate_seconds"),
            times("time to resume", "resume_seconds"),
        ),
        ("", "before", after_title),
        frozenset({1, 2}),
    )


def _fit_rows(name: str, fit: Fit) -> Iterable[tuple[str, ...]]:
    for who, accepts, needs, has in (
        ("systemd", fit.systemd_ok, fit.systemd_needs_bytes, fit.systemd_has_bytes),
        ("kernel", fit.kernel_ok, fit.kernel_needs_bytes, fit.kernel_has_bytes),
    ):
        yield (f"{who}, {name}", "yes" if accepts else "NO", size(needs), size(has))


def _fits(before: Fit, after: Fit, after_title: str) -> Block:
    return Block(
        f"Will it be accepted (resume device {after.resume_path or 'none'})",
        (*_fit_rows("before", before), *_fit_rows(after_title, after)),
        ("", "accepts", "needs", "has"),
        frozenset({2, 3}),
    )


def _fit_notes(before: Fit, after: Fit) -> tuple[str, ...]:
    if after.ok:
        return ()
    return (f"hibernation {'stays' if not before.ok else 'becomes'} impossible: {after.reason}",)


def _limits(limits: Iterable[Limit]) -> Block:
    return Block(
        "What held it back",
        tuple((item.name, item.text, size(item.bytes) if item.bytes else "") for item in limits),
        ("limit", "why", "amount"),
        frozenset({2}),
    )


def _irreducible(parts: Mapping[str, int]) -> Block:
    ordered = sorted(parts.items(), key=lambda item: (-item[1], item[0]))
    return Block(
        "Cannot be reclaimed",
        tuple((name, size(amount)) for name, amount in ordered if amount),
        ("kind", "amount"),
        frozenset({1}),
    )


def _holder_notes(plan: Plan) -> tuple[str, ...]:
    """Whose the memory is that nothing can reclaim."""
    if not plan.holders:
        return ()
    total = plan.irreducible.get(LOCKED, 0) + plan.irreducible.get(HUGE_PAGES, 0)
    processes = [
        f"{each.name or '?'} (pid {each.pid}) {_held(each)}" for each in plan.holders if each.pid
    ]
    cgroups = [f"{each.name} {_held(each)}" for each in plan.holders if not each.pid]
    if cgroups:
        cgroups[0] = f"by cgroup {cgroups[0]}"
    return (f"{size(total)} locked in memory: {', '.join([*processes, *cgroups])}",)


def _held(holder: Holder) -> str:
    if not holder.huge_bytes:
        return size(holder.locked_bytes)
    huge = f"{size(holder.huge_bytes)} in huge pages"
    return f"{size(holder.locked_bytes)} and {huge}" if holder.locked_bytes else huge


def plan_page(plan: Plan) -> Page:
    """What would be done, and what it would gain."""
    if plan.steps:
        headline = (
            f"To reach {target_words(plan.target)}, {size(plan.need_bytes)} have to go: "
            f"saveable memory from {size(plan.before.saveable_bytes)} to {size(plan.goal_bytes)}."
        )
    else:
        headline = f"Nothing to do for {target_words(plan.target)}."
    steps = Block(
        "Steps",
        tuple(
            (
                str(step.stage),
                str(step.scope),
                size(step.amount_bytes),
                str(step.backend),
                step.reason,
            )
            for step in plan.steps
        ),
        ("stage", "scope", "amount", "back-end", "why"),
        frozenset({2}),
    )
    knobs = Block(
        "Changed meanwhile and put back",
        tuple((knob.path, knob.value, knob.reason) for knob in plan.knobs),
        ("setting", "to", "why"),
    )
    rates = Block(
        "Rates that differ from the defaults",
        tuple(
            (name, f"{getattr(plan.rates, name, 0.0):g}", source)
            for name, source in plan.rates.sources.items()
            if source != "default"
        ),
        ("rate", "value", "from"),
        frozenset({1}),
    )
    return Page(
        headline,
        (
            steps,
            ages_block(plan.ages),
            _predictions(plan.before, plan.after, "after"),
            _fits(plan.fit_before, plan.fit_after, "after"),
            _limits(plan.limits),
            _irreducible(plan.irreducible),
            knobs,
            rates,
        ),
        (
            *ages_notes(plan.ages),
            *_holder_notes(plan),
            *_fit_notes(plan.fit_before, plan.fit_after),
        ),
    )


def report_page(report: Report) -> Page:
    """What was done, what it gained, and why it ended."""
    freed = report.freed
    reached = "" if report.ending == "done" or not report.goal_bytes else _goal_words(report)
    headline = (
        f"{report.command}: {size(freed.reclaimed_bytes)} reclaimed in "
        f"{seconds(report.seconds)}; {report.ending}: {report.reason}{reached}"
    )
    kinds = Block(
        "Freed",
        (
            ("page cache", size(freed.file_bytes)),
            ("anonymous", size(freed.anon_bytes)),
            ("slab", size(freed.slab_bytes)),
            ("free memory gained", size(freed.free_gain_bytes)),
            ("swapped out", size(freed.swapped_out_bytes)),
            ("swapped in meanwhile", size(freed.swapped_in_bytes)),
        ),
        ("kind", "amount"),
        frozenset({1}),
    )
    steps = Block(
        "Steps",
        tuple(
            (
                str(step.stage),
                step.scope,
                step.backend,
                size(step.asked_bytes),
                size(step.freed.reclaimed_bytes),
                seconds(step.seconds),
                str(step.chunks),
                str(step.ending),
                step.reason,
            )
            for step in report.steps
        ),
        ("stage", "scope", "back-end", "asked", "freed", "time", "chunks", "ended", "why"),
        frozenset({3, 4, 5, 6}),
    )
    hibernation = Block(
        "The hibernation itself",
        tuple((name.replace("_", " "), str(value)) for name, value in report.hibernation.items()),
        ("what", "value"),
    )
    knobs = Block("Changed and put back", tuple((knob,) for knob in report.knobs), ("setting",))
    return Page(
        headline,
        (
            kinds,
            steps,
            _predictions(report.before, report.after, "now"),
            _fits(report.fit_before, report.fit_after, "now"),
            _limits(report.limits),
            _irreducible(report.irreducible),
            hibernation,
            knobs,
        ),
        (*report.notes, *_fit_notes(report.fit_before, report.fit_after)),
    )


def _goal_words(report: Report) -> str:
    if report.goal_reached:
        return f" (the goal of {size(report.goal_bytes)} is reached)"
    missing = report.after.saveable_bytes - report.goal_bytes
    return f" ({size(missing)} above the goal of {size(report.goal_bytes)})"


def capabilities_page(capabilities: Iterable[Capability]) -> Page:
    """What this kernel offers, since which version, and why not."""
    found = tuple(capabilities)
    usable = sum(item.available for item in found)
    return Page(
        f"{usable} of {len(found)} back-ends can be used here.",
        (
            Block(
                "Back-ends",
                tuple(
                    (
                        str(item.backend),
                        "yes" if item.available else "no",
                        item.since,
                        item.reason,
                        ", ".join(sorted(item.features)),
                    )
                    for item in found
                ),
                ("back-end", "usable", "since", "why", "features"),
            ),
        ),
    )


def history_page(reports: Iterable[Report], notes: Iterable[str] = ()) -> Page:
    """Past runs, the latest last."""
    found = tuple(reports)
    return Page(
        f"{len(found)} run{'' if len(found) == 1 else 's'} kept." if found else "No run is kept.",
        (
            Block(
                "Runs",
                tuple(
                    (
                        item.started,
                        item.command,
                        size(item.freed.reclaimed_bytes),
                        seconds(item.seconds),
                        size(item.after.image_bytes),
                        str(item.ending),
                        item.reason,
                    )
                    for item in found
                ),
                ("started", "command", "freed", "time", "image after", "ended", "why"),
                frozenset({2, 3, 4}),
            ),
        ),
        tuple(notes),
    )
