# SPDX-License-Identifier: LGPL-2.1-or-later
"""Looking at processes and keeping what was seen, on processes that are files."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from hibprep import workingset
from hibprep.kernel.members import Member
from hibprep.kernel.root import KernelRoot
from hibprep.model import Progress, Stage
from hibprep.ranges import join, total_bytes
from hibprep.remembered import GAP_BYTES, Record, Seen, Who
from hibprep.workingset import OwnLooks
from tests.fakes.clock import HandClock
from tests.fakes.processes import PAGE, FakeProcess, Mapped, write_kernel_thread

BOOT = "6b8f1e0c"
ANNA = FakeProcess(
    7,
    (
        Mapped(16, "aaaas"),
        Mapped(200, "ffff", "fe:01", 12, "/usr/lib/libc.so", "r-xp"),
        Mapped(300, "ff", "00:01", 13, "/memfd:x (deleted)", "rw-s"),
        Mapped(400, "ff", "00:05", 14, "/dev/dri/card0", "rw-s"),
    ),
)
BERT = FakeProcess(
    8,
    (Mapped(16, "a"), Mapped(500, "ffff", "fe:01", 12, "/usr/lib/libc.so", "r-xp")),
    name="bert",
    cgroup="/system.slice/bert.service",
)


@pytest.fixture(autouse=True)
def standing_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """However busy this machine is, no budget runs out by itself."""
    monkeypatch.setattr(workingset, "SystemClock", HandClock)


@pytest.fixture
def root(tmp_path: Path) -> KernelRoot:
    boot = tmp_path / "proc/sys/kernel/random"
    boot.mkdir(parents=True)
    (boot / "boot_id").write_text(BOOT + "\n")
    write_kernel_thread(tmp_path, 2)
    ANNA.write(tmp_path)
    BERT.write(tmp_path)
    return KernelRoot(tmp_path)


def kept(root: KernelRoot, look: str = "a look", *, files: bool = True) -> Record:
    """A look on top of what is on record, and kept."""
    return workingset.save(
        root, workingset.take(root, workingset.load(root), look=look, files=files)
    )


def prefix(root: KernelRoot) -> Path:
    return root.prefix


def test_a_look(root: KernelRoot) -> None:
    record = workingset.take(root, None, look="now")
    assert record.boot == BOOT
    assert record.looks == ("now",)
    assert record.complete
    assert list(record.processes) == [Who(7, 100), Who(8, 100)]  # people before the system
    anna = record.processes[Who(7, 100)]
    assert (anna.name, anna.cgroup) == (ANNA.name, ANNA.cgroup)
    assert anna.anon == (tuple(ANNA.ranges("a")),)
    # files and shared memory, no devices
    expected = [each for each in ANNA.ranges("f") if each[0] < 400 * PAGE]
    assert list(anna.files[0]) == expected


def test_what_many_map_is_remembered_of_the_first(root: KernelRoot) -> None:
    assert workingset.take(root, None, look="now").processes[Who(8, 100)].files == ((),)


def test_files_are_looked_for_when_that_is_wanted(root: KernelRoot) -> None:
    record = workingset.take(root, None, look="now", files=False)
    assert all(one.files == () for one in record.processes.values())


def test_what_survived_is_first(root: KernelRoot) -> None:
    far = GAP_BYTES // PAGE + 2
    before = Mapped(16, "a" + "." * far + "a")
    FakeProcess(7, (before,)).write(prefix(root))
    first = kept(root, look="before")
    assert not first.note
    FakeProcess(7, (Mapped(16, "s" + "." * far + "a"),)).write(prefix(root))
    kept(root, look="later", files=False)
    record = workingset.load(root)
    assert record is not None
    assert record.looks == ("later", "before")
    last = 16 + 1 + far
    assert record.processes[Who(7, 100)].anon == (
        ((last * PAGE, (last + 1) * PAGE),),
        ((16 * PAGE, 17 * PAGE),),
    )


def test_no_budget_and_nothing_is_forgotten(root: KernelRoot) -> None:
    known = workingset.take(root, None, look="before")
    record = workingset.take(root, known, 0.0, look="now")
    assert not record.complete
    assert record.processes.keys() == known.processes.keys()
    assert record.processes[Who(7, 100)].anon[1] == known.processes[Who(7, 100)].anon[0]


def test_the_budget_ends_it_between_processes(
    root: KernelRoot, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = HandClock()
    look_at = workingset._Looker.look_at

    def slow(self: workingset._Looker, member: Member) -> Seen | None:
        clock.go_on(3.0)
        return look_at(self, member)

    monkeypatch.setattr(workingset._Looker, "look_at", slow)
    record = workingset.take(root, None, 4.0, look="now", clock=clock)
    assert list(record.processes) == [Who(7, 100)]
    assert not record.complete


def test_it_ends_when_it_is_told_to(root: KernelRoot) -> None:
    record = workingset.take(root, None, look="now", expired=lambda: True)
    assert (record.processes, record.complete) == ({}, False)


def test_a_machine_without_processes(tmp_path: Path) -> None:
    record = kept(KernelRoot(tmp_path))
    assert record.processes == {}
    # of no boot that can be told: it is worth nothing
    assert workingset.load(KernelRoot(tmp_path)) is None


# --- what is kept ---------------------------------------------------------------------------------


def test_what_is_kept_is_what_was_seen(root: KernelRoot) -> None:
    record = kept(root)
    assert workingset.load(root) == record
    path = root.path(workingset.FILE)
    assert path.stat().st_mode & 0o777 == 0o600
    assert [each.name for each in path.parent.iterdir()] == [path.name]


def test_another_boot_has_nothing(root: KernelRoot) -> None:
    kept(root)
    root.path("/proc/sys/kernel/random/boot_id").write_text("another\n")
    assert workingset.load(root) is None
    assert kept(root, look="new").looks == ("new",)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"version":9}', "\xff"])
def test_what_is_damaged_is_nothing(root: KernelRoot, text: str) -> None:
    kept(root)
    root.path(workingset.FILE).write_text(text, encoding="latin-1")
    assert workingset.load(root) is None
    kept(root)
    assert workingset.load(root) is not None


def test_nothing_was_ever_kept(root: KernelRoot) -> None:
    assert workingset.load(root) is None


def test_why_it_was_not_kept(root: KernelRoot) -> None:
    root.path("/var").write_text("no directory")
    record = kept(root)
    assert workingset.FILE in record.note
    assert record.processes


def test_addresses_and_names_are_kept_and_nothing_else(root: KernelRoot) -> None:
    text = json.loads(_text(root, kept(root)))
    assert set(text) == {"version", "boot", "taken", "looks", "complete", "processes"}
    assert set(text["processes"][0]) == {"pid", "start", "name", "cgroup", "anon", "files"}


def _text(root: KernelRoot, record: Record) -> str:
    assert not record.note
    return root.path(workingset.FILE).read_text()


# --- beside a run ---------------------------------------------------------------------------------

AT = Progress(
    stage=Stage.CACHE,
    step=1,
    steps=3,
    done_bytes=0,
    amount_bytes=100,
    saveable_bytes=0,
    goal_bytes=0,
    seconds=0.0,
)


def at(stage: Stage, done: int, amount: int = 100) -> Progress:
    return replace(AT, stage=stage, done_bytes=done, amount_bytes=amount)


@pytest.mark.parametrize(
    ("progress", "first", "name"),
    [
        (at(Stage.SYNC, 0), True, "before sync"),
        (at(Stage.SYNC, 50), False, ""),
        (at(Stage.CACHE, 99), False, ""),
        (at(Stage.COLD_ANON, 0), False, "before cold-anon"),
        (at(Stage.COLD_ANON, 49), False, "before cold-anon"),
        (at(Stage.ANON, 50), False, "half of anon"),
        (at(Stage.ANON, 75), False, "most of anon"),
        (at(Stage.ANON, 0, 0), False, "before anon"),
    ],
)
def test_when_a_look_is_due(progress: Progress, first: bool, name: str) -> None:  # noqa: FBT001
    assert workingset.moment(progress, first=first) == name


def test_a_run_is_watched(root: KernelRoot) -> None:
    told: list[Progress] = []
    run = [
        at(Stage.CACHE, 0), at(Stage.CACHE, 60), at(Stage.COLD_ANON, 0), at(Stage.COLD_ANON, 10),
        at(Stage.COLD_ANON, 80), at(Stage.ANON, 0), at(Stage.ANON, 55), at(Stage.ANON, 60),
    ]  # fmt: skip
    with workingset.watching(OwnLooks(root), told.append) as tell:
        for progress in run:
            tell(progress)
        assert workingset.load(root) is None  # nothing is written while it runs
    assert told == run
    record = workingset.load(root)
    assert record is not None
    assert record.looks == (
        "half of anon", "before anon", "most of cold-anon", "before cold-anon", "before cache",
    )  # fmt: skip
    # only the look before anything was taken is for files
    assert len(record.processes[Who(7, 100)].files) == 1


def test_a_run_without_progress_leaves_what_is_known(root: KernelRoot) -> None:
    known = kept(root)
    with workingset.watching(OwnLooks(root)):
        pass
    assert workingset.load(root) == known


def test_a_run_that_fails_has_been_watched_all_the_same(root: KernelRoot) -> None:
    def fail() -> None:
        with workingset.watching(OwnLooks(root)) as tell:
            tell(at(Stage.ANON, 0))
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert workingset.load(root) is not None


def test_a_run_that_is_to_stop_is_not_held_up(root: KernelRoot) -> None:
    with workingset.watching(OwnLooks(root, expired=lambda: True)) as tell:
        tell(at(Stage.ANON, 0))
    assert workingset.load(root) is None


def test_pages_close_by_are_taken_in(root: KernelRoot) -> None:
    FakeProcess(7, (Mapped(16, "a.a"),)).write(prefix(root))
    record = workingset.take(root, None, look="now")
    (found,) = record.processes[Who(7, 100)].anon
    assert list(found) == join([(16 * PAGE, 19 * PAGE)])
    assert total_bytes(found) == 3 * PAGE
