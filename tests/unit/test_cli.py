# SPDX-License-Identifier: LGPL-2.1-or-later
from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import hibprep.hibernate
import hibprep.machine
import hibprep.prepare
import hibprep.session
from hibprep import __version__, cli
from hibprep.cli import common
from hibprep.config import Config
from hibprep.errors import ExitCode, KernelFileDenied, KernelFileMissing
from hibprep.history import History
from hibprep.kernel.root import KernelRoot
from hibprep.model import (
    BackendName,
    Ending,
    Kind,
    Limits,
    Plan,
    Progress,
    Report,
    Scope,
    ScopeKind,
    Stage,
    Target,
    TargetKind,
)
from tests.fakes.machine import FakeMachine
from tests.fakes.state import FakeSwap

from .examples import CAPABILITIES, GIB, PLAN, REPORT

RUN = (sys.executable, "-c", "from hibprep.cli import main; main()")
PROGRESS = Progress(
    stage=Stage.CACHE,
    step=1,
    steps=2,
    done_bytes=1,
    amount_bytes=4 << 20,
    saveable_bytes=GIB,
    goal_bytes=GIB,
    seconds=0.1,
    note="",
)


@dataclass
class Engine:
    """What the commands called, and what they are answered."""

    calls: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    report: Report = REPORT
    act: Callable[[Any], None] = lambda _stop: None

    def last(self, name: str) -> dict[str, Any]:
        return [given for called, given in self.calls if called == name][-1]


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/meminfo").write_text("MemTotal: 8388608 kB\nMemFree: 4194304 kB\n")
    monkeypatch.setenv(common.ROOT_VARIABLE, str(tmp_path))
    return tmp_path


@pytest.fixture
def engine(root: Path, monkeypatch: pytest.MonkeyPatch) -> Engine:
    fake = Engine()

    def open_machine(root_prefix: str, config: Config) -> SimpleNamespace:
        assert Path(root_prefix) == root
        fake.calls.append(("open", {"config": config}))
        return SimpleNamespace(root=KernelRoot(root_prefix), config=config, recovered=())

    def make_plan(_machine: object, target: Target, limits: Limits, **more: Any) -> Plan:  # noqa: ANN401
        fake.calls.append(("plan", {"target": target, "limits": limits, **more}))
        return PLAN

    def answer(name: str) -> Callable[..., Report]:
        def run(_machine: object, *arguments: Any, **given: Any) -> Report:  # noqa: ANN401
            fake.calls.append((name, {"arguments": arguments, **given}))
            given["progress"](PROGRESS)
            given["progress"](PROGRESS)
            fake.act(given["stop"])
            return fake.report

        return run

    def validated_scope(_machine: object, path: str) -> Scope:
        if path == "/missing":
            raise KernelFileMissing(path, "there is no cgroup /missing", remedy="systemd-cgls")
        return Scope(ScopeKind.CGROUP, path)

    module = hibprep.prepare
    monkeypatch.setattr(hibprep.machine, "open_machine", open_machine)
    monkeypatch.setattr(module, "make_plan", make_plan)
    monkeypatch.setattr(module, "prepare", answer("prepare"))
    monkeypatch.setattr(module, "reclaim", answer("reclaim"))
    monkeypatch.setattr(hibprep.machine, "validated_scope", validated_scope)
    monkeypatch.setattr(hibprep.session, "capabilities", lambda _machine: CAPABILITIES)
    monkeypatch.setattr(hibprep.hibernate, "hibernate", answer("hibernate"))
    return fake


Capture = pytest.CaptureFixture[str]


def one_line(capsys: Capture) -> str:
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("hibprep: ")
    assert err.count("\n") == 1
    assert err.endswith("\n")
    return err


