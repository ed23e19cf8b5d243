# SPDX-License-Identifier: LGPL-2.1-or-later
"""The whole daemon, through what it hears and is asked."""

from __future__ import annotations

import asyncio

import pytest

from hibprep.bus.client import Client
from hibprep.bus.interface import INTERFACE, NAME, PATH
from hibprep.kernel.lock import LockedError
from hibprep.signals.cpu import CpuSource
from tests.bus.whole import QUICK, Machine, on_loop, reached, reclaiming, running, until, works
from tests.descriptors import descriptors
from tests.waiting import GENEROUS_SECONDS

MANAGER = (NAME, PATH, INTERFACE)


@on_loop
async def test_idle_stage_by_stage_to_ready(machine: Machine) -> None:
    machine.left()
    async with running(machine) as daemon:
        await reached(daemon, "ready")
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


@on_loop
async def test_whoever_comes_back_has_the_machine_at_once(machine: Machine) -> None:
    async with reclaiming(machine) as daemon:
        await asyncio.to_thread(machine.logind.change_session, "2", IdleHint=False)
        await until(lambda: machine.runs.stopped)
        assert machine.runs.stopped == ["seat0 is used by ada"]
        await reached(daemon, "active")


@on_loop
async def test_a_sleep_waits_for_the_end_of_the_run_and_for_nothing_else(machine: Machine) -> None:
    async with reclaiming(machine) as daemon:
        await until(lambda: len(machine.logind.locks) == 1)
        await asyncio.to_thread(machine.logind.prepare, "Sleep", coming=True)
        await until(lambda: not machine.logind.locks)
        assert machine.runs.stopped == ["the machine goes to sleep"]
        assert daemon.status().phase == "sleeping"
        await asyncio.to_thread(machine.logind.prepare, "Sleep", coming=False)
        await until(lambda: len(machine.logind.locks) == 1)  # for the next one
        await until(lambda: len(machine.runs.decisions) == 2)


@on_loop
async def test_it_ends_at_once_with_what_runs(machine: Machine) -> None:
    async with reclaiming(machine) as daemon:
        assert daemon._runner.busy
    assert machine.runs.stopped == ["the daemon ends"]
    assert len(machine.runs.decisions) == 1  # and nothing new was begun
    assert not daemon._runner.busy


@on_loop
async def test_requests_over_the_control_socket(machine: Machine) -> None:
    machine.used()
    async with running(machine) as daemon:
        answer = await machine.asked(do="prepare", target="min", timeout=60, wait=True)
        assert answer["ok"] is True
        assert isinstance(answer["ended"], dict)
        assert answer["ended"]["ending"] == "done"
        assert machine.runs.decisions[0].timeout_seconds == 60

        machine.runs.wait = True
        await machine.asked(do="prepare")
        await until(lambda: len(machine.runs.decisions) == 2)
        await machine.asked(do="stop", who="a test")
        await until(lambda: machine.runs.stopped)
        assert machine.runs.stopped[0].startswith("stopped by a test (pid ")

        await machine.asked(do="prepare")
        await until(lambda: len(machine.runs.decisions) == 3)
        asleep = await machine.asked(do="presleep", seconds=5)
        assert asleep["stopped"] is True
        assert daemon.status().phase == "sleeping"
        await until(lambda: not machine.logind.locks)
        refused = await machine.asked(do="prepare", wait=True)
        assert isinstance(refused["ended"], dict)
        assert refused["ended"]["ending"] == "unavailable"
        await machine.asked(do="postsleep")
        await until(lambda: daemon.status().phase != "sleeping")
        await until(lambda: machine.logind.locks)  # although logind knows of no sleep


@on_loop
async def test_who_waits_for_a_run_waits_for_their_own(machine: Machine) -> None:
    """And not for the end of the one that had to make room for it."""
    machine.used()
    async with running(machine):
        machine.runs.wait = True
        await machine.asked(do="prepare")
        await until(lambda: len(machine.runs.decisions) == 1)
        machine.runs.wait = False
        answer = await machine.asked(do="prepare", target="min", wait=True)
        assert len(machine.runs.decisions) == 2
        assert isinstance(answer["ended"], dict)
        assert answer["ended"]["ending"] == "done"


