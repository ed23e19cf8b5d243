# SPDX-License-Identifier: LGPL-2.1-or-later
"""A domain without a disk: it runs at once, costs nothing, and nobody in it answers anything."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING

from bench.lab.rig import Rig
from bench.lab.rig_host import RigHost

if TYPE_CHECKING:
    import libvirt

    from tests.libvirt.rig_guest import Connections

MIB = 1 << 20
HUGE_PAGES = """<memoryBacking>
    <hugepages><page size='2048' unit='KiB'/></hugepages>
    <source type='memfd'/>
  </memoryBacking>"""


class BareGuest:
    """Started on host A. ``host`` is where it is now."""

    def __init__(
        self,
        rig: Rig,
        connections: Connections,
        *,
        name: str = "bare",
        memory_bytes: int = 64 * MIB,
        backing: str = "",
    ) -> None:
        """``backing``: what its memory is made of, as XML."""
        self.name = name
        self.host = rig.a
        self._rig = rig
        self._connections = connections
        self._xml = f"""<domain type='qemu'>
  <name>{name}</name>
  <uuid>{uuid.uuid4()}</uuid>
  <memory unit='KiB'>{memory_bytes >> 10}</memory>
  {backing}
  <vcpu>1</vcpu>
  <os><type arch='x86_64' machine='pc'>hvm</type></os>
  <devices>
    <emulator>{rig.hypervisor.emulator}</emulator>
    <controller type='usb' model='none'/>
    <video><model type='none'/></video>
    <memballoon model='virtio'/>
  </devices>
</domain>
"""

    @property
    def domain(self) -> libvirt.virDomain:
        """The domain where it is now."""
        return self._connections.to(self.host).lookupByName(self.name)

    def start(self) -> None:
        """Define it and let it run."""
        self._connections.to(self.host).defineXML(self._xml).create()

    def is_on(self, host: RigHost) -> bool:
        """Whether it runs there."""
        return any(each.isActive() for each in self._all(host))

    def close(self) -> None:
        """End it wherever it is."""
        import libvirt  # noqa: PLC0415 - tests that need it say so when it is not there

        for host in self._rig.hosts:
            if not host.running:
                host.start()
            for domain in self._all(host):
                try:
                    domain.destroy()
                except libvirt.libvirtError:
                    if domain.isActive():  # else it was off, or has ended by itself
                        raise
            for domain in self._all(host):
                domain.undefine()

    def _all(self, host: RigHost) -> list[libvirt.virDomain]:
        listed = self._connections.to(host).listAllDomains()
        return [each for each in listed if each.name() == self.name]
