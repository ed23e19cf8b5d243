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
    from bench.lab.reachable import Reachable

_SCRIPT = Path(__file__).with_name("workload.py")
_REMOTE = "/opt/hibprep-lab/workload.py"
_PAGE_BYTES = 4096
_SHARED_MEMORY = "/dev/shm"  # noqa: S108  # a tmpfs of the guest
_POLL_SECONDS = 0.25
_TOUCH_POLL_SECONDS = 0.05  # what is waited for here is a result
_LIVENESS_SECONDS = 1.0


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
        guest: Reachable,
        *,
        cold_bytes: int = 0,
        warm_bytes: int = 0,
        tmpfs_bytes: int = 0,
        read_bytes: int = 0,
        mapped_bytes: int = 0,
        period_seconds: float = 1.0,
        compressible: float = 0.5,
        slice_name: str = "user.slice",
        name: str = "workload",
    ) -> None:
        """``cold_bytes``, ``warm_bytes``: anonymous. ``tmpfs_bytes``: shared memory.

        ``read_bytes``, ``mapped_bytes``: files of the root disk, which must have room for them.
        """
        self._guest = guest
        self._name = name
        self._path = f"/run/{name}.json"
        self._slice = slice_name
        self._tmpfs_bytes = tmpfs_bytes
        self._arguments = [
            f"--cold-bytes={cold_bytes}",
            f"--warm-bytes={warm_bytes}",
            f"--tmpfs-bytes={tmpfs_bytes}",
            f"--tmpfs-directory={_SHARED_MEMORY}",
            f"--read-bytes={read_bytes}",
            f"--mapped-bytes={mapped_bytes}",
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
        """Start it and wait until all of it is filled; returns its state."""
        self._guest.put(_SCRIPT, _REMOTE, 0o755)
        if self._tmpfs_bytes:
            self._make_room()
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
        """Have it compare every byte with what it wrote.

        Returns ``{"ok": bool, "cold_wrong_blocks": int, …}`` with such a number for each region.
        """
        before = self._signal("SIGUSR1")["verifications"]
        state = self._until(lambda now: now["verifications"] > before, timeout, "verify itself")
        verified: dict[str, Any] = state["verified"]
        return verified

    def touch(self, timeout: float = 120) -> float:
        """Have it make a whole pass that begins now; seconds until it was through, from here."""
        started = time.monotonic()
        before = self._signal("SIGHUP")["asked_passes"]
        self._until(
            lambda now: now["asked_passes"] > before,
            timeout,
            "touch its warm memory",
            _TOUCH_POLL_SECONDS,
        )
        return time.monotonic() - started

    def slowest_pass_seconds(self) -> float:
        """The slowest pass since the start or the last reset."""
        return float(self.state()["slowest_pass_seconds"])

    def slowest_before_sleep_seconds(self) -> float:
        """The slowest pass between the last reset and the hibernation that followed it."""
        found = self.state()["slowest_before_sleep_seconds"]
        if found is None:
            raise LabError(f"the workload {self._name} has not made a pass since a hibernation")
        return float(found)

    def warm_share_at_wake(self) -> float | None:
        """The part of the warm mapping that was in memory after the last sleep, before it was
        touched, 0 to 1; None when it slept in the middle of a pass, so that nobody knows."""
        found = self.state()["woke"]
        return None if found is None else float(found["present"]) / found["pages"]

    def reset(self, timeout: float = 60) -> None:
        """Forget the slowest pass, to tell what comes from what was."""
        before = self._signal("SIGUSR2")["resets"]
        self._until(lambda now: now["resets"] > before, timeout, "forget its slowest pass")

    def stop(self) -> None:
        """End it; its memory and its files are gone."""
        self._guest.run(["systemctl", "stop", self.unit], timeout=60, check=True)

    def _make_room(self) -> None:
        # A tmpfs holds half of memory unless it is told otherwise.
        shown = self._guest.run(
            ["df", "-B1", "--output=used,avail", _SHARED_MEMORY], timeout=60, check=True
        )
        used, available = (int(word) for word in shown.text.split()[-2:])
        if available < self._tmpfs_bytes:
            size = used + self._tmpfs_bytes + _PAGE_BYTES
            self._guest.run(
                ["mount", "-o", f"remount,size={size}", _SHARED_MEMORY], timeout=60, check=True
            )

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
        self,
        wanted: Callable[[dict[str, Any]], bool],
        timeout: float,
        what: str,
        poll_seconds: float = _POLL_SECONDS,
    ) -> dict[str, Any]:
        deadline = time.monotonic() + timeout
        # Not at every poll: a process is started for it, which takes longer than the poll's period.
        look = time.monotonic() + _LIVENESS_SECONDS
        state: dict[str, Any] = {}
        while time.monotonic() < deadline:
            try:
                state = self.state()
            except AgentError:  # not written yet
                state = {}
            if state and wanted(state):
                return state
            if time.monotonic() >= look:
                self._still_there()
                look = time.monotonic() + _LIVENESS_SECONDS
            time.sleep(poll_seconds)
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
