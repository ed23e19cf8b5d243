# SPDX-License-Identifier: LGPL-2.1-or-later
from __future__ import annotations

import json
from pathlib import Path

import pytest

from hibprep.cli import run
from hibprep.cli.guest_moving import progress_line
from hibprep.errors import ExitCode
from hibprep.guestjobs import GuestJobs, KeptJob
from hibprep.guests.errors import ConnectionFailedError, DestinationError
from hibprep.guests.progress import MoveProgress, Part
from tests.fakes.libvirt_host import FakeDomain
from tests.fakes.libvirt_memory import MIB

from .moving_guests import TwoHosts, until_aborted


@pytest.fixture
def hosts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> TwoHosts:
    made = TwoHosts()
    for module in ("guest_migrate", "guest_save"):
        monkeypatch.setattr(f"hibprep.cli.{module}.connect", made.connect)
    monkeypatch.setattr("hibprep.cli.guest_options.means_of", lambda *_: made.means())
    monkeypatch.setenv("HIBPREP_ROOT", str(tmp_path))
    return made


def guest(hosts: TwoHosts, *words: str) -> int:
    return run(["guest", *words, "--connect", hosts.a.uri])


def test_migrate(hosts: TwoHosts, capsys: pytest.CaptureFixture[str]) -> None:
    hosts.guest()
    assert guest(hosts, "migrate", "web", hosts.b.uri) == ExitCode.DONE
    hosts.assert_as_before()
    out, err = capsys.readouterr()
    assert out.startswith("migrate web to fake://b/system: done: it was migrated; it runs there")
    assert "estimate, as it was" in out
    assert "of zeros" in out
    assert "had 1.0 GiB, has 1.0 GiB" in out
    assert "hibprep: web: preparing" in err
    assert "LESS MEMORY" not in err


def test_migrate_tells_programs(hosts: TwoHosts, capsys: pytest.CaptureFixture[str]) -> None:
    hosts.guest()
    words = ("migrate", "web", "--to", hosts.b.uri, "--json", "--bandwidth", "50M")
    assert guest(hosts, *words) == ExitCode.DONE
    told = json.loads(capsys.readouterr().out)
    assert told["where"] == "destination"
    assert told["exit_code"] == 0
    assert told["left"] == []
    assert told["job"]["memory_processed_bytes"] < told["unprepared"]["sent_bytes"]
    assert told["unprepared"]["bytes_per_second"] == 50 * MIB


def test_everything_that_can_be_passed_on_is(
    hosts: TwoHosts, monkeypatch: pytest.MonkeyPatch
) -> None:
    hosts.guest()
    passed: list[object] = []
    really = FakeDomain.migrate

    def migrate(self: FakeDomain, *arguments: object) -> object:
        passed.append(arguments[2])
        return really(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(FakeDomain, "migrate", migrate)
    words = [
        "--p2p", "--migrate-uri", "tcp://b:49152", "--bandwidth", "100M",
        "--parallel-connections", "4", "--compressed", "--auto-converge", "--post-copy",
        "--copy-storage", "inc", "--persistent", "--undefine-source", "--unsafe",
    ]  # fmt: skip
    assert guest(hosts, "migrate", "web", hosts.b.uri, *words) == ExitCode.DONE
    (options,) = passed
    assert str(options) == (
        "MigrateOptions(peer_to_peer=True, migrate_uri='tcp://b:49152', "
        "bandwidth_bytes_per_second=104857600, postcopy=True, parallel_connections=4, "
        "compressed=True, auto_converge=True, copy_storage=<CopyStorage.INCREMENTAL: 'inc'>, "
        "persist_destination=True, undefine_source=True, unsafe=True)"
    )


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["migrate"], "no guest is named: give DOMAIN DESTINATION, or --all --to URI"),
        (["migrate", "web"], "no destination is given"),
        (["migrate", "--all"], "no destination is given"),
        (["migrate", "web", "--all", "--to", "x"], "--all and a domain exclude each other"),
        (["migrate", "web", "x", "--to", "y"], "the destination is given twice"),
        (["migrate", "web", "x", "--bandwidth", "1k"], "less than 1 MiB"),
        (["migrate", "web", "x", "--parallel-connections", "0"], "0 is not in the range"),
        (["save"], "missing argument 'DOMAIN'"),
    ],
)
def test_mistakes(
    hosts: TwoHosts, capsys: pytest.CaptureFixture[str], words: list[str], said: str
) -> None:
    hosts.guest()
    assert guest(hosts, *words) == ExitCode.USAGE
    out, err = capsys.readouterr()
    assert out == ""
    assert said.lower() in err.lower()
    assert len(err.splitlines()) == 1
    assert hosts.connected == []


