# SPDX-License-Identifier: LGPL-2.1-or-later
"""The pressure source on fake kernels: triggers that fire when the test says so, slices that come
and go, and the counters where there is no PSI."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import struct
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from hibprep.errors import KernelFileDenied, KernelFileError, KernelFileMissing
from hibprep.events import Pressure, Signal, SourceChanged
from hibprep.kernel.cgroup import CgroupTree
from hibprep.kernel.psi import StallCounters, open_trigger, parse_stall_counters
from hibprep.kernel.root import KernelRoot
from hibprep.signals.pressure import PressureSource, stalled_share
from hibprep.signals.priority import Happened, PriorityWatch, Watch
from tests.descriptors import descriptors
from tests.fakes.clock import HandClock
from tests.listening import listening, only, until_told

MOUNT = "/sys/fs/cgroup"
VMSTAT = "nr_free_pages 1000\npgscan_direct {scanned}\npgscan_direct_throttle 7\nallocstall_dma 1\n"
VMSTAT += "allocstall_normal {stalls}\nworkingset_refault_anon 3\nworkingset_refault_file {again}\n"


class FakeWatch:
    def __init__(self, kernel: FakeKernel, descriptor: int, happened: Happened) -> None:
        self._kernel = kernel
        self._descriptor = descriptor
        self.happened = happened
        assert descriptor not in kernel.watches
        kernel.watches[descriptor] = self

    def close(self) -> None:
        os.fstat(self._descriptor)  # the descriptor must outlive its watch
        del self._kernel.watches[self._descriptor]


class FakeKernel:
    """PSI files, and triggers on them that fire when stalls pass the threshold."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.root = KernelRoot(directory)
        self.clock = HandClock()
        self.watches: dict[int, FakeWatch] = {}
        self.triggers: dict[str, int] = {}
        self.totals: dict[str, int] = {}
        self.asked: tuple[float, float] = (0.0, 0.0)
        self.refusal: KernelFileError | None = None
        self.count(0, 0, 0)

    def source(self, *, tree: bool = True, share: float = 0.10) -> PressureSource:
        return PressureSource(
            self.root,
            CgroupTree(self.root, MOUNT) if tree else None,
            self.clock,
            share=share,
            open_trigger=self.open_trigger,
            watch=self.watch,
        )

    def open_trigger(
        self,
        root: KernelRoot,
        resource: str,
        directory: str = "",
        *,
        stall_seconds: float,
        window_seconds: float,
    ) -> int:
        path = f"{directory}/{resource}.pressure" if directory else f"/proc/pressure/{resource}"
        if self.refusal is not None:
            raise self.refusal
        if path not in self.totals:
            raise KernelFileMissing(path, "no pressure information", errno.ENOENT)
        self.asked = (stall_seconds, window_seconds)
        self.triggers[path] = os.open(root.path(path), os.O_RDONLY | os.O_CLOEXEC)
        return self.triggers[path]

    def watch(self, descriptor: int, happened: Happened) -> Watch:
        return FakeWatch(self, descriptor, happened)

    def add(self, *scopes: str) -> None:
        for scope in scopes:
            for resource in ("memory", "io"):
                path = f"{MOUNT}/{scope}/{resource}.pressure" if scope else ""
                self.stall(path or f"/proc/pressure/{resource}", 0.0)

    def remove(self, scope: str) -> None:
        for resource in ("memory", "io"):
            path = f"{MOUNT}/{scope}/{resource}.pressure"
            self.root.path(path).unlink()
            del self.totals[path]
        self.root.path(f"{MOUNT}/{scope}").rmdir()

    def stall(self, path: str, seconds: float) -> None:
        self.totals[path] = self.totals.get(path, 5_000_000) + round(seconds * 1_000_000)
        file = self.root.path(path)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(
            f"some avg10=0.00 avg60=0.00 avg300=0.00 total={self.totals[path]}\n"
            "full avg10=0.00 avg60=0.00 avg300=0.00 total=0\n"
        )

    def fire(self, path: str, *, gone: bool = False) -> None:
        self.watches[self.triggers[path]].happened(gone)

    def count(self, stalls: int, scanned: int, again: int) -> None:
        file = self.root.path("/proc/vmstat")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(VMSTAT.format(stalls=stalls, scanned=scanned, again=again))


@pytest.fixture
def kernel(tmp_path: Path) -> Iterator[FakeKernel]:
    before = descriptors()
    made = FakeKernel(tmp_path)
    yield made
    assert not made.watches
    assert descriptors() == before


