# SPDX-License-Identifier: LGPL-2.1-or-later
"""The whole daemon in a cloud: EC2's metadata service on this machine, and what is done."""

from __future__ import annotations

import asyncio
import json
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from hibprep import hookclient
from hibprep.daemon import Daemon
from hibprep.model import TargetKind
from hibprep.status import NoticeStatus, Status
from tests.bus.conftest import Bus
from tests.bus.fakelogin1 import Behaviour
from tests.bus.whole import (
    QUICK,
    SWAP,
    Machine,
    made_machine,
    on_loop,
    reached,
    running,
    until,
    works,
)
from tests.cloud.aws_server import ACTION, DATA, REBALANCE, AwsServer, utc
from tests.cloud.azure_server import AzureServer, event
from tests.cloud.server import MetadataServer, json_text, status
from tests.fakes.machine import FakeMachine
from tests.fakes.state import AnonSet, FakeCgroup

NEVER_IDLE = QUICK.replace("after_seconds = 1\n", "after_seconds = 3600\n", 1)
SECRET = "s3cr3t-of-a-webhook"  # noqa: S105 - of a test


@pytest.fixture
def machine(tmp_path: Path, bus: Bus) -> Iterator[Machine]:
    """One that has something to give."""
    filled = FakeCgroup("/user.slice", anon=[AnonSet(1 << 30)], file_bytes=1 << 30)
    fake = FakeMachine(cgroups=[filled], swaps=[SWAP], resume_device=SWAP.device)
    with made_machine(tmp_path / "root", bus, fake) as made:
        yield made


@pytest.fixture
def aws(monkeypatch: pytest.MonkeyPatch) -> Iterator[AwsServer]:
    # what is counted are looks, and not seconds
    monkeypatch.setattr("hibprep.signals.cloud.aws.SPOT_PAUSE_SECONDS", 0.3)
    monkeypatch.setattr("hibprep.signals.cloud.aws._Interruption.pause_seconds", 0.3)
    with AwsServer() as server:
        yield server


def configure(machine: Machine, aws: AwsServer, rules: str, *, usual: str = NEVER_IDLE) -> None:
    notices = f'[notices]\nprovider = "aws"\naddress = "127.0.0.1:{aws.port}"\n'
    machine.configure(usual + notices + rules)


def on(kinds: str, do: str, more: str = "") -> str:
    listed = json.dumps(kinds.split())
    return f'[[on]]\nnotice = {listed}\ndo = "{do}"\n{more}\n'


def soon(seconds: float = 120) -> datetime:
    return datetime.now(tz=UTC) + timedelta(seconds=seconds)


def looks(aws: AwsServer, item: str) -> int:
    """How often that place was looked at."""
    return sum(each.path == DATA + item for each in aws.asked)


def notices(status_: Status) -> defaultdict[str, NoticeStatus]:
    return defaultdict(lambda: NoticeStatus(kind="", source="", id="")) | {
        each.kind: each for each in status_.notices
    }


@asynccontextmanager
async def in_cloud(machine: Machine, aws: AwsServer) -> AsyncIterator[Daemon]:
    """A daemon that has looked at all that there is."""
    async with running(machine) as daemon:
        await until(lambda: works(daemon, "cloud"))
        await until(lambda: looks(aws, ACTION) and looks(aws, REBALANCE))
        yield daemon


def touching(path: Path) -> str:
    return f'command = ["/bin/sh", "-c", "env > {path}.new; mv {path}.new {path}"]'


