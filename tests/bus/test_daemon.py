# SPDX-License-Identifier: LGPL-2.1-or-later
"""The whole daemon: a logind of our own on a real bus, its own sockets and service, a rendered
machine. What a run does is the test's to say, in the thread in which it really happens."""

from __future__ import annotations

import asyncio
import gc
import os
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from hibprep import hookclient
from hibprep.bus.client import Client
from hibprep.bus.interface import INTERFACE, NAME, PATH
from hibprep.config import Config, load
from hibprep.daemon import Daemon
from hibprep.events import RunEnded
from hibprep.kernel.lock import LockedError
from hibprep.model import Ending
from hibprep.reclaim.base import Stop
from hibprep.runner import Result, Tell
from hibprep.signals.cpu import CpuSource
from hibprep.state import Decision
from hibprep.status import Status
from tests.bus.conftest import Bus
from tests.bus.fakelogin1 import Behaviour, FakeLogin1
from tests.fakes.machine import FakeMachine
from tests.fakes.state import FakeSwap
from tests.waiting import GENEROUS_SECONDS

QUICK = """
[idle]
after_seconds = 1
sync_after_seconds = 1
cache_after_seconds = 1.2
cold_anon_after_seconds = 1.4
anon_after_seconds = 1.6
cpu_idle_percent = 0
[daemon]
settle_seconds = 0
"""
MANAGER = (NAME, PATH, INTERFACE)


@dataclass
class Runs:
    """What was begun, and how it goes: at once, or when it is stopped."""

    decisions: list[Decision] = field(default_factory=list)
    wait: bool = False
    swapped_out_bytes: int = 0
    stopped: list[str] = field(default_factory=list)

    def __call__(
        self, _prefix: str, decision: Decision, _config: Config, stop: Stop, _tell: Tell
    ) -> Result:
        self.decisions.append(decision)
        if self.wait:
            assert stop.wait(GENEROUS_SECONDS)
            self.stopped.append(stop.reason)
            return Result(RunEnded(ending=Ending.INTERRUPTED, reason=stop.reason))
        return Result(
            RunEnded(
                ending=Ending.DONE,
                reason="its amount is reached",
                swapped_out_bytes=self.swapped_out_bytes,
            )
        )

    @property
    def stages(self) -> list[str]:
        return [str(stage) for decision in self.decisions for stage in decision.stages]


@dataclass
class Machine:
    """A root, and what lives on it."""

    root: Path
    bus: Bus
    logind: FakeLogin1
    runs: Runs = field(default_factory=Runs)

    def daemon(self) -> Daemon:
        return Daemon(
            str(self.root),
            self.load,
            bus_address=self.bus.address,
            environ={},
            work=self.runs,
        )

    def load(self) -> Config:
        return load(str(self.root))

    def ask(self, document: dict[str, object]) -> dict[str, object]:
        return hookclient.request(
            document, path=str(self.root / "run/hibprep/control"), seconds=GENEROUS_SECONDS
        )

    async def status(self) -> Status:
        answer = await asyncio.to_thread(self.ask, {"do": "status"})
        return Status.from_plain(answer["status"])

    def configure(self, text: str) -> None:
        path = self.root / "etc/hibprep/hibprep.toml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


@pytest.fixture
def machine(tmp_path: Path, bus: Bus) -> Iterator[Machine]:
    root = tmp_path / "root"
    root.mkdir()
    swap = FakeSwap("/dev/vda2", 16 << 30, device="254:2")
    FakeMachine(swaps=[swap], resume_device="254:2").render(root)
    (root / "proc/stat").write_text("cpu  1 0 1 100 0 0 0 0 0 0\ncpu0 1 0 1 100 0 0 0 0 0 0\n")
    with FakeLogin1(bus.address, Behaviour()) as logind:
        made = Machine(root, bus, logind)
        made.configure(QUICK)
        yield made


@asynccontextmanager
async def running(machine: Machine) -> AsyncIterator[Daemon]:
    """A daemon that has heard logind and listens."""
    daemon = machine.daemon()
    life = asyncio.create_task(daemon.run())
    try:
        await until((machine.root / "run/hibprep/control").exists, life)
        await until(lambda: works(daemon, "logind"), life)
        yield daemon
    finally:
        daemon.end()
        async with asyncio.timeout(GENEROUS_SECONDS):
            await life


async def until(condition: Callable[[], object], *lives: asyncio.Task[None]) -> None:
    async with asyncio.timeout(GENEROUS_SECONDS):
        while not condition():
            for life in lives:
                if life.done():
                    life.result()
                    raise AssertionError("the daemon has ended")
            await asyncio.sleep(0.01)


def works(daemon: Daemon, name: str) -> bool:
    return any(source.name == name and source.works for source in daemon.status().sources)


def run(scenario: Callable[[], Any]) -> None:
    asyncio.run(scenario())


