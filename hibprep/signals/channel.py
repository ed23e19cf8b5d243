# SPDX-License-Identifier: LGPL-2.1-or-later
"""In a guest: what its host asks for, over the virtio port `org.hibprep.0`.

What may be said is in `hibprep.signals.channel_lines`. Whoever can write to the port is the host,
which is root's equal. The port may come and go while we run; udev's events tell of that. Requests
become signals as those of the control socket do, and are decided on like those.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import errno
import functools
import json
from collections.abc import Callable, Coroutine
from typing import Protocol

from hibprep import __version__, streams
from hibprep.errors import HibprepError, NotPossibleError
from hibprep.events import Request, RunEnded, SourceChanged, SourceName, Wish
from hibprep.kernel import compaction, virtioport
from hibprep.kernel.root import KernelRoot
from hibprep.model import Ending, Stage
from hibprep.signals.base import Emit
from hibprep.signals.channel_lines import (
    ABLE,
    COMPACT,
    HELLO,
    HOST,
    PREPARE,
    STATUS,
    Asked,
    LineError,
    Lines,
    parse,
)
from hibprep.signals.control import GRACE_SECONDS, LONGEST_RUN_SECONDS
from hibprep.signals.demand import VERSION, Demand
from hibprep.signals.edge import EdgeWatch
from hibprep.signals.power import UDEV_CONTROL, Uevents, open_udev
from hibprep.signals.running import Running
from hibprep.status import Host

PORT = "org.hibprep.0"
# The host waits a little longer than it has given us; what is not gathered by then goes on.
COMPACT_SECONDS = 3.0
_MOST_UNSENT_BYTES = 1 << 20  # a host that asks and does not read is not answered any more
_MOST_READS = 64  # in one go: others want the loop too
# All but what is in use: a guest that moves goes on working, and would want it back at once.
_STAGES = tuple(stage for stage in Stage if stage is not Stage.ANON)
_SUBSYSTEM = "virtio-ports"
_WAITS = f"waits for a virtio port {PORT}"

Answer = dict[str, object]


def open_ports_uevents(source: str) -> Uevents:
    """The uevents of virtio ports; see `open_udev`."""
    return open_udev(source, (_SUBSYSTEM,))


class OpenPort(Protocol):
    """See `hibprep.kernel.virtioport.Port`."""

    def fileno(self) -> int: ...  # noqa: D102
    def read(self) -> bytes | None: ...  # noqa: D102
    def write(self, data: bytes) -> int: ...  # noqa: D102
    def close(self) -> None: ...  # noqa: D102


class Channel:
    """The port's end in this guest; a `hibprep.signals.base.Source`. What is asked about the daemon
    is answered from `host`, which is the daemon."""

    name = SourceName.CHANNEL

    def __init__(
        self,
        root: KernelRoot,
        host: Host,
        *,
        open_uevents: Callable[[str], Uevents] = open_ports_uevents,
        open_port: Callable[[KernelRoot, str], OpenPort] = virtioport.Port,
    ) -> None:
        self._root = root
        self._host = host
        self._open_uevents = open_uevents
        self._open_port = open_port
        self._running: Running | None = None
        self._port: OpenPort | None = None
        self._watch: EdgeWatch | None = None
        self._lines = Lines()
        self._unsent = b""
        self._work: asyncio.Task[None] | None = None
        self._gathering: asyncio.Future[None] | None = None

    async def run(self, emit: Emit) -> None:
        """Serve the port whenever there is one, until cancelled. Raises NotPossibleError where
        there is none and nothing would tell of one; see `Source.run`."""
        self._running = running = Running(emit)
        try:
            with contextlib.ExitStack() as held:
                held.callback(self._close)
                told = self._listen(running, held)
                if not self._look() and not told:
                    raise NotPossibleError(
                        f"no virtio port {PORT}, and no events of devices to wait for one",
                        "give the guest the port before the daemon starts",
                    )
                await running.until_failed()
        finally:
            work, self._work, self._running = self._work, None, None
            if work is not None:
                work.cancel()
                await asyncio.wait((work,))

    # --- the port -----------------------------------------------------------------------------

    def _listen(self, running: Running, held: contextlib.ExitStack) -> bool:
        """Have `_look` called whenever a port comes, until `held` is closed; whether it will be."""
        source = "udev" if self._root.exists(UDEV_CONTROL) else "kernel"
        try:
            uevents = self._open_uevents(source)
        except (OSError, NotPossibleError):
            return False
        held.callback(uevents.close)
        descriptor = uevents.fileno()
        running.loop.add_reader(
            descriptor, running.attempt, functools.partial(self._receive, uevents)
        )
        held.callback(running.loop.remove_reader, descriptor)
        return True

    def _receive(self, uevents: Uevents) -> None:
        while True:
            try:
                if uevents.receive() is None:
                    break
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
        if self._port is None:
            self._look()

    def _look(self) -> bool:
        """Open the port if there is one; whether there is."""
        path = virtioport.find_port(self._root, PORT)
        if path is None:
            self._tell(_WAITS)
            return False
        self._port = self._open_port(self._root, path)
        self._watch = EdgeWatch(self._port.fileno(), self._changed)
        self._tell(f"serves {path}")
        return True

    def _tell(self, how: str) -> None:
        if self._running is not None:
            self._running.emit(SourceChanged(self.name, works=True, reason=how))

    def _close(self) -> None:
        if self._watch is not None:
            self._watch.close()
        if self._port is not None:
            self._port.close()
        self._watch = self._port = None
        self._forget()

    def _forget(self) -> None:
        """Nobody is at the other end: nothing of what was said holds for whoever comes next."""
        self._lines = Lines()
        self._unsent = b""
        if self._work is not None:
            self._work.cancel()

    def _changed(self) -> None:
        if self._running is not None:
            self._running.attempt(self._serve)

    def _serve(self) -> None:
        try:
            self._exchange()
        except OSError:
            # it was taken out; what comes in its place is told by an event
            self._close()
            self._tell(_WAITS)

    def _exchange(self) -> None:
        self._flush()
        for _ in range(_MOST_READS):
            if self._port is None or len(self._unsent) > _MOST_UNSENT_BYTES:
                return  # when there is room again, that is told
            data = self._port.read()
            if data is None:
                return
            if not data:
                self._forget()
                return
            for line in self._lines.feed(data):
                self._take(line)
        if self._running is not None:
            self._running.loop.call_soon(self._changed)

    def _flush(self) -> None:
        while self._unsent and self._port is not None:
            taken = self._port.write(self._unsent)
            if not taken:
                return
            self._unsent = self._unsent[taken:]

    def _send(self, answer: Answer) -> None:
        if self._port is None:
            return
        line = json.dumps({"v": VERSION} | answer, separators=(",", ":"), allow_nan=False)
        self._unsent += line.encode() + b"\n"
        self._flush()

    # --- what is asked for --------------------------------------------------------------------

    def _take(self, line: bytes | None) -> None:
        if line is None:
            self._send(_error(None, "the line is too long"))
            return
        try:
            self._answer(parse(line))
        except LineError as error:
            self._send(_error(error.number, str(error), error.place))

    def _answer(self, asked: Asked) -> None:
        if asked.do == HELLO:
            self._send({"id": asked.id, "ok": True, "hibprep": __version__, "able": self._able()})
        elif asked.do == STATUS:
            try:
                status = self._host.status().to_plain()
            except HibprepError as error:
                self._send(_error(asked.id, str(error)))
            else:
                self._send({"id": asked.id, "ok": True, "status": status})
        elif asked.do == COMPACT:
            self._begin(self._compact(asked))
        elif asked.demand is not None and asked.do == PREPARE:
            self._begin(self._prepare(asked, asked.demand))
        elif asked.demand is not None:
            self._ask(asked.demand)
            self._send({"id": asked.id, "ok": True})

    def _able(self) -> list[str]:
        can = compaction.can_compact(self._root)
        return [each for each in ABLE if each != COMPACT or can]

    def _ask(self, wanted: Demand) -> None:
        if self._running is not None:
            self._running.emit(
                Request(
                    wish=Wish(wanted.do),
                    who=HOST,
                    target=wanted.target,
                    timeout_seconds=wanted.timeout_seconds,
                    stages=_STAGES,
                )
            )

    def _begin(self, work: Coroutine[object, object, None]) -> None:
        if self._work is not None:
            self._work.cancel()
        self._work = asyncio.get_running_loop().create_task(work, name="the host's request")
        self._work.add_done_callback(self._ended)

    def _ended(self, work: asyncio.Task[None]) -> None:
        if work is self._work:
            self._work = None
        if not work.cancelled() and self._running is not None:
            self._running.attempt(work.result)  # a port that is gone, or a defect of ours

    async def _prepare(self, asked: Asked, wanted: Demand) -> None:
        patience = LONGEST_RUN_SECONDS
        if wanted.timeout_seconds is not None:
            patience = wanted.timeout_seconds + GRACE_SECONDS
        async with streams.task(self._host.run_ended()) as ended:
            self._ask(wanted)
            self._send({"id": asked.id, "ok": True, "started": True})
            await asyncio.wait((ended,), timeout=patience)
            if ended.done():
                run = ended.result()
            else:
                words = f"the run did not end within {patience:g} s"
                run = RunEnded(ending=Ending.FAILED, reason=words)
        report: Answer = dataclasses.asdict(run) | {"ending": run.ending.value}
        if asked.compact:
            report |= await self._gather()
        self._send({"id": asked.id, "done": True, "report": report})

    async def _compact(self, asked: Asked) -> None:
        self._send({"id": asked.id, "ok": True, "started": True})
        self._send({"id": asked.id, "done": True, "report": await self._gather()})

    async def _gather(self) -> Answer:
        """In a thread, as the kernel works on it in the call; it cannot be told to stop."""
        if self._gathering is None or self._gathering.done():
            self._gathering = asyncio.ensure_future(
                asyncio.to_thread(compaction.compact, self._root)
            )
            self._gathering.add_done_callback(_taken_note_of)  # also when nobody waits any more
        work = self._gathering
        await asyncio.wait((work,), timeout=COMPACT_SECONDS)
        if not work.done():
            return {"compacted": False, "not_compacted": f"it goes on after {COMPACT_SECONDS:g} s"}
        error = work.exception()
        if error is None:
            return {"compacted": True}
        if not isinstance(error, HibprepError):
            raise error
        return {"compacted": False, "not_compacted": str(error)}


def _taken_note_of(work: asyncio.Future[None]) -> None:
    if not work.cancelled():
        work.exception()


def _error(number: int | None, words: str, place: str = "") -> Answer:
    return {"id": number, "ok": False, "error": words, "place": place}