@on_loop
async def test_the_action_begins_with_the_first_look_that_tells(
    machine: Machine, aws: AwsServer
) -> None:
    machine.used()
    configure(machine, aws, on("stop", "prepare") + on("stop", "run", touching(machine.root / "x")))
    async with in_cloud(machine, aws) as daemon:
        before = looks(aws, ACTION)
        aws.interrupt("stop", soon())
        await until(lambda: machine.runs.decisions)
        # the first look after it was announced has led to it: there was no other
        assert looks(aws, ACTION) <= before + 1
        decision = machine.runs.decisions[0]
        assert decision.reason.startswith("asked for by notice stop of aws (")
        assert decision.target is not None
        assert decision.target.kind is TargetKind.SIZE
        assert decision.timeout_seconds is not None
        assert decision.timeout_seconds <= 90  # what follows has its half a minute
        await until((machine.root / "x").exists)
        variables = dict(
            line.split("=", 1) for line in (machine.root / "x").read_text().splitlines()
        )
        assert variables["HIBPREP_NOTICE_KIND"] == "stop"
        assert variables["HIBPREP_NOTICE_SOURCE"] == "aws"
        assert 0 < int(variables["HIBPREP_NOTICE_SECONDS"]) <= 120
        await until(lambda: notices(daemon.status())["stop"].progress == "done")
        shown = await machine.status()
        assert shown.notices_total == 1
        assert shown.notices[0].done[0].startswith("prepare: done: ")
        assert shown.notices[0].done[1] == "run: done"


@on_loop
async def test_one_that_is_withdrawn_stops_what_was_begun_for_it(
    machine: Machine, aws: AwsServer
) -> None:
    machine.used()
    machine.runs.wait = True
    configure(machine, aws, on("stop", "prepare") + on("stop", "run", touching(machine.root / "x")))
    async with in_cloud(machine, aws) as daemon:
        aws.interrupt("stop", soon())
        await until(lambda: machine.runs.decisions)
        await reached(daemon, "reclaiming")
        aws.withdraw(ACTION)
        await until(lambda: machine.runs.stopped)
        assert machine.runs.stopped[0].endswith("it is not wanted any more")
        await until(lambda: notices(daemon.status())["stop"].progress == "withdrawn")
        await until(lambda: daemon.status().phase == "active")
        assert not (machine.root / "x").exists()


@on_loop
async def test_in_the_middle_of_an_idle_reclaim_the_notices_own_is_begun(
    machine: Machine, aws: AwsServer
) -> None:
    machine.left()
    machine.runs.wait = True
    configure(machine, aws, on("stop", "prepare"), usual=QUICK)
    async with in_cloud(machine, aws) as daemon:
        await reached(daemon, "reclaiming")
        await until(lambda: machine.runs.decisions)
        (idle,) = machine.runs.decisions
        assert idle.reason.startswith("idle ")
        aws.interrupt("stop", soon())
        await until(lambda: len(machine.runs.decisions) == 2)
        who = machine.runs.decisions[1].reason.removeprefix("asked for by ")
        assert machine.runs.stopped == [f"{who} asks for a run of its own"]
        assert daemon.status().reason == machine.runs.decisions[1].reason
        assert notices(daemon.status())["stop"].doing == "prepare"


@on_loop
async def test_a_more_urgent_one_takes_over(machine: Machine, aws: AwsServer) -> None:
    machine.used()
    machine.runs.wait = True
    configure(machine, aws, on("rebalance", "prepare") + on("stop", "aside"))
    async with in_cloud(machine, aws) as daemon:
        await until(lambda: len(machine.logind.locks) == 1)
        told_at = json.dumps({"noticeTime": utc(soon(0))})
        aws.tell(REBALANCE, json_text(told_at))
        await until(lambda: machine.runs.decisions)
        machine.runs.wait = False  # for the next one
        aws.interrupt("stop", soon())
        await until(lambda: machine.runs.stopped)
        await until(lambda: notices(daemon.status())["stop"].progress == "done")
        await until(lambda: not machine.logind.locks)  # nothing of ours holds a sleep back
        await until(lambda: notices(daemon.status())["rebalance"].progress == "done")
        assert len(machine.runs.decisions) == 2
        aws.withdraw(ACTION)
        await until(lambda: len(machine.logind.locks) == 1)  # and is taken again


