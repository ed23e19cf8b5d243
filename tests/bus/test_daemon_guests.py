# SPDX-License-Identifier: LGPL-2.1-or-later
"""The whole daemon on a host of guests."""

from __future__ import annotations

import pytest

from hibprep.guestjobs import GuestJobs
from hibprep.guests import record as records
from hibprep.guests.port import MigrateOptions
from hibprep.guests.prepare import Options, prepare
from tests.bus.whole import QUICK, Machine, on_loop, running, until, works
from tests.unit.moving_guests import TwoHosts

ENABLED = QUICK + '[guests]\nenabled = true\nuri = "fake://b/system"\n'


@on_loop
async def test_guests_that_come_prepared_have_their_memory_back(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    hosts = TwoHosts()
    monkeypatch.setattr("hibprep.guestcare.connect", hosts.connect)
    monkeypatch.setattr("hibprep.guestcare.real_means", lambda *_: hosts.means(pid=99))
    machine.used()
    machine.configure(ENABLED)
    guest = hosts.guest()
    prepare(guest, Options(), hosts.means(), lambda _: None)
    async with running(machine) as daemon:
        await until(lambda: works(daemon, "guests"))
        guest.migrate(hosts.b, "", MigrateOptions(undefine_source=True))
        there = hosts.b.all["web"]
        await until(lambda: records.NAMESPACE not in there.live)
        hosts.assert_as_before()
        there.persistent = True
        there.managed_save()
        jobs = GuestJobs(str(machine.root))
        await until(lambda: jobs.entries()[0])
        assert jobs.entries()[0][0].operation == "save"
    assert hosts.b.closed


@on_loop
async def test_a_machine_without_libvirt_says_so(machine: Machine) -> None:
    machine.used()
    machine.configure(QUICK + "[guests]\nenabled = true\n")
    async with running(machine) as daemon:
        await until(
            lambda: any(
                source.name == "guests" and source.reason.startswith("no libvirt here")
                for source in daemon.status().sources
            )
        )


@on_loop
async def test_it_is_off_unless_it_is_switched_on(machine: Machine) -> None:
    machine.used()
    async with running(machine) as daemon:
        assert "guests" not in {source.name for source in daemon.status().sources}
