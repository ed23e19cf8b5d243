# SPDX-License-Identifier: LGPL-2.1-or-later
"""What `bench interference` makes of what it measures, and how it does it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner

from bench import interference as bench_interference
from bench import witness
from bench.bystander import COLD_BYTES, Sample, Situation, deed
from bench.interference import (
    QUIET_SECONDS,
    order_of,
    parse_samples,
    pass_figures,
    passes_per_second,
    quiet_seconds,
    still_to_do,
    summary,
)
from tests.tables import text_of

MIB = 1 << 20


def sample(situation: Situation, number: int = 0, *, passes: tuple[float, ...] = (0.01,)) -> Sample:
    return Sample(
        round=number,
        situation=situation,
        seconds=8.0,
        watched_seconds=10.0,
        passes=passes,
        missed=0,
        slowest_seconds=max(passes, default=0.0),
        warm_present=90,
        warm_pages=100,
        cold_present=0,
        cold_pages=500,
        fetched_back_pages=7,
        anon_bytes=100 * MIB,
        file_bytes=MIB,
        swapped_out_bytes=110 * MIB,
        swapped_in_bytes=0,
    )


# --- interference: turns and resumption -----------------------------------------------------------


def test_every_situation_is_in_every_place_once_in_three_rounds() -> None:
    orders = [order_of(number) for number in range(3)]
    for place in zip(*orders, strict=True):
        assert set(place) == set(Situation)
    assert order_of(3) == order_of(0)


def test_quiet_comes_after_those_that_say_how_long_it_lasts() -> None:
    assert order_of(0)[-1] is Situation.QUIET
    taken = [
        replace(sample(Situation.HIBPREP), seconds=9.0),
        replace(sample(Situation.ONELINER), seconds=12.0),
        replace(sample(Situation.QUIET), seconds=99.0),
    ]
    assert quiet_seconds(taken) == 12.0
    assert quiet_seconds([]) == QUIET_SECONDS


def test_a_run_that_was_broken_off_goes_on_where_it_was() -> None:
    assert still_to_do(1, []) == [(0, each) for each in order_of(0)]
    done = [sample(Situation.HIBPREP), sample(Situation.QUIET, 1)]
    assert still_to_do(2, done) == [
        (0, Situation.ONELINER),
        (0, Situation.QUIET),
        (1, Situation.ONELINER),
        (1, Situation.HIBPREP),
    ]
    assert still_to_do(1, [sample(each) for each in Situation]) == []


def test_samples_survive_being_kept_but_not_a_line_that_was_broken_off(tmp_path: Path) -> None:
    kept = [sample(Situation.HIBPREP), sample(Situation.QUIET, passes=())]
    lines = [json.dumps(asdict(each)) for each in kept]
    path = tmp_path / "samples"
    path.write_text("\n".join(lines))
    assert parse_samples(path) == kept
    path.write_text(lines[0] + "\n" + lines[1][:-20])
    assert parse_samples(path) == kept[:1]
    path.write_text('{"situation": "quiet"}\n[]\n7\n{"situation": "loud", "passes": []}')
    assert parse_samples(path) == []


def test_both_are_asked_for_the_same_bytes() -> None:
    amount = str(COLD_BYTES)
    assert any(amount in word for word in deed(Situation.ONELINER, 5.0))
    assert amount in deed(Situation.HIBPREP, 5.0)
    assert deed(Situation.QUIET, 5.0) == ["--idle=5.0"]


def test_measuring_otherwise_is_another_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HIBPREP_CACHE", str(tmp_path))
    first = bench_interference.samples_file("6.12", 100)
    assert first.parent == tmp_path / "interference"
    assert bench_interference.samples_file("6.12", 50) != first
    monkeypatch.setattr(bench_interference, "_MEASURING", (Path(__file__),))
    assert bench_interference.samples_file("6.12", 100) != first


# --- interference: figures ------------------------------------------------------------------------


def test_percentiles_are_of_the_passes_of_all_rounds() -> None:
    one = sample(Situation.QUIET, passes=tuple(float(x) for x in range(1, 51)))
    two = sample(Situation.QUIET, 1, passes=tuple(float(x) for x in range(51, 101)))
    assert pass_figures([one, two]) == {"median": 50.5, "p95": 95.0, "slowest": 100.0}
    assert pass_figures([sample(Situation.QUIET, passes=())]) == {}
    assert pass_figures([]) == {}


def test_a_slow_pass_that_was_missed_is_the_slowest_all_the_same() -> None:
    missed = replace(sample(Situation.ONELINER), missed=1, slowest_seconds=4.0)
    assert pass_figures([missed])["slowest"] == 4.0
    assert passes_per_second(missed) == pytest.approx(0.2)
    assert passes_per_second(replace(missed, watched_seconds=0.0)) == 0.0


def test_ratios_are_by_quiet_and_missing_without_it() -> None:
    own = sample(Situation.HIBPREP, passes=(0.02, 0.02, 0.08))
    found = summary([sample(Situation.QUIET), own])["situations"]
    assert found["hibprep"]["ratio_to_quiet"] == {
        "median": pytest.approx(2),
        "p95": pytest.approx(8),
        "slowest": pytest.approx(8),
    }
    assert found["quiet"]["ratio_to_quiet"]["median"] == 1
    assert "oneliner" not in found
    alone = summary([own])["situations"]
    assert alone["hibprep"]["ratio_to_quiet"] == {}
    assert summary([])["situations"] == {}


def test_the_rest_is_the_median_of_the_rounds() -> None:
    rounds = [
        replace(sample(Situation.HIBPREP, number), warm_present=present, fetched_back_pages=back)
        for number, (present, back) in enumerate([(90, None), (10, 3), (50, 5)])
    ]
    found = summary(rounds)["situations"]["hibprep"]
    assert (found["rounds"], found["passes"]) == (3, 3)
    assert found["warm_resident_pages"] == 50
    assert found["fetched_back_pages"] == 3


def test_a_situation_is_a_column_of_the_table() -> None:
    one = bench_interference.table([sample(each) for each in Situation])
    assert len(one.columns) == 1 + len(Situation)
    text = text_of(one)
    assert "90 of 100" in text
    assert "oneliner" in text
    nothing = replace(sample(Situation.QUIET, passes=()), fetched_back_pages=None)
    assert "95" in text_of(bench_interference.table([nothing]))
    assert len(bench_interference.table([]).columns) == 1


@pytest.mark.parametrize("as_json", [True, False])
def test_what_is_measured_needs_no_guest_any_more(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, *, as_json: bool
) -> None:
    def no_guest(*arguments: object, **named: object) -> None:
        pytest.fail("a guest was started")

    monkeypatch.setenv("HIBPREP_CACHE", str(tmp_path))
    monkeypatch.setattr(
        bench_interference, "build", lambda *_: SimpleNamespace(kernel_release="6.12")
    )
    monkeypatch.setattr(bench_interference, "Guest", no_guest)
    monkeypatch.setattr("bench.options.signal.signal", lambda *_: None)
    kept = bench_interference.samples_file("6.12", 100)
    # A second round was begun, which is not asked for now.
    lines = [*(sample(each) for each in Situation), sample(Situation.QUIET, 1)]
    kept.write_text("".join(json.dumps(asdict(each)) + "\n" for each in lines))
    done = CliRunner().invoke(
        bench_interference.interference, ["--rounds", "1", *(["--json"] if as_json else [])]
    )
    assert done.exit_code == 0, done.output
    if as_json:
        found = json.loads(done.stdout)
        assert len(found["samples"]) == 3
        assert found["situations"]["quiet"]["rounds"] == 1
    else:
        assert "hibprep" in done.stdout


# --- the witness ----------------------------------------------------------------------------------


class StateFile:
    """A workload's state file, replaced as the workload does it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.passes = 4
        self.slowest = 0.0
        self.write(0.5)

    def write(self, seconds: float) -> None:
        self.slowest = max(self.slowest, seconds)
        state = {
            "pid": os.getpid(),
            "passes": self.passes,
            "last_pass_seconds": seconds,
            "slowest_pass_seconds": self.slowest,
        }
        fresh = self.path.with_suffix(".new")
        fresh.write_text(json.dumps(state))
        fresh.replace(self.path)

    def add(self, seconds: float, count: int = 1) -> None:
        self.passes += count
        self.write(seconds)