@on_loop
async def test_a_made_up_one_goes_the_same_way(machine: Machine, aws: AwsServer) -> None:
    machine.used()
    configure(
        machine,
        aws,
        on("terminate", "prepare", 'provider = ["aws"]')
        + on("terminate", "run", touching(machine.root / "x")),
    )
    async with in_cloud(machine, aws) as daemon:
        answer = await machine.asked(do="simulate", kind="terminate", seconds=120, who="a test")
        await until((machine.root / "x").exists)
        assert "HIBPREP_NOTICE_SOURCE=simulated\n" in (machine.root / "x").read_text()
        assert len(machine.runs.decisions) == 1  # as one of the provider's
        await until(lambda: notices(daemon.status())["terminate"].progress == "done")
        shown = (await machine.asked(do="notices"))["notices"]
        assert isinstance(shown, dict)
        assert shown["provider"] == "aws"
        assert shown["works"] is True
        assert ACTION in {each["name"] for each in shown["watches"]}
        (notice,) = shown["notices"]
        assert notice["id"] == answer["id"]
        assert notice["text"].startswith("made up by a test (pid ")


@on_loop
async def test_it_hibernates_and_its_own_sleep_hook_goes_through(
    machine: Machine, aws: AwsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", machine.bus.address)
    machine.logind._behaviour = Behaviour(signals=())  # when it sleeps is for this test to say
    machine.used()
    configure(machine, aws, on("stop", "hibernate"))
    image_size = machine.root / "sys/power/image_size"
    usual = image_size.read_text().strip()
    async with in_cloud(machine, aws) as daemon:
        await until(lambda: len(machine.logind.locks) == 1)
        aws.interrupt("stop", soon())
        await until(lambda: ("Hibernate", [False]) in machine.logind.calls)
        held = image_size.read_text().strip()
        assert held != usual
        await asyncio.to_thread(machine.logind.prepare, "Sleep", coming=True)
        await until(lambda: not machine.logind.locks)
        answer = await machine.asked(do="presleep", seconds=10, leg="hibernate")
        assert answer["stopped"] is True
        assert answer["said"] == ["all is made ready: the daemon itself has asked for it"]
        assert image_size.read_text().strip() == held
        assert daemon.status().phase == "sleeping"
        assert notices(daemon.status())["stop"].doing == "hibernate"
        assert (await machine.asked(do="postsleep"))["said"] == []
        await asyncio.to_thread(machine.logind.prepare, "Sleep", coming=False)
        await until(lambda: notices(daemon.status())["stop"].progress == "done")
        # a machine of a test does not really sleep
        (words,) = notices(daemon.status())["stop"].done
        assert words.startswith("hibernate: the kernel refused or broke it off")
        assert image_size.read_text().strip() == usual
        assert not list((machine.root / "run/hibprep").glob("knobs-*"))
        # and the next one finds a hook that does its work
        answer = await machine.asked(do="presleep", seconds=10, leg="hibernate")
        assert any(each.startswith("image_size: ") for each in said(answer))


def said(answer: dict[str, object]) -> list[str]:
    found = answer["said"]
    assert isinstance(found, list)
    return found


@on_loop
async def test_a_webhooks_secret_is_nowhere_else(
    machine: Machine,
    aws: AwsServer,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO")
    folder = machine.root / "credentials"
    folder.mkdir()
    (folder / "hook").write_text(SECRET)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(folder))
    machine.used()
    with MetadataServer() as server:
        server.script.append(status(500))
        server.always = status(200)
        hook = f'url = "{server.url}/path-of-a-secret"\ncredential = "hook"'
        configure(
            machine,
            aws,
            on("stop", "webhook", hook) * 2 + on("stop", "run", touching(machine.root / "x")),
        )
        async with in_cloud(machine, aws) as daemon:
            aws.interrupt("stop", soon())
            await until(lambda: notices(daemon.status())["stop"].progress == "done")
            done = notices(daemon.status())["stop"].done
            assert done[0] == "webhook: the webhook at 127.0.0.1 answers 500"
            assert done[1] == "webhook: done"
            sent = [each.headers["authorization"] for each in server.asked]
            assert sent == [f"Bearer {SECRET}"] * 2
            seen = [
                caplog.text,
                daemon.status().to_json(),
                json.dumps(await machine.asked(do="notices")),
                (machine.root / "x").read_text(),
            ]
        for text in (*seen, *aws.given):
            assert SECRET not in text
            assert "path-of-a-secret" not in text
        for token in aws.given:
            assert not any(token in text for text in seen)


@on_loop
async def test_azure_is_told_when_all_is_done_and_what_begins_then_is_nothing_new(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hibprep.signals.cloud.azure.PAUSE_SECONDS", 0.3)
    machine.used()
    machine.runs.wait = True
    with AzureServer() as azure:
        machine.configure(
            NEVER_IDLE
            + f'[notices]\nprovider = "azure"\naddress = "127.0.0.1:{azure.port}"\n'
            + on("freeze", "prepare", "timeout_seconds = 300")
            + on("freeze", "run", touching(machine.root / "x"))
            + on("freeze", "acknowledge")
        )
        async with running(machine) as daemon:
            await until(lambda: works(daemon, "cloud"))
            azure.schedule(event("Freeze", soon(900)))
            await until(lambda: machine.runs.decisions)
            assert not [each for each in azure.asked if each.method == "POST"]
            daemon._runner.stop("it is enough")  # as by its own time-out
            await until(lambda: notices(daemon.status())["freeze"].progress == "done")
            (told,) = [each for each in azure.asked if each.method == "POST"]
            assert json.loads(told.body) == {
                "StartRequests": [{"EventId": event("", soon())["EventId"]}]
            }
            assert (machine.root / "x").exists()
            await until(lambda: notices(daemon.status())["freeze"].seconds_left == 0)  # it begins
            assert notices(daemon.status())["freeze"].done[1:] == ("run: done", "acknowledge: done")
            assert len(machine.runs.decisions) == 1
            assert daemon.status().notices_total == 1


@on_loop
async def test_what_was_told_of_before_a_restart_is_shown_and_not_done_again(
    machine: Machine, aws: AwsServer
) -> None:
    machine.used()
    configure(machine, aws, on("stop", "run", touching(machine.root / "x")))
    async with in_cloud(machine, aws) as daemon:
        aws.interrupt("stop", soon())
        await until(lambda: notices(daemon.status())["stop"].progress == "done")
        await until((machine.root / "var/lib/hibprep/notices.json").exists)
    (machine.root / "x").unlink()
    before = looks(aws, ACTION)
    async with running(machine) as daemon:
        await until(lambda: looks(aws, ACTION) > before + 1)
        shown = notices(daemon.status())["stop"]
        assert shown.done == ("told of before the daemon was started",)
        assert shown.seconds_left is not None
        assert 0 < shown.seconds_left < 120
        assert daemon.status().notices_total == 0
        aws.withdraw(ACTION)
        await until(lambda: not daemon.status().notices)
    assert not (machine.root / "x").exists()


@on_loop
async def test_memory_is_brought_back(machine: Machine, aws: AwsServer) -> None:
    machine.used()
    configure(machine, aws, on("rebalance", "swapin"))
    async with in_cloud(machine, aws) as daemon:
        aws.tell(REBALANCE, json_text(json.dumps({"noticeTime": utc(soon(0))})))
        await until(lambda: notices(daemon.status())["rebalance"].progress == "done")
        assert notices(daemon.status())["rebalance"].done == ("swapin: done",)


@on_loop
async def test_they_can_be_switched_off(machine: Machine) -> None:
    machine.used()
    machine.configure(QUICK + '[notices]\nprovider = "off"\n')
    async with running(machine) as daemon:
        assert "cloud" not in {source.name for source in daemon.status().sources}
        assert daemon.status().notices_total is None
        with pytest.raises(hookclient.DaemonError, match="notices are switched off: set notices"):
            await machine.asked(do="simulate", kind="stop")


@on_loop
async def test_a_machine_in_no_cloud_says_so_and_hears_made_up_ones(machine: Machine) -> None:
    machine.used()
    machine.configure(NEVER_IDLE + on("rebalance", "prepare"))
    async with running(machine) as daemon:
        await until(
            lambda: any(
                source.name == "cloud" and "no virtual machine" in source.reason
                for source in daemon.status().sources
            )
        )
        await machine.asked(do="simulate", kind="rebalance")
        await until(lambda: machine.runs.decisions)
