# SPDX-License-Identifier: LGPL-2.1-or-later
"""The rig's guest as libvirt is told of it, and what is read back from libvirt's XML. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree as ET
from xml.sax.saxutils import escape, quoteattr

from bench.lab.errors import LabError

MIB = 1 << 20

LAB_CHANNEL = "org.hibprep.lab"
CHANNEL = "org.hibprep.0"
AGENT_CHANNEL = "org.qemu.guest_agent.0"

# What an emulator keeps of translated code: by its own choice it may be more than the memory of the
# guest, and hide what that comes to in the size of the process.
_TRANSLATED_MIB = 32

_KERNEL_WORDS = (
    *("root=/dev/vda", "rw", "console=ttyS0", "cryptomgr.notests", "noresume"),
    *("systemd.show_status=no", "audit=0"),
)


@dataclass(frozen=True, kw_only=True)
class Description:
    """What a guest of the rig is made of. All paths are those that libvirtd sees."""

    name: str
    uuid: str
    emulator: str
    kernel: Path
    initrd: Path
    root_disk: Path
    console: Path
    swap_disk: Path | None = None
    memory_bytes: int = 640 * MIB
    cpus: int = 2
    balloon: bool = True
    reporting: bool = False
    autodeflate: bool = False
    more_devices: str = ""  # as XML

    def xml(self) -> str:
        """The domain. Emulated on every machine, so that what is tested is the same everywhere."""
        return f"""<domain type='qemu'>
  <name>{escape(self.name)}</name>
  <uuid>{escape(self.uuid)}</uuid>
  <memory unit='KiB'>{self.memory_bytes >> 10}</memory>
  <vcpu>{self.cpus}</vcpu>
  <os>
    <type arch='x86_64' machine='pc'>hvm</type>
    <kernel>{escape(str(self.kernel))}</kernel>
    <initrd>{escape(str(self.initrd))}</initrd>
    <cmdline>{escape(" ".join(_KERNEL_WORDS))}</cmdline>
  </os>
  <features>
    <acpi/>
    <tcg><tb-cache unit='MiB'>{_TRANSLATED_MIB}</tb-cache></tcg>
  </features>
  <cpu mode='maximum'/>
  <on_poweroff>destroy</on_poweroff>
  <on_reboot>destroy</on_reboot>
  <on_crash>destroy</on_crash>
  <devices>
    <emulator>{escape(self.emulator)}</emulator>
{self._disks()}
    <controller type='usb' model='none'/>
    <serial type='file'>
      <source path={quoteattr(str(self.console))} append='on'/>
      <target port='0'/>
    </serial>
{_channel(AGENT_CHANNEL)}
{_channel(CHANNEL)}
{_channel(LAB_CHANNEL)}
    <rng model='virtio'><backend model='random'>/dev/urandom</backend></rng>
    <video><model type='none'/></video>
{self._balloon()}
{self.more_devices}
  </devices>
</domain>
"""

    def _disks(self) -> str:
        disks = [(self.root_disk, "vda"), (self.swap_disk, "vdb")]
        return "\n".join(
            # cache='none': what libvirt calls safe for a disk that two hosts see
            f"""    <disk type='file' device='disk'>
      <driver name='qemu' type='raw' cache='none' discard='unmap'/>
      <source file={quoteattr(str(path))}/>
      <target dev='{name}' bus='virtio'/>
    </disk>"""
            for path, name in disks
            if path is not None
        )

    def _balloon(self) -> str:
        if not self.balloon:
            return "    <memballoon model='none'/>"
        switches = {"autodeflate": self.autodeflate, "freePageReporting": self.reporting}
        words = "".join(f" {name}='{'on' if on else 'off'}'" for name, on in switches.items())
        return f"    <memballoon model='virtio'{words}/>"


def _channel(name: str) -> str:
    # without a path, for each host has one of its own
    return f"    <channel type='unix'><target type='virtio' name={quoteattr(name)}/></channel>"


def channel_path(xml: str, name: str) -> Path:
    """The socket of a virtio port, from the XML of a domain that runs."""
    source = _port(xml, name).find("source")
    path = None if source is None else source.get("path")
    if path is None:
        raise LabError(f"{name} has no socket: the domain does not run")
    return Path(path)


def is_connected(xml: str, name: str) -> bool:
    """Whether a program in the guest has opened the port."""
    target = _port(xml, name).find("target")
    return target is not None and target.get("state") == "connected"


def _port(xml: str, name: str) -> ET.Element:
    for channel in ET.fromstring(xml).iter("channel"):  # noqa: S314 - from the rig's own libvirtd
        target = channel.find("target")
        if target is not None and target.get("name") == name:
            return channel
    raise LabError(f"the domain has no channel {name}")
