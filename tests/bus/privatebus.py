# SPDX-License-Identifier: LGPL-2.1-or-later
"""A private bus daemon: nothing of who uses it is seen by, or sees, the machine's own bus."""

from __future__ import annotations

import os
import select
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.waiting import GENEROUS_SECONDS

CONFIG = """<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
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
def running_bus(folder: Path, config: str = CONFIG) -> Iterator[Bus]:
    """A dbus-daemon with its socket in `folder`; FileNotFoundError where there is none."""
    path = folder / "bus.conf"
    path.write_text(config.format(socket=folder / "bus"))
    with subprocess.Popen(
        ["dbus-daemon", f"--config-file={path}", "--nofork", "--nopidfile", "--print-address=1"],
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
