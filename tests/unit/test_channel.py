# SPDX-License-Identifier: LGPL-2.1-or-later
"""The port between a guest and its host, seen from the guest: a pseudo-terminal for the port."""

from __future__ import annotations

import asyncio
import contextlib
import errno
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hibprep import __version__
from hibprep.errors import KernelFileError, NotPossibleError
from hibprep.events import Request, RunEnded, Signal, SourceChanged, Wish
from hibprep.kernel import compaction, virtioport
from hibprep.kernel.root import KernelRoot
from hibprep.model import Ending, Stage, Target, TargetKind
from hibprep.signals import channel as module
from hibprep.signals.channel import Channel
from hibprep.signals.channel_lines import ABLE, LONGEST_LINE_BYTES
from hibprep.signals.power import Uevents
from tests.descriptors import descriptors
from tests.fakes.host import STATUS, FakeHost
from tests.fakes.uevents import FakeUevents
from tests.fakes.virtioport import FakePort, HostEnd, plug_in, pull_out
from tests.listening import listening, only, until_told
from tests.waiting import GENEROUS_SECONDS

COMPACT = "proc/sys/vm/compact_memory"
ENDED = RunEnded(ending=Ending.DONE, reason="done", goal_reached=True, freed_bytes=7)


class Guest:
    """A guest, with or without a port."""

    def __init__(self, top: Path) -> None:
        self.top = top
        self.root = KernelRoot(top)
        self.port = FakePort()
        self.uevents = FakeUevents()
        self.daemon = FakeHost()
        self.told: list[Signal] = []

    def source(self) -> Channel:
        return Channel(self.root, self.daemon, open_uevents=self.uevents, open_port=self.port)

    def can_compact(self) -> Path:
        file = self.top / COMPACT
        file.parent.mkdir(parents=True)
        file.write_text("0\n")
        return file

    @property
    def requests(self) -> list[Request]:
        return only(Request, self.told)

    @property
    def how(self) -> list[str]:
        return [each.reason for each in only(SourceChanged, self.told)]


@contextlib.asynccontextmanager
async def running(guest: Guest) -> AsyncIterator[None]:
    """Also holds that nothing is left behind."""
    before = descriptors()
    async with listening(guest.source()) as told:
        guest.told = told
        yield
    assert not guest.port.is_open
    # what the kernel is gathering, it gathers to its end
    await until_told(lambda: len(asyncio.all_tasks()) == 1, "nothing runs any more")
    guest.uevents.close()
    # the port and the two ends of the uevents are the test's
    assert len(before - descriptors()) == 2
    assert not descriptors() - before


@contextlib.contextmanager
def a_guest(top: Path) -> Iterator[Guest]:
    guest = Guest(top)
    try:
        yield guest
    finally:
        guest.port.destroy()
        guest.uevents.close()


def run(test: Callable[[], Awaitable[None]]) -> None:
    async def limited() -> None:
        async with asyncio.timeout(2 * GENEROUS_SECONDS):
            await test()

    asyncio.run(limited())


@contextlib.contextmanager
def host_of(guest: Guest) -> Iterator[HostEnd]:
    end = HostEnd(guest.port)
    try:
        yield end
    finally:
        end.close()


async def a_while() -> None:
    """As many rounds of the loop as anything that is under way needs."""
    for _ in range(50):
        await asyncio.sleep(0)


# --- what is answered -----------------------------------------------------------------------------


def test_hello_and_status(tmp_path: Path) -> None:
    plug_in(tmp_path)

    async def test() -> None:
        with a_guest(tmp_path) as guest:
            async with running(guest):
                with host_of(guest) as host:
                    assert guest.how == ["serves /dev/vport1p1"]
                    able = [each for each in ABLE if each != "compact"]
                    assert await host.ask(id=5, do="hello") == {
                        "id": 5, "ok": True, "hibprep": __version__, "able": able,
                    }  # fmt: skip
                    guest.can_compact()
                    assert (await host.ask(id=6, do="hello"))["able"] == list(ABLE)
                    answer = await host.ask(id=7, do="status")
                    assert answer == {"id": 7, "ok": True, "status": STATUS.to_plain()}

    run(test)