BAD = [
    ("", "missing command", 2),
    ("fly", "no such command 'fly'", 2),
    ("plan --fly", "no such option", 2),
    ("plan now", "unexpected extra argument", 2),
    ("plan --target", "requires an argument", 2),
    ("plan --target junk", "'junk' is not a size such as 512M", 2),
    ("plan --target -5G", "-5G is negative", 2),
    ("plan --target 0", "min is the smallest", 2),
    ("plan --target 200G", "more than 16 times the memory of this machine", 2),
    ("plan --target 9e9", "is not a size", 2),
    ("plan --target min --within 5", "exclude each other: give one of them", 2),
    ("plan --within 0", "'0' is not a time", 2),
    ("plan --within -1", "'-1' is not a time", 2),
    ("plan --within nan", "'nan' is not a time", 2),
    ("plan --within inf", "'inf' is not a time", 2),
    ("plan --within 1e400", "is not a time", 2),
    ("plan --config /nowhere.toml", "/nowhere.toml: No such file or directory", 2),
    ("plan --root /nowhere", "root /nowhere is not a directory: give one with --root", 2),
    ("prepare --stages cache,foo", "unknown stage foo; give some of sync,cache", 2),
    ("prepare --stages ,", "no stage given", 2),
    ("prepare --timeout 0", "is not a time", 2),
    ("prepare --cgroup /missing", "there is no cgroup /missing: systemd-cgls", 4),
    ("hibernate --target 2 GiB", "unexpected extra argument", 2),
    ("reclaim", "missing argument 'AMOUNT|max'", 2),
    ("reclaim 0", "0 bytes are nothing to reclaim; give a size such as 512M, or max", 2),
    ("reclaim 0G", "0 bytes are nothing to reclaim", 2),
    ("reclaim -1", "-1 is negative", 2),
    ("reclaim -5G", "-5G is negative", 2),
    ("reclaim 9223372036854775808", "is more than any machine has", 2),
    ("reclaim 1T", "more than 16 times the memory", 2),
    ("reclaim 100M --type potatoes", "'potatoes' is not one of 'any', 'file', 'anon', 'slab'", 2),
    ("reclaim 100M --backend magic", "'magic' is not one of", 2),
    ("reclaim 100M --colder-than 0.5", "give 1 second or more", 2),
    ("reclaim 100M --cgroup /missing --json", "there is no cgroup /missing", 4),
    ("config", "missing command", 2),
    ("config fly", "no such command 'fly'", 2),
]


@pytest.mark.usefixtures("engine")
@pytest.mark.parametrize(("line", "expected", "code"), BAD, ids=[case[0] for case in BAD])
def test_bad_input_is_one_line(line: str, expected: str, code: int, capsys: Capture) -> None:
    assert cli.run(line.split()) == code
    assert expected in one_line(capsys)


def test_nothing_is_run_after_bad_input(engine: Engine) -> None:
    for line, _, _ in BAD:
        cli.run(line.split())
    assert {name for name, _ in engine.calls} <= {"open"}


def test_every_configuration_error_is_a_line(root: Path, engine: Engine, capsys: Capture) -> None:
    path = root / "etc/hibprep/hibprep.toml"
    path.parent.mkdir(parents=True)
    path.write_text("[reclaim]\nchunk_seconds = 5\nchunks = 1\n")
    for command in ("plan", "prepare", "reclaim 1M", "check", "backends", "config check", "status"):
        assert cli.run(command.split()) == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert err.splitlines() == [
            f"hibprep: {path}: reclaim.chunk_seconds = 5: must be a number from 0.02 up to 1",
            f"hibprep: {path}: reclaim.chunks: unknown key: did you mean chunk_seconds?",
        ]
    assert engine.calls == []


