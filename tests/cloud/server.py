# SPDX-License-Identifier: LGPL-2.1-or-later
"""A metadata service on this machine, in threads, which answers as a test tells it to.

A provider's server is a subclass with an `answer` of its own. What befalls any of them is told by
the test: `script` is for the next requests, `always` for all of them (`CAPTIVE` is a portal that
answers whatever is asked), `hold` lets none be answered until it is over, `ServerClock` has it
another time. All that is asked is kept in `asked`. A second listener, `elsewhere`, is what answers
may redirect to, and nobody may ask.
"""

from __future__ import annotations

import contextlib
import socket
import socketserver
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Self, TypeAlias

from hibprep.signals.cloud.link import Place
from tests.waiting import GENEROUS_SECONDS

Request: TypeAlias = socket.socket | tuple[bytes, socket.socket]

LOOPBACK = "127.0.0.1"
PAGE = (
    b"<!DOCTYPE html><html><head><title>Welcome</title></head><body>"
    b'<form action="/login"><input name="user"></form></body></html>'
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """One request as it came; names of headers in small letters, `path` with its query."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes
    at_seconds: float  # time.monotonic()


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """One answer, and how it is given."""

    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    length: int | None = None  # the Content-Length that is said; None: the right one
    chunked: bool = False  # Transfer-Encoding instead of a length
    delay_seconds: float = 0.0  # before the first byte
    byte_seconds: float = 0.0  # between two bytes of the body: it comes one by one
    head_byte_seconds: float = 0.0  # between two bytes of what comes before the body
    cut: bool = False  # the connection ends after it
    silent: bool = False  # the connection ends without an answer
    raw: bytes | None = None  # these bytes instead of all that, and the connection ends


CAPTIVE = Answer(body=PAGE, headers={"Content-Type": "text/html; charset=utf-8"})
NOT_FOUND = Answer(
    status=404,
    body=b"<html><body><h1>404 - Not Found</h1></body></html>",
    headers={"Content-Type": "text/html"},
)


def text(body: str, **headers: str) -> Answer:
    """200 and a text."""
    return Answer(body=body.encode(), headers={"Content-Type": "text/plain", **headers})


def json_text(body: str) -> Answer:
    """200 and a text that says it is JSON."""
    return Answer(body=body.encode(), headers={"Content-Type": "application/json"})


def status(code: int) -> Answer:
    """An answer with that status and a word for people."""
    return Answer(status=code, body=HTTPStatus(code).phrase.encode())


def redirect(url: str, code: int = 302) -> Answer:
    """Away from here."""
    return Answer(status=code, headers={"Location": url})


@dataclass
class ServerClock:
    """The server's time of day: so far off ours, or none at all (`tells` is false)."""

    off: timedelta = timedelta(0)
    tells: bool = True

    def now(self) -> datetime:
        return datetime.now(tz=UTC) + self.off


class MetadataServer:
    """The server; `with MetadataServer() as server`. `listens=False`: nobody answers (connections
    are refused) until `appear` is called."""

    host = ""  # the Host header that the provider's place has

    def __init__(self, *, listens: bool = True) -> None:
        self.clock = ServerClock()
        self.asked: list[Asked] = []
        self.script: deque[Answer] = deque()  # one for each of the next requests
        self.always: Answer | None = None  # for every request that the script has nothing for
        self.connections = 0
        self.changed = threading.Condition()  # hold it to change what `answer` looks at
        self.closing = False
        self._listens = listens
        self._free = threading.Event()
        self._free.set()
        self._http = _Http(self)
        self._elsewhere: MetadataServer | None = None
        self._thread: threading.Thread | None = None

    # --- what a subclass has ------------------------------------------------------------------

    def answer(self, asked: Asked) -> Answer:  # noqa: ARG002 - a subclass looks at it
        """To one request, in a thread of the connection's; it may wait (`until`)."""
        return NOT_FOUND

    def until(self, predicate: Callable[[], bool], seconds: float) -> bool:
        """Wait until it is true; false when so much time has passed, or the server ends."""
        with self.changed:
            self.changed.wait_for(lambda: self.closing or predicate(), timeout=seconds)
            return not self.closing and predicate()

    @contextlib.contextmanager
    def change(self) -> Iterator[None]:
        """Whatever is changed within is seen at once by those who wait for it."""
        with self.changed:
            yield
            self.changed.notify_all()

    # --- what a test does ---------------------------------------------------------------------

    @property
    def port(self) -> int:
        """Where it listens."""
        return self._http.server_port

    @property
    def place(self) -> Place:
        """What a link to it is made with."""
        return Place(LOOPBACK, self.port, self.host)

    @property
    def url(self) -> str:
        """Its address, without a path."""
        return f"http://{LOOPBACK}:{self.port}"

    @property
    def elsewhere(self) -> MetadataServer:
        """Another server, which records whoever asks it."""
        if self._elsewhere is None:
            self._elsewhere = MetadataServer()
            self._elsewhere.appear()
        return self._elsewhere

    def paths(self) -> list[str]:
        """What was asked, in order: "GET /latest/meta-data"."""
        return [f"{each.method} {each.path}" for each in self.asked]

    def wait_asked(self, count: int) -> None:
        """Until so many requests have come in all."""
        with self.changed:
            come = self.changed.wait_for(lambda: len(self.asked) >= count, GENEROUS_SECONDS)
        assert come, f"{len(self.asked)} requests have come, and not {count}"

    @contextlib.contextmanager
    def hold(self) -> Iterator[None]:
        """Nothing is answered within."""
        self._free.clear()
        try:
            yield
        finally:
            self._free.set()

    def hang_up(self) -> None:
        """End all connections, as a service that is started anew does."""
        self._http.hang_up()

    def appear(self) -> None:
        """Begin to listen."""
        if self._thread is None:
            self._http.server_activate()
            self._thread = threading.Thread(
                target=self._http.serve_forever,
                kwargs={"poll_interval": 0.05},
                name="metadata server",
            )
            self._thread.start()

    def close(self) -> None:
        """End it, with all of its threads."""
        with self.change():
            self.closing = True
        self._free.set()
        if self._thread is not None:
            self._http.shutdown()
            self._thread.join()
        self._http.hang_up()
        self._http.server_close()
        if self._elsewhere is not None:
            self._elsewhere.close()

    def __enter__(self) -> Self:
        if self._listens:
            self.appear()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    # --- for the connections ------------------------------------------------------------------

    def take(self, asked: Asked) -> Answer:
        """Keep a request and find its answer."""
        with self.change():
            self.asked.append(asked)
            scripted = self.script.popleft() if self.script else self.always
        self._free.wait()
        return scripted if scripted is not None else self.answer(asked)

    def pause(self, seconds: float) -> None:
        """Let so much time pass, or less when the server ends."""
        if seconds > 0:
            with self.changed:
                self.changed.wait_for(lambda: self.closing, timeout=seconds)


class _Http(ThreadingHTTPServer):
    """Threads are waited for at the end, so that no test leaves one to the next."""

    daemon_threads = False
    block_on_close = True
    request_queue_size = 64

    def __init__(self, service: MetadataServer) -> None:
        super().__init__((LOOPBACK, 0), _Connection, bind_and_activate=False)
        self.service = service
        self._open: set[Request] = set()
        self._lock = threading.Lock()
        # bound and not listening: connections are refused
        self.server_bind()

    def server_bind(self) -> None:
        """Without the look-up of a name that HTTPServer makes."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = LOOPBACK, self.server_address[1]

    def process_request(self, request: Request, client_address: object) -> None:
        """In the thread that accepts: what it has accepted at its end is known to `hang_up`."""
        with self._lock:
            self._open.add(request)
            self.service.connections += 1
        super().process_request(request, client_address)

    def shutdown_request(self, request: Request) -> None:
        """One less."""
        with self._lock:
            self._open.discard(request)
        super().shutdown_request(request)

    def hang_up(self) -> None:
        """See `MetadataServer.hang_up`."""
        with self._lock:
            for connection in self._open:
                if isinstance(connection, socket.socket):
                    with contextlib.suppress(OSError):
                        connection.shutdown(socket.SHUT_RDWR)


class _Connection(BaseHTTPRequestHandler):
    """One connection, which is kept alive."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Http

    def handle(self) -> None:
        # whoever asked has gone away, which is what some tests are about
        with contextlib.suppress(ConnectionError):
            super().handle()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - http.server's name
        """Nothing: tests look at `asked`."""

    def do_GET(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        asked = Asked(
            method=self.command,
            path=self.path,
            headers={name.lower(): value for name, value in self.headers.items()},
            body=self.rfile.read(length) if length else b"",
            at_seconds=time.monotonic(),
        )
        self._give(self.server.service.take(asked))

    do_PUT = do_POST = do_HEAD = do_DELETE = do_GET  # noqa: N815 - as above

    def _give(self, answer: Answer) -> None:
        service = self.server.service
        service.pause(answer.delay_seconds)
        if service.closing or answer.silent:
            self.close_connection = True
            return
        if answer.raw is not None:
            self.wfile.write(answer.raw)
            self.close_connection = True
            return
        self._send(self._head(answer), answer.head_byte_seconds)
        if self.command == "HEAD":
            return
        body = answer.body
        if answer.chunked:
            body = (b"%x\r\n%s\r\n" % (len(body), body) if body else b"") + b"0\r\n\r\n"
        self._send(body, answer.byte_seconds)
        if answer.cut or (answer.length is not None and answer.length > len(answer.body)):
            self.close_connection = True

    def _head(self, answer: Answer) -> bytes:
        service = self.server.service
        headers = {"Server": "Metadata"}
        if service.clock.tells:
            headers["Date"] = format_datetime(service.clock.now(), usegmt=True)
        if answer.chunked:
            headers["Transfer-Encoding"] = "chunked"
        else:
            length = len(answer.body) if answer.length is None else answer.length
            headers["Content-Length"] = str(length)
        headers.update(answer.headers)
        known = {each.value: each.phrase for each in HTTPStatus}
        lines = [f"HTTP/1.1 {answer.status} {known.get(answer.status, '')}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")

    def _send(self, data: bytes, byte_seconds: float) -> None:
        if byte_seconds <= 0:
            self.wfile.write(data)
            return
        for at in range(len(data)):
            if self.server.service.closing:
                self.close_connection = True
                return
            self.wfile.write(data[at : at + 1])
            self.server.service.pause(byte_seconds)
