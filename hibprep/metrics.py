# SPDX-License-Identifier: LGPL-2.1-or-later
"""The status in Prometheus' text format: for the textfile collector of the node exporter, or for a
scrape over loopback. Off by default.

prometheus_client, of the extra `metrics`, is imported when the first text is made and not before.
https://prometheus.io/docs/instrumenting/exposition_formats/
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from hibprep import streams
from hibprep.errors import HibprepError, NotPossibleError
from hibprep.status import HOLDING, PHASES, Status

if TYPE_CHECKING:
    from prometheus_client import Metric

log = logging.getLogger(__name__)

LOOPBACK = "127.0.0.1"
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
REQUEST_SECONDS = 5.0
LONGEST_REQUEST_BYTES = 8 << 10
MOST_CONNECTIONS = 8

_READABLE = 0o644  # the node exporter is another user

# name, key of the mapping, help
_PREDICTIONS = (
    ("hibernate_seconds", "hibernate_seconds", "What a hibernation would take now."),
    ("resume_seconds", "resume_seconds", "What the resume from it would take."),
    (
        "unprepared_hibernate_seconds",
        "unprepared_hibernate_seconds",
        "What a hibernation would take had nothing been prepared.",
    ),
    ("saveable_bytes", "saveable_bytes", "Memory that the kernel would put in the image now."),
)
_SWAP = (
    ("swap_total_bytes", "total_bytes", "Swap space."),
    ("swap_free_bytes", "free_bytes", "Swap space that is free."),
)
_LAST = (
    ("last_run_freed_bytes", "freed_bytes", "What the last run freed."),
    ("last_run_seconds", "seconds", "How long the last run took."),
)


def render(status: Status) -> str:
    """`status` in the text format. What is not known has no sample, as Prometheus advises.

    Raises NotPossibleError where prometheus_client is not installed.
    """
    try:
        from prometheus_client import CollectorRegistry, generate_latest  # noqa: PLC0415
        from prometheus_client.registry import Collector  # noqa: PLC0415
    except ImportError as error:
        raise NotPossibleError(
            "metrics need prometheus_client, which is not installed",
            "pip install 'hibprep[metrics]', or apt install python3-prometheus-client",
        ) from error

    class OneStatus(Collector):
        def collect(self) -> Iterable[Metric]:
            return _families(status)

    registry = CollectorRegistry(auto_describe=False)
    registry.register(OneStatus())
    return generate_latest(registry).decode()


def _families(status: Status) -> Iterator[Metric]:
    from prometheus_client.core import GaugeMetricFamily  # noqa: PLC0415

    def gauge(name: str, help_text: str, value: float) -> Metric:
        return GaugeMetricFamily(f"hibprep_{name}", help_text, value=value)

    phases = GaugeMetricFamily(
        "hibprep_phase", "1 for the phase that the daemon is in.", labels=["phase"]
    )
    for phase in dict.fromkeys((*PHASES, status.phase)):
        phases.add_metric([_text(phase)], float(phase == status.phase))
    yield phases
    policy = GaugeMetricFamily(
        "hibprep_policy_info", "1 for the policy that is configured.", labels=["policy"]
    )
    policy.add_metric([_text(status.policy)], 1.0)
    yield policy
    for mapping, rows in ((status.prediction, _PREDICTIONS), (status.swap, _SWAP)):
        for name, key, help_text in rows:
            if key in mapping:
                yield gauge(name, help_text, float(mapping[key]))
    if status.fit_ok is not None:
        yield gauge("fit", "1 when a hibernation would be accepted now.", float(status.fit_ok))
    sources = GaugeMetricFamily(
        "hibprep_source_up", "1 for a source of signals that works.", labels=["source"]
    )
    for source in status.sources:
        sources.add_metric([_text(source.name)], float(source.works))
    yield sources
    yield gauge("written_today_bytes", "Written to swap today.", float(status.written_today_bytes))
    if status.write_budget_bytes:
        yield gauge(
            "write_budget_bytes", "May be written to swap per day.", status.write_budget_bytes
        )
    for name, key, help_text in _LAST:
        value = (status.last_report or {}).get(key)
        if isinstance(value, int | float):
            yield gauge(name, help_text, float(value))
    yield from _notices(status)


def _notices(status: Status) -> Iterator[Metric]:
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily  # noqa: PLC0415

    if status.notices_total is None:
        return
    yield CounterMetricFamily(
        "hibprep_notices", "Notices of the cloud since the daemon's start.", status.notices_total
    )
    left: dict[tuple[str, str], float] = {}
    for notice in status.notices:
        if notice.seconds_left is not None and notice.progress in HOLDING:
            key = (_text(notice.kind), _text(notice.source))
            left[key] = min(notice.seconds_left, left.get(key, notice.seconds_left))
    seconds = GaugeMetricFamily(
        "hibprep_notice_seconds_left",
        "Until what is announced happens; the most urgent of each kind.",
        labels=["kind", "source"],
    )
    for key, value in left.items():
        seconds.add_metric(key, value)
    yield seconds


def _text(text: str) -> str:
    return text.encode(errors="replace").decode()


# --- the textfile collector -----------------------------------------------------------------------


def write_textfile(path: str | Path, text: str) -> None:
    """Put `text` at `path`, readable for all, in one step: a reader sees the old file or the new.

    Raises HibprepError with the path when it cannot be written.
    """
    where = Path(path)
    try:
        # no name that ends in .prom: the collector reads all of those
        descriptor, temporary = tempfile.mkstemp(prefix=f".{where.name}.", dir=where.parent)
        try:
            with open(descriptor, "wb") as file:  # noqa: PTH123 - a descriptor
                file.write(text.encode())
                os.fchmod(file.fileno(), _READABLE)
            Path(temporary).replace(where)
        except BaseException:
            with contextlib.suppress(OSError):
                Path(temporary).unlink()
            raise
    except OSError as error:
        raise HibprepError(
            f"{where}: the metrics cannot be written: {error.strerror or error}",
            "make its directory, or set another path",
        ) from error


# --- a scrape over loopback -----------------------------------------------------------------------


def write_quietly(status: Callable[[], Status], path: str | None) -> None:
    """The figures in that file, where one is configured; a failure is told and no more."""
    if path is None:
        return
    try:
        write_textfile(path, render(status()))
    except (HibprepError, OSError) as error:
        log.warning("no figures in %s: %s", path, error)


async def serve_quietly(status: Callable[[], Status], port: int | None) -> None:
    """The figures on that port, where one is configured; a failure is told and no more."""
    if port is None:
        return
    try:
        await serve(status, port)
    except (HibprepError, OSError) as error:
        log.warning("no figures on port %s: %s", port, error)


async def serve(
    status: Callable[[], Status], port: int, *, started: Callable[[int], None] = lambda _: None
) -> NoReturn:
    """Answer GET /metrics on the loopback address alone until cancelled; `started` is told the
    port (0 lets the kernel choose).

    Raises NotPossibleError when the port is taken or prometheus_client is not installed.
    """
    render(status())  # what cannot be rendered is known now and not at the first scrape

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await streams.send(writer, await _answer(reader, status))

    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as listener:
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((LOOPBACK, port))
            listener.listen(MOST_CONNECTIONS)
        except (OSError, OverflowError) as error:
            raise NotPossibleError(
                f"no metrics on port {port} of {LOOPBACK}: {error}", "choose another port"
            ) from error
        await streams.serve(
            listener,
            handle,
            most=MOST_CONNECTIONS,
            too_many=_response("503 Service Unavailable", "too many connections\n"),
            longest_line_bytes=LONGEST_REQUEST_BYTES,
            started=lambda: started(listener.getsockname()[1]),
        )


async def _answer(reader: asyncio.StreamReader, status: Callable[[], Status]) -> bytes:
    try:
        async with asyncio.timeout(REQUEST_SECONDS):
            head = await reader.readuntil(b"\r\n\r\n")
    except TimeoutError:
        return _response("408 Request Timeout", "no request came\n")
    except asyncio.LimitOverrunError:
        return _response("431 Request Header Fields Too Large", "the request is too large\n")
    except asyncio.IncompleteReadError:
        return _response("400 Bad Request", "the request was cut short\n")
    words = head.split(b"\r\n", 1)[0].split(b" ")
    match words:
        case [b"GET", target, version] if version.startswith(b"HTTP/1."):
            if target.split(b"?", 1)[0] != b"/metrics":
                return _response("404 Not Found", "there is only /metrics\n")
            return _response("200 OK", render(status()), CONTENT_TYPE)
        case [method, _, version] if version.startswith(b"HTTP/1.") and method.isalpha():
            return _response("405 Method Not Allowed", "only GET\n", extra="Allow: GET\r\n")
        case _:
            return _response("400 Bad Request", "not understood\n")


def _response(
    state: str, text: str, content_type: str = "text/plain; charset=utf-8", extra: str = ""
) -> bytes:
    body = text.encode()
    head = (
        f"HTTP/1.1 {state}\r\nContent-Type: {content_type}\r\nContent-Length: {len(body)}\r\n"
        f"{extra}Connection: close\r\n\r\n"
    )
    return head.encode() + body
