# SPDX-License-Identifier: LGPL-2.1-or-later
"""Serving a listening socket with bounded, owned connections: the control socket and the metrics.

asyncio's own server makes tasks that nobody owns and, since Python 3.12, waits at its end for peers
who need not ever go away. Here every connection is a task of the one who serves, and ends with it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import NoReturn, TypeVar

log = logging.getLogger(__name__)

Result = TypeVar("Result")

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]

WRITE_SECONDS = 10.0  # for what a peer that is there reads at once


class SlowPeer(ConnectionError):
    """The peer does not read what it asked for."""


async def serve(
    listener: socket.socket,
    handler: Handler,
    *,
    most: int,
    too_many: bytes,
    longest_line_bytes: int,
    started: Callable[[], None],
) -> NoReturn:
    """Accept on `listener`, which stays the caller's to close, until cancelled; `started` is
    called once that has begun.

    Up to `most` connections are given to `handler`, each in a task; more are sent `too_many`. A
    connection is closed when its handler ends, and no peer's doing ends the server.
    """
    async with asyncio.TaskGroup() as group:
        open_connections = 0
        ending = False

        async def connection(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal open_connections
            open_connections += 1
            # so that what was drained is with the kernel, and closing at once loses nothing
            writer.transport.set_write_buffer_limits(high=0)
            try:
                if open_connections > most:
                    await send(writer, too_many)
                else:
                    await handler(reader, writer)
            except (OSError, TimeoutError) as error:
                log.debug("a connection ended: %r", error)
            except Exception:
                # a defect of ours that one request brought to light is no reason to drop the others
                log.exception("a connection failed")
            finally:
                open_connections -= 1
                await _close(writer)

        def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            if ending:  # accepted by the loop before it was told not to
                writer.transport.abort()
            else:
                group.create_task(connection(reader, writer))

        try:
            async with _accepting(listener, accept, longest_line_bytes):
                started()
                await asyncio.get_running_loop().create_future()
        finally:
            ending = True
    raise AssertionError("a server ends by being cancelled")  # pragma: no cover


async def send(writer: asyncio.StreamWriter, data: bytes) -> None:
    """Write `data`; SlowPeer when it is not read in time, other OSErrors when nobody is there."""
    writer.write(data)
    try:
        async with asyncio.timeout(WRITE_SECONDS):
            await writer.drain()
    except TimeoutError:
        raise SlowPeer(f"nothing was read for {WRITE_SECONDS:g} s") from None


@contextlib.asynccontextmanager
async def task(work: Awaitable[Result]) -> AsyncIterator[asyncio.Future[Result]]:
    """`work` as a task that has run up to its first wait, and ends with the block."""
    running = asyncio.ensure_future(work)
    try:
        await asyncio.sleep(0)
        yield running
    finally:
        running.cancel()
        await asyncio.wait((running,))
        if not running.cancelled():
            running.exception()  # taken note of by whoever awaited it; else it is of no interest


@contextlib.asynccontextmanager
async def _accepting(
    listener: socket.socket,
    accept: Callable[[asyncio.StreamReader, asyncio.StreamWriter], None],
    longest_line_bytes: int,
) -> AsyncIterator[None]:
    # both kinds of server take a ready socket; a copy of it, since they close what they are given
    start = (
        asyncio.start_unix_server
        if listener.family is socket.AddressFamily.AF_UNIX
        else asyncio.start_server
    )
    server = await start(accept, sock=listener.dup(), limit=longest_line_bytes)
    try:
        yield
    finally:
        server.close()


async def _close(writer: asyncio.StreamWriter) -> None:
    """What `send` gave to the kernel is still read by the peer; nothing else is waited for."""
    writer.transport.abort()
    with contextlib.suppress(OSError):
        await writer.wait_closed()
