# SPDX-License-Identifier: LGPL-2.1-or-later
"""The control agent and the host's end of its channel, over a socket instead of a guest's port."""

from __future__ import annotations

import base64
import os
import queue
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from bench.lab import remote
from bench.lab.agent import Agent
from bench.lab.channel import Channel
from bench.lab.errors import AgentError, GuestTimeout
from tests.waiting import until


class SocketAgent(Agent):
    """An agent whose port is a socket; what it is connected to can be changed under it."""

    def __init__(self) -> None:
        super().__init__("unused")
        near, far = socket.socketpair()
        self._kept = far.detach()
        self.near: socket.socket | None = near

    def _open(self) -> None:
        self._fd = self._kept

    def reconnect(self) -> socket.socket:
        near, far = socket.socketpair()
        os.dup2(far.detach(), self._kept)
        return near


@pytest.fixture
def agent() -> SocketAgent:
    served = SocketAgent()
    threading.Thread(target=served.serve, daemon=True).start()
    return served


@pytest.fixture
def channel(agent: SocketAgent) -> Iterator[Channel]:
    assert agent.near is not None
    channel = Channel(agent.near)
    yield channel
    channel.close()


def test_the_identity_stays_the_same(channel: Channel) -> None:
    assert channel.ping(5) == channel.ping(5)


def test_a_command_gets_input_and_environment(channel: Channel) -> None:
    result = remote.run(
        channel,
        ["sh", "-c", 'cat; echo "$WHO" >&2; exit 3'],
        timeout=10,
        given=b"hello",
        environment={"WHO": "me"},
    )
    assert (result.returncode, result.stdout, result.stderr) == (3, b"hello", b"me\n")


def test_what_a_command_says_is_told_as_it_says_it(channel: Channel) -> None:
    heard: queue.Queue[str] = queue.Queue()
    script = "echo first >&2; read go; echo second >&2; echo out"
    tag, future = channel.post(
        "run", follower=heard.put, argv=["bash", "-c", script], timeout=20, input="Z28K"
    )
    assert heard.get(timeout=20) == "first"
    result = remote.result_of(channel.wait("run", tag, future, 20))
    assert heard.get(timeout=20) == "second"
    assert (result.stdout, result.stderr) == (b"out\n", b"first\nsecond\n")


def test_a_command_that_is_not_there_is_an_error(channel: Channel) -> None:
    with pytest.raises(AgentError, match="FileNotFoundError"):
        remote.run(channel, ["/no/such/program"], timeout=10)


def test_a_late_command_is_killed_with_its_children(channel: Channel) -> None:
    started = time.monotonic()
    with pytest.raises(GuestTimeout, match="was killed"):
        remote.run(channel, ["sh", "-c", "sleep 60 & sleep 60"], timeout=0.2)
    assert time.monotonic() - started < 10


def test_pings_pass_a_long_command(channel: Channel) -> None:
    _, future = channel.post("run", argv=["sleep", "30"], timeout=0.7)
    channel.ping(0.5)
    assert not future.done()
    assert future.result(10)["late"] is True


def test_files_of_many_chunks_come_back_whole(
    channel: Channel, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("guest") / "deep" / "file"
    data = os.urandom((2 << 20) + 17)
    remote.put(channel, data, str(path), 0o640)
    assert remote.get(channel, str(path)) == data
    assert path.stat().st_mode & 0o777 == 0o640
    assert [entry.name for entry in path.parent.iterdir()] == ["file"]


def test_an_empty_file_and_one_of_exactly_one_chunk(
    channel: Channel, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("guest") / "file"
    for data in (b"", b"x" * (1 << 20)):
        remote.put(channel, data, str(path), 0o644)
        assert remote.get(channel, str(path)) == data


def test_a_reply_lost_on_the_way_is_collected_later(agent: SocketAgent, channel: Channel) -> None:
    # A guest that hibernates: the connection ends while the command runs, and another begins.
    tag, future = channel.post("run", argv=["sh", "-c", "sleep 0.3; echo done"], timeout=10)
    channel.ping(5)
    near = agent.reconnect()
    channel.close()
    with pytest.raises(AgentError):
        future.result(5)
    near.sendall(b'{"op": "ping", "tag": "half a li')  # what an old life left unfinished
    later = Channel(near)
    try:
        later.ping(5)

        def collected() -> dict[str, Any] | None:
            answer = later.request("collect", 5, of=tag)
            return answer if answer["state"] != "running" else None

        found = until(collected, "the command has ended")
        assert found["state"] == "done"
        assert base64.b64decode(found["reply"]["stdout"]) == b"done\n"
        later.tell("forget", of=tag)
        until(lambda: later.request("collect", 5, of=tag)["state"] == "unknown", "it is forgotten")
    finally:
        later.close()


def test_half_a_reply_and_a_foreign_one_are_passed_over() -> None:
    near, far = socket.socketpair()
    far.sendall(b'0,"stdout":"","stderr":""}\n{"tag":"old-1","identity":"somebody"}\n[]\n')
    channel = Channel(near)
    try:
        with pytest.raises(GuestTimeout):
            channel.ping(0.2)
    finally:
        channel.close()
        far.close()


def test_everyone_hears_of_the_end_of_the_connection() -> None:
    near, far = socket.socketpair()
    channel = Channel(near)
    _, future = channel.post("ping")
    far.close()
    with pytest.raises(AgentError):
        future.result(5)
    with pytest.raises(AgentError):
        channel.ping(1)
    channel.close()
