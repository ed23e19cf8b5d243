# SPDX-License-Identifier: LGPL-2.1-or-later
"""A guest in which hibprep's daemon runs as its unit says, and somebody sits at a desktop.

There is no desktop: only its session, as a display manager would have it opened by PAM, and the
idle hint that it sets. logind, the bus, systemd and the kernel are real. `bench/keypress.py` and
`bench/asleep.py` measure with it, `tests/vm` looks at what the daemon does.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bench.experiment import daemon as guest_daemon
from bench.lab import GuestTimeout, LabError
from bench.lab.fixups import APPLICATION_DIRECTORY

if TYPE_CHECKING:
    from bench.lab import Guest

UNIT = guest_daemon.UNIT
LOGIND_UNIT = "systemd-logind.service"
CONFIG_FILE = "/etc/hibprep/hibprep.toml"
# Not -S: hibprep, its libraries and what is put beside them are found by a .pth file.
PYTHON = ("/usr/bin/python3", "-I")
RETURNING = (*PYTHON, "-m", "bench.returning")  # once `put_program` has put it there

_MODULES = ("__init__.py", "returning.py", "watching.py")
_LOGIND = ("org.freedesktop.login1", "/org/freedesktop/login1", "org.freedesktop.login1.Manager")
_SESSION = "org.freedesktop.login1.Session"
_SESSION_SECONDS = 60.0
_CALM_SECONDS = 120.0  # for what takes seconds in an emulated guest
_LOOK_SECONDS = 0.5
_PATH_IN_ROW = 4  # of ListSessions, a(susso)
_MICROSECONDS = 1e6

_SESSION_UNIT = "lab-desktop.service"

# What pam_systemd(8) is told by a display manager. With virtual terminals a seat's session has to
# have one, and is in the foreground when that terminal is.
_ENVIRONMENT = (
    "XDG_SESSION_TYPE=wayland",
    "XDG_SESSION_CLASS=user",
    "XDG_SEAT=seat0",
    "XDG_VTNR=1",
)
_OPEN = (
    *(
        "systemd-run",
        "--quiet",
        f"--unit={_SESSION_UNIT}",
        "-p",
        "PAMName=login",
        "-p",
        "User=root",
    ),
    *(word for each in _ENVIRONMENT for word in ("-E", each)),
    *("sleep", "infinity"),
)

# All at once and as soon as can be; the CPUs are not asked, since an emulated one is never idle.
AT_ONCE = """
[target]
kind = "min"

[reclaim]
cold_age_seconds = 1

[daemon]
settle_seconds = 1

[idle]
after_seconds = 1
sync_after_seconds = 1
cache_after_seconds = 1
cold_anon_after_seconds = 1
anon_after_seconds = 1
check_again_seconds = 3600
cpu_idle_percent = 0
"""


# --- the journal ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Line:
    """One line of the guest's journal; `at_seconds` is when the journal got it, on the guest's
    CLOCK_MONOTONIC."""

    at_seconds: float
    unit: str
    text: str


def parse_journal(text: str) -> list[Line]:
    """What ``journalctl -o json`` printed; lines that are no text are left out."""
    found = []
    for row in text.splitlines():
        if not row.strip():
            continue
        values = json.loads(row)
        message = values.get("MESSAGE")
        if isinstance(message, str):
            at = int(values["__MONOTONIC_TIMESTAMP"]) / _MICROSECONDS
            found.append(Line(at, str(values.get("_SYSTEMD_UNIT", "")), message))
    return found


def first(lines: Iterable[Line], *beginnings: str, since: float = 0.0) -> Line | None:
    """The first line of the daemon from `since` on that begins with one of those."""
    for line in lines:
        if line.at_seconds >= since and line.unit == UNIT and line.text.startswith(beginnings):
            return line
    return None


def said(lines: Iterable[Line]) -> str:
    """For error messages."""
    return "\n".join(f"{line.at_seconds:.2f} {line.text}" for line in lines)


def journal(guest: Guest, *units: str, since: float = 0.0) -> list[Line]:
    """The lines of these units (none: of the daemon) from that moment of the guest on."""
    words = [word for unit in units or (UNIT,) for word in ("-u", unit)]
    shown = guest.run(
        ["journalctl", "--no-pager", "-b", "-o", "json", *words], timeout=_CALM_SECONDS, check=True
    )
    return [line for line in parse_journal(shown.text) if line.at_seconds >= since]


def monotonic(guest: Guest) -> float:
    """Now, on the guest's CLOCK_MONOTONIC."""
    program = "import time; print(time.monotonic())"
    return float(guest.run([*PYTHON, "-c", program], timeout=_CALM_SECONDS, check=True).text)


