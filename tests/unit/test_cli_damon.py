# SPDX-License-Identifier: LGPL-2.1-or-later
"""`hibprep damon`: what it writes, what it prints, how it ends."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import hibprep.machine
import hibprep.prepare
import hibprep.session
from hibprep import cli
from hibprep.cli import common
from hibprep.config import Config
from hibprep.errors import ExitCode
from tests.fakes.damon import RECLAIM
from tests.fakes.harness import FakeStop
from tests.fakes.state import GIB
from tests.unit.test_damon_reclaim import Bench

Capture = pytest.CaptureFixture[str]
Use = Callable[[Bench], Bench]


@pytest.fixture
def use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Use:
    """Have the command line work on a fake machine, in its time."""
    monkeypatch.setenv(common.ROOT_VARIABLE, str(tmp_path))

    def install(bench: Bench) -> Bench:
        def open_machine(_prefix: str, config: Config) -> SimpleNamespace:
            return SimpleNamespace(root=bench.root, clock=bench.clock, config=config, recovered=())

        @contextmanager
        def stop_on_signals() -> Iterator[FakeStop]:
            stop = FakeStop(bench.machine)
            yield stop
            stop.close()

        monkeypatch.setattr(hibprep.machine, "open_machine", open_machine)
        monkeypatch.setattr(common, "stop_on_signals", stop_on_signals)
        bench.machine.writes.clear()
        return bench

    return install


@pytest.fixture
def bench(use: Use, tmp_path: Path) -> Bench:
    return use(Bench((6, 10), tmp_path))


def written(bench: Bench) -> list[str]:
    return [f"{path.removeprefix(f'{RECLAIM}/')}={text}" for path, text in bench.machine.writes]


def shown(capsys: Capture, *words: str) -> Any:  # noqa: ANN401 - whatever the JSON is
    assert cli.run(["damon", *words, "--json"]) is ExitCode.DONE
    return json.loads(capsys.readouterr().out)


def test_the_example_of_the_document(bench: Bench, capsys: Capture) -> None:
    answer = shown(capsys, "set", "--preset", "document")
    assert written(bench) == ["min_age=30000000", f"quota_sz={GIB}", "enabled=Y"]
    assert [each["text"] for each in answer["writes"]] == ["30000000", str(GIB), "Y"]
    assert answer["enabled"]
    assert answer["inputs"]["min_age"] == 30_000_000


def test_a_dry_run_says_the_same_and_writes_nothing(bench: Bench, capsys: Capture) -> None:
    answer = shown(capsys, "set", "--preset", "document", "--dry-run")
    assert [each["text"] for each in answer["writes"]] == ["30000000", str(GIB)]
    assert answer["dry_run"]
    assert written(bench) == []


def test_wrong_values_are_all_told_and_nothing_is_written(bench: Bench, capsys: Capture) -> None:
    words = ["quota_sz=lots", "wmarks_low=90%", "min_nr_regions=1", "typo=1"]
    assert cli.run(["damon", "set", *words]) is ExitCode.USAGE
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 4
    assert all(line.startswith("hibprep: ") for line in lines)
    assert written(bench) == []


def test_nothing_to_set_is_a_mistake(bench: Bench, capsys: Capture) -> None:
    assert cli.run(["damon", "set"]) is ExitCode.USAGE
    assert "PARAM=VALUE" in capsys.readouterr().err
    assert written(bench) == []


def test_a_running_one_is_changed_and_put_off(bench: Bench, capsys: Capture) -> None:
    shown(capsys, "set", "min_age=10s")
    assert shown(capsys, "set", "min_age=20s")["committed"]
    assert bench.damon.in_force["min_age"] == 20_000_000
    assert shown(capsys, "off") == {"enabled": False, "was_enabled": True}
    assert shown(capsys, "off") == {"enabled": False, "was_enabled": False}
    assert not shown(capsys, "set", "enabled=N", "min_age=30s")["enabled"]


def test_show_tells_off_nothing_and_working_apart(bench: Bench, capsys: Capture) -> None:
    assert shown(capsys, "show")["doing"] == "off"
    shown(capsys, "set", "min_age=10s")
    idle = shown(capsys, "show")
    assert idle["doing"] == "nothing"
    assert {each["name"] for each in idle["reasons"]} == {"age", "watermarks"}
    shown(capsys, "set", "wmarks_high=100%", "wmarks_mid=99.9%", "wmarks_low=0")
    bench.wait(30)
    working = shown(capsys, "show")
    assert working["doing"] == "working"
    assert working["statistics"]["bytes_reclaimed_regions"] > 0


def test_show_for_a_person(bench: Bench, capsys: Capture) -> None:
    shown(capsys, "set", "min_age=10s")
    bench.wait(30)
    assert cli.run(["damon", "show"]) is ExitCode.DONE
    text = capsys.readouterr().out
    assert text.startswith("DAMON_RECLAIM is on, and does nothing now.")
    assert "above wmarks_high (50 %)" in text
    assert "hibprep damon set wmarks_high=1000" in text
    assert "min_age" in text


def test_a_kernel_that_loses_the_scheme_is_named(use: Use, tmp_path: Path, capsys: Capture) -> None:
    bench = use(Bench((6, 12), tmp_path))
    wide = ["min_age=30s", "wmarks_high=100%", "wmarks_mid=99.9%"]
    assert cli.run(["damon", "set", "--preset", "document"]) is ExitCode.DONE
    assert "never reclaims" in capsys.readouterr().out
    assert cli.run(["damon", "show"]) is ExitCode.DONE
    assert "never reclaims" in capsys.readouterr().out
    assert cli.run(["damon", "set", *wide]) is ExitCode.DONE
    capsys.readouterr()
    bench.wait(90)
    assert cli.run(["damon", "show"]) is ExitCode.DONE
    assert "--backend damon" in capsys.readouterr().out


def test_damon_stat_in_its_way_is_named_before_anything_is_written(
    use: Use, tmp_path: Path, capsys: Capture
) -> None:
    bench = use(Bench((7, 2), tmp_path, stat=True))
    assert cli.run(["damon", "set", "--preset", "document"]) is ExitCode.IMPOSSIBLE
    said = capsys.readouterr().err
    assert "DAMON_STAT" in said
    assert "echo N > /sys/module/damon_stat/parameters/enabled" in said
    assert written(bench) == []
    assert shown(capsys, "show")["obstacles"][0]["name"] == "holder"


@pytest.mark.parametrize("command", [["show"], ["set", "min_age=1s"], ["off"]])
def test_a_kernel_without_it_says_what_has_it(
    use: Use, tmp_path: Path, capsys: Capture, command: list[str]
) -> None:
    bench = Bench((6, 1), tmp_path)
    bench.machine.remove_files(RECLAIM)
    use(bench)
    assert cli.run(["damon", *command]) is ExitCode.IMPOSSIBLE
    assert "CONFIG_DAMON_RECLAIM" in capsys.readouterr().err
