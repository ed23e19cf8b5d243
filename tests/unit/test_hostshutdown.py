# SPDX-License-Identifier: LGPL-2.1-or-later
"""Whether guests are about to be saved, and what hibprep-guests.service does about it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hibprep import cli, hostshutdown
from hibprep.cli import common
from hibprep.hostshutdown import what_becomes_of_guests, why_not_saved
from hibprep.install.manifest import RESOURCES
from hibprep.kernel.root import KernelRoot

SCRIPT = "usr/libexec/libvirt-guests.sh"
DEBIAN = "usr/lib/libvirt/libvirt-guests.sh"
SETTINGS = "etc/default/libvirt-guests"
UPSTREAM_TEXT = (
    "#!/bin/sh\nURIS=\nON_BOOT=start\nON_SHUTDOWN=suspend\nSHUTDOWN_TIMEOUT=300\n"
    'case "$ON_SHUTDOWN" in\n'
)
STOPPING = {"is-system-running": "stopping", "is-active": "active"}


def asking(**answers: str) -> Callable[[tuple[str, ...]], str]:
    known = STOPPING | {name.replace("_", "-"): answer for name, answer in answers.items()}
    return lambda arguments: known[arguments[0]]


def put(top: Path, path: str, text: str) -> None:
    (top / path).parent.mkdir(parents=True, exist_ok=True)
    (top / path).write_text(text)


@pytest.mark.parametrize(
    ("texts", "value"),
    [
        ([], ""),
        ([UPSTREAM_TEXT], "suspend"),
        ([UPSTREAM_TEXT, "#ON_SHUTDOWN=shutdown\n"], "suspend"),
        ([UPSTREAM_TEXT, "ON_SHUTDOWN=shutdown\n"], "shutdown"),
        ([UPSTREAM_TEXT, "ON_SHUTDOWN='shutdown'  # slow\n"], "shutdown"),
        (['ON_SHUTDOWN=shutdown\nON_SHUTDOWN="suspend"\n'], "suspend"),
        (["X_ON_SHUTDOWN=suspend\n"], ""),
        (["ON_SHUTDOWN='suspend\n"], ""),
    ],
)
def test_what_is_configured(texts: list[str], value: str) -> None:
    assert what_becomes_of_guests(texts) == value


@given(st.lists(st.text()))
def test_any_text(texts: list[str]) -> None:
    value = what_becomes_of_guests(texts)
    values = [f"ON_SHUTDOWN={quote}{value}" for quote in ("", "'", '"')]
    assert not value or any(each in text for text in texts for each in values)


def test_they_are_saved(tmp_path: Path) -> None:
    put(tmp_path, SCRIPT, UPSTREAM_TEXT)
    assert why_not_saved(KernelRoot(tmp_path), asking()) == ""
    put(tmp_path, SETTINGS, "ON_SHUTDOWN=shutdown\n")
    assert "ON_SHUTDOWN is shutdown" in why_not_saved(KernelRoot(tmp_path), asking())
    put(tmp_path, DEBIAN, "ON_SHUTDOWN=shutdown\n")
    put(tmp_path, SETTINGS, "ON_SHUTDOWN=suspend\n")
    assert why_not_saved(KernelRoot(tmp_path), asking()) == ""


@pytest.mark.parametrize(
    ("answers", "words"),
    [
        ({"is_system_running": "running"}, "does not shut down (systemctl is-system-running: run"),
        ({"is_system_running": ""}, "no answer"),
        ({"is_active": "inactive"}, "libvirt-guests.service does not run"),
        ({}, "ON_SHUTDOWN is not known"),
    ],
)
def test_they_are_not(tmp_path: Path, answers: dict[str, str], words: str) -> None:
    assert words in why_not_saved(KernelRoot(tmp_path), asking(**answers))


def test_systemctl_that_is_not_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert hostshutdown.systemctl(("is-system-running",)) == ""
    program = tmp_path / "systemctl"
    program.write_text('#!/bin/sh\necho " $1 $2"\nexit 3\n')
    program.chmod(0o755)
    assert hostshutdown.systemctl(("is-active", "x")) == "is-active x"
    program.write_text("#!/bin/sh\nexec sleep 600\n")
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setattr(hostshutdown, "_ASKING_SECONDS", 0.1)
    assert hostshutdown.systemctl(("is-active", "x")) == ""


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """What the command line is asked to do beside what it is asked by the test."""
    seen: list[list[str]] = []
    real = cli.run

    def run(arguments: list[str]) -> int:
        if arguments[0] == "host-shutdown":
            return real(arguments)
        seen.append(arguments)
        return 3

    monkeypatch.setattr(cli, "run", run)
    return seen


def test_the_unit_prepares_all_of_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ran: list[list[str]]
) -> None:
    monkeypatch.setenv(common.ROOT_VARIABLE, str(tmp_path))
    put(tmp_path, SCRIPT, UPSTREAM_TEXT)
    monkeypatch.setattr("hibprep.cli.host_shutdown.why_not_saved", lambda _: "")
    assert cli.run(["host-shutdown", "--timeout", "45"]) == 3
    assert ran == [["guest", "prepare", "--all", "--timeout", "45"]]


def test_stopped_by_hand_it_prepares_nothing(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    ran: list[list[str]],
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv(common.ROOT_VARIABLE, str(tmp_path))
    monkeypatch.setattr("hibprep.cli.host_shutdown.why_not_saved", lambda _: "it runs on")
    assert cli.run(["host-shutdown"]) == 0
    assert capsys.readouterr().err == "hibprep: no guest is prepared: it runs on\n"
    assert ran == []
    assert cli.run(["host-shutdown", "--timeout", "0"]) == 2
    assert "host-shutdown" not in cli.COMMANDS


def test_the_unit_is_stopped_before_what_it_is_ordered_after() -> None:
    lines = (RESOURCES / "hibprep-guests.service").read_text().splitlines()
    (after,) = [line.removeprefix("After=").split() for line in lines if line.startswith("After=")]
    assert {"libvirt-guests.service", "virt-guest-shutdown.target"} <= set(after)
    assert "RemainAfterExit=yes" in lines
    assert not any(line.startswith(("ExecStart=", "Before=")) for line in lines)
    (stop,) = [line for line in lines if line.startswith("ExecStop=")]
    (limit,) = [line for line in lines if line.startswith("TimeoutStopSec=")]
    assert float(stop.rsplit(" ", 1)[1]) < float(limit.partition("=")[2])
