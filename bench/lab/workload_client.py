# SPDX-License-Identifier: LGPL-2.1-or-later
"""The host's side of the workload: starts it in a guest, asks it, signals it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.lab.errors import AgentError, GuestTimeout, LabError

if TYPE_CHECKING:
    from bench.lab.guest import Guest

_SCRIPT = Path(__file__).with_name("workload.py")
_REMOTE = "/opt/hibprep-lab/workload.py"
_POLL_SECONDS = 0.25


@dataclass(frozen=True)
class Residency:
    """How much of the workload's two mappings is in memory."""

    cold_present: int
    cold_pages: int
    warm_present: int
    warm_pages: int

    @property
    def cold_share(self) -> float:
        """The part of the cold mapping that is in memory, 0 to 1."""
        return self.cold_present / self.cold_pages if self.cold_pages else 0.0

    @property
    def warm_share(self) -> float:
        """The part of the warm mapping that is in memory, 0 to 1."""
        return self.warm_present / self.warm_pages if self.warm_pages else 0.0


class Workload:
    """One run of the workload in a guest, in a transient service of its own."""

    def __init__(
        self,
        guest: Guest,
        *,
        cold_bytes: int = 0,
        warm_bytes: int = 0,
        period_seconds: float = 1.0,
        compressible: float = 0.5,
        slice_name: str = "user.slice",
        name: str = "workload",
    ) -> None:
        self._guest = guest
        self._name = name
        self._path = f"/run/{name}.json"
        self._slice = slice_name
        self._arguments = [
            f"--cold-bytes={cold_bytes}",
            f"--warm-bytes={warm_bytes}",
            f"--period={period_seconds}",
            f"--compressible={compressible}",
            f"--state={self._path}",
        ]

    @property
    def unit(self) -> str:
        """The systemd unit that it runs in."""
        return f"{self._name}.service"

    @property
    def pid(self) -> int:
        """Its process id in the guest."""
        return int(self.state()["pid"])

    def start(self, timeout: float = 300) -> dict[str, Any]:
        """Start it and wait until both mappings are filled; returns its state."""
        self._guest.put(_SCRIPT, _REMOTE, 0o755)
        # What an earlier one of the same name left would be taken for this one's "ready".
        self._guest.run(["rm", "-f", self._path], timeout=60, check=True)
        self._guest.run(
            [
                *("systemd-run", f"--unit={self._name}", f"--slice={self._slice}", "--quiet"),
                *("--collect", "-p", "OOMScoreAdjust=-500"),
                *("/usr/bin/python3", "-I", "-S", _REMOTE, "fill", *self._arguments),
            ],
            timeout=60,
            check=True,
        )
        return self._until(lambda state: bool(state["ready"]), timeout, "be filled")

    def state(self) -> dict[str, Any]:
        """What its state file says now."""
        found: dict[str, Any] = json.loads(self._guest.get(self._path))
        return found

    def residency(self) -> Residency:
        """How many pages of each mapping are in memory, from the process's pagemap."""
        state = self.state()
        cold, warm = (self._pagemap(state["pid"], state[which]) for which in ("cold", "warm"))
        return Residency(cold["present"], cold["pages"], warm["present"], warm["pages"])

    def verify(self, timeout: float = 600) -> dict[str, Any]:
        """Have it compare every byte with what it wrote; returns ``{"ok": bool, …}``."""
        before = self._signal("SIGUSR1")["verifications"]
        state = self._until(lambda now: now["verifications"] > before, timeout, "verify itself")
        verified: dict[str, Any] = state["verified"]
        return verified

    def touch(self, timeout: float = 120) -> float:
        """Have it make a whole pass that begins now; seconds until it was through, from here."""
        started = time.monotonic()
        before = self._signal("SIGHUP")["asked_passes"]
        self._until(lambda now: now["asked_passes"] > before, timeout, "touch its warm memory")
        return time.monotonic() - started

    def slowest_pass_seconds(self) -> float:
        """The slowest pass since the start or the last reset."""
        return float(self.state()["slowest_pass_seconds"])

    def reset(self, timeout: float = 60) -> None:
        """Forget the slowest pass, to tell what comes from what was."""
        before = self._signal("SIGUSR2")["resets"]
        self._until(lambda now: now["resets"] > before, timeout, "forget its slowest pass")

    def stop(self) -> None:
        """End it and give its memory back."""
        self._guest.run(["systemctl", "stop", self.unit], timeout=60, check=True)

    def _signal(self, name: str) -> dict[str, Any]:
        state = self.state()
        self._guest.run(["kill", f"-{name}", str(state["pid"])], timeout=60, check=True)
        return state

    def _pagemap(self, pid: int, where: dict[str, int]) -> dict[str, int]:
        address, length = str(where["address"]), str(where["bytes"])
        argv = ["/usr/bin/python3", "-I", "-S", _REMOTE, "pagemap", str(pid), address, length]
        found: dict[str, int] = self._guest.run(argv, timeout=120, check=True).json()
        return found

    def _until(
        self, wanted: Callable[[dict[str, Any]], bool], timeout: float, what: str
    ) -> dict[str, Any]:
        deadline = time.monotonic() + timeout
        state: dict[str, Any] = {}
        while time.monotonic() < deadline:
            try:
                state = self.state()
            except AgentError:  # not written yet
                state = {}
            if state and wanted(state):
                return state
            self._still_there()
            time.sleep(_POLL_SECONDS)
        raise GuestTimeout(
            f"the workload {self._name} did not {what} within {timeout:.0f} s; state: {state}\n"
            + self._guest.console_tail()
        )

    def _still_there(self) -> None:
        shown = self._guest.run(
            ["systemctl", "show", "-P", "ActiveState", self.unit], timeout=60
        ).text.strip()
        if shown in {"failed", "inactive"}:
            log = self._guest.run(["journalctl", "-u", self.unit, "-n", "20"], timeout=60).text
            raise LabError(f"the workload {self._name} has ended ({shown}):\n{log}")
