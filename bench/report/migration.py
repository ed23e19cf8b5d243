# SPDX-License-Identifier: LGPL-2.1-or-later
"""The page's part about guests that move: what is sent, and what preparing costs. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

from bench import movefigures
from bench.movefigures import MIB, Row
from bench.moveresults import MigrateResults
from bench.moves import SHARES, Condition, Load, Sample
from bench.report import words

PICTURE = "migration"

LONG = {
    Condition.NOTHING: "the guest is sent as it is",
    Condition.DROPCACHES: "`3` to `/proc/sys/vm/drop_caches` in the guest, and nothing on the "
    "host's side: what was freed keeps what was in it, and is sent",
    Condition.BALLOON: "hibprep with nothing in the guest to help it: the balloon is inflated, and "
    "the guest's kernel drops its cache for it",
    Condition.REPORTING: "a device with free page reporting, caches dropped, and waited for what "
    "was freed to be reported",
    Condition.HIBPREP: "hibprep with the default device: its daemon in the guest, asked over its "
    "own port (caches go, cold memory goes to the guest's swap), then the balloon",
    Condition.HIBPREP_REPORTING: "hibprep with free page reporting: the same in the guest, memory "
    "compacted, what was freed reported, and the balloon where it gains more",
    Condition.AHEAD: "hibprep with the default device; its daemon in the guest had prepared it "
    "before, while nobody used it, by its policy `idle`",
    Condition.AHEAD_REPORTING: "the same with free page reporting",
}
_THOROUGH = (
    "Prepared for as few bytes as can be, however long that takes: *÷ nothing* says what it comes "
    "to. `hibprep guest migrate` prepares like this with `--thorough` alone."
)
_WHILE_IT_PAYS = (
    "Prepared no longer than that spares the sending, as `hibprep guest migrate` does by itself. "
    "Where that leaves no time for what is done in the guest, it is the balloon alone. *Together* "
    "begins when somebody asks. What was done in the guest before that is *ahead*: nobody waited "
    "for it."
)


def section(found: MigrateResults, picture: str | None, link: str | None) -> str:
    """All of it. ``picture`` and ``link``: where the picture and the results file are, seen from
    the page."""
    rows = movefigures.rows(found.samples)
    hurried = found.setting.while_it_pays
    parts = [
        f"## Guests that move{' as soon as they can' if hurried else ''}\n",
        headline(rows, while_it_pays=hurried),
        _method(found),
        f"![what is sent, by condition]({picture})\n" if picture else "",
        *(_load(rows, load) for load in Load),
        _curve(rows),
        _promises(rows, while_it_pays=hurried),
        _machine(found),
        _every(found.samples, link, "--while-it-pays" if hurried else "--curve"),
    ]
    return "\n".join(part for part in parts if part)


def headline(rows: Sequence[Row], *, while_it_pays: bool) -> str:
    """The main result in a sentence or two."""
    mixed = {row.condition: row for row in rows if row.load is Load.MIXED and not row.reserve_bytes}
    nothing = mixed.get(Condition.NOTHING)
    if nothing is None:
        return ""
    told = [
        f"**{words.number(row.sent_bytes / MIB)} MiB** ({row.saved:.0%} fewer"
        f"{_in_time(row, while_it_pays=while_it_pays)}) {how}"
        for condition, how in (
            (Condition.HIBPREP, "prepared by hibprep with the default balloon"),
            (Condition.HIBPREP_REPORTING, "with free page reporting"),
            (Condition.AHEAD, "prepared ahead, while it was idle, with the default balloon"),
            (Condition.AHEAD_REPORTING, "prepared ahead with free page reporting"),
        )
        if (row := mixed.get(condition)) is not None and row.saved is not None
    ]
    if not told:
        return ""
    text = (
        "A guest with half of its memory page cache and a quarter cold sent "
        f"**{words.number(nothing.sent_bytes / MIB)} MiB** as it was; {'; '.join(told)}."
    )
    dropped = mixed.get(Condition.DROPCACHES)
    if dropped is not None and dropped.saved is not None:
        text += f" Dropping its caches alone saved {max(0.0, dropped.saved):.0%}."
    return text + "\n"


def _in_time(row: Row, *, while_it_pays: bool) -> str:
    """The time only where it was what mattered."""
    if not while_it_pays or row.total_ratio is None:
        return ""
    return f", in {row.total_ratio:.2f} of the time"


def _method(found: MigrateResults) -> str:
    setting = found.setting
    present = [each for each in Condition if any(s.condition is each for s in found.samples)]
    loads = [each for each in Load if any(s.load is each for s in found.samples)]
    return "\n".join(
        [
            (
                f"A guest of {words.size(setting.memory_bytes)} is booted, filled, left alone for "
                f"{setting.settle_seconds:g} s, prepared, and sent by QEMU, limited to "
                f"{setting.bytes_per_second * 8 / 1e9:g} Gbit/s, to a program that throws it away. "
                "Then what was done is undone, and every byte that was filled is compared. Each "
                "sample has a guest of its own. Sent is what QEMU counts; times are taken from "
                "outside. *Estimate* is what hibprep says just before, *foretold* what it says "
                "before preparing, both by what was sent, the worst of the runs: 1 is right."
            ),
            "",
            words.markdown(
                ["condition", "what is done before"],
                [[str(each), LONG[each]] for each in present],
                left=2,
            ),
            words.markdown(
                ["load", "page cache", "cold"],
                [[str(each), *(words.percent(share) for share in SHARES[each])] for each in loads],
            ),
        ]
    )


_HEADER = [
    *("condition", "runs", "sent, MiB", "fewer", "normal pages", "zero pages", "prepare, s"),
    *("migrate, s", "together, s", "÷ nothing", "ahead, s", "downtime, ms", "left to it, MiB"),
    *("estimate", "foretold", "others slowed"),
]


def _load(rows: Sequence[Row], load: Load) -> str:
    mine = [row for row in rows if row.load is load and not row.reserve_bytes]
    if not mine:
        return ""
    header, lines = words.without_empty(_HEADER, [_line(str(row.condition), row) for row in mine])
    return f"### Moving: {load}\n\n{words.markdown(header, lines)}"


def _line(name: str, row: Row) -> list[str]:
    return [
        name,
        str(row.runs),
        f"{words.number(row.sent_bytes / MIB)} (±{row.spread * 50:.2g} %)",
        _share(row.saved),
        f"{row.normal_pages:,}",
        f"{row.zero_pages:,}",
        words.number(row.prepare_seconds),
        words.number(row.migrate_seconds),
        words.number(row.total_seconds),
        words.times(row.total_ratio),
        words.NOTHING if row.ahead_seconds is None else words.number(row.ahead_seconds),
        words.number(row.downtime_seconds * 1000),
        words.number(row.actual_bytes / MIB),
        words.number(row.estimated_ratio),
        words.number(row.predicted_ratio),
        _share(row.slowed),
    ]


def _curve(rows: Sequence[Row]) -> str:
    mine = movefigures.curve(rows)
    if not mine:
        return ""
    lines = [
        [
            words.size(row.reserve_bytes),
            str(row.runs),
            words.number(row.actual_bytes / MIB),
            words.number(row.sent_bytes / MIB),
            _share(row.saved),
            words.number(row.total_seconds),
            str(row.oom_kills),
        ]
        for row in mine
    ]
    header = ["reserve", "runs", "left to it, MiB", "sent, MiB", "fewer", "together, s", "killed"]
    return (
        "### What a smaller reserve gains\n\n"
        "hibprep with the default device and the load mixed, told what the balloon is to leave "
        f"beyond what the guest uses.\n\n{words.markdown(header, lines)}"
    )


def _promises(rows: Sequence[Row], *, while_it_pays: bool) -> str:
    lines = [
        f"- {promise}: {'yes' if held else '**no**'}"
        for promise, held in movefigures.kept(rows, while_it_pays=while_it_pays).items()
    ]
    if lines:
        lines += ["", _WHILE_IT_PAYS if while_it_pays else _THOROUGH]
    return "\n".join(["### What was to be reached\n", *lines, ""]) if lines else ""


def _machine(found: MigrateResults) -> str:
    rows = [
        *([f"machine: {name}", value] for name, value in found.machine.items()),
        ["guest: kernel", found.kernel],
        ["guest: accelerator", words.listed(each.accelerator for each in found.samples)],
        *([f"setting: {name}", _value(value)] for name, value in asdict(found.setting).items()),
    ]
    return f"### Machine and setting\n\n{words.markdown(['', ''], rows, left=2)}"


def _value(value: float | bool) -> str:  # noqa: FBT001 - a bool is a value of its own here
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:,.10g}"


def _every(samples: Sequence[Sample], link: str | None, how: str) -> str:
    header = ["load", "condition", "run", *_HEADER[2:]]
    lines = []
    for sample in samples:
        (row,) = movefigures.rows([sample])
        reserve = f", {words.size(row.reserve_bytes)}" if row.reserve_bytes else ""
        name = f"{sample.condition}{reserve}"
        lines.append([str(sample.load), name, str(sample.round + 1), *_line("", row)[2:]])
    where = f"From [{link}]({link}).\n\n" if link else ""
    table = words.markdown(*words.without_empty(header, lines), left=2)
    return (
        f"<details>\n<summary>Every guest that was sent</summary>\n\n{where}{table}\n</details>\n\n"
        f"The same on another machine: `python -m bench migrate {how} --output RESULTS`, and "
        "RESULTS beside the others for `python -m bench report`.\n"
    )


def _share(value: float | None) -> str:
    return words.NOTHING if value is None else f"{100 * value:.1f} %"
