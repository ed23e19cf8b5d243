# SPDX-License-Identifier: LGPL-2.1-or-later
"""The client of hooks: against the real socket, and against things that only look like it."""

from __future__ import annotations

import asyncio
import itertools
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from hibprep.hookclient import DaemonError, NoDaemon, follow, request, request_and_wait
from hibprep.status import Status
from tests.fakes.control import run, served
from tests.fakes.host import STATUS
from tests.waiting import GENEROUS_SECONDS

STATUS_REQUEST: dict[str, object] = {"do": "status"}


@contextmanager
def daemon(path: Path, behave: Callable[[socket.socket], None]) -> Iterator[str]:
    """Something that accepts one connection and does with it as it likes."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.settimeout(GENEROUS_SECONDS)
        listener.bind(str(path))
        listener.listen()

        def accept() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.settimeout(GENEROUS_SECONDS)
                behave(connection)

        thread = threading.Thread(target=accept)
        thread.start()
        yield str(path)
        thread.join(GENEROUS_SECONDS)
        assert not thread.is_alive()


def says(*parts: bytes) -> Callable[[socket.socket], None]:
    def behave(connection: socket.socket) -> None:
        connection.recv(1 << 16)
        for part in parts:
            connection.sendall(part)

    return behave


def test_a_request_and_its_answer(tmp_path: Path) -> None:
    async def test() -> None:
        async with served(tmp_path) as it:
            answer = await asyncio.to_thread(
                request, STATUS_REQUEST, path=str(it.path), seconds=GENEROUS_SECONDS
            )
            assert Status.from_plain(answer["status"]) == STATUS

    run(test)


def test_an_error_answer_has_its_place(tmp_path: Path) -> None:
    async def test() -> None:
        async with served(tmp_path) as it:
            with pytest.raises(DaemonError, match="image_size, min") as caught:
                await asyncio.to_thread(
                    request, {"do": "prepare", "target": "all"}, path=str(it.path)
                )
            assert caught.value.place == "target"

    run(test)


def test_an_answer_that_has_to_be_waited_for(tmp_path: Path) -> None:
    first = b'{"v":1,"ok":true,"wait_seconds":30}\n'
    with daemon(tmp_path / "one", says(first + b'{"v":1,"n":2}\n')) as path:
        answer = request_and_wait(STATUS_REQUEST, path=path, seconds=1, most_seconds=30)
        assert answer == {"v": 1, "n": 2}
    with daemon(tmp_path / "two", says(b'{"v":1,"n":1}\n{"v":1,"n":2}\n')) as path:
        answer = request_and_wait(STATUS_REQUEST, path=path, seconds=1, most_seconds=30)
        assert answer == {"v": 1, "n": 1}
    with (
        daemon(tmp_path / "three", says(first)) as path,
        pytest.raises(DaemonError, match="closed the connection"),
    ):
        request_and_wait(STATUS_REQUEST, path=path, seconds=1, most_seconds=30)


def test_an_answer_that_does_not_come_is_waited_for_so_long(tmp_path: Path) -> None:
    released = threading.Event()

    def slow(connection: socket.socket) -> None:
        connection.recv(1 << 16)
        connection.sendall(b'{"v":1,"ok":true,"wait_seconds":1e9}\n')
        assert released.wait(GENEROUS_SECONDS)

    with daemon(tmp_path / "slow", slow) as path:
        with pytest.raises(DaemonError, match=r"did not answer within 0\.05 s"):
            request_and_wait(STATUS_REQUEST, path=path, seconds=GENEROUS_SECONDS, most_seconds=0.05)
        released.set()


def test_following(tmp_path: Path) -> None:
    async def test() -> None:
        async with served(tmp_path) as it:
            answers = follow(str(it.path), seconds=GENEROUS_SECONDS)
            for phase in ("reclaiming", "ready", "sleeping"):
                it.host.change(phase=phase)
                answer = await asyncio.to_thread(next, answers)
                assert Status.from_plain(answer["status"]).phase == phase
            assert isinstance(answers, Generator)
            answers.close()

    run(test)


def test_a_daemon_that_ends_ends_the_following(tmp_path: Path) -> None:
    with daemon(tmp_path / "brief", says(b'{"v":1,"n":1}\n')) as path:
        assert list(follow(path, seconds=GENEROUS_SECONDS)) == [{"v": 1, "n": 1}]


def test_no_daemon(tmp_path: Path) -> None:
    with pytest.raises(NoDaemon, match=r"no hibprep daemon runs: start hibprep\.service"):
        request(STATUS_REQUEST, path=str(tmp_path / "none"))
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(tmp_path / "dead"))
    with pytest.raises(NoDaemon):
        next(follow(str(tmp_path / "dead")))


def test_a_path_that_is_too_long(tmp_path: Path) -> None:
    with pytest.raises(DaemonError, match="too long"):
        request(STATUS_REQUEST, path=str(tmp_path / ("x" * 200)))


def test_no_answer_in_time(tmp_path: Path) -> None:
    released = threading.Event()

    def silent(connection: socket.socket) -> None:
        connection.recv(1 << 16)
        assert released.wait(GENEROUS_SECONDS)

    with daemon(tmp_path / "mute", silent) as path:
        with pytest.raises(DaemonError, match=r"did not answer within 0\.05 s"):
            request(STATUS_REQUEST, path=path, seconds=0.05)
        released.set()


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        ((), "closed the connection without an answer"),
        ((b'{"v":1',), "cut short"),
        ((b"what?\n",), "no JSON"),
        ((b"[" * 100_000 + b"\n",), "no JSON"),
        ((b"7\n",), "no object"),
        ((b'{"v":2,"ok":true}\n',), "speaks version 2"),
        ((b'{"v":1,"error":"only root"}\n',), "^only root$"),
        (tuple(itertools.repeat(b"x" * 65536, 18)), "has no end|reset|cut short"),
    ],
)
def test_answers_that_are_none(tmp_path: Path, parts: tuple[bytes, ...], words: str) -> None:
    def behave(connection: socket.socket) -> None:
        try:
            says(*parts)(connection)
        except OSError:
            return  # it had enough

    with (
        daemon(tmp_path / "odd", behave) as path,
        pytest.raises(DaemonError, match=words),
    ):
        request(STATUS_REQUEST, path=path, seconds=GENEROUS_SECONDS)


def test_an_answer_in_pieces(tmp_path: Path) -> None:
    with daemon(tmp_path / "slow", says(b'{"v":1,', b'"ok":', b"true}\n")) as path:
        assert request(STATUS_REQUEST, path=path) == {"v": 1, "ok": True}


def test_two_answers_at_once(tmp_path: Path) -> None:
    with daemon(tmp_path / "fast", says(b'{"v":1,"n":1}\n{"v":1,"n":2}\n{"v":1,')) as path:
        answers = follow(path, seconds=GENEROUS_SECONDS)
        assert [next(answers)["n"], next(answers)["n"]] == [1, 2]
        with pytest.raises(DaemonError, match="cut short"):
            next(answers)


def test_no_access(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0)
    was = os.geteuid()
    if was == 0:
        os.seteuid(65534)  # root may enter everything
    try:
        with pytest.raises(DaemonError, match="run as root"):
            request(STATUS_REQUEST, path=str(closed / "control"))
    finally:
        os.seteuid(was)


def test_little_is_imported() -> None:
    """A hook runs while somebody waits for the sleep."""
    names = subprocess.run(
        [sys.executable, "-c", "import sys, hibprep.hookclient; print(*sys.modules)"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout.split()
    slow = {"asyncio", "argparse", "click", "pydantic", "dbus_next", "subprocess", "dataclasses"}
    assert "hibprep.hookclient" in names
    assert not slow & set(names)
