# SPDX-License-Identifier: LGPL-2.1-or-later
"""What can be done to a machine, as values: a plan is a list of these. Pure."""

from __future__ import annotations

from dataclasses import dataclass

# Stands in texts and arguments for what is known only once the swap file is there.
OFFSET = "@resume_offset@"

MKSWAP_SECONDS = 120.0
SWAPON_SECONDS = 120.0
SWAPOFF_SECONDS = 900.0  # all that is in it has to be read back
BOOT_LOADER_SECONDS = 300.0
INITRAMFS_SECONDS = 900.0  # compressing one takes minutes on a slow machine


@dataclass(frozen=True, slots=True, kw_only=True)
class FileText:
    """A file that is to have this text, whole or not at all. Its owner and mode stay what they are;
    `mode` is for one that is new."""

    path: str
    text: str
    mode: int = 0o644


@dataclass(frozen=True, slots=True, kw_only=True)
class Configure:
    """Files, and the program that makes others from them: `outputs`, which come back byte for byte
    when this fails; what is too large for that is made anew once the files are back."""

    title: str
    files: tuple[FileText, ...]
    program: tuple[str, ...] = ()
    seconds: float = BOOT_LOADER_SECONDS
    outputs: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class MakeSwapFile:
    """A new file to swap to. From here on OFFSET is known."""

    title: str
    path: str
    size_bytes: int
    is_btrfs: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A program, and the one that takes back what it did, if there is anything to take back."""

    title: str
    program: tuple[str, ...]
    undo: tuple[str, ...] = ()
    seconds: float = 60.0
    undo_seconds: float = 60.0
    swaps_to: str = ""  # it swaps that file on: to be undone only while it is in use
    below_root: str = ""  # the argument that is a path; then it may run for another root too


@dataclass(frozen=True, slots=True, kw_only=True)
class SetKernel:
    """A setting of the running kernel."""

    title: str
    path: str
    value: str


Step = Configure | MakeSwapFile | Run | SetKernel


def details(step: Step, offset: str = "") -> tuple[str, ...]:
    """What exactly a step would do, line by line, for a person to agree with."""
    shown = offset or "(known once the file is there)"
    if isinstance(step, Configure):
        lines = []
        for file in step.files:
            lines.append(f"write {file.path}:")
            lines += [f"    {line}" for line in file.text.splitlines()]
        if step.program:
            lines.append(f"run {' '.join(step.program)}")
        found = tuple(lines)
    elif isinstance(step, MakeSwapFile):
        found = (
            f"create {step.path}, mode 0600, {step.size_bytes} bytes, no holes"
            + (", no copy-on-write" if step.is_btrfs else ""),
        )
    elif isinstance(step, Run):
        found = (f"run {' '.join(step.program)}",)
    else:
        found = (f"write {step.value} to {step.path}",)
    return tuple(line.replace(OFFSET, shown) for line in found)
