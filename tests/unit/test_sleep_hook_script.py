# SPDX-License-Identifier: LGPL-2.1-or-later
"""The hook as systemd-sleep calls it: a process of its own, whose exit code nobody looks at."""

from __future__ import annotations

import os
import socket
import subprocess
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from types import ModuleType

import pytest

import hibprep
from tests.waiting import GENEROUS_SECONDS

SCRIPT = Path(__file__).parents[2] / "hooks/systemd-sleep/hibprep"
HEAVY = {"json", "socket", "signal", "select", "re", "enum", "typing", "subprocess"}


def installed(folder: Path, **places: str) -> Path:
    """A copy for this machine, as `hibprep install` makes one, with `places` in it."""
    text = SCRIPT.read_text()
    known = {
        "LIBRARY": str(Path(hibprep.__file__).parent),
        "PROGRAM": str(folder / "program"),
        "CONTROL": str(folder / "control"),
        "RECORD": str(folder / "sleep.json"),
    }
    for name, value in (known | places).items():
        old = next(line for line in text.splitlines() if line.startswith(f"{name} = "))
        text = text.replace(old, f"{name} = {value!r}")
    copy = folder / "hook"
    copy.write_text(text)
    copy.chmod(0o755)
    return copy


def program(folder: Path, body: str = "") -> None:
    """In the place of `hibprep`: says with what it was called."""
    path = folder / "program"
    path.write_text(f'#!/bin/sh\n{body}\necho "called: $*"\n')
    path.chmod(0o755)


def call(
    script: Path, moment: str, verb: str, action: str | None = None, *, options: str = "-IS"
) -> subprocess.CompletedProcess[str]:
    environment = dict(os.environ)
    environment.pop("SYSTEMD_SLEEP_ACTION", None)
    if action is not None:
        environment["SYSTEMD_SLEEP_ACTION"] = action
    done = subprocess.run(
        ["/usr/bin/python3", *options.split(), str(script), moment, verb],
        check=False, capture_output=True, text=True, env=environment, timeout=GENEROUS_SECONDS,
    )  # fmt: skip
    assert done.returncode == 0
    return done


@pytest.fixture(scope="module")
def script() -> ModuleType:
    loader = SourceFileLoader("hook", str(SCRIPT))
    spec = spec_from_loader("hook", loader)
    assert spec is not None
    module = module_from_spec(spec)
    loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("verb", "action", "leg"),
    [
        ("hibernate", "hibernate", "hibernate"),
        ("hibernate", "", "hibernate"),  # systemd before 250 sets no action
        ("hybrid-sleep", "hybrid-sleep", "hibernate"),
        ("suspend", "suspend", ""),
        ("suspend", "", ""),
        ("suspend-then-hibernate", "suspend", "suspend"),
        ("suspend-then-hibernate", "hibernate", "hibernate"),
        ("suspend-then-hibernate", "", ""),
        ("hibernate", "suspend-after-failed-hibernate", ""),
        ("hybrid-sleep", "suspend-after-failed-hybrid-sleep", ""),
        ("", "", ""),
    ],
)
def test_it_acts_on_the_leg_and_not_on_the_verb(
    script: ModuleType, verb: str, action: str, leg: str
) -> None:
    assert script.leg_of(verb, action) == leg


def test_the_first_line_is_what_is_installed() -> None:
    assert SCRIPT.read_text().startswith("#!/usr/bin/python3 -IS\n")
    assert os.access(SCRIPT, os.X_OK)


def test_with_nothing_to_do_nothing_is_imported(tmp_path: Path) -> None:
    program(tmp_path)
    hook = installed(tmp_path)
    done = call(hook, "pre", "suspend", "suspend", options="-IS -X importtime")
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "os" in imported
    assert not imported & HEAVY
    assert done.stdout == ""


def test_without_a_daemon_the_command_does_it(tmp_path: Path) -> None:
    program(tmp_path)
    hook = installed(tmp_path)
    done = call(hook, "pre", "hibernate", "hibernate")
    assert done.stdout == "called: sleep-hook pre hibernate\n"
    done = call(hook, "pre", "suspend-then-hibernate", "suspend")
    assert done.stdout == "called: sleep-hook pre suspend\n"
    assert call(hook, "post", "hibernate", "hibernate").stdout == ""  # nothing was recorded
    (tmp_path / "sleep.json").touch()
    done = call(hook, "post", "hibernate", "hibernate")
    assert done.stdout == "called: sleep-hook post hibernate\n"


def test_without_the_command_it_says_so(tmp_path: Path) -> None:
    done = call(installed(tmp_path), "pre", "hibernate")
    assert done.stderr == f"hibprep: {tmp_path}/program is not there: nothing is prepared\n"


def test_a_command_that_does_not_end_is_ended(tmp_path: Path) -> None:
    program(tmp_path, body="trap '' TERM; while :; do sleep 0.05; done")
    hook = installed(tmp_path)
    text = hook.read_text().replace('{"pre": 60, "post": 30}', '{"pre": 0.2, "post": 0.2}')
    hook.write_text(text.replace("_GRACE_SECONDS = 5", "_GRACE_SECONDS = 0.2"))
    done = call(hook, "pre", "hibernate")
    assert "takes longer than 0.2 s: it is ended" in done.stderr
    assert done.stdout == ""


def test_a_daemon_that_hangs_is_waited_for_once(tmp_path: Path) -> None:
    program(tmp_path)
    hook = installed(tmp_path)
    text = hook.read_text().replace('{"pre": 60, "post": 30}', '{"pre": 0.2, "post": 0.2}')
    hook.write_text(text.replace("_GRACE_SECONDS = 5", "_GRACE_SECONDS = 0.2"))
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "control"))
        listener.listen()
        done = call(hook, "pre", "hibernate")
    assert "did not answer" in done.stderr
    assert done.stdout == ""


def test_a_socket_that_a_killed_daemon_left_is_no_daemon(tmp_path: Path) -> None:
    program(tmp_path)
    hook = installed(tmp_path)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "control"))
    done = call(hook, "pre", "hibernate")
    assert done.stdout == "called: sleep-hook pre hibernate\n"


@pytest.mark.parametrize("arguments", [(), ("pre",), ("later", "hibernate"), ("pre", "dance")])
def test_whatever_it_is_called_with_it_ends_well(
    tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    program(tmp_path)
    done = subprocess.run(
        [str(installed(tmp_path)), *arguments],
        check=False, capture_output=True, text=True, timeout=GENEROUS_SECONDS,
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
