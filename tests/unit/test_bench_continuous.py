# SPDX-License-Identifier: LGPL-2.1-or-later
"""What `bench continuous` makes of what it measures, and how it loads a Redis."""

from __future__ import annotations

import json
import os
import socketserver
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner
from rich.console import Console

from bench import continuous as bench_continuous
from bench import kept, redis_load
from bench.continuous import order_of, parse_samples, ratios, still_to_do, summary
from bench.experiment.daemon import UNIT
from bench.foreground import (
    Sample,
    Setting,
    Situation,
    config_of,
    load_arguments,
    sample_of,
    waited_seconds,
)
from bench.redis_load import (
    BATCH,
    VALUE_BYTES,
    WRITE_EVERY,
    Lead,
    Redis,
    Trouble,
    drive,
    fill,
    make_requests,
    parse_benchmark,
    percentiles,
    read_number,
)
from hibprep.config import load
from hibprep.policy import Kind

MIB = 1 << 20
QUIET, CONTINUOUS = Situation.QUIET, Situation.CONTINUOUS
SETTING = Setting(25.0)


def sample(
    situation: Situation, number: int = 0, *, per_second: float = 1000.0, p99: float = 0.01
) -> Sample:
    return Sample(
        round=number,
        situation=situation,
        accelerator="tcg",
        lead_seconds=5.0,
        requests=5000,
        latency={"p50": 0.001, "p95": 0.002, "p99": p99, "p999": 0.05, "max": 0.1},
        busy={"per_second": per_second, "p50": 0.004, "p95": 0.005, "p99": 0.02, "max": 0.2},
        watched_seconds=50.0,
        anon_bytes=200 * MIB,
        file_bytes=MIB,
        swapped_out_bytes=210 * MIB,
        swapped_in_bytes=0,
        cold_bytes=190 * MIB,
        fetched_back_pages=3,
        redis_bytes=200 * MIB,
        daemon_seconds=1.5,
        daemon_kernel_seconds=0.5,
        waited_seconds=0.25,
        said="",
        touched_share=0.02,
        touched_throughput=0.99,
        touched_p99=1.05,
    )


# --- turns and resumption -------------------------------------------------------------------------


def test_each_situation_is_as_often_first_as_the_other() -> None:
    assert [order_of(number)[0] for number in range(4)] == [QUIET, CONTINUOUS, QUIET, CONTINUOUS]
    assert all(set(order_of(number)) == set(Situation) for number in range(4))


def test_a_run_that_was_broken_off_goes_on_where_it_was() -> None:
    assert still_to_do(2, []) == [(0, QUIET), (0, CONTINUOUS), (1, CONTINUOUS), (1, QUIET)]
    done = [sample(QUIET), sample(CONTINUOUS, 1)]
    assert still_to_do(2, done) == [(0, CONTINUOUS), (1, QUIET)]


def test_samples_survive_being_kept_but_not_a_line_that_was_broken_off(tmp_path: Path) -> None:
    samples = [sample(QUIET), sample(CONTINUOUS)]
    path = tmp_path / "samples"
    assert parse_samples(path) == []
    for each in samples:
        kept.keep(path, each)
    assert parse_samples(path) == samples
    first, second = path.read_text().splitlines()
    loud = second.replace('"continuous"', '"loud"')
    path.write_text(f"{first}\n{loud}\n{second[:-20]}")
    assert parse_samples(path) == samples[:1]


def test_measuring_otherwise_is_another_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HIBPREP_CACHE", str(tmp_path))
    files = {
        bench_continuous.samples_file("6.12", 100, SETTING),
        bench_continuous.samples_file("6.13", 100, SETTING),
        bench_continuous.samples_file("6.12", 50, SETTING),
        bench_continuous.samples_file("6.12", 100, Setting(20.0)),
        bench_continuous.samples_file("6.12", 100, Setting(25.0, 80_000_000)),
    }
    assert all(path.exists() for path in bench_continuous._MEASURING)
    monkeypatch.setattr(bench_continuous, "_MEASURING", (Path(__file__),))
    files.add(bench_continuous.samples_file("6.12", 100, SETTING))
    assert len(files) == 6
    assert {path.parent for path in files} == {tmp_path / "continuous"}


# --- figures --------------------------------------------------------------------------------------


