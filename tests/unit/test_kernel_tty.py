# SPDX-License-Identifier: LGPL-2.1-or-later
"""Terminals: the time of the last input, whatever the clock does."""

from __future__ import annotations

import errno
import fcntl
import os
from datetime import timedelta
from pathlib import Path

import pytest

from hibprep.kernel.root import KernelRoot
from hibprep.kernel.tty import TtyInput, read_tty_atime, shows_graphics
from tests.fakes.clock import START, HandClock


@pytest.fixture
def tty(tmp_path: Path) -> Path:
    (tmp_path / "dev/pts").mkdir(parents=True)
    path = tmp_path / "dev/pts/3"
    path.touch()
    (tmp_path / "dev/tty2").touch()
    (tmp_path / "secret").touch()
    return path


@pytest.mark.parametrize(
    ("ago", "expected"),
    [
        (timedelta(seconds=10), 990.0),
        (timedelta(0), 1000.0),
        (-timedelta(days=1), 1000.0),  # the clock was set back: not in the future
        (timedelta(days=20_000), 0.0),  # it started in 1970: not before the start of the machine
    ],
)
def test_a_time_of_day_becomes_monotonic(
    tty: Path, tmp_path: Path, ago: timedelta, expected: float
) -> None:
    os.utime(tty, ((START - ago).timestamp(), 0))
    inputs = TtyInput(KernelRoot(tmp_path), HandClock())
    assert inputs.last_at_seconds("pts/3") == expected
    assert inputs.last_at_seconds("/dev/pts/3") == expected


def test_new_input_is_no_earlier_than_the_last_look(tty: Path, tmp_path: Path) -> None:
    clock = HandClock()
    inputs = TtyInput(KernelRoot(tmp_path), clock)
    os.utime(tty, (START.timestamp() - 10, 0))
    assert inputs.last_at_seconds("pts/3") == 990.0
    clock.seconds, clock.wall = 1100.0, START + timedelta(days=9)
    assert inputs.last_at_seconds("pts/3") == 990.0
    os.utime(tty, (START.timestamp(), 0))  # by a clock that was nine days behind
    assert inputs.last_at_seconds("pts/3") == 1100.0


def test_a_terminal_that_comes_back_is_another(tty: Path, tmp_path: Path) -> None:
    clock = HandClock()
    inputs = TtyInput(KernelRoot(tmp_path), clock)
    os.utime(tty, (START.timestamp() - 10, 0))
    inputs.last_at_seconds("pts/3")
    inputs.forget_all_but({"tty2"})
    clock.wall += timedelta(seconds=5)
    assert inputs.last_at_seconds("pts/3") == 985.0
    tty.unlink()
    assert inputs.last_at_seconds("pts/3") is None


@pytest.mark.parametrize(
    "name", ["", "tty9", "../secret", "/etc/passwd", "pts/../../secret", ".", "pts/", "a\0b", "ä"]
)
def test_what_is_no_terminal(tty: Path, tmp_path: Path, name: str) -> None:
    root = KernelRoot(tmp_path)
    assert read_tty_atime(root, name) is None
    assert not shows_graphics(root, name)


def test_a_file_in_dev_is_no_terminal() -> None:
    assert read_tty_atime(KernelRoot(), "shm") is None
    assert read_tty_atime(KernelRoot(), "null") is not None


def test_a_console_in_graphics_mode(
    tty: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, mode = KernelRoot(tmp_path), 1
    assert not shows_graphics(root, "tty2")  # a file: ENOTTY

    def ioctl(descriptor: int, request: int, argument: bytes) -> bytes:
        assert request == 0x4B3B  # KDGETMODE
        if mode < 0:
            raise OSError(errno.ENOTTY, "not a typewriter")
        return mode.to_bytes(4, "little")

    monkeypatch.setattr(fcntl, "ioctl", ioctl)
    assert shows_graphics(root, "tty2")
    assert shows_graphics(root, "/dev/tty2")
    assert not shows_graphics(root, "pts/3")
    mode = 0
    assert not shows_graphics(root, "tty2")
    mode = -1
    assert not shows_graphics(root, "tty2")
