# SPDX-License-Identifier: LGPL-2.1-or-later
"""What programs of the lab need of a guest, whether QEMU is started by the lab or by libvirt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from bench.lab.results import Result


class Reachable(Protocol):
    """A guest that commands can be run in."""

    def run(
        self,
        argv: Sequence[str],
        *,
        timeout: float = 60,
        input: bytes | None = None,  # noqa: A002  # subprocess calls it so
        env: Mapping[str, str] | None = None,
        check: bool = False,
    ) -> Result:
        """Run a command as root to its end. It is killed, with its group, after ``timeout``."""

    def put(self, local: Path | bytes, remote: str, mode: int = 0o644) -> None:
        """Write a file of the guest, whole or not at all."""

    def get(self, remote: str) -> bytes:
        """Read a file of the guest."""

    def console_tail(self, lines: int = 20) -> str:
        """The last lines of the serial console, for error messages."""
