# SPDX-License-Identifier: LGPL-2.1-or-later
"""The root: where files are, what their errors become, one write for one command."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from hibprep.errors import (
    KernelFileDenied,
    KernelFileError,
    KernelFileMissing,
)
from hibprep.kernel.lock import LockedError, RunLock
from hibprep.kernel.root import KernelRoot, translate


@pytest.mark.parametrize(
    ("number", "kind"),
    [
        (errno.ENOENT, KernelFileMissing),
        (errno.ENODEV, KernelFileMissing),
        (errno.ESRCH, KernelFileMissing),
        (errno.EACCES, KernelFileDenied),
        (errno.EPERM, KernelFileDenied),
        (errno.EROFS, KernelFileDenied),
        (errno.EINVAL, KernelFileError),
        (errno.EAGAIN, KernelFileError),
    ],
)
def test_errors_say_what_they_are(number: int, kind: type[KernelFileError]) -> None:
    error = translate("/sys/x", OSError(number, "text"))
    assert type(error) is kind
    assert error.errno == number
    assert "/sys/x" in str(error)


def test_the_real_root() -> None:
    root = KernelRoot("/")
    assert root.is_real
    assert root.path("/proc/meminfo") == Path("/proc/meminfo")


def test_a_relocated_root(tmp_path: Path) -> None:
    (tmp_path / "sys").mkdir()
    (tmp_path / "sys/a").write_bytes(b"1\xff\n")
    root = KernelRoot(tmp_path)
    assert not root.is_real
    assert root.read("/sys/a") == "1\ufffd\n"
    assert root.exists("/sys/a")
    assert root.is_dir("/sys")
    assert root.listdir("/sys") == ["a"]
    assert root.writable("/sys/a")
    assert root.try_read("/sys/b") is None
    assert not root.exists("/sys/\0")
    with pytest.raises(KernelFileMissing):
        root.read("/sys/b")


def test_a_long_file_is_read_in_full(tmp_path: Path) -> None:
    (tmp_path / "long").write_text("x" * 300_000)
    assert len(KernelRoot(tmp_path).read("/long")) == 300_000


def test_a_write_creates_nothing(tmp_path: Path) -> None:
    with pytest.raises(KernelFileMissing):
        KernelRoot(tmp_path).write("/new", "1")
    assert not (tmp_path / "new").exists()


def test_a_shorter_value_replaces_a_longer(tmp_path: Path) -> None:
    (tmp_path / "knob").write_text("1000\n")
    root = KernelRoot(tmp_path)
    root.write("/knob", "60")
    assert root.read("/knob").strip() == "60"


def test_subdirectories(tmp_path: Path) -> None:
    (tmp_path / "a/b").mkdir(parents=True)
    (tmp_path / "a/file").write_text("")
    root = KernelRoot(tmp_path)
    assert root.subdirectories("/a") == ["b"]
    assert root.subdirectories("/a/b") == []
    assert root.subdirectories("/gone") == []


def test_links_are_followed_within_the_root(tmp_path: Path) -> None:
    (tmp_path / "dev/mapper").mkdir(parents=True)
    (tmp_path / "dev/dm-0").write_text("")
    (tmp_path / "dev/mapper/swap").symlink_to("../dm-0")
    (tmp_path / "dev/out").symlink_to("/etc/passwd")
    root = KernelRoot(tmp_path)
    assert root.resolve("/dev/mapper/swap") == "/dev/dm-0"
    assert root.resolve("/dev/out") == "/dev/out"
    assert root.readlink("/dev/mapper/swap") == "../dm-0"
    assert root.readlink("/dev/dm-0") is None


def test_the_second_to_take_the_lock_is_told_who_has_it(tmp_path: Path) -> None:
    import os  # noqa: PLC0415 - only for the number

    root = KernelRoot(tmp_path)
    with RunLock(root), pytest.raises(LockedError, match=f"pid {os.getpid()}"):
        RunLock(root).acquire()
    with RunLock(root):
        pass
    assert (tmp_path / "run/hibprep").stat().st_mode & 0o777 == 0o700
