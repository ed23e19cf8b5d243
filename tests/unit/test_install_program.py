# SPDX-License-Identifier: LGPL-2.1-or-later
"""Which hibprep units and hooks run."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from hibprep.errors import NotPossibleError, UsageError
from hibprep.install.program import LIBRARY, Program, find_program
from hibprep.kernel.root import KernelRoot


def script(path: Path, first: str) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{first}\npass\n")
    return str(path)


def find(
    root: str | Path = "/", given: str | None = None, called: str = "pytest", **more: str
) -> Program:
    facts = {"interpreter": "/usr/bin/python3", "library": "/usr/share/hibprep", **more}
    return find_program(KernelRoot(root), given, called=called, **facts)


def test_below_another_root_it_is_that_root_s(tmp_path: Path) -> None:
    assert find(tmp_path) == Program()
    script(tmp_path / "usr/local/bin/hibprep", "#!/usr/local/bin/python3.13 -I")
    assert find(tmp_path) == Program("/usr/local/bin/hibprep", "/usr/local/bin/python3.13", LIBRARY)
    script(tmp_path / "usr/bin/hibprep", "#!/bin/sh")
    assert find(tmp_path) == Program()
    assert find(tmp_path, "/opt/h/hibprep").path == "/opt/h/hibprep"


@pytest.fixture
def visible(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that a service could see."""
    monkeypatch.setattr("hibprep.install.program._HIDDEN", ("/home/",))
    return tmp_path


def test_here_it_is_the_one_that_runs(visible: Path) -> None:
    path = script(visible / "bin/hibprep", f"#!{visible}/bin/python3")
    expected = Program(path, f"{visible}/bin/python3", "/usr/share/hibprep")
    assert find(called=path) == expected
    assert find(interpreter=f"{visible}/bin/python3") == expected
    assert find(given=path) == expected


def test_a_first_line_of_a_shell_is_no_python(visible: Path) -> None:
    path = script(visible / "bin/hibprep", "#!/bin/sh\n'''exec' /very/long/python3 \"$0\" \"$@\"")
    assert find(called=path).interpreter == "/usr/bin/python3"


def test_what_a_service_cannot_see_is_refused(tmp_path: Path, visible: Path) -> None:
    path = script(visible / "bin/hibprep", "#!/usr/bin/python3")
    with pytest.raises(NotPossibleError, match="hidden from services: install hibprep where"):
        find(called=path, library="/home/me/hibprep")
    with pytest.raises(NotPossibleError, match="/home/me/python3"):
        find(called=script(visible / "bin/hibprep", "#!/home/me/python3"))
    link = visible / "hibprep"
    link.symlink_to("/home/me/hibprep")
    with pytest.raises(UsageError, match="there is no program"):
        find(given=str(link))


@pytest.mark.parametrize(
    "path", ["/opt/a b/hibprep", "/opt/%n/hibprep", "/opt/$x", '/"', "hibprep"]
)
def test_what_would_have_to_be_quoted_is_refused(tmp_path: Path, path: str) -> None:
    with pytest.raises(UsageError, match="plain characters"):
        find(tmp_path, path)


def test_without_any_program(visible: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(visible))
    with pytest.raises(NotPossibleError, match="no program hibprep"):
        find(interpreter=f"{visible}/python3")
    path = script(visible / "hibprep", "#!/usr/bin/python3")
    os.chmod(path, 0o755)  # noqa: PTH101, S103 - a program
    assert find(interpreter=f"{visible}/bin/python3").path == path