def test_triggers_on_the_slices_that_exist(kernel: FakeKernel) -> None:
    async def scenario() -> None:
        kernel.add("", "user.slice", "system.slice")
        source = kernel.source()
        async with listening(source) as told:
            assert told == only(SourceChanged, told)
            assert only(SourceChanged, told)[0].works
            assert "user.slice, system.slice" in only(SourceChanged, told)[0].reason
            assert "machine" not in only(SourceChanged, told)[0].reason
            assert kernel.asked == (0.2, 2.0)
            assert len(kernel.watches) == 4

            kernel.clock.seconds += 2
            kernel.stall(f"{MOUNT}/user.slice/io.pressure", 1.0)
            kernel.fire(f"{MOUNT}/user.slice/io.pressure")
            assert only(Pressure, told) == [Pressure(resource="io", scope="user.slice", share=0.5)]

            # after long quiet the mean says little: the threshold is what is known
            kernel.clock.seconds += 3600
            kernel.stall(f"{MOUNT}/user.slice/io.pressure", 0.25)
            kernel.fire(f"{MOUNT}/user.slice/io.pressure")
            assert only(Pressure, told)[-1].share == pytest.approx(0.1)

            kernel.clock.seconds += 2
            kernel.stall(f"{MOUNT}/system.slice/memory.pressure", 99.0)
            kernel.fire(f"{MOUNT}/system.slice/memory.pressure")
            assert only(Pressure, told)[-1].scope == "system.slice"
            assert only(Pressure, told)[-1].share == pytest.approx(0.1)
            kernel.clock.seconds += 2
            kernel.stall(f"{MOUNT}/system.slice/memory.pressure", 99.0)
            kernel.fire(f"{MOUNT}/system.slice/memory.pressure")
            assert only(Pressure, told)[-1].share == 1.0
            source.refresh()
            assert len(told) == 5

    asyncio.run(scenario())


@pytest.mark.parametrize("tree", [True, False])
def test_the_whole_machine_where_there_are_no_slices(kernel: FakeKernel, *, tree: bool) -> None:
    async def scenario() -> None:
        kernel.add("", *(() if tree else ("user.slice",)))
        async with listening(kernel.source(tree=tree)) as told:
            assert "machine" in only(SourceChanged, told)[0].reason
            kernel.fire("/proc/pressure/memory")
            assert only(Pressure, told) == [Pressure(resource="memory", scope="machine", share=0.1)]

    asyncio.run(scenario())


def test_slices_come_and_go(kernel: FakeKernel) -> None:
    async def scenario() -> None:
        kernel.add("", "system.slice")
        source = kernel.source()
        async with listening(source) as told:
            kernel.add("machine.slice")
            source.refresh()
            assert len(kernel.watches) == 4
            assert "machine.slice" in only(SourceChanged, told)[-1].reason

            for resource in ("memory", "io"):
                kernel.fire(f"{MOUNT}/machine.slice/{resource}.pressure", gone=True)
            assert len(kernel.watches) == 2
            kernel.remove("machine.slice")
            source.refresh()
            assert only(SourceChanged, told)[-1] == only(SourceChanged, told)[0]
            assert not only(Pressure, told)

            # the last one: nothing is watched until the next look, which takes the machine
            for resource in ("memory", "io"):
                kernel.fire(f"{MOUNT}/system.slice/{resource}.pressure", gone=True)
            assert not only(SourceChanged, told)[-1].works
            kernel.remove("system.slice")
            source.refresh()
            assert only(SourceChanged, told)[-1].works
            assert len(kernel.watches) == 2
            kernel.add("system.slice")
            source.refresh()
            assert "system.slice" in only(SourceChanged, told)[-1].reason
            assert len(kernel.watches) == 2

    asyncio.run(scenario())


def test_no_psi_is_said_with_the_cure_and_counters_take_over(kernel: FakeKernel) -> None:
    async def scenario() -> None:
        kernel.add("")
        kernel.refusal = KernelFileMissing(
            "/proc/pressure/memory", "pressure information is switched off", 0, "boot with psi=1"
        )
        source = kernel.source()
        source.refresh()  # not running: nothing
        async with listening(source) as told:
            assert [each.works for each in only(SourceChanged, told)] == [False]
            assert "psi=1" in only(SourceChanged, told)[0].reason
            assert "/proc/vmstat" in only(SourceChanged, told)[0].reason
            kernel.clock.seconds += 10
            source.refresh()
            assert len(told) == 1
            kernel.clock.seconds += 10
            kernel.count(stalls=1, scanned=100, again=0)
            source.refresh()
            assert only(Pressure, told) == [Pressure(resource="memory", scope="machine", share=0.1)]
            # switched on after all
            kernel.refusal = None
            kernel.clock.seconds += 10
            kernel.count(stalls=100, scanned=10_000_000, again=0)
            source.refresh()
            assert only(SourceChanged, told)[-1].works
            assert len(only(Pressure, told)) == 1

    asyncio.run(scenario())


