# SPDX-License-Identifier: LGPL-2.1-or-later
"""The metrics: read back with Prometheus' own parser, and scraped over a real loopback socket."""

from __future__ import annotations

import asyncio
import builtins
import contextlib
import dataclasses
import os
import stat
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from hibprep import metrics as module
from hibprep.errors import HibprepError, NotPossibleError
from hibprep.metrics import render, serve, write_textfile
from hibprep.status import NoticeStatus, SourceStatus, Status
from tests.fakes.host import STATUS
from tests.waiting import GENEROUS_SECONDS

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def samples(text: str) -> Samples:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_all_of_it() -> None:
    text = render(STATUS)
    read = samples(text)
    assert read[("hibprep_phase", (("phase", "reclaiming"),))] == 1.0
    assert read[("hibprep_phase", (("phase", "ready"),))] == 0.0
    assert read[("hibprep_policy_info", (("policy", "idle"),))] == 1.0
    assert read[("hibprep_hibernate_seconds", ())] == 4.25
    assert read[("hibprep_resume_seconds", ())] == 9.5
    assert read[("hibprep_unprepared_hibernate_seconds", ())] == 49.0
    assert read[("hibprep_saveable_bytes", ())] == 3 << 30
    assert read[("hibprep_swap_total_bytes", ())] == 8 << 30
    assert read[("hibprep_swap_free_bytes", ())] == 7 << 30
    assert read[("hibprep_fit", ())] == 1.0
    assert read[("hibprep_source_up", (("source", "logind"),))] == 1.0
    assert read[("hibprep_source_up", (("source", "pressure"),))] == 0.0
    assert read[("hibprep_written_today_bytes", ())] == 5 << 20
    assert read[("hibprep_write_budget_bytes", ())] == 10 << 30
    assert read[("hibprep_last_run_freed_bytes", ())] == 1 << 30
    for family in text_string_to_metric_families(text):
        assert family.documentation
        assert family.type == "gauge"
        assert f"# HELP {family.name} " in text
        assert f"# TYPE {family.name} gauge\n" in text


def test_what_is_not_known_has_no_sample() -> None:
    names = {name for name, _ in samples(render(Status()))}
    assert names == {"hibprep_phase", "hibprep_policy_info", "hibprep_written_today_bytes"}


def test_notices() -> None:
    def notice(kind: str, left: float | None, progress: str = "at work") -> NoticeStatus:
        return NoticeStatus(kind=kind, source="aws", id="1", seconds_left=left, progress=progress)

    status = dataclasses.replace(
        STATUS,
        notices_total=6,
        notices=(
            notice("stop", 112.5),
            notice("stop", 14.0, "done"),
            notice("reboot", 3.0, "withdrawn"),
            notice("freeze", 0.0, "over"),
            notice("rebalance", None),
        ),
    )
    read = samples(render(status))
    assert read[("hibprep_notices_total", ())] == 6
    left = {labels: value for (name, labels), value in read.items() if "seconds_left" in name}
    assert left == {(("kind", "stop"), ("source", "aws")): 14.0}
    assert "hibprep_notices_total" not in render(STATUS)


def test_labels_are_escaped() -> None:
    odd = 'a"b\\c\nd'
    status = dataclasses.replace(STATUS, sources=(SourceStatus(odd, works=True),), policy="\ud800")
    text = render(status)
    assert 'source="a\\"b\\\\c\\nd"' in text
    assert samples(text)[("hibprep_source_up", (("source", odd),))] == 1.0


def test_without_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def fail(name: str, *more: object, **fields: object) -> object:
        if name.startswith("prometheus_client"):
            raise ImportError(name)
        return real(name, *more, **fields)  # type: ignore[arg-type]

    monkeypatch.setattr(builtins, "__import__", fail)
    with pytest.raises(NotPossibleError, match=r"hibprep\[metrics\]"):
        render(STATUS)


# --- the file -------------------------------------------------------------------------------------


