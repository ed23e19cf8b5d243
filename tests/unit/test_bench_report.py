# SPDX-License-Identifier: LGPL-2.1-or-later
"""What is made of results: figures, tables, the page and its pictures. The samples are made up."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from statistics import median
from xml.etree import ElementTree as ET

import pytest
from click.testing import CliRunner, Result
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.__main__ import main
from bench.experiment.parameters import GIB, Parameters
from bench.experiment.results import Calibration, Results, header_line, sample_line
from bench.experiment.sample import OF_HIBPREP, Arrangement, Condition, Sample, WorkloadKind
from bench.report import comingback, figures, plots, reference, render, tables, words
from bench.report.comparison import compare
from bench.report.groups import (
    HIBERNATE,
    SLOWEST_PASS,
    USABLE,
    Group,
    by_condition,
    floor,
    group_of,
    groups,
    intact,
    measured,
)
from bench.report.phases import phases, story, usual
from bench.report.sections import Section, sections

PAGE = 4096
MB = 1_000_000
COLD = Group(WorkloadKind.COLD, Arrangement.APART, 0.0, "default")
WARM = Group(WorkloadKind.WARM, Arrangement.APART, 0.1, "default")
NONE = Group(WorkloadKind.NONE, Arrangement.APART, 0.0, "default")
MACHINE = {"processor": "Some processor", "processors": "2", "kernel": "6.1.0"}
PLAN = Parameters(workloads=(WorkloadKind.COLD, WorkloadKind.WARM), runs=3)

# prepare, hibernate, resume, usable, image MB, compressed MB, shrink, write, read, swap MB, pass
Row = tuple[float, float, float, float, int, int, float, float, float, int, float]
ROWS: dict[tuple[Condition, Group], Row] = {
    (Condition.IDLE, NONE): (0, 7.6, 12.4, 12.4, 278, 79, 0.2, 1.1, 1, 0, 0),
    (Condition.VANILLA, COLD): (0, 81, 40, 40.4, 3028, 1505, 52.3, 24, 27, 3900, 0),
    (Condition.DROPCACHES, COLD): (0.6, 76, 39, 39.4, 3001, 1500, 48, 23, 26, 3850, 0),
    (Condition.ONELINER, COLD): (62, 8.1, 11.4, 12, 300, 90, 0.3, 1.3, 1.2, 6800, 0),
    (Condition.HIBPREP, COLD): (65, 8.3, 11.5, 12, 310, 92, 0.3, 1.3, 1.2, 6800, 0),
    (Condition.HIBPREPD, COLD): (12, 8.4, 11.6, 12, 312, 93, 0.3, 1.3, 1.2, 6800, 0),
    (Condition.VANILLA, WARM): (0, 82, 41, 50, 3028, 1505, 53, 24, 28, 3900, 0.09),
    (Condition.ONELINER, WARM): (64, 8.2, 11.3, 20.7, 310, 95, 0.3, 1.4, 1.2, 6800, 16.6),
    (Condition.HIBPREP, WARM): (56, 11, 15, 15.3, 1300, 650, 0.3, 3.4, 3.2, 6000, 0.1),
}
# by which the runs differ
DRIFT = (1.0, 1.05, 0.98)


def sample(condition: Condition, group: Group, run: int, scale: float | None = None) -> Sample:
    row = ROWS[condition, group if group in (COLD, WARM, NONE) else WARM]
    factor = DRIFT[run % 3] if scale is None else scale
    seconds = [round(each * factor, 3) for each in row]
    return Sample(
        condition=condition,
        workload=group.workload,
        arrangement=group.arrangement,
        warm_ratio=group.warm_ratio,
        image_size=group.image_size,
        run=run,
        kernel="6.12.57-cloud-amd64",
        accelerator="tcg",
        code="0123456789ab" if condition in OF_HIBPREP else "",
        started="2026-01-01T00:00:00+00:00",
        prepare_seconds=seconds[0],
        hibernate_seconds=seconds[1],
        resume_seconds=seconds[2],
        usable_seconds=seconds[3],
        image_pages=row[4] * MB // PAGE,
        image_compressed_bytes=row[5] * MB,
        shrink_seconds=seconds[6],
        write_seconds=seconds[7],
        read_seconds=seconds[8],
        swap_used_bytes=row[9] * MB,
        usual_pass_seconds=0.08 if group.warm_ratio else 0.0,
        slowest_pass_seconds=seconds[10],
        intact=None if condition is Condition.IDLE else True,
    )


def every(runs: int = 3) -> list[Sample]:
    return [sample(*key, run) for key, run in product(ROWS, range(runs))]


FAILED = replace(
    sample(Condition.DROPCACHES, COLD, 3),
    hibernate_seconds=9999.0,
    resume_seconds=None,
    intact=None,
    failure="no answer within 600 s | the console ends in\n<a panic>",
    console="much text",
)
DAMAGED = replace(sample(Condition.VANILLA, COLD, 3), hibernate_seconds=9999.0, intact=False)


def write(path: Path, samples: Sequence[Sample], plan: Parameters = PLAN) -> str:
    lines = [header_line(plan, MACHINE), *map(sample_line, samples)]
    path.write_text("".join(f"{line}\n" for line in lines))
    return str(path)


def run(*words_given: str) -> Result:
    return CliRunner().invoke(main, list(words_given))


def section(samples: Sequence[Sample], plan: Parameters = PLAN) -> Section:
    return sections([("results", Results(plan, MACHINE, samples=tuple(samples)))])[0]


# --- figures ------------------------------------------------------------------------------------

SECONDS = st.floats(0.01, 1000)
# thousands of resamples each time
slow = settings(max_examples=25, deadline=None)
PAIRS = st.lists(st.tuples(SECONDS, SECONDS), min_size=2, max_size=12)


@given(st.lists(SECONDS, min_size=1))
def test_the_median_is_within_its_spread_whatever_the_order(values: list[float]) -> None:
    found = figures.spread(values)
    assert found is not None
    assert (found.least, found.most, found.count) == (min(values), max(values), len(values))
    assert found.least <= found.median <= found.most
    assert figures.spread(sorted(values)) == figures.spread(values[::-1]) == found


def test_what_was_not_measured_is_in_no_median() -> None:
    assert figures.spread([None, 3.0, 1.0, None]) == figures.Spread(2.0, 1.0, 3.0, 2)
    assert figures.spread([None]) is None


@slow
@given(PAIRS)
def test_the_interval_holds_the_ratio(pairs: list[tuple[float, float]]) -> None:
    ratio, found = figures.ratio_of_medians(pairs), figures.paired_interval(pairs)
    assert ratio is not None
    assert found is not None
    assert ratio in found
    assert figures.paired_interval(pairs[::-1]) == found


@slow
@given(PAIRS, st.sampled_from([0.25, 2.0, 8.0]))
def test_what_is_twice_as_long_is_so_in_its_interval(
    pairs: list[tuple[float, float]], factor: float
) -> None:
    before = figures.paired_interval(pairs)
    after = figures.paired_interval([(first, second * factor) for first, second in pairs])
    assert before is not None
    assert after is not None
    assert after.low == pytest.approx(before.low * factor)
    assert after.high == pytest.approx(before.high * factor)


def test_the_same_ratio_in_every_pair_is_certain() -> None:
    pairs = [(10.0, 5.0), (20.0, 10.0), (30.0, 15.0)]
    assert figures.paired_interval(pairs) == figures.Interval(0.5, 0.5)


def test_pairs_narrow_the_interval() -> None:
    # what disturbs a run disturbs it in both files: seen as pairs, B is quicker each time
    pairs = [(10.0 + 5 * index, 9.0 + 4.5 * index) for index in range(6)]
    found = figures.paired_interval(pairs)
    assert found is not None
    assert found.high < 1


@pytest.mark.parametrize("pairs", [[], [(1.0, 2.0)], [(0.0, 2.0), (1.0, 2.0)]])
def test_no_interval_without_pairs_or_with_nothing_to_divide_by(
    pairs: list[tuple[float, float]],
) -> None:
    assert figures.paired_interval(pairs) is None


# --- groups and tables --------------------------------------------------------------------------


def test_the_idle_guest_is_the_floor_of_every_workload_of_its_image_size() -> None:
    other = replace(sample(Condition.IDLE, NONE, 0), image_size="0", hibernate_seconds=1.0)
    samples = [*every(), other]
    assert groups(samples) == [COLD, WARM, replace(NONE, image_size="0")]
    for group in (COLD, WARM):
        found = floor(by_condition(samples, group), HIBERNATE)
        assert found is not None
        assert (found.median, found.count) == (7.6, 3)


def test_the_floor_is_usable_once_it_answers() -> None:
    idle = replace(sample(Condition.IDLE, NONE, 0), usable_seconds=None)
    found = floor({Condition.IDLE: [idle]}, USABLE)
    assert found is not None
    assert found.median == 12.4


def test_failed_and_damaged_cycles_are_counted_and_not_measured() -> None:
    samples = [*every(), FAILED, DAMAGED]
    header, rows = tables.times(samples, COLD)
    table = {row[0]: dict(zip(header, row, strict=True)) for row in rows}
    assert table["dropcaches"]["runs"] == table["vanilla"]["runs"] == "3 (1 failed)"
    assert "9999" not in str(tables.times(samples, COLD))
    assert intact([each for each in samples if each.condition is Condition.VANILLA]) == "6/7"
    reasons = [row[-1] for row in tables.failures(samples)[1]]
    assert reasons == ["came back damaged", FAILED.failure]


def test_ratios_are_of_medians() -> None:
    header, rows = tables.ratios(every(), COLD)
    found = {row[0]: dict(zip(header, row, strict=True)) for row in rows}
    assert found["hibprep"]["hibernate ÷ floor"] == f"{8.3 / 7.6:.2f}×"
    assert found["hibprep"]["hibernate ÷ vanilla"] == f"{8.3 / 81:.2f}×"
    assert found["idle"]["resume ÷ floor"] == "1.00×"


def test_a_column_in_which_nothing_was_measured_is_left_out() -> None:
    blank = [replace(each, read_seconds=None) for each in every()]
    assert "read, s" not in tables.details(blank, COLD)[0]
    assert "read, s" in tables.details(every(), COLD)[0]
    # the programs of a workload without a working set answer 0
    assert "slowest pass, s" not in tables.details(every(), COLD)[0]
    assert "slowest pass, s" in tables.details(every(), WARM)[0]
    assert measured([sample(Condition.VANILLA, COLD, 0)], SLOWEST_PASS) is None


def test_no_text_can_break_a_table() -> None:
    table = words.markdown(["a", "b"], [["x|y\nz", "<details>"]])
    assert table.splitlines()[2:] == ["| x\\|y z | &lt;details> |"]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (0.0312, "0.031"),
        (0.5, "0.50"),
        (8.257, "8.26"),
        (49.07, "49.1"),
        (1505.4, "1505"),
    ],
)
def test_three_digits_count(value: float, text: str) -> None:
    assert words.number(value) == text


@settings(max_examples=25, deadline=None)
@given(st.permutations(every()))
def test_the_order_of_samples_makes_no_difference(samples: list[Sample]) -> None:
    for group in (COLD, WARM):
        assert tables.times(samples, group) == tables.times(every(), group)
        assert tables.details(samples, group) == tables.details(every(), group)


# --- the reference ------------------------------------------------------------------------------


def test_theirs_is_what_they_published() -> None:
    assert [
        (row.image_size, row.measure.name, row.before, row.after) for row in reference.THEIRS
    ] == [
        ("default", "hibernate", 49.07, 3.40),
        ("default", "resume", 18.35, 7.13),
        ("0", "hibernate", 71.55, 4.72),
        ("0", "resume", 7.49, 7.41),
    ]


def test_ours_stands_beside_theirs() -> None:
    first, _, third, _ = reference.beside(every())
    assert first.factor == pytest.approx(81 / 8.3)
    assert first.over_floor == pytest.approx(81 / 7.6)
    assert (third.vanilla, third.factor) == (None, None)
    assert reference.table([first])[1][0][3] == "81.0 → 8.30"


def test_in_what_ours_was_another_experiment() -> None:
    assert reference.unlike(Parameters()) == []
    small = Parameters(memory_bytes=GIB, settle_seconds=10, disk_bytes_per_second=0, fill_ratio=0.5)
    assert reference.unlike(Parameters(disk_requests_per_second=500)) == ["disks of 500 requests/s"]
    assert reference.unlike(small) == [
        "1 GiB of memory",
        "disks that are not throttled",
        "50 % filled",
        "10.0 s of rest",
    ]


# --- coming back --------------------------------------------------------------------------------


def taken(condition: Condition, usable_seconds: float, run: int) -> Sample:
    return replace(
        sample(Condition.ONELINER, WARM, run, 1.0),
        condition=condition,
        resume_seconds=10.0 + run,
        usable_seconds=usable_seconds + run,
    )


def test_what_bringing_back_is_worth() -> None:
    found = [
        taken(condition, seconds, number)
        for condition, seconds in ((Condition.ALL_OUT, 38.0), (Condition.ALL_BACK, 17.0))
        for number in range(2)
    ]
    text = comingback.sentences(section(found, replace(PLAN, disk_requests_per_second=500)))
    assert "usable **28.0 s** after its first answer" in text
    assert "**7.00 s** after it where hibprep read it back: 4.00×" in text
    assert "38.5 s and 17.5 s" in text
    assert "100 MiB/s, in no more than 500 requests a second" in text
    assert "as it was" not in text
    assert "Medians of 2 runs" in text
    found.append(sample(Condition.VANILLA, WARM, 0, 1.0))
    text = comingback.sentences(section(found))
    assert "and 50.0 s as it was" in text
    assert "without any latency" in text


def test_of_what_was_not_measured_nothing_is_said() -> None:
    alone = [taken(Condition.ALL_OUT, 38.0, 0)]
    assert comingback.sentences(section(alone)) == ""
    failed = replace(taken(Condition.ALL_BACK, 17.0, 0), failure="it was still there")
    assert comingback.sentences(section([*alone, failed])) == ""
    assert comingback.sentences(section(every())) == ""


# --- phases -------------------------------------------------------------------------------------


def test_phases_are_parts_of_the_whole() -> None:
    rows = by_condition([*every(), FAILED], WARM)
    for condition, mine in rows.items():
        found = phases(condition, mine)
        hibernates = [each.hibernate_seconds or 0 for each in mine]
        assert found.down == pytest.approx(median(hibernates))
        assert found.back == pytest.approx(median(each.usable_seconds or 0 for each in mine))
        assert min(found.shrink, found.write, found.other, found.boot, found.read, found.touch) >= 0


def test_phases_never_exceed_the_whole() -> None:
    odd = replace(sample(Condition.VANILLA, COLD, 0), shrink_seconds=90, read_seconds=90)
    found = phases(Condition.VANILLA, [odd])
    assert (found.shrink, found.write, found.other, found.down) == (81, 0, 0, 81)
    assert (found.boot, found.read) == (0, 40)
    assert phases(Condition.DROPCACHES, [FAILED]).down == 0


def test_the_usual_group_is_shown_first() -> None:
    others = [
        replace(WARM, warm_ratio=0.3),
        replace(WARM, image_size="0"),
        replace(WARM, arrangement=Arrangement.TOGETHER),
    ]
    samples = [sample(Condition.VANILLA, group, 0) for group in (*others, WARM)]
    assert usual(samples, WorkloadKind.WARM) == WARM
    assert usual(samples, WorkloadKind.COLD) is None
    assert [group for group, _ in story([*samples, *every()])] == [COLD, WARM]


# --- comparing ----------------------------------------------------------------------------------


def results(samples: Sequence[Sample], plan: Parameters = PLAN) -> Results:
    return Results(plan, MACHINE, samples=tuple(samples))


def test_b_is_compared_with_a_by_group_and_condition() -> None:
    faster = [
        replace(each, hibernate_seconds=(each.hibernate_seconds or 0) / 2)
        if each.condition is Condition.VANILLA
        else each
        for each in every(6)
    ]
    found = compare(results(every(6)), results(faster))
    lines = {(line.group, line.condition, line.time): line for line in found.lines}
    line = lines[COLD, Condition.VANILLA, "hibernate"]
    assert (line.ratio, line.pairs, line.reading) == (0.5, 6, "B takes less")
    same = lines[COLD, Condition.HIBPREP, "hibernate"]
    assert same.interval == figures.Interval(1.0, 1.0)
    assert "includes 1" in same.reading
    # nothing is prepared: there is no ratio
    assert (COLD, Condition.VANILLA, "prepare") not in lines
    assert (COLD, Condition.HIBPREP, "prepare") in lines
    assert found.notes == ()


def test_with_one_pair_there_is_no_interval() -> None:
    found = compare(results(every(1)), results(every(3)))
    assert {line.reading for line in found.lines} == {"no interval: 1 pair"}


def test_few_pairs_are_said_to_be_few() -> None:
    slower = [
        replace(each, hibernate_seconds=(each.hibernate_seconds or 0) * 2) for each in every()
    ]
    found = compare(results(every()), results(slower))
    assert found.lines[0].reading == "B takes longer, by few pairs"
    assert any("fewer than 5 pairs" in note for note in found.notes)


def test_runs_that_have_no_other_are_told_and_failed_ones_left_out() -> None:
    second = [sample(Condition.IDLE, NONE, 7), DAMAGED]
    found = compare(results([*every(), FAILED]), results(second))
    assert found.lines == ()
    notes = "\n".join(found.notes)
    assert "no run in common: none, image_size default: idle" in notes
    assert "only in A: cold, image_size default: vanilla, dropcaches, oneliner, hibprep" in notes
    assert "A: left out: cold, image_size default: dropcaches, run 4: no answer" in notes
    assert "B: left out: cold, image_size default: vanilla, run 4: came back damaged" in notes


def test_a_cycle_that_was_measured_again_counts_once() -> None:
    again = sample(Condition.VANILLA, COLD, 0, scale=2.0)
    failed = replace(sample(Condition.VANILLA, COLD, 0), failure="no answer")
    found = compare(results([failed, sample(Condition.VANILLA, COLD, 0)]), results([again]))
    assert {line.ratio for line in found.lines} == {2.0}


def test_what_was_measured_differently_is_told() -> None:
    other = [replace(each, accelerator="kvm", kernel="7.2.12") for each in every(2)]
    plan = replace(PLAN, memory_bytes=4 * GIB, runs=2, workloads=(WorkloadKind.COLD,))
    notes = compare(results(every(2)), results(other, plan)).notes
    told = [note for note in notes if note.startswith("measured differently")]
    assert [note.split(" is ")[0].split(": ")[1] for note in told] == [
        "memory_bytes",
        "the guests' kernel",
        "the guests' accelerator",
    ]


# --- sections -----------------------------------------------------------------------------------


def test_files_that_were_measured_alike_are_one_section() -> None:
    cold = [each for each in every() if each.workload is not WorkloadKind.WARM]
    warm = [each for each in every() if each.workload is WorkloadKind.WARM]
    small = replace(PLAN, memory_bytes=4 * GIB)
    found = sections(
        [
            ("a", results(cold, replace(PLAN, workloads=(WorkloadKind.COLD,)))),
            ("b", results(every(), small)),
            ("c", results(warm, replace(PLAN, workloads=(WorkloadKind.WARM,), runs=5))),
        ]
    )
    assert [each.files for each in found] == [("a", "c"), ("b",)]
    assert found[0].parameters == replace(PLAN, runs=5)
    assert len(found[0].samples) == len(every())


def test_emulated_and_not_are_never_mixed() -> None:
    fast = [replace(each, accelerator="kvm") for each in every()]
    found = sections([("a", results(every())), ("b", results(fast))])
    assert [each.emulated for each in found] == [True, False]


def test_all_plans_of_a_file_are_in_its_parameters() -> None:
    plans = (
        replace(PLAN, workloads=(WorkloadKind.COLD,)),
        replace(PLAN, workloads=(WorkloadKind.WARM,)),
    )
    both = Results(plans[-1], MACHINE, plans, samples=tuple(every()))
    assert sections([("a", both)])[0].parameters == PLAN


def test_hibpreps_samples_of_earlier_code_are_left_out_and_counted() -> None:
    earlier = replace(sample(Condition.HIBPREP, COLD, 0, scale=3), code="earlier")
    found = section([earlier, *every()])
    assert found.outdated == 1
    assert earlier not in found.samples
    assert "1 sample of earlier code left out" in render.page([found], [{}], {})


# --- the page -----------------------------------------------------------------------------------


def small_page(accelerator: str = "tcg") -> str:
    samples = [replace(each, accelerator=accelerator) for each in [*every(), FAILED]]
    made = results(samples)
    calibration = Calibration(5.5, 4e7, 7.6, 28.3, 68000, 280000)
    found = sections([("results/a.jsonl", replace(made, calibration=calibration))])
    pictures = {name: f"benchmarks/{name}.svg" for name in ("story", "image-size", "runs")}
    return render.page(found, [pictures], {"results/a.jsonl": "../results/a.jsonl"})


def test_the_page(golden: Callable[[str, str], None]) -> None:
    golden("benchmarks.md", small_page())


def test_the_fixed_cost_is_told_of_emulation_only() -> None:
    assert "emulated" in small_page()
    assert "emulat" not in small_page("kvm")


def test_a_picture_that_is_not_there_is_not_linked() -> None:
    assert ".svg" not in render.page([section(every())], [{}], {})


def test_a_page_without_samples() -> None:
    text = render.page([section([])], [{}], {})
    assert "Nothing has been measured yet." in text
    assert "memory_bytes | 8 GiB" in text


def test_every_parameter_is_on_the_page() -> None:
    names = [name for name, _ in render.parameters(PLAN)]
    assert names == list(Parameters.__slots__)


# --- the pictures -------------------------------------------------------------------------------


def several_working_sets() -> list[Sample]:
    found = list(every())
    for ratio, arrangement in product((0.05, 0.2), Arrangement):
        group = replace(WARM, warm_ratio=ratio, arrangement=arrangement)
        conditions = (Condition.VANILLA, Condition.ONELINER, Condition.HIBPREP)
        found += [sample(condition, group, 0) for condition in conditions]
    return found


def test_pictures_are_xml_and_the_same_each_time() -> None:
    first = plots.pictures(several_working_sets(), 0.85)
    assert tuple(first) == plots.NAMES
    for content in first.values():
        tree = ET.fromstring(content)  # noqa: S314 - written by ourselves
        assert tree.tag == "{http://www.w3.org/2000/svg}svg"
        assert b"<text" not in content  # no font is needed to look at it
        assert b"dc:date" not in content
    assert plots.pictures(several_working_sets(), 0.85) == first


def test_pictures_are_the_same_in_another_process(tmp_path: Path) -> None:
    source = write(tmp_path / "a.jsonl", every(1))
    pages = []
    for name in ("one", "two"):
        page = tmp_path / name / "page.md"
        page.parent.mkdir()
        command = [sys.executable, "-m", "bench", "report", source, "--output", str(page)]
        subprocess.run(command, check=True, capture_output=True, cwd=Path(__file__).parents[2])
        pages.append({each.name: each.read_bytes() for each in page.parent.rglob("*.*")})
    assert pages[0] == pages[1]
    assert set(pages[0]) == {"page.md", "story.svg", "image-size.svg", "runs.svg"}


def test_no_picture_without_data() -> None:
    assert plots.pictures([], 0.85) == {}
    assert plots.pictures([FAILED], 0.85) == {}
    unknown = [replace(each, image_pages=None) for each in every()]
    assert tuple(plots.pictures(unknown, 0.85)) == ("story", "runs")
    idle = [sample(Condition.IDLE, NONE, 0)]
    assert tuple(plots.pictures(idle, 0.85)) == ("image-size", "runs")
    failed = [*every(), replace(FAILED, condition=Condition.DAMON_RECLAIM)]
    assert "story" in plots.pictures(failed, 0.85)


# --- the commands -------------------------------------------------------------------------------


def test_report_writes_a_page_with_pictures_that_are_there(tmp_path: Path) -> None:
    first = write(tmp_path / "a.jsonl", [*several_working_sets(), FAILED])
    second = write(tmp_path / "b.jsonl", every(), replace(PLAN, memory_bytes=4 * GIB))
    page = tmp_path / "docs" / "benchmarks.md"
    folder = tmp_path / "docs" / "benchmarks"
    folder.mkdir(parents=True)
    (folder / "story-7.svg").write_text("of before")
    (folder / "runs-by-hand.svg").write_text("somebody's own")
    done = run("report", first, second, "--output", str(page))
    assert done.exit_code == 0, done.output
    text = page.read_text()
    drawn = {path.name for path in folder.glob("*.svg")} - {"runs-by-hand.svg"}
    linked = {part.split(")")[0] for part in text.split("](benchmarks/")[1:]}
    assert drawn == linked
    assert {"story.svg", "story-2.svg", "working-set.svg"} <= drawn
    assert "story-7.svg" not in drawn
    assert (folder / "runs-by-hand.svg").exists()
    assert text.index("benchmarks/story.svg") < text.index("## What is measured")
    assert "## 4 GiB, trixie" in text
    # neither is below the page nor, with it, below where this was run
    assert str(tmp_path) not in text


def test_report_links_results_that_go_with_the_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "results").mkdir()
    (tmp_path / "docs").mkdir()
    write(tmp_path / "results" / "a.jsonl", every(1))
    assert run("report", "results/a.jsonl", "--output", "docs/page.md").exit_code == 0
    assert "](../results/a.jsonl)" in (tmp_path / "docs" / "page.md").read_text()


def test_table_without_results_is_theirs_alone() -> None:
    shown = run("table")
    assert shown.exit_code == 0
    assert "49.07 → 3.40" in shown.output
    assert "ours" not in shown.output
    document = json.loads(run("table", "--json").output)
    assert document["results"] == []
    assert document["reference"][2]["theirs"]["before_seconds"] == 71.55
    assert document["reference"][0]["ours"] is None


def test_table_has_ours_beside_theirs(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", every(), replace(PLAN, memory_bytes=4 * GIB))
    shown = run("table", path)
    assert shown.exit_code == 0
    assert "81.0 → 8.30" in shown.output
    assert "4 GiB of memory" in shown.output
    rows = json.loads(run("table", path, "--json").output)["results"][0]["rows"]
    assert rows[0]["ours"]["hibprep"]["median"] == 8.3
    assert rows[0]["ours"]["vanilla"]["count"] == 3
    other = write(tmp_path / "b.jsonl", [sample(Condition.IDLE, NONE, 0)])
    assert "no samples of vanilla or hibprep" in run("table", other).output


def test_compare_says_whether_1_is_included(tmp_path: Path) -> None:
    first = write(tmp_path / "a.jsonl", every(6))
    slower = [
        replace(each, hibernate_seconds=(each.hibernate_seconds or 0) * 2) for each in every(6)
    ]
    second = write(tmp_path / "b.jsonl", slower)
    shown = run("compare", first, second)
    assert shown.exit_code == 0
    assert "includes 1" in shown.output
    assert "B takes longer" in shown.output
    document = json.loads(run("compare", first, second, "--json").output)
    found = [each for each in document["comparisons"] if each["time"] == "hibernate"]
    assert {each["ratio"] for each in found} == {2.0}
    assert not any(each["includes_1"] for each in found)
    empty = write(tmp_path / "c.jsonl", [])
    assert "Nothing was measured in both." in run("compare", first, empty).output


@pytest.mark.parametrize("command", ["report", "table", "compare"])
def test_a_wrong_file_is_told_with_its_line(tmp_path: Path, command: str) -> None:
    good = write(tmp_path / "good.jsonl", every(1))
    broken = tmp_path / "broken.jsonl"
    broken.write_text(Path(good).read_text() + '{"kind": "sample", "condition": "asleep"}\n')
    number = len(broken.read_text().splitlines())
    done = run(command, good, str(broken))
    assert done.exit_code == 1
    assert f"broken.jsonl:{number}: " in done.output
    broken.write_bytes(b"\xff\xfe\n")
    assert "Error: " in run(command, good, str(broken)).output


@pytest.mark.parametrize(
    "given",
    [
        ["report"],
        ["compare", __file__],
        ["table", "no-such-file"],
        ["report", __file__, "--output", "/"],
    ],
)
def test_wrong_usage_is_exit_code_2(given: list[str]) -> None:
    assert run(*given).exit_code == 2


def test_a_page_needs_a_suffix(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", every(1))
    done = run("report", path, "--output", str(tmp_path / "page"))
    assert done.exit_code == 2
    assert "suffix" in done.output


def test_a_page_that_cannot_be_written_is_told_in_a_line(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", every(1))
    (tmp_path / "page").write_text("a file where the folder is to be")
    done = run("report", path, "--output", str(tmp_path / "page.md"))
    assert done.exit_code == 1
    assert "page" in done.output


def test_only_report_needs_matplotlib() -> None:
    program = (
        "import sys; sys.modules['matplotlib'] = None\n"
        "from bench.__main__ import main\n"
        "main(['table'], prog_name='bench')"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        check=False,
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    assert done.returncode == 0, done.stderr
    assert group_of(every(1)[0]) == NONE
