# SPDX-License-Identifier: LGPL-2.1-or-later
"""What bringing memory back is worth, in a sentence or two. Pure."""

from __future__ import annotations

from bench.experiment.parameters import DEFAULT_IMAGE_SIZE
from bench.experiment.sample import Condition, Sample, WorkloadKind
from bench.report import words
from bench.report.groups import TOUCH, USABLE, by_condition, groups, measured
from bench.report.sections import Section


def sentences(section: Section) -> str:
    """Of every size of the working set for which it was measured; "" when there is none."""
    found = [
        _of(section, rows)
        for group in groups(section.samples)
        if group.workload is WorkloadKind.WARM and group.image_size == DEFAULT_IMAGE_SIZE
        for rows in [by_condition(section.samples, group)]
    ]
    return "\n".join(each for each in found if each)


def _of(section: Section, rows: dict[Condition, list[Sample]]) -> str:
    out, back = rows.get(Condition.ALL_OUT, []), rows.get(Condition.ALL_BACK, [])
    slow, fast = measured(out, TOUCH), measured(back, TOUCH)
    late, soon = measured(out, USABLE), measured(back, USABLE)
    if slow is None or fast is None or late is None or soon is None:
        return ""
    ratio = rows[Condition.ALL_BACK][0].warm_ratio
    text = (
        f"With everything reclaimed before, a working set of {words.percent(ratio)} of "
        f"{words.size(section.parameters.memory_bytes)} included, the guest was usable "
        f"**{words.number(slow.median)} s** after its first answer where memory came back page by "
        f"page, and **{words.number(fast.median)} s** after it where hibprep read it back: "
        f"{words.times(slow.median / fast.median)}. From power-on that is "
        f"{words.number(late.median)} s and {words.number(soon.median)} s"
    )
    vanilla = measured(rows.get(Condition.VANILLA, []), USABLE)
    if vanilla:
        text += f", and {words.number(vanilla.median)} s as it was"
    runs = words.counted(min(slow.count, fast.count), "run", "runs")
    return f"{text}. The disk: {_disk(section)}. Medians of {runs}.\n"


def _disk(section: Section) -> str:
    parameters = section.parameters
    rate, requests = parameters.disk_bytes_per_second, parameters.disk_requests_per_second
    speed = f"{words.size(rate)}/s" if rate else "as fast as it is"
    if requests:
        return f"{speed}, in no more than {requests} requests a second"
    return f"{speed}, without any latency"
