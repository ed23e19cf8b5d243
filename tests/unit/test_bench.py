# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the benchmarks make of their samples; what they measure is not asserted anywhere."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from bench import plan as bench_plan
from bench import throughput as bench_throughput
from bench.__main__ import COMMANDS, main
from bench.lab import LabError
from bench.lab.wheel import code_key
from bench.throughput import Sample, Way, parse_samples, ratios, sample_of, still_to_do, summary
from hibprep.config import Config
from hibprep.machine import open_machine
from hibprep.model import Limits, Target
from hibprep.prepare import make_plan


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_is_there(name: str) -> None:
    assert isinstance(main.get_command(click.Context(main), name), click.Command)


def test_one_that_cannot_be_imported_leaves_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(COMMANDS, "lost", ("bench.no_such_module", "lost", "Gone."))
    lost = CliRunner().invoke(main, ["lost"])
    assert lost.exit_code == 1
    assert "no_such_module" in lost.output
    assert CliRunner().invoke(main, ["--help"]).exit_code == 0
    assert CliRunner().invoke(main, ["plan", "--help"]).exit_code == 0


def test_the_programs_for_other_processes_are_python() -> None:
    for program in (bench_plan._CLI, bench_plan._READ_AND_PLAN, bench_throughput._PROGRAM):
        compile(program, "program", "exec")


# --- plan ---------------------------------------------------------------------------------------


def test_rows_say_whether_the_target_is_met() -> None:
    samples = [
        bench_plan.Sample(what, seconds)
        for what, seconds in (
            (bench_plan.COLD_START, 0.5),
            (bench_plan.COLD_START, 0.2),
            (bench_plan.COLD_START, 0.1),
            (bench_plan.READ_AND_PLAN, 0.21),
            (bench_plan.WHOLE_COMMAND, 9.0),
        )
    ]
    cold, inside, whole = bench_plan.rows(samples)
    assert (cold.runs, cold.median_seconds, cold.min_seconds, cold.max_seconds) == (
        3,
        0.2,
        0.1,
        0.5,
    )
    assert (cold.met, inside.met, whole.met) == (True, False, None)
    assert bench_plan.table([cold, inside, whole], 2000).row_count == 3


def test_the_tree_can_be_planned_on(tmp_path: Path) -> None:
    bench_plan.tree_machine(60).render(tmp_path)
    plan = make_plan(open_machine(str(tmp_path), Config()), Target(), Limits())
    assert plan.before.saveable_bytes > 0
    assert plan.fit_before.resume_path == "/dev/vdb"


def test_a_command_that_fails_is_told_in_its_own_words() -> None:
    with pytest.raises(bench_plan.CannotMeasure, match="it is broken"):
        bench_plan.run_python("import sys; sys.exit('it is broken')")


# --- throughput -----------------------------------------------------------------------------------


def sample(pair: int, way: Way, rate: float) -> Sample:
    return Sample(
        pair=pair,
        way=way,
        seconds=2.0,
        command_seconds=3.0,
        anon_bytes=int(rate * 2),
        file_bytes=0,
        swapped_bytes=int(rate * 2),
    )


def test_the_order_is_turned_round_in_every_second_pair() -> None:
    assert still_to_do(2, []) == [
        (0, Way.BARE),
        (0, Way.HIBPREP),
        (1, Way.HIBPREP),
        (1, Way.BARE),
    ]


def test_what_was_measured_is_not_measured_again() -> None:
    done = [sample(0, Way.BARE, 1e8), sample(1, Way.HIBPREP, 1e8)]
    assert still_to_do(2, done) == [(0, Way.HIBPREP), (1, Way.BARE)]


def test_samples_survive_being_kept_but_not_a_line_that_was_broken_off(tmp_path: Path) -> None:
    one, two = sample(0, Way.BARE, 1e8), sample(0, Way.HIBPREP, 9e7)
    lines = [json.dumps(asdict(each)) for each in (one, two)]
    path = tmp_path / "samples"
    path.write_text("\n".join(lines))
    assert parse_samples(path) == [one, two]
    path.write_text(lines[0] + "\n" + lines[1][:-20])
    assert parse_samples(path) == [one]
    path.write_text('{"way": "bare"}\n[]\n7\n')
    assert parse_samples(path) == []


def test_the_ratio_is_of_pairs_that_are_whole() -> None:
    samples = [
        sample(0, Way.BARE, 1e8),
        sample(0, Way.HIBPREP, 9.5e7),
        sample(1, Way.HIBPREP, 8e7),
        sample(1, Way.BARE, 1e8),
        sample(2, Way.BARE, 1e8),
    ]
    assert ratios(samples) == {0: pytest.approx(0.95), 1: pytest.approx(0.8)}
    found = summary(samples)
    assert found["median_ratio"] == pytest.approx(0.875)
    assert found["kept"] is False
    assert found["median_bytes_per_second"] == {"bare": 1e8, "hibprep": pytest.approx(8.75e7)}
    assert bench_throughput.table(samples).row_count == 3


def test_nothing_measured_is_no_promise_broken() -> None:
    assert summary([])["kept"] is None
    assert bench_throughput.table([]).row_count == 0


def test_the_time_is_that_of_the_run_without_the_start_of_the_interpreter() -> None:
    answer = {
        "seconds": 12.0,
        "anon_bytes": 1000,
        "file_bytes": 1,
        "swapped_bytes": 1000,
        "error": "",
        "report": {"seconds": 10.0},
    }
    own = sample_of(0, Way.HIBPREP, answer)
    assert (own.seconds, own.command_seconds) == (10.0, 12.0)
    assert own.bytes_per_second == 100.0
    assert sample_of(0, Way.BARE, {**answer, "report": None}).seconds == 12.0
    with pytest.raises(LabError, match="no such thing"):
        sample_of(0, Way.BARE, {**answer, "error": "no such thing"})


def test_samples_of_other_code_are_kept_apart(tmp_path: Path) -> None:
    package = tmp_path / "hibprep"
    package.mkdir()
    (package / "a.py").write_text(
        '"""Words."""\n\n\ndef f() -> int:\n    """More."""\n    return 1\n'
    )
    first = code_key(tmp_path)
    (package / "a.py").write_text('"""Others."""\n\ndef f() -> int:\n    # why\n    return 1\n')
    assert code_key(tmp_path) == first
    (package / "b.py").write_text("1")
    assert code_key(tmp_path) != first


def test_the_guests_program_tells_what_a_command_came_to() -> None:
    """Run here, with a command in the place of hibprep: it needs nothing that only a guest has."""
    command = [sys.executable, "-c", "print('{\"seconds\": 1.5}')"]
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", bench_throughput._PROGRAM, "4096", *command],
        capture_output=True,
        check=True,
        timeout=60,
    )
    answer = json.loads(done.stdout)
    assert answer["report"] == {"seconds": 1.5}
    assert answer["error"] == ""
    assert answer["seconds"] > 0