def test_a_round_is_compared_with_itself_and_a_half_one_with_nothing() -> None:
    samples = [
        sample(CONTINUOUS, 1, per_second=480.0),
        sample(QUIET, 1, per_second=500.0),
        sample(QUIET, 0, per_second=1000.0),
        sample(CONTINUOUS, 0, per_second=990.0),
        sample(CONTINUOUS, 2, per_second=1.0),
        sample(QUIET, 3, per_second=1.0),
    ]
    assert ratios(samples, "throughput") == [pytest.approx(0.99), pytest.approx(0.96)]
    found = summary(samples)["ratio_to_quiet"]["throughput"]
    assert (found["min"], found["max"]) == (pytest.approx(0.96), pytest.approx(0.99))
    assert found["median"] == pytest.approx(0.975)


@pytest.mark.parametrize(
    ("per_second", "p99", "kept"),
    [
        (970.0, 0.011, {"throughput": True, "p99": True}),
        (969.0, 0.0099, {"throughput": False, "p99": True}),
        (1010.0, 0.0112, {"throughput": True, "p99": False}),
    ],
)
def test_what_was_promised_is_judged_at_the_median(
    per_second: float, p99: float, kept: dict[str, bool]
) -> None:
    samples = []
    for number, factor in enumerate((1.0, 1.0, 7.0)):  # one outlier decides nothing
        samples.append(sample(QUIET, number))
        samples.append(sample(CONTINUOUS, number, per_second=per_second / factor, p99=p99 * factor))
    assert summary(samples)["kept"] == kept


def test_nothing_is_judged_without_both() -> None:
    assert summary([])["situations"] == {}
    found = summary([sample(CONTINUOUS)])
    assert found["kept"] == found["ratio_to_quiet"] == {}
    assert found["situations"]["continuous"]["cold_bytes"] == 190 * MIB
    assert found["accelerators"] == ["tcg"]


def test_a_situation_is_a_column_of_the_table() -> None:
    both = [sample(QUIET), sample(CONTINUOUS, per_second=985.0)]
    shown = bench_continuous.table(both)
    assert len(shown.columns) == 5
    console = Console(width=140, record=True, file=open(os.devnull, "w"))  # noqa: SIM115, PTH123
    with console.file:
        console.print(shown)
        text = console.export_text()
    for word in ("quiet", "continuous", "0.985", "0.985–0.985", "10.00", "190.0", "1.50"):
        assert word in text
    assert len(bench_continuous.table(both[:1]).columns) == 4


# --- what the guest is told, and what it answers --------------------------------------------------


def test_the_daemon_is_told_to_go_on_all_the_time(tmp_path: Path) -> None:
    path = tmp_path / "hibprep.toml"
    path.write_text(config_of(SETTING))
    usual = load(config_file=str(path)).policy()
    assert usual.kind is Kind.CONTINUOUS
    assert usual.continuous_seconds == 6.0
    path.write_text(config_of(Setting(25.0, 80 * MIB)))
    quicker = load(config_file=str(path)).policy()
    assert quicker.pace.bytes_per_second == 80 * MIB != usual.pace.bytes_per_second


def test_only_one_of_the_two_starts_the_daemon() -> None:
    quiet = load_arguments(QUIET, SETTING, 7000, "cold.service")
    with_daemon = load_arguments(CONTINUOUS, SETTING, 7000, "cold.service")
    assert [word for word in with_daemon if word not in quiet] == [
        f"--unit={UNIT}",
        f"--freed={8 * MIB}",
    ]
    assert "--requests=7000" in quiet
    assert "--stat=cold=/sys/fs/cgroup/system.slice/cold.service/memory.stat:anon" in quiet