def test_a_preparation(tmp_path: Path) -> None:
    plug_in(tmp_path)

    async def test() -> None:
        with a_guest(tmp_path) as guest:
            file = guest.can_compact()
            async with running(guest):
                with host_of(guest) as host:
                    answer = await host.ask(
                        id=9, do="prepare", target="min", timeout_seconds=20, compact=True
                    )
                    assert answer == {"id": 9, "ok": True, "started": True}
                    assert guest.requests == [
                        Request(
                            wish=Wish.PREPARE,
                            who="the host",
                            target=Target(TargetKind.MIN),
                            timeout_seconds=20.0,
                            # not what is in use
                            stages=(Stage.SYNC, Stage.CACHE, Stage.SLAB, Stage.COLD_ANON),
                        )
                    ]
                    assert file.read_text() == "0\n"
                    assert (await host.ask(id=10, do="stop")) == {"id": 10, "ok": True}
                    assert guest.requests[1].wish is Wish.STOP
                    guest.daemon.end(ENDED)
                    answer = await host.answer()
                    assert (answer["id"], answer["done"]) == (9, True)
                    report = answer["report"]
                    assert (report["ending"], report["freed_bytes"]) == ("done", 7)
                    assert report["compacted"] is True
                    assert file.read_text().strip() == "1"

    run(test)


def test_without_being_asked_nothing_is_gathered(tmp_path: Path) -> None:
    plug_in(tmp_path)

    async def test() -> None:
        with a_guest(tmp_path) as guest:
            file = guest.can_compact()
            async with running(guest):
                with host_of(guest) as host:
                    assert (await host.ask(id=1, do="prepare"))["started"] is True
                    guest.daemon.end(ENDED)
                    assert "compacted" not in (await host.answer())["report"]
                    assert file.read_text() == "0\n"
                    assert (await host.ask(id=2, do="compact"))["started"] is True
                    answer = await host.answer()
                    assert answer == {"id": 2, "done": True, "report": {"compacted": True}}
                    assert file.read_text().strip() == "1"

    run(test)


def test_a_kernel_that_cannot_gather_says_so(tmp_path: Path) -> None:
    plug_in(tmp_path)

    async def test() -> None:
        with a_guest(tmp_path) as guest:
            async with running(guest):
                with host_of(guest) as host:
                    assert (await host.ask(id=2, do="compact"))["started"] is True
                    report = (await host.answer())["report"]
                    assert report["compacted"] is False
                    assert "compact_memory: No such file" in report["not_compacted"]

    run(test)


def test_gathering_that_takes_long_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plug_in(tmp_path)
    monkeypatch.setattr(module, "COMPACT_SECONDS", 0.02)

    async def test() -> None:
        loop = asyncio.get_running_loop()
        let_go = asyncio.Event()

        def slow(_: KernelRoot) -> None:
            asyncio.run_coroutine_threadsafe(let_go.wait(), loop).result(GENEROUS_SECONDS)

        monkeypatch.setattr(compaction, "compact", slow)
        with a_guest(tmp_path) as guest:
            async with running(guest):
                with host_of(guest) as host:
                    assert (await host.ask(id=2, do="compact"))["started"] is True
                    report = (await host.answer())["report"]
                    assert report["compacted"] is False
                    assert report["not_compacted"] == "it goes on after 0.02 s"
                    let_go.set()
                    await until_told(lambda: len(asyncio.all_tasks()) == 2, "it has ended")

    run(test)


def test_a_run_that_does_not_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plug_in(tmp_path)
    monkeypatch.setattr(module, "LONGEST_RUN_SECONDS", 0.02)

    async def test() -> None:
        with a_guest(tmp_path) as guest:
            async with running(guest):
                with host_of(guest) as host:
                    assert (await host.ask(id=2, do="prepare"))["started"] is True
                    report = (await host.answer())["report"]
                    assert report["ending"] == "failed"
                    assert "did not end within" in report["reason"]

    run(test)


def test_what_is_wrong_is_said_and_changes_nothing(tmp_path: Path) -> None:
    plug_in(tmp_path)

    async def test() -> None:
        with a_guest(tmp_path) as guest:
            async with running(guest):
                with host_of(guest) as host:
                    await host.send(b"what?\n\n  \n")
                    answer = await host.answer()
                    assert (answer["id"], answer["ok"], answer["place"]) == (None, False, "")
                    answer = await host.ask(id=3, do="prepare", target="all")
                    assert (answer["id"], answer["ok"], answer["place"]) == (3, False, "target")
                    await host.send(b"x" * (LONGEST_LINE_BYTES + 10) + b"\n")
                    assert (await host.answer())["error"] == "the line is too long"
                    assert guest.requests == []
                    assert (await host.ask(id=4, do="hello"))["ok"] is True

    run(test)


