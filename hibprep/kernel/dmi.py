# SPDX-License-Identifier: LGPL-2.1-or-later
"""Who made this machine: what its firmware says of itself (SMBIOS; drivers/firmware/dmi-id.c), and
a hypervisor (Documentation/ABI/stable/sysfs-hypervisor-xen)."""

from __future__ import annotations

from dataclasses import dataclass

from hibprep.kernel.root import KernelRoot

DMI = "/sys/class/dmi/id"
XEN = "/sys/hypervisor"
CPUINFO = "/proc/cpuinfo"

# What firmware of virtual machines calls its maker or itself; each a beginning, in small letters.
_VIRTUAL = (
    "qemu", "kvm", "bochs", "xen", "vmware", "innotek gmbh", "virtualbox", "parallels", "bhyve",
    "openstack", "ovirt", "red hat", "rhev", "google", "amazon ec2", "standard pc", "hvm domu",
    "virtual machine", "apple virtualization",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """The words of the firmware, "" for what it does not say; `under_hypervisor`: something else
    than it says that this is a virtual machine."""

    sys_vendor: str = ""
    product_name: str = ""
    product_version: str = ""
    board_vendor: str = ""
    bios_vendor: str = ""
    bios_version: str = ""
    chassis_asset_tag: str = ""
    hypervisor_uuid: str = ""
    under_hypervisor: bool = False

    @property
    def is_virtual(self) -> bool:
        """Whether this is a virtual machine, as far as can be told."""
        words = (self.sys_vendor, self.product_name, self.board_vendor, self.bios_vendor)
        return self.under_hypervisor or any(each.lower().startswith(_VIRTUAL) for each in words)


def read_identity(root: KernelRoot) -> Identity:
    """What there is to be known without asking anybody."""

    def told(path: str) -> str:
        return (root.try_read(path) or "").strip()

    def dmi(name: str) -> str:
        return told(f"{DMI}/{name}")

    return Identity(
        sys_vendor=dmi("sys_vendor"),
        product_name=dmi("product_name"),
        product_version=dmi("product_version"),
        board_vendor=dmi("board_vendor"),
        bios_vendor=dmi("bios_vendor"),
        bios_version=dmi("bios_version"),
        chassis_asset_tag=dmi("chassis_asset_tag"),
        hypervisor_uuid=told(f"{XEN}/uuid"),
        under_hypervisor=told(f"{XEN}/type") == "xen" or _has_flag(told(CPUINFO)),
    )


def _has_flag(cpuinfo: str) -> bool:
    """Whether the CPU says that it is one of a hypervisor's (x86: CPUID leaf 1, bit 31 of ECX,
    which is kept for that). All CPUs say the same: the first one's line is enough."""
    for line in cpuinfo.splitlines():
        name, _, flags = line.partition(":")
        if name.strip() == "flags":
            return "hypervisor" in flags.split()
    return False
