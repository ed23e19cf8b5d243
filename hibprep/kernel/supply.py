# SPDX-License-Identifier: LGPL-2.1-or-later
"""What feeds the machine, its lid and its power profile (Documentation/ABI/testing/:
sysfs-class-power, sysfs-platform_profile; Documentation/input/event-codes.rst).

The lid has two faces: a switch among the input devices, which any driver has, and
/proc/acpi/button/lid/*/state, which is deprecated and ACPI's alone. Neither is told by uevents; the
switch wakes up who has it open.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterable
from typing import NamedTuple

from hibprep.errors import KernelFileDenied, KernelFileError, KernelFileMissing
from hibprep.kernel.root import KernelRoot, translate

SUPPLIES = "/sys/class/power_supply"
PLATFORM_PROFILE = "/sys/firmware/acpi/platform_profile"
ACPI_LIDS = "/proc/acpi/button/lid"
INPUTS = "/sys/class/input"

_LINES = frozenset({"Mains", "USB", "Wireless"})
_STORES = frozenset({"Battery", "UPS"})
_FED = frozenset({"Charging", "Full", "Not charging"})
_PERCENT = 100
_SHORT = 4096  # attributes and bursts of events are smaller
# EVIOCGSW(8) of include/uapi/linux/input.h, as most architectures number it; SW_LID is bit 0
_EVIOCGSW = (2 << 30) | (8 << 16) | (ord("E") << 8) | 0x1B
_SW_LID = 1


class Supply(NamedTuple):
    """One entry of /sys/class/power_supply that feeds the whole machine."""

    kind: str  # Mains, USB, Wireless, Battery, UPS
    online: bool | None = None  # of a line
    status: str = ""  # of a store: Charging, Discharging, Full, Not charging, Unknown
    percent: float | None = None  # of a store
    energy_full: int | None = None  # µWh
    charge_full: int | None = None  # µAh


def read_supplies(root: KernelRoot) -> tuple[Supply, ...]:
    """All there are now; without those of mice and the like, and without empty battery bays. What
    vanishes while it is read, or has nothing to say (ENODATA), is left out."""
    try:
        names = root.listdir(SUPPLIES)
    except (KernelFileMissing, KernelFileDenied):
        return ()
    found: list[Supply] = []
    for name in names:
        directory = f"{SUPPLIES}/{name}"
        kind = _word(root, f"{directory}/type")
        if _word(root, f"{directory}/scope") == "Device":
            continue
        if kind in _LINES:
            # 2 is "on, and the voltage was negotiated"
            online = _number(root, f"{directory}/online")
            found.append(Supply(kind, None if online is None else online > 0))
        elif kind in _STORES and _word(root, f"{directory}/present") != "0":
            found.append(
                Supply(
                    kind,
                    status=_word(root, f"{directory}/status"),
                    percent=_percent(root, directory),
                    energy_full=_number(root, f"{directory}/energy_full"),
                    charge_full=_number(root, f"{directory}/charge_full"),
                )
            )
    return tuple(found)


def on_mains(supplies: Iterable[Supply]) -> bool | None:
    """Whether the machine is fed from outside; None when it cannot be told.

    A line that is off says something only where there is a battery: a desktop's USB-C ports are
    lines too, and off. A UPS that gives what it has is no mains.
    """
    supplies = tuple(supplies)
    stores = [each for each in supplies if each.kind in _STORES]
    if any(each.kind == "UPS" and each.status == "Discharging" for each in stores):
        return False
    if any(each.online for each in supplies):
        return True
    if any(each.status == "Discharging" for each in stores):
        return False
    if stores and any(each.online is False for each in supplies):
        return False
    return True if any(each.status in _FED for each in stores) else None


def battery_percent(supplies: Iterable[Supply]) -> float | None:
    """How full the batteries are together, each as heavy as what it holds when full; whole
    percents. None: there is none that tells."""
    stores = [each for each in supplies if each.kind in _STORES and each.percent is not None]
    if not stores:
        return None
    weights = (
        _all_known(each.energy_full for each in stores)
        or _all_known(each.charge_full for each in stores)
        or [1] * len(stores)
    )
    filled = sum(
        (each.percent or 0.0) * weight for each, weight in zip(stores, weights, strict=True)
    )
    return float(round(filled / sum(weights)))


def read_low_power(root: KernelRoot) -> bool:
    """Whether the platform's profile is low-power; False where there are no profiles."""
    return _word(root, PLATFORM_PROFILE) == "low-power"


