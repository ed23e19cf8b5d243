# SPDX-License-Identifier: LGPL-2.1-or-later
"""The experiment's own logic: which cycles, in what order, what is kept, what goes on."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Self

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from bench.experiment import cli, cycle, daemon, hook, preparations
from bench.experiment import run as running
from bench.experiment.calibrate import configuration, image_pages, line_through
from bench.experiment.loads import fill_of, root_bytes
from bench.experiment.parameters import GIB, Parameters
from bench.experiment.preparations import request
from bench.experiment.results import (
    ResultsError,
    calibration_line,
    header_line,
    load,
    parse,
    sample_line,
    valid,
)
from bench.experiment.run import Step, open_results
from bench.experiment.sample import OF_HIBPREP, Arrangement, Condition, Sample, WorkloadKind
from bench.experiment.schedule import (
    Cell,
    cell_of,
    cells,
    expected_seconds,
    floor_seconds,
    still_to_do,
)
from bench.lab import ConsoleFacts, GuestTimeout, LabError, Result, qemu
from bench.lab.paths import REPOSITORY
from hibprep.config import load as load_config
from hibprep.model import Stage, Target, TargetKind

WARM = Parameters(
    workloads=(WorkloadKind.COLD, WorkloadKind.WARM),
    arrangements=tuple(Arrangement),
    warm_ratios=(0.05, 0.25),
    image_sizes=("default",),
)
IDLE = Sample(
    condition=Condition.IDLE,
    workload=WorkloadKind.NONE,
    image_size="default",
    run=0,
    hibernate_seconds=7.5,
)


def sample_for(cell: Cell, **values: Any) -> Sample:  # noqa: ANN401 - fields of Sample
    return Sample(
        condition=cell.condition,
        workload=cell.workload,
        arrangement=cell.arrangement,
        warm_ratio=cell.warm_ratio,
        image_size=cell.image_size,
        run=cell.run,
        hibernate_seconds=10.0,
        resume_seconds=12.0,
        usable_seconds=13.0,
        **values,
    )


# --- the schedule -------------------------------------------------------------------------------


@given(
    runs=st.integers(1, 5),
    conditions=st.lists(st.sampled_from(Condition), unique=True, min_size=1),
    sizes=st.lists(st.sampled_from(["default", "0", "1000000"]), unique=True, min_size=1),
    workloads=st.lists(
        st.sampled_from([each for each in WorkloadKind if each is not WorkloadKind.NONE]),
        unique=True,
        min_size=1,
    ),
)
def test_every_cycle_is_there_once_and_the_floor_is_measured_first(
    runs: int, conditions: list[Condition], sizes: list[str], workloads: list[WorkloadKind]
) -> None:
    plan = Parameters(
        runs=runs,
        conditions=tuple(conditions),
        image_sizes=tuple(sizes),
        workloads=tuple(workloads),
    )
    found = cells(plan)
    assert max(Counter(found).values(), default=1) == 1
    idle = Condition.IDLE in conditions
    every = runs * len(sizes) * ((len(conditions) - idle) * len(workloads) + idle)
    left_out = Condition.HIBPREPD in conditions and "default" in sizes
    assert len(found) == every - left_out * runs * (len(sizes) - 1) * len(workloads)
    for size in sizes:
        mine = [cell for cell in found if cell.image_size == size]
        if idle:
            assert mine[0].condition is Condition.IDLE


def test_the_order_is_rotated_from_run_to_run() -> None:
    plan = Parameters(image_sizes=("default",))
    by_run: dict[int, list[Condition]] = {}
    for cell in cells(plan):
        if cell.condition is not Condition.IDLE:
            by_run.setdefault(cell.run, []).append(cell.condition)
    first, second, third = by_run.values()
    assert second == [*first[1:], first[0]]
    assert third == [*second[1:], second[0]]


@pytest.mark.parametrize(
    ("sizes", "measured"),
    [
        (("default", "0"), {"default"}),
        (("0", "1000000"), {"0", "1000000"}),
        (("default",), {"default"}),
    ],
)
def test_the_daemon_is_left_out_of_small_image_sizes_unless_they_are_all_that_is_asked_for(
    sizes: tuple[str, ...], measured: set[str]
) -> None:
    found = cells(Parameters(image_sizes=sizes))
    mine = [cell.image_size for cell in found if cell.condition is Condition.HIBPREPD]
    assert set(mine) == measured
    others = [cell.image_size for cell in found if cell.condition is Condition.HIBPREP]
    assert set(others) == set(sizes)


def test_only_a_working_set_comes_in_several_sizes_and_arrangements() -> None:
    found = [cell for cell in cells(replace(WARM, runs=1)) if cell.condition is Condition.VANILLA]
    assert [(cell.workload, cell.warm_ratio, cell.arrangement) for cell in found] == [
        (WorkloadKind.COLD, 0.0, Arrangement.APART),
        (WorkloadKind.WARM, 0.05, Arrangement.APART),
        (WorkloadKind.WARM, 0.05, Arrangement.TOGETHER),
        (WorkloadKind.WARM, 0.25, Arrangement.APART),
        (WorkloadKind.WARM, 0.25, Arrangement.TOGETHER),
    ]


def test_a_run_goes_on_where_it_was() -> None:
    everything = cells(WARM)
    done = [sample_for(cell, code="a") for cell in everything[:7]]
    assert still_to_do(WARM, done, "a", failed_too=False) == everything[7:]
    assert [cell_of(each) for each in done] == everything[:7]


def test_samples_of_hibprep_count_only_when_they_are_of_this_code() -> None:
    everything = cells(WARM)
    done = [sample_for(cell, code="old") for cell in everything]
    left = still_to_do(WARM, done, "new", failed_too=False)
    assert left == [cell for cell in everything if cell.condition in OF_HIBPREP]


def test_a_cycle_that_failed_is_repeated_only_when_asked_for() -> None:
    plan = replace(WARM, runs=1)
    done = [sample_for(cell, code="a", failure="it did") for cell in cells(plan)]
    assert still_to_do(plan, done, "a", failed_too=False) == []
    assert still_to_do(plan, done, "a", failed_too=True) == cells(plan)


def test_the_floor_is_the_median_of_idle_guests_that_came_back() -> None:
    found = [
        replace(IDLE, run=run, hibernate_seconds=seconds)
        for run, seconds in enumerate([7.0, 9.0, 8.0])
    ]
    found.append(replace(IDLE, run=3, hibernate_seconds=90.0, failure="no"))
    found.append(replace(IDLE, image_size="0", hibernate_seconds=41.0))
    assert floor_seconds(found, "default") == 8.0
    assert floor_seconds(found, "0") == 41.0
    assert floor_seconds([], "0") is None


def test_the_time_left_is_made_of_what_was_measured() -> None:
    plan = replace(WARM, runs=2)
    left = [cell for cell in cells(plan) if cell.condition is Condition.VANILLA]
    assert expected_seconds(left, [], plan) > 60 * len(left)
    spent = [(left[0], 100.0), (left[1], 200.0)]
    cold = sum(cell.workload is WorkloadKind.COLD for cell in left)
    assert expected_seconds(left, spent, plan) == cold * 100.0 + (len(left) - cold) * 200.0


# --- results files ------------------------------------------------------------------------------


def test_a_results_file_comes_back_as_it_was() -> None:
    line = line_through((60000, 7.0), (160000, 15.0))
    samples = [sample_for(cell, code="a", intact=True) for cell in cells(WARM)]
    text = "\n".join(
        [
            header_line(WARM, {"processor": "fast"}),
            calibration_line(line),
            *(sample_line(each) for each in samples),
            "",
        ]
    )
    found = parse(text)
    assert found.parameters == WARM
    assert (found.machine, found.calibration) == ({"processor": "fast"}, line)
    assert list(found.samples) == samples
    # cut anywhere in the last line, all but that is left
    assert parse(text[:-30]).samples == tuple(samples[:-1])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "empty"),
        ("no json\n", "x:1:"),
        ('{"kind": "sample"}\n', "x:1:"),
        ('{"kind": "what"}\n', "x:1: no kind of line: 'what'"),
        ('{"kind": "header", "format": 99}\n', "x:1: format 99"),
        ("[]\n", "x:1:"),
        (sample_line(IDLE) + "\n", "x:1: the header is missing"),
    ],
)
def test_what_is_no_results_file_is_told_with_its_line(text: str, said: str) -> None:
    with pytest.raises(ResultsError, match=said):
        parse(text, "x")


def test_only_the_newest_code_counts() -> None:
    old, new = (
        replace(IDLE, condition=Condition.HIBPREP, code=code, run=run)
        for code, run in (("old", 0), ("new", 0))
    )
    text = "\n".join([header_line(WARM, {}), *map(sample_line, (IDLE, old, new)), ""])
    assert valid(parse(text)) == [IDLE, new]
    # the two of them are compared: of one code
    daemons = [replace(each, condition=Condition.HIBPREPD) for each in (old, new)]
    text = "\n".join([text.rstrip(), *map(sample_line, daemons), ""])
    assert valid(parse(text)) == [IDLE, new, daemons[1]]


def test_a_file_goes_on_only_with_the_same_kind_of_guest(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    assert open_results(path, [WARM]) is None
    path.write_text(header_line(WARM, {}) + "\n")
    assert open_results(path, [replace(WARM, runs=9, workloads=(WorkloadKind.TMPFS,))])
    with pytest.raises(ResultsError, match=r"memory_bytes .*--output"):
        open_results(path, [replace(WARM, memory_bytes=GIB)])


class FakeLab:
    """In the place of guests: every cycle comes to a sample at once, or the run is killed."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.measured: list[Cell] = []
        self.budgets: list[float | None] = []
        self.dies_at: int | None = None
        image = SimpleNamespace(kernel_release="6.12")
        monkeypatch.setattr(running, "build", lambda *_: image)
        monkeypatch.setattr(qemu, "find", lambda *_: SimpleNamespace(version="10.0"))
        monkeypatch.setattr(running, "build_wheel", lambda: Path("wheel"))
        monkeypatch.setattr(running, "code_key", lambda: "code")
        monkeypatch.setattr(running, "measure", self.measure)
        line = line_through((60000, 7.0), (160000, 15.0))
        monkeypatch.setattr(running, "calibrate", lambda *_: line)
        monkeypatch.setattr(running, "new_guest", lambda *_: FakeGuest())

    def measure(self, _bench: object, cell: Cell, budget: float | None, _tell: object) -> Sample:
        if len(self.measured) == self.dies_at:
            raise KeyboardInterrupt
        self.measured.append(cell)
        self.budgets.append(budget)
        return sample_for(cell, code="code")