def test_the_counts_are_of_both_parts_together() -> None:
    mark = {"at": 100.0, "pgsteal_anon": 10, "pgsteal_file": 1, "pswpout": 5, "pswpin": 7}
    last = {"at": 150.0, "pgsteal_anon": 110, "pgsteal_file": 4, "pswpout": 105, "pswpin": 7}
    answer = {
        "lead_seconds": 6.5,
        "requests": 5000,
        "latency": {"p99": 0.01},
        "busy": {"per_second": 900.0},
        "marks": [
            {
                **mark,
                "cold": 1000 * MIB,
                "redis": MIB,
                "fetched": 2,
                "daemon": 500_000,
                "kernel": 0,
            },
            {**mark, "cold": 950 * MIB, "redis": MIB, "fetched": 3, "daemon": 900_000, "kernel": 1},
            {
                **last,
                "cold": 900 * MIB,
                "redis": 2 * MIB,
                "fetched": 6,
                "daemon": 2_000_000,
                "kernel": 750_000,
            },
        ],
        # of four steps the daemon is at work in the second, so the third counts as well
        "microseconds": [100] * 10 + [900] * 10 + [100] * 20,
        "fixed_steps": [[100, 0, 0], [105, 0, 10], [110, 1e6, 20], [115, 1e6, 30], [120, 1e6, 40]],
        "busy_steps": [[120, 1e6, 0], [125, 1e6, 500], [130, 2e6, 800], [135, 2e6, 1300]],
    }
    found = sample_of(1, CONTINUOUS, answer, accelerator="kvm", said="active: it works")
    assert found.watched_seconds == 50.0
    assert (found.anon_bytes, found.file_bytes) == (100 * 4096, 3 * 4096)
    assert (found.swapped_out_bytes, found.swapped_in_bytes) == (100 * 4096, 0)
    assert (found.cold_bytes, found.redis_bytes) == (100 * MIB, 2 * MIB)
    assert (found.fetched_back_pages, found.daemon_seconds) == (4, 1.5)
    assert found.daemon_kernel_seconds == 0.75
    assert found.touched_share == pytest.approx(20 / 35)
    assert found.touched_throughput == pytest.approx(1300 / 1500)
    assert found.touched_p99 == 9.0


def test_what_a_process_waited_for_only_grows() -> None:
    before = waited_seconds(os.getpid())
    assert 0 <= before <= waited_seconds(os.getpid())
    assert waited_seconds(2**22 + 1) == 0  # above the highest there can be: nobody is there


@pytest.mark.parametrize("as_json", [True, False])
def test_what_is_measured_needs_no_guest_any_more(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, *, as_json: bool
) -> None:
    def no_guest(*arguments: object, **named: object) -> None:
        pytest.fail("a guest was started")

    monkeypatch.setenv("HIBPREP_CACHE", str(tmp_path))
    monkeypatch.setattr(
        bench_continuous, "build", lambda *_: SimpleNamespace(kernel_release="6.12")
    )
    monkeypatch.setattr(bench_continuous, "Guest", no_guest)
    monkeypatch.setattr("bench.options.signal.signal", lambda *_: None)
    path = bench_continuous.samples_file("6.12", 100, SETTING)
    # A second round was begun, which is not asked for now.
    for each in (sample(QUIET), sample(CONTINUOUS), sample(CONTINUOUS, 1)):
        kept.keep(path, each)
    done = CliRunner().invoke(
        bench_continuous.continuous, ["--rounds", "1", *(["--json"] if as_json else [])]
    )
    assert done.exit_code == 0, done.output
    if as_json:
        found = json.loads(done.stdout)
        assert found["kernel"] == "6.12"
        assert len(found["samples"]) == 2
        assert found["situations"]["continuous"]["rounds"] == 1
    else:
        assert "continuous" in done.stdout


# --- the load -------------------------------------------------------------------------------------


class FakeRedis(socketserver.StreamRequestHandler):
    """Answers what the load asks as Redis does; refuses where its server is told to."""

    server: FakeServer

    def handle(self) -> None:
        while words := self._command():
            self.server.seen.append(words)
            self.wfile.write(self.server.answer(words))

    def _command(self) -> list[bytes]:
        head = self.rfile.readline()
        words = []
        for _ in range(int(head[1:] or 0)):
            length = int(self.rfile.readline()[1:])
            words.append(self.rfile.read(length + 2)[:-2])
        return words


class FakeServer(socketserver.ThreadingTCPServer):
    daemon_threads = True
    allow_reuse_address = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), FakeRedis)
        self.seen: list[list[bytes]] = []
        self.keys = 0
        self.refuses = b""

    @property
    def port(self) -> int:
        return int(self.server_address[1])

    def answer(self, words: list[bytes]) -> bytes:
        if words[0] == self.refuses:
            return b"-OOM command not allowed\r\n"
        if words[0] == b"EVAL":
            self.keys += int(words[4]) - int(words[3]) + 1
        if words[0] == b"DBSIZE":
            return b":%d\r\n" % self.keys
        if words[0] == b"INFO":
            text = b"# Stats\r\ntotal_connections_received:1\r\n"
            text += b"total_commands_processed:%d\r\n" % len(self.seen)
            return b"$%d\r\n%s\r\n" % (len(text), text)
        if words[0] == b"MGET":
            value = b"$%d\r\n%s\r\n" % (VALUE_BYTES, b"v" * VALUE_BYTES)
            return b"*%d\r\n" % (len(words) - 1) + value * (len(words) - 1)
        return b"+OK\r\n"


