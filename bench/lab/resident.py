# SPDX-License-Identifier: LGPL-2.1-or-later
"""A guest that libvirt runs, seen by the lab's agent in it: it may be on another host by now."""

from __future__ import annotations

import socket
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from bench.lab import remote as remote_module
from bench.lab.channel import Channel
from bench.lab.errors import CommandFailed, GuestTimeout, LabError
from bench.lab.install import install_wheel
from bench.lab.process import tail
from bench.lab.results import Result

_CONNECT_SECONDS = 30.0


class Resident:
    """Commands and files of a guest, over the socket that its host has for the lab's port."""

    def __init__(self, console: Path) -> None:
        self._console = console
        self._channel: Channel | None = None

    def connect(self, path: Path, timeout: float = 180) -> str:
        """Talk to it over this socket from now on; the identity of the agent, by which a guest that
        came from elsewhere can be told from one that was booted afresh."""
        self.close()
        self._channel = Channel(_connected(path))
        try:
            return self._channel.ping(timeout)
        except GuestTimeout as error:
            raise GuestTimeout(f"{error.message}\n{self.console_tail()}") from None

    def close(self) -> None:
        """End the connection; the guest goes on."""
        if self._channel is not None:
            self._channel.close()
            self._channel = None

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
        channel = self._talking()
        try:
            result = remote_module.run(channel, argv, timeout=timeout, given=input, environment=env)
        except GuestTimeout as error:
            raise GuestTimeout(
                f"{' '.join(argv)}: {error.message}\n{self.console_tail()}"
            ) from None
        if check and result.returncode != 0:
            raise CommandFailed(tuple(argv), result)
        return result

    def put(self, local: Path | bytes, remote: str, mode: int = 0o644) -> None:
        """Write a file of the guest, whole or not at all."""
        data = local if isinstance(local, bytes) else local.read_bytes()
        remote_module.put(self._talking(), data, remote, mode)

    def get(self, remote: str) -> bytes:
        """Read a file of the guest."""
        return remote_module.get(self._talking(), remote)

    def read(self, remote: str) -> str:
        """Read a text file of the guest, such as those of /proc and /sys."""
        return self.get(remote).decode(errors="replace")

    def install(self, wheel: Path) -> None:
        """Install a wheel whose requirements are in the image, with its commands."""
        install_wheel(self, wheel)

    def console_tail(self, lines: int = 20) -> str:
        """The last lines of the serial console, for error messages."""
        return tail(self._console, lines)

    def _talking(self) -> Channel:
        if self._channel is None:
            raise LabError(f"nobody is connected to the guest\n{self.console_tail()}")
        return self._channel


def _connected(path: Path) -> socket.socket:
    """A connection to QEMU, which takes one at a time: the last may not be noticed as gone yet."""
    deadline = time.monotonic() + _CONNECT_SECONDS
    while True:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            connection.settimeout(max(0.1, deadline - time.monotonic()))
            connection.connect(str(path))
        except OSError as error:
            connection.close()
            if time.monotonic() > deadline:
                raise LabError(f"{path}: {error.strerror or error}") from error
            time.sleep(0.05)
        else:
            connection.settimeout(None)
            return connection
