# SPDX-License-Identifier: LGPL-2.1-or-later
"""Looks by another process, at processes that are files; one of them never answers."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from hibprep import lookapart, workingset
from hibprep.kernel.root import KernelRoot
from hibprep.lookapart import LooksApart
from hibprep.model import Progress, Stage
from hibprep.reclaim.base import Stop
from hibprep.remembered import Who
from tests.fakes.processes import FakeProcess, Mapped

ANNA = FakeProcess(7, (Mapped(16, "aaaas"), Mapped(200, "ff", "fe:01", 12, "/usr/lib/libc.so")))
LONG_SECONDS = 60.0  # however busy this machine is


@pytest.fixture
def root(tmp_path: Path) -> KernelRoot:
    boot = tmp_path / "proc/sys/kernel/random"
    boot.mkdir(parents=True)
    (boot / "boot_id").write_text("6b8f1e0c\n")
    ANNA.write(tmp_path)
    return KernelRoot(tmp_path)


@pytest.fixture
def stop() -> Iterator[Stop]:
    flag = Stop()
    yield flag
    flag.close()


def progress(stage: Stage, done: int) -> Progress:
    return Progress(
        stage=stage, step=1, steps=1, done_bytes=done, amount_bytes=100, saveable_bytes=0,
        goal_bytes=0, seconds=0.0,
    )  # fmt: skip


def apart(root: KernelRoot, stop: Stop) -> LooksApart:
    return LooksApart(root, stop, budget_seconds=LONG_SECONDS, grace_seconds=LONG_SECONDS)


def test_what_is_kept_is_what_this_process_would_have_seen(root: KernelRoot, stop: Stop) -> None:
    looks = apart(root, stop)
    with workingset.watching(looks) as tell:
        tell(progress(Stage.ANON, 0))
        FakeProcess(7, (Mapped(16, "sssas"),)).write(root.prefix)
        tell(progress(Stage.ANON, 60))
    assert looks.notes == []
    record = workingset.load(root)
    assert record is not None
    assert record.looks == ("half of anon", "before anon")
    anna = record.processes[Who(7, 100)]
    (latest,) = anna.anon[0]
    assert latest[1] - latest[0] == os.sysconf("SC_PAGE_SIZE")
    # of files only the first look tells
    assert anna.files == (tuple(ANNA.ranges("f")),)


def test_it_goes_on_from_what_is_known(root: KernelRoot, stop: Stop) -> None:
    workingset.save(root, workingset.take(root, None, look="earlier"))
    with workingset.watching(apart(root, stop)) as tell:
        tell(progress(Stage.COLD_ANON, 0))
    record = workingset.load(root)
    assert record is not None
    assert record.looks == ("before cold-anon", "earlier")


def test_nothing_to_look_at_starts_nothing(
    root: KernelRoot, stop: Stop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lookapart, "_PROGRAM", "raise SystemExit('started')")
    looks = apart(root, stop)
    with workingset.watching(looks):
        pass
    assert looks.notes == []


def test_a_look_that_does_not_come_back_is_given_up_and_there_is_no_other(
    root: KernelRoot, stop: Stop
) -> None:
    pagemap = root.path("/proc/7/pagemap")
    pagemap.unlink()
    os.mkfifo(pagemap)  # opening it waits for a writer, and there is none
    looks = LooksApart(root, stop, budget_seconds=1.0, grace_seconds=1.0)
    children = _children()
    with workingset.watching(looks) as tell:
        tell(progress(Stage.ANON, 0))
        tell(progress(Stage.ANON, 60))
    (note,) = looks.notes
    assert "no look before anon" in note
    assert _children() == children
    assert workingset.load(root) is None


def test_one_that_dies_is_given_up(
    root: KernelRoot, stop: Stop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lookapart, "_PROGRAM", "raise SystemExit(1)")
    looks = apart(root, stop)
    with workingset.watching(looks) as tell:
        tell(progress(Stage.ANON, 0))
        tell(progress(Stage.ANON, 60))
    assert len(looks.notes) == 1


def test_one_that_cannot_be_started_is_told(
    root: KernelRoot, stop: Stop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", str(root.path("/no/python")))
    looks = apart(root, stop)
    with workingset.watching(looks) as tell:
        tell(progress(Stage.ANON, 0))
    assert "No such file" in looks.notes[0]


def test_a_stop_is_not_held_up(root: KernelRoot, stop: Stop) -> None:
    pagemap = root.path("/proc/7/pagemap")
    pagemap.unlink()
    os.mkfifo(pagemap)
    stop.request("the person is back")
    looks = LooksApart(root, stop, budget_seconds=LONG_SECONDS, grace_seconds=LONG_SECONDS)
    with workingset.watching(looks) as tell:
        tell(progress(Stage.ANON, 0))
    assert looks.notes


def _children() -> set[str]:
    path = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children")
    return set(path.read_text().split())
