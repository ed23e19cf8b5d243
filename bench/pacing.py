# SPDX-License-Identifier: LGPL-2.1-or-later
"""The host's side of `paced.py`: a program in a guest that does its work at a fixed rate."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path

from bench.lab import AgentError, Guest, GuestTimeout

MIB = 1 << 20
WORKING_SET_BYTES = 48 * MIB
PERIOD_SECONDS = 0.1

_SCRIPT = Path(__file__).with_name("paced.py")
_REMOTE = "/opt/hibprep-lab/paced.py"
_STATE = "/run/paced.json"
_UNIT = "paced.service"
_CALM_SECONDS = 120.0  # for what takes a moment on an emulated processor
_LOOK_SECONDS = 0.1


@dataclass(frozen=True, slots=True)
class Pace:
    """How it did for a while: the pieces of work that it came to in a second, and how long one took
    in the mean."""

    pieces_per_second: float
    piece_seconds: float


class Paced:
    """One such program, running from now on."""

    def __init__(self, guest: Guest) -> None:
        self._guest = guest
        guest.put(_SCRIPT, _REMOTE, 0o755)
        guest.run(
            [
                *("systemd-run", f"--unit={_UNIT}", "--slice=user.slice", "--quiet", "--collect"),
                *("/usr/bin/python3", "-I", "-S", _REMOTE, f"--bytes={WORKING_SET_BYTES}"),
                *(f"--period={PERIOD_SECONDS}", f"--state={_STATE}"),
            ],
            timeout=_CALM_SECONDS,
            check=True,
        )
        self._seen = len(self._sections(0))

    def pace(self) -> Pace:
        """How it did since the last time that this was asked, or since its start."""
        argv = ["systemctl", "kill", "--signal=SIGUSR1", _UNIT]
        self._guest.run(argv, timeout=_CALM_SECONDS, check=True)
        sections = self._sections(self._seen + 1)
        self._seen = len(sections)
        return Pace(sections[-1]["pieces"] / sections[-1]["seconds"], sections[-1]["piece_seconds"])

    def _sections(self, count: int) -> list[dict[str, float]]:
        """Those that have ended, when there are so many."""
        deadline = time.monotonic() + _CALM_SECONDS
        while time.monotonic() < deadline:
            try:
                found: list[dict[str, float]] = json.loads(self._guest.get(_STATE))["sections"]
            except AgentError:  # not written yet
                found = []
            else:
                if len(found) >= count:
                    return found
            time.sleep(_LOOK_SECONDS)
        raise GuestTimeout(f"the paced program is silent\n{self._guest.console_tail()}")
