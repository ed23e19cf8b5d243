# SPDX-License-Identifier: LGPL-2.1-or-later
"""What `bench abort --guest` and `--sleeps` make of what a guest tells; no guest is booted here."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from rich.console import Console
from rich.table import Table

from bench import asleep, desktop, kept, keypress, returning, sleeps, watching
from bench.abort import abort
from bench.desktop import Line
from bench.keypress import Press
from bench.lab import ConsoleFacts, HibernateTiming, LabError
from bench.sleeps import Cycle, Kind
from tests.waiting import GENEROUS_SECONDS

UNIT = "hibprep.service"


def text_of(table: Table) -> str:
    console = Console(width=160, record=True, file=open(os.devnull, "w"))  # noqa: SIM115, PTH123
    with console.file:
        console.print(table)
        return console.export_text()


def line(at: float, text: str, unit: str = UNIT) -> Line:
    return Line(at, unit, text)


# --- the guest's journal and bus ------------------------------------------------------------------


def test_journal_lines_have_the_moment_the_unit_and_the_words() -> None:
    rows: list[dict[str, Any]] = [
        {"__MONOTONIC_TIMESTAMP": "12500000", "_SYSTEMD_UNIT": UNIT, "MESSAGE": "stop: somebody"},
        {"__MONOTONIC_TIMESTAMP": "12600000", "_SYSTEMD_UNIT": UNIT, "MESSAGE": [1, 2, 255]},
        {"__MONOTONIC_TIMESTAMP": "12700000", "MESSAGE": "kernel"},
    ]
    text = "\n".join(json.dumps(row) for row in rows) + "\n\n"
    assert desktop.parse_journal(text) == [
        line(12.5, "stop: somebody"),
        line(12.7, "kernel", unit=""),
    ]


def test_the_first_line_is_the_daemons_and_not_from_before() -> None:
    lines = [
        line(1.0, "stop: earlier"),
        line(5.0, "stop: of another", unit="other.service"),
        line(6.0, "start: idle"),
        line(7.0, "stop: now"),
        line(8.0, "stop: later"),
    ]
    assert desktop.first(lines, "stop: ", since=2.0) == lines[3]
    assert desktop.first(lines, "start: ", "stop: ", since=2.0) == lines[2]
    assert desktop.first(lines, "release: ") is None


def test_sessions_and_locks_are_read_from_what_busctl_prints() -> None:
    path = "/org/freedesktop/login1/session/c1"
    assert desktop.parse_sessions(json.dumps({"data": [[["c1", 0, "root", "seat0", path]]]})) == [
        path
    ]
    assert desktop.parse_sessions('{"type":"a(susso)","data":[[]]}') == []

    def listed(*rows: list[object]) -> str:
        return json.dumps({"type": "a(ssssuu)", "data": [list(rows)]})

    assert desktop.lock_in(listed(["shutdown:sleep", "hibprep", "why", "delay", 0, 7]))
    for other in (
        ["sleep", "hibprep", "why", "block", 0, 7],
        ["shutdown", "hibprep", "why", "delay", 0, 7],
        ["sleep", "someone", "why", "delay", 0, 7],
    ):
        assert not desktop.lock_in(listed(other))
    assert not desktop.lock_in(listed())


# --- a key press ----------------------------------------------------------------------------------


FOUND = {
    "asked_at": 100.0,
    "answered_at": 100.02,
    "stopped_at": 100.06,
    "reported_at": 100.2,
    "into_run_seconds": 1.5,
    "in_kernel": True,
    "stage": "anon",
}


def a_press(number: int, stopped: float, *, stage: str = "anon", in_kernel: bool = True) -> Press:
    return Press(number, "tcg", stage, in_kernel, 1.0, 0.01, stopped, stopped + 0.1)


def test_a_press_is_counted_from_the_moment_it_was_sent() -> None:
    press = keypress.press_of(3, "tcg", FOUND)
    assert press.answered_seconds == pytest.approx(0.02)
    assert press.stopped_seconds == pytest.approx(0.06)
    assert press.reported_seconds == pytest.approx(0.2)
    assert (press.number, press.stage, press.in_kernel) == (3, "anon", True)


def test_of_fifty_the_99th_percentile_is_the_slowest() -> None:
    found = [a_press(number, 0.01 * (number + 1)) for number in range(50)]
    stopped = keypress.figures([one.stopped_seconds for one in found])
    assert stopped == {
        "median": pytest.approx(0.255),
        "p95": pytest.approx(0.48),
        "p99": pytest.approx(0.5),
        "max": pytest.approx(0.5),
    }
    assert keypress.figures([]) == {}


@pytest.mark.parametrize(("slowest", "is_kept"), [(0.25, True), (0.26, False)])
def test_the_promise_is_about_the_slowest_of_fifty(slowest: float, *, is_kept: bool) -> None:
    found = [*(a_press(number, 0.05) for number in range(49)), a_press(49, slowest)]
    assert keypress.summary(found, "6.12")["kept"] is is_kept


def test_presses_are_summed_up_by_stage_and_shown() -> None:
    found = [
        a_press(0, 0.04, stage="cache", in_kernel=False),
        a_press(1, 0.08),
        replace(a_press(2, 0.06), accelerator="kvm"),
    ]
    result = keypress.summary(found, "6.12")
    assert {name: row["stops"] for name, row in result["results"].items()} == {
        "all": 3,
        "in the kernel": 2,
        "stage cache": 1,
        "stage anon": 2,
    }
    assert result["accelerator"] == "kvm and tcg"
    shown = text_of(keypress.table(result))
    assert "6.12 under kvm and tcg" in shown
    assert "stage cache: reclaim has stopped" in shown
    assert json.loads(json.dumps(result))["stops"][1]["stopped_seconds"] == 0.08
    assert keypress.summary([], "6.12")["kept"] is None


def test_what_is_kept_is_not_measured_again(tmp_path: Path) -> None:
    path = tmp_path / "samples.jsonl"
    assert kept.load(path, Press) == []
    presses = [a_press(number, 0.05) for number in (0, 1, 3)]
    for one in presses:
        kept.keep(path, one)
    with path.open("a") as lines:
        lines.write('{"number": 4, "accel')
    found = kept.load(path, Press)
    assert found == presses
    assert keypress.still_to_do(5, found) == [2, 4]


def test_samples_of_other_ways_to_measure_are_in_other_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HIBPREP_CACHE", str(tmp_path / "cache"))
    way = tmp_path / "way.py"
    way.write_text("one")
    first = kept.samples_file("keypress", "6.12", [way])
    first.write_text("{}\n")
    assert kept.samples_file("keypress", "6.12", [way]) == first
    way.write_text("another")
    assert kept.samples_file("keypress", "6.12", [way]) != first
    way.write_text("one")
    assert not kept.samples_file("keypress", "6.12", [way], again=True).exists()


# --- a sleep --------------------------------------------------------------------------------------


SLEPT = [
    line(50.0, "start: idle 1 s"),
    line(60.20, "The system will hibernate now!", unit="systemd-logind.service"),
    line(60.30, "stop: the machine goes to sleep"),
    line(60.31, "sleeping: the machine goes to sleep"),
    line(60.40, "run ended, interrupted: the machine goes to sleep; freed 5 bytes"),
    line(60.41, "release: the machine goes to sleep"),
    line(75.0, "resuming: the sleep has ended"),
]


def test_what_a_sleep_waited_for_is_read_from_the_journal() -> None:
    told = sleeps.told(SLEPT, 60.0)
    assert told.held_seconds == pytest.approx(0.11)
    assert told.released_seconds == pytest.approx(0.41)
    assert (told.stopped, told.timed_out, told.too_late) == (True, False, False)


def test_a_sleep_that_logind_did_not_wait_for_any_longer_is_no_success() -> None:
    lines = [
        *SLEPT[:4],
        line(
            65.3,
            "Delay lock is active (UID 0/root, PID 7/hibprep) but inhibitor timeout is reached.",
            unit="systemd-logind.service",
        ),
        line(80.0, "run ended, interrupted: the machine goes to sleep; freed 5 bytes"),
        line(80.1, "release: the machine goes to sleep"),
    ]
    told = sleeps.told(lines, 60.0)
    assert told.timed_out
    assert told.held_seconds == pytest.approx(19.8)


def test_a_run_that_had_ended_by_itself_tells_nothing() -> None:
    ended = line(60.1, "run ended, done: its amount is reached; freed 5 bytes")
    lines = [ended, line(60.3, "release: the machine goes to sleep")]
    assert sleeps.told(lines, 60.0).too_late
    assert not sleeps.told(lines, 60.0).stopped
    # one that goes on while the machine sleeps is not too late: it was not stopped
    lines = [lines[1], replace(ended, at_seconds=70.0)]
    told = sleeps.told(lines, 60.0)
    assert (told.too_late, told.stopped) == (False, False)


def test_a_daemon_that_said_nothing_is_told_as_such() -> None:
    told = sleeps.told(SLEPT[:2], 60.0)
    assert told == sleeps.Told(None, None, stopped=False, timed_out=False, too_late=False)


def a_cycle(number: int, kind: Kind = Kind.RECLAIMING, **fields: Any) -> Cycle:  # noqa: ANN401
    well: dict[str, object] = {
        "number": number,
        "kind": kind,
        "accelerator": "tcg",
        "outcome": "slept",
        "off_seconds": 8.0 + number,
        "held_seconds": 0.1,
        "stopped": kind is Kind.RECLAIMING,
        "lock_again": True,
        "intact": True,
    }
    return sleeps.make(**{**well, **fields})


@pytest.mark.parametrize(
    "wrong",
    [
        {"outcome": "HibernationFailed: the guest is still running"},
        {"timed_out": True},
        {"stopped": False},
        {"lock_again": False},
        {"intact": False},
    ],
)
def test_a_sleep_is_well_only_when_all_of_it_is(wrong: dict[str, Any]) -> None:
    assert a_cycle(0).well
    assert a_cycle(0, Kind.NOTHING).well
    assert not a_cycle(0, **wrong).well
    found = [a_cycle(0), a_cycle(1, **wrong), a_cycle(0, Kind.NOTHING)]
    result = sleeps.summary(found, "6.12")
    row = result["results"]["reclaiming"]
    assert (row["sleeps"], row["well"]) == (2, 1)
    shown = text_of(sleeps.table(result))
    assert "reclaiming: 1 of 2 well" in shown
    assert "NOT WELL: reclaiming 2" in shown


def test_times_are_spread_over_what_is_known() -> None:
    found = [a_cycle(0), a_cycle(1), a_cycle(2, off_seconds=None)]
    row = sleeps.summary(found, "6.12")["results"]["reclaiming"]
    assert row["off_seconds"] == {"median": 8.5, "min": 8.0, "max": 9.0}
    assert row["resume_seconds"] == {}
    assert text_of(sleeps.table(sleeps.summary(found, "6.12")))


def test_sleeps_with_nothing_under_way_are_between_the_others(tmp_path: Path) -> None:
    order = sleeps.still_to_do(7, ())
    assert [kind for _, kind in order] == [
        Kind.NOTHING, *[Kind.RECLAIMING] * 5, Kind.NOTHING, *[Kind.RECLAIMING] * 2,
    ]  # fmt: skip
    assert len(set(order)) == 9
    path = tmp_path / "samples.jsonl"
    for number, kind in order[:4]:
        kept.keep(path, a_cycle(number, kind))
    assert sleeps.still_to_do(7, kept.load(path, sleeps.make)) == order[4:]


def test_the_moment_of_the_request_is_what_the_program_said() -> None:
    timing = HibernateTiming(
        30.0, ConsoleFacts(), ((0.5, "a warning"), (11.0, "asks 123.456789"), (12.0, "asks 9"))
    )
    assert asleep.asked_at(timing) == 123.456789
    assert timing.seconds_at(returning.ASKS) == 11.0
    with pytest.raises(LabError, match="a warning"):
        asleep.asked_at(replace(timing, said=timing.said[:1]))


# --- what runs in the guest -----------------------------------------------------------------------


def test_a_writer_that_waits_for_a_request_is_not_at_one() -> None:
    assert not watching.at_request("0 0x0 0x7f 0x2000 0x0 0x0 0x0 0x7ffd 0x7f")
    assert watching.at_request("1 0x3 0x7f 0x20 0x0 0x0 0x0 0x7ffd 0x7f")
    assert watching.at_request("0 0x3 0x7f 0x20 0x0 0x0 0x0 0x7ffd 0x7f")
    assert watching.at_request("running")
    assert not watching.at_request("")


@pytest.fixture
def waiting() -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", "input()"], stdin=subprocess.PIPE, text=True
    ) as process:
        yield process
        process.kill()


def test_the_end_of_a_process_is_seen(waiting: subprocess.Popen[str]) -> None:
    pidfd = os.pidfd_open(waiting.pid)
    try:
        assert not watching.ended(pidfd, 0)
        waiting.kill()
        assert watching.ended(pidfd, GENEROUS_SECONDS)
    finally:
        os.close(pidfd)


def test_the_process_that_fills_gives_back_and_fills_again() -> None:
    with subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", watching._FILLER, str(3 << 20)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for _ in range(2):
            process.stdin.write("fill\n")
            process.stdin.flush()
            assert select.select([process.stdout], [], [], GENEROUS_SECONDS)[0]
            assert process.stdout.readline() == "filled\n"
        process.stdin.close()
        assert process.wait(GENEROUS_SECONDS) == 0


def test_the_next_report_is_one_that_was_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    history = tmp_path / "history.jsonl"
    monkeypatch.setattr(watching, "HISTORY", history)
    monkeypatch.setattr(watching, "LONGEST_SECONDS", 0.05)
    before = watching.history_state()
    assert before is None
    history.write_text('{"ending": "done"}\n')
    assert watching.next_report(before)[0] == {"ending": "done"}
    now = watching.history_state()
    with pytest.raises(watching.Stuck):
        watching.next_report(now)
    history.write_text('{"ending": "done"}\n{"ending": "interr')
    with pytest.raises(watching.Stuck):  # it is being written
        watching.next_report(now)
    history.write_text('{"ending": "done"}\n{"ending": "interrupted"}\n')
    assert watching.next_report(now)[0] == {"ending": "interrupted"}


def test_the_command_for_a_sleep_comes_after_what_is_said() -> None:
    options = returning.parser().parse_args(
        ["sleep", "--session=/s", "--delay=1.5", "--", "systemctl", "hibernate"]
    )
    assert (options.session, options.delay) == ("/s", 1.5)
    assert options.command == ["systemctl", "hibernate"]


def test_asking_for_a_sleep_says_when_and_becomes_the_command() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "bench.returning", "sleep", "--", "echo", "slept"],
        capture_output=True,
        text=True,
        check=True,
        timeout=GENEROUS_SECONDS,
    )
    assert done.stdout == "slept\n"
    word, at = done.stderr.split()
    assert word == returning.ASKS
    assert float(at) > 0


def test_what_the_guest_runs_is_put_there_whole() -> None:
    """Modules of `bench` that those import have to be among them."""
    here = Path(desktop.__file__).parent
    for name in desktop._MODULES:
        for row in (here / name).read_text().splitlines():
            words = row.split()
            if words[:1] == ["from"] and words[1].startswith("bench"):
                assert f"{words[1].removeprefix('bench.')}.py" in desktop._MODULES, row


# --- the command ----------------------------------------------------------------------------------


def test_one_measurement_at_a_time() -> None:
    done = CliRunner().invoke(abort, ["--guest", "5", "--sleeps", "5"])
    assert done.exit_code == 2
    assert "one at a time" in done.output


@pytest.mark.parametrize(("option", "module"), [("--guest", "keypress"), ("--sleeps", "asleep")])
def test_the_options_lead_to_a_guest(
    monkeypatch: pytest.MonkeyPatch, option: str, module: str
) -> None:
    asked: list[tuple[int, dict[str, object]]] = []

    def run(count: int, **options: object) -> None:
        asked.append((count, options))
        raise LabError("no guest here")

    monkeypatch.setattr({"keypress": keypress, "asleep": asleep}[module], "run", run)
    done = CliRunner().invoke(abort, [option, "7", "--seed", "3", "--again", "--json"])
    assert asked == [(7, {"seed": 3, "again": True, "as_json": True})]
    assert done.exit_code == 1
    assert "no guest here" in done.output
