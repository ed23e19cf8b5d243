# SPDX-License-Identifier: LGPL-2.1-or-later
"""Runs in a guest: the metadata service of a cloud, at the address that it has there.

    metadata.py serve aws|azure
    metadata.py announce WHAT SECONDS      what will happen so soon: terminate, Preempt
    metadata.py withdraw                   all of it

Standard library only. It speaks EC2's second version (a token for every question) and Azure's
Scheduled Events, as their user guides describe them. What is announced is a file, so that it takes
effect between one question and the next; what was asked is another one.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import fcntl
import json
import math
import os
import socket
import struct
import subprocess
import sys
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from socketserver import TCPServer
from typing import Any, Final
from urllib.parse import parse_qs, urlsplit

ADDRESS: Final = "169.254.169.254"
INTERFACE: Final = "dummy0"  # which the module `dummy` brings
STATE: Final = Path("/run/metadata.json")
ASKED: Final = Path("/run/metadata.log")
ANNOUNCED: Final = "announced"  # what is said on standard error once it can be read

_LONGEST_TTL: Final = 21600
_NOT_FOUND: Final = (
    '<?xml version="1.0" encoding="iso-8859-1"?>\n'
    '<!DOCTYPE html PUBLIC "-//W3C//DTD XHTML 1.0 Transitional//EN"\n'
    '\t"http://www.w3.org/TR/xhtml1/DTD/xhtml1-transitional.dtd">\n'
    '<html xmlns="http://www.w3.org/1999/xhtml" xml:lang="en" lang="en">\n'
    " <head>\n  <title>404 - Not Found</title>\n </head>\n"
    " <body>\n  <h1>404 - Not Found</h1>\n </body>\n</html>\n"
)


@dataclass(frozen=True)
class Announced:
    """What will happen, in the provider's own word, and when (UTC)."""

    id: str
    what: str
    at: datetime


@dataclass(frozen=True)
class Asked:
    """A request; names of headers are in small letters."""

    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True)
class Answer:
    """What is sent back."""

    status: int
    text: str = ""
    content_type: str = "text/plain"
    headers: Mapping[str, str] | None = None


# --- what is announced ----------------------------------------------------------------------------


def announce(state: Path, what: str, seconds: float) -> Announced:
    """Have it happen no earlier than in so many seconds: providers tell whole ones. What else was
    announced stays; the same in another time takes its place."""
    at = datetime.fromtimestamp(math.ceil(time.time() + seconds), UTC)
    found = Announced(os.urandom(16).hex().upper(), what, at)
    kept = {each.what: each for each in announced(state)} | {what: found}
    partial = state.with_name(state.name + ".part")
    partial.write_text(
        json.dumps([(each.id, each.what, each.at.timestamp()) for each in kept.values()])
    )
    partial.replace(state)
    return found


def announced(state: Path) -> tuple[Announced, ...]:
    """What was announced and not withdrawn."""
    try:
        kept = json.loads(state.read_text())
    except FileNotFoundError:
        return ()
    return tuple(Announced(id_, what, datetime.fromtimestamp(at, UTC)) for id_, what, at in kept)


def withdraw(state: Path) -> None:
    """Nothing will happen any more."""
    with contextlib.suppress(FileNotFoundError):
        state.unlink()


# --- the services ---------------------------------------------------------------------------------


class Service(ABC):
    """One cloud's, as far as it has to do with notices."""

    def __init__(self, state: Path) -> None:
        self._state = state

    @abstractmethod
    def answer(self, asked: Asked) -> Answer:
        """To one request; may be called from several threads at a time."""