def test_idle_stage_by_stage_to_ready(machine: Machine) -> None:
    async def scenario() -> None:
        machine.logind.add_session("2", IdleHint=True, IdleSinceHintMonotonic=1)
        async with running(machine) as daemon:
            await until(lambda: daemon.status().phase == "ready")
            assert machine.runs.stages == ["sync", "cache", "slab", "cold-anon", "anon"]
            status = await machine.status()
            assert status.phase == "ready"
            assert status.reason.startswith("idle ")
            assert "seat0 idle, no input since " in status.reason
            assert status.prediction["hibernate_seconds"] > 0
            assert status.next_step.startswith("another look in 5 min")
            assert {source.name for source in status.sources if source.works} >= {
                "control", "cpu", "logind",
            }  # fmt: skip

    run(scenario)


def test_whoever_comes_back_has_the_machine_at_once(machine: Machine) -> None:
    async def scenario() -> None:
        machine.runs.wait = True
        machine.logind.add_session("2", IdleHint=True, IdleSinceHintMonotonic=1)
        async with running(machine) as daemon:
            await until(lambda: daemon.status().phase == "reclaiming")
            await asyncio.to_thread(machine.logind.change_session, "2", IdleHint=False)
            await until(lambda: machine.runs.stopped)
            assert machine.runs.stopped == ["seat0 is used by ada"]
            await until(lambda: daemon.status().phase == "active")

    run(scenario)


def test_a_sleep_waits_for_the_end_of_the_run_and_for_nothing_else(machine: Machine) -> None:
    async def scenario() -> None:
        machine.runs.wait = True
        machine.logind.add_session("2", IdleHint=True, IdleSinceHintMonotonic=1)
        async with running(machine) as daemon:
            await until(lambda: daemon.status().phase == "reclaiming")
            await until(lambda: len(machine.logind.locks) == 1)
            await asyncio.to_thread(machine.logind.prepare, "Sleep", coming=True)
            await until(lambda: not machine.logind.locks)
            assert machine.runs.stopped == ["the machine goes to sleep"]
            assert daemon.status().phase == "sleeping"
            await asyncio.to_thread(machine.logind.prepare, "Sleep", coming=False)
            await until(lambda: len(machine.logind.locks) == 1)  # for the next one
            await until(lambda: len(machine.runs.decisions) == 2)

    run(scenario)


def test_it_ends_at_once_with_what_runs(machine: Machine) -> None:
    async def scenario() -> None:
        machine.runs.wait = True
        machine.logind.add_session("2", IdleHint=True, IdleSinceHintMonotonic=1)
        async with running(machine) as daemon:
            await until(lambda: daemon.status().phase == "reclaiming")
        assert machine.runs.stopped == ["the daemon ends"]
        assert len(machine.runs.decisions) == 1  # and nothing new was begun
        assert not daemon._runner.busy

    run(scenario)


def test_requests_over_the_control_socket(machine: Machine) -> None:
    async def scenario() -> None:
        machine.logind.add_session("2", IdleSinceHintMonotonic=7)
        async with running(machine) as daemon:
            ask = {"do": "prepare", "target": "min", "timeout": 60, "wait": True}
            answer = await asyncio.to_thread(machine.ask, ask)
            assert answer["ok"] is True
            assert isinstance(answer["ended"], dict)
            assert answer["ended"]["ending"] == "done"
            assert machine.runs.decisions[0].timeout_seconds == 60

            machine.runs.wait = True
            await asyncio.to_thread(machine.ask, {"do": "prepare"})
            await until(lambda: len(machine.runs.decisions) == 2)
            await asyncio.to_thread(machine.ask, {"do": "stop", "who": "a test"})
            await until(lambda: machine.runs.stopped)
            assert machine.runs.stopped[0].startswith("stopped by a test (pid ")

            await asyncio.to_thread(machine.ask, {"do": "prepare"})
            await until(lambda: len(machine.runs.decisions) == 3)
            asleep = await asyncio.to_thread(machine.ask, {"do": "presleep", "seconds": 5})
            assert asleep["stopped"] is True
            assert daemon.status().phase == "sleeping"
            refused = await asyncio.to_thread(machine.ask, {"do": "prepare", "wait": True})
            assert isinstance(refused["ended"], dict)
            assert refused["ended"]["ending"] == "unavailable"
            await asyncio.to_thread(machine.ask, {"do": "postsleep"})
            await until(lambda: daemon.status().phase != "sleeping")

    run(scenario)


