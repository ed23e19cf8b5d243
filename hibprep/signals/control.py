# SPDX-License-Identifier: LGPL-2.1-or-later
"""The control socket: how the command line and the hooks speak with the daemon.

A stream socket that only root may open. One JSON document in a line each way, and one answer to
each request, in order:

    {"v":1,"do":"status"}                       {"v":1,"ok":true,"status":{…}}
    {"v":1,"do":"follow"}                       the same, at once and at every change
    {"v":1,"do":"prepare"}                      {"v":1,"ok":true}
        "target": "image_size", "min" or bytes; or "within": seconds; neither: as configured
        "timeout": seconds
        "wait": true                            {"v":1,"ok":true,"ended":{…}} once the run has ended
    {"v":1,"do":"stop"}                         {"v":1,"ok":true}
    {"v":1,"do":"swapin"}                       {"v":1,"ok":true}
    {"v":1,"do":"presleep","seconds":10}        {"v":1,"ok":true,"stopped":true,"said":[…]}
        "leg": "hibernate" or "suspend": that is prepared for; neither: what runs is stopped
    {"v":1,"do":"postsleep"}                    {"v":1,"ok":true,"said":[…]}
        "seconds": how long it may take
    {"v":1,"do":"guest","operation":"migrate"}  {"v":1,"ok":true}
        a hook of libvirt tells of a guest: "name", "uuid", "reason", "prepared", "source"
        where the source is to prepare it       {"v":1,"ok":true,"wait_seconds":20}, and when it has
                                                {"v":1,"ok":true,"refused":""}
    {"v":1,"do":"notices"}                      {"v":1,"ok":true,"notices":{…}}
    {"v":1,"do":"simulate","kind":"stop"}       {"v":1,"ok":true,"id":"…"}
        "seconds": until its time; not given: none is told
    anything else                               {"v":1,"error":"what is wrong","place":"target"}

Every request may name its sender in "who". One that has an error in it changes nothing. While a
request is waited for or followed, nothing more may be sent; a peer that closes its side is gone.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import errno
import fcntl
import json
import os
import socket
import stat
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from hibprep import streams
from hibprep.errors import HibprepError
from hibprep.events import GuestEvent, Request, RunEnded, SourceChanged, SourceName, Wish
from hibprep.kernel.root import KernelRoot, translate
from hibprep.signals.base import Emit
from hibprep.signals.demand import VERSION, Demand, DemandError, parse
from hibprep.status import Host

PATH = "/run/hibprep/control"
LONGEST_LINE_BYTES = 64 << 10
MOST_CONNECTIONS = 16
IDLE_SECONDS = 30.0  # without a request, unless following
FOLLOW_PAUSE_SECONDS = 0.2
LONGEST_RUN_SECONDS = 3600.0  # is waited for, where no time-out was given
_SLEEP_GRACE_SECONDS = 3.0
GRACE_SECONDS = 30.0  # beyond a given time-out, for the last chunk and the report

_CREDENTIALS = struct.Struct("3i")  # pid, uid, gid: unix(7), SO_PEERCRED
_PRIVATE_DIRECTORY = 0o700
_PRIVATE_SOCKET = 0o600


@dataclass(frozen=True, slots=True)
class _Peer:
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    pid: int


class Control:
    """The socket at `path` under `root`; a `hibprep.signals.base.Source`.

    Requests become signals; what is asked about the daemon is answered from `host`.
    """

    name = SourceName.CONTROL

    def __init__(self, root: KernelRoot, host: Host, *, path: str = PATH) -> None:
        self._root = root
        self._host = host
        self._path = path

    async def run(self, emit: Emit) -> None:
        """Serve until cancelled; the socket is removed then. See `Source.run`.

        Raises HibprepError when another daemon listens there, KernelFileError when the socket
        cannot be made.
        """

        async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await self._connection(reader, writer, emit)

        with self._listener() as listener:
            await streams.serve(
                listener,
                handle,
                most=MOST_CONNECTIONS,
                too_many=_line(_error("too many connections: try again")),
                longest_line_bytes=LONGEST_LINE_BYTES,
                started=lambda: emit(
                    SourceChanged(self.name, works=True, reason=f"listens on {self._path}")
                ),
            )

    # --- the socket ---------------------------------------------------------------------------

    @contextlib.contextmanager
    def _listener(self) -> Iterator[socket.socket]:
        where = self._root.path(self._path)
        try:
            listener = _bound(where, self._path)
        except OSError as error:
            raise translate(self._path, error) from error
        with listener:
            made = where.lstat().st_ino
            try:
                yield listener
            finally:
                # while still listening, so that what a successor puts there is never taken away
                with contextlib.suppress(OSError):
                    if where.lstat().st_ino == made:
                        where.unlink()

    # --- a connection -------------------------------------------------------------------------

    async def _connection(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, emit: Emit
    ) -> None:
        pid, uid, _ = _CREDENTIALS.unpack(
            writer.get_extra_info("socket").getsockopt(
                socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size
            )
        )
        if uid not in (0, os.geteuid()):
            await streams.send(writer, _line(_error("only root may speak with the daemon")))
            return
        peer = _Peer(reader, writer, pid)
        goes_on = True
        while goes_on:
            line, wrong = await _read_line(reader)
            if wrong:
                await streams.send(writer, _line(_error(wrong)))
            if not line:
                return
            try:
                demand = parse(line)
            except DemandError as error:
                await streams.send(writer, _line(_error(str(error), error.place)))
                continue
            goes_on = await self._serve(demand, peer, emit)

    async def _serve(self, demand: Demand, peer: _Peer, emit: Emit) -> bool:
        """Do what is asked for, answer, and say whether the connection goes on."""
        try:
            match demand.do:
                case "follow":
                    await self._follow(peer)
                    return False
                case "status":
                    answer: dict[str, object] | None = self._status()
                case "presleep":
                    answer = await self._before_sleep(demand)
                case "postsleep":
                    answer = {"said": await self._host.after_sleep(demand.seconds)}
                case "notices":
                    answer = {"notices": self._host.notices()}
                case "simulate" if demand.kind is not None:
                    who = f"{demand.who} (pid {peer.pid})"
                    answer = {"id": self._host.simulate(demand.kind, demand.left_seconds, who)}
                case "guest" if demand.guest is not None:
                    answer = await self._guest(demand.guest, peer, emit)
                case _ if demand.wait:
                    answer = await self._ask_and_wait(demand, peer, emit)
                case _:
                    emit(_request(demand, peer))
                    answer = {}
        except HibprepError as error:
            await streams.send(peer.writer, _line(_error(str(error))))
            return True
        if answer is None:
            return False
        await streams.send(peer.writer, _line({"v": VERSION, "ok": True} | answer))
        return True

    def _status(self) -> dict[str, object]:
        return {"status": self._host.status().to_plain()}

    async def _before_sleep(self, demand: Demand) -> dict[str, object]:
        try:
            # the host keeps the time itself; a sleep waits, so that is not all there is to it
            async with asyncio.timeout(demand.seconds + _SLEEP_GRACE_SECONDS):
                stopped, said = await self._host.before_sleep(demand.leg, demand.seconds)
        except TimeoutError:
            return {"stopped": False, "said": []}
        return {"stopped": stopped, "said": said}

    async def _guest(self, event: GuestEvent, peer: _Peer, emit: Emit) -> dict[str, object]:
        """At once, since libvirt waits for the hook, but for a migration that is to wait."""
        emit(event)
        seconds = self._host.incoming_seconds(event)
        if not seconds:
            return {}
        await streams.send(peer.writer, _line({"v": VERSION, "ok": True, "wait_seconds": seconds}))
        return {"refused": await self._host.incoming(event)}

    async def _ask_and_wait(
        self, demand: Demand, peer: _Peer, emit: Emit
    ) -> dict[str, object] | None:
        """None when the peer is gone first; the run goes on then."""
        patience = LONGEST_RUN_SECONDS
        if demand.timeout_seconds is not None:
            patience = demand.timeout_seconds + GRACE_SECONDS
        async with (
            streams.task(peer.reader.read(1)) as gone,
            streams.task(self._host.run_ended()) as ended,
        ):
            emit(_request(demand, peer))
            await asyncio.wait((gone, ended), timeout=patience, return_when=asyncio.FIRST_COMPLETED)
            if gone.done():
                await _say_if_there(peer, gone.result())
                return None
            if ended.done():
                return {"ended": _ended(ended.result())}
            raise HibprepError(
                f"the run did not end within {patience:g} s",
                "see hibprep status and the journal of hibprep.service",
            )

    async def _follow(self, peer: _Peer) -> None:
        async with streams.task(peer.reader.read(1)) as gone:
            while not gone.done():
                async with streams.task(self._host.changed()) as changed:
                    answer = {"v": VERSION, "ok": True} | self._status()
                    await streams.send(peer.writer, _line(answer))
                    await asyncio.wait((gone,), timeout=FOLLOW_PAUSE_SECONDS)
                    await asyncio.wait((gone, changed), return_when=asyncio.FIRST_COMPLETED)
                    if changed.done():
                        changed.result()
            await _say_if_there(peer, gone.result())


async def _read_line(reader: asyncio.StreamReader) -> tuple[bytes, str]:
    """The next line with its end, and what was wrong: b"" for the end of the connection."""
    try:
        async with asyncio.timeout(IDLE_SECONDS):
            line = await reader.readline()
    except TimeoutError:
        return b"", f"no request within {IDLE_SECONDS:g} s"
    except ValueError:
        return b"", f"a line is longer than {LONGEST_LINE_BYTES} bytes"
    if line and not line.endswith(b"\n"):
        return b"", "the last line has no end"
    return line, ""


async def _say_if_there(peer: _Peer, read: bytes) -> None:
    if read:
        await streams.send(
            peer.writer, _line(_error("nothing may be sent before the answer is complete"))
        )


def _request(demand: Demand, peer: _Peer) -> Request:
    return Request(
        wish=Wish(demand.do),
        who=f"{demand.who} (pid {peer.pid})",
        target=demand.target,
        timeout_seconds=demand.timeout_seconds,
    )


def _ended(run: RunEnded) -> dict[str, object]:
    return dataclasses.asdict(run) | {"ending": run.ending.value}


def _error(text: str, place: str = "") -> dict[str, object]:
    return {"v": VERSION, "error": text, "place": place}


def _line(answer: dict[str, object]) -> bytes:
    return json.dumps(answer, separators=(",", ":"), allow_nan=False).encode() + b"\n"


# --- making the socket ----------------------------------------------------------------------------


def _bound(where: Path, shown: str) -> socket.socket:
    """A listening socket that nobody else may open, in a directory that nobody else may enter."""
    where.parent.mkdir(mode=_PRIVATE_DIRECTORY, parents=True, exist_ok=True)
    directory = os.open(where.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        if stat.S_IMODE(os.fstat(directory).st_mode) != _PRIVATE_DIRECTORY:
            os.fchmod(directory, _PRIVATE_DIRECTORY)
        try:
            # two that start at once must not take each other's socket for a dead one's
            fcntl.flock(directory, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise _another(shown) from None
        _remove_stale(where, shown)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            # before bind(2), which makes the file with this mode: there is no moment without it
            os.fchmod(listener.fileno(), _PRIVATE_SOCKET)
            listener.bind(str(where))
            listener.listen(MOST_CONNECTIONS)
        except BaseException:
            listener.close()
            raise
    finally:
        os.close(directory)
    return listener


def _remove_stale(where: Path, shown: str) -> None:
    try:
        status = where.lstat()
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(status.st_mode):
        raise HibprepError(f"{shown} is there and is no socket", "move it away")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as probe:
        answer = probe.connect_ex(str(where))
    if answer != errno.ECONNREFUSED:
        raise _another(shown)
    where.unlink()


def _another(shown: str) -> HibprepError:
    return HibprepError(
        f"another hibprep daemon runs: it listens on {shown}",
        "stop it first: systemctl stop hibprep.service",
    )