class Aws(Service):
    """A spot instance of EC2 that takes no question without a token."""

    def __init__(self, state: Path) -> None:
        super().__init__(state)
        self._tokens: dict[str, float] = {}
        self._lock = threading.Lock()

    def answer(self, asked: Asked) -> Answer:
        if asked.path == "/latest/api/token":
            return self._token(asked)
        if asked.method != "GET":
            return Answer(405)
        if not self._is_valid(asked.headers.get("x-aws-ec2-metadata-token", "")):
            return Answer(401)
        text = self._text(asked.path.removeprefix("/latest/meta-data/"))
        return Answer(404, _NOT_FOUND, "text/html") if text is None else Answer(200, text)

    def _token(self, asked: Asked) -> Answer:
        if asked.method != "PUT":
            return Answer(405)
        if "x-forwarded-for" in asked.headers:
            return Answer(403)
        try:
            seconds = int(asked.headers["x-aws-ec2-metadata-token-ttl-seconds"])
        except (KeyError, ValueError):
            return Answer(400)
        if not 1 <= seconds <= _LONGEST_TTL:
            return Answer(400)
        token = os.urandom(32).hex()
        with self._lock:
            self._tokens[token] = _always() + seconds
        return Answer(200, token, headers={"X-aws-ec2-metadata-token-ttl-seconds": str(seconds)})

    def _is_valid(self, token: str) -> bool:
        with self._lock:
            return _always() < self._tokens.get(token, 0.0)

    def _text(self, key: str) -> str | None:
        """What is at that key; None where there is nothing, now or ever."""
        told = {each.what: each for each in announced(self._state)}
        risk = told.pop("rebalance", None)
        if key == "events/recommendations/rebalance" and risk is not None:
            return json.dumps({"noticeTime": _iso(risk.at)})
        if key == "spot/instance-action" and told:
            (action,) = told.values()
            return json.dumps({"action": action.what, "time": _iso(action.at)})
        if key == "spot/termination-time" and "terminate" in told:
            return _iso(told["terminate"].at)
        return {
            "instance-life-cycle": "spot",
            "instance-id": "i-0123456789abcdef0",
            "hibernation/configured": "false",
            "events/maintenance/scheduled": "[]",
        }.get(key)


class Azure(Service):
    """A virtual machine with Scheduled Events."""

    NAME: Final = "hibprep-lab"
    COMPUTE: Final[Mapping[str, str]] = {
        "/metadata/instance/compute/name": NAME,
        "/metadata/instance/compute/evictionPolicy": "Deallocate",
    }
    VERSIONS: Final = ("2019-08-01", "2020-07-01", "2021-02-01", "2021-12-13")

    def __init__(self, state: Path) -> None:
        super().__init__(state)
        self._started: set[str] = set()  # what was acknowledged
        self._told: list[dict[str, object]] = []
        self._incarnation = 1
        self._lock = threading.Lock()

    def answer(self, asked: Asked) -> Answer:
        if asked.headers.get("metadata", "").lower() != "true":
            return _wrong("Required metadata header not specified")
        if asked.query.get("api-version") not in self.VERSIONS:
            return _wrong("api-version is invalid or was not specified in the request")
        if asked.method == "GET" and asked.path in self.COMPUTE:
            return Answer(200, self.COMPUTE[asked.path])
        if asked.path != "/metadata/scheduledevents":
            return Answer(404, json.dumps({"error": "Not found"}), "application/json")
        if asked.method == "POST":
            return self._acknowledge(asked.body)
        return Answer(200, json.dumps(self._events()), "application/json; charset=utf-8")

    def _events(self) -> dict[str, object]:
        events = [self._event(each) for each in announced(self._state)]
        with self._lock:
            if events != self._told:
                self._told, self._incarnation = events, self._incarnation + 1
            return {"DocumentIncarnation": self._incarnation, "Events": events}

    def _event(self, told: Announced) -> dict[str, object]:
        started = told.id in self._started or datetime.now(UTC) >= told.at
        return {
            "EventId": told.id,
            "EventType": told.what,
            "ResourceType": "VirtualMachine",
            "Resources": [self.NAME],
            "EventStatus": "Started" if started else "Scheduled",
            "NotBefore": "" if started else format_datetime(told.at, usegmt=True),
            "Description": "",
            "EventSource": "Platform",
            "DurationInSeconds": -1,
        }

    def _acknowledge(self, body: bytes) -> Answer:
        try:
            ids = [str(each["EventId"]) for each in json.loads(body)["StartRequests"]]
        except (ValueError, KeyError, TypeError):
            return _wrong("the request is no list of events to start")
        self._started.update(ids)
        return Answer(200)


SERVICES: Final[Mapping[str, type[Service]]] = {"aws": Aws, "azure": Azure}