def test_a_new_preparation_takes_the_place_of_one_that_runs(tmp_path: Path) -> None:
    plug_in(tmp_path)

    async def test() -> None:
        with a_guest(tmp_path) as guest:
            async with running(guest):
                with host_of(guest) as host:
                    assert (await host.ask(id=1, do="prepare"))["id"] == 1
                    assert (await host.ask(id=2, do="prepare"))["id"] == 2
                    guest.daemon.end(ENDED)
                    assert (await host.answer())["id"] == 2
                    assert (await host.ask(id=3, do="hello"))["id"] == 3
                    assert len(guest.requests) == 2

    run(test)


# --- the port -------------------------------------------------------------------------------------


def test_a_port_that_nobody_has_open_costs_nothing(tmp_path: Path) -> None:
    """It is readable and hung up for ever: whoever waits for that state never rests."""
    plug_in(tmp_path)

    async def test() -> None:
        with a_guest(tmp_path) as guest:
            async with running(guest):
                await a_while()
                reads = guest.port.reads
                await a_while()
                assert guest.port.reads == reads
                with host_of(guest) as host:
                    assert (await host.ask(id=1, do="hello"))["ok"] is True
                await until_told(lambda: guest.port.read() == b"", "the host is gone")
                await a_while()
                reads = guest.port.reads
                await a_while()
                assert guest.port.reads == reads

    run(test)


def test_a_host_that_is_killed_in_the_middle(tmp_path: Path) -> None:
    """In the middle of a line, and of a preparation: the next one begins anew."""
    plug_in(tmp_path)

    async def test() -> None:
        with a_guest(tmp_path) as guest:
            async with running(guest):
                with host_of(guest) as host:
                    assert (await host.ask(id=1, do="prepare"))["started"] is True
                    await host.send(b'{"v":1,"id":2,"do":"st')
                    await a_while()
                await until_told(lambda: len(asyncio.all_tasks()) == 2, "nobody waits any more")
                with host_of(guest) as host:
                    guest.daemon.end(ENDED)
                    answer = await host.ask(id=3, do="hello")
                    assert (answer["id"], answer["ok"]) == (3, True)
                assert [each.wish for each in guest.requests] == [Wish.PREPARE]

    run(test)


