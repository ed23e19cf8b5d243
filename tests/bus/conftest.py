# SPDX-License-Identifier: LGPL-2.1-or-later
"""A private bus daemon: nothing of these tests is seen by, or sees, the machine's own bus."""

from __future__ import annotations

import gc
import os
import select
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.waiting import GENEROUS_SECONDS

_CONFIG = """<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <type>system</type>
  <listen>unix:path={socket}</listen>
  <auth>EXTERNAL</auth>
  <policy context="default">
    <allow user="*"/>
    <allow own="*"/>
    <allow send_destination="*" eavesdrop="true"/>
    <allow eavesdrop="true"/>
  </policy>
</busconfig>
"""


@dataclass(frozen=True)
class Bus:
    """A running daemon."""

    address: str
    process: subprocess.Popen[str]

    def kill(self) -> None:
        """End it without a word to anybody."""
        self.process.kill()
        self.process.wait(GENEROUS_SECONDS)


@contextmanager
def private_bus(folder: Path) -> Iterator[Bus]:
    """A dbus-daemon with its socket in `folder`."""
    program = shutil.which("dbus-daemon")
    if program is None:
        pytest.skip("no dbus-daemon here: install the package dbus-daemon")
    config = folder / "bus.conf"
    config.write_text(_CONFIG.format(socket=folder / "bus"))
    with subprocess.Popen(
        [program, f"--config-file={config}", "--nofork", "--nopidfile", "--print-address=1"],
        stdout=subprocess.PIPE,
        text=True,
        env={"PATH": os.environ.get("PATH", "")},
    ) as process:
        try:
            assert process.stdout is not None
            ready, _, _ = select.select([process.stdout], [], [], GENEROUS_SECONDS)
            assert ready, "dbus-daemon did not say its address"
            address = process.stdout.readline().strip()
            assert address, "dbus-daemon ended"
            yield Bus(address, process)
        finally:
            process.kill()


@pytest.fixture
def bus(tmp_path: Path) -> Iterator[Bus]:
    with private_bus(tmp_path) as made:
        yield made


@pytest.fixture(autouse=True)
def collected() -> Iterator[None]:
    """dbus-next loses the socket of a connection that fails: it is collected here, where the test
    ignores the warning, and not in the middle of another test."""
    yield
    gc.collect()
