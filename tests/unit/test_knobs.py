# SPDX-License-Identifier: LGPL-2.1-or-later
"""Settings come back: at the end, after failures, and after a kill at any moment."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hibprep.errors import KernelFileError, KernelFileMalformed, KernelFileMissing
from hibprep.kernel.knobs import KnobJournal, equivalent, knob_name, parse_journal, selected
from hibprep.kernel.root import KernelRoot

SWAPPINESS = "/proc/sys/vm/swappiness"
IMAGE_SIZE = "/sys/power/image_size"
DISK = "/sys/power/disk"
LRU_GEN = "/sys/kernel/mm/lru_gen/enabled"
START = {SWAPPINESS: "60", IMAGE_SIZE: "1645903872", LRU_GEN: "0x0000"}


def tree(directory: Path, files: dict[str, str] = START) -> KernelRoot:
    for path, text in files.items():
        target = directory / path.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text + "\n")
    return KernelRoot(directory)


def records(directory: Path) -> list[Path]:
    return sorted((directory / "run/hibprep").glob("knobs-*"))


def leave_behind(directory: Path, **changes: object) -> Path:
    """A journal of a process that is no more."""
    document = {
        "version": 1,
        "pid": 4194305,
        "start": 1,
        "boot": Path("/proc/sys/kernel/random/boot_id").read_text().strip(),
        "entries": [
            {"path": SWAPPINESS, "old": "60", "written": ["200"], "reason": "a test"},
        ],
    }
    run = directory / "run/hibprep"
    run.mkdir(parents=True, exist_ok=True)
    file = run / "knobs-4194305-1.json"
    file.write_text(json.dumps(document | changes))
    return file


def entry_for(path: str) -> str:
    """A record that would have root write to that path."""
    entry = {"path": path, "old": "", "written": [], "reason": ""}
    return json.dumps({"version": 1, "boot": "", "entries": [entry]})


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ("60\n", "60"),
        ("y", "0x0007\n"),
        ("n", "0x0000"),
        ("Y", "1"),
        ("N", "0"),
        ("[platform] shutdown", "platform"),
        ("0x10", "16"),
        ("4096 8192\n", "4096\t8192"),
        ("060", "60"),
    ],
)
def test_the_same_setting_in_other_words(a: str, b: str) -> None:
    assert equivalent(a, b)
    assert equivalent(b, a)


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ("60", "6"),
        ("y", "0x0000"),
        ("[platform] shutdown", "shutdown"),
        ("max", "0"),
        ("1 2", "1"),
        ("0x0003", "0x0007"),
        ("", "0"),
    ],
)
def test_other_settings(a: str, b: str) -> None:
    assert not equivalent(a, b)


@given(st.text(), st.text())
def test_any_two_texts_can_be_compared(a: str, b: str) -> None:
    assert equivalent(a, b) == equivalent(b, a)


def test_selected_and_name() -> None:
    assert selected("[platform] shutdown\n") == "platform"
    assert knob_name(SWAPPINESS) == "vm.swappiness"
    assert knob_name(IMAGE_SIZE) == IMAGE_SIZE


def test_set_and_put_back(tmp_path: Path) -> None:
    root = tree(tmp_path)
    journal = KnobJournal(root)
    journal.set(SWAPPINESS, "200", "anon first")
    assert root.read(SWAPPINESS).strip() == "200"
    assert [change.value for change in journal.pending()] == ["200"]
    assert len(records(tmp_path)) == 1
    assert journal.restore_all() == ["vm.swappiness put back to 60"]
    assert root.read(SWAPPINESS).strip() == "60"
    assert records(tmp_path) == []
    assert journal.restore_all() == []


def test_the_directory_is_closed_to_others(tmp_path: Path) -> None:
    with KnobJournal(tree(tmp_path)) as journal:
        journal.set(SWAPPINESS, "200", "anon first")
        assert (tmp_path / "run/hibprep").stat().st_mode & 0o777 == 0o700
        assert records(tmp_path)[0].stat().st_mode & 0o777 == 0o600


class OrderedRoot(KernelRoot):
    """Notes what is on record at each write, and the order of writes."""

    def __init__(self, prefix: Path) -> None:
        super().__init__(prefix)
        self.recorded: list[list[str]] = []
        self.order: list[tuple[str, str]] = []

    def raw_write(self, p: str, text: str) -> None:
        found = [json.loads(file.read_text()) for file in records(self.prefix)]
        self.recorded.append([entry["old"] for each in found for entry in each["entries"]])
        self.order.append((p, text))
        super().raw_write(p, text)


def test_the_record_is_there_before_the_write_and_the_order_is_reversed(tmp_path: Path) -> None:
    tree(tmp_path)
    root = OrderedRoot(tmp_path)
    with KnobJournal(root) as journal:
        journal.set(SWAPPINESS, "200", "anon first")
        journal.set(IMAGE_SIZE, "0", "small")
    assert root.recorded[0] == ["60"]
    assert root.recorded[1] == ["60", "1645903872"]
    assert [path for path, _ in root.order] == [SWAPPINESS, IMAGE_SIZE, IMAGE_SIZE, SWAPPINESS]


def test_nested_changes_keep_the_first_value(tmp_path: Path) -> None:
    root = tree(tmp_path)
    with KnobJournal(root) as journal:
        journal.set(SWAPPINESS, "0", "file only")
        journal.set(SWAPPINESS, "200", "anon first")
    assert root.read(SWAPPINESS).strip() == "60"


def test_a_setting_that_is_in_force_already_is_not_touched(tmp_path: Path) -> None:
    root = tree(tmp_path)
    journal = KnobJournal(root)
    journal.set(SWAPPINESS, "60", "as it is")
    assert journal.pending() == ()
    assert records(tmp_path) == []


def test_what_somebody_else_set_is_left_alone(tmp_path: Path) -> None:
    root = tree(tmp_path)
    journal = KnobJournal(root)
    journal.set(SWAPPINESS, "200", "anon first")
    root.write(SWAPPINESS, "10")
    assert journal.restore_all() == ["vm.swappiness left at 10: somebody else has set it since"]
    assert root.read(SWAPPINESS).strip() == "10"
    assert records(tmp_path) == []


def test_what_somebody_else_set_in_between_is_what_comes_back(tmp_path: Path) -> None:
    root = tree(tmp_path)
    with KnobJournal(root) as journal:
        journal.set(SWAPPINESS, "200", "anon first")
        root.write(SWAPPINESS, "10")
        journal.set(SWAPPINESS, "0", "file only")
    assert root.read(SWAPPINESS).strip() == "10"


def test_a_setting_that_is_gone_stops_nothing(tmp_path: Path) -> None:
    root = tree(tmp_path)
    journal = KnobJournal(root)
    journal.set(SWAPPINESS, "200", "anon first")
    journal.set(IMAGE_SIZE, "0", "small")
    (tmp_path / IMAGE_SIZE.lstrip("/")).unlink()
    assert journal.restore_all() == [
        f"{IMAGE_SIZE} is gone: nothing to put back",
        "vm.swappiness put back to 60",
    ]


class RefusingRoot(KernelRoot):
    """Refuses writes of some values, or takes them without effect."""

    refused: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()

    def raw_write(self, p: str, text: str) -> None:
        if text in self.refused:
            raise OSError(errno.EBUSY, "busy")
        if text not in self.ignored:
            super().raw_write(p, text)


def test_one_that_cannot_be_put_back_stays_on_record(tmp_path: Path) -> None:
    tree(tmp_path)
    root = RefusingRoot(tmp_path)
    journal = KnobJournal(root)
    journal.set(SWAPPINESS, "200", "anon first")
    journal.set(IMAGE_SIZE, "0", "small")
    root.refused = ("1645903872",)
    words = journal.restore_all()
    assert "could not be put back" in words[0]
    assert words[1] == "vm.swappiness put back to 60"
    assert [change.path for change in journal.pending()] == [IMAGE_SIZE]
    root.refused = ()
    assert journal.restore_all() == [f"{IMAGE_SIZE} put back to 1645903872"]
    assert records(tmp_path) == []


@pytest.mark.parametrize("how", ["refused", "ignored"])
def test_a_value_that_does_not_take_leaves_nothing_behind(tmp_path: Path, how: str) -> None:
    tree(tmp_path)
    root = RefusingRoot(tmp_path)
    setattr(root, how, ("200",))
    journal = KnobJournal(root)
    with pytest.raises(KernelFileError):
        journal.set(SWAPPINESS, "200", "anon first")
    assert journal.pending() == ()
    assert records(tmp_path) == []
    assert root.read(SWAPPINESS).strip() == "60"


def test_no_write_without_a_record(tmp_path: Path) -> None:
    root = tree(tmp_path)
    (tmp_path / "run").write_text("not a directory")
    journal = KnobJournal(root)
    with pytest.raises(KernelFileError):
        journal.set(SWAPPINESS, "200", "anon first")
    assert root.read(SWAPPINESS).strip() == "60"
    assert journal.pending() == ()


def test_a_missing_setting_is_said(tmp_path: Path) -> None:
    with pytest.raises(KernelFileMissing):
        KnobJournal(tree(tmp_path)).set("/proc/sys/vm/nothing", "1", "a test")


def test_what_a_dead_process_left_is_put_back(tmp_path: Path) -> None:
    root = tree(tmp_path, START | {SWAPPINESS: "200"})
    leave_behind(tmp_path)
    assert KnobJournal(root).recover() == ["vm.swappiness put back to 60"]
    assert root.read(SWAPPINESS).strip() == "60"
    assert records(tmp_path) == []
    assert KnobJournal(root).recover() == []


def test_a_number_that_was_used_again_is_not_its_owner(tmp_path: Path) -> None:
    root = tree(tmp_path, START | {SWAPPINESS: "200"})
    file = leave_behind(tmp_path)
    file.rename(file.with_name(f"knobs-{os.getpid()}-1.json"))
    assert KnobJournal(root).recover() == ["vm.swappiness put back to 60"]


def test_the_record_of_a_living_process_is_left_alone(tmp_path: Path) -> None:
    root = tree(tmp_path)
    journal = KnobJournal(root)
    journal.set(SWAPPINESS, "200", "anon first")
    assert KnobJournal(root).recover() == []
    assert root.read(SWAPPINESS).strip() == "200"
    assert journal.restore_all() == ["vm.swappiness put back to 60"]


def test_a_record_of_another_boot_is_dropped(tmp_path: Path) -> None:
    root = tree(tmp_path, START | {SWAPPINESS: "200"})
    leave_behind(tmp_path, boot="another")
    assert KnobJournal(root).recover() == []
    assert root.read(SWAPPINESS).strip() == "200"
    assert records(tmp_path) == []


def test_what_cannot_be_recovered_stays_on_record(tmp_path: Path) -> None:
    tree(tmp_path, START | {SWAPPINESS: "200"})
    leave_behind(tmp_path)
    root = RefusingRoot(tmp_path)
    root.refused = ("60",)
    assert "could not be put back" in KnobJournal(root).recover()[0]
    root.refused = ()
    assert KnobJournal(root).recover() == ["vm.swappiness put back to 60"]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        '{"version": 2}',
        '{"version": 1, "boot": 1, "entries": []}',
        "[" * 5000,
        entry_for("/etc/passwd"),
        entry_for("/sys/../etc/passwd"),
    ],
)
def test_a_corrupt_record_is_put_aside(tmp_path: Path, text: str) -> None:
    root = tree(tmp_path)
    leave_behind(tmp_path).write_text(text)
    words = KnobJournal(root).recover()
    assert len(words) == 1
    assert "nothing put back" in words[0]
    assert [file.suffix for file in records(tmp_path)] == [".corrupt"]
    assert KnobJournal(root).recover() == []


@given(st.binary())
def test_any_record_is_taken_or_malformed(data: bytes) -> None:
    with contextlib.suppress(KernelFileMalformed):
        parse_journal("/run/hibprep/knobs-1-1.json", data)


CHILD = f"""
import sys
from hibprep.kernel.knobs import KnobJournal
from hibprep.kernel.root import KernelRoot
print("begun", flush=True)
while True:
    with KnobJournal(KernelRoot(sys.argv[1])) as journal:
        journal.set({SWAPPINESS!r}, "200", "a test")
        journal.set({IMAGE_SIZE!r}, "0", "a test")
        journal.set({SWAPPINESS!r}, "1000", "a test")
        journal.set({LRU_GEN!r}, "y", "a test")
"""


@pytest.mark.must
def test_a_kill_at_any_moment_leaves_nothing_that_is_not_put_back(tmp_path: Path) -> None:
    random = Random(20261121)  # noqa: S311 - moments, not secrets
    left_behind = 0
    for number in range(40):
        directory = tmp_path / str(number)
        root = tree(directory)
        child = subprocess.Popen(
            [sys.executable, "-c", CHILD, str(directory)], stdout=subprocess.PIPE
        )
        with child:
            assert child.stdout is not None
            child.stdout.readline()
            try:
                child.wait(random.uniform(0.0, 0.02))
            except subprocess.TimeoutExpired:
                child.send_signal(signal.SIGKILL)
        assert child.returncode == -signal.SIGKILL
        left_behind += bool(records(directory))
        for word in KnobJournal(root).recover():
            assert "put back to" in word
        for path, old in START.items():
            assert equivalent(root.read(path), old), (number, path)
        assert records(directory) == []
    assert left_behind > 5  # else the kills came too early to be worth anything
