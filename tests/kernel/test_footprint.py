# SPDX-License-Identifier: LGPL-2.1-or-later
"""The daemon that `bench footprint` watches, on the kernel of this machine."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from bench.apart import RUN_TIME, STATE
from bench.services import DAEMON, watch_daemon

pytestmark = pytest.mark.kernel


def files(place: str) -> dict[str, float]:
    """What is there, and since when."""
    return {str(path): path.stat().st_mtime for path in Path(place).glob("**/*")}


def test_the_daemon_is_watched_and_the_machine_sees_nothing_of_it(
    unchanged: dict[str, str], tmp_path: Path
) -> None:
    if shutil.which("dbus-daemon") is None:
        pytest.skip("no dbus-daemon here: install the package dbus-daemon")
    before = files(STATE) | files(RUN_TIME)
    found = watch_daemon(tmp_path, settle_seconds=0.1, seconds=0.1)
    assert found.what == DAEMON
    assert found.rss_bytes > found.private_bytes > 0
    assert (tmp_path / "run" / "daemon").exists()  # its lock
    assert files(STATE) | files(RUN_TIME) == before