@pytest.mark.parametrize(
    ("name", "to", "code", "said"),
    [
        ("nobody", "fake://b/system", ExitCode.USAGE, "has no domain 'nobody'"),
        ("web", "fake://nowhere/system", ExitCode.IMPOSSIBLE, "cannot be reached from here"),
        ("web", "fake://a/system", ExitCode.USAGE, "is the host on which web runs"),
    ],
)
def test_what_is_wrong_is_one_line(
    hosts: TwoHosts,
    capsys: pytest.CaptureFixture[str],
    *,
    name: str,
    to: str,
    code: ExitCode,
    said: str,
) -> None:
    hosts.guest()
    assert guest(hosts, "migrate", name, to) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert len(err.splitlines()) == 1
    assert said in err
    hosts.assert_as_before()


def test_what_is_left_is_said_aloud(hosts: TwoHosts, capsys: pytest.CaptureFixture[str]) -> None:
    def die(domain: FakeDomain) -> None:
        hosts.cut_off(domain.host)
        raise ConnectionFailedError("fake://a/system: the socket is closed")

    hosts.guest().during = die
    assert guest(hosts, "migrate", "web", hosts.b.uri) == ExitCode.PARTLY
    err = capsys.readouterr().err
    assert err.splitlines()[-1].startswith(
        "hibprep: web IS LEFT WITH LESS MEMORY; when it can be done, do: "
        "hibprep guest undo --connect fake://a/system web ("
    )


def test_the_time_limit(hosts: TwoHosts, capsys: pytest.CaptureFixture[str]) -> None:
    def slow(domain: FakeDomain) -> None:
        hosts.clock.go_on(31)
        until_aborted(domain)

    hosts.guest().during = slow
    assert guest(hosts, "migrate", "web", hosts.b.uri, "--timeout", "30") == ExitCode.PARTLY
    assert "it took longer than 30 s" in capsys.readouterr().err
    hosts.assert_as_before()


def test_all(hosts: TwoHosts, capsys: pytest.CaptureFixture[str]) -> None:
    def fail(_domain: FakeDomain) -> None:
        raise DestinationError("mail: operation failed: no disk")

    for name in ("data", "mail", "web"):
        hosts.guest(name)
    hosts.a.all["mail"].during = fail
    words = ("migrate", "--all", "--to", hosts.b.uri, "--parallel", "2")
    assert guest(hosts, *words) == ExitCode.PARTLY
    out, err = capsys.readouterr()
    assert out.startswith("migrate: 2 of 3 guests from fake://a/system to fake://b/system; ")
    assert "hibprep: mail: operation failed: no disk" in err
    assert guest(hosts, *words[:-2], "--json") == ExitCode.PARTLY
    assert json.loads(capsys.readouterr().out)["moved"] == 0


def test_save(hosts: TwoHosts, capsys: pytest.CaptureFixture[str]) -> None:
    domain = hosts.guest()
    assert guest(hosts, "save", "web", "--bypass-cache") == ExitCode.DONE
    assert domain.saved
    out = capsys.readouterr().out
    assert out.startswith("save web: done: it was saved; it is in libvirt's file; ")
    assert "after its start (virsh start) it has less memory until the daemon" in out


def test_as_it_is(hosts: TwoHosts) -> None:
    hosts.guest()
    assert guest(hosts, "save", "web", "--no-prepare") == ExitCode.DONE
    assert "set_balloon" not in hosts.faults.names


def test_progress_in_words() -> None:
    now = MoveProgress(
        domain="web",
        part=Part.MIGRATING,
        done_bytes=312 * MIB,
        total_bytes=640 * MIB,
        bytes_per_second=100 * MIB,
        iteration=2,
        left_seconds=3.25,
        note="the guest is slowed down by 20 %",
    )
    assert progress_line(now) == (
        "web: migrating, 312.0 MiB of 640.0 MiB, 100.0 MiB/s, pass 2, 3.2 s left, the guest is "
        "slowed down by 20 %"
    )


def test_history_of_guests(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HIBPREP_ROOT", str(tmp_path))
    kept = KeptJob(ended="2026-03-01T12:00:00+00:00", name="web", uuid="0",
                   operation="save", seconds=2.0, sent_bytes=MIB)  # fmt: skip
    assert GuestJobs(str(tmp_path)).append(kept) == ""
    assert run(["history", "--guests"]) == ExitCode.DONE
    assert "1 job of guests kept." in capsys.readouterr().out
    assert run(["history", "--guests", "--json"]) == ExitCode.DONE
    assert json.loads(capsys.readouterr().out)["jobs"][0]["sent_bytes"] == MIB