def test_an_error_that_is_no_absence_ends_the_run(kernel: FakeKernel) -> None:
    kernel.add("", "user.slice")
    kernel.refusal = KernelFileError("/x", "the kernel does not take this trigger", errno.EINVAL)
    with pytest.raises(KernelFileError, match="trigger"):
        asyncio.run(kernel.source().run(lambda _: None))


def test_a_failure_in_refresh_ends_the_run_and_nothing_is_left_open(kernel: FakeKernel) -> None:
    async def scenario() -> None:
        kernel.add("user.slice")
        source = kernel.source()
        told: list[Signal] = []
        task = asyncio.create_task(source.run(told.append))
        await until_told(lambda: told, "it works")
        kernel.add("system.slice")
        kernel.refusal = KernelFileError("/x", "odd", errno.EIO)
        source.refresh()
        with pytest.raises(KernelFileError, match="odd"):
            await task

    asyncio.run(scenario())


def test_the_counters() -> None:
    text = VMSTAT.format(stalls=2, scanned=30, again=400)
    assert parse_stall_counters(text) == StallCounters(3, 30, 403)
    assert parse_stall_counters("nr_free_pages 1\n") == StallCounters()


@pytest.mark.parametrize(
    ("counters", "seconds", "share"),
    [
        (StallCounters(), 10.0, None),
        (StallCounters(refaulted_pages=1000), 10.0, None),
        (StallCounters(refaulted_pages=20_000), 10.0, 0.2),
        (StallCounters(direct_reclaims=1), 10.0, 0.1),
        (StallCounters(1, 100_000, 20_000), 10.0, 0.4),
        (StallCounters(10**9, 10**9, 10**9), 10.0, 1.0),
        (StallCounters(1, 100_000, 0), 0.0, 0.1),
    ],
)
def test_what_is_guessed_from_the_counters(
    counters: StallCounters, seconds: float, share: float | None
) -> None:
    found = stalled_share(counters, seconds, threshold=0.1)
    assert found == (None if share is None else pytest.approx(share))


@pytest.mark.parametrize(
    ("number", "kind", "words"),
    [
        (errno.ENOENT, KernelFileMissing, "CONFIG_PSI"),
        (errno.EOPNOTSUPP, KernelFileMissing, "psi=1"),
        (errno.EINVAL, KernelFileError, "CAP_SYS_RESOURCE"),
        (errno.EPERM, KernelFileDenied, "root|CAP_SYS_RESOURCE"),
        (errno.EIO, KernelFileError, "pressure"),
    ],
)
def test_what_the_kernel_says_of_a_trigger(
    number: int,
    kind: type[KernelFileError],
    words: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "proc/pressure").mkdir(parents=True)
    (tmp_path / "proc/pressure/io").write_text("")

    def refuse(descriptor: int, data: bytes) -> int:
        assert data == b"some 200000 2000000\0"
        raise OSError(number, os.strerror(number))

    before = descriptors()
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", refuse)
        with pytest.raises(KernelFileError, match=words) as raised:
            open_trigger(KernelRoot(tmp_path), "io", stall_seconds=0.2, window_seconds=2.0)
    assert type(raised.value) is kind
    assert descriptors() == before


# --- POLLPRI itself, which TCP's urgent data has too ---------------------------------------------


def connected() -> tuple[socket.socket, socket.socket]:
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        one = socket.create_connection(server.getsockname())
        other, _ = server.accept()
    return one, other


def test_priority_is_told_by_the_loop_and_ordinary_data_is_not() -> None:
    async def scenario() -> None:
        sender, receiver = connected()
        with sender, receiver:
            said: list[bool] = []

            def happened(broken: bool) -> None:  # noqa: FBT001
                said.append(broken)
                receiver.recv(1, socket.MSG_OOB)

            watch = PriorityWatch(receiver.fileno(), happened)
            sender.send(b"ordinary")
            sender.send(b"!", socket.MSG_OOB)
            await until_told(lambda: said, "the urgent byte is told")
            sender.send(b"!", socket.MSG_OOB)
            await until_told(lambda: len(said) == 2, "the next one is told")
            assert said == [False, False]
            watch.close()
            watch.close()
            sender.send(b"!", socket.MSG_OOB)
            await asyncio.sleep(0)
            assert len(said) == 2

    asyncio.run(scenario())


def test_an_error_that_stays_is_told_as_such() -> None:
    async def scenario() -> None:
        sender, receiver = connected()
        with receiver:
            said: list[bool] = []
            watch = PriorityWatch(receiver.fileno(), said.append)
            # a reset instead of a close
            sender.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            sender.close()
            await until_told(lambda: said, "the error is told")
            watch.close()
            assert all(said)

    asyncio.run(scenario())


def test_an_ordinary_file_cannot_be_watched(tmp_path: Path) -> None:
    async def scenario() -> None:
        with (tmp_path / "file").open("w") as file, pytest.raises(PermissionError):
            PriorityWatch(file.fileno(), lambda _: None)

    asyncio.run(scenario())
