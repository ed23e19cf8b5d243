# SPDX-License-Identifier: LGPL-2.1-or-later
"""Graphics drivers that have something to keep: NVIDIA's (its README, "Configuring Power
Management Support"), and video memory that amdgpu moves to RAM (Documentation/gpu/amdgpu).
"""

from __future__ import annotations

from dataclasses import dataclass

from hibprep.errors import KernelFileError
from hibprep.kernel.mounts import mount_of, read_mounts
from hibprep.kernel.root import KernelRoot
from hibprep.system.units import Setting, environment, is_enabled

_PARAMETERS = "/proc/driver/nvidia/params"
_SERVICE = "systemd-hibernate.service"
_UNITS = ("nvidia-hibernate.service", "nvidia-resume.service")


@dataclass(frozen=True, slots=True, kw_only=True)
class Nvidia:
    """NVIDIA's kernel driver, as it was loaded."""

    preserves: bool  # NVreg_PreserveVideoMemoryAllocations
    by_notifiers: bool  # NVreg_UseKernelSuspendNotifiers: the kernel tells it, no services needed
    temporary: str  # where video memory is kept meanwhile
    temporary_in_memory: bool  # that is a tmpfs
    services: tuple[str, ...]  # those of its services that a hibernation starts


def read_nvidia(root: KernelRoot) -> Nvidia | None:
    """None when the driver is not loaded."""
    text = root.try_read(_PARAMETERS)
    if text is None:
        return None
    values = {}
    for line in text.splitlines():
        name, colon, value = line.partition(":")
        if colon:
            values[name.strip()] = value.strip().strip('"')
    temporary = values.get("TemporaryFilePath") or "/tmp"  # noqa: S108 - the driver's default
    mount = mount_of(read_mounts(root), root.resolve(temporary))
    return Nvidia(
        preserves=values.get("PreserveVideoMemoryAllocations", "0") != "0",
        by_notifiers=values.get("UseKernelSuspendNotifiers", "0") != "0",
        temporary=temporary,
        temporary_in_memory=mount is not None and mount.kind in ("tmpfs", "ramfs"),
        services=tuple(unit for unit in _UNITS if is_enabled(root, unit, _SERVICE)),
    )


def session_freezing(root: KernelRoot) -> Setting | None:
    """SYSTEMD_SLEEP_FREEZE_USER_SESSIONS as drop-ins set it for a hibernation."""
    return environment(root, _SERVICE).get("SYSTEMD_SLEEP_FREEZE_USER_SESSIONS")


def video_memory_bytes(root: KernelRoot) -> int:
    """Video memory of discrete cards that is in use and goes to RAM when a hibernation begins."""
    total = 0
    try:
        names = root.listdir("/sys/class/drm")
    except KernelFileError:
        return 0
    for name in names:
        if not name.removeprefix("card").isdecimal():
            continue
        text = (root.try_read(f"/sys/class/drm/{name}/device/mem_info_vram_used") or "").strip()
        total += int(text) if text.isascii() and text.isdecimal() else 0
    return total
