# SPDX-License-Identifier: LGPL-2.1-or-later
"""Migrations that cannot be, between two real libvirtd: one clear line each, nothing half-done, and
no guest left small."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from bench.lab.rig import Rig
from bench.lab.rig_host import RigHost
from hibprep.errors import ExitCode
from tests.libvirt.bare_guest import HUGE_PAGES
from tests.libvirt.checks import full_size
from tests.libvirt.commands import Ended, guest_command

if TYPE_CHECKING:
    from tests.libvirt.conftest import NewBareGuest, NewGuest
    from tests.libvirt.rig_guest import RigGuest

MIB = 1 << 20
_OVERCOMMIT = Path("/proc/sys/vm/nr_overcommit_hugepages")  # Linux 2.6.24
_HUGE_PAGES = 64  # of 2 MiB, for the guest on both hosts


def assert_said(ended: Ended, code: ExitCode, words: str) -> None:
    """Nothing was begun: one line that says why."""
    assert ended.code is code, str(ended)
    assert len(ended.lines) == 1, str(ended)
    assert words in ended.lines[0], str(ended)
    assert ended.report == {}


def assert_failed(ended: Ended, words: str) -> None:
    """It was begun and did not come about, for what the destination has: one line that says why,
    after those that tell of progress."""
    assert ended.code is ExitCode.IMPOSSIBLE, str(ended)
    assert words in ended.lines[-1], str(ended)
    assert sum(words in line for line in ended.lines) == 1, str(ended)
    assert (ended.report["where"], ended.report["left"]) == ("source", []), str(ended)
    assert ended.report["undone"]["ending"] == "undone", str(ended)


def test_what_speaks_against_it_is_one_line(guest: RigGuest, rig: Rig) -> None:
    with full_size(guest):
        nobody = guest_command(rig.a, "migrate", "nobody", rig.b.uri)
        assert_said(nobody, ExitCode.USAGE, f"there are {guest.name}")
        itself = guest_command(rig.a, "migrate", guest.name, rig.a.uri)
        assert_said(itself, ExitCode.USAGE, f"is the host on which {guest.name} runs")
        nowhere = guest_command(rig.a, "migrate", guest.name, "nonsense:///system")
        assert_said(nowhere, ExitCode.IMPOSSIBLE, "nonsense:///system cannot be reached from here")
        rig.b.cut_power()
        for way in ((), ("--p2p",)):
            off = guest_command(rig.a, "migrate", guest.name, rig.b.uri, *way)
            assert_said(off, ExitCode.IMPOSSIBLE, f"{rig.b.uri} cannot be reached from here")
    with full_size(guest), taken_port(rig.b) as port:
        rig.b.start()
        words = ("--migrate-uri", f"tcp://{rig.b.address}:{port}", "--thorough", "--overcommit")
        taken = guest_command(rig.a, "migrate", guest.name, rig.b.uri, *words)
        assert_failed(taken, "Address already in use")
        assert guest.domains_on(rig.b) == []
    assert guest.arrived(rig.a) == guest.identity


@contextmanager
def taken_port(host: RigHost) -> Iterator[int]:
    """A port that no QEMU there can listen on."""
    with socket.create_server((host.address, 0)) as listener:
        yield listener.getsockname()[1]


def test_less_is_free_there_than_it_has(new_bare_guest: NewBareGuest, rig: Rig) -> None:
    # both hosts have this machine's memory, and not all of that is free
    every = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    bare = new_bare_guest(memory_bytes=(every - 32 * MIB) // MIB * MIB)
    ended = guest_command(rig.a, "migrate", bare.name, rig.b.uri)
    assert_said(ended, ExitCode.IMPOSSIBLE, "give --overcommit")
    assert " free" in ended.lines[0]
    assert bare.is_on(rig.a)
    assert not bare.is_on(rig.b)


def test_there_is_no_memory_for_it_after_all(new_guest: NewGuest, rig: Rig) -> None:
    guest = new_guest(memory_bytes=1536 * MIB)
    with full_size(guest), little_memory(rig.b):
        way = ("--thorough", "--overcommit")
        ended = guest_command(rig.a, "migrate", guest.name, rig.b.uri, *way)
        assert_failed(ended, "free memory on the destination, or choose another")
    assert guest.arrived(rig.a) == guest.identity
    assert guest.domains_on(rig.b) == []


@contextmanager
def little_memory(host: RigHost) -> Iterator[None]:
    """QEMUs that its libvirtd starts get a little more memory than it has itself, and no more."""
    status = Path(f"/proc/{host.pid}/status").read_text()
    (size,) = (int(line.split()[1]) for line in status.splitlines() if line.startswith("VmSize:"))
    limit = (size << 10) + 256 * MIB
    _limit(host, str(limit))
    try:
        yield
    finally:
        _limit(host, "unlimited")


def _limit(host: RigHost, address_space: str) -> None:
    """By its own user: root of a container may lack CAP_SYS_RESOURCE (prlimit(2))."""
    owner = Path(f"/proc/{host.pid}").stat()
    command = ["prlimit", f"--pid={host.pid}", f"--as={address_space}:unlimited"]
    subprocess.run(command, user=owner.st_uid, group=owner.st_gid, extra_groups=(), check=True)


def test_a_guest_in_huge_pages_is_moved_as_it_is(new_bare_guest: NewBareGuest, rig: Rig) -> None:
    with huge_pages():
        bare = new_bare_guest(backing=HUGE_PAGES)
        prepared = guest_command(rig.a, "prepare", bare.name)
        assert prepared.code is ExitCode.IMPOSSIBLE, str(prepared)
        (report,) = prepared.report["guests"]
        assert "its memory is in huge pages" in report["reason"]
        assert not report["record_kept"]
        assert "urn:hibprep" not in bare.domain.XMLDesc()
        way = ("--persistent", "--undefine-source", "--overcommit")
        moved = guest_command(rig.a, "migrate", bare.name, rig.b.uri, *way)
        bare.host = rig.b
        assert moved.code is ExitCode.DONE, str(moved)
        assert moved.report["notes"][0].startswith("not prepared: ")
        assert "its memory is in huge pages" in moved.report["notes"][0]
        assert bare.is_on(rig.b)
        assert "urn:hibprep" not in bare.domain.XMLDesc()
        bare.close()  # as long as it may have them


@contextmanager
def huge_pages() -> Iterator[None]:
    """The kernel may make some where they are asked for (admin-guide/mm/hugetlbpage.rst)."""
    before = _OVERCOMMIT.read_text()
    _OVERCOMMIT.write_text(str(int(before) + _HUGE_PAGES))
    try:
        yield
    finally:
        _OVERCOMMIT.write_text(before)