def read_acpi_lid(root: KernelRoot) -> bool | None:
    """Whether a lid is closed as ACPI tells it, None when it does not."""
    states: list[bool] = []
    for name in _names(root, ACPI_LIDS):
        words = _word(root, f"{ACPI_LIDS}/{name}/state").split()  # "state:      open"
        if words and words[-1] in ("open", "closed"):
            states.append(words[-1] == "closed")
    return any(states) if states else None


def open_lid_switch(root: KernelRoot) -> int | None:
    """A descriptor of the input device that has the lid's switch: readable when it was moved. None
    when there is no such device, or it may not be opened."""
    for name in _names(root, INPUTS):
        if not name.startswith("event"):
            continue
        words = _word(root, f"{INPUTS}/{name}/device/capabilities/sw").split()
        with contextlib.suppress(ValueError, OSError):
            if words and int(words[-1], 16) & _SW_LID:
                flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC
                return os.open(root.path(f"/dev/input/{name}"), flags)
    return None


def lid_switch_closed(descriptor: int) -> bool | None:
    """Whether the lid is closed, of what `open_lid_switch` gave; None when it does not tell."""
    switches = bytearray(8)
    try:
        fcntl.ioctl(descriptor, _EVIOCGSW, switches)
    except OSError:
        return None
    # bits of words of the machine's size, the lowest first on little-endian ones
    return bool(int.from_bytes(switches, "little") & _SW_LID)


def drain(descriptor: int) -> bool:
    """Take all there is to read from a descriptor that does not block; False when it is dead."""
    try:
        while os.read(descriptor, _SHORT):
            pass
    except BlockingIOError:
        return True
    except OSError:
        # the device is gone (ENODEV)
        return False
    return False


def open_watched(root: KernelRoot, path: str) -> int:
    """A descriptor of `path` to wait on for POLLPRI, as /proc/swaps and notifying sysfs attributes
    have it. Raises KernelFileError."""
    try:
        descriptor = os.open(root.path(path), os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise translate(path, error) from error
    rearm(descriptor)
    return descriptor


def rearm(descriptor: int) -> bool:
    """Read what `open_watched` gave from its begin: a sysfs attribute tells its next change only to
    one who has read the last. False when it cannot be read any more."""
    try:
        os.pread(descriptor, _SHORT, 0)
    except OSError:
        return False
    return True


def _all_known(values: Iterable[int | None]) -> list[int]:
    """The values, or none of them when one is missing or 0."""
    listed = list(values)
    known = [each for each in listed if each]
    return known if len(known) == len(listed) else []


def _percent(root: KernelRoot, directory: str) -> float | None:
    capacity = _number(root, f"{directory}/capacity")
    if capacity is not None:
        return float(min(_PERCENT, capacity))
    for what in ("energy", "charge"):
        now = _number(root, f"{directory}/{what}_now")
        full = _number(root, f"{directory}/{what}_full")
        if now is not None and full:
            return min(100.0, _PERCENT * now / full)
    return None


def _word(root: KernelRoot, path: str) -> str:
    try:
        return root.read(path).strip()
    except KernelFileError:
        return ""


def _number(root: KernelRoot, path: str) -> int | None:
    text = _word(root, path)
    # drivers print what the firmware says, nonsense and negative numbers included
    return int(text) if text.isascii() and text.isdigit() else None


def _names(root: KernelRoot, directory: str) -> list[str]:
    try:
        return root.listdir(directory)
    except KernelFileError:
        return []
