# SPDX-License-Identifier: LGPL-2.1-or-later
"""`hibprep guest migrate` in each of libvirt's ways, between two real libvirtd: whatever the way,
the guest is prepared before it and has its memory back after it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from bench.lab.rig import Rig
from hibprep.errors import ExitCode
from hibprep.guests.connection import connect
from hibprep.guests.port import EventKind, GuestEvent
from tests.libvirt.checks import assert_as_before, fill_cache
from tests.libvirt.commands import COMMAND_SECONDS, Ended, GuestCommand, guest_command
from tests.waiting import until

if TYPE_CHECKING:
    from tests.libvirt.rig_guest import RigGuest

MIB = 1 << 20
CONNECTIONS = 4
BUSY_MIB = 32
BUSY_FILE = "/dev/shm/busy"  # noqa: S108 - of the guest
SLOW = 16 * MIB  # a second: a guest that is busy writes faster
_USERFAULTFD = Path("/dev/userfaultfd")
_TCP_ESTABLISHED = "01"


def words_for(guest: RigGuest, rig: Rig, *way: str) -> tuple[str, ...]:
    """What is typed to have it on host B. Both hosts are one machine, and share its memory; how
    long its preparation takes, emulated, says nothing."""
    return (
        *("migrate", guest.name, rig.b.uri, *way),
        *("--persistent", "--undefine-source", "--overcommit", "--thorough"),
    )


def assert_arrived(ended: Ended, guest: RigGuest, rig: Rig, full: int) -> None:
    assert ended.code is ExitCode.DONE, str(ended)
    report = ended.report
    assert (report["where"], report["left"]) == ("destination", []), str(ended)
    # or there was nothing to be given back
    assert report["preparation"]["actual_bytes"] < full, str(ended)
    assert report["undone"]["ending"] == "undone", str(ended)
    assert guest.arrived(rig.b) == guest.identity
    assert_as_before(guest, full)
    assert guest.domains_on(rig.a) == []
    job, before = report["job"], report["unprepared"]
    assert job["memory_processed_bytes"] > 0, str(ended)
    print(  # noqa: T201 - the figures that it took
        f"sent {job['memory_processed_bytes'] >> 20} MiB of {before['sent_bytes'] >> 20} in "
        f"{job['elapsed_seconds']} s and {job['iteration']} passes, still for "
        f"{job['downtime_seconds']} s"
    )


@contextmanager
def busy(guest: RigGuest) -> Iterator[None]:
    """A program in it writes to its memory as fast as it can, for the length of the block."""
    loop = (
        f"head -c {BUSY_MIB}M /dev/urandom >{BUSY_FILE}.from;"
        f"while :; do cat {BUSY_FILE}.from >{BUSY_FILE}; done"
    )
    guest.resident.run(
        ["systemd-run", "--quiet", "--collect", "--unit=busy", "sh", "-c", loop], check=True
    )
    until(lambda: has_written(guest), "it is busy", 120, pause_seconds=0.5)
    yield
    guest.resident.run(["systemctl", "stop", "busy"], check=True)


def has_written(guest: RigGuest) -> bool:
    done = guest.resident.run(["stat", "-c", "%s", BUSY_FILE])
    return done.returncode == 0 and int(done.stdout) > 0


def test_peer_to_peer(guest: RigGuest, rig: Rig) -> None:
    full = guest.actual_bytes()
    fill_cache(guest)
    ended = guest_command(rig.a, *words_for(guest, rig, "--p2p"))
    assert_arrived(ended, guest, rig, full)
    assert ended.report["job"]["memory_processed_bytes"] < ended.report["unprepared"]["sent_bytes"]


@pytest.mark.skipif(not _USERFAULTFD.exists(), reason=f"no {_USERFAULTFD}: Linux 6.1 has it")
def test_post_copy(guest: RigGuest, rig: Rig) -> None:
    full = guest.actual_bytes()
    heard: list[GuestEvent] = []
    there = connect(rig.b.uri)
    end = there.watch(heard.append)
    try:
        with busy(guest):
            way = ("--post-copy", "--bandwidth", f"{SLOW >> 20}M")
            ended = guest_command(rig.a, *words_for(guest, rig, *way))
            assert_arrived(ended, guest, rig, full)
        changes = [(each.kind, each.detail) for each in heard if each.name == guest.name]
        assert (EventKind.RESUMED, "post-copy") in changes, (changes, str(ended))
    finally:
        end()
        there.close()


def test_several_connections(guest: RigGuest, rig: Rig) -> None:
    full = guest.actual_bytes()
    fill_cache(guest)
    way = ("--parallel-connections", str(CONNECTIONS), "--bandwidth", f"{SLOW >> 20}M")
    command = GuestCommand(rig.a, *words_for(guest, rig, *way))
    most = [0]

    def has_ended() -> bool:
        most.append(connections_to(rig.b.address))
        return not command.running

    until(has_ended, "it has ended", COMMAND_SECONDS, pause_seconds=0.05)
    ended = command.end()
    assert_arrived(ended, guest, rig, full)
    assert max(most) > CONNECTIONS, str(ended)  # one more is for all but memory


def connections_to(address: str) -> int:
    """How many TCP connections to that address there are on this machine (proc_net_tcp.rst)."""
    number = "".join(f"{int(part):02X}" for part in reversed(address.split(".")))
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return sum(row[2].startswith(f"{number}:") and row[3] == _TCP_ESTABLISHED for row in rows)


def test_a_guest_that_is_slowed_down(guest: RigGuest, rig: Rig) -> None:
    full = guest.actual_bytes()
    with busy(guest):
        way = ("--auto-converge", "--bandwidth", f"{SLOW >> 20}M")
        ended = guest_command(rig.a, *words_for(guest, rig, *way))
        assert_arrived(ended, guest, rig, full)
    assert any("the guest is slowed down by" in line for line in ended.lines), str(ended)
    job = ended.report["job"]
    spent = job["elapsed_seconds"] - job["setup_seconds"]
    # as libvirt has measured both; the last pass, with the guest standing still, has no limit
    assert job["memory_processed_bytes"] - BUSY_MIB * MIB < 1.1 * SLOW * spent, str(ended)