# --- the session ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Desktop:
    """The session of somebody who sits at a desktop; `path` is its object on the bus."""

    guest: Guest
    path: str

    def hint(self, *, idle: bool) -> None:
        """Say that nobody is there, or that somebody is back, as a desktop does."""
        self.guest.run(
            [
                *("busctl", "call", _LOGIND[0], self.path, _SESSION),
                *("SetIdleHint", "b", "true" if idle else "false"),
            ],
            timeout=_CALM_SECONDS,
            check=True,
        )


def open_session(guest: Guest) -> Desktop:
    """Open it, and wait until logind has it. LabError when it is not what it should be."""
    before = _sessions(guest)
    guest.run(_OPEN, timeout=_CALM_SECONDS, check=True)
    deadline = time.monotonic() + _SESSION_SECONDS
    while True:
        for path in _sessions(guest):
            if path not in before and _property(guest, path, "Class") == "user":
                return _checked(guest, path)
        if time.monotonic() > deadline:
            lines = journal(guest, _SESSION_UNIT, LOGIND_UNIT)
            raise GuestTimeout(f"no session after {_SESSION_SECONDS:.0f} s\n{said(lines)}")
        time.sleep(_LOOK_SECONDS)


def _checked(guest: Guest, path: str) -> Desktop:
    # logind takes a hint from graphical sessions alone, and one in the background counts as left
    for name, wanted in (("Type", "wayland"), ("Active", True)):
        found = _property(guest, path, name)
        if found != wanted:
            raise LabError(f"the session {path} has {name} {found!r} and not {wanted!r}")
    return Desktop(guest, path)


def _sessions(guest: Guest) -> list[str]:
    shown = guest.run(
        ["busctl", "--json=short", "call", *_LOGIND, "ListSessions"],
        timeout=_CALM_SECONDS,
        check=True,
    )
    return parse_sessions(shown.text)


def parse_sessions(text: str) -> list[str]:
    """The object paths in what busctl prints of ListSessions."""
    (rows,) = json.loads(text)["data"]
    return [str(row[_PATH_IN_ROW]) for row in rows]


def _property(guest: Guest, path: str, name: str) -> object:
    shown = guest.run(
        ["busctl", "--json=short", "get-property", _LOGIND[0], path, _SESSION, name],
        timeout=_CALM_SECONDS,
        check=True,
    )
    value: object = shown.json()["data"]
    return value


# --- the daemon -----------------------------------------------------------------------------------


def start_daemon(guest: Guest, config: str) -> None:
    """Start the unit that hibprep brings, with only the place of its command changed, and with
    that configuration; it has told systemd that it is ready on return."""
    guest.run(["mkdir", "-p", str(Path(CONFIG_FILE).parent)], timeout=_CALM_SECONDS, check=True)
    guest.put(config.encode(), CONFIG_FILE)
    guest_daemon.put(guest)
    guest_daemon.start(guest)


def put_program(guest: Guest) -> None:
    """What leaves and returns inside the guest; hibprep has to be installed there before."""
    for name in _MODULES:
        guest.put(Path(__file__).with_name(name), f"{APPLICATION_DIRECTORY}/bench/{name}")


def shown(guest: Guest, *names: str) -> list[str]:
    """These properties of the daemon's unit, as systemd shows them; "" for one that is empty."""
    argv = ["systemctl", "show", f"--property={','.join(names)}", UNIT]
    answer = guest.run(argv, timeout=_CALM_SECONDS, check=True).text
    found = dict(line.partition("=")[::2] for line in answer.splitlines())
    return [found.get(name, "") for name in names]


def phase(guest: Guest) -> str:
    """The phase that the daemon has told systemd last. To ask the daemon itself takes an
    interpreter, which is much of the CPUs of an emulated guest."""
    (status,) = shown(guest, "StatusText")
    return status.partition(":")[0]


def wait_for_phase(guest: Guest, wanted: Sequence[str], seconds: float) -> str:
    """Wait for one of these phases, and say which; GuestTimeout with the daemon's journal."""
    deadline = time.monotonic() + seconds
    while (found := phase(guest)) not in wanted:
        if time.monotonic() > deadline:
            raise GuestTimeout(
                f"the daemon is {found} and not {' or '.join(wanted)} after {seconds:.0f} s\n"
                + said(journal(guest)[-40:])
            )
        time.sleep(_LOOK_SECONDS)
    return found


def holds_sleep_back(guest: Guest) -> bool:
    """Whether the daemon's delay lock on sleep is held."""
    listed = guest.run(
        ["busctl", "--json=short", "call", *_LOGIND, "ListInhibitors"],
        timeout=_CALM_SECONDS,
        check=True,
    )
    return lock_in(listed.text)


def lock_in(text: str) -> bool:
    """Whether hibprep's delay lock on sleep is in what busctl prints of ListInhibitors."""
    (rows,) = json.loads(text)["data"]
    return any(
        "sleep" in what.split(":") and who == "hibprep" and mode == "delay"
        for what, who, _, mode, *_ in rows
    )
