# SPDX-License-Identifier: LGPL-2.1-or-later
"""hibprep's hook of systemd-sleep in a guest, put where systemd looks for it, with a daemon that
does nothing of itself; and what they have kept of the sleep.

systemd from 256 on freezes user.slice before it runs hooks (systemd-sleep(8)), and what fills the
guest is in there: so the hook's last pass takes the working set too, and nothing comes back.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from bench.experiment import daemon
from bench.lab import LabError

if TYPE_CHECKING:
    from bench.lab import Guest

# the most that may be configured: systemd gives all hooks 90 s
BUDGET_SECONDS = 45

_SECONDS = 300.0
_KEPT = 3  # of `hibprep install`: a file that was changed, our configuration, is kept


def settings(*, swap_in: bool) -> bytes:
    """Its part of the configuration: as small an image as can be, and time for it."""
    wanted = str(swap_in).lower()
    return (
        f'\n[target]\nkind = "min"\n\n[sleep]\nbudget_seconds = {BUDGET_SECONDS}\n'
        f'swap_in = {wanted}\n\n[daemon]\npolicy = "on-request"\n'
    ).encode()


def put(guest: Guest) -> None:
    """As `hibprep install` does it, and start the daemon."""
    done = guest.run(["hibprep", "install"], timeout=_SECONDS)
    if done.returncode not in (0, _KEPT):
        raise LabError(f"hibprep install: {done.error_text.strip()}")
    guest.run(["systemctl", "daemon-reload"], timeout=_SECONDS, check=True)
    daemon.start(guest)


def predicted_seconds(guest: Guest) -> float:
    """What the hook's record of the sleep predicted of it, its own pass not included."""
    done = guest.run(["hibprep", "history", "--json"], timeout=_SECONDS, check=True)
    try:
        sleeps = [each for each in done.json()["reports"] if each["command"] == "sleep"]
        return float(sleeps[-1]["hibernation"]["predicted_hibernate_seconds"])
    except (json.JSONDecodeError, LookupError) as error:
        raise LabError(f"the hook has left no report of the sleep ({error!r})") from error
