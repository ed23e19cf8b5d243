# SPDX-License-Identifier: LGPL-2.1-or-later
"""A control socket that is served, and peers that speak with it."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hibprep.events import Request, Signal, SourceChanged
from hibprep.kernel.root import KernelRoot
from hibprep.signals.control import Control
from tests.descriptors import descriptors
from tests.fakes.host import FakeHost
from tests.waiting import GENEROUS_SECONDS

Answer = dict[str, Any]


@dataclass
class Served:
    """A control socket that is being served."""

    root: Path
    host: FakeHost
    signals: list[Signal] = field(default_factory=list)

    @property
    def path(self) -> Path:
        return self.root / "run/hibprep/control"

    @property
    def requests(self) -> list[Request]:
        return [signal for signal in self.signals if isinstance(signal, Request)]

    @contextlib.asynccontextmanager
    async def peer(self) -> AsyncIterator[Peer]:
        reader, writer = await asyncio.open_unix_connection(str(self.path))
        try:
            yield Peer(reader, writer)
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()


@dataclass
class Peer:
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    def send(self, data: bytes | dict[str, object]) -> None:
        line = data if isinstance(data, bytes) else json.dumps(data).encode() + b"\n"
        self.writer.write(line)

    async def answer(self) -> Answer:
        async with asyncio.timeout(GENEROUS_SECONDS):
            line = await self.reader.readline()
        assert line.endswith(b"\n"), f"the connection was closed after {line!r}"
        answer = json.loads(line)
        assert answer["v"] == 1
        return dict(answer)

    async def ask(self, **document: object) -> Answer:
        self.send({"v": 1} | document)
        return await self.answer()

    async def closed(self) -> bytes:
        """What is still to be read until the end."""
        async with asyncio.timeout(GENEROUS_SECONDS):
            with contextlib.suppress(ConnectionError):
                return await self.reader.read()
        return b""


@contextlib.asynccontextmanager
async def served(root: Path, host: FakeHost | None = None) -> AsyncIterator[Served]:
    """Also holds that nothing is left behind."""
    before = descriptors()
    it = Served(root, host or FakeHost())
    ready = asyncio.Event()

    def emit(signal: Signal) -> None:
        it.signals.append(signal)
        if isinstance(signal, SourceChanged):
            ready.set()

    running = asyncio.create_task(Control(KernelRoot(root), it.host).run(emit))
    waiting = asyncio.create_task(ready.wait())
    try:
        await asyncio.wait(
            (running, waiting), timeout=GENEROUS_SECONDS, return_when=asyncio.FIRST_COMPLETED
        )
        if running.done():
            running.result()
        yield it
    finally:
        waiting.cancel()
        running.cancel()
        await asyncio.wait((running, waiting), timeout=GENEROUS_SECONDS)
    assert running.cancelled()
    assert asyncio.all_tasks() == {asyncio.current_task()}
    assert not it.path.exists()
    assert descriptors() == before


def run(test: Callable[[], Awaitable[None]]) -> None:
    async def limited() -> None:
        async with asyncio.timeout(2 * GENEROUS_SECONDS):
            await test()

    asyncio.run(limited())
