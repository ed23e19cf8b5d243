# SPDX-License-Identifier: LGPL-2.1-or-later
"""The page of Markdown: what was measured and how, pictures, tables, every sample. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict

from bench.experiment.parameters import Parameters
from bench.experiment.sample import Condition, Sample, WorkloadKind
from bench.report import comingback, reference, tables, words
from bench.report.groups import (
    HIBERNATE,
    PREPARE,
    RESUME,
    USABLE,
    by_condition,
    floor,
    groups,
    measured,
)
from bench.report.phases import usual
from bench.report.sections import Section, how

_TOP = """<!-- SPDX-License-Identifier: LGPL-2.1-or-later -->
<!-- Written by `python -m bench report`: what is changed here by hand is gone the next time. -->
# Benchmarks
"""

_CAPTIONS = {
    "story": "Medians, by what the seconds go to. Left of the line is what was done before the "
    "request to hibernate. Both halves have the same scale.",
    "image-size": "Every run: the image, and how long the machine took to be off. Hollow marks had "
    "another image_size than the kernel's own: a small image alone is not soon written when the "
    "kernel has to shrink memory to it first.",
    "runs": "Every run a mark, the medians as ticks.",
    "working-set": "Against the size of the working set; medians.",
}
_ALT = {
    "story": "where the seconds go, by condition",
    "image-size": "image and time to hibernate, every run",
    "runs": "every run and the medians",
    "working-set": "times against the size of the working set",
}


def page(
    found: Sequence[Section],
    pictures: Sequence[Mapping[str, str]],
    links: Mapping[str, str],
    more: Sequence[str] = (),
) -> str:
    """The whole page. ``pictures`` has for each section the links of those it has, by name;
    ``links`` those of results files that can be reached from the page, by their place; ``more`` are
    parts about other things, which come after."""
    main, *others = found
    parts = [_TOP, headline(main), _picture(pictures[0], "story"), _method(found)]
    for index, section in enumerate(found):
        parts.append(f"## {_title(section, main) if others else 'Results'}\n")
        if index:
            parts += [headline(section), _picture(pictures[index], "story")]
        parts += _section(section, pictures[index], links)
    parts += more
    parts.append(_reproduce(found, links))
    return "\n".join(part for part in parts if part)


def _title(section: Section, main: Section) -> str:
    """What tells it from the main one, if its usual title does not."""
    theirs = dict(parameters(how(main.parameters)))
    known = {"memory_bytes", "recipe"}
    others = [
        f"{name} {value}"
        for name, value in parameters(how(section.parameters))
        if name not in known and theirs[name] != value
    ]
    return ", ".join([section.title, *others])


def headline(section: Section) -> str:
    """The main results in a few sentences, as far as they were measured."""
    found = [_sentences(section, each) for each in (WorkloadKind.COLD, WorkloadKind.WARM)]
    found.append(comingback.sentences(section))
    return "\n".join(each for each in found if each) or "What has been measured so far.\n"


def _sentences(section: Section, workload: WorkloadKind) -> str:
    group = usual(section.samples, workload)
    rows = by_condition(section.samples, group) if group else {}
    vanilla, hibprep = rows.get(Condition.VANILLA, []), rows.get(Condition.HIBPREP, [])
    before, after = measured(vanilla, HIBERNATE), measured(hibprep, HIBERNATE)
    if group is None or before is None or after is None:
        return ""
    text = (
        f"In a guest of {words.size(section.parameters.memory_bytes)}, "
        f"{words.percent(section.parameters.fill_ratio)} filled ({group}), hibernating took "
        f"**{words.number(before.median)} s** as it was and **{words.number(after.median)} s** "
        "with hibprep"
    )
    idle = floor(rows, HIBERNATE)
    text += f"; one that is not filled takes {words.number(idle.median)} s." if idle else "."
    back, verb = (USABLE, "was usable") if group.warm_ratio else (RESUME, "answered")
    slow, fast = measured(vanilla, back), measured(hibprep, back)
    if slow and fast:
        text += (
            f" It {verb} {words.number(slow.median)} s and {words.number(fast.median)} s after "
            "power-on."
        )
    prepare = measured(hibprep, PREPARE)
    if prepare and prepare.median:
        text += f" The preparation, before the request, took {words.number(prepare.median)} s."
    alone = measured(rows.get(Condition.HIBPREPD, []), HIBERNATE)
    if alone:
        text += (
            f" With hibprep's daemon, which nobody had to ask, hibernating took "
            f"{words.number(alone.median)} s."
        )
    text += f" Medians of {words.counted(min(before.count, after.count), 'run', 'runs')}"
    return text + (", under emulation (no KVM).\n" if section.emulated else ".\n")


def _method(found: Sequence[Section]) -> str:
    section = found[0]
    parameters = section.parameters
    rest = words.number(parameters.settle_seconds)
    samples = [sample for each in found for sample in each.samples]
    present = [each for each in Condition if any(s.condition is each for s in samples)]
    loads = [
        each
        for each in WorkloadKind
        if each is not WorkloadKind.NONE and any(s.workload is each for s in samples)
    ]
    lines = [
        "## What is measured, and how",
        "",
        (
            f"A guest is booted, its memory filled, and left alone for {rest} s. Then it is "
            "prepared in one way or another, asked to hibernate, switched on again, and every byte "
            "that had been filled is compared. Each cycle has a guest of its own. The conditions "
            "of a run follow one another, so that what drifts over hours drifts for all of them."
        ),
        "",
        (
            "All times are taken from outside the guest, inside of which the clock stands still. "
            "Only a single pass over the working set, a matter of milliseconds, is timed by the "
            "program that makes it, and never across a hibernation."
        ),
        "",
        "- *prepare*: from the beginning of the preparation to the request to hibernate",
        (
            "- *hibernate*: from the request until the machine is off; `hibprep hibernate` "
            "prepares first, and says when it asks for the sleep"
        ),
        "- *resume*: from power-on to the first answer of the guest",
        "- *usable*: from power-on until the working set was touched once more in full",
        "",
        (
            "What the kernel says of itself (*shrink*, *write*, *read*) is what it printed on the "
            "console."
        ),
        "",
        words.markdown(
            ["condition", "what is done before"],
            [[str(each), words.LONG[each]] for each in present],
            left=2,
        ),
    ]
    if loads:
        lines.append(
            words.markdown(
                ["workload", "what memory is filled with"],
                [[str(each), words.WORKLOADS[each]] for each in loads],
                left=2,
            )
        )
    lines += [
        (
            "Figures are the median and, in brackets, the least and the most of the runs. The "
            "*floor* is the median of the idle guest with the same image_size, whatever the "
            "workload; it has nothing to touch, and is usable once it answers. Cycles that failed "
            "are in no median; they are counted, and listed with their reasons."
        ),
        "",
    ]
    if section.emulated:
        lines += [
            (
                "The guests were **emulated** (no KVM): some 5 s of every hibernation and 10 s of "
                "every resume are then a fixed cost that no preparation can take away, and it caps "
                "every ratio. Read how near a condition comes to the floor, not its seconds."
            ),
            "",
        ]
    return "\n".join(lines)


def _section(section: Section, pictures: Mapping[str, str], links: Mapping[str, str]) -> list[str]:
    samples = section.samples
    parts = [_beside(section)]
    parts += [_group_tables(samples)] if samples else ["Nothing has been measured yet.\n"]
    shown = [_picture(pictures, name) for name in pictures if name != "story"]
    if shown:
        parts += ["### Pictures\n", *shown]
    parts += [_failed(section), _machine(section), _raw(section, links)]
    return parts


def _beside(section: Section) -> str:
    rows = reference.beside(section.samples)
    if not reference.has_ours(rows):
        return ""
    unlike = reference.unlike(section.parameters)
    ours = f"Ours is {reference.ours(rows)}, Linux {section.kernels} under {section.accelerators}"
    if unlike:
        ours += f"; unlike theirs, with {', '.join(unlike)}"
    return "\n".join(
        [
            "### Beside the reference experiment",
            "",
            words.markdown(*reference.table(rows)),
            (
                f"Theirs is {reference.SOURCE}: {reference.SETTING}. {ours}. *Vanilla ÷ "
                "idle* is the factor that there would be if a prepared guest were as quick as one "
                "that is not filled."
            ),
            "",
        ]
    )


def _group_tables(samples: Sequence[Sample]) -> str:
    parts = []
    for group in groups(samples):
        name = str(group)
        parts += [
            f"### {name[0].upper()}{name[1:]}\n",
            words.markdown(*tables.times(samples, group)),
        ]
        for header, rows in (tables.ratios(samples, group), tables.details(samples, group)):
            if len(header) > 1:
                parts.append(words.markdown(header, rows))
    return "\n".join(parts)


def _failed(section: Section) -> str:
    header, rows = tables.failures(section.samples)
    total = words.counted(len(section.samples), "cycle", "cycles")
    if not rows:
        return f"### Failed cycles\n\nNone of {total}.\n" if section.samples else ""
    table = words.markdown(header, rows, left=len(header))
    return f"### Failed cycles\n\n{len(rows)} of {total}.\n\n{table}"


def _machine(section: Section) -> str:
    machine = [[f"machine: {name}", value] for name, value in section.results.machine.items()]
    rows = [
        *machine,
        ["guest: kernel", section.kernels],
        ["guest: accelerator", section.accelerators],
        *([f"parameter: {name}", value] for name, value in parameters(section.parameters)),
    ]
    calibration = section.results.calibration
    if calibration is not None:
        rows += [
            [f"calibration: {name}", f"{value:,.10g}"]
            for name, value in asdict(calibration).items()
        ]
    table = words.markdown(["", ""], rows, left=2)
    text = f"### Machine and parameters\n\n{table}"
    codes = words.listed(each.code for each in section.samples)
    if any(each.code for each in section.samples):
        text += f"\nhibprep's code is `{codes}`"
        if section.outdated:
            several = words.counted(section.outdated, "sample", "samples")
            text += f"; {several} of earlier code left out"
        text += ".\n"
    if ", " in section.kernels or len({each.accelerator for each in section.samples}) > 1:
        text += "\n**Several kernels or accelerators are mixed here: see the samples.**\n"
    return text


def parameters(found: Parameters) -> list[tuple[str, str]]:
    """Every parameter, in words."""
    rows = []
    for name, value in asdict(found).items():
        if value is None:
            text = "the kernel's own choice"
        elif name.endswith("_requests_per_second"):
            text = f"{value}/s" if value else "not throttled"
        elif name.endswith("_per_second"):
            text = f"{words.size(value)}/s" if value else "not throttled"
        elif name.endswith("_bytes"):
            text = words.size(value)
        elif name == "image_sizes":
            text = ", ".join(words.image_size(each) for each in value)
        elif isinstance(value, tuple):
            text = ", ".join(map(str, value))
        else:
            text = str(value)
        rows.append((name, text))
    return rows


def _raw(section: Section, links: Mapping[str, str]) -> str:
    if not section.samples:
        return ""
    where = [f"[{links[each]}]({links[each]})" for each in section.files if each in links]
    header, rows = tables.raw(section.samples)
    lines = ["<details>", "<summary>Every sample</summary>", ""]
    if where:
        lines += [f"From {', '.join(where)}, where the consoles of failed cycles are too.", ""]
    return "\n".join([*lines, words.markdown(header, rows, left=3), "</details>", ""])


def _reproduce(found: Sequence[Section], links: Mapping[str, str]) -> str:
    known = [links[name] for section in found for name in section.files if name in links]
    where = f"\nRESULTS: {', '.join(f'[{each}]({each})' for each in known)}.\n" if known else ""
    return f"""## Reproduce

The same on another machine, with the parameters of a results file; a page of it; and what differs:

```
python -m bench hibernate --like RESULTS --output NEW
python -m bench report NEW --output PAGE
python -m bench compare RESULTS NEW
```
{where}"""


def _picture(pictures: Mapping[str, str], name: str) -> str:
    if name not in pictures:
        return ""
    return f"![{_ALT[name]}]({pictures[name]})\n\n{_CAPTIONS[name]}\n"
