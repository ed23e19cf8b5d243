# SPDX-License-Identifier: LGPL-2.1-or-later
"""`hibprep notices`: what it asks, shows and ends with."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from hibprep import cli, hookclient
from hibprep.cli import common
from hibprep.cli.notices import parse_time
from hibprep.cli.status import daemon_page, line
from hibprep.errors import ExitCode, HibprepError
from hibprep.history import Kept
from hibprep.notices_report import from_plain, notices_page
from hibprep.page import render
from hibprep.signals.cloud import aws as module
from hibprep.status import NoticeStatus
from tests.cloud.aws_server import ACTION, DATA, REBALANCE, AwsServer, event
from tests.cloud.server import status
from tests.fakes.host import NOTICES, STATUS

from .conftest import Golden

AT = datetime(2031, 11, 22, 14, 4, tzinfo=UTC)
Capture = pytest.CaptureFixture[str]


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(common.ROOT_VARIABLE, str(tmp_path))
    return tmp_path


@pytest.fixture
def asked(root: Path, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, object]]:
    """A daemon, and what it was asked."""
    documents: list[dict[str, object]] = []

    def request(document: dict[str, object], *, path: str) -> dict[str, object]:
        assert path == str(root / "run/hibprep/control")
        documents.append(document)
        return {"v": 1, "ok": True, "notices": json.loads(json.dumps(NOTICES)), "id": "1a2b3c4d"}

    monkeypatch.setattr(hookclient, "request", request)
    return documents


@pytest.fixture
def aws(root: Path) -> Iterator[AwsServer]:
    with AwsServer() as server:
        path = root / "etc/hibprep/hibprep.toml"
        path.parent.mkdir(parents=True)
        path.write_text(f'[notices]\nprovider = "aws"\naddress = "127.0.0.1:{server.port}"\n')
        yield server


def answer(capsys: Capture) -> dict[str, Any]:
    found = json.loads(capsys.readouterr().out)
    assert isinstance(found, dict)
    return found


def test_what_the_daemon_knows(
    asked: list[dict[str, object]], capsys: Capture, golden: Golden
) -> None:
    assert cli.run(["notices"]) == ExitCode.DONE
    golden("notices.txt", capsys.readouterr().out)
    assert cli.run(["notices", "--json"]) == ExitCode.DONE
    shown = answer(capsys)
    assert shown == NOTICES
    assert asked == [{"do": "notices", "who": "hibprep notices"}] * 2


def test_tables(golden: Golden) -> None:
    text = render(notices_page(from_plain(NOTICES)), terminal=True, color=False, width=120)
    golden("notices.table", "\n".join(line.rstrip() for line in text.splitlines()) + "\n")


def test_nobody_and_nothing(golden: Golden) -> None:
    pages = [
        notices_page(from_plain({"reason": "this is no virtual machine"})),
        notices_page(from_plain({"works": True, "provider": "gcp"})),
    ]
    golden("notices-none.txt", "\n".join(render(page) for page in pages))


def test_an_answer_that_is_not_understood() -> None:
    with pytest.raises(HibprepError, match=r"not understood: notices\[0\]\.kind is 7"):
        from_plain({"notices": [{"kind": 7}]})
    assert from_plain(None).provider == ""
    assert from_plain({"watches": [7, {"name": 7}]}).watches[0].name == ""


@pytest.mark.usefixtures("root")
def test_without_a_daemon(capsys: Capture) -> None:
    assert cli.run(["notices"]) == ExitCode.IMPOSSIBLE
    assert capsys.readouterr().err == (
        "hibprep: no daemon runs: start it: systemctl start hibprep.service, or ask the provider "
        "itself: hibprep notices --once\n"
    )
    assert cli.run(["notices", "simulate", "stop"]) == ExitCode.IMPOSSIBLE
    assert capsys.readouterr().err == (
        "hibprep: no daemon runs: start it: systemctl start hibprep.service\n"
    )


@pytest.mark.usefixtures("root")
def test_a_daemon_that_says_no(monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    def request(document: dict[str, object], *, path: str) -> dict[str, object]:
        raise hookclient.DaemonError("notices are switched off: set notices.provider")

    monkeypatch.setattr(hookclient, "request", request)
    assert cli.run(["notices"]) == ExitCode.IMPOSSIBLE
    assert capsys.readouterr().err == ("hibprep: notices are switched off: set notices.provider\n")


# --- made up --------------------------------------------------------------------------------------


def test_a_made_up_one(asked: list[dict[str, object]], capsys: Capture) -> None:
    assert cli.run(["notices", "simulate", "stop", "--in", "2min"]) == ExitCode.DONE
    assert capsys.readouterr().out == "told: stop (1a2b3c4d); hibprep notices shows what is done\n"
    assert cli.run(["notices", "simulate", "rebalance", "--json"]) == ExitCode.DONE
    assert answer(capsys) == {"kind": "rebalance", "seconds": None, "id": "1a2b3c4d"}
    who = "hibprep notices simulate"
    assert asked == [
        {"do": "simulate", "kind": "stop", "who": who, "seconds": 120.0},
        {"do": "simulate", "kind": "rebalance", "who": who},
    ]


def test_a_made_up_one_at_a_time_of_day(asked: list[dict[str, object]]) -> None:
    at = datetime.now(tz=UTC) + timedelta(hours=1)
    assert cli.run(["notices", "simulate", "freeze", "--at", at.isoformat()]) == ExitCode.DONE
    seconds = asked[0]["seconds"]
    assert isinstance(seconds, float)
    assert 3000 < seconds <= 3600


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["simulate"], "missing argument"),
        (["simulate", "moon"], "'moon' is not one of 'hibernate', 'stop'"),
        (["simulate", "stop", "--in", "0"], "is not a time"),
        (["simulate", "stop", "--in", "5", "--at", AT.isoformat()], "exclude each other"),
        (["simulate", "stop", "--at", "noon"], "'noon' is no time; give one such as"),
        (["simulate", "stop", "--at", "2020-01-01T00:00:00Z"], "is not to come: give a time"),
        (["--provider", "aws"], "--provider goes with --once"),
        (["--provider", "simulated", "--once"], "is not one of 'auto', 'aws'"),
        (["show"], "no such command"),
    ],
)
@pytest.mark.usefixtures("asked")
def test_mistakes(arguments: list[str], words: str, capsys: Capture) -> None:
    assert cli.run(["notices", *arguments]) == ExitCode.USAGE
    (line,) = capsys.readouterr().err.splitlines()
    assert words in line


def test_times() -> None:
    assert parse_time("2031-11-22T14:04:00Z") == AT
    assert parse_time("2031-11-22T22:04:00+08:00") == AT
    assert parse_time("2031-11-22 14:04") == AT  # UTC, as all that is shown


# --- once -----------------------------------------------------------------------------------------


def test_the_provider_itself(aws: AwsServer, capsys: Capture) -> None:
    at = (datetime.now(tz=UTC) + timedelta(minutes=2)).replace(microsecond=0)
    aws.interrupt("stop", at)
    aws.schedule(event(at))
    assert cli.run(["notices", "--once", "--json"]) == ExitCode.DONE
    shown = answer(capsys)
    assert shown["provider"] == "aws"
    assert {each["name"] for each in shown["watches"]} == {
        ACTION, REBALANCE, "autoscaling/target-lifecycle-state", "events/maintenance/scheduled",
        "hibernation/configured",
    }  # fmt: skip
    assert all(each["words"] and each["at"] for each in shown["watches"])
    assert [(each["kind"], each["deadline"]) for each in shown["notices"]] == [
        ("stop", at.isoformat()),
        ("reboot", at.isoformat()),
    ]
    # each place once, and nothing else
    assert len([each for each in aws.asked if each.path == DATA + ACTION]) == 1
    assert cli.run(["notices", "--once"]) == ExitCode.DONE
    out = capsys.readouterr().out
    assert out.startswith("Notices come from aws: 2 notices.\n")
    for token in aws.given:
        assert token not in out + json.dumps(shown)


def test_a_place_that_fails_is_told_and_the_others_are_shown(
    aws: AwsServer, capsys: Capture
) -> None:
    aws.interrupt("stop", AT)
    aws.tell(REBALANCE, status(503))
    assert cli.run(["notices", "--once", "--json"]) == ExitCode.PARTLY
    shown = answer(capsys)
    assert [each["name"] for each in shown["watches"] if each["failures"]] == [REBALANCE]
    assert [each["kind"] for each in shown["notices"]] == ["stop"]


def test_nobody_answers(aws: AwsServer, capsys: Capture) -> None:
    aws.always = status(403)
    assert cli.run(["notices", "--once"]) == ExitCode.IMPOSSIBLE
    assert "the metadata service of this instance is switched off" in capsys.readouterr().err
    assert module.PLACE.address == "169.254.169.254"  # which nobody has asked


def test_a_machine_in_no_cloud(root: Path, capsys: Capture) -> None:
    assert cli.run(["notices", "--once"]) == ExitCode.IMPOSSIBLE
    assert "this is no virtual machine" in capsys.readouterr().err
    path = root / "etc/hibprep/hibprep.toml"
    path.parent.mkdir(parents=True)
    path.write_text('[notices]\nprovider = "off"\n')
    assert cli.run(["notices", "--once"]) == ExitCode.IMPOSSIBLE
    assert capsys.readouterr().err == (
        "hibprep: notices.provider is off: name one: --provider NAME\n"
    )


def test_a_program_is_asked(root: Path, tmp_path: Path, capsys: Capture) -> None:
    program = tmp_path / "notices"
    program.write_text('#!/bin/sh\necho \'{"kind": "freeze", "id": "7", "in_seconds": 60}\'\n')
    program.chmod(0o755)
    path = root / "etc/hibprep/hibprep.toml"
    path.parent.mkdir(parents=True)
    path.write_text(f'[notices]\nprovider = "command"\ncommand = ["{program}"]\n')
    assert cli.run(["notices", "--once", "--json"]) == ExitCode.DONE
    (notice,) = answer(capsys)["notices"]
    assert (notice["kind"], notice["source"], notice["id"]) == ("freeze", "command", "7")
    path.write_text("")
    assert cli.run(["notices", "--once", "--provider", "command"]) == ExitCode.USAGE
    assert "notices.command is not set: set the program" in capsys.readouterr().err


def test_the_daemons_status_has_them_too() -> None:
    announced = NoticeStatus(
        kind="stop", source="aws", id="1", seconds_left=90.0, progress="at work", doing="prepare"
    )
    over = replace(announced, kind="reboot", progress="over", doing="")
    status = replace(STATUS, notices=(announced, over))
    assert "stop announced by aws: prepare" in line(status)
    assert "reboot" not in line(status)
    text = render(daemon_page(status, Kept()))
    assert re.search(r"stop +aws +\(in 90\.0 s\) +now: prepare$", text, re.MULTILINE)
    assert "Notices" not in render(daemon_page(STATUS, Kept()))
