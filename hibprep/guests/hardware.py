# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a domain's description says of its memory and of the ways into the guest. Pure.

The format is https://libvirt.org/formatdomain.html. Unknown elements are left alone.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from dataclasses import dataclass

from hibprep.guests.errors import GuestError

CHANNEL = "org.hibprep.0"
AGENT_CHANNEL = "org.qemu.guest_agent.0"
_LARGEST_XML_BYTES = 16 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Hardware:
    """What matters here of a domain's devices."""

    balloon: bool = False
    free_page_reporting: bool = False
    autodeflate: bool = False  # the guest takes memory back before it kills for want of it
    stats_period_seconds: int = 0  # 0: the guest tells no statistics
    vfio: tuple[str, ...] = ()  # host devices given to the guest, in words
    huge_pages: bool = False
    locked: bool = False  # <locked/>: the host keeps all of it in memory
    channel: bool = False  # hibprep's own port
    agent: bool = False  # the guest agent's port
    agent_connected: bool = False
    emulated: bool = False  # TCG, without KVM

    @property
    def why_no_balloon(self) -> str:
        """Why a balloon gains nothing here; empty where it does."""
        if not self.balloon:
            return "it has no virtio balloon device (<memballoon model='virtio'/>)"
        return self._why_pinned

    @property
    def why_no_reporting(self) -> str:
        """Why free page reporting gains nothing here; empty where it does."""
        if not self.balloon:
            return "it has no virtio balloon device"
        if not self.free_page_reporting:
            return "it is not switched on (<memballoon model='virtio' freePageReporting='on'/>)"
        return self._why_pinned

    @property
    def _why_pinned(self) -> str:
        if self.vfio:
            # QEMU inhibits discarding of memory that a device may write to at any time
            return f"its memory is pinned for {self.vfio[0]} (VFIO), which QEMU discards nothing of"
        if self.huge_pages:
            return "its memory is in huge pages, which a balloon of small pages cannot give back"
        return ""


def read_hardware(xml: str) -> Hardware:
    """From the XML of a domain; GuestError when that is none."""
    if len(xml) > _LARGEST_XML_BYTES:
        raise GuestError("the domain's description is larger than any should be")
    try:
        root = ET.fromstring(xml)  # noqa: S314 - from libvirtd, which is root's
    except ET.ParseError as error:
        raise GuestError(f"the domain's description is not XML ({error})") from None
    balloon = root.find("./devices/memballoon")
    model = "none" if balloon is None else balloon.get("model", "none")
    stats = None if balloon is None else balloon.find("stats")
    virtio = model.startswith("virtio")
    ports = {
        target.get("name", ""): target.get("state", "")
        for target in root.findall("./devices/channel/target[@type='virtio']")
    }
    return Hardware(
        balloon=virtio,
        free_page_reporting=virtio and _is_on(balloon, "freePageReporting"),
        autodeflate=virtio and _is_on(balloon, "autodeflate"),
        stats_period_seconds=0 if stats is None else _number(stats.get("period", "0")),
        vfio=_host_devices(root),
        huge_pages=root.find("./memoryBacking/hugepages") is not None,
        locked=root.find("./memoryBacking/locked") is not None,
        channel=CHANNEL in ports,
        agent=AGENT_CHANNEL in ports,
        agent_connected=ports.get(AGENT_CHANNEL) == "connected",
        emulated=root.get("type") == "qemu",
    )


def _is_on(element: ET.Element | None, attribute: str) -> bool:
    return element is not None and element.get(attribute) == "on"


def _number(text: str) -> int:
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 9 else 0  # noqa: PLR2004


def _host_devices(root: ET.Element) -> tuple[str, ...]:
    found = []
    for device in root.findall("./devices/hostdev"):
        kind = device.get("type", "")
        if kind not in ("pci", "mdev"):  # USB and SCSI need no pinned memory
            continue
        address = device.find("./source/address")
        where = "" if address is None else _address(address)
        found.append(f"the {kind} device {where}".rstrip())
    found += [
        "a network interface of the host"
        for interface in root.findall("./devices/interface")
        if interface.get("type") in ("hostdev", "vdpa")
    ]
    return tuple(found)


def _address(address: ET.Element) -> str:
    if address.get("uuid"):
        return address.get("uuid", "")
    parts = [address.get(name, "0x0") for name in ("domain", "bus", "slot", "function")]
    try:
        domain, bus, slot, function = (int(part, 16) for part in parts)
    except ValueError:
        return ""
    return f"{domain:04x}:{bus:02x}:{slot:02x}.{function:x}"