def test_not_root(monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    monkeypatch.delenv(common.ROOT_VARIABLE, raising=False)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    for command in ("prepare", "hibernate", "reclaim"):
        assert cli.run([command, *(["1M"] if command == "reclaim" else [])]) == 4
        assert one_line(capsys) == f"hibprep: must be root: run sudo hibprep {command}\n"


def test_errors_of_the_kernel_are_one_line(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    def refuse(*_: object, **__: object) -> Plan:
        raise KernelFileDenied("/sys/x", "Read-only\nfile system", remedy="remount it")

    monkeypatch.setattr(hibprep.prepare, "make_plan", refuse)
    assert cli.run(["plan", "--json"]) == 4
    assert one_line(capsys) == "hibprep: /sys/x: Read-only file system: remount it\n"
    assert engine.calls


def test_plan(engine: Engine, capsys: Capture) -> None:
    assert cli.run(["plan", "--json", "--within", "1.5min"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["need_bytes"] == PLAN.need_bytes
    assert err == ""
    assert engine.last("plan")["target"] == Target(TargetKind.WITHIN, seconds=90)
    assert cli.run(["plan", "--target", "1.5GiB"]) == 0
    assert "have to go" in capsys.readouterr().out
    assert engine.last("plan")["target"] == Target(TargetKind.SIZE, 3 << 29)


@pytest.mark.parametrize(
    ("text", "target"),
    [
        ("min", Target(TargetKind.MIN)),
        ("image_size", Target(TargetKind.IMAGE_SIZE)),
        ("100M", Target(TargetKind.SIZE, 100 << 20)),
    ],
)
def test_targets(text: str, target: Target, engine: Engine) -> None:
    assert cli.run(["plan", "--target", text]) == 0
    assert engine.last("plan")["target"] == target


def test_prepare(engine: Engine, capsys: Capture) -> None:
    line = "prepare --stages anon,cache --cgroup /a --timeout 5 --json"
    assert cli.run(line.split()) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["freed"]["anon_bytes"] == 2 * GIB
    assert err == "hibprep: stage cache: step 1 of 2, 4.0 MiB\n"
    limits = engine.last("prepare")["limits"]
    assert limits.stages == (Stage.CACHE, Stage.ANON)
    assert limits.scope == Scope(ScopeKind.CGROUP, "/a")
    assert engine.last("plan")["limits"] == limits
    assert engine.last("prepare")["timeout_seconds"] == 5


def test_dry_run_runs_nothing(engine: Engine, capsys: Capture) -> None:
    assert cli.run(["prepare", "--dry-run"]) == 0
    assert "Steps:" in capsys.readouterr().out
    assert "prepare" not in [name for name, _ in engine.calls]


def test_hibernate(engine: Engine, capsys: Capture) -> None:
    assert cli.run(["hibernate", "--direct", "--target", "min"]) == 0
    assert engine.last("hibernate")["direct"] is True
    assert engine.last("hibernate")["arguments"][0] == Target(TargetKind.MIN)
    assert "reclaimed in" in capsys.readouterr().out


def test_reclaim(engine: Engine, capsys: Capture) -> None:
    line = "reclaim 100M --type anon --colder-than 30 --backend lrugen --cgroup /a"
    assert cli.run(line.split()) == 0
    total = REPORT.freed.reclaimed_bytes
    assert capsys.readouterr().out == f"reclaimed {total} bytes (4.0 GiB)\n"
    given = engine.last("reclaim")
    assert given["arguments"] == (100 << 20, Scope(ScopeKind.CGROUP, "/a"), Kind.ANON)
    assert given["min_age_seconds"] == 30
    assert given["backend"] is BackendName.LRUGEN
    assert given["timeout_seconds"] is None


def test_reclaim_max(engine: Engine, capsys: Capture) -> None:
    engine.report = replace(REPORT, ending=Ending.EXHAUSTED, goal_bytes=0)
    assert cli.run(["reclaim", "max", "--json"]) == 0
    assert engine.last("reclaim")["arguments"][0] is None
    assert json.loads(capsys.readouterr().out)["ending"] == "exhausted"
    assert cli.run(["reclaim", "1M"]) == 3
    assert "ended early (exhausted)" in capsys.readouterr().err


MISSED = replace(REPORT, after=REPORT.before)


@pytest.mark.parametrize(
    ("report", "code"),
    [
        (REPORT, ExitCode.DONE),
        (replace(REPORT, ending=Ending.DEADLINE), ExitCode.DONE),  # the goal is reached
        (replace(MISSED, ending=Ending.DEADLINE), ExitCode.PARTLY),
        (replace(MISSED, ending=Ending.LIMIT), ExitCode.PARTLY),
        (replace(MISSED, ending=Ending.FAILED), ExitCode.PARTLY),
        (replace(REPORT, ending=Ending.FAILED), ExitCode.PARTLY),  # prepared, and did not sleep
        (replace(MISSED, ending=Ending.UNAVAILABLE), ExitCode.IMPOSSIBLE),
        (replace(REPORT, ending=Ending.INTERRUPTED), ExitCode.INTERRUPTED),
        (replace(MISSED, ending=Ending.EXHAUSTED), ExitCode.PARTLY),
        (
            replace(MISSED, ending=Ending.EXHAUSTED, target=Target(TargetKind.MIN)),
            ExitCode.PARTLY,
        ),
        (replace(MISSED, ending=Ending.EXHAUSTED, goal_bytes=0), ExitCode.PARTLY),
    ],
)
def test_exit_codes(report: Report, code: ExitCode, engine: Engine) -> None:
    engine.report = report
    assert cli.run(["prepare"]) == code


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signals_raise_the_stop_flag(
    number: signal.Signals, engine: Engine, capsys: Capture
) -> None:
    seen: list[str] = []

    def act(stop: Any) -> None:  # noqa: ANN401
        os.kill(os.getpid(), number)
        assert stop.wait(5)
        seen.append(stop.reason)

    engine.act = act
    engine.report = replace(MISSED, ending=Ending.INTERRUPTED)
    before = signal.getsignal(number)
    assert cli.run(["prepare", "--json"]) == 130
    assert json.loads(capsys.readouterr().out)["ending"] == "interrupted"
    assert seen == [f"interrupted by {number.name}"]
    assert signal.getsignal(number) == before


@pytest.mark.usefixtures("engine")
def test_backends(capsys: Capture) -> None:
    assert cli.run(["backends", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["backends"][0]["backend"] == "memcg"
    assert cli.run(["backends"]) == 0
    assert "1 of 2 back-ends" in capsys.readouterr().out


def test_check(root: Path, capsys: Capture) -> None:
    FakeMachine(swaps=[]).render(root)
    assert cli.run(["check", "--json"]) == 4
    answer = json.loads(capsys.readouterr().out)
    assert answer["possible"] is False
    assert "no-swap" in [item["name"] for item in answer["findings"]]
    assert cli.run(["check"]) == 4
    assert "is NOT possible here" in capsys.readouterr().out


def test_check_of_a_good_machine(root: Path, capsys: Capture) -> None:
    swap = FakeSwap("/dev/vda2", 16 << 30, device="254:2")
    FakeMachine(swaps=[swap], resume_device="254:2").render(root)
    assert cli.run(["check", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["possible"] is True
    assert answer["fit"]["ok"] is True
    assert cli.run(["check"]) == 0
    assert capsys.readouterr().out.startswith("Hibernation is possible here: 0 errors")


def test_status_and_history(root: Path, capsys: Capture) -> None:
    assert cli.run(["status"]) == 0
    assert capsys.readouterr().out == "No daemon runs. No run is kept.\n"
    assert cli.run(["status", "--json"]) == 0
    nothing = {"running": False, "daemon": None, "report": None, "note": ""}
    assert json.loads(capsys.readouterr().out) == nothing
    History(str(root)).append(REPORT)
    assert cli.run(["status"]) == 0
    assert "No daemon runs. The last run, of 2026-11-21" in capsys.readouterr().out
    assert cli.run(["history", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["reports"]) == 1
    assert cli.run(["history"]) == 0
    assert "1 run kept." in capsys.readouterr().out
    assert cli.run(["status", "--follow"]) == 4
    assert capsys.readouterr().err == "hibprep: no daemon runs: start it: hibprep run\n"


@pytest.mark.usefixtures("root")
def test_config(tmp_path: Path, capsys: Capture) -> None:
    assert cli.run(["config", "check"]) == 0
    assert capsys.readouterr().out == "no file; the defaults are used\n"
    assert cli.run(["config", "show"]) == 0
    shown = tmp_path / "shown.toml"
    shown.write_text(capsys.readouterr().out)
    assert cli.run(["config", "check", "--config", str(shown)]) == 0
    assert capsys.readouterr().out == f"no error in {shown}\n"
    assert cli.run(["--config", str(shown), "config", "show", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["history"] == {"keep": 100}
    assert cli.run(["config", "schema"]) == 0
    assert "reclaim" in json.loads(capsys.readouterr().out)["properties"]


@pytest.mark.usefixtures("engine")
@pytest.mark.parametrize("command", list(cli.COMMANDS))
def test_common_options_are_taken_everywhere(command: str, tmp_path: Path, capsys: Capture) -> None:
    assert cli.run([command, "--version"]) == 0
    assert capsys.readouterr().out == f"hibprep {__version__}\n"
    assert cli.run([command, "--help"]) == 0
    text = capsys.readouterr().out
    assert "--config FILE" in text
    assert "--root DIR" in text
    full = [command, *{"reclaim": ["1M"], "config": ["show"]}.get(command, [])]
    bad = str(tmp_path / "none")
    assert cli.run(["--root", bad, *full]) == 2
    assert cli.run([*full, "--root", bad]) == 2
    assert cli.run(["--config", bad, *full, "--root", str(tmp_path)]) == 2


def test_a_sub_command_s_option_wins(engine: Engine, root: Path) -> None:
    assert cli.run(["--root", "/nowhere", "plan", "--root", str(root)]) == 0
    assert engine.calls


def test_the_help_imports_no_command() -> None:
    code = (
        "import sys; from hibprep.cli import run; run(['--help']); "
        "sys.exit(sum(name in sys.modules for name in "
        "('pydantic', 'rich', 'humanize', 'hibprep.config', 'hibprep.prepare')))"
    )
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True)
    assert done.returncode == 0


# --- as a program ---------------------------------------------------------------------------------


def program(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*RUN, *arguments],
        check=False,
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
        timeout=60,
    )


@pytest.mark.parametrize("command", ["plan", "prepare --dry-run", "backends", "check"])
def test_program_on_another_root(root: Path, command: str) -> None:
    swap = FakeSwap("/dev/vda2", 16 << 30, device="254:2")
    FakeMachine(swaps=[swap], resume_device="254:2").render(root)
    done = program(*command.split(), "--json")
    assert done.stderr == ""
    assert done.returncode == 0
    assert isinstance(json.loads(done.stdout), dict)


def test_program_usage_error() -> None:
    done = program("reclaim", "0")
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1


def test_program_has_no_colour_in_a_pipe(root: Path) -> None:
    History(str(root)).append(REPORT)
    done = program("history")
    assert done.returncode == 0
    assert "\x1b" not in done.stdout


def test_program_completes_commands() -> None:
    done = program(_HIBPREP_COMPLETE="bash_complete", COMP_WORDS="hibprep pre", COMP_CWORD="1")
    assert done.stdout.strip() == "plain,prepare"


def test_program_whose_reader_has_gone(root: Path) -> None:
    History(str(root)).append(REPORT)
    with subprocess.Popen(
        [*RUN, "history"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(60) == 1


@pytest.fixture
def terminal() -> Iterator[tuple[int, int]]:
    master, slave = os.openpty()
    try:
        yield master, slave
    finally:
        os.close(master)


@pytest.mark.parametrize("no_color", ["", "1"])
def test_program_on_a_terminal(root: Path, terminal: tuple[int, int], no_color: str) -> None:
    History(str(root)).append(REPORT)
    master, slave = terminal
    done = subprocess.run(
        [*RUN, "history"],
        check=False,
        stdout=slave,
        env={**os.environ, "NO_COLOR": no_color, "TERM": "xterm", "COLUMNS": "200"},
        timeout=60,
    )
    os.close(slave)
    text = b""
    while True:
        try:
            chunk = os.read(master, 1 << 16)
        except OSError:
            break
        text += chunk
        if not chunk:
            break
    assert done.returncode == 0
    assert "Runs" in text.decode()
    assert (b"\x1b[" in text) is (no_color == "")
