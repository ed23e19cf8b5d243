# SPDX-License-Identifier: LGPL-2.1-or-later
"""What `hibprep check --fix` offers: for some findings, the steps that mend them.

Only what is safe is here: files of our own or files that come back as they were, settings of the
running kernel, all of it undone by `hibprep setup undo`. What is not offered, and why, is in
docs/check.md.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from hibprep.check import CheckFacts, Finding
from hibprep.checks.manners import freeze_seconds_wanted, usual_disk_mode
from hibprep.checks.returning import image_area, is_told
from hibprep.errors import HibprepError
from hibprep.kernel.root import KernelRoot
from hibprep.model import SwapArea
from hibprep.setup import texts
from hibprep.setup.boot import boot_steps, tools_step
from hibprep.setup.steps import Configure, FileText, SetKernel, Step
from hibprep.system import blocks
from hibprep.system.initramfs import InitramfsKind
from hibprep.system.units import is_no, sleep_settings

_FREEZE = "/sys/power/pm_freeze_timeout"
_TMPFILES = "/etc/tmpfiles.d/hibprep-freeze-timeout.conf"
_SLEEP_CONF = "/etc/systemd/sleep.conf.d/zz-hibprep.conf"
_DISK = "/sys/power/disk"


@dataclass(frozen=True, slots=True, kw_only=True)
class Fix:
    """One offer. `name` is that of its record."""

    name: str
    findings: tuple[str, ...]  # the names of those that it mends
    title: str
    steps: tuple[Step, ...]


def fixes_for(root: KernelRoot, facts: CheckFacts, found: tuple[Finding, ...]) -> tuple[Fix, ...]:
    """What can be offered for these findings. Nothing is changed by this."""
    names = {item.name for item in found if item.remedy}
    makers: tuple[Callable[[KernelRoot, CheckFacts, set[str]], Fix | None], ...] = (
        _freeze_timeout,
        _allow,
        _disk_mode,
        _resume,
        _initramfs,
    )
    return tuple(fix for make in makers if (fix := make(root, facts, names)) is not None)


def _freeze_timeout(_: KernelRoot, facts: CheckFacts, names: set[str]) -> Fix | None:
    if "freeze-timeout" not in names:
        return None
    milliseconds = round(freeze_seconds_wanted(facts) * 1000)
    return Fix(
        name="fix-freeze-timeout",
        findings=("freeze-timeout",),
        title=f"give processes {milliseconds / 1000:g} s to freeze, now and after every boot",
        steps=(
            Configure(
                title="set it at every boot",
                files=(
                    FileText(
                        path=_TMPFILES, text=texts.freeze_timeout_tmpfiles(_FREEZE, milliseconds)
                    ),
                ),
            ),
            SetKernel(title="set it now", path=_FREEZE, value=str(milliseconds)),
        ),
    )


def _allow(root: KernelRoot, _facts: CheckFacts, names: set[str]) -> Fix | None:
    said = sleep_settings(root).get("AllowHibernation")
    if "disabled" not in names or said is None or not is_no(said.value):
        return None
    directory, _, file = said.path.rpartition("/")
    if directory.endswith(".d") and file >= _SLEEP_CONF.rpartition("/")[2]:
        return None  # it would still come last
    return Fix(
        name="fix-allow-hibernation",
        findings=("disabled",),
        title=f"have systemd allow hibernation, which {said.path} forbids",
        steps=(
            Configure(
                title="allow it in a file that is read later",
                files=(FileText(path=_SLEEP_CONF, text=texts.allow_hibernation()),),
            ),
        ),
    )


def _disk_mode(_: KernelRoot, facts: CheckFacts, names: set[str]) -> Fix | None:
    if "disk-mode" not in names:
        return None
    mode = usual_disk_mode(facts)
    return Fix(
        name="fix-disk-mode",
        findings=("disk-mode",),
        title="have the machine power off after the image is written",
        steps=(SetKernel(title=f"choose {mode}", path=_DISK, value=mode),),
    )


def _resume(root: KernelRoot, facts: CheckFacts, names: set[str]) -> Fix | None:
    """Where the boot loader names no resume device. Another that it names is somebody's choice."""
    mends = names & {"resume-unset", "resume-offset", "boot-mismatch"}
    area = image_area(facts)
    if not mends or area is None or not facts.boot.loaders or is_told(facts, area):
        return None
    if area.is_file and area.offset_pages is None:
        return None
    device = _device_word(root, area)
    if not device:
        return None
    offset = str(area.offset_pages) if area.is_file else ""
    try:
        found = boot_steps(
            root,
            facts.boot.loaders,
            facts.boot.initramfs,
            texts.resume_parameters(device, offset),
        )
    except HibprepError:
        return None
    if found.by_hand or not found.steps:
        return None  # half of it would not do
    return Fix(
        name="fix-resume",
        findings=tuple(sorted(mends)),
        title=f"have the next boot look for the image on {area.path}",
        steps=found.steps,
    )


def _initramfs(root: KernelRoot, facts: CheckFacts, names: set[str]) -> Fix | None:
    """Partitions alone: a swap file is found by the kernel command line only."""
    initramfs, area = facts.boot.initramfs, image_area(facts)
    if not names & {"initramfs-resume", "initramfs-old"}:
        return None
    if initramfs is None or initramfs.kind is not InitramfsKind.TOOLS or area is None:
        return None
    device = _device_word(root, area)
    if area.is_file or not device:
        return None
    return Fix(
        name="fix-initramfs",
        findings=tuple(sorted(names & {"initramfs-resume", "initramfs-old"})),
        title=f"have the initramfs look for the image on {area.path}",
        steps=(tools_step(root, device),),
    )


def _device_word(root: KernelRoot, area: SwapArea) -> str:
    uuid = blocks.uuid_of(root, area.device) if area.device else ""
    return f"UUID={uuid}" if uuid else ""
