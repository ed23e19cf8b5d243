# SPDX-License-Identifier: LGPL-2.1-or-later
"""A virtio port without a hypervisor.

A pseudo-terminal is so much like one that it takes its place: the guest's end, here the master, is
hung up while nobody has the other end open, and tells when that changes; what is written goes to
the other end. Only that reading says EIO then where drivers/char/virtio_console.c says that it is
the end.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import os
import tty
from pathlib import Path
from typing import Any

from hibprep.kernel.root import KernelRoot
from tests.listening import until_told

NAME = "org.hibprep.0"


class FakePort:
    """The guest's end; it can be opened again and again, and taken out."""

    def __init__(self) -> None:
        self.master, other = os.openpty()
        os.set_blocking(self.master, False)
        tty.setraw(other)
        self.path = os.ttyname(other)
        os.close(other)
        self.opened: list[str] = []
        self.is_open = False
        self.reads = 0
        self.gone = False

    def __call__(self, root: KernelRoot, path: str) -> FakePort:
        assert not self.is_open  # EBUSY
        assert root.exists(path)
        self.opened.append(path)
        self.is_open = True
        return self

    def fileno(self) -> int:
        return self.master

    def read(self) -> bytes | None:
        self.reads += 1
        if self.gone:
            raise OSError(errno.ENODEV, os.strerror(errno.ENODEV))
        try:
            return os.read(self.master, 4096)
        except BlockingIOError:
            return None
        except OSError as error:
            if error.errno != errno.EIO:
                raise
            return b""

    def write(self, data: bytes) -> int:
        try:
            return os.write(self.master, data[:32768])
        except BlockingIOError:
            return 0

    def close(self) -> None:
        self.is_open = False

    def destroy(self) -> None:
        os.close(self.master)


class HostEnd:
    """Whoever has the port open on the host."""

    def __init__(self, port: FakePort) -> None:
        self._descriptor = os.open(port.path, os.O_RDWR | os.O_NONBLOCK | os.O_NOCTTY)
        tty.setraw(self._descriptor)
        self._pending = b""

    def close(self) -> None:
        os.close(self._descriptor)

    def write(self, data: bytes) -> int:
        try:
            return os.write(self._descriptor, data)
        except BlockingIOError:
            return 0

    async def send(self, data: bytes) -> None:
        while data:
            data = data[self.write(data) :]
            await asyncio.sleep(0)

    async def say(self, **document: object) -> None:
        await self.send(json.dumps({"v": 1} | document).encode() + b"\n")

    async def answer(self) -> dict[str, Any]:
        line = await until_told(self._line, "the guest answers")
        found = json.loads(line)
        assert found.pop("v") == 1
        return dict(found)

    async def ask(self, **document: object) -> dict[str, Any]:
        await self.say(**document)
        return await self.answer()

    def _line(self) -> bytes | None:
        with contextlib.suppress(BlockingIOError):
            self._pending += os.read(self._descriptor, 65536)
        line, end, rest = self._pending.partition(b"\n")
        if not end:
            return None
        self._pending = rest
        return line


def plug_in(top: Path, node: str = "vport1p1", name: str = NAME) -> None:
    """The files of a port below a root."""
    folder = top / "sys/class/virtio-ports" / node
    folder.mkdir(parents=True)
    (folder / "name").write_text(f"{name}\n")
    (top / "dev").mkdir(exist_ok=True)
    (top / "dev" / node).touch()


def pull_out(top: Path, node: str = "vport1p1") -> None:
    """They are gone."""
    (top / "sys/class/virtio-ports" / node / "name").unlink()
    (top / "sys/class/virtio-ports" / node).rmdir()
    (top / "dev" / node).unlink()
