# SPDX-License-Identifier: LGPL-2.1-or-later
"""`hibprep guest`: what it asks for, what it prints, how it ends."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from hibprep import cli
from hibprep.cli import common, guest, guest_options
from hibprep.errors import ExitCode
from hibprep.guests import connection
from hibprep.guests.balloon import Reserve
from hibprep.guests.errors import ConnectionFailedError
from hibprep.guests.hardware import Hardware
from hibprep.guests.means import Means
from hibprep.guests.record import NAMESPACE
from tests.fakes.clock import HandClock
from tests.fakes.libvirt_host import FakeDomain, FakeHost, FakeStop, fake_means
from tests.fakes.libvirt_inside import FakeAgent
from tests.fakes.libvirt_memory import MIB, GuestMemory

PLAIN = Hardware(balloon=True, agent=True, agent_connected=True)
Capture = pytest.CaptureFixture[str]


class House:
    def __init__(self) -> None:
        self.clock = HandClock()
        self.host = FakeHost(self.clock)
        self.stop = FakeStop(self.clock)
        self.uris: list[str] = []
        for name in ("web", "db"):
            memory = GuestMemory(self.clock)
            self.host.add(name, memory, hardware=PLAIN, agent_inside=FakeAgent(self.clock, memory))

    @property
    def web(self) -> FakeDomain:
        return self.host.all["web"]


@pytest.fixture
def house(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> House:
    monkeypatch.setenv(common.ROOT_VARIABLE, str(tmp_path))
    fake = House()

    def connect(uri: str) -> FakeHost:
        fake.uris.append(uri)
        if fake.host.why_unreachable is not None:
            raise fake.host.why_unreachable
        return fake.host

    def means(_ctx: object, _host: object, _stop: object) -> Means:
        return fake_means(fake.clock, fake.stop)

    monkeypatch.setattr(connection, "connect", connect)
    monkeypatch.setattr(guest_options, "means_of", means)
    return fake


def test_list(house: House, capsys: Capture) -> None:
    assert cli.run(["guest", "list"]) == ExitCode.DONE
    assert capsys.readouterr().out.startswith("guests of fake://a/system: 2, 2 of them")
    assert house.uris == ["qemu:///system"]
    assert house.host.closed


def test_prepare_and_undo(house: House, capsys: Capture) -> None:
    assert cli.run(["guest", "prepare", "web", "--json"]) == ExitCode.DONE
    out = capsys.readouterr()
    (report,) = json.loads(out.out)["guests"]
    assert report["record_kept"]
    assert house.web.memory.actual < 500 * MIB
    assert "hibprep: web: in the guest" in out.err
    assert NAMESPACE in house.web.live
    assert cli.run(["guest", "undo", "web"]) == ExitCode.DONE
    assert "1 of 1 put back" in capsys.readouterr().out
    assert house.web.memory.actual == 1024 * MIB


def test_all(house: House, capsys: Capture) -> None:
    assert cli.run(["guest", "prepare", "--all", "--json"]) == ExitCode.DONE
    names = [report["name"] for report in json.loads(capsys.readouterr().out)["guests"]]
    assert names == ["db", "web"]
    assert cli.run(["guest", "undo", "--all", "--json"]) == ExitCode.DONE
    endings = [each["ending"] for each in json.loads(capsys.readouterr().out)["guests"]]
    assert endings == ["undone", "undone"]
    assert cli.run(["guest", "undo", "--all"]) == ExitCode.DONE
    assert capsys.readouterr().out == "undo: nothing to undo on fake://a/system\n"


def test_estimate(house: House, capsys: Capture) -> None:
    assert cli.run(["guest", "estimate", "web"]) == ExitCode.DONE
    assert capsys.readouterr().out.startswith("estimate web: ")
    assert house.web.memory.actual == 1024 * MIB


def test_another_host(house: House) -> None:
    assert cli.run(["guest", "list", "--connect", "qemu+ssh://b/system"]) == ExitCode.DONE
    assert house.uris == ["qemu+ssh://b/system"]


def test_the_host_that_is_configured(house: House, tmp_path: Path) -> None:
    config = tmp_path / "c.toml"
    config.write_text('[guests]\nuri = "qemu:///session"\n')
    assert cli.run(["guest", "list", "--config", str(config)]) == ExitCode.DONE
    assert house.uris == ["qemu:///session"]


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["prepare"], ExitCode.USAGE, "no guest is named"),
        (["undo"], ExitCode.USAGE, "no guest is named"),
        (["prepare", "web", "--all"], ExitCode.USAGE, "--all and names exclude each other"),
        (["prepare", "nobody"], ExitCode.USAGE, "no domain 'nobody'"),
        (["prepare", "web", "nobody"], ExitCode.USAGE, "no domain 'nobody'"),
        (["prepare", "web", "--reserve", "3%"], ExitCode.USAGE, "3% is not from 5%"),
        (["prepare", "web", "--reserve", "x%"], ExitCode.USAGE, "is no reserve"),
        (["prepare", "web", "--reserve", "nan%"], ExitCode.USAGE, "is not from 5%"),
        (["prepare", "web", "--reserve", "1M"], ExitCode.USAGE, "run out of memory"),
        (["prepare", "web", "--timeout", "0"], ExitCode.USAGE, "is not a time"),
        (["nothing"], ExitCode.USAGE, "no such command"),
    ],
)
def test_what_is_refused(
    house: House, capsys: Capture, arguments: list[str], code: ExitCode, said: str
) -> None:
    assert cli.run(["guest", *arguments]) == code
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line
    assert not house.web.live
    assert house.web.memory.target == 1024 * MIB


def test_a_host_that_is_not_there(house: House, capsys: Capture) -> None:
    house.host.why_unreachable = ConnectionFailedError("qemu:///system: no", "is it there?")  # type: ignore[assignment]
    assert cli.run(["guest", "list"]) == ExitCode.IMPOSSIBLE
    assert capsys.readouterr().err == "hibprep: qemu:///system: no: is it there?\n"


def test_without_the_binding(monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    monkeypatch.setitem(sys.modules, "libvirt", None)
    connection._library.cache_clear()
    try:
        assert cli.run(["guest", "list"]) == ExitCode.IMPOSSIBLE
    finally:
        connection._library.cache_clear()
    (line,) = capsys.readouterr().err.splitlines()
    assert "apt install python3-libvirt" in line
    assert "pip install 'hibprep[libvirt]'" in line


def test_one_of_several_that_fails_is_told_and_the_others_are_done(
    house: House, capsys: Capture
) -> None:
    house.host.all["db"].refuses_balloon = True
    assert cli.run(["guest", "prepare", "--all", "--json"]) == ExitCode.PARTLY
    out = capsys.readouterr()
    found = json.loads(out.out)
    assert [report["name"] for report in found["guests"]] == ["web"]
    assert found["failures"][0]["name"] == "db"
    assert "Unable to change memory" in out.err


def test_one_alone_that_fails_is_the_command_s_own_error(house: House, capsys: Capture) -> None:
    house.web.refuses_balloon = True
    assert cli.run(["guest", "prepare", "web"]) == ExitCode.FAILED
    assert capsys.readouterr().out == ""


def test_where_it_gains_nothing(house: House, capsys: Capture) -> None:
    house.web.hardware = Hardware(balloon=True, huge_pages=True)
    assert cli.run(["guest", "prepare", "web"]) == ExitCode.IMPOSSIBLE
    assert "huge pages" in capsys.readouterr().out


def test_interrupted(house: House, capsys: Capture) -> None:
    house.stop.at = house.clock.seconds + 2
    assert cli.run(["guest", "prepare", "web"]) in (ExitCode.INTERRUPTED, ExitCode.PARTLY)
    assert "interrupted" in capsys.readouterr().out
    assert house.web.memory.target == 1024 * MIB
    assert not house.web.live


def test_what_cannot_be_undone_now(house: House) -> None:
    assert cli.run(["guest", "prepare", "web"]) == ExitCode.DONE
    house.web.memory.driver = False
    assert cli.run(["guest", "undo", "web"]) == ExitCode.PARTLY
    assert house.web.live


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("256M", Reserve(fixed_bytes=256 * MIB)),
        ("20%", Reserve(share=0.2)),
        (" 12.5% ", Reserve(share=0.125)),
    ],
)
def test_reserves(text: str, expected: Reserve) -> None:
    assert guest_options.parse_reserve(text) == expected


def test_the_commands_are_all_there() -> None:
    assert {"list", "estimate", "prepare", "undo"} <= set(guest.command.commands)
