# SPDX-License-Identifier: LGPL-2.1-or-later
"""What else to know: encryption, the freezer's patience, what happens at power-off, drivers with
something to keep. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from hibprep.checks.finding import Finding, Severity
from hibprep.page import size
from hibprep.system.units import is_no

if TYPE_CHECKING:
    from hibprep.facts import CheckFacts

SHORTEST_FREEZE_SECONDS = 5.0  # a writer to a slow disk needs as much to come to a halt
USUAL_FREEZE_SECONDS = 20.0  # the kernel's own default
# Who waits for the disk cannot be frozen. What may be on its way to a disk when the freezer begins
# grows with memory: reclaim and writeback keep about a hundredth of it in flight.
_IN_FLIGHT_SHARE = 100
_FROZEN_SINCE = 256  # systemd freezes user.slice for every sleep


def findings(facts: CheckFacts) -> Iterator[Finding]:
    """Whatever is no question of room or of place."""
    yield from _encryption(facts)
    yield from _freezing(facts)
    yield from _power_off(facts)
    yield from _nvidia(facts)


def freeze_seconds_needed(facts: CheckFacts) -> float:
    """A rule of thumb for /sys/power/pm_freeze_timeout: what is on its way to the swap device at
    its speed, and what a halt takes anyhow."""
    in_flight = facts.snapshot.memory.total_bytes / _IN_FLIGHT_SHARE
    return SHORTEST_FREEZE_SECONDS + in_flight / facts.rates.disk_write_bytes_per_second


def freeze_seconds_wanted(facts: CheckFacts) -> float:
    """What to set it to: whole tens of seconds, and no less than the kernel's own default."""
    return max(USUAL_FREEZE_SECONDS, 10.0 * -(-freeze_seconds_needed(facts) // 10.0))


def _encryption(facts: CheckFacts) -> Iterator[Finding]:
    for area in facts.snapshot.swaps:
        if area.is_zram:
            continue
        if area.encrypted is False:
            yield Finding(
                Severity.WARNING,
                "not-encrypted",
                f"{area.path} is not encrypted: what is swapped out lies on the disk in clear",
                "put it on dm-crypt with a key that survives the resume: cryptsetup luksFormat, "
                "then /etc/crypttab; or leave anonymous memory alone: --stages sync,cache,slab",
            )
        elif area.encrypted is None:
            yield Finding(
                Severity.INFO,
                "encryption-unknown",
                f"whether {area.path} is encrypted could not be told",
                f"lsblk -s -o NAME,TYPE $(findmnt -no SOURCE -T {area.path})"
                if area.is_file
                else f"lsblk -s -o NAME,TYPE {area.path}",
            )


def _freezing(facts: CheckFacts) -> Iterator[Finding]:
    power = facts.snapshot.power
    needed = freeze_seconds_needed(facts)
    if not power.available or power.freeze_timeout_seconds >= needed:
        return
    wanted = freeze_seconds_wanted(facts)
    speed = facts.rates.disk_write_bytes_per_second
    yield Finding(
        Severity.WARNING,
        "freeze-timeout",
        f"processes are given {power.freeze_timeout_seconds:g} s to freeze; a slow disk can "
        f"make that fail: {size(facts.snapshot.memory.total_bytes)} of memory and a swap device "
        f"of {size(speed)}/s want about {needed:.0f} s",
        f"echo {wanted * 1000:.0f} > /sys/power/pm_freeze_timeout; "
        "hibprep check --fix makes it last",
    )


def _power_off(facts: CheckFacts) -> Iterator[Finding]:
    power = facts.snapshot.power
    if power.disk_mode in ("test_resume", "suspend", "reboot"):
        yield Finding(
            Severity.WARNING,
            "disk-mode",
            f"/sys/power/disk is set to {power.disk_mode}: the machine would not power off",
            f"echo {usual_disk_mode(facts)} > /sys/power/disk",
        )


def usual_disk_mode(facts: CheckFacts) -> str:
    """What /sys/power/disk ought to say."""
    return "platform" if "platform" in facts.snapshot.power.disk_modes else "shutdown"


def _nvidia(facts: CheckFacts) -> Iterator[Finding]:
    driver = facts.nvidia
    if driver is None:
        return
    if not driver.preserves and not driver.by_notifiers:
        yield Finding(
            Severity.WARNING,
            "nvidia-memory",
            "NVIDIA's driver does not keep video memory over a hibernation: programs that draw may "
            "come back broken",
            "echo options nvidia NVreg_PreserveVideoMemoryAllocations=1 "
            "NVreg_TemporaryFilePath=/var/tmp > /etc/modprobe.d/nvidia-power.conf && "
            "systemctl enable nvidia-hibernate nvidia-resume nvidia-suspend && reboot",
        )
        return
    if driver.temporary_in_memory:
        yield Finding(
            Severity.WARNING,
            "nvidia-tmpfs",
            f"NVIDIA's driver keeps video memory in {driver.temporary}, which is in memory itself: "
            "it goes into the image",
            "set NVreg_TemporaryFilePath=/var/tmp in /etc/modprobe.d, then reboot",
        )
    if driver.by_notifiers:
        return  # the kernel tells it: neither services nor a session that runs on are needed
    missing = {"nvidia-hibernate.service", "nvidia-resume.service"} - set(driver.services)
    if missing:
        yield Finding(
            Severity.WARNING,
            "nvidia-services",
            f"NVIDIA's driver waits to be told, and a hibernation does not start "
            f"{' and '.join(sorted(missing))}",
            f"systemctl enable {' '.join(sorted(missing))}",
        )
    frozen = facts.freezing is None or not is_no(facts.freezing.value)
    if frozen and facts.systemd.version >= _FROZEN_SINCE:
        yield Finding(
            Severity.WARNING,
            "nvidia-freeze",
            f"systemd {facts.systemd.version} freezes user sessions before NVIDIA's driver is "
            "told, which it does not always survive; the driver's own drop-in against that is "
            "missing",
            "systemctl edit systemd-hibernate.service, and write: [Service] "
            "Environment=SYSTEMD_SLEEP_FREEZE_USER_SESSIONS=false",
        )
    elif not frozen and facts.freezing is not None:
        yield Finding(
            Severity.INFO,
            "nvidia-freeze",
            f"{facts.freezing.path} keeps user sessions running until the kernel freezes them, as "
            "NVIDIA's driver wants it: what hibprep takes last may be used again meanwhile",
        )