def test_a_host_that_asks_and_does_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plug_in(tmp_path)
    monkeypatch.setattr(module, "_MOST_UNSENT_BYTES", 20_000)

    async def test() -> None:
        with a_guest(tmp_path) as guest:
            source = guest.source()
            async with listening(source):
                with host_of(guest) as host:
                    ask = b'{"v":1,"id":1,"do":"status"}\n'
                    in_vain = sent = 0
                    while in_vain < 50:
                        # from where the last one was cut off
                        written = host.write((ask * 20)[sent % len(ask) :])
                        sent += written
                        in_vain = 0 if written else in_vain + 1
                        await asyncio.sleep(0)
                    # one read of what was asked for may be answered beyond the limit
                    largest = 20_000 + (4096 // len(ask) + 1) * 4096
                    assert len(source._unsent) < largest
                    # and when it is read, all is answered
                    for _ in range(sent // len(ask)):
                        assert (await host.answer())["id"] == 1
                    if sent % len(ask):
                        await host.send(ask[sent % len(ask) :])
                        assert (await host.answer())["id"] == 1
                    assert source._unsent == b""

    run(test)


def test_a_port_that_comes_later_goes_and_comes_again(tmp_path: Path) -> None:
    async def test() -> None:
        with a_guest(tmp_path) as guest:
            async with running(guest):
                assert guest.how == ["waits for a virtio port org.hibprep.0"]
                plug_in(tmp_path, "vport0p1", "org.qemu.guest_agent.0")
                guest.uevents.send("add virtio-ports vport0p1")
                await until_told(lambda: len(guest.how) == 2, "it has looked")
                assert not guest.port.is_open
                for count in (1, 2):
                    plug_in(tmp_path)
                    guest.port.gone = False
                    guest.uevents.send(str(errno.ENOBUFS), "add virtio-ports vport1p1")
                    await until_told(lambda: guest.port.is_open, "it is open")
                    assert guest.how[-1] == "serves /dev/vport1p1"
                    with host_of(guest) as host:
                        assert (await host.ask(id=count, do="hello"))["id"] == count
                        assert (await host.ask(id=7, do="prepare"))["started"] is True
                        pull_out(tmp_path)
                        guest.port.gone = True
                        await host.send(b"\n")
                        await until_told(lambda: not guest.port.is_open, "it is closed")
                    assert guest.how[-1].startswith("waits")
                    guest.uevents.send("remove virtio-ports vport1p1")
                assert guest.port.opened == ["/dev/vport1p1"] * 2

    run(test)


def test_events_of_other_ports_do_not_open_it_twice(tmp_path: Path) -> None:
    plug_in(tmp_path)

    async def test() -> None:
        with a_guest(tmp_path) as guest:
            async with running(guest):
                guest.uevents.send("add virtio-ports vport0p9")
                await a_while()
                assert guest.port.opened == ["/dev/vport1p1"]

    run(test)


def no_uevents(_: str) -> Uevents:
    raise OSError(errno.EAFNOSUPPORT, "Address family not supported by protocol")


def test_without_a_port_and_without_events_it_says_so(tmp_path: Path) -> None:
    async def test() -> None:
        with a_guest(tmp_path) as guest:
            source = Channel(
                guest.root, guest.daemon, open_uevents=no_uevents, open_port=guest.port
            )
            with pytest.raises(NotPossibleError, match=r"no virtio port org\.hibprep\.0"):
                await source.run(lambda _: None)
            plug_in(tmp_path)
            async with listening(source):
                with host_of(guest) as host:
                    assert (await host.ask(id=1, do="hello"))["ok"] is True

    run(test)


def test_an_error_of_the_events_ends_the_run(tmp_path: Path) -> None:
    plug_in(tmp_path)

    async def test() -> None:
        with a_guest(tmp_path) as guest:
            task = asyncio.create_task(guest.source().run(guest.told.append))
            await until_told(lambda: guest.told, "it works")
            guest.uevents.send(str(errno.EIO))
            with pytest.raises(OSError, match="Input/output"):
                await task
            assert not guest.port.is_open

    run(test)


def test_a_node_that_cannot_be_opened(tmp_path: Path) -> None:
    plug_in(tmp_path)
    (tmp_path / "dev/vport1p1").unlink()

    async def test() -> None:
        source = Channel(KernelRoot(tmp_path), FakeHost(), open_uevents=no_uevents)
        with pytest.raises(KernelFileError, match="/dev/vport1p1"):
            await source.run(lambda _: None)

    run(test)


def test_the_port_itself(tmp_path: Path) -> None:
    """On the other end of a pseudo-terminal: nothing there, data, no more room."""
    assert virtioport.find_port(KernelRoot(tmp_path), "org.hibprep.0") is None
    plug_in(tmp_path, "vport0p1", "other")
    assert virtioport.find_port(KernelRoot(tmp_path), "org.hibprep.0") is None
    plug_in(tmp_path)
    assert virtioport.find_port(KernelRoot(tmp_path), "org.hibprep.0") == "/dev/vport1p1"
    fake = FakePort()
    (tmp_path / "dev/vport1p1").unlink()
    (tmp_path / "dev/vport1p1").symlink_to(fake.path)
    port = virtioport.Port(KernelRoot(tmp_path), "/dev/vport1p1")
    try:
        assert port.read() is None
        assert fake.write(b"down\n") == 5
        assert port.read() == b"down\n"
        assert port.write(b"up") == 2
        assert fake.read() == b"up"
        while port.write(b"x" * 4096):
            assert not fake.gone  # until nothing more is taken
    finally:
        port.close()
        fake.destroy()


# --- anything at all ------------------------------------------------------------------------------

said = st.one_of(
    st.binary(max_size=80),
    st.sampled_from(
        [
            b'{"v":1,"id":1,"do":"hello"}',
            b'{"v":1,"id":2,"do":"prepare","compact":true}',
            b'{"v":1,"id":3,"do":"compact"}',
            b'{"v":1,"id":4,"do":"stop"}',
            b'{"v":1,"id":5,"do":"prepare"',
        ]
    ),
)


@settings(deadline=None, max_examples=40)
@given(st.lists(said, max_size=6), st.binary(max_size=8))
def test_any_bytes(
    tmp_path_factory: pytest.TempPathFactory, parts: list[bytes], rest: bytes
) -> None:
    top = tmp_path_factory.mktemp("guest")
    plug_in(top)

    async def test() -> None:
        with a_guest(top) as guest:
            async with running(guest):
                with host_of(guest) as host:
                    await host.send(b"".join(part + b"\n" for part in parts) + rest)
                    await host.send(b'\n{"v":1,"id":123456789,"do":"hello"}\n')
                    while (await host.answer())["id"] != 123456789:
                        assert guest.port.is_open

    run(test)