@on_loop
async def test_image_size_is_held_over_a_sleep(machine: Machine) -> None:
    machine.used()
    machine.configure(QUICK + "[sleep]\nbudget_seconds = 0\n")
    path = machine.root / "sys/power/image_size"
    usual = path.read_text().strip()
    async with running(machine) as daemon:
        answer = await machine.asked(do="presleep", seconds=30, leg="hibernate")
        assert answer["stopped"] is True
        assert "nothing to shrink" in str(answer["said"])
        assert daemon.status().phase == "sleeping"
        assert path.read_text().strip() != usual
        answer = await machine.asked(do="postsleep")
        assert "no hibernate" in str(answer["said"])  # this machine did not sleep
        assert path.read_text().strip() == usual
        await until(lambda: daemon.status().phase != "sleeping")
        await machine.asked(do="presleep", seconds=30, leg="hibernate")
        assert path.read_text().strip() != usual
    assert path.read_text().strip() == usual  # a daemon that ends leaves nothing changed


@on_loop
async def test_the_service_on_the_bus(machine: Machine) -> None:
    machine.used()
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


async def owned(client: Client) -> bool:
    driver = ("org.freedesktop.DBus", "/org/freedesktop/DBus", "org.freedesktop.DBus")
    return bool((await client.call(driver, "NameHasOwner", "s", (NAME,)))[0])


@on_loop
async def test_a_wrong_configuration_is_not_taken(
    machine: Machine, caplog: pytest.LogCaptureFixture
) -> None:
    async with running(machine) as daemon:
        machine.configure('[daemon]\npolicy = "sometimes"\n')
        daemon.reload()
        assert daemon.status().policy == "idle"
        assert "daemon.policy = 'sometimes': must be one of idle" in caplog.text
        assert "the configuration stays as it was" in caplog.text
        machine.configure('[daemon]\npolicy = "on-request"\n')
        daemon.reload()
        assert daemon.status().policy == "on-request"


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
            machine.left()
            await until(lambda: told)
            await reached(daemon, "ready")

    asyncio.run(scenario())
    assert isinstance(told[0], ZeroDivisionError)


@on_loop
async def test_there_is_one_daemon(machine: Machine) -> None:
    async with running(machine):
        with pytest.raises(LockedError, match="another hibprep daemon runs"):
            await machine.daemon().run()


@on_loop
async def test_what_was_written_today_outlives_the_daemon(machine: Machine) -> None:
    machine.used()
    machine.runs.swapped_out_bytes = 7 << 20
    async with running(machine):
        await machine.asked(do="prepare", wait=True)
        assert (await machine.status()).written_today_bytes == 7 << 20
    async with running(machine):
        assert (await machine.status()).written_today_bytes == 7 << 20


@on_loop
async def test_logind_may_come_and_go(machine: Machine) -> None:
    async with running(machine) as daemon:
        machine.logind.do(lambda: machine.logind._leave(machine.logind._bus))
        await until(lambda: not works(daemon, "logind"))
        status = daemon.status()
        reason = next(one.reason for one in status.sources if one.name == "logind")
        assert reason
        assert "logind tells nothing" in status.reason or status.phase == "active"


def test_nothing_is_left_behind(machine: Machine) -> None:
    async def scenario() -> None:
        machine.left()
        async with running(machine) as daemon:
            await reached(daemon, "ready")
        others = asyncio.all_tasks() - {asyncio.current_task()}
        assert not others
        await until(lambda: not machine.logind.locks)  # logind hears of it in its own time

    asyncio.run(scenario())
    before = descriptors()
    asyncio.run(scenario())
    assert descriptors() == before
    assert not (machine.root / "run/hibprep/control").exists()
