# SPDX-License-Identifier: LGPL-2.1-or-later
"""The whole daemon under thousands of signals at high speed: nothing is leaked."""

from __future__ import annotations

import asyncio
import gc
import os
import random
import tracemalloc
from collections.abc import Callable
from dataclasses import replace

import pytest

from hibprep.config import Config
from hibprep.daemon import Daemon
from hibprep.events import (
    Cpu,
    DevicesChanged,
    Inhibitors,
    PowerSupply,
    Pressure,
    Request,
    RunEnded,
    Session,
    Sessions,
    Shutdown,
    Signal,
    Sleep,
    Tick,
    Wish,
)
from hibprep.model import Ending
from hibprep.reclaim.base import Stop
from hibprep.runner import Result, Tell
from hibprep.state import Decision
from tests.bus.test_daemon import Machine, Runs, machine, running, until

__all__ = ["machine"]

SIGNALS = 3000
SETTLED = 1000  # after so many, caches are filled and logs have their length
GROWTH_BYTES = 400 << 10
ADA = Session(id="2", user="ada", session_class="user", session_type="wayland", seat="seat0")


class Busy(Runs):
    """Some runs end at once, some fail, some wait for their stop."""

    def __call__(
        self, _prefix: str, decision: Decision, _config: Config, stop: Stop, _tell: Tell
    ) -> Result:
        how = len(decision.reason) % 3
        if how == 0:
            return Result(RunEnded(ending=Ending.DONE, reason="done", swapped_out_bytes=4096))
        if how == 1:
            raise OSError(5, "Input/output error", "/sys/fs/cgroup/memory.reclaim")
        stop.wait(0.02)
        return Result(RunEnded(ending=Ending.INTERRUPTED, reason=stop.reason or "enough"))


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
        lambda: Request(wish=chance.choice([Wish.PREPARE, Wish.STOP]), who="soak"),
        Tick,
    )
    return chance.choice(makers)()


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - names are counted


@pytest.mark.timeout(300)
def test_nothing_is_leaked(machine: Machine) -> None:
    machine.runs = Busy()
    chance = random.Random(20261121)  # noqa: S311 - a history that can be had again

    async def told(daemon: Daemon, number: int) -> None:
        for _ in range(number):
            daemon.emit(some_signal(chance, daemon._clock.monotonic()))
            await asyncio.sleep(0)
        daemon.emit(Sleep(coming=True))
        await until(lambda: not daemon._runner.busy)

    async def scenario() -> None:
        async with running(machine) as daemon:
            await told(daemon, SETTLED)
            gc.collect()
            tracemalloc.start()
            tasks, files = len(asyncio.all_tasks()), descriptors()
            before, _ = tracemalloc.get_traced_memory()
            await told(daemon, SIGNALS)
            gc.collect()
            after, _ = tracemalloc.get_traced_memory()
            tracemalloc.stop()
            assert len(asyncio.all_tasks()) <= tasks
            assert descriptors() <= files
            assert after - before < GROWTH_BYTES

    asyncio.run(scenario())
