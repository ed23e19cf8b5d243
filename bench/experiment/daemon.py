# SPDX-License-Identifier: LGPL-2.1-or-later
"""hibprep's daemon in a guest: told to be soon, started as it is in any machine, and waited for.

The unit and the bus policy are those that hibprep brings, with another place for the command: what
they forbid is forbidden here too. When a guest is idle the daemon finds out for itself.
"""

from __future__ import annotations

import json
import re
import time
from typing import TYPE_CHECKING

from bench.lab import GuestTimeout, LabError
from bench.lab.fixups import APPLICATION_DIRECTORY

if TYPE_CHECKING:
    from bench.lab import Guest

UNIT = "hibprep.service"

_RESOURCES = f"{APPLICATION_DIRECTORY}/hibprep/resources"
_POLICY = "org.hibprep.Manager1.conf"
_COMMAND = "/usr/local/bin/hibprep"  # where the lab installs it
_START_SECONDS = 120.0
_STATUS_SECONDS = 60.0
_LOOK_SECONDS = 0.5
_READY = "ready:"

# Minutes become seconds, so that all stages fit into a rest. Nobody is logged in and there is no
# input to know of: the CPUs alone tell. Half of them idle is quiet, since a working set that is
# gone over again and again is meant to be there, and under emulation takes much of a CPU. Once
# ready, and after the resume while every byte is compared, nothing is taken any more.
_SETTINGS = """
[daemon]
settle_seconds = 86400

[idle]
after_seconds = 5
sync_after_seconds = 5
cache_after_seconds = 5
cold_anon_after_seconds = 15
anon_after_seconds = 30
check_again_seconds = 86400
cpu_idle_percent = 50
blind_seconds = 0
"""


def settings(budget_seconds: float | None) -> bytes:
    """Its part of the configuration: as small an image as can be, or one that fits in the time."""
    if budget_seconds is None:
        target = 'kind = "min"'
    else:
        target = f'kind = "within"\nseconds = {budget_seconds:.2f}'
    return f"\n[target]\n{target}\n{_SETTINGS}".encode()


def unit(brought: str) -> str:
    """The unit that hibprep brings, with the command where the lab has it; nothing else changed."""
    found, count = re.subn(r"(?m)^ExecStart=\S+", f"ExecStart={_COMMAND}", brought)
    if count != 1:
        raise LabError(f"{UNIT} of hibprep has {count} lines with ExecStart=, not one")
    return found


def put(guest: Guest) -> None:
    """Put its unit and its bus policy where they belong. LabError if there is no daemon."""
    if guest.run([_COMMAND, "run", "--help"]).returncode != 0:
        raise LabError("this hibprep has no daemon: there is no `hibprep run`")
    brought = guest.read(f"{_RESOURCES}/{UNIT}")
    guest.put(unit(brought).encode(), f"/etc/systemd/system/{UNIT}")
    guest.put(guest.get(f"{_RESOURCES}/{_POLICY}"), f"/usr/share/dbus-1/system.d/{_POLICY}")
    guest.run(["systemctl", "daemon-reload"], timeout=_START_SECONDS, check=True)


def start(guest: Guest) -> None:
    """Start it; it has said that it is there when this returns."""
    done = guest.run(["systemctl", "start", UNIT], timeout=_START_SECONDS)
    if done.returncode != 0:
        raise LabError(f"hibprep's daemon did not start\n{done.error_text}{_journal(guest)}")


def wait_ready(guest: Guest, timeout: float) -> None:
    """Wait until it says that the machine is ready.

    systemd is asked what it was told last: to ask the daemon would take an interpreter each time,
    which under emulation is the very work that it waits for the end of.
    """
    deadline = time.monotonic() + timeout
    while True:
        state, words = _state(guest)
        if words.startswith(_READY):
            return
        if state in {"failed", "inactive"}:
            raise LabError(f"hibprep's daemon has ended ({state})\n{_journal(guest)}")
        if time.monotonic() > deadline:
            raise GuestTimeout(
                f"hibprep's daemon was not ready after {timeout:.0f} s: {words}\n{_journal(guest)}"
            )
        time.sleep(_LOOK_SECONDS)


def predicted_seconds(guest: Guest) -> float | None:
    """What the last run reported that a hibernation would take; None when nothing had to go."""
    done = guest.run([_COMMAND, "status", "--json"], timeout=_STATUS_SECONDS)
    try:
        report = done.json()["report"]
        return None if report is None else float(report["after"]["hibernate_seconds"])
    except (json.JSONDecodeError, KeyError) as error:
        raise LabError(f"hibprep status: {done.error_text.strip() or error}") from error


def _state(guest: Guest) -> tuple[str, str]:
    """What systemd says of it, and what it says itself."""
    argv = ["systemctl", "show", "--property=ActiveState,StatusText", UNIT]
    lines = guest.run(argv, timeout=_STATUS_SECONDS, check=True).text.splitlines()
    found = dict(line.partition("=")[::2] for line in lines)
    return found.get("ActiveState", ""), found.get("StatusText", "")


def _journal(guest: Guest) -> str:
    argv = ["journalctl", "--no-pager", "-n", "60", "-u", UNIT]
    return guest.run(argv, timeout=_STATUS_SECONDS).text
