# SPDX-License-Identifier: LGPL-2.1-or-later
"""The whole daemon under random signals at high speed: nothing is leaked.

Some thousands of signals, or HIBPREP_SOAK_SECONDS of them; a line a minute then says how it goes.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import random
import sys
import time
import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import psutil
import pytest

from hibprep.config import Config
from hibprep.daemon import Daemon
from hibprep.errors import NotPossibleError
from hibprep.events import (
    Cpu,
    DevicesChanged,
    Inhibitors,
    PowerSupply,
    Pressure,
    Request,
    RunEnded,
    Sessions,
    Shutdown,
    Signal,
    Sleep,
    Tick,
    Wish,
)
from hibprep.model import Ending
from hibprep.reclaim.base import Stop
from hibprep.runner import Result, Tell, reclaim
from hibprep.state import Decision
from tests.bus.conftest import Bus
from tests.bus.fakelogin1 import Inhibitor, session_path
from tests.bus.whole import SWAP, Machine, Runs, made_machine, on_loop, running, until
from tests.descriptors import descriptors
from tests.fakes.machine import FakeMachine
from tests.fakes.state import GIB, AnonSet, FakeCgroup
from tests.unit.deciding import ADA

SOAK_SECONDS = float(os.environ.get("HIBPREP_SOAK_SECONDS", "0"))
SIGNALS = 3000
SETTLED = 1000  # after so many, caches are filled and logs have their length
A_DEED = 50  # of logind's: one in so many signals
A_BREATH = 200  # after so many, what runs is let to its end
GROWTH_BYTES = 400 << 10
RESIDENT_GROWTH_BYTES = 32 << 20  # allocators keep some; an hour of any leak is more
FILM: Inhibitor = ("idle", "player", "film", "block", 1000, 1)
PATHLIB = "*/pathlib*"  # a package from 3.13 on
# What a run changes while anonymous memory goes.
KNOBS = ("proc/sys/vm/laptop_mode", "sys/module/zswap/parameters/enabled")


class Busy(Runs):
    """Some runs end at once, some fail, some wait for their stop, and some are real: with their own
    process, lock, journal and history, on a kernel on which nothing moves."""

    chance = random.Random(20261122)  # noqa: S311 - not a secret
    knobs = 0

    def __call__(
        self, prefix: str, decision: Decision, config: Config, stop: Stop, tell: Tell
    ) -> Result:
        match self.chance.randrange(4):
            case 0:
                return Result(RunEnded(ending=Ending.DONE, reason="done", swapped_out_bytes=4096))
            case 1:
                raise OSError(5, "Input/output error", "/sys/fs/cgroup/memory.reclaim")
            case 2:
                stop.wait(0.02)
                return Result(RunEnded(ending=Ending.INTERRUPTED, reason=stop.reason or "enough"))
        result = reclaim(prefix, decision, config, stop, tell)
        if result.report is not None:
            self.knobs += len(result.report.knobs)
        return result


@pytest.fixture
def busy(tmp_path: Path, bus: Bus) -> Iterator[Machine]:
    """A machine with memory to take, and with settings that are in the way of that."""
    used = FakeCgroup("/user.slice", anon=[AnonSet(4 * GIB, idle_seconds=30.0)], file_bytes=GIB)
    fake = FakeMachine(
        cgroups=[used], swaps=[SWAP], resume_device=SWAP.device,
        zswap=True, laptop_mode=5, lru_gen=None,
    )  # fmt: skip
    with made_machine(tmp_path / "root", bus, fake) as made:
        made.runs = Busy()
        # what is logged is kept by pytest, and would be taken for a leak
        logging.disable(logging.CRITICAL)
        try:
            yield made
        finally:
            logging.disable(logging.NOTSET)


def some_signal(chance: random.Random, now: float) -> Signal:
    idle = replace(ADA, idle=True, idle_at_seconds=now - 4000, hints=True)
    used = replace(ADA, hints=True)
    makers: tuple[Callable[[], Signal], ...] = (
        lambda: Sessions((idle,)),
        lambda: Sessions((used,)),
        lambda: Sessions(()),
        lambda: Inhibitors(idle=("film",)),
        Inhibitors,
        lambda: Sleep(coming=True),
        lambda: Sleep(coming=False),
        lambda: Shutdown(coming=True),
        lambda: Shutdown(coming=False),
        lambda: PowerSupply(mains=chance.random() < 0.5, battery_percent=chance.randrange(100)),
        lambda: Pressure(resource="memory", scope="user.slice", share=chance.random()),
        lambda: Cpu(idle_share=chance.random(), least_idle_share=0.0, seconds=1.0),
        lambda: DevicesChanged("swap came"),
        lambda: Request(wish=chance.choice(list(Wish)), who="soak"),
        Tick,
    )
    return chance.choice(makers)()


def some_deed(chance: random.Random, machine: Machine) -> None:
    """Of logind, on the bus."""
    logind, third = machine.logind, "3"
    deeds: tuple[Callable[[], object], ...] = (
        lambda: logind.change_session("2", IdleHint=True, IdleSinceHintMonotonic=1),
        lambda: logind.change_session("2", IdleHint=False, IdleSinceHintMonotonic=7),
        lambda: logind.set_inhibitors(FILM),
        logind.set_inhibitors,
        lambda: logind.prepare("Sleep", coming=True),
        lambda: logind.prepare("Sleep", coming=False),
        lambda: logind.prepare("Shutdown", coming=chance.random() < 0.5),
        lambda: (
            logind.remove_session(third)
            if session_path(third) in logind.sessions
            else logind.add_session(third, Type="tty", TTY="pts/3")
        ),
    )
    chance.choice(deeds)()


@dataclass(frozen=True)
class Held:
    """What the daemon holds, asleep and with nothing under way; sizes in bytes."""

    tasks: int
    descriptors: int
    children: int
    inhibitors: int
    traced_bytes: int
    resident_bytes: int


def traced_bytes() -> int:
    """What Python's objects take that were made since tracing began.

    Without what was made in pathlib itself: it interns the parts of paths, and Python's table of
    interned strings, of a MiB or two and older than the daemon, moves there when it is full.
    """
    found = tracemalloc.take_snapshot()
    others = found.filter_traces([tracemalloc.Filter(inclusive=False, filename_pattern=PATHLIB)])
    return sum(trace.size for trace in others.traces)


@dataclass
class Soak:
    """Random signals to one daemon."""

    machine: Machine
    daemon: Daemon
    say: Callable[[str], None]
    chance: random.Random
    told: int = 0

    async def go_on(self, number: int, seconds: float = 0.0) -> None:
        """At least so many signals, for at least so long."""
        end, number = time.monotonic() + seconds, self.told + number
        line_at = time.monotonic() + 60
        while self.told < number or time.monotonic() < end:
            with contextlib.suppress(NotPossibleError):  # a request may be refused
                self.daemon.emit(some_signal(self.chance, self.daemon._clock.monotonic()))
            self.told += 1
            if self.told % A_BREATH == 0:
                await until(lambda: not self.daemon._runner.busy)
            elif self.told % A_DEED == 0:
                await asyncio.to_thread(some_deed, self.chance, self.machine)
            else:
                await asyncio.sleep(0)
            if time.monotonic() >= line_at:
                line_at += 60
                self.say(f"{self.told} signals: {await self.held()}")

    async def held(self) -> Held:
        """What it holds, once it has put everything out of the way for a sleep."""
        logind = self.machine.logind
        # whatever it was told before, logind has the last word: asleep, awake, asleep
        self.daemon.emit(Shutdown(coming=False))
        await asyncio.to_thread(logind.prepare, "Shutdown", coming=False)
        await asyncio.to_thread(logind.prepare, "Sleep", coming=True)
        await asyncio.to_thread(logind.prepare, "Sleep", coming=False)
        await until(lambda: len(logind.locks) == 1)
        await asyncio.to_thread(logind.prepare, "Sleep", coming=True)
        await until(lambda: not self.daemon._runner.busy and not logind.locks)
        logind.calls.clear()
        logind.reads.clear()
        found = descriptors()  # which collects garbage, too
        process = psutil.Process()
        return Held(
            tasks=len(asyncio.all_tasks()),
            descriptors=len(found),
            children=len(process.children()),
            inhibitors=len(logind.locks),
            traced_bytes=traced_bytes(),
            resident_bytes=process.memory_info().rss,
        )


def knobs(machine: Machine) -> dict[str, str]:
    return {name: (machine.root / name).read_text().strip() for name in KNOBS}


def journals(machine: Machine) -> list[str]:
    return [path.name for path in (machine.root / "run/hibprep").glob("knobs-*")]


@pytest.mark.timeout(300 + 1.2 * SOAK_SECONDS)
@on_loop
async def test_nothing_is_leaked(busy: Machine, capsys: pytest.CaptureFixture[str]) -> None:
    def say(line: str) -> None:
        with capsys.disabled():
            sys.stdout.write(f"\n{line}")
            sys.stdout.flush()

    async with running(busy) as daemon:
        busy.used()
        soak = Soak(busy, daemon, say, random.Random(20261121))  # noqa: S311 - can be had again
        settings = knobs(busy)
        tracemalloc.start()
        await soak.go_on(SETTLED)
        before = await soak.held()
        await soak.go_on(SIGNALS, SOAK_SECONDS)
        after = await soak.held()
        tracemalloc.stop()
        await until(lambda: len(asyncio.all_tasks()) <= before.tasks)  # some are just about to end
        assert after.descriptors <= before.descriptors
        assert after.children <= before.children
        assert after.inhibitors == 0
        assert after.traced_bytes - before.traced_bytes < GROWTH_BYTES
        assert after.resident_bytes - before.resident_bytes < RESIDENT_GROWTH_BYTES
        assert isinstance(busy.runs, Busy)
        assert busy.runs.knobs > 0  # or it would say nothing of what is put back
        assert knobs(busy) == settings
        assert journals(busy) == []
    assert asyncio.all_tasks() == {asyncio.current_task()}
    await until(lambda: not busy.logind.locks)
