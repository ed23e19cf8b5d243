# SPDX-License-Identifier: LGPL-2.1-or-later
"""What is read from a domain's description."""

from __future__ import annotations

import pytest

from hibprep.guests.errors import GuestError
from hibprep.guests.hardware import Hardware, read_hardware


def domain(devices: str = "", backing: str = "", kind: str = "kvm") -> str:
    return (
        f"<domain type='{kind}'><name>web</name><memoryBacking>{backing}</memoryBacking>"
        f"<devices>{devices}</devices></domain>"
    )


BALLOON = "<memballoon model='virtio' freePageReporting='on' autodeflate='on'><stats period='5'/>"


@pytest.mark.parametrize(
    ("xml", "expected"),
    [
        (domain(), Hardware()),
        (domain(kind="qemu"), Hardware(emulated=True)),
        (domain("<memballoon model='none'/>"), Hardware()),
        (domain("<memballoon model='virtio'/>"), Hardware(balloon=True)),
        (domain("<memballoon model='virtio-non-transitional'/>"), Hardware(balloon=True)),
        (
            domain(BALLOON + "</memballoon>"),
            Hardware(
                balloon=True, free_page_reporting=True, autodeflate=True, stats_period_seconds=5
            ),
        ),
        (
            domain("<memballoon model='none' freePageReporting='on'/>"),
            Hardware(),
        ),
        (domain(backing="<hugepages/>"), Hardware(huge_pages=True)),
        (domain(backing="<locked/>"), Hardware(locked=True)),
        (
            domain("<channel type='unix'><target type='virtio' name='org.hibprep.0'/></channel>"),
            Hardware(channel=True),
        ),
        (
            domain(
                "<channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0' "
                "state='connected'/></channel>"
            ),
            Hardware(agent=True, agent_connected=True),
        ),
        (
            domain("<channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/>"
                   "</channel>"),
            Hardware(agent=True),
        ),
        (
            domain(
                "<hostdev mode='subsystem' type='pci'><source><address domain='0x0000' bus='0x06' "
                "slot='0x02' function='0x1'/></source></hostdev>"
            ),
            Hardware(vfio=("the pci device 0000:06:02.1",)),
        ),
        (
            domain("<hostdev mode='subsystem' type='usb'><source/></hostdev>"),
            Hardware(),
        ),
        (
            domain("<hostdev type='mdev'><source><address uuid='c2177883'/></source></hostdev>"),
            Hardware(vfio=("the mdev device c2177883",)),
        ),
        (
            domain("<interface type='hostdev'/>"),
            Hardware(vfio=("a network interface of the host",)),
        ),
    ],
)  # fmt: skip
def test_read(xml: str, expected: Hardware) -> None:
    assert read_hardware(xml) == expected


@pytest.mark.parametrize("xml", ["", "<domain", "x" * (17 << 20)])
def test_what_is_none(xml: str) -> None:
    with pytest.raises(GuestError):
        read_hardware(xml)


@pytest.mark.parametrize(
    ("hardware", "balloon", "reporting"),
    [
        (Hardware(balloon=True, free_page_reporting=True), "", ""),
        (Hardware(balloon=True), "", "not switched on"),
        (Hardware(), "no virtio balloon", "no virtio balloon"),
        (Hardware(balloon=True, free_page_reporting=True, vfio=("x",)), "VFIO", "VFIO"),
        (Hardware(balloon=True, free_page_reporting=True, huge_pages=True), "huge", "huge"),
    ],
)
def test_why_it_would_be_useless(hardware: Hardware, balloon: str, reporting: str) -> None:
    assert (balloon in hardware.why_no_balloon) == bool(hardware.why_no_balloon or not balloon)
    assert bool(hardware.why_no_balloon) == bool(balloon)
    assert bool(hardware.why_no_reporting) == bool(reporting)
    assert balloon in hardware.why_no_balloon
    assert reporting in hardware.why_no_reporting
