# SPDX-License-Identifier: LGPL-2.1-or-later
"""hibprep in a guest behind a real virtio port, asked by its host as `hibprep guest` asks it."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from bench.channelport import ChannelPort
from bench.desktop import start_daemon
from bench.lab import Guest, LabError, Workload, build
from bench.moving import ON_REQUEST
from bench.qmpdomain import QmpDomain, device_arguments
from hibprep.guests.channel import Conversation
from hibprep.guests.errors import ChannelError
from hibprep.guests.hardware import CHANNEL
from hibprep.guests.ladder import RungName
from hibprep.guests.means import Means, real_means
from hibprep.guests.prepare import Options, prepare
from hibprep.guests.undo import UndoEnding, undo
from hibprep.guests.waiting import Uninterrupted
from hibprep.kernel.root import KernelRoot
from hibprep.model import Ending
from tests.vm.conftest import GIB, MIB

SECONDS = 240.0
DEVICE = "port0"  # the first of `Guest.ports`


def unplug(guest: Guest) -> None:
    guest.monitor("device_del", id=DEVICE)


def plug_in(guest: Guest, means: Means) -> None:
    """QEMU lets go of the one that was there before when nobody looks at it any more."""
    device = {"driver": "virtserialport", "id": DEVICE, "chardev": DEVICE, "name": CHANNEL}
    end = means.clock.monotonic() + SECONDS
    while True:
        try:
            guest.monitor("device_add", **device)
        except LabError as error:
            if "in use" not in str(error) or means.clock.monotonic() > end:
                raise
        else:
            return


def test_a_guest_whose_port_comes_late_prepares_when_its_host_asks(wheel: Path) -> None:
    image = build("trixie", print)
    with Guest(
        image,
        memory_bytes=GIB,
        swap_bytes=GIB,
        qemu_arguments=device_arguments(reporting=True),
        ports=(CHANNEL,),
    ) as guest:
        guest.start()
        guest.install(wheel)
        means, connection = real_means(KernelRoot(), "test", Uninterrupted()), guest.port(CHANNEL)
        nobody = Conversation(ChannelPort(connection), clock=means.clock, stop=means.stop)
        with pytest.raises(ChannelError, match="nobody answers"):
            nobody.hello()
        unplug(guest)
        start_daemon(guest, ON_REQUEST)
        plug_in(guest, means)
        assert hello(connection, means)
        # what another host left in the middle of a line
        connection.sendall(b'{"v": 1, "do": "prep')
        prepares(guest, QmpDomain(guest, reporting=True, channel=connection), means)
        unplug(guest)
        plug_in(guest, means)
        assert hello(connection, means)


def hello(connection: socket.socket, means: Means) -> str:
    """The version that answers, once the guest has seen its port."""
    end = means.clock.monotonic() + SECONDS
    while True:
        conversation = Conversation(ChannelPort(connection), clock=means.clock, stop=means.stop)
        try:
            return conversation.hello()
        except ChannelError:
            if means.clock.monotonic() > end:
                raise


def prepares(guest: Guest, domain: QmpDomain, means: Means) -> None:
    load = Workload(guest, cold_bytes=250 * MIB, read_bytes=300 * MIB)
    load.start()
    options = Options(timeout_seconds=SECONDS, guest_seconds=SECONDS / 2)
    report = prepare(domain, options, means, lambda _: None)
    print(report)
    (used,) = (rung for rung in report.rungs if rung.used)
    assert used.name is RungName.CHANNEL
    assert used.guest_report is not None
    assert used.guest_report["compacted"] is True
    freed = used.guest_report["freed_bytes"]
    assert isinstance(freed, int)
    assert freed >= 400 * MIB
    assert report.ending is Ending.DONE
    assert report.before.sent_bytes - report.after.sent_bytes >= 300 * MIB
    assert undo(domain, means).ending in (UndoEnding.DONE, UndoEnding.NOTHING)
    assert domain.memory_stats().actual_bytes == guest.memory_bytes
    verified = load.verify()
    assert verified["ok"], verified