def test_the_file_is_replaced_as_a_whole(tmp_path: Path) -> None:
    path = tmp_path / "hibprep.prom"
    write_textfile(path, "old\n")
    with path.open() as reader:
        write_textfile(str(path), "new\n")
        assert reader.read() == "old\n"
    assert path.read_text() == "new\n"
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(HibprepError, match=r"none/hibprep\.prom: the metrics cannot be written"):
        write_textfile(tmp_path / "none" / "hibprep.prom", "")

    def fail(descriptor: int, mode: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fchmod", fail)
    with pytest.raises(HibprepError, match="No space left on device"):
        write_textfile(tmp_path / "hibprep.prom", "text")
    assert list(tmp_path.iterdir()) == []


# --- the exporter ---------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def exporter() -> AsyncIterator[int]:
    port: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    running = asyncio.create_task(serve(lambda: STATUS, 0, started=port.set_result))
    try:
        async with asyncio.timeout(GENEROUS_SECONDS):
            yield await port
    finally:
        running.cancel()
        await asyncio.wait((running,))
    assert running.cancelled()
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def exchange(port: int, request: bytes, *, end: bool = False) -> tuple[str, str]:
    """The status line and the body."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(request)
        if end:
            writer.write_eof()
        async with asyncio.timeout(GENEROUS_SECONDS):
            head, _, body = (await reader.read()).decode().partition("\r\n\r\n")
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
    state, *fields = head.split("\r\n")
    assert f"Content-Length: {len(body.encode())}" in fields
    assert "Connection: close" in fields
    return state.removeprefix("HTTP/1.1 "), body


def run(test: Callable[[], Awaitable[None]]) -> None:
    async def limited() -> None:
        await test()

    asyncio.run(limited())


def test_a_scrape() -> None:
    async def test() -> None:
        async with exporter() as port:
            for target in (b"/metrics", b"/metrics?name=x"):
                state, body = await exchange(
                    port, b"GET " + target + b" HTTP/1.1\r\nHost: x\r\n\r\n"
                )
                assert state == "200 OK"
                assert body == render(STATUS)

    run(test)


@pytest.mark.parametrize(
    ("request_", "state"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", "404 Not Found"),
        (b"GET /metrics/../x HTTP/1.1\r\n\r\n", "404 Not Found"),
        (b"POST /metrics HTTP/1.1\r\n\r\n", "405 Method Not Allowed"),
        (b"HEAD /metrics HTTP/1.0\r\n\r\n", "405 Method Not Allowed"),
        (b"GET /metrics\r\n\r\n", "400 Bad Request"),
        (b"GET /metrics HTTP/2\r\n\r\n", "400 Bad Request"),
        (b"\x16\x03\x01\r\n\r\n", "400 Bad Request"),
        (b"\r\n\r\n", "400 Bad Request"),
        (b"GET /metrics HT", "400 Bad Request"),
        (b"", "400 Bad Request"),
        (b"GET /metrics HTTP/1.1\r\n" + b"x" * 9000, "431 Request Header Fields Too Large"),
    ],
)
def test_everything_else(request_: bytes, state: str) -> None:
    async def test() -> None:
        async with exporter() as port:
            assert (await exchange(port, request_, end=True))[0] == state

    run(test)


def test_a_client_that_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "REQUEST_SECONDS", 0.05)

    async def test() -> None:
        async with exporter() as port:
            assert (await exchange(port, b"GET /metrics HTTP/1.1\r\n"))[0] == "408 Request Timeout"

    run(test)


def test_too_many_clients() -> None:
    async def test() -> None:
        async with exporter() as port:
            waiting = [
                await asyncio.open_connection("127.0.0.1", port)
                for _ in range(module.MOST_CONNECTIONS)
            ]
            state, _ = await exchange(port, b"")
            assert state == "503 Service Unavailable"
            for _, writer in waiting:
                writer.close()
                await writer.wait_closed()

    run(test)


def test_a_port_that_is_taken() -> None:
    async def test() -> None:
        async with exporter() as port:
            with pytest.raises(NotPossibleError, match=f"no metrics on port {port}"):
                await serve(lambda: STATUS, port)

    run(test)
