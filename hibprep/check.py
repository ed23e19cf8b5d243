# SPDX-License-Identifier: LGPL-2.1-or-later
"""Will it fit, and will it work: every finding with what to type.

`findings` judges and reads nothing, so that every verdict can be tested by table; `gather` (in
`hibprep.facts`) reads.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from hibprep.facts import CheckFacts, gather
from hibprep.fitting import resume_area
from hibprep.page import size
from hibprep.predict import target_pages

if TYPE_CHECKING:
    from hibprep.model import SwapArea

__all__ = ["CheckFacts", "Finding", "Severity", "findings", "gather", "possible"]

GIB = 1 << 30
WORST_RATIO = 1.07  # LZO can make what does not compress this much larger
SHORTEST_FREEZE_SECONDS = 5.0  # a writer to a slow disk needs as much to come to a halt
HIGHEST_PRIORITY = 32767  # swapon(8)
NAMED = 3  # more than so many of a kind are counted and not named

GRUB = "in GRUB_CMDLINE_LINUX of /etc/default/grub, then run: update-grub && reboot"


class Severity(StrEnum):
    """How bad: with an error, hibernation is not possible here."""

    ERROR = "error"
    WARNING = "warning"
    INFO = "info"
    OK = "ok"


@dataclass(frozen=True, slots=True)
class Finding:
    """One verdict; `remedy` is what to type or to do, "" when there is nothing to do."""

    severity: Severity
    name: str
    text: str
    remedy: str = ""


def findings(facts: CheckFacts) -> tuple[Finding, ...]:
    """The verdicts, the worst first."""
    order = list(Severity)
    found = [
        *_permission(facts),
        *_swap(facts),
        *_resume(facts),
        *_zram(facts),
        *_fits(facts),
        *_reclaim(facts),
        *_manners(facts),
        *(
            Finding(Severity.INFO, "not-seen", text, "run: sudo hibprep check")
            for text in facts.unseen
        ),
    ]
    return tuple(sorted(found, key=lambda item: order.index(item.severity)))


def possible(found: tuple[Finding, ...]) -> bool:
    """Whether hibernation is possible here."""
    return not any(item.severity is Severity.ERROR for item in found)


# --- is it allowed --------------------------------------------------------------------------------


def _permission(facts: CheckFacts) -> Iterator[Finding]:
    power = facts.snapshot.power
    told = False
    if power.lockdown in ("integrity", "confidentiality"):
        told = True
        yield Finding(
            Severity.ERROR,
            "lockdown",
            f"kernel lockdown ({power.lockdown}) forbids hibernation",
            "switch Secure Boot off in the firmware (mokutil --sb-state tells), and take lockdown= "
            "off the kernel command line " + GRUB,
        )
    for pid, name in facts.secretmem:
        told = True
        yield Finding(
            Severity.ERROR,
            "secretmem",
            f"process {pid} ({name or 'unknown'}) holds secret memory (memfd_secret), and while it "
            "does the kernel refuses to hibernate",
            f"end it: kill {pid}; or boot with secretmem.enable=0",
        )
    words = ("nohibernate", "hibernate=no", "noresume", "hibernate=noresume")
    words_there = [word for word in words if word in facts.command_line]
    for word in words_there:
        told = True
        yield Finding(
            Severity.ERROR,
            "disabled",
            f"{word} on the kernel command line forbids it",
            f"take {word} away {GRUB}",
        )
    if not power.available and not told:
        for reason in power.disabled_by or ("this kernel does not offer it",):
            yield Finding(
                Severity.ERROR,
                "disabled",
                f"hibernation is not available: {reason}",
                "cat /sys/power/disk /sys/power/state shows what the kernel offers; a Debian "
                "kernel has it: apt install linux-image-amd64",
            )
    for reason in facts.barred_by_systemd:
        place, _, unit = reason.partition(" masks ")
        yield Finding(
            Severity.ERROR,
            "disabled",
            f"systemd forbids it: {reason}",
            f"systemctl unmask {unit}" if unit else f"set AllowHibernation=yes in {place}",
        )
    if power.available:
        yield Finding(Severity.OK, "allowed", "the kernel offers hibernation")


# --- where the image goes -------------------------------------------------------------------------


def _make_swap(facts: CheckFacts) -> str:
    gib = -(-facts.snapshot.memory.total_bytes // GIB)
    return (
        f"fallocate -l {gib}G /swapfile && chmod 600 /swapfile && mkswap /swapfile && "
        "swapon /swapfile; then name it in /etc/fstab and as the resume device"
    )


def _swap(facts: CheckFacts) -> Iterator[Finding]:
    swaps = facts.snapshot.swaps
    if not swaps:
        yield Finding(
            Severity.ERROR,
            "no-swap",
            "there is no swap, and so no place for the image",
            _make_swap(facts),
        )
    elif all(area.is_zram for area in swaps):
        yield Finding(
            Severity.ERROR,
            "only-zram",
            "all swap is on zram, which is memory itself: it can never hold the image",
            _make_swap(facts),
        )


def _parameters(area: SwapArea) -> str:
    if not area.is_file:
        return f"resume=UUID=$(blkid -s UUID -o value {area.path})"
    offset = (
        str(area.offset_pages)
        if area.offset_pages is not None
        else f"$(filefrag -v {area.path} | awk '$1==\"0:\" {{print $4+0}}')"
        f" (on btrfs: btrfs inspect-internal map-swapfile -r {area.path})"
    )
    return f"resume=UUID=$(findmnt -no UUID -T {area.path}) resume_offset={offset}"


def _set_resume(area: SwapArea) -> str:
    return f"add {_parameters(area)} {GRUB}"


def _resume(facts: CheckFacts) -> Iterator[Finding]:
    power = facts.snapshot.power
    disks = [area for area in facts.snapshot.swaps if not area.is_zram]
    area = resume_area(facts.snapshot)
    if not power.resume_device:
        if area is None:
            return
        yield Finding(
            Severity.WARNING if facts.efi else Severity.ERROR,
            "resume-unset",
            "no resume device is set"
            + (
                "; systemd 255 and later will leave the place in an EFI variable, and an initramfs "
                "without systemd will not find it"
                if facts.efi
                else f", so nothing would read the image on {area.path} back"
            ),
            _set_resume(area),
        )
        return
    name = facts.resume_name or f"block device {power.resume_device}"
    if area is not None:
        yield Finding(Severity.OK, "resume", f"the image goes to {area.path}")
        return
    near = next((item for item in disks if item.device == power.resume_device), None)
    if near is not None:
        wanted = near.offset_pages or 0
        yield Finding(
            Severity.ERROR,
            "resume-offset",
            f"the resume offset is {power.resume_offset_pages} pages, but {near.path} begins at "
            f"{wanted}",
            _set_resume(near),
        )
        return
    inactive = f"{name} is the resume device, but it is not in use as swap"
    if disks:
        yield Finding(
            Severity.ERROR,
            "resume-other",
            f"{inactive}; {disks[0].path} is, and the image cannot go there",
            f"swapon {facts.resume_name or 'it'}; or " + _set_resume(disks[0]),
        )
    else:
        yield Finding(
            Severity.ERROR,
            "resume-inactive",
            inactive,
            f"swapon {facts.resume_name or 'it'}, and name it in /etc/fstab",
        )


def _zram(facts: CheckFacts) -> Iterator[Finding]:
    disks = [area for area in facts.snapshot.swaps if not area.is_zram]
    if not disks:
        return
    best = max(disks, key=lambda area: area.priority)
    ahead = [
        area for area in facts.snapshot.swaps if area.is_zram and area.priority >= best.priority
    ]
    if ahead:
        priority = min(HIGHEST_PRIORITY, max(area.priority for area in ahead) + 1)
        yield Finding(
            Severity.WARNING,
            "zram-first",
            f"{ahead[0].path} (priority {ahead[0].priority}) is filled before {best.path} "
            f"(priority {best.priority}): what goes there stays in memory and in the image",
            f"swapoff {best.path} && swapon --priority {priority} {best.path}; and pri={priority} "
            "in /etc/fstab",
        )


def _fits(facts: CheckFacts) -> Iterator[Finding]:
    fit = facts.fit
    area = resume_area(facts.snapshot)
    if area is None:
        return  # said already
    if not fit.systemd_ok:
        yield Finding(
            Severity.ERROR,
            "systemd-fit",
            f"systemd would refuse now: {size(fit.systemd_needs_bytes)} needed on "
            f"{fit.resume_path} for active anonymous memory, {size(fit.systemd_has_bytes)} free",
            "hibprep prepare --stages sync,cache,slab,cold-anon,anon; or more swap: "
            + _make_swap(facts),
        )
    if not fit.kernel_ok:
        yield Finding(
            Severity.ERROR,
            "too-small",
            f"{fit.reason} ({size(fit.kernel_needs_bytes)} needed on {fit.resume_path}, "
            f"{size(fit.kernel_has_bytes)} free)",
            "hibprep prepare makes the image smaller; or more swap: " + _make_swap(facts),
        )
    image = target_pages(facts.snapshot) * facts.snapshot.page_size
    if fit.ok and area.size_bytes < image * WORST_RATIO:
        yield Finding(
            Severity.WARNING,
            "small",
            f"{area.path} has {size(area.size_bytes)}; an image of {size(image)} that does not "
            f"compress needs {size(image * WORST_RATIO)}",
            f"echo {int(area.size_bytes / WORST_RATIO)} > /sys/power/image_size; or more swap: "
            + _make_swap(facts),
        )
    elif fit.ok:
        yield Finding(
            Severity.OK,
            "fits",
            f"systemd and the kernel would accept now: {size(fit.kernel_needs_bytes)} needed on "
            f"{fit.resume_path}, {size(fit.kernel_has_bytes)} free",
        )


# --- can memory be taken --------------------------------------------------------------------------


def _reclaim(facts: CheckFacts) -> Iterator[Finding]:
    if not facts.cgroup_memory:
        yield Finding(
            Severity.WARNING,
            "no-cgroup2",
            f"memory.reclaim is not available: {facts.cgroup_reason}",
            "add systemd.unified_cgroup_hierarchy=1 (without systemd: cgroup_no_v1=all) and take "
            f"cgroup_disable=memory away {GRUB}",
        )
    hard = [item for item in facts.protected if item.min_bytes]
    soft = [item for item in facts.protected if item.low_bytes and not item.min_bytes]
    for severity, field, group, effect in (
        (Severity.WARNING, "min", hard, "reclaim of the whole machine can never touch it"),
        (Severity.INFO, "low", soft, "reclaim of the whole machine takes it last"),
    ):
        for item in sorted(group, key=lambda found: -found.current_bytes)[:NAMED]:
            amount = item.min_bytes if field == "min" else item.low_bytes
            amount = min(amount, item.current_bytes)
            yield Finding(
                severity,
                f"memory-{field}",
                f"memory.{field} protects {size(amount)} of cgroup {item.path}: {effect}",
                _unprotect(item.path, field) + f"; or: hibprep prepare --cgroup {item.path}",
            )
        if len(group) > NAMED:
            yield Finding(
                severity, f"memory-{field}", f"and {len(group) - NAMED} more cgroups like them"
            )
    if facts.snapshot.laptop_mode:
        yield Finding(
            Severity.WARNING,
            "laptop-mode",
            f"vm.laptop_mode is {facts.snapshot.laptop_mode}: up to Linux 6.12 reclaim then hardly "
            "swaps anything out",
            "sysctl vm.laptop_mode=0; TLP and laptop-mode-tools set it",
        )


def _unprotect(path: str, field: str) -> str:
    unit = path.rsplit("/", 1)[-1]
    if unit.endswith((".slice", ".service", ".scope")):
        return f"systemctl set-property --runtime {unit} Memory{field.capitalize()}=0"
    return f"echo 0 > /sys/fs/cgroup{path}/memory.{field}"


# --- what else to know ----------------------------------------------------------------------------


def _manners(facts: CheckFacts) -> Iterator[Finding]:
    power = facts.snapshot.power
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
    if power.available and power.freeze_timeout_seconds < SHORTEST_FREEZE_SECONDS:
        yield Finding(
            Severity.WARNING,
            "freeze-timeout",
            f"processes are given {power.freeze_timeout_seconds:g} s to freeze; a slow disk can "
            "make that fail",
            "echo 20000 > /sys/power/pm_freeze_timeout",
        )
    if power.disk_mode in ("test_resume", "suspend", "reboot"):
        yield Finding(
            Severity.WARNING,
            "disk-mode",
            f"/sys/power/disk is set to {power.disk_mode}: the machine would not power off",
            "echo platform > /sys/power/disk"
            if "platform" in power.disk_modes
            else "echo shutdown > /sys/power/disk",
        )
