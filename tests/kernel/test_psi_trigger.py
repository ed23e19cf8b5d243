# SPDX-License-Identifier: LGPL-2.1-or-later
"""The signals that the kernel gives by itself, on the kernel that these tests run on: PSI triggers,
/proc/swaps, uevents."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from bench.load import renew_swap
from hibprep.clock import SystemClock
from hibprep.errors import KernelFileError, KernelFileMissing
from hibprep.events import DevicesChanged, Pressure, SourceChanged
from hibprep.kernel.cgroup import CgroupTree
from hibprep.kernel.mounts import read_mounts
from hibprep.kernel.psi import open_trigger
from hibprep.kernel.root import KernelRoot
from hibprep.signals.power import Power, UdevMonitor, Uevent, open_udev
from hibprep.signals.pressure import PressureSource
from hibprep.signals.priority import PriorityWatch
from tests.listening import listening, only, until_told
from tests.waiting import until

pytestmark = pytest.mark.kernel
ROOT = KernelRoot()
BLOCK = Path("/sys/class/block")


@pytest.fixture
def psi(root: None) -> None:
    try:
        os.close(open_trigger(ROOT, "io", stall_seconds=1.0, window_seconds=2.0))
    except KernelFileMissing as error:
        pytest.skip(str(error))


@pytest.fixture
def cgroup(psi: None) -> Iterator[CgroupTree]:
    """A tree with a machine.slice in it and nothing else, wherever cgroup2 is mounted; it needs no
    controller, and never is that of the machine."""
    points = [mount.point for mount in read_mounts(ROOT) if mount.kind == "cgroup2"]
    if not points:
        pytest.skip("cgroup v2 is not mounted")
    top = Path(points[0]) / f"hibprep-tests-{os.getpid()}"
    try:
        top.mkdir()
    except OSError as error:
        pytest.skip(f"{top}: {error.strerror}")
    try:
        (top / "machine.slice").mkdir()
        yield CgroupTree(ROOT, str(top))
    finally:
        for each in (top / "machine.slice", top):
            with contextlib.suppress(FileNotFoundError):
                each.rmdir()


@pytest.fixture
def block(root: None) -> Path:
    """A block device that nothing uses, whose uevents can be had on request."""
    for name in sorted(os.listdir(BLOCK)):  # noqa: PTH208 - names are what is wanted
        size = BLOCK / name / "size"
        if name.startswith("loop") and size.read_text().strip() == "0":
            return BLOCK / name
    pytest.skip("no unused loop device")


@contextlib.asynccontextmanager
async def stalls_on_io(folder: Path) -> AsyncIterator[None]:
    """Small writes, each waited for."""
    enough = threading.Event()

    def work() -> None:
        with (folder / "file").open("wb", buffering=0) as file:
            while not enough.is_set():
                file.write(b"x" * 4096)
                os.fsync(file.fileno())
                if file.tell() > 1 << 22:
                    file.seek(0)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        enough.set()
        await asyncio.to_thread(thread.join)


def test_stalls_of_the_machine_are_told_by_the_kernel(psi: None, workspace: Path) -> None:
    async def scenario() -> None:
        source = PressureSource(ROOT, None, SystemClock(), share=0.001)
        async with listening(source) as told, stalls_on_io(workspace):
            assert isinstance(told[0], SourceChanged)
            assert told[0].works
            await until_told(
                lambda: [each for each in only(Pressure, told) if each.resource == "io"],
                "writes are waited for",
            )
            found = only(Pressure, told)[-1]
            assert found.scope == "machine"
            assert 0.001 <= found.share <= 1

    asyncio.run(scenario())


def test_a_trigger_ends_with_its_cgroup(cgroup: CgroupTree) -> None:
    async def scenario() -> None:
        source = PressureSource(ROOT, cgroup, SystemClock())
        async with listening(source) as told:
            assert "machine.slice" in str(told[0])
            ROOT.path(cgroup.directory("machine.slice")).rmdir()
            await until_told(lambda: len(told) > 1, "the cgroup is gone")
            await until_told(
                lambda: [each for each in only(SourceChanged, told) if not each.works],
                "both triggers have ended",
            )
            # the machine's own, from now on
            source.refresh()
            assert isinstance(told[-1], SourceChanged)
            assert told[-1].works
            assert not only(Pressure, told)

    asyncio.run(scenario())


def test_a_window_that_the_kernel_does_not_take_is_an_error(psi: None) -> None:
    with pytest.raises(KernelFileError) as raised:
        open_trigger(ROOT, "io", stall_seconds=20.0, window_seconds=20.0)
    assert raised.value.errno == errno.EINVAL


def test_swap_that_comes_and_goes_is_told(swap_file: Path) -> None:
    async def scenario() -> None:
        async with listening(Power(ROOT, SystemClock())) as told:

            def words() -> str:
                return " ".join(each.what for each in only(DevicesChanged, told))

            # off and on again
            await asyncio.to_thread(renew_swap, swap_file)
            await until_told(lambda: "swap area" in words(), "swap has changed")

    asyncio.run(scenario())


def test_nobody_is_woken_up_when_nothing_happens(root: None) -> None:
    """/proc/swaps is always readable: whoever waits for that spins."""
    calls: list[bool] = []

    async def scenario() -> None:
        descriptor = os.open("/proc/swaps", os.O_RDONLY | os.O_CLOEXEC)
        watch = PriorityWatch(descriptor, calls.append)
        # as long as it takes the loop to go round many times
        for _ in range(100):
            await asyncio.sleep(0)
        watch.close()
        os.close(descriptor)

    asyncio.run(scenario())
    assert not calls


def drained(monitor: UdevMonitor) -> list[Uevent | int]:
    """Uevents, and the numbers of errors among them."""
    found: list[Uevent | int] = []
    while True:
        try:
            uevent = monitor.receive()
        except OSError as error:
            found.append(error.errno or 0)
            continue
        if uevent is None:
            return found
        found.append(uevent)


def test_uevents_reach_the_monitor(block: Path) -> None:
    monitor = open_udev("kernel")
    assert isinstance(monitor, UdevMonitor)
    try:
        (block / "uevent").write_text("change")
        found = until(lambda: drained(monitor), "there is an uevent")
        assert Uevent("change", "block", block.name) in found
    finally:
        monitor.close()


def test_a_buffer_that_overran_is_told_once_and_survived(block: Path) -> None:
    monitor = open_udev("kernel")
    assert isinstance(monitor, UdevMonitor)
    try:
        with socket.socket(fileno=os.dup(monitor.fileno())) as same:
            same.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
        for _ in range(64):
            (block / "uevent").write_text("change")
        found = drained(monitor)
        assert errno.ENOBUFS in found
        assert drained(monitor) == []
        (block / "uevent").write_text("change")
        assert drained(monitor) == [Uevent("change", "block", block.name)]
    finally:
        monitor.close()


def test_a_power_source_on_this_machine(block: Path) -> None:
    async def scenario() -> None:
        async with listening(Power(ROOT, SystemClock())) as told:
            (block / "uevent").write_text("add")
            await until_told(
                lambda: [each for each in only(DevicesChanged, told) if block.name in each.what],
                "the device came",
            )

    asyncio.run(scenario())
