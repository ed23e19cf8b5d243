# SPDX-License-Identifier: LGPL-2.1-or-later
"""The control socket: a real one, with real peers."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import stat
from pathlib import Path

import pytest

from hibprep.errors import HibprepError, KernelFileError
from hibprep.events import GuestEvent, GuestOperation, Request, SourceChanged, SourceName, Wish
from hibprep.kernel.root import KernelRoot
from hibprep.model import Target, TargetKind
from hibprep.notices import NoticeKind
from hibprep.signals import control as module
from hibprep.signals.control import Control
from hibprep.status import Status
from tests.fakes.control import Peer, run, served
from tests.fakes.host import NOTICES, STATUS, FakeHost

PID = os.getpid()


# --- the socket -----------------------------------------------------------------------------------


def test_only_root_may_open_it(tmp_path: Path) -> None:
    async def test() -> None:
        async with served(tmp_path) as it:
            assert stat.S_IMODE(it.path.stat().st_mode) == 0o600
            assert stat.S_IMODE(it.path.parent.stat().st_mode) == 0o700
            (first,) = it.signals
            assert first == SourceChanged(
                SourceName.CONTROL, works=True, reason="listens on /run/hibprep/control"
            )

    run(test)


def test_a_directory_that_is_too_open_is_closed(tmp_path: Path) -> None:
    (tmp_path / "run/hibprep").mkdir(parents=True, mode=0o755)

    async def test() -> None:
        async with served(tmp_path) as it:
            assert stat.S_IMODE(it.path.parent.stat().st_mode) == 0o700

    run(test)


def test_a_dead_daemons_socket_is_taken_away(tmp_path: Path) -> None:
    (tmp_path / "run/hibprep").mkdir(parents=True)
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(tmp_path / "run/hibprep/control"))
        dead.listen()

    async def test() -> None:
        async with served(tmp_path) as it, it.peer() as peer:
            assert (await peer.ask(do="status"))["ok"] is True

    run(test)


def test_a_living_daemons_socket_is_left_alone(tmp_path: Path) -> None:
    async def test() -> None:
        async with served(tmp_path) as it:
            second = Control(KernelRoot(tmp_path), FakeHost())
            with pytest.raises(HibprepError, match="another hibprep daemon runs") as caught:
                await second.run(it.signals.append)
            assert "systemctl stop" in caught.value.remedy
            async with it.peer() as peer:
                assert (await peer.ask(do="status"))["ok"] is True

    run(test)


def test_what_is_no_socket_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "run/hibprep").mkdir(parents=True)
    (tmp_path / "run/hibprep/control").write_text("mine")

    async def test() -> None:
        with pytest.raises(HibprepError, match="is there and is no socket"):
            await Control(KernelRoot(tmp_path), FakeHost()).run(lambda _: None)

    run(test)
    assert (tmp_path / "run/hibprep/control").read_text() == "mine"


def test_no_place_for_it(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("")

    async def test() -> None:
        with pytest.raises(KernelFileError, match="/run/hibprep/control"):
            await Control(KernelRoot(tmp_path), FakeHost()).run(lambda _: None)

    run(test)


def test_a_successors_socket_is_not_taken_away(tmp_path: Path) -> None:
    async def test() -> None:
        async with served(tmp_path) as it:
            it.path.rename(it.path.with_name("old"))
            it.path.write_text("the successor's")
            it.root = tmp_path / "elsewhere"  # `served` would miss it

    run(test)
    assert (tmp_path / "run/hibprep/control").read_text() == "the successor's"


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to be somebody else for a moment")
def test_somebody_else_is_told_so_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def test() -> None:
        async with served(tmp_path) as it:
            # as if it had been opened to all by hand
            it.path.parent.chmod(0o755)
            it.path.chmod(0o666)
            monkeypatch.chdir(it.path.parent)
            raw = socket.socket(socket.AF_UNIX)
            os.seteuid(65534)
            try:
                raw.connect("control")
            finally:
                os.seteuid(0)
            reader, writer = await asyncio.open_unix_connection(sock=raw)
            peer = Peer(reader, writer)
            peer.send({"v": 1, "do": "stop"})
            assert "only root" in (await peer.answer())["error"]
            assert await peer.closed() == b""
            writer.close()
            assert it.requests == []

    run(test)


# --- requests -------------------------------------------------------------------------------------


def test_status(tmp_path: Path) -> None:
    async def test() -> None:
        async with served(tmp_path) as it, it.peer() as peer:
            answer = await peer.ask(do="status")
            assert answer["ok"] is True
            assert Status.from_plain(answer["status"]) == STATUS

    run(test)


@pytest.mark.parametrize(
    ("fields", "request_"),
    [
        ({"do": "prepare"}, Request(wish=Wish.PREPARE, who="")),
        (
            {"do": "prepare", "target": "image_size", "timeout": 5},
            Request(
                wish=Wish.PREPARE,
                who="",
                target=Target(TargetKind.IMAGE_SIZE),
                timeout_seconds=5.0,
            ),
        ),
        (
            {"do": "prepare", "target": "min", "wait": False},
            Request(wish=Wish.PREPARE, who="", target=Target(TargetKind.MIN)),
        ),
        (
            {"do": "prepare", "target": 1 << 30},
            Request(wish=Wish.PREPARE, who="", target=Target(TargetKind.SIZE, 1 << 30)),
        ),
        (
            {"do": "prepare", "within": 2.5},
            Request(wish=Wish.PREPARE, who="", target=Target(TargetKind.WITHIN, seconds=2.5)),
        ),
        ({"do": "stop"}, Request(wish=Wish.STOP, who="")),
        ({"do": "swapin"}, Request(wish=Wish.SWAP_IN, who="")),
    ],
)
def test_requests_become_signals(
    tmp_path: Path, fields: dict[str, object], request_: Request
) -> None:
    async def test() -> None:
        async with served(tmp_path) as it, it.peer() as peer:
            assert await peer.ask(**fields, who="hibprep prepare") == {"v": 1, "ok": True}
            assert it.requests == [
                Request(
                    wish=request_.wish,
                    who=f"hibprep prepare (pid {PID})",
                    target=request_.target,
                    timeout_seconds=request_.timeout_seconds,
                )
            ]

    run(test)


BAD = [
    (b"\n", "", "not a JSON document"),
    (b"hello\n", "", "not a JSON document"),
    (b"\xff\xfe\n", "", "not a JSON document"),
    (b"[" * 60_000 + b"\n", "", "not a JSON document"),
    (b"9" * 60_000 + b"\n", "", "not a JSON document"),
    (b"[]\n", "", "not a JSON object"),
    (b'{"v":1,"v":1,"do":"stop"}\n', "", "twice"),
    (b'{"v":1,"do":"prepare","timeout":NaN}\n', "", "NaN"),
    (b'{"do":"stop"}\n', "v", "missing"),
    (b'{"v":true,"do":"stop"}\n', "v", "version 1"),
    (b'{"v":2,"do":"stop"}\n', "v", '"v" is 2; this daemon speaks version 1'),
    (b'{"v":1}\n', "do", "status, follow, prepare"),
    (b'{"v":1,"do":"reboot"}\n', "do", "reboot"),
    (b'{"v":1,"do":["stop"]}\n', "do", "array"),
    (b'{"v":1,"do":"stop","force":true}\n', "force", "no field 'force'"),
    (b'{"v":1,"do":"stop","target":"min"}\n', "target", "no field"),
    (b'{"v":1,"do":"stop","who":"a\\nb"}\n', "who", "printable"),
    (b'{"v":1,"do":"stop","who":"\\ud800"}\n', "who", "printable"),
    (b'{"v":1,"do":"stop","who":""}\n', "who", "printable"),
    (b'{"v":1,"do":"stop","who":7}\n', "who", "printable"),
    (b'{"v":1,"do":"prepare","target":"all"}\n', "target", "image_size, min"),
    (b'{"v":1,"do":"prepare","target":0}\n', "target", "more than 0"),
    (b'{"v":1,"do":"prepare","target":1e9}\n', "target", "number of bytes"),
    (b'{"v":1,"do":"prepare","target":true}\n', "target", "number of bytes"),
    (b'{"v":1,"do":"prepare","target":9223372036854775808}\n', "target", "any machine"),
    (b'{"v":1,"do":"prepare","target":null}\n', "target", "null"),
    (b'{"v":1,"do":"prepare","target":"min","within":3}\n', "within", "exclude each other"),
    (b'{"v":1,"do":"prepare","within":0}\n', "within", "more than 0"),
    (b'{"v":1,"do":"prepare","within":"3"}\n', "within", "number of seconds"),
    (b'{"v":1,"do":"prepare","timeout":-1}\n', "timeout", "more than 0"),
    (b'{"v":1,"do":"prepare","timeout":1e999}\n', "timeout", "up to 86400"),
    (b'{"v":1,"do":"prepare","timeout":1' + b"0" * 400 + b"}\n", "timeout", "up to 86400"),
    (b'{"v":1,"do":"prepare","timeout":true}\n', "timeout", "number of seconds"),
    (b'{"v":1,"do":"prepare","wait":1}\n', "wait", "true or false"),
    (b'{"v":1,"do":"presleep"}\n', "seconds", "missing"),
    (b'{"v":1,"do":"presleep","seconds":91}\n', "seconds", "up to 90"),
    (b'{"v":1,"do":"presleep","seconds":9,"leg":"left"}\n', "leg", "hibernate, suspend"),
    (b'{"v":1,"do":"presleep","seconds":9,"leg":[]}\n', "leg", "an array"),
    (b'{"v":1,"do":"guest","name":"a"}\n', "operation", "migrate, restore"),
    (b'{"v":1,"do":"guest","operation":"start","name":"a"}\n', "operation", "start"),
    (b'{"v":1,"do":"guest","operation":"started"}\n', "name", "missing"),
    (b'{"v":1,"do":"guest","operation":"started","name":"a\\n"}\n', "name", "printable"),
    (b'{"v":1,"do":"guest","operation":"started","name":"a","uuid":"a"}\n', "uuid", "a UUID"),
    (b'{"v":1,"do":"guest","operation":"started","name":"a","prepared":1}\n', "prepared", "true"),
    (b'{"v":1,"do":"guest","operation":"migrate","name":"a","source":"-x"}\n', "source", "host"),
    (b'{"v":1,"do":"status","name":"a"}\n', "name", "no field"),
    (b'{"v":1,"do":"simulate"}\n', "kind", "missing; give one of hibernate, stop"),
    (b'{"v":1,"do":"simulate","kind":"moon"}\n', "kind", "moon"),
    (b'{"v":1,"do":"simulate","kind":["stop"]}\n', "kind", "an array"),
    (b'{"v":1,"do":"simulate","kind":"stop","seconds":0}\n', "seconds", "more than 0"),
    (b'{"v":1,"do":"notices","kind":"stop"}\n', "kind", "no field"),
]


def test_what_is_wrong_is_said_and_changes_nothing(tmp_path: Path) -> None:
    async def test() -> None:
        async with served(tmp_path) as it, it.peer() as peer:
            for line, place, words in BAD:
                peer.send(line)
                answer = await peer.answer()
                assert set(answer) == {"v", "error", "place"}, line
                assert answer["place"] == place, line
                assert words in answer["error"], line
                assert "\n" not in answer["error"]
                assert len(answer["error"]) < 250
            assert it.requests == []
            assert it.host.sleeps == []
            # and the connection is as good as before
            assert (await peer.ask(do="stop"))["ok"] is True

    run(test)


def test_notices_are_shown_and_made_up(tmp_path: Path) -> None:
    async def test() -> None:
        async with served(tmp_path) as it, it.peer() as peer:
            assert (await peer.ask(do="notices"))["notices"] == NOTICES
            answer = await peer.ask(do="simulate", kind="stop", seconds=120, who="a test")
            assert answer == {"v": 1, "ok": True, "id": "1a2b3c4d"}
            assert (await peer.ask(do="simulate", kind="rebalance"))["ok"] is True
            assert it.host.simulated == [
                (NoticeKind.STOP, 120.0, f"a test (pid {PID})"),
                (NoticeKind.REBALANCE, None, f"control socket (pid {PID})"),
            ]
            it.host.off = HibprepError("notices are switched off", "set notices.provider")
            for do in ({"do": "notices"}, {"do": "simulate", "kind": "stop"}):
                answer = await peer.ask(**do)
                assert answer["error"] == "notices are switched off: set notices.provider"
            assert it.requests == []

    run(test)


def test_a_line_without_end(tmp_path: Path) -> None:
    async def test() -> None:
        async with served(tmp_path) as it:
            async with it.peer() as peer:
                peer.send(b'{"v":1,"do":"stop"}')
                peer.writer.write_eof()
                assert "has no end" in (await peer.answer())["error"]
                assert await peer.closed() == b""
            async with it.peer() as peer:
                peer.send(b" " * (module.LONGEST_LINE_BYTES + 1))
                assert "longer than 65536 bytes" in (await peer.answer())["error"]
                await peer.closed()
            assert it.requests == []

    run(test)


def test_the_longest_line(tmp_path: Path) -> None:
    async def test() -> None:
        async with served(tmp_path) as it, it.peer() as peer:
            peer.send(b'{"v":1,"do":"stop"}'.ljust(module.LONGEST_LINE_BYTES - 1) + b"\n")
            assert (await peer.answer())["ok"] is True
            assert len(it.requests) == 1

    run(test)


def test_several_in_one_write_are_answered_in_order(tmp_path: Path) -> None:
    async def test() -> None:
        async with served(tmp_path) as it, it.peer() as peer:
            peer.send(b'{"v":1,"do":"stop"}\n{"v":1,"do":"no"}\n{"v":1,"do":"swapin"}\n')
            peer.writer.write_eof()
            lines = [json.loads(line) for line in (await peer.closed()).splitlines()]
            assert [set(line) & {"ok", "error"} for line in lines] == [{"ok"}, {"error"}, {"ok"}]
            assert [request.wish for request in it.requests] == [Wish.STOP, Wish.SWAP_IN]

    run(test)


def test_an_idle_connection_is_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "IDLE_SECONDS", 0.05)

    async def test() -> None:
        async with served(tmp_path) as it, it.peer() as peer:
            assert "no request within" in (await peer.answer())["error"]
            assert await peer.closed() == b""

    run(test)


def test_too_many_connections(tmp_path: Path) -> None:
    async def test() -> None:
        async with served(tmp_path) as it:
            async with contextlib.AsyncExitStack() as stack:
                for _ in range(module.MOST_CONNECTIONS):
                    peer = await stack.enter_async_context(it.peer())
                    assert (await peer.ask(do="status"))["ok"] is True
                one_more = await stack.enter_async_context(it.peer())
                assert "too many" in (await one_more.answer())["error"]
                assert await one_more.closed() == b""
            while True:  # they are gone as soon as the loop has seen it
                async with it.peer() as peer:
                    if "ok" in await peer.ask(do="stop"):
                        break

    run(test)


# --- guests ---------------------------------------------------------------------------------------

UUID = "6f0c2a8e-6d0c-4c6a-9f1e-0b5a4f1d2c3b"


def test_a_hook_tells_of_a_guest(tmp_path: Path) -> None:
    async def test() -> None:
        async with served(tmp_path) as it, it.peer() as peer:
            answer = await peer.ask(
                do="guest", operation="release", name="web 1", uuid=UUID, reason="migrated",
                prepared=True,
            )  # fmt: skip
            assert answer == {"v": 1, "ok": True}
            assert it.signals[1:] == [
                GuestEvent(
                    operation=GuestOperation.RELEASE,
                    name="web 1",
                    uuid=UUID,
                    reason="migrated",
                    prepared=True,
                )
            ]
            assert it.host.asked == []

    run(test)


def test_a_migration_may_wait_for_its_source(tmp_path: Path) -> None:
    async def test() -> None:
        async with served(tmp_path) as it, it.peer() as peer:
            it.host.patience_seconds, it.host.refuses = 7.0, "no"
            it.host.asking = asyncio.Event()
            told = {"do": "guest", "operation": "migrate", "name": "web-1", "source": "host-a"}
            answer = await peer.ask(**told)
            assert answer == {"v": 1, "ok": True, "wait_seconds": 7.0}
            it.host.asking.set()
            assert await peer.answer() == {"v": 1, "ok": True, "refused": "no"}
            event = GuestEvent(operation=GuestOperation.MIGRATE, name="web-1", source="host-a")
            assert it.host.asked == it.signals[1:] == [event]
            assert (await peer.ask(do="stop"))["ok"] is True

    run(test)


# --- the sleep ------------------------------------------------------------------------------------


def test_before_and_after_the_sleep(tmp_path: Path) -> None:
    async def test() -> None:
        async with served(tmp_path) as it, it.peer() as peer:
            answer = await peer.ask(do="presleep", seconds=10)
            assert answer == {"v": 1, "ok": True, "stopped": True, "said": []}
            it.host.stops = False
            assert (await peer.ask(do="presleep", seconds=0.5))["stopped"] is False
            answer = await peer.ask(do="presleep", seconds=9, leg="hibernate")
            assert answer["said"] == ["image_size: held"]
            assert it.host.sleeps == [("", 10.0), ("", 0.5), ("hibernate", 9.0)]
            answer = await peer.ask(do="postsleep")
            assert answer == {"v": 1, "ok": True, "said": ["image_size put back"]}
            assert it.host.wakings == [30.0]

    run(test)


def test_a_host_that_fails_or_does_not_answer(tmp_path: Path) -> None:
    async def test() -> None:
        async with served(tmp_path) as it, it.peer() as peer:
            it.host.stops = HibprepError("the worker hangs", "wait")
            assert (await peer.ask(do="presleep", seconds=1))["error"] == "the worker hangs: wait"
            it.host.stops = None
            assert (await peer.ask(do="presleep", seconds=0.01))["stopped"] is False

    run(test)


def test_a_defect_ends_one_connection_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def test() -> None:
        async with served(tmp_path) as it, it.peer() as other:
            it.host.stops = RuntimeError("a defect")
            async with it.peer() as peer:
                peer.send({"v": 1, "do": "presleep", "seconds": 1})
                assert await peer.closed() == b""
            assert (await other.ask(do="stop"))["ok"] is True
        assert "a connection failed" in caplog.text

    run(test)
