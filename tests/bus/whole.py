# SPDX-License-Identifier: LGPL-2.1-or-later
"""The whole daemon: a logind of our own on a real bus, its own sockets and service, a rendered
machine. What a run does is the test's to say, in the thread in which it really happens."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import ParamSpec

from hibprep import hookclient
from hibprep.config import Config, load
from hibprep.daemon import Daemon
from hibprep.events import RunEnded
from hibprep.model import Ending
from hibprep.reclaim.base import Stop
from hibprep.runner import Result, Tell
from hibprep.state import Decision
from hibprep.status import Status
from tests.bus.fakelogin1 import Behaviour, FakeLogin1
from tests.bus.privatebus import Bus
from tests.fakes.machine import FakeMachine
from tests.fakes.state import FakeSwap
from tests.listening import until_told
from tests.waiting import GENEROUS_SECONDS

Parameters = ParamSpec("Parameters")
SWAP = FakeSwap("/dev/vda2", 16 << 30, device="254:2")

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

    async def asked(self, **document: object) -> dict[str, object]:
        """What it answers, with the loop going on meanwhile."""
        return await asyncio.to_thread(self.ask, document)

    async def status(self) -> Status:
        return Status.from_plain((await self.asked(do="status"))["status"])

    def used(self) -> None:
        """Somebody is there."""
        self.logind.add_session("2", IdleSinceHintMonotonic=7)

    def left(self) -> None:
        """There is a session, and nobody has used it since the start of the machine."""
        self.logind.add_session("2", IdleHint=True, IdleSinceHintMonotonic=1)

    def configure(self, text: str) -> None:
        path = self.root / "etc/hibprep/hibprep.toml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


@contextmanager
def made_machine(root: Path, bus: Bus, fake: FakeMachine | None = None) -> Iterator[Machine]:
    """What `fake` renders, with a logind beside it."""
    root.mkdir()
    (fake or FakeMachine(swaps=[SWAP], resume_device=SWAP.device)).render(root)
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
        await asyncio.wait((life,), timeout=GENEROUS_SECONDS)
        assert life.done(), f"the daemon does not end: {asyncio.all_tasks()}"
        life.result()


@asynccontextmanager
async def reclaiming(machine: Machine) -> AsyncIterator[Daemon]:
    """A daemon in the middle of a run, which ends when it is stopped; nobody is there."""
    machine.runs.wait = True
    machine.left()
    async with running(machine) as daemon:
        await reached(daemon, "reclaiming")
        yield daemon


async def reached(daemon: Daemon, phase: str) -> None:
    """Until the daemon is in that phase."""
    await until(lambda: daemon.status().phase == phase)


async def until(condition: Callable[[], object], *lives: asyncio.Task[None]) -> None:
    """Until `condition` is true; fails at once when one of the `lives` has ended."""

    def look() -> object:
        for life in lives:
            if life.done():
                life.result()
                raise AssertionError("the daemon has ended")
        return condition()

    await until_told(look, "the daemon does what is waited for")


def works(daemon: Daemon, name: str) -> bool:
    return any(source.name == name and source.works for source in daemon.status().sources)


def on_loop(
    test: Callable[Parameters, Coroutine[None, None, None]],
) -> Callable[Parameters, None]:
    """A test that runs on an event loop of its own."""

    @functools.wraps(test)
    def whole(*arguments: Parameters.args, **named: Parameters.kwargs) -> None:
        asyncio.run(test(*arguments, **named))

    return whole
