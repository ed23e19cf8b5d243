# SPDX-License-Identifier: LGPL-2.1-or-later
"""A Debian guest on the rig, by libvirt-python: it has the guest agent, and all ports."""

from __future__ import annotations

import time
import uuid

import libvirt

from bench.lab.domain import AGENT_CHANNEL, LAB_CHANNEL, Description, channel_path, is_connected
from bench.lab.errors import GuestTimeout
from bench.lab.images import Image
from bench.lab.resident import Resident
from bench.lab.rig import Rig
from bench.lab.rig_host import RigHost

MIB = 1 << 20
BOOT_SECONDS = 240.0
AGENT_SECONDS = 120.0


class Connections:
    """One to each host, made anew when its daemon was away."""

    def __init__(self) -> None:
        self._open: dict[str, libvirt.virConnect] = {}

    def to(self, host: RigHost) -> libvirt.virConnect:
        """A connection that works."""
        if host.uri in self._open and not _works(self._open[host.uri]):
            self._drop(host.uri)
        if host.uri not in self._open:
            self._open[host.uri] = libvirt.open(host.uri)
        return self._open[host.uri]

    def close(self) -> None:
        """All of them."""
        for uri in list(self._open):
            self._drop(uri)

    def _drop(self, uri: str) -> None:
        connection = self._open.pop(uri)
        try:
            connection.close()
        except libvirt.libvirtError:  # its daemon is gone, and with it all there was to close
            return


def _works(connection: libvirt.virConnect) -> bool:
    try:
        connection.getLibVersion()
    except libvirt.libvirtError:
        return False
    return True


class RigGuest:
    """A guest that is booted on host A and then moved. ``host`` is where it is now."""

    def __init__(
        self,
        rig: Rig,
        connections: Connections,
        image: Image,
        *,
        name: str = "guest",
        memory_bytes: int = 640 * MIB,
        balloon: bool = True,
        reporting: bool = False,
        autodeflate: bool = False,
        persistent: bool = True,
        more_devices: str = "",
    ) -> None:
        """``persistent``: defined, and not only created. ``more_devices``: as XML."""
        self.rig = rig
        self.host = rig.a
        self.identity = ""
        self.persistent = persistent
        self._connections = connections
        self._files = rig.guest_files(image)
        self.resident = Resident(self._files.console)
        self.description = Description(
            name=name,
            uuid=str(uuid.uuid4()),
            emulator=rig.hypervisor.emulator,
            kernel=self._files.kernel,
            initrd=self._files.initrd,
            root_disk=self._files.root_disk,
            swap_disk=self._files.swap_disk,
            console=self._files.console,
            memory_bytes=memory_bytes,
            balloon=balloon,
            reporting=reporting,
            autodeflate=autodeflate,
            more_devices=more_devices,
        )

    @property
    def name(self) -> str:
        """The domain's."""
        return self.description.name

    @property
    def domain(self) -> libvirt.virDomain:
        """The domain where it is now."""
        return self._connections.to(self.host).lookupByName(self.name)

    def start(self) -> None:
        """Boot it, and wait for the lab's agent."""
        connection = self._connections.to(self.host)
        if self.persistent:
            connection.defineXML(self.description.xml()).create()
        else:
            connection.createXML(self.description.xml())
        self.identity = self._talk()

    def move(self, to: RigHost, flags: int = libvirt.VIR_MIGRATE_LIVE) -> None:
        """Migrate it as `virsh migrate` would, and go on there."""
        if self.persistent:
            flags |= libvirt.VIR_MIGRATE_PERSIST_DEST | libvirt.VIR_MIGRATE_UNDEFINE_SOURCE
        parameters = {libvirt.VIR_MIGRATE_PARAM_URI: self.migrate_uri(to)}
        self.domain.migrate3(self._connections.to(to), parameters, flags)
        self.arrived(to)

    def migrate_uri(self, to: RigHost) -> str:
        """Where the QEMU of that host is to listen for this guest."""
        return f"unix://{to.folder}/run/{self.name}.migration"

    def arrived(self, host: RigHost) -> str:
        """It is on that host now, whoever moved it: talk to it there. The agent's identity."""
        self.host = host
        return self._talk()

    def wait_for_agent(self) -> None:
        """Until QEMU's guest agent has opened its port."""
        deadline = time.monotonic() + AGENT_SECONDS
        while not is_connected(self.domain.XMLDesc(), AGENT_CHANNEL):
            if time.monotonic() > deadline:
                raise GuestTimeout(f"no guest agent\n{self.resident.console_tail()}")
            time.sleep(0.2)

    def actual_bytes(self) -> int:
        """What the balloon leaves to it now."""
        return int(self.domain.memoryStats()["actual"]) << 10

    def domains_on(self, host: RigHost) -> list[libvirt.virDomain]:
        """What that host knows of it: nothing, or its domain, which need not run."""
        listed = self._connections.to(host).listAllDomains()
        return [each for each in listed if each.name() == self.name]

    def close(self) -> None:
        """End it wherever it is, and remove its disks."""
        self.resident.close()
        for host in self.rig.hosts:
            if not host.running:  # or its definition would be met by the next guest
                host.start()
            self._remove(host)
        self.rig.remove(self._files)

    def _talk(self) -> str:
        path = channel_path(self.domain.XMLDesc(), LAB_CHANNEL)
        return self.resident.connect(path, BOOT_SECONDS)

    def _remove(self, host: RigHost) -> None:
        for domain in self.domains_on(host):
            if domain.isActive():
                domain.destroy()
        for domain in self.domains_on(host):  # one that is not persistent is gone by now
            domain.undefineFlags(libvirt.VIR_DOMAIN_UNDEFINE_MANAGED_SAVE)
