# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a finding is, and the words that several of them share. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from hibprep.page import size

if TYPE_CHECKING:
    from hibprep.facts import CheckFacts
    from hibprep.model import Fit, SwapArea

NAMED = 3  # more than so many of a kind are counted and not named
GRUB = "in GRUB_CMDLINE_LINUX of /etc/default/grub, then run: update-grub && reboot"
MAKE_SWAP = "hibprep setup swap"


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


def parameters(area: SwapArea) -> str:
    """The kernel parameters that name a swap area as the resume device."""
    if not area.is_file:
        return f"resume=UUID=$(blkid -s UUID -o value {area.path})"
    offset = (
        str(area.offset_pages)
        if area.offset_pages is not None
        else f"$(filefrag -v {area.path} | awk '$1==\"0:\" {{print $4+0}}')"
        f" (on btrfs: btrfs inspect-internal map-swapfile -r {area.path})"
    )
    return f"resume=UUID=$(findmnt -no UUID -T {area.path}) resume_offset={offset}"


def set_resume(area: SwapArea) -> str:
    """How to make it the resume device."""
    return f"add {parameters(area)} {GRUB}; hibprep check --fix offers to, where it can"


def best_area(facts: CheckFacts) -> SwapArea | None:
    """The area that would be taken were none named, as systemd takes it; never zram."""
    disks = [area for area in facts.snapshot.swaps if not area.is_zram]
    return max(disks, key=lambda area: (area.priority, area.free_bytes), default=None)


def figures(fit: Fit) -> str:
    """Both fits in numbers."""
    return (
        f"systemd needs {size(fit.systemd_needs_bytes)} of {size(fit.systemd_has_bytes)} free, "
        f"the kernel {size(fit.kernel_needs_bytes)} of {size(fit.kernel_has_bytes)}"
    )