def test_image_size_is_held_over_a_sleep(machine: Machine) -> None:
    async def scenario() -> None:
        machine.logind.add_session("2", IdleSinceHintMonotonic=7)
        machine.configure(QUICK + "[sleep]\nbudget_seconds = 0\n")
        path = machine.root / "sys/power/image_size"
        usual = path.read_text().strip()
        async with running(machine) as daemon:
            before = {"do": "presleep", "seconds": 30, "leg": "hibernate"}
            answer = await asyncio.to_thread(machine.ask, before)
            assert answer["stopped"] is True
            assert "nothing to shrink" in str(answer["said"])
            assert daemon.status().phase == "sleeping"
            assert path.read_text().strip() != usual
            answer = await asyncio.to_thread(machine.ask, {"do": "postsleep"})
            assert "no hibernate" in str(answer["said"])  # this machine did not sleep
            assert path.read_text().strip() == usual
            await until(lambda: daemon.status().phase != "sleeping")
            await asyncio.to_thread(machine.ask, before)
            assert path.read_text().strip() != usual
        assert path.read_text().strip() == usual  # a daemon that ends leaves nothing changed

    run(scenario)


def test_the_service_on_the_bus(machine: Machine) -> None:
    async def scenario() -> None:
        machine.logind.add_session("2", IdleSinceHintMonotonic=7)
        async with running(machine), Client(machine.bus.address) as client:
            properties = (NAME, PATH, "org.freedesktop.DBus.Properties")

            async def state() -> str:
                body = await client.call(properties, "Get", "ss", (INTERFACE, "State"))
                return str(body[0].value)

            async with asyncio.timeout(GENEROUS_SECONDS):
                while not await owned(client):
                    await asyncio.sleep(0.01)
            assert await state() == "active"
            await client.call(MANAGER, "Prepare", "sd", ("min", 0.0))
            await until(lambda: machine.runs.decisions)
            assert machine.runs.decisions[0].reason.startswith("asked for by ")

    run(scenario)


async def owned(client: Client) -> bool:
    driver = ("org.freedesktop.DBus", "/org/freedesktop/DBus", "org.freedesktop.DBus")
    return bool((await client.call(driver, "NameHasOwner", "s", (NAME,)))[0])


def test_a_wrong_configuration_is_not_taken(
    machine: Machine, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        async with running(machine) as daemon:
            machine.configure('[daemon]\npolicy = "sometimes"\n')
            daemon.reload()
            assert daemon.status().policy == "idle"
            assert "daemon.policy = 'sometimes': must be one of idle" in caplog.text
            assert "the configuration stays as it was" in caplog.text
            machine.configure('[daemon]\npolicy = "on-request"\n')
            daemon.reload()
            assert daemon.status().policy == "on-request"

    run(scenario)


def test_a_defect_while_sampling_does_not_stop_the_clock(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def defect(_source: CpuSource) -> None:
        raise ZeroDivisionError

    told: list[object] = []

    async def scenario() -> None:
        asyncio.get_running_loop().set_exception_handler(
            lambda _loop, context: told.append(context.get("exception"))
        )
        async with running(machine) as daemon:
            monkeypatch.setattr(CpuSource, "sample", defect)
            daemon._sample_at = 0.0
            machine.logind.add_session("2", IdleHint=True, IdleSinceHintMonotonic=1)
            await until(lambda: told)
            await until(lambda: daemon.status().phase == "ready")

    run(scenario)
    assert isinstance(told[0], ZeroDivisionError)


def test_there_is_one_daemon(machine: Machine) -> None:
    async def scenario() -> None:
        async with running(machine):
            with pytest.raises(LockedError, match="another hibprep daemon runs"):
                await machine.daemon().run()

    run(scenario)


def test_what_was_written_today_outlives_the_daemon(machine: Machine) -> None:
    async def scenario() -> None:
        machine.logind.add_session("2", IdleSinceHintMonotonic=7)
        machine.runs.swapped_out_bytes = 7 << 20
        async with running(machine):
            ask = {"do": "prepare", "wait": True}
            await asyncio.to_thread(machine.ask, ask)
            assert (await machine.status()).written_today_bytes == 7 << 20
        async with running(machine):
            assert (await machine.status()).written_today_bytes == 7 << 20

    run(scenario)


def test_logind_may_come_and_go(machine: Machine) -> None:
    async def scenario() -> None:
        async with running(machine) as daemon:
            machine.logind.do(lambda: machine.logind._leave(machine.logind._bus))
            await until(lambda: not works(daemon, "logind"))
            status = daemon.status()
            reason = next(one.reason for one in status.sources if one.name == "logind")
            assert reason
            assert "logind tells nothing" in status.reason or status.phase == "active"

    run(scenario)


def test_nothing_is_left_behind(machine: Machine) -> None:
    def descriptors() -> int:
        gc.collect()
        return len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - names are counted

    async def scenario() -> None:
        machine.logind.add_session("2", IdleHint=True, IdleSinceHintMonotonic=1)
        async with running(machine) as daemon:
            await until(lambda: daemon.status().phase == "ready")
        others = asyncio.all_tasks() - {asyncio.current_task()}
        assert not others
        await until(lambda: not machine.logind.locks)  # logind hears of it in its own time

    run(scenario)
    before = descriptors()
    run(scenario)
    assert descriptors() == before
    assert not (machine.root / "run/hibprep/control").exists()
