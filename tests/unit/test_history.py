# SPDX-License-Identifier: LGPL-2.1-or-later
from __future__ import annotations

import dataclasses
import fcntl
import os
import stat
from pathlib import Path

import pytest

from hibprep import history as module
from hibprep.history import History
from hibprep.model import Report

from .examples import REPORT


def numbered(number: int) -> Report:
    return dataclasses.replace(REPORT, version=number)


def test_a_report_comes_back_as_it_was(tmp_path: Path) -> None:
    history = History(str(tmp_path))
    assert history.append(REPORT) == ""
    assert history.read() == module.Kept((REPORT,))
    assert history.last().reports == (REPORT,)
    assert stat.S_IMODE(history.path.stat().st_mode) == 0o600


def test_nothing_yet(tmp_path: Path) -> None:
    assert History(str(tmp_path)).read() == module.Kept()


@pytest.mark.parametrize("keep", [1, 3])
def test_only_the_newest_are_kept(tmp_path: Path, keep: int) -> None:
    history = History(str(tmp_path), keep)
    for number in range(7):
        assert history.append(numbered(number)) == ""
    assert [item.version for item in history.read().reports] == list(range(7))[-keep:]
    assert history.last().reports[0].version == 6
    assert [path.name for path in history.path.parent.iterdir()] == ["history.jsonl"]


def test_lines_that_are_no_report_are_counted_and_said(tmp_path: Path) -> None:
    history = History(str(tmp_path))
    history.append(numbered(1))
    with history.path.open("ab") as file:
        file.write(b'{"version": 2}\n\n\xff\xfe\nnull\n{"cut sho')
    assert history.append(numbered(3)) == ""
    kept = history.read()
    assert [item.version for item in kept.reports] == [1, 3]
    assert kept.skipped == 4
    assert "4 lines" in kept.note
    assert str(history.path) in kept.note


def test_what_cannot_be_written_is_a_note(tmp_path: Path) -> None:
    (tmp_path / "var").write_text("not a directory")
    history = History(str(tmp_path))
    note = history.append(REPORT)
    assert note.startswith("not kept in the history: ")
    assert history.read().note.startswith("the history cannot be read: ")


def test_a_link_in_its_place_is_not_followed(tmp_path: Path) -> None:
    history = History(str(tmp_path))
    history.path.parent.mkdir(parents=True)
    victim = tmp_path / "victim"
    victim.write_text("")
    history.path.symlink_to(victim)
    assert history.append(REPORT) != ""
    assert victim.read_text() == ""


def test_a_stuck_lock_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LOCK_SECONDS", 0.05)
    history = History(str(tmp_path))
    history.append(REPORT)
    descriptor = os.open(history.path.parent, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        assert "another hibprep holds the lock" in history.append(REPORT)
    finally:
        os.close(descriptor)
    assert history.append(REPORT) == ""