@contextmanager
def fake_redis() -> Iterator[FakeServer]:
    with FakeServer() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def test_a_data_set_is_filled_in_parts_and_never_written_to_the_disk() -> None:
    with fake_redis() as server:
        with closing(Redis(server.port, 20)) as redis:
            fill(redis, 50_001)
        names = [words[0] for words in server.seen]
        assert names == [b"CONFIG", b"FLUSHALL", b"EVAL", b"EVAL", b"EVAL", b"DBSIZE"]
        assert server.seen[0][1:] == [b"SET", b"save", b""]
        assert server.seen[4][3:] == [b"40000", b"50000"]


def test_a_data_set_that_is_not_whole_is_said() -> None:
    with fake_redis() as server:
        server.keys = -1
        with closing(Redis(server.port, 20)) as redis:
            with pytest.raises(Trouble, match="99 of 100"):
                fill(redis, 100)
            server.refuses = b"EVAL"
            with pytest.raises(Trouble, match="OOM command"):
                fill(redis, 100)


def test_requests_are_the_same_every_time_and_some_of_them_write() -> None:
    requests = make_requests(1000, 2 * WRITE_EVERY)
    assert requests == make_requests(1000, 2 * WRITE_EVERY)
    writing = [number for number, (text, _) in enumerate(requests) if b"MSET" in text]
    assert writing == [0, WRITE_EVERY]
    text, reply_bytes = requests[1]
    assert text.startswith(b"*%d\r\n$4\r\nMGET\r\n$16\r\nkey:000000000" % (BATCH + 1))
    assert reply_bytes == 5 + BATCH * (5 + VALUE_BYTES + 2)


def test_what_is_asked_at_a_rate_is_answered_in_full() -> None:
    requests = make_requests(1000, 20)
    with fake_redis() as server, closing(Redis(server.port, 20)) as redis:
        found = drive(redis, requests, 500.0, lambda count: count >= 45)
        assert len(found) == 45
        assert [words[0] for words in server.seen].count(b"MSET") == 5  # 20 are made, and repeated
        assert redis.command("PING") == "OK"  # nothing of an earlier reply is left
        server.refuses = b"MGET"
        with pytest.raises(Trouble, match="OOM"):
            drive(redis, requests, 500.0, lambda count: count >= 45)


def test_a_request_counts_from_when_it_was_due(monkeypatch: pytest.MonkeyPatch) -> None:
    # The clock stands still but for the answers, of which the first takes a whole second.
    clock = SimpleNamespace(now=0.0)
    answers = iter([1.0, 0.01, 0.01, 0.01])

    def ask(*_: object) -> None:
        clock.now += next(answers)

    def sleep(seconds: float) -> None:
        clock.now += seconds

    monkeypatch.setattr("bench.redis_load.time.monotonic", lambda: clock.now)
    monkeypatch.setattr("bench.redis_load.time.sleep", sleep)
    stalled: Any = SimpleNamespace(ask=ask)
    found = drive(stalled, [(b"", 1)], 2.0, lambda count: count >= 4)
    assert found == [pytest.approx(x) for x in (1.0, 0.51, 0.02, 0.01)]


def test_percentiles_are_values_that_were_there() -> None:
    found = percentiles(float(x) for x in range(1000, 0, -1))
    assert found == {"p50": 500.0, "p95": 950.0, "p99": 990.0, "p999": 999.0, "max": 1000.0}
    assert set(percentiles([0.5]).values()) == {0.5}


TABLE = (
    '"test","rps","avg_latency_ms","min_latency_ms","p50_latency_ms","p95_latency_ms",'
    '"p99_latency_ms","max_latency_ms"\n'
    '"MGET key:__rand_int__","1250.50","0.229","0.112","0.223","0.367","0.439","0.719"\n'
)


def test_the_table_of_redis_benchmark_is_read() -> None:
    wanted = {
        "per_second": 1250.5,
        "p50": pytest.approx(0.000223),
        "p95": pytest.approx(0.000367),
        "p99": pytest.approx(0.000439),
        "max": pytest.approx(0.000719),
    }
    assert parse_benchmark(TABLE) == wanted
    assert parse_benchmark("WARNING: something\n" + TABLE) == wanted
    with pytest.raises(Trouble, match="no table"):
        parse_benchmark("Could not connect")
    with pytest.raises(Trouble, match="one row"):
        parse_benchmark(TABLE.splitlines()[0])


