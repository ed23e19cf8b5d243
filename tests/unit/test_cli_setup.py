# SPDX-License-Identifier: LGPL-2.1-or-later
"""`hibprep setup` and `hibprep check --fix`, on a tree of files, with programs that are played."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest

from hibprep import cli
from hibprep.cli import fixing
from hibprep.cli import setup as making
from hibprep.errors import HibprepError
from hibprep.kernel.root import KernelRoot
from hibprep.setup import swap
from tests.fakes.configured import GIB, OFFSET, FakeTools, install, snapshot, write
from tests.fakes.state import FakeSwap

Capture = pytest.CaptureFixture[str]
Answer = Callable[[str], None]


@pytest.fixture
def tools(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What FakeTools are made with, for a test to set."""
    options: dict[str, Any] = {}

    def make(root: KernelRoot) -> FakeTools:
        return FakeTools(root, **options)

    monkeypatch.setattr(making, "SystemTools", make)
    monkeypatch.setattr(fixing, "SystemTools", make)
    return options


@pytest.fixture
def root(tmp_path: Path, tools: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> Path:
    del tools
    monkeypatch.setenv("HIBPREP_ROOT", str(tmp_path))
    real = swap.gather

    def with_room(root: KernelRoot, path: str) -> Any:  # noqa: ANN401
        from dataclasses import replace  # noqa: PLC0415

        return replace(real(root, path), available_bytes=40 * GIB, disk_bytes=100 * GIB)

    monkeypatch.setattr(swap, "gather", with_room)
    return tmp_path


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Answer:
    """Somebody who gives always the same answer."""

    def answers(text: str) -> None:
        monkeypatch.setattr(fixing, "can_ask", lambda: True)
        monkeypatch.setattr(click, "confirm", lambda *_, **__: text == "y")

    return answers


def test_a_dry_run_shows_all_and_changes_nothing(root: Path, capsys: Capture) -> None:
    install(root)
    before = snapshot(root)
    assert cli.run(["setup", "swap", "--dry-run", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["done"] is False
    assert shown["offset_pages"] is None
    assert shown["steps"][0]["title"] == "make the swap file"
    assert shown["size_bytes"] == shown["reckoned"]["size_bytes"] > 8 * GIB
    assert cli.run(["setup", "swap", "--dry-run", "--size", "2G"]) == 0
    text = capsys.readouterr().out
    assert text.startswith("A swap file of 2.0 GiB would be made: /swapfile.\n")
    assert "resume_offset=(known once the file is there)" in text
    assert "run /usr/sbin/update-grub" in text
    assert "@" not in text
    assert snapshot(root) == before


def test_made_listed_and_taken_back(root: Path, capsys: Capture) -> None:
    install(root)
    before = snapshot(root)
    assert cli.run(["setup", "swap", "--yes", "--json", "--path", "/swap file"]) == 0
    captured = capsys.readouterr()
    made = json.loads(captured.out)
    assert made["done"] is True
    assert made["offset_pages"] == OFFSET
    assert f"resume_offset={OFFSET}" in made["parameters"]
    assert "hibprep: make the swap file\n" in captured.err
    assert (root / "etc/fstab").read_text().endswith("\n/swap\\040file none swap sw 0 0\n")
    assert cli.run(["setup", "undo"]) == 0
    assert capsys.readouterr().out == "To be taken back: swap.\n"
    assert cli.run(["setup", "undo", "swap"]) == 0
    assert capsys.readouterr().out == "swap is taken back.\n"
    assert cli.run(["setup", "undo", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"done": []}
    assert snapshot(root) == before
    assert cli.run(["setup", "undo", "swap"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_what_is_left_to_do_by_hand_ends_in_code_3(root: Path, capsys: Capture) -> None:
    install(root, loader="none")
    assert cli.run(["setup", "swap", "--yes"]) == 3
    text = capsys.readouterr().out
    assert f"resume_offset={OFFSET}" in text
    assert "Left to do by hand:" in text
    assert "@" not in text


def test_nobody_to_ask(root: Path, capsys: Capture) -> None:
    install(root)
    before = snapshot(root)
    assert cli.run(["setup", "swap"]) == 2
    assert "there is no terminal to ask on: give --yes" in capsys.readouterr().err
    assert snapshot(root) == before


def test_somebody_who_says_no(root: Path, capsys: Capture, terminal: Answer) -> None:
    install(root)
    before = snapshot(root)
    terminal("n")
    assert cli.run(["setup", "swap"]) == 2
    captured = capsys.readouterr()
    assert "Steps:" in captured.out
    assert "nothing was done" in captured.err
    assert snapshot(root) == before
    terminal("y")
    assert cli.run(["setup", "swap"]) == 0


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--size", "0"], 2, "holds no image"),
        (["--size", "900G"], 2, "16 times the memory"),
        (["--size", "lots"], 2, "lots"),
        (["--size", "100G"], 4, "are free there"),
        (["--path", "relative"], 2, "no absolute path"),
        (["--path", "/none/swapfile"], 4, "no such directory"),
        (["--path", "/etc/fstab"], 4, "is there already"),
    ],
)
def test_refused_in_one_line(
    root: Path, capsys: Capture, arguments: list[str], code: int, words: str
) -> None:
    install(root)
    before = snapshot(root)
    assert cli.run(["setup", "swap", "--yes", *arguments]) == code
    captured = capsys.readouterr()
    assert words in captured.err
    assert captured.err.count("\n") == 1
    assert captured.out == ""
    assert snapshot(root) == before


def test_a_failure_is_undone_and_said(root: Path, tools: dict[str, Any], capsys: Capture) -> None:
    install(root)
    before = snapshot(root)
    tools.update(fail_at=3, error=HibprepError("update-grub: exit code 1: no space"))
    assert cli.run(["setup", "swap", "--yes"]) == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert last == "hibprep: update-grub: exit code 1: no space; everything is as it was before"
    assert snapshot(root) == before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_has_it_undone(
    root: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    install(root)
    before = snapshot(root)

    class Interrupted(FakeTools):
        def run(self, program: tuple[str, ...], seconds: float, below_root: str = "") -> None:
            super().run(program, seconds, below_root)
            # the second one comes while it is undone, and is not heard
            if program[0].endswith(("swapon", "swapoff")):
                os.kill(os.getpid(), number)

    handlers = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
    monkeypatch.setattr(making, "SystemTools", Interrupted)
    assert cli.run(["setup", "swap", "--yes"]) == 130
    assert capsys.readouterr().err.endswith("hibprep: interrupted\n")
    assert snapshot(root) == before
    assert handlers == [
        signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    ]


def test_below_another_root_no_program_of_this_machine_is_run(
    tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the played tools: what acts on the running machine is left to the other one."""
    from hibprep.setup.carry import SystemTools  # noqa: PLC0415 - the real ones

    ran: list[tuple[str, ...]] = []
    monkeypatch.setattr("hibprep.setup.programs.run", lambda program, _: ran.append(program))
    tools = SystemTools(KernelRoot(tmp_path))
    tools.run(("/usr/sbin/swapon", "/swapfile"), 1)
    tools.run(("/usr/sbin/mkswap", "/swapfile"), 1, "/swapfile")
    assert tools.skipped == ["/usr/sbin/swapon /swapfile"]
    assert ran == [("/usr/sbin/mkswap", str(tmp_path / "swapfile"))]


# --- check --fix ----------------------------------------------------------------------------------


def slow_freezer(top: Path) -> None:
    swaps = [FakeSwap("/dev/vda2", 16 * GIB, device="254:2")]
    install(top, swaps=swaps, resume_device="254:2", loader="none")
    write(top, "/sys/power/pm_freeze_timeout", "1000\n")
    write(top, "/sys/power/disk", "platform shutdown [reboot]\n")


def test_fix_without_questions(root: Path, capsys: Capture) -> None:
    slow_freezer(root)
    assert cli.run(["check", "--fix", "--yes", "--json"]) == 0
    captured = capsys.readouterr()
    answer = json.loads(captured.out)
    assert [(fix["name"], fix["done"]) for fix in answer["fixes"]] == [
        ("fix-freeze-timeout", True),
        ("fix-disk-mode", True),
    ]
    assert "freeze-timeout" not in [item["name"] for item in answer["findings"]]
    written = root / "etc/tmpfiles.d/hibprep-freeze-timeout.conf"
    assert "w /sys/power/pm_freeze_timeout - - - - 20000" in written.read_text()
    # what would be written is said before
    assert "write /etc/tmpfiles.d/hibprep-freeze-timeout.conf:" in captured.err
    assert cli.run(["check", "--fix", "--yes"]) == 0
    assert "nothing is found that could be changed" in capsys.readouterr().err
    assert cli.run(["setup", "undo", "fix-freeze-timeout"]) == 0
    assert not written.exists()
    assert not written.parent.exists()


def test_fix_asks_one_by_one(root: Path, capsys: Capture, terminal: Answer) -> None:
    slow_freezer(root)
    before = snapshot(root)
    terminal("n")
    assert cli.run(["check", "--fix"]) == 0
    assert snapshot(root) == before
    terminal("y")
    assert cli.run(["check", "--fix"]) == 0
    assert "hibprep setup undo fix-disk-mode takes it back" in capsys.readouterr().err


def test_fix_with_nobody_to_ask(root: Path, capsys: Capture) -> None:
    slow_freezer(root)
    before = snapshot(root)
    assert cli.run(["check", "--fix"]) == 2
    assert "give --yes" in capsys.readouterr().err
    assert snapshot(root) == before
    assert cli.run(["check", "--yes"]) == 2
    assert "--yes goes with --fix" in capsys.readouterr().err


def test_a_fix_that_fails_is_told_and_the_others_are_done(
    root: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow_freezer(root)
    (root / "etc/tmpfiles.d").write_text("in the way: no directory\n")
    assert cli.run(["check", "--fix", "--yes", "--json"]) == 3
    answer = json.loads(capsys.readouterr().out)
    assert [(fix["done"], fix["failed"]) for fix in answer["fixes"]] == [
        (False, True),
        (True, False),
    ]
    assert "as it was before" in answer["fixes"][0]["words"]


def test_check_shows_the_devices_and_what_a_preparation_changes(
    root: Path, capsys: Capture
) -> None:
    slow_freezer(root)
    assert cli.run(["check"]) == 0
    text = capsys.readouterr().out
    assert "Room for an image:" in text
    assert "/dev/vda2 (resume)" in text
    assert "/dev/vda2, prepared" in text
    assert cli.run(["check", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["areas"][0]["area"]["path"] == "/dev/vda2"
    assert answer["areas"][0]["fit"]["ok"] is True
    assert answer["prepared"]["ok"] is True
