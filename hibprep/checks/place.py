# SPDX-License-Identifier: LGPL-2.1-or-later
"""Where the image goes: swap, and which of it is the resume device. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from hibprep.checks.finding import MAKE_SWAP, Finding, Severity, set_resume
from hibprep.checks.returning import is_told
from hibprep.fitting import resume_area

if TYPE_CHECKING:
    from hibprep.facts import CheckFacts

_HIGHEST_PRIORITY = 32767  # swapon(8)


def findings(facts: CheckFacts) -> Iterator[Finding]:
    """Whether there is a place, and whether it is the one that is named."""
    yield from _swap(facts)
    yield from _resume(facts)
    yield from _forgotten(facts)
    yield from _zram(facts)


def _swap(facts: CheckFacts) -> Iterator[Finding]:
    swaps = facts.snapshot.swaps
    if not swaps:
        yield Finding(
            Severity.ERROR, "no-swap", "there is no swap, and so no place for the image", MAKE_SWAP
        )
    elif all(area.is_zram for area in swaps):
        yield Finding(
            Severity.ERROR,
            "only-zram",
            "all swap is on zram, which is memory itself: it can never hold the image",
            MAKE_SWAP,
        )


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
            "reboot: the boot loader names it already, for the next boot"
            if is_told(facts, area)
            else set_resume(area),
        )
        return
    name = facts.resume_name or f"block device {power.resume_device}"
    if area is not None:
        unknown = area.is_file and area.offset_pages is None
        yield Finding(Severity.OK, "resume", f"the image goes to {area.path}")
        if unknown:
            yield Finding(
                Severity.INFO,
                "offset-unknown",
                f"where {area.path} begins on its disk could not be told, so that the resume "
                f"offset ({power.resume_offset_pages} pages) was not compared with it",
                "sudo hibprep check; on btrfs: btrfs inspect-internal map-swapfile -r " + area.path,
            )
        return
    near = next((item for item in disks if item.device == power.resume_device), None)
    if near is not None:
        wanted = near.offset_pages or 0
        yield Finding(
            Severity.ERROR,
            "resume-offset",
            f"the resume offset is {power.resume_offset_pages} pages, but {near.path} begins at "
            f"{wanted}",
            set_resume(near),
        )
        return
    inactive = f"{name} is the resume device, but it is not in use as swap"
    if disks:
        yield Finding(
            Severity.ERROR,
            "resume-other",
            f"{inactive}; {disks[0].path} is, and the image cannot go there",
            f"swapon {facts.resume_name or 'it'}; or " + set_resume(disks[0]),
        )
    else:
        yield Finding(
            Severity.ERROR,
            "resume-inactive",
            inactive,
            f"swapon {facts.resume_name or 'it'}, and name it in /etc/fstab",
        )


def _forgotten(facts: CheckFacts) -> Iterator[Finding]:
    """Only of the area that takes the image: what is swapped out to another can be read after the
    resume, since the kernel that comes back has its key."""
    area = resume_area(facts.snapshot)
    for path, why in facts.forgotten:
        if area is not None and path == area.path:
            yield Finding(
                Severity.ERROR,
                "random-key",
                f"{path} cannot hold an image: {why}, and so nothing can read it back",
                f"{MAKE_SWAP}; or give {path} a key that lasts: cryptsetup luksFormat, and "
                "/etc/crypttab without swap and /dev/urandom",
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
        priority = min(_HIGHEST_PRIORITY, max(area.priority for area in ahead) + 1)
        yield Finding(
            Severity.WARNING,
            "zram-first",
            f"{ahead[0].path} (priority {ahead[0].priority}) is filled before {best.path} "
            f"(priority {best.priority}): what goes there stays in memory and in the image",
            f"swapoff {best.path} && swapon --priority {priority} {best.path}; and pri={priority} "
            "in /etc/fstab",
        )