@contextmanager
def passing(state: StateFile, period: float = 0.1) -> Iterator[None]:
    """A pass every so often, meanwhile."""
    end = threading.Event()

    def go() -> None:
        while not end.wait(period):
            state.add(0.25)

    thread = threading.Thread(target=go)
    thread.start()
    try:
        yield
    finally:
        end.set()
        thread.join()


def run_witness(state: StateFile, *arguments: str) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-I", "-S", witness.__file__, f"--state={state.path}", *arguments],
        capture_output=True,
        check=True,
        text=True,
        timeout=60,
    )
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.fixture
def state(tmp_path: Path) -> StateFile:
    return StateFile(tmp_path / "state.json")


def test_passes_are_taken_over_once_and_missed_ones_counted(state: StateFile) -> None:
    passes = witness.Passes(state.path)
    passes.look()
    assert passes.count == 0
    state.add(0.1)
    passes.look()
    passes.look()
    state.write(3.0)
    state.add(0.2, count=3)
    passes.look()
    assert passes.seconds == [0.1, 0.2]
    assert (passes.missed, passes.count, passes.slowest_seconds) == (2, 4, 3.0)


def test_the_witness_watches_a_command_and_a_pass_that_began_after_it(state: StateFile) -> None:
    report = '{"seconds": 1}'
    command = [sys.executable, "-c", f"import time; time.sleep(0.3); print('{report}')"]
    with passing(state):
        found = run_witness(state, "--after=0.1", "--", *command)
    assert found["error"] == ""
    assert found["report"] == {"seconds": 1}
    assert found["seconds"] >= 0.3
    assert found["watched_seconds"] >= found["seconds"] + 0.1
    assert len(found["passes"]) + found["missed"] >= 2
    assert set(found["passes"]) == {0.25}


def test_the_witness_lets_nothing_happen_for_as_long_as_it_is_told(state: StateFile) -> None:
    with passing(state):
        found = run_witness(state, "--after=0", "--idle=0.4")
    assert 0.4 <= found["seconds"] < 5
    assert found["report"] is None


def test_a_command_that_fails_is_told_in_its_own_words(state: StateFile) -> None:
    with passing(state):
        words = run_witness(state, "--after=0", "--", sys.executable, "-c", "exit('it is broken')")
        lost = run_witness(state, "--after=0", "--", "/no/such/program")
        partly = run_witness(state, "--after=0", "--", sys.executable, "-c", "exit(3)")
    assert words["error"] == "it is broken"
    assert "No such file" in lost["error"]
    assert partly["error"] == ""
