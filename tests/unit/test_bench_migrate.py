# SPDX-License-Identifier: LGPL-2.1-or-later
"""What `bench migrate` makes of what it measures, and how it does it."""

from __future__ import annotations

import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from xml.etree import ElementTree as ET

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from bench import kept as bench_kept
from bench import migrate as bench_migrate
from bench import movefigures, moveresults, paced, qmpdomain
from bench.agentport import AgentPort
from bench.migrate import cells_of, still_to_do
from bench.moveresults import MigrateResults, MigrateResultsError
from bench.moves import AHEAD, Cell, Condition, Load, Sample, Setting
from bench.qmpdomain import QmpDomain, sent_of, stats_of
from bench.report import migration, migration_plot
from hibprep.guests.balloon import Reserve
from hibprep.guests.errors import AgentRefusedError, NoAgentError
from hibprep.guests.means import real_means
from hibprep.guests.prepare import Options, prepare
from hibprep.guests.undo import UndoEnding, undo
from hibprep.guests.waiting import Uninterrupted
from hibprep.kernel.root import KernelRoot
from hibprep.model import Ending
from tests.tables import text_of
from tests.waiting import until

MIB = 1 << 20
GIB = 1 << 30

# condition -> bytes sent, seconds of preparation
SENT = {
    Condition.NOTHING: (900, 0.0),
    Condition.DROPCACHES: (899, 0.2),
    Condition.BALLOON: (500, 2.0),
    Condition.REPORTING: (380, 5.0),
    Condition.HIBPREP: (270, 3.0),
    Condition.HIBPREP_REPORTING: (160, 6.0),
    Condition.AHEAD: (260, 1.5),
    Condition.AHEAD_REPORTING: (150, 0.2),
}


def sample(
    condition: Condition,
    load: Load = Load.MIXED,
    number: int = 0,
    **changes: Any,  # noqa: ANN401
) -> Sample:
    mib, seconds = SENT[condition]
    busy = load is Load.BUSY
    values: dict[str, Any] = {
        "round": number,
        "condition": condition,
        "load": load,
        "reserve_bytes": 0,
        "accelerator": "tcg,thread=multi",
        "predicted_bytes": mib * MIB,
        "estimated_bytes": mib * MIB,
        "prepare_seconds": seconds,
        "ending": "done",
        "actual_bytes": GIB,
        "unused_bytes": 100 * MIB,
        "usable_bytes": 400 * MIB,
        "rss_bytes": 1100 * MIB,
        "sent_bytes": mib * MIB,
        "normal_pages": mib << 8,
        "zero_pages": (1024 - mib) << 8,
        "rounds": 2,
        "migrate_seconds": mib / 119.2,
        "downtime_seconds": 0.05,
        "undo_seconds": 0.4,
        "undone": True,
        "oom_kills": 0,
        "intact": True,
        "quiet_pieces_per_second": 10.0 if busy else None,
        "quiet_piece_seconds": 0.02 if busy else None,
        "pieces_per_second": 9.8 if busy else None,
        "piece_seconds": 0.03 if busy else None,
        "ahead_seconds": 30.0 if condition in AHEAD else None,
    }
    return Sample(**{**values, **changes})


def every(number: int = 2) -> list[Sample]:
    found = [
        sample(condition, load, turn)
        for turn in range(number)
        for load in Load
        for condition in Condition
        if not (condition in AHEAD and load is Load.BUSY)
    ]
    return found + [
        sample(
            Condition.HIBPREP,
            reserve_bytes=mib * MIB,
            sent_bytes=(200 + mib) * MIB,
            estimated_bytes=(200 + mib) * MIB,
        )
        for mib in (64, 16, 256)
    ]


# --- what is still to be done ---------------------------------------------------------------------


def test_the_cells() -> None:
    cells = cells_of(list(Condition), list(Load), [16])
    assert len(cells) == len(Condition) * len(Load) - len(AHEAD) + 1
    assert cells[-1] == Cell(Condition.HIBPREP, Load.MIXED, 16 * MIB)
    # who is never idle is not prepared while idle
    assert not any(cell.condition in AHEAD and cell.load is Load.BUSY for cell in cells)


