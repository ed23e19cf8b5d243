# SPDX-License-Identifier: LGPL-2.1-or-later
"""What `bench footprint` makes of what it measures, and how it does it."""

from __future__ import annotations

import configparser
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pytest
from click.testing import CliRunner

from bench import footprint as bench_footprint
from bench import peers, services, usage
from bench.apart import apart
from bench.load import CannotMeasure
from hibprep.config import load
from hibprep.policy import Kind
from tests.processes import ended
from tests.tables import text_of
from tests.waiting import until

MIB = 1 << 20


# --- commands -------------------------------------------------------------------------------------


def run(what: str, seconds: float) -> usage.Run:
    return usage.Run(what, int(seconds * 100) * MIB, seconds / 2, int(seconds * 1000), seconds)


def test_rows_are_median_and_bounds_of_each_command() -> None:
    plan, check = bench_footprint.rows(
        [run("plan", 0.5), run("check", 0.3), run("plan", 0.2), run("plan", 0.3)]
    )
    assert (plan.what, plan.runs, check.runs) == ("plan", 3, 1)
    assert plan.wall_seconds == bench_footprint.Spread(0.3, 0.2, 0.5)
    assert plan.peak_rss_bytes == bench_footprint.Spread(30 * MIB, 20 * MIB, 50 * MIB)
    assert check.context_switches == bench_footprint.Spread(300, 300, 300)


def test_the_tables_show_a_row_for_each() -> None:
    found = bench_footprint.rows([run("hibprep plan", 0.5), run("hibprep plan", 0.25)])
    text = text_of(bench_footprint.command_table(found))
    assert "hibprep plan" in text
    assert "(250–500)" in text
    watched = usage.Watched("daemon (1)", 10.0, 30 * MIB, 20 * MIB, 10 * MIB, 0.05, 0.1)
    line = text_of(bench_footprint.process_table([watched]))
    assert all(word in line for word in ("daemon (1)", "30.0", "20.0", "10.0", "0.500", "1.0"))
    assert json.loads(json.dumps(bench_footprint.result(found, [watched])))["processes"] == [
        asdict(watched)
    ]


def test_the_commands_that_change_nothing_can_be_measured() -> None:
    what, (arguments, codes) = next(iter(bench_footprint.COMMANDS.items()))
    found = usage.run_once(what, [*bench_footprint.CLI, *arguments], codes=codes)
    assert found.what == what
    assert found.peak_rss_bytes > 10 * MIB
    assert found.cpu_seconds > 0
    assert found.wall_seconds > 0


def test_the_peak_is_not_that_of_the_one_who_measures() -> None:
    ballast = bytearray(64 * MIB)
    ballast[::4096] = b"x" * len(ballast[::4096])
    assert usage.run_once("true", ["true"]).peak_rss_bytes < 32 * MIB
    program = f"memory = bytearray({64 * MIB}); memory[::4096] = b'x' * len(memory[::4096])"
    large = usage.run_once("large", [sys.executable, "-c", program])
    assert 64 * MIB < large.peak_rss_bytes < 128 * MIB


def test_what_cannot_be_measured_is_said() -> None:
    with pytest.raises(CannotMeasure, match="it is broken"):
        usage.run_once("x", [sys.executable, "-c", "exit('it is broken')"])
    with pytest.raises(CannotMeasure, match="exit code 1"):
        usage.run_once("x", ["false"])
    with pytest.raises(CannotMeasure, match="no-such-program"):
        usage.run_once("x", ["no-such-program"])
    assert usage.run_once("x", ["false"], codes=(0, 1)).wall_seconds > 0


def test_a_command_that_does_not_end_is_ended(tmp_path: Path) -> None:
    program = f"import os, time; open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid()))"
    with pytest.raises(CannotMeasure, match="no end within 2 s"):
        usage.run_once("x", [sys.executable, "-c", program + "; time.sleep(600)"], timeout=2)
    pid = int((tmp_path / "pid").read_text())
    until(lambda: ended(pid), "it has ended")


