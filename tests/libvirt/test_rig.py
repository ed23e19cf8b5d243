# SPDX-License-Identifier: LGPL-2.1-or-later
"""The rig itself: guests that move between two real libvirtd keep their memory."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import pytest

from bench.lab.rig import Rig
from bench.lab.workload_client import Workload
from tests.processes import ended
from tests.waiting import until

if TYPE_CHECKING:
    from tests.libvirt.conftest import NewGuest
    from tests.libvirt.rig_guest import Connections, RigGuest

MIB = 1 << 20


@pytest.mark.smoke
def test_there_and_back_with_every_byte_and_its_agent(guest: RigGuest, rig: Rig) -> None:
    import libvirt_qemu  # noqa: PLC0415 - where it lacks, the fixtures say so

    program = Workload(
        guest.resident, cold_bytes=96 * MIB, warm_bytes=16 * MIB, tmpfs_bytes=8 * MIB
    )
    program.start()
    pid = program.pid
    for host in (rig.b, rig.a):
        guest.move(host)
        assert guest.arrived(host) == guest.identity  # the same agent, not one that was booted
        assert program.pid == pid
        assert program.verify()["ok"]
        guest.wait_for_agent()
        assert libvirt_qemu.qemuAgentCommand(guest.domain, '{"execute":"guest-ping"}', 30, 0)


def _has(guest: RigGuest, wanted: int) -> bool:
    return guest.actual_bytes() == wanted


@pytest.mark.parametrize("reporting", [False, True])
def test_the_balloon_takes_and_gives(new_guest: NewGuest, *, reporting: bool) -> None:
    guest = new_guest(reporting=reporting)
    assert (f"freePageReporting='{'on' if reporting else 'off'}'") in guest.domain.XMLDesc()
    full = guest.actual_bytes()
    for wanted in (full - 128 * MIB, full):
        guest.domain.setMemory(wanted >> 10)
        until(partial(_has, guest, wanted), "the balloon is there", 60)


def test_guests_outlive_their_daemon_and_not_their_host(
    guest: RigGuest, rig: Rig, connections: Connections
) -> None:
    rig.a.kill_daemon()
    assert guest.resident.read("/proc/uptime")  # it runs on
    rig.a.start()
    (found,) = connections.to(rig.a).listAllDomains()
    assert found.isActive()
    pid = int((rig.a.folder / f"run/libvirt/qemu/run/{guest.name}.pid").read_text())
    rig.a.cut_power()
    until(lambda: ended(pid), "QEMU has ended")


def test_a_host_that_is_off_is_no_destination(guest: RigGuest, rig: Rig) -> None:
    import libvirt  # noqa: PLC0415 - where it lacks, the fixtures say so

    destination = guest.migrate_uri(rig.b)
    rig.b.cut_power()
    with pytest.raises(libvirt.libvirtError):
        guest.domain.migrateToURI3(
            rig.b.uri,
            {libvirt.VIR_MIGRATE_PARAM_URI: destination},
            libvirt.VIR_MIGRATE_PEER2PEER | libvirt.VIR_MIGRATE_LIVE,
        )
    assert guest.domain.isActive()
    assert guest.resident.read("/proc/uptime")