def test_a_run_goes_on_where_it_was(tmp_path: Path) -> None:
    cells = cells_of([Condition.NOTHING, Condition.HIBPREP], [Load.MIXED], [16])
    path = tmp_path / "kept.jsonl"
    order = still_to_do(2, cells, [])
    assert order == [(turn, cell) for turn in (0, 1) for cell in cells]
    for number, cell in order[:4]:
        made = sample(cell.condition, cell.load, number, reserve_bytes=cell.reserve_bytes)
        bench_kept.keep(path, made)
    known = bench_kept.load(path, moveresults.sample_of)
    assert [each.cell for each in known] == [cell for _, cell in order[:4]]
    assert still_to_do(2, cells, known) == order[4:]


def test_the_command_measures_keeps_and_shows(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    measured: list[Cell] = []

    def measure_one(
        image: object, wheel: Path, number: int, cell: Cell, setting: Setting
    ) -> Sample:
        measured.append(cell)
        assert setting.bytes_per_second == 12_500_000
        return sample(cell.condition, cell.load, number)

    known = tmp_path / "kept.jsonl"  # whatever is edited meanwhile
    monkeypatch.setattr(bench_migrate, "samples_file", lambda *_, **_words: known)
    monkeypatch.setattr(bench_migrate, "measure_one", measure_one)
    monkeypatch.setattr(bench_migrate, "build_wheel", lambda: Path("wheel"))
    monkeypatch.setattr(bench_migrate, "build", lambda *_: SimpleNamespace(kernel_release="6.12.1"))
    words = ["--rounds", "1", "--condition", "nothing,hibprep", "--load", "mixed", "--rate", "100"]
    for _ in range(2):
        done = CliRunner().invoke(bench_migrate.migrate, [*words, "--json"])
        assert done.exit_code == 0, done.output
        told = json.loads(done.stdout)
        assert [row["condition"] for row in told["rows"]] == ["nothing", "hibprep"]
        assert told["rows"][1]["saved"] == pytest.approx(0.7)
    assert len(measured) == 2  # the second time all was known
    shown = CliRunner().invoke(bench_migrate.migrate, words)
    assert "kept: hibprep: at least 65% fewer bytes" in shown.output


def test_an_unknown_condition_is_named() -> None:
    done = CliRunner().invoke(bench_migrate.migrate, ["--condition", "nothing,everything"])
    assert done.exit_code == 2
    assert "everything" in done.output


def test_a_busy_guest_that_is_to_be_idle_is_refused() -> None:
    done = CliRunner().invoke(
        bench_migrate.migrate, ["--condition", "hibprep-ahead", "--load", "busy"]
    )
    assert done.exit_code == 2
    assert "nothing to measure" in done.output


# --- figures --------------------------------------------------------------------------------------


def test_every_cell_has_a_row_and_is_compared_with_nothing() -> None:
    found = movefigures.rows(every())
    assert len(found) == len(Condition) * len(Load) - len(AHEAD) + 3
    for row in found:
        assert row.saved == pytest.approx(1 - row.sent_bytes / (900 * MIB))
    by_cell = {(row.load, row.condition, row.reserve_bytes): row for row in found}
    row = by_cell[Load.MIXED, Condition.HIBPREP, 0]
    assert row.runs == 2
    assert row.total_seconds == pytest.approx(3.0 + 270 / 119.2)
    assert row.slowed is None
    assert by_cell[Load.BUSY, Condition.HIBPREP, 0].slowed == pytest.approx(0.02)
    assert by_cell[Load.BUSY, Condition.HIBPREP, 0].piece_ratio == pytest.approx(1.5)


def test_without_nothing_there_is_nothing_to_compare_with() -> None:
    (row,) = movefigures.rows([sample(Condition.HIBPREP)])
    assert row.saved is None
    assert row.total_ratio is None


def test_the_curve_goes_from_the_smallest_reserve() -> None:
    reserves = [row.reserve_bytes // MIB for row in movefigures.curve(movefigures.rows(every()))]
    assert reserves == [16, 64, 256]


@pytest.mark.parametrize("while_it_pays", [False, True])
def test_what_was_promised_was_kept(*, while_it_pays: bool) -> None:
    said = movefigures.kept(movefigures.rows(every()), while_it_pays=while_it_pays)
    bytes_of = {promise.split(":")[0] for promise in said if "fewer bytes" in promise}
    # asked without warning it is the one or the other
    assert ("hibprep" in bytes_of) is not while_it_pays
    assert {"hibprep-ahead", "hibprep-ahead-reporting"} <= bytes_of
    assert any("sooner done" in promise for promise in said) is while_it_pays
    assert all(said.values())


def test_who_was_prepared_ahead_is_held_to_both_promises() -> None:
    late = sample(Condition.AHEAD, sent_bytes=400 * MIB, prepare_seconds=20.0)
    rows = movefigures.rows([sample(Condition.NOTHING), late])
    said = movefigures.kept(rows, while_it_pays=True)
    broken = [promise for promise, held in said.items() if not held]
    assert any("at least 65% fewer bytes" in promise for promise in broken)
    assert any("sooner done" in promise for promise in broken)


@pytest.mark.parametrize(
    ("changes", "broken"),
    [
        ({"sent_bytes": 400 * MIB, "estimated_bytes": 400 * MIB}, "at least 65%"),
        ({"prepare_seconds": 20.0}, "sooner done"),
        ({"estimated_bytes": 240 * MIB}, "estimates within 10%"),
        ({"oom_kills": 1}, "nothing killed"),
        ({"undone": False}, "put back and intact"),
        ({"intact": False}, "put back and intact"),
    ],
)
def test_a_promise_that_was_not_kept_is_told(changes: dict[str, Any], broken: str) -> None:
    samples = [sample(Condition.NOTHING), sample(Condition.HIBPREP, **changes)]
    rows = movefigures.rows(samples)
    said = movefigures.kept(rows, while_it_pays=broken == "sooner done")
    assert [held for promise, held in said.items() if broken in promise] == [False]


def test_a_program_that_is_slowed_is_told() -> None:
    samples = [
        sample(Condition.NOTHING, Load.BUSY),
        sample(Condition.HIBPREP, Load.BUSY, pieces_per_second=9.0),
    ]
    said = movefigures.kept(movefigures.rows(samples), while_it_pays=False)
    assert [held for promise, held in said.items() if "slowed" in promise] == [False]


def test_the_worst_estimate_counts() -> None:
    samples = [sample(Condition.NOTHING, number=n, estimated_bytes=m * MIB) for n, m in
               enumerate((891, 810, 909))]  # fmt: skip
    (row,) = movefigures.rows(samples)
    assert row.estimated_ratio == pytest.approx(0.9)


def test_the_table_for_a_person() -> None:
    text = text_of(bench_migrate.table(movefigures.rows(every()), Setting()))
    assert "sent at 1 Gbit/s" in text
    assert "70.0%" in text


# --- results files --------------------------------------------------------------------------------


@given(st.lists(st.sampled_from(every()), max_size=6), st.integers(1, 1 << 40))
def test_a_results_file_is_read_as_it_was_written(samples: list[Sample], memory: int) -> None:
    found = MigrateResults(Setting(memory), "6.12", {"processor": "x"}, tuple(samples))
    assert moveresults.parse(moveresults.text_of(found)) == found


@pytest.mark.parametrize(
    ("line", "text"),
    [
        (1, ""),
        (1, '{"kind": "migrate", "format": 7}\n'),
        (1, '{"kind": "migrate"}\n'),
        (2, "HEADER{}\n"),
        (2, 'HEADER{"condition": "prayer"}\n'),
        (2, "HEADERnonsense\n"),
    ],
)
def test_a_line_that_is_none_of_ours_is_named(line: int, text: str) -> None:
    header = moveresults.text_of(MigrateResults(Setting(), "6.12"))
    with pytest.raises(MigrateResultsError, match=rf"a\.jsonl:{line}:"):
        moveresults.parse(text.replace("HEADER", header), "a.jsonl")


def test_a_file_says_what_it_is(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(moveresults.text_of(MigrateResults(Setting(), "6.12")))
    assert moveresults.is_one(path)
    path.write_text('{"kind": "header"}\n')
    assert not moveresults.is_one(path)
    assert not moveresults.is_one(tmp_path / "missing")


# --- the page -------------------------------------------------------------------------------------


def results(*, while_it_pays: bool = False) -> MigrateResults:
    setting = Setting(while_it_pays=while_it_pays)
    return MigrateResults(setting, "6.12.1", {"processor": "Some"}, tuple(every()))


def test_the_pages_part(golden: Callable[[str, str], None]) -> None:
    text = migration.section(results(), "benchmarks/migration.svg", "../results/migrate.jsonl")
    golden("benchmarks-migration.md", text)


def test_the_pages_part_of_those_in_a_hurry(golden: Callable[[str, str], None]) -> None:
    text = migration.section(results(while_it_pays=True), None, None)
    golden("benchmarks-migration-while-it-pays.md", text)


def test_a_promise_that_was_broken_is_on_the_page() -> None:
    samples = (sample(Condition.NOTHING), sample(Condition.HIBPREP, sent_bytes=800 * MIB))
    text = migration.section(replace(results(), samples=samples), None, None)
    assert "at least 65% fewer bytes: **no**" in text
    assert ".svg" not in text


def test_the_picture_is_xml_and_the_same_each_time() -> None:
    first = migration_plot.picture(every())
    assert first is not None
    assert ET.fromstring(first).tag.endswith("svg")  # noqa: S314 - written by ourselves
    assert migration_plot.picture(every()) == first
    assert migration_plot.picture([]) is None


# --- QEMU and the guest agent ---------------------------------------------------------------------

_UNKNOWN = (1 << 64) - 1


def test_what_the_guest_has_not_told_is_not_known() -> None:
    found = stats_of(
        {"last-update": 17, "stats": {"stat-free-memory": 5, "stat-available-memory": _UNKNOWN}},
        100,
        200,
    )
    assert (found.actual_bytes, found.rss_bytes, found.last_update) == (100, 200, 17)
    assert found.unused_bytes == 5
    assert found.usable_bytes is None
    assert not found.told_by_guest


def test_what_query_migrate_says() -> None:
    ram = {"transferred": 7, "normal": 3, "duplicate": 2, "dirty-sync-count": 4}
    sent = sent_of({"status": "completed", "ram": ram, "total-time": 1500, "downtime": 20})
    assert (sent.bytes, sent.normal_pages, sent.zero_pages, sent.rounds) == (7, 3, 2, 4)
    assert (sent.seconds, sent.downtime_seconds) == (1.5, 0.02)


class ToyGuest:
    """A guest whose QEMU reacts: the balloon moves, statistics come anew, migrations end."""

    memory_bytes = GIB
    accelerator = "tcg,thread=multi"
    running = True
    pid = os.getpid()

    def __init__(self, used: int) -> None:
        self.used = used
        self.actual = self.memory_bytes
        self.period = 0
        self.asked: list[str] = []
        self._updates = itertools.count(100)
        self._states = iter(["active", "active", "completed"])

    def monitor(self, command: str, **arguments: Any) -> Any:  # noqa: ANN401 - as QEMU has it
        self.asked.append(command)
        if command == "query-balloon":
            return {"actual": self.actual}
        if command == "balloon":
            self.actual = max(self.used, min(arguments["value"], self.memory_bytes))
        if command == "qom-set":
            self.period = arguments["value"]
        if command == "qom-get":
            return {"last-update": next(self._updates) if self.period else 0, "stats": self._told()}
        if command == "query-migrate":
            ram = {"transferred": 9, "normal": 3, "duplicate": 2, "dirty-sync-count": 4}
            state = next(self._states)
            return {"status": state, "ram": ram, "total-time": 1, "downtime": 1}
        return {}

    def _told(self) -> Mapping[str, int]:
        if not self.period:
            return {}
        usable = self.actual - self.used
        return {
            "stat-total-memory": self.actual,
            "stat-free-memory": usable // 2,
            "stat-available-memory": usable,
        }


def toy_domain(guest: ToyGuest) -> QmpDomain:
    return QmpDomain(guest, reporting=False)  # type: ignore[arg-type]


def test_hibprep_prepares_and_undoes_a_guest_of_the_bench() -> None:
    guest = ToyGuest(200 * MIB)
    domain = toy_domain(guest)
    means = real_means(KernelRoot(), "bench", Uninterrupted())
    options = Options(reserve=Reserve(fixed_bytes=64 * MIB))
    report = prepare(domain, options, means, lambda _: None)
    assert report.ending is Ending.DONE, report
    assert guest.actual == 264 * MIB
    assert undo(domain, means).ending is UndoEnding.DONE
    assert guest.actual == GIB


def test_a_migration_is_waited_for_and_the_guest_goes_on() -> None:
    guest = ToyGuest(200 * MIB)
    assert toy_domain(guest).send().bytes == 9
    assert guest.asked == ["migrate", *["query-migrate"] * 3, "cont"]


@contextmanager
def agent_port(answer: Callable[[dict[str, Any]], bytes]) -> Iterator[AgentPort]:
    """A guest agent that answers each command so; what it has to say at first is stale."""
    near, far = socket.socketpair()

    def serve() -> None:
        with far, far.makefile("rwb") as stream:
            stream.write(b'the end of a line"}\n{"return": {"stale": 1}}\n')
            for line in stream:
                if line.startswith(b"\xff"):
                    stream.write(b'{"error": {"desc": "JSON parse error"}}\n')
                asked = json.loads(line.lstrip(b"\xff"))
                if asked["execute"] == "guest-sync":
                    stream.write(b'{"return": %d}\n' % asked["arguments"]["id"])
                else:
                    stream.write(answer(asked))
                stream.flush()

    server = threading.Thread(target=serve)
    server.start()
    try:
        with near:
            yield AgentPort(near)
            near.shutdown(socket.SHUT_WR)
            server.join(30)
    finally:
        server.join(30)


def test_an_agents_stale_answers_are_thrown_away() -> None:
    with agent_port(lambda asked: b'{"return": {"did": "%s"}}\n' % asked["execute"].encode()) as it:
        for command in ("guest-ping", "guest-info"):
            assert it.ask(command, {}, 30) == {"did": command}


def test_an_agents_refusal_is_told() -> None:
    error = b'{"error": {"class": "CommandNotFound", "desc": "is blocked"}}\n'
    with agent_port(lambda _: error) as it, pytest.raises(AgentRefusedError, match="is blocked"):
        it.ask("guest-exec", {}, 30)


def test_a_silent_agent_is_told() -> None:
    with agent_port(lambda _: b"") as it, pytest.raises(NoAgentError, match="in time"):
        it.ask("guest-ping", {}, 0.2)


def test_a_port_that_is_closed_is_told() -> None:
    near, far = socket.socketpair()
    far.close()
    with near, pytest.raises(NoAgentError):
        AgentPort(near).ask("guest-ping", {}, 30)


def test_the_size_of_a_process() -> None:
    assert qmpdomain.resident_bytes(os.getpid()) > MIB


# --- the paced program ----------------------------------------------------------------------------


def test_a_section_counts_its_pieces() -> None:
    section = paced.Section()
    assert section.figures()["piece_seconds"] == 0.0
    for seconds in (0.1, 0.3):
        section.add(seconds)
    found = section.figures()
    assert found["pieces"] == 2
    assert found["piece_seconds"] == pytest.approx(0.2)
    assert found["slowest_seconds"] == 0.3


def has_sections(state: Path, count: int) -> bool:
    return len(json.loads(state.read_text())["sections"]) == count


def test_the_paced_program_tells_of_each_section(tmp_path: Path) -> None:
    state = tmp_path / "state.json"
    words = ["--bytes=65536", "--period=0.01", f"--state={state}"]
    program = subprocess.Popen([sys.executable, "-I", "-S", paced.__file__, *words])
    try:
        until(state.exists, "it runs")
        for count in (1, 2):
            program.send_signal(signal.SIGUSR1)
            until(partial(has_sections, state, count), "the section is there")
        program.terminate()
        assert program.wait(30) == 0
    finally:
        program.kill()
        program.wait(30)
    assert all(each["seconds"] > 0 for each in json.loads(state.read_text())["sections"])