def test_a_running_process_is_watched_with_its_descendants() -> None:
    program = (
        "import subprocess, sys, time\n"
        f"child = subprocess.Popen([sys.executable, '-c', 'x = b\"1\" * {32 * MIB};"
        "print(1, flush=True); import time; time.sleep(600)'], stdout=subprocess.PIPE)\n"
        "child.stdout.readline(); print(child.pid, flush=True)\n"
        "try:\n    while sys.stdin: time.sleep(0.01)\nfinally: child.kill()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as process:
        try:
            assert process.stdout is not None
            process.stdout.readline()
            found = usage.watch(process.pid, 0.5, "it")
        finally:
            process.send_signal(2)  # so that it ends its child
            process.wait(20)
    assert found.what == "it"
    assert found.rss_bytes >= found.pss_bytes >= found.private_bytes > 32 * MIB
    assert found.wakeups_per_second > 5
    assert found.cpu_seconds >= 0
    with pytest.raises(CannotMeasure, match="is not there"):
        usage.watch(process.pid, 0.01)


def test_switches_are_those_of_all_threads_since_the_first_look() -> None:
    status = "Name:\tx\nvoluntary_ctxt_switches:\t7\nnonvoluntary_ctxt_switches:\t3\n"
    assert usage.parse_switches(status) == 7  # who is preempted was not woken
    # 1 went on, 2 has ended, 3 is new
    assert usage.switches_between({1: 10, 2: 99}, {1: 15, 3: 4}) == 9


def test_footprint_prints_one_object(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HIBPREP_CACHE", str(tmp_path))
    monkeypatch.setattr(bench_footprint, "run_once", lambda what, *_, **__: run(what, 0.1))
    done = CliRunner().invoke(
        bench_footprint.footprint,
        ["--runs", "2", "--pid", str(os.getpid()), "--seconds", "0.1", "--json"],
    )
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert [row["runs"] for row in found["commands"]] == [2] * len(bench_footprint.COMMANDS)
    assert found["processes"][0]["rss_bytes"] > 0
    lost = CliRunner().invoke(bench_footprint.footprint, ["--runs", "1", "--pid", "99999999"])
    assert lost.exit_code == 1
    assert "is not there" in lost.output


# --- services -------------------------------------------------------------------------------------

root_only = pytest.mark.skipif(os.geteuid() != 0, reason="mount namespaces need root")


@root_only
def test_a_place_is_covered_for_one_program_alone(tmp_path: Path) -> None:
    place, other, ours = tmp_path / "a place", tmp_path / "b", tmp_path / 'x "$1" y'
    argv = apart(
        {str(place): ours, str(other): tmp_path / "z"},
        ["sh", "-c", 'echo seen > "$0/file"; echo "$1"', str(place), "two words"],
    )
    done = subprocess.run(argv, check=True, capture_output=True, text=True)
    assert done.stdout == "two words\n"
    assert (ours / "file").read_text() == "seen\n"
    assert list(place.iterdir()) == []
    assert str(tmp_path) not in Path("/proc/self/mountinfo").read_text()


@root_only
def test_a_place_that_cannot_be_covered_is_not_used(tmp_path: Path) -> None:
    argv = apart({str(tmp_path / "place"): tmp_path / "gone"}, ["touch", str(tmp_path / "run")])
    (tmp_path / "gone").rmdir()
    assert subprocess.run(argv, check=False, capture_output=True).returncode != 0
    assert not (tmp_path / "run").exists()


def test_the_daemon_that_is_watched_has_nothing_to_do_for_days(tmp_path: Path) -> None:
    path = tmp_path / "hibprep.toml"
    path.write_text(services.CONFIGURATION)
    policy = load("/nowhere", str(path)).policy()
    assert policy.kind == Kind.IDLE
    # on a low battery it is sooner
    sooner = policy.forward_factor
    assert sooner * min(policy.after_seconds, *policy.delays_seconds.values()) > 86400


def test_the_last_words_are_those_that_say_something() -> None:
    assert services.last_words("one\n two \n\n") == "two"
    assert services.last_words("\n") == "without a word"


def test_nohang_kills_nothing_or_is_not_started() -> None:
    defaults = "".join(f"{key} = 5 %\n" for key in peers.HARMLESS_NOHANG) + "max_sleep = 3\n"
    found = peers.configured(f"# min_badness = 7\n{defaults}", peers.HARMLESS_NOHANG)
    parsed = dict(
        line.split(" = ") for line in found.splitlines() if line and not line.startswith("#")
    )
    assert parsed == {**peers.HARMLESS_NOHANG, "max_sleep": "3"}
    for key in peers.HARMLESS_NOHANG:
        with pytest.raises(CannotMeasure, match=f"has no {key}: it may do harm"):
            peers.configured(defaults.replace(key, f"new_{key}"), peers.HARMLESS_NOHANG)


def arguments_of(name: str, folder: Path) -> list[str]:
    return next(peer for peer in peers.PEERS if peer.name == name).arguments(folder)


def test_autosuspend_would_do_nothing_and_leaves_the_machines_files_alone(tmp_path: Path) -> None:
    arguments = arguments_of("autosuspend", tmp_path)
    parser = configparser.ConfigParser(interpolation=None)
    parser.read(arguments[arguments.index("--config") + 1])
    general = parser["general"]
    assert general["suspend_cmd"] == general["wakeup_cmd"] == "true"
    assert general["lock_file"].startswith(str(tmp_path))
    assert general["woke_up_file"].startswith(str(tmp_path))
    assert any(name.startswith("check.") for name in parser.sections())


def test_the_others_would_do_nothing_either(tmp_path: Path) -> None:
    assert "--dryrun" in arguments_of("earlyoom", tmp_path)
    assert arguments_of("swayidle", tmp_path)[-1] == "true"


def peer(folder: Path, name: str, script: str) -> peers.Peer:
    program = folder / name
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    return peers.Peer(name, name, lambda own: [str(own)])


def test_those_that_are_there_are_watched_and_of_the_others_it_is_said_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    waits = peer(tmp_path, "waits-here", f"echo $$ > {tmp_path}/pid; exec sleep 600")
    ends = peer(tmp_path, "ends-here", "echo no compositor >&2; exit 1")
    none = peers.Peer("no-such-service", "its-package", lambda _: [])
    said: list[str] = []
    found, absent = peers.watch_peers(
        tmp_path, said.append, settle_seconds=1.0, seconds=0.1, peers=(waits, ends, none)
    )
    assert [each.what for each in found] == ["waits-here"]
    assert found[0].rss_bytes > 0
    assert said == ["waits-here", "ends-here"]
    assert absent[0] == "ends-here: ended: no compositor"
    assert absent[1].startswith("no-such-service: not installed: apt-get install")
    assert "its-package" in absent[1]
    assert ended(int((tmp_path / "pid").read_text()))
    assert {path.name for path in tmp_path.iterdir()} == {"waits-here", "ends-here", "pid"}


def test_a_service_ends_with_its_children_although_it_does_not_want_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(services, "_GRACE_SECONDS", 0.1)
    deaf = ["sh", "-c", "trap '' TERM; sleep 600 & echo $!; while :; do wait; done"]
    with services.service("deaf", deaf, tmp_path / "log") as process:
        child = int(until((tmp_path / "log").read_text, "it has begun"))
    assert process.returncode == -9
    until(lambda: ended(child), "its child has ended")


def test_footprint_with_the_daemon_and_others(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def watched(what: str) -> Callable[..., usage.Watched]:
        return lambda *_, **__: usage.Watched(what, 60.0, 30 * MIB, 20 * MIB, MIB, 0.03, 0.2)

    monkeypatch.setenv("HIBPREP_CACHE", str(tmp_path))
    monkeypatch.setattr(bench_footprint, "watch_daemon", watched("hibprep run"))
    monkeypatch.setattr(
        bench_footprint, "watch_peers", lambda *_, **__: ([watched("nohang")()], ["x: [not] here"])
    )
    words = ["--runs", "0", "--daemon", "--peers"]
    done = CliRunner().invoke(bench_footprint.footprint, words)
    assert done.exit_code == 0, done.output
    assert done.stdout.index("hibprep run") < done.stdout.index("nohang")
    assert "What a run takes" not in done.stdout  # no command was run
    assert "not watched: x: [not] here" in done.stdout
    found = json.loads(CliRunner().invoke(bench_footprint.footprint, [*words, "--json"]).stdout)
    assert [each["what"] for each in found["processes"]] == ["hibprep run", "nohang"]
    assert found["absent"] == ["x: [not] here"]
    assert found["commands"] == []