def test_numbers_of_cgroups_are_read_or_nought(tmp_path: Path) -> None:
    path = tmp_path / "memory.stat"
    path.write_text("anon 4096\nfile 7\n")
    assert read_number(path, "file") == 7
    assert read_number(path, "anon") == 4096
    assert read_number(path, "shmem") == 0
    assert read_number(tmp_path / "gone", "anon") == 0
    path.write_text("12\n")
    assert read_number(path) == 12


class LeadTimes:
    """A clock, the start of a unit, and how much was freed, for `Lead`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now, self.freed_pages = 0.0, 100
        self.code: int | None = None
        self.started: list[list[str]] = []
        monkeypatch.setattr("bench.redis_load.time.monotonic", lambda: self.now)
        monkeypatch.setattr("bench.redis_load.subprocess.Popen", self._popen)
        monkeypatch.setattr(redis_load, "counters", lambda: {"pgsteal_anon": self.freed_pages})

    def _popen(self, argv: list[str]) -> SimpleNamespace:
        self.started.append(argv)
        return SimpleNamespace(poll=lambda: self.code)


def test_the_lead_lasts_until_the_trickle_has_begun(monkeypatch: pytest.MonkeyPatch) -> None:
    times = LeadTimes(monkeypatch)
    lead = Lead(5.0, UNIT, 2 * 4096)
    assert times.started == [["systemctl", "start", UNIT]]
    times.freed_pages = 200
    for times.now in (4.0, 10.0):  # too soon; not started yet
        assert not lead.over(0)
    times.now, times.code, times.freed_pages = 20.0, 0, 101
    assert not lead.over(0)
    times.now, times.freed_pages = 30.0, 102
    assert lead.over(0)
    times.now, times.code = 40.0, 1
    with pytest.raises(Trouble, match="return code 1"):
        lead.over(0)
    times.now = 300.0
    with pytest.raises(Trouble, match="next to nothing"):
        lead.over(0)


def test_without_a_unit_the_lead_only_takes_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    times = LeadTimes(monkeypatch)
    lead = Lead(5.0, "", 0)
    assert times.started == []
    times.now = 4.0
    assert not lead.over(0)
    times.now = 6.0
    assert lead.over(0)


BENCHMARK = """#!/bin/sh
printf '%s\\n' "$@" > {folder}/arguments
cat {folder}/table
"""


def test_the_whole_load_against_something_like_redis(tmp_path: Path) -> None:
    (tmp_path / "table").write_text(TABLE)
    (tmp_path / "redis-benchmark").write_text(BENCHMARK.format(folder=tmp_path))
    (tmp_path / "redis-benchmark").chmod(0o755)
    (tmp_path / "memory.stat").write_text("anon 4096\n")

    def program(what: str, port: int, *arguments: str) -> dict[str, Any]:
        argv = [sys.executable, "-I", "-S", redis_load.__file__, what, f"--port={port}"]
        done = subprocess.run(
            [*argv, "--keys=1000", *arguments],
            capture_output=True,
            check=True,
            text=True,
            timeout=60,
            env={**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"},
        )
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    parts = ("--rate=100", "--seconds=0.5", "--requests=77", "--lead=0")
    with fake_redis() as server:
        filled = program("fill", server.port)
        assert (filled["error"], filled["busy"]["per_second"]) == ("", 1250.5)
        began = time.monotonic()
        stat = f"--stat=x={tmp_path}/memory.stat:anon"
        found = program("load", server.port, *parts, stat, "--beside=x")
        ended = time.monotonic()
        server.refuses = b"MGET"
        refused = program("load", server.port, *parts)
    assert (found["error"], found["requests"]) == ("", 50)
    assert 0 < found["latency"]["p50"] <= found["latency"]["max"]
    assert [mark["x"] for mark in found["marks"]] == [4096] * 3
    assert len(found["microseconds"]) == 50
    assert found["fixed_steps"][0][1:] == [4096, 0]
    assert found["busy_steps"][0][1] == 4096
    assert found["busy_steps"][0][2] > 50
    assert began < found["marks"][0]["at"] <= found["marks"][2]["at"] < ended
    words = (tmp_path / "arguments").read_text().split("\n")
    assert words[words.index("-n") + 1] == "77"
    assert words.count("key:__rand_int__") == BATCH
    assert "OOM" in refused["error"]