class FakeGuest:
    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def start(self) -> float:
        return 10.0


def test_a_run_that_was_killed_goes_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    lab = FakeLab(monkeypatch)
    lab.dies_at = 5
    path = tmp_path / "deeper" / "r.jsonl"
    with pytest.raises(KeyboardInterrupt):
        running.run(path, [WARM], lambda _: None, failed_too=False)
    with path.open("a") as stream:
        stream.write('{"kind": "sample", "condi')  # killed in the middle of a line
    lab.dies_at = None
    steps: list[Step] = []
    found = running.run(path, [WARM], steps.append, failed_too=False)
    assert lab.measured == cells(WARM)
    assert [cell_of(each) for each in found.samples] == cells(WARM)
    assert found.plans == (WARM,)
    assert (steps[-1].done, steps[-1].left_seconds) == (len(cells(WARM)) - 5, 0.0)
    assert running.run(path, [WARM], steps.append, failed_too=False).samples == found.samples
    more = replace(WARM, runs=4)
    assert len(running.run(path, [more], steps.append, failed_too=False).samples) == len(
        cells(more)
    )
    assert load(path).plans == (WARM, more)


def test_only_hibprep_beside_a_working_set_is_given_a_time(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    lab = FakeLab(monkeypatch)
    running.run(tmp_path / "r.jsonl", [WARM], lambda _: None, failed_too=False)
    for cell, budget in zip(lab.measured, lab.budgets, strict=True):
        wanted = cell.condition in OF_HIBPREP and cell.workload is WorkloadKind.WARM
        assert budget == (20.0 if wanted else None)
    assert request(Condition.HIBPREP, 20.0) == (
        *("hibprep", "hibernate", "--within", "20.00", "--json"),
    )
    assert request(Condition.HIBPREP, None)[2:4] == ("--target", "min")
    assert request(Condition.ONELINER, None) == ("systemctl", "hibernate")
    assert request(Condition.HIBPREPD, 20.0) == ("systemctl", "hibernate")


def test_a_time_needs_a_floor(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    FakeLab(monkeypatch)
    plan = replace(WARM, conditions=(Condition.HIBPREP,))
    with pytest.raises(LabError, match="--condition idle"):
        running.run(tmp_path / "r.jsonl", [plan], lambda _: None, failed_too=False)


# --- what a cycle is made of --------------------------------------------------------------------


@given(
    st.sampled_from(WorkloadKind),
    st.integers(1 * GIB, 64 * GIB),
    st.floats(0.1, 0.95),
    st.floats(0.01, 0.1),
)
def test_workloads_fill_what_they_are_told(
    kind: WorkloadKind, memory_bytes: int, fill_ratio: float, warm_ratio: float
) -> None:
    parameters = Parameters(memory_bytes=memory_bytes, fill_ratio=fill_ratio)
    fill = fill_of(kind, parameters, warm_ratio)
    parts = [getattr(fill, name) for name in fill.__slots__]
    assert min(parts) >= 0
    total = memory_bytes * fill_ratio
    assert sum(parts) == (0 if kind is WorkloadKind.NONE else pytest.approx(total, abs=8))
    assert bool(root_bytes(fill, GIB)) == bool(fill.read_bytes or fill.mapped_bytes)


def test_the_line_through_two_hibernations_is_what_hibprep_is_told(tmp_path: Path) -> None:
    found = line_through((50_000, 7.0), (150_000, 11.0))
    assert found.bytes_per_second == pytest.approx(100_000 * 4096 / 4)
    assert found.fixed_seconds == pytest.approx(5.0)
    file = tmp_path / "hibprep.toml"
    file.write_bytes(configuration(found))
    rates = load_config(str(tmp_path), str(file)).rates()
    assert rates["fixed_hibernate_seconds"] == pytest.approx(5.0)


@pytest.mark.parametrize("fuller", [(50_000, 9.0), (60_000, 6.9)])
def test_no_line_goes_through_points_that_make_no_sense(fuller: tuple[int, float]) -> None:
    with pytest.raises(LabError, match="something else running"):
        line_through((50_000, 7.0), fuller)


def test_pages_are_told_by_every_kernel() -> None:
    assert image_pages(ConsoleFacts(need_to_copy_pages=7)) == 7
    assert image_pages(ConsoleFacts(wrote_bytes=8192)) == 2
    with pytest.raises(LabError, match="how large"):
        image_pages(ConsoleFacts())


# --- the daemon in the guest ----------------------------------------------------------------------


class TalkingGuest:
    """Answers what the bench asks of a daemon: one answer after the other, the last one always."""

    def __init__(self, *shown: str, report: object = None) -> None:
        self.shown = list(shown)
        self.asked = 0
        self.report = report

    def run(self, argv: list[str], **_: object) -> Result:
        text = "journal of the daemon"
        if argv[:2] == ["systemctl", "show"]:
            self.asked += 1
            text = self.shown.pop(0) if len(self.shown) > 1 else self.shown[0]
        if argv[-2:] == ["status", "--json"]:
            text = json.dumps({"running": True, "report": self.report})
        return Result(0, text.encode(), b"")

    def read(self, _: str) -> str:
        return "MemTotal: 100 kB\nMemFree: 90 kB\n"


def shown(state: str, words: str = "") -> str:
    return f"ActiveState={state}\nStatusText={words}\n"


@pytest.mark.parametrize("budget", [None, 12.345])
def test_the_daemon_is_told_the_same_target_as_hibprep_by_hand(
    tmp_path: Path, budget: float | None
) -> None:
    file = tmp_path / "hibprep.toml"
    line = line_through((50_000, 7.0), (150_000, 11.0))
    file.write_bytes(configuration(line) + daemon.settings(budget))
    config = load_config(str(tmp_path), str(file))
    by_hand = request(Condition.HIBPREP, budget)
    if budget is None:
        assert config.target() == Target(TargetKind.MIN)
        assert "min" in by_hand
    else:
        assert config.target() == Target(TargetKind.WITHIN, seconds=float(by_hand[3]))
    assert config.rates()["fixed_hibernate_seconds"] == pytest.approx(5.0)
    policy = config.policy()
    assert set(policy.delays_seconds) == set(Stage)
    assert max(policy.delays_seconds.values()) < Parameters().settle_seconds
    assert policy.idle.blind_seconds == 0


def test_of_the_unit_only_the_command_is_another() -> None:
    brought = (REPOSITORY / "hibprep" / "resources" / daemon.UNIT).read_text()
    before, after = brought.splitlines(), daemon.unit(brought).splitlines()
    changed = [new for old, new in zip(before, after, strict=True) if old != new]
    assert changed == ["ExecStart=/usr/local/bin/hibprep run"]
    with pytest.raises(LabError, match="0 lines"):
        daemon.unit("[Service]\n")


def test_the_daemon_is_waited_for_until_it_is_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(daemon, "_LOOK_SECONDS", 0.0)
    guest: Any = TalkingGuest(
        shown("active", "just started"),
        shown("active", "idle: ready in 5 s"),
        shown("active", "reclaiming: idle 30 s"),
        shown("active", "ready: idle 1 min"),
    )
    found = preparations.prepare(guest, Condition.HIBPREPD, GIB, 50 * 1024)
    assert guest.asked == 4
    assert found.freed_bytes == 40 * 1024


def test_a_daemon_that_ends_or_never_gets_ready_is_told_with_its_journal(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(daemon, "_LOOK_SECONDS", 0.0)
    dead: Any = TalkingGuest(shown("failed", "reclaiming: idle 30 s"))
    with pytest.raises(LabError, match=r"has ended \(failed\)\njournal"):
        daemon.wait_ready(dead, 900)
    busy: Any = TalkingGuest(shown("active", "active: the CPUs are busy"))
    with pytest.raises(GuestTimeout, match=r"not ready after 0 s: active: the CPUs .*\njournal"):
        daemon.wait_ready(busy, 0.0)


def test_what_the_daemon_predicted_is_in_its_last_report() -> None:
    guest: Any = TalkingGuest(report={"after": {"hibernate_seconds": 7.25}})
    assert daemon.predicted_seconds(guest) == 7.25
    assert daemon.predicted_seconds(TalkingGuest()) is None  # type: ignore[arg-type]
    with pytest.raises(LabError, match="hibprep status"):
        daemon.predicted_seconds(TalkingGuest(report={}))  # type: ignore[arg-type]


# --- the hook in the guest ------------------------------------------------------------------------


@pytest.mark.parametrize("swap_in", [True, False])
def test_the_hook_is_told_to_take_everything(tmp_path: Path, *, swap_in: bool) -> None:
    file = tmp_path / "hibprep.toml"
    line = line_through((50_000, 7.0), (150_000, 11.0))
    file.write_bytes(configuration(line) + hook.settings(swap_in=swap_in))
    config = load_config(str(tmp_path), str(file))
    assert config.target() == Target(TargetKind.MIN)
    assert config.sleep.swap_in is swap_in
    assert config.sleep.budget_seconds == hook.BUDGET_SECONDS
    # systemd's own path, so that the hook runs
    assert request(Condition.ALL_BACK, None) == ("systemctl", "hibernate")


class ReportingGuest:
    """Answers `hibprep history`."""

    def __init__(self, *reports: object) -> None:
        self.reports = reports

    def run(self, argv: list[str], **_: object) -> Result:
        assert argv[:2] == ["hibprep", "history"]
        return Result(0, json.dumps({"reports": self.reports}).encode(), b"")


def test_what_the_hook_predicted_is_in_the_record_of_the_last_sleep() -> None:
    sleeps = [
        {"command": "sleep", "hibernation": {"predicted_hibernate_seconds": seconds}}
        for seconds in (9.0, 5.5)
    ]
    prepared = {"command": "prepare", "hibernation": {}}
    guest: Any = ReportingGuest(*sleeps, prepared)
    assert hook.predicted_seconds(guest) == 5.5
    none: Any = ReportingGuest(prepared)
    with pytest.raises(LabError, match="no report"):
        hook.predicted_seconds(none)


@pytest.mark.parametrize(
    ("ratio", "said"), [(None, "nobody knows"), (0.11, "11% of"), (1.0, "100% of")]
)
def test_a_working_set_that_was_left_is_not_what_is_to_be_measured(
    ratio: float | None, said: str
) -> None:
    sample = replace(IDLE, workload=WorkloadKind.WARM, resident_ratio=ratio)
    with pytest.raises(LabError, match=said):
        cycle.must_be_empty(sample)


def test_what_was_taken_is_measured() -> None:
    cycle.must_be_empty(replace(IDLE, workload=WorkloadKind.WARM, resident_ratio=0.1))
    cycle.must_be_empty(replace(IDLE, workload=WorkloadKind.COLD))


# --- the command --------------------------------------------------------------------------------


def test_the_command_line_becomes_parameters(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    lab = FakeLab(monkeypatch)
    path = tmp_path / "r.jsonl"
    arguments = (
        "--memory 1G --fill 70% --settle 5 --disk-rate 50M --disk-requests 500 --swap file "
        "--image-size default,0 "
        "--condition idle,vanilla --workload warm --arrangement together --warm 5%,0.1 --runs 1"
    )
    done = CliRunner().invoke(cli.hibernate, [*arguments.split(), f"--output={path}", "--json"])
    assert done.exit_code == 0, done.output
    assert len(json.loads(done.stdout)["samples"]) == len(lab.measured) == 6
    found = load(path).parameters
    assert (found.memory_bytes, found.swap_bytes, found.fill_ratio) == (GIB, 2 * GIB, 0.7)
    assert (found.swap, found.warm_ratios) == ("file", (0.05, 0.1))
    assert (found.disk_bytes_per_second, found.disk_requests_per_second) == (50 << 20, 500)
    lab.measured.clear()
    other = tmp_path / "s.jsonl"
    CliRunner().invoke(cli.hibernate, [f"--like={path}", "--runs=2", f"--output={other}"])
    assert load(other).parameters == replace(found, runs=2)


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("--condition=vanila", "'vanila' is none of"),
        ("--workload=none", "what the condition idle has"),
        ("--fill=850", "not a share"),
        ("--memory=lots", "lots"),
        ("--like=/no/such/file", "does not exist"),
    ],
)
def test_wrong_options_are_told(option: str, said: str) -> None:
    done = CliRunner().invoke(cli.hibernate, [option])
    assert done.exit_code == 2
    assert said in done.output


def test_a_file_that_is_no_results_file_is_told(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    path.write_text("hello\n")
    done = CliRunner().invoke(cli.hibernate, [f"--output={path}"])
    assert done.exit_code == 1
    assert f"{path}:1" in done.output.replace("\n", "")
