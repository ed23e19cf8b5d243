# SPDX-License-Identifier: LGPL-2.1-or-later
"""The daemon as a service of a guest: its own unit and bus policy, with a configuration given."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from bench.lab.errors import LabError
from bench.lab.paths import REPOSITORY

if TYPE_CHECKING:
    from bench.lab.guest import Guest

UNIT = "hibprep.service"
_RESOURCES = REPOSITORY / "hibprep/resources"
_BUS_POLICY = "org.hibprep.Manager1.conf"
_CONFIG = "/etc/hibprep/hibprep.toml"
# Where a wheel's commands are in a guest, in place of where a package has them.
_PACKAGED, _INSTALLED = "/usr/bin/hibprep", "/usr/local/bin/hibprep"
_TIMEOUT_SECONDS = 120.0


def guest_unit(text: str) -> str:
    """The unit as it is, but for the path of the command."""
    line = f"\nExecStart={_PACKAGED} "
    if line not in text:
        raise LabError(f"{UNIT} has no line ExecStart={_PACKAGED} …", "say here what it has now")
    return text.replace(line, f"\nExecStart={_INSTALLED} ")


def put_daemon(guest: Guest, config: str, resources: Path = _RESOURCES) -> None:
    """Make the daemon of the wheel that is installed a service of the guest. It is not started."""
    unit = guest_unit((resources / UNIT).read_text())
    guest.run(["mkdir", "-p", str(Path(_CONFIG).parent)], check=True)
    guest.put(config.encode(), _CONFIG)
    guest.run(["hibprep", "config", "check"], timeout=_TIMEOUT_SECONDS, check=True)
    guest.put(unit.encode(), f"/etc/systemd/system/{UNIT}")
    guest.put(resources / _BUS_POLICY, f"/etc/dbus-1/system.d/{_BUS_POLICY}")
    guest.run(["systemctl", "daemon-reload"], timeout=_TIMEOUT_SECONDS, check=True)
    guest.run(["systemctl", "reload", "dbus.service"], timeout=_TIMEOUT_SECONDS, check=True)


def stop_daemon(guest: Guest) -> None:
    """End it, and wait for that; where it does not run, nothing happens."""
    guest.run(["systemctl", "stop", UNIT], timeout=_TIMEOUT_SECONDS, check=True)


def daemon_log(guest: Guest, lines: int = 30) -> str:
    """The last lines of its journal, for error messages."""
    return guest.run(
        ["journalctl", "-u", UNIT, "-o", "cat", "-n", str(lines)], timeout=_TIMEOUT_SECONDS
    ).text
