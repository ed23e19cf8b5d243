# SPDX-License-Identifier: LGPL-2.1-or-later
"""The control socket: answers that take a while, and whatever anybody may send."""

from __future__ import annotations

import asyncio
import json
import socket
import tempfile
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from hibprep import streams
from hibprep.events import RunEnded
from hibprep.model import Ending
from hibprep.signals import control as module
from hibprep.signals.demand import DemandError, parse
from tests.fakes.control import Served, run, served
from tests.waiting import GENEROUS_SECONDS

# --- waiting and following ------------------------------------------------------------------------


async def until_asked(it: Served) -> None:
    async with asyncio.timeout(GENEROUS_SECONDS):
        while not it.requests:
            await asyncio.sleep(0)


def test_waiting_for_the_end_of_the_run(tmp_path: Path) -> None:
    async def test() -> None:
        async with served(tmp_path) as it, it.peer() as peer:
            peer.send({"v": 1, "do": "prepare", "wait": True, "timeout": 60})
            await until_asked(it)
            it.host.end(RunEnded(ending=Ending.DONE, reason="done", freed_bytes=7))
            answer = await peer.answer()
            assert answer["ok"] is True
            assert answer["ended"]["ending"] == "done"
            assert answer["ended"]["freed_bytes"] == 7
            assert (await peer.ask(do="stop"))["ok"] is True

    run(test)


@pytest.mark.parametrize("do", ["prepare", "follow"])
def test_a_peer_that_leaves_is_not_waited_for(tmp_path: Path, do: str) -> None:
    async def test() -> None:
        async with served(tmp_path) as it, it.peer() as peer:
            peer.send({"v": 1, "do": do} | ({"wait": True} if do == "prepare" else {}))
            await (until_asked(it) if do == "prepare" else peer.answer())
            peer.writer.write_eof()
            assert await peer.closed() == b""

    run(test)


@pytest.mark.parametrize("do", ["prepare", "follow"])
def test_a_peer_that_speaks_out_of_turn(tmp_path: Path, do: str) -> None:
    async def test() -> None:
        async with served(tmp_path) as it, it.peer() as peer:
            peer.send({"v": 1, "do": do} | ({"wait": True} if do == "prepare" else {}))
            await (until_asked(it) if do == "prepare" else peer.answer())
            asked = len(it.requests)
            peer.send({"v": 1, "do": "stop"})
            assert "before the answer is complete" in (await peer.answer())["error"]
            await peer.closed()
            assert len(it.requests) == asked

    run(test)


def test_a_run_that_does_not_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LONGEST_RUN_SECONDS", 0.05)

    async def test() -> None:
        async with served(tmp_path) as it, it.peer() as peer:
            answer = await peer.ask(do="prepare", wait=True)
            assert "did not end within" in answer["error"]
            assert (await peer.ask(do="stop"))["ok"] is True

    run(test)


def test_following(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FOLLOW_PAUSE_SECONDS", 0.01)

    async def test() -> None:
        async with served(tmp_path) as it, it.peer() as one, it.peer() as two:
            for peer in (one, two):
                assert (await peer.ask(do="follow"))["status"]["stage"] == "cold-anon"
            for phase in ("ready", "sleeping", "resuming"):
                it.host.change(phase=phase)
                for peer in (one, two):
                    assert (await peer.answer())["status"]["phase"] == phase
            # the server ends with followers in it; `served` looks for what is left of them

    run(test)


def test_many_changes_are_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FOLLOW_PAUSE_SECONDS", 0.1)

    async def test() -> None:
        async with served(tmp_path) as it, it.peer() as peer:
            assert (await peer.ask(do="follow"))["ok"] is True
            for count in range(1, 1001):
                it.host.change(written_today_bytes=count)
            seen = [await peer.answer()]
            while seen[-1]["status"]["written_today_bytes"] != 1000:
                seen.append(await peer.answer())
            assert len(seen) <= 2

    run(test)


def test_a_follower_that_does_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FOLLOW_PAUSE_SECONDS", 0.0)
    monkeypatch.setattr(streams, "WRITE_SECONDS", 0.05)

    async def test() -> None:
        async with served(tmp_path) as it, asyncio.timeout(GENEROUS_SECONDS):
            with socket.socket(socket.AF_UNIX) as mute:
                mute.connect(str(it.path))
                mute.sendall(b'{"v":1,"do":"follow"}\n')
                at_rest = len(asyncio.all_tasks())
                while len(asyncio.all_tasks()) == at_rest:
                    await asyncio.sleep(0)
                count = 0
                while len(asyncio.all_tasks()) > at_rest:
                    count += 1
                    # a long status, so that the buffers are soon full
                    it.host.change(reason=f"{count} " + "x" * 50_000)
                    await asyncio.sleep(0.001)

    run(test)


# --- anything at all ------------------------------------------------------------------------------

scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=8),
    st.sampled_from(["min", "image_size", "stop", "prepare", "swapin", "status", 1, 1 << 30]),
)
documents = st.dictionaries(
    st.one_of(
        st.sampled_from(["target", "within", "timeout", "wait", "seconds", "who"]),
        st.text(max_size=4),
    ),
    st.recursive(scalars, lambda inner: st.lists(inner, max_size=2), max_leaves=3),
    max_size=3,
)
likely = st.builds(
    lambda version, do, rest: json.dumps({"v": version, "do": do} | rest).encode(),
    st.sampled_from([1, 1, 1, 2, "1", True]),
    st.sampled_from(
        [
            "status",
            "follow",
            "prepare",
            "prepare",
            "stop",
            "swapin",
            "presleep",
            "postsleep",
            "guest",
            "x",
        ]
    ),
    documents,
)
lines = st.one_of(st.binary(max_size=64), likely, likely)


@given(lines)
@example(b'{"v":1,"do":"prepare","target":1}')
def test_a_line_is_a_request_or_an_error(line: bytes) -> None:
    demand, wrong = None, ""
    try:
        demand = parse(line)
    except DemandError as error:
        wrong = str(error)
    assert (demand is None) == bool(wrong)
    assert wrong.isprintable()
    assert len(wrong) < 250
    if demand is not None:
        document = json.loads(line)
        assert document["v"] == 1
        assert demand.do == document["do"]


def may_ask(line: bytes) -> bool:
    """Not how the code under test decides it, and sooner yes than it."""
    try:
        document = json.loads(line)
    except (ValueError, RecursionError):
        return False
    return (
        isinstance(document, dict)
        and document.get("v") == 1
        and document.get("do") in ("prepare", "stop", "swapin")
    )


@settings(deadline=None, max_examples=60)
@given(st.lists(lines, max_size=5), st.binary(max_size=16))
@example([b"[" * 70_000], b"")
def test_any_bytes(sent: list[bytes], rest: bytes) -> None:
    data = b"".join(line + b"\n" for line in sent) + rest

    async def test() -> None:
        with tempfile.TemporaryDirectory(prefix="hibprep-") as folder:
            async with served(Path(folder)) as it:
                async with it.peer() as peer:
                    peer.send(data)
                    peer.writer.write_eof()
                    answers = [json.loads(line) for line in (await peer.closed()).splitlines()]
                for answer in answers:
                    assert answer["v"] == 1
                    assert ("ok" in answer) != ("error" in answer)
                assert len(it.requests) <= sum(may_ask(line) for line in data.split(b"\n")[:-1])
                async with it.peer() as peer:
                    assert (await peer.ask(do="status"))["ok"] is True

    run(test)
