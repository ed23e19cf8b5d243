# SPDX-License-Identifier: LGPL-2.1-or-later
"""`hibprep setup swap`: whether a swap file can be made, and the steps to it."""

from __future__ import annotations

from dataclasses import dataclass

from hibprep.errors import NotPossibleError, UsageError
from hibprep.fitting import resume_area
from hibprep.kernel.root import KernelRoot
from hibprep.model import SwapArea
from hibprep.page import size
from hibprep.setup import texts
from hibprep.setup.boot import boot_steps
from hibprep.setup.look import FSTAB, SwapFacts, gather
from hibprep.setup.programs import find
from hibprep.setup.sizing import SwapSize, swap_size
from hibprep.setup.steps import (
    MKSWAP_SECONDS,
    OFFSET,
    SWAPOFF_SECONDS,
    SWAPON_SECONDS,
    Configure,
    FileText,
    MakeSwapFile,
    Run,
    Step,
)
from hibprep.system import blocks

__all__ = ["DEFAULT_PATH", "NAME", "SwapFacts", "SwapPlan", "gather", "plan"]

NAME = "swap"  # of the record
DEFAULT_PATH = "/swapfile"
_KINDS = ("ext4", "xfs", "btrfs")
_LEAST_BYTES = 16 << 20
_LEFT_SHARE, _LEFT_BYTES = 50, 256 << 20  # of the disk, and at least: it must not be full


@dataclass(frozen=True, slots=True, kw_only=True)
class SwapPlan:
    """What would be done, why so large, and what is left to do by hand."""

    path: str
    size_bytes: int
    reckoned: SwapSize  # what the arithmetic says, whatever size was asked for
    parameters: tuple[str, ...]
    steps: tuple[Step, ...]
    by_hand: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def plan(root: KernelRoot, facts: SwapFacts, size_bytes: int | None = None) -> SwapPlan:
    """The steps. NotPossibleError says what is in the way; nothing is changed by this."""
    reckoned = swap_size(facts.snapshot)
    wanted = reckoned.size_bytes if size_bytes is None else _whole_pages(facts, size_bytes)
    _refuse_needless(facts, reckoned, asked=size_bytes is not None)
    _refuse_place(facts)
    _refuse_full(facts, wanted)
    device = f"UUID={facts.uuid}" if facts.uuid else blocks.name_of(root, facts.device)
    if not device:
        raise NotPossibleError(
            f"{facts.source}: has no name that a kernel could be given",
            "give another place with --path",
        )
    parameters = texts.resume_parameters(device, OFFSET)
    boot = boot_steps(root, facts.loaders, facts.initramfs, parameters)
    notes = [*boot.notes, "the kernel knows it as the resume device after a reboot"]
    if facts.kind == "btrfs":
        notes.append("btrfs can take no snapshot of the subvolume that it is on while it is in use")
    if wanted < reckoned.size_bytes:
        notes.append(
            f"{size(wanted)} is less than what a full machine may need "
            f"({size(reckoned.size_bytes)}): hibprep check will say when it is too small"
        )
    return SwapPlan(
        path=facts.path,
        size_bytes=wanted,
        reckoned=reckoned,
        parameters=parameters,
        steps=(*_file_steps(root, facts, wanted), *boot.steps),
        by_hand=boot.by_hand,
        notes=tuple(notes),
    )


def _file_steps(root: KernelRoot, facts: SwapFacts, size_bytes: int) -> tuple[Step, ...]:
    path = facts.path
    label: tuple[Step, ...] = ()
    if facts.selinux:
        label = (
            Run(
                title="label it for SELinux",
                program=(_needed(root, "chcon"), "-t", "swapfile_t", path),
                below_root=path,
            ),
        )
    return (
        MakeSwapFile(
            title="make the swap file",
            path=path,
            size_bytes=size_bytes,
            is_btrfs=facts.kind == "btrfs",
        ),
        *label,
        Run(
            title="give it a swap signature",
            program=(_needed(root, "mkswap"), path),
            seconds=MKSWAP_SECONDS,
            below_root=path,
        ),
        Run(
            title="swap to it",
            program=(_needed(root, "swapon"), path),
            undo=(_needed(root, "swapoff"), path),
            seconds=SWAPON_SECONDS,
            undo_seconds=SWAPOFF_SECONDS,
            swaps_to=path,
        ),
        Configure(
            title="swap to it after every boot",
            files=(FileText(path=FSTAB, text=texts.with_fstab_line(facts.fstab, path)),),
        ),
    )