def _wrong(text: str) -> Answer:
    return Answer(400, json.dumps({"error": f"Bad request. {text}"}), "application/json")


def _iso(at: datetime) -> str:
    return at.strftime("%Y-%m-%dT%H:%M:%SZ")


def _always() -> float:
    """A clock that goes on while the machine sleeps, as one outside of it does."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


# --- serving --------------------------------------------------------------------------------------


class Server(ThreadingHTTPServer):
    """Answers for one service, and keeps what it was asked in a file."""

    daemon_threads = True

    def server_bind(self) -> None:
        """Without asking a name service who this is, as HTTPServer does."""
        TCPServer.server_bind(self)

    def __init__(self, address: tuple[str, int], service: Service, kept: Path) -> None:
        super().__init__(address, Handler)
        self.service = service
        self._kept = kept
        self._lock = threading.Lock()

    def keep(self, asked: Asked, answer: Answer) -> None:
        """A line for each request: when, what, and how it was answered."""
        line = f"{time.monotonic():.3f} {asked.method} {asked.path} {answer.status}\n"
        with self._lock, self._kept.open("a") as file:
            file.write(line)


class Handler(BaseHTTPRequestHandler):
    """One connection, which may carry many requests."""

    protocol_version = "HTTP/1.1"
    server_version = "metadata"
    disable_nagle_algorithm = True
    timeout = 300  # a connection that says nothing is left so late
    server: Server

    def _serve(self) -> None:
        parts = urlsplit(self.path)
        length = self.headers.get("Content-Length", "0")
        if not length.isdecimal():
            self.send_error(411)
            return
        asked = Asked(
            self.command,
            parts.path.rstrip("/"),
            {name: values[-1] for name, values in parse_qs(parts.query).items()},
            {name.lower(): value for name, value in self.headers.items()},
            self.rfile.read(int(length)),
        )
        answer = self.server.service.answer(asked)
        body = answer.text.encode()
        self.send_response(answer.status)
        self.send_header("Content-Type", answer.content_type)
        self.send_header("Content-Length", str(len(body)))
        for name, value in (answer.headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)
        self.server.keep(asked, answer)

    do_GET = do_PUT = do_POST = _serve  # noqa: N815 - http.server looks for these names

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002, ANN401 - as it is declared
        """Nothing: see `Server.keep`."""


def take_address(interface: str, address: str) -> None:
    """Give this link-local address to an interface that leads nowhere. By ioctl (netdevice(7)):
    the guest has no ip(8)."""
    # systemd's modprobe.d has the module make none
    command = ["/usr/sbin/modprobe", "dummy", "numdummies=1"]
    subprocess.run(command, check=True, timeout=60)
    set_address, set_netmask, set_flags, up_and_running = 0x8916, 0x891C, 0x8914, 0x41
    name = interface.encode()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        for request, value in ((set_address, address), (set_netmask, "255.255.255.255")):
            packed = struct.pack("16sHH4s16x", name, socket.AF_INET, 0, socket.inet_aton(value))
            fcntl.ioctl(control, request, packed)
        fcntl.ioctl(control, set_flags, struct.pack("16sH22x", name, up_and_running))


def _stay_in_memory() -> None:
    # It stands for something outside of this machine, which no reclaim makes slower.
    current_and_future = 1 | 2
    ctypes.CDLL(None).mlockall(current_and_future)


def main() -> None:
    """See above."""
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("serve").add_argument("service", choices=sorted(SERVICES))
    announcing = commands.add_parser("announce")
    announcing.add_argument("what")
    announcing.add_argument("seconds", type=float)
    commands.add_parser("withdraw")
    options = parser.parse_args()
    if options.command == "announce":
        found = announce(STATE, options.what, options.seconds)
        print(ANNOUNCED, _iso(found.at), file=sys.stderr, flush=True)
    elif options.command == "withdraw":
        withdraw(STATE)
    else:
        take_address(INTERFACE, ADDRESS)
        _stay_in_memory()
        with Server((ADDRESS, 80), SERVICES[options.service](STATE), ASKED) as server:
            server.serve_forever()


if __name__ == "__main__":
    main()
