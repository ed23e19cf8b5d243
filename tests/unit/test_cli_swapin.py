# SPDX-License-Identifier: LGPL-2.1-or-later
"""`hibprep swapin`: what it asks for, what it prints, how it ends."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace

import pytest

import hibprep.machine
import hibprep.prepare
import hibprep.session
from hibprep import cli, swapin
from hibprep.cli import common
from hibprep.config import Config
from hibprep.errors import ExitCode, NotPossibleError
from hibprep.kernel.root import KernelRoot
from hibprep.model import MACHINE, Ending, Scope, ScopeKind
from hibprep.reclaim.base import Stop
from hibprep.remembered import Record
from hibprep.swapin_report import SwapInProgress, SwapInReport
from hibprep.swaporder import Part
from tests.unit.test_swapin import REPORT

MIB = 1 << 20
DONE = replace(REPORT, ending=Ending.DONE, reason="all that there was")
Capture = pytest.CaptureFixture[str]


@dataclass
class Engine:
    """What was asked for, and what is answered."""

    limits: swapin.SwapInLimits | None = None
    report: SwapInReport = DONE
    act: Callable[[Stop], None] = lambda _stop: None


@pytest.fixture
def engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Engine:
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/meminfo").write_text("MemTotal: 8388608 kB\nMemFree: 4194304 kB\n")
    monkeypatch.setenv(common.ROOT_VARIABLE, str(tmp_path))
    fake = Engine()

    def open_machine(root_prefix: str, config: Config) -> SimpleNamespace:
        return SimpleNamespace(root=KernelRoot(root_prefix), config=config, recovered=())

    def run(
        _machine: object,
        record: Record | None,
        limits: swapin.SwapInLimits,
        stop: Stop,
        tell: swapin.Tell,
    ) -> SwapInReport:
        assert record is None
        fake.limits = limits
        for part in (Part.WORKING_SET, Part.WORKING_SET, Part.REST):
            tell(SwapInProgress(part, "anna", 2 * MIB, 4 * MIB))
        fake.act(stop)
        return fake.report

    monkeypatch.setattr(hibprep.machine, "open_machine", open_machine)
    monkeypatch.setattr(
        hibprep.machine,
        "validated_scope",
        lambda _machine, path: Scope(ScopeKind.CGROUP, path),
    )
    monkeypatch.setattr(swapin, "run", run)
    return fake


def test_without_options(engine: Engine, capsys: Capture) -> None:
    assert cli.run(["swapin"]) == ExitCode.DONE
    assert engine.limits == swapin.SwapInLimits()
    out = capsys.readouterr()
    assert out.out.startswith("swapin: 29.0 MiB read from swap")
    assert out.err.splitlines() == [
        "hibprep: working set, after 2.0 MiB",
        "hibprep: rest, after 2.0 MiB",
    ]


def test_one_object(engine: Engine, capsys: Capture) -> None:
    assert cli.run(["swapin", "--json"]) == ExitCode.DONE
    found = json.loads(capsys.readouterr().out)
    assert found["read_bytes"] == 29 * MIB
    assert found["ending"] == "done"
    assert found["left_bytes"] == 16 * MIB


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--limit", "512M"], swapin.SwapInLimits(limit_bytes=512 * MIB)),
        (["--timeout", "5min"], swapin.SwapInLimits(timeout_seconds=300.0)),
        (["--pid", "7"], swapin.SwapInLimits(scope=Scope(ScopeKind.PROCESS, pid=7))),
        (["--cgroup", "/a"], swapin.SwapInLimits(scope=Scope(ScopeKind.CGROUP, "/a"))),
    ],
)
def test_options(engine: Engine, arguments: list[str], expected: swapin.SwapInLimits) -> None:
    assert cli.run(["swapin", *arguments]) == ExitCode.DONE
    assert engine.limits == expected


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--limit", "0"], "0 bytes are nothing to bring back"),
        (["--limit", "12X"], "'12X' is not a size"),
        (["--limit", "1E"], "more than 16 times the memory"),
        (["--pid", "0"], "0 is not in the range x>=1"),
        (["--pid", "anna"], "'anna' is not a valid integer"),
        (["--pid", "7", "--cgroup", "/a"], "--cgroup and --pid exclude each other"),
        (["--timeout", "0"], "'0' is not a time"),
        (["7"], "unexpected extra argument"),
    ],
)
def test_what_is_refused(engine: Engine, capsys: Capture, arguments: list[str], said: str) -> None:
    assert cli.run(["swapin", *arguments]) == ExitCode.USAGE
    assert engine.limits is None
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line


@pytest.mark.parametrize(
    ("ending", "code"),
    [
        (Ending.DONE, ExitCode.DONE),
        (Ending.LIMIT, ExitCode.PARTLY),
        (Ending.EXHAUSTED, ExitCode.PARTLY),
        (Ending.DEADLINE, ExitCode.PARTLY),
        (Ending.INTERRUPTED, ExitCode.INTERRUPTED),
    ],
)
def test_exit_codes(engine: Engine, ending: Ending, code: ExitCode) -> None:
    engine.report = replace(REPORT, ending=ending)
    assert cli.run(["swapin"]) == code
    assert engine.limits is not None
    assert engine.limits.scope == MACHINE


def test_where_it_cannot_be_done(engine: Engine, capsys: Capture) -> None:
    def refuse(_stop: Stop) -> None:
        raise NotPossibleError("memory cannot be brought back", "leave --root out")

    engine.act = refuse
    assert cli.run(["swapin", "--json"]) == ExitCode.IMPOSSIBLE
    out = capsys.readouterr()
    assert out.out == ""
    assert out.err.splitlines()[-1].endswith("leave --root out")