def _needed(root: KernelRoot, name: str) -> str:
    found = find(root, name)
    if not found:
        raise NotPossibleError(f"{name} is not installed", "apt install util-linux mount coreutils")
    return found


# --- refusals -------------------------------------------------------------------------------------


def _whole_pages(facts: SwapFacts, size_bytes: int) -> int:
    whole = size_bytes // facts.snapshot.page_size * facts.snapshot.page_size
    if whole < _LEAST_BYTES:
        raise UsageError(
            f"a swap file of {size_bytes} bytes holds no image", "give a size such as 8G"
        )
    return whole


def _refuse_needless(facts: SwapFacts, reckoned: SwapSize, *, asked: bool) -> None:
    """One that will do is enough. Whoever asks for a size wants another one."""
    disks = [area for area in facts.snapshot.swaps if not area.is_zram]
    if any(area.path == facts.path for area in disks) or facts.is_there:
        raise NotPossibleError(
            f"{facts.path} is there already", "give another place with --path, or take it away"
        )
    if texts.fstab_has(facts.fstab, facts.path):
        raise NotPossibleError(
            f"{FSTAB} has a line for {facts.path} already", "take it away, or give another --path"
        )
    large = [area for area in disks if area.size_bytes >= reckoned.image_worst_bytes]
    current = resume_area(facts.snapshot) if facts.snapshot.power.resume_device else None
    if current is not None and current in large:
        raise NotPossibleError(
            f"{current.path} is the resume device already, and has room for the largest image "
            f"({size(current.size_bytes)}, {size(reckoned.image_worst_bytes)} at worst)",
            "hibprep check says whether all else is well",
        )
    if large and not asked:
        raise NotPossibleError(_would_do(large[0], reckoned), "hibprep check; or give --size")


def _would_do(area: SwapArea, reckoned: SwapSize) -> str:
    return (
        f"{area.path} ({size(area.size_bytes)}) would do: the largest image takes "
        f"{size(reckoned.image_worst_bytes)} at worst; it only has to be named as resume device"
    )


def _refuse_place(facts: SwapFacts) -> None:
    if not facts.directory_is_there:
        raise NotPossibleError(
            f"{facts.path}: there is no such directory", "make it, or give another --path"
        )
    if not facts.directory_is_ours:
        raise NotPossibleError(
            f"{facts.path} would be where others than root can replace it, and it will hold what "
            "is in memory",
            "give a directory with --path that root alone may write to, with all above it",
        )
    if facts.kind not in _KINDS:
        raise NotPossibleError(
            f"{facts.path} would be on {facts.kind or 'an unknown file system'}, which an image "
            "cannot be read back from",
            f"give a place on {', '.join(_KINDS)} with --path, or make a swap partition",
        )
    if not facts.device or facts.device.startswith("0:"):
        raise NotPossibleError(
            f"{facts.path} would be on {facts.kind} on several disks, or on one that is not known",
            "give a place on a file system of one disk with --path, or make a swap partition",
        )


def _refuse_full(facts: SwapFacts, size_bytes: int) -> None:
    left = max(_LEFT_BYTES, facts.disk_bytes // _LEFT_SHARE)
    if size_bytes + left > facts.available_bytes:
        raise NotPossibleError(
            f"{size(size_bytes)} for {facts.path}, and {size(left)} to be left over, are more than "
            f"the {size(facts.available_bytes)} that are free there",
            "make room, give another disk's directory with --path, or less with --size",
        )
