# SPDX-License-Identifier: LGPL-2.1-or-later
"""Hibernation's settings and whether it is allowed (Documentation/power/swsusp.rst,
Documentation/ABI/testing/sysfs-power, Documentation/admin-guide/kernel-parameters.txt).

hibernation_available() in kernel/power/hibernate.c says no to `nohibernate`, to lockdown, to
processes with memfd_secret() and to CXL memory, and shows only `[disabled]`: the reason has to be
put together from elsewhere.
"""

from __future__ import annotations

from typing import NamedTuple

from hibprep.errors import KernelFileError
from hibprep.kernel.root import KernelRoot
from hibprep.kernel.text import malformed, unsigned
from hibprep.model import Power

POWER = "/sys/power"
IMAGE_SIZE = f"{POWER}/image_size"
LOCKDOWN = "/sys/kernel/security/lockdown"

_UNSET_DEVICE = "0:0"
_DEFAULT_FREEZE_MILLISECONDS = 20_000
_MILLISECONDS = 1000
_BARRING_WORDS = {
    "nohibernate": "nohibernate on the kernel command line",
    "hibernate=no": "hibernate=no on the kernel command line",
    "noresume": "noresume on the kernel command line: an image would never be read",
    "hibernate=noresume": "hibernate=noresume on the kernel command line: no image is ever read",
}


class Selection(NamedTuple):
    """The words of a file that shows the chosen one in brackets."""

    options: tuple[str, ...]
    selected: str  # "" when none is


def parse_selection(text: str) -> Selection:
    """Words such as "[platform] shutdown"."""
    options: list[str] = []
    selected = ""
    for word in text.split():
        bare = word
        if word.startswith("[") and word.endswith("]"):
            bare = word[1:-1]
            selected = bare
        options.append(bare)
    return Selection(tuple(options), selected)


def parse_device(text: str, path: str = f"{POWER}/resume") -> str:
    """The "MAJ:MIN" of the text, or "" for the 0:0 that means "not set"."""
    word = text.strip()
    major, _, minor = word.partition(":")
    device = f"{unsigned(major, path)}:{unsigned(minor, path)}"
    return "" if device == _UNSET_DEVICE else device


def read_power(root: KernelRoot) -> Power:
    """As it is now; nothing in it is needed to be there."""
    lockdown = parse_selection(root.try_read(LOCKDOWN) or "").selected
    disk = root.try_read(f"{POWER}/disk")
    modes = parse_selection(disk or "")
    disabled_by = _reasons(root, disk, lockdown)
    resume = root.try_read(f"{POWER}/resume")
    usable = tuple(mode for mode in modes.options if mode != "disabled")
    return Power(
        available=not disabled_by,
        image_size_bytes=_number(root, IMAGE_SIZE),
        reserved_size_bytes=_number(root, f"{POWER}/reserved_size"),
        resume_device="" if resume is None else parse_device(resume),
        resume_offset_pages=_number(root, f"{POWER}/resume_offset"),
        disk_modes=usable,
        disk_mode=modes.selected if modes.selected in usable else "",
        disabled_by=disabled_by,
        lockdown=lockdown,
        freeze_timeout_seconds=_number(
            root, f"{POWER}/pm_freeze_timeout", _DEFAULT_FREEZE_MILLISECONDS
        )
        / _MILLISECONDS,
    )


def secretmem_users(root: KernelRoot) -> tuple[int, ...]:
    """The processes that hold secret memory (memfd_secret(2)) mapped; while there is one, the
    kernel does not hibernate. Looks at every process: for `check`, not for a loop."""
    try:
        names = root.listdir("/proc")
    except KernelFileError:
        return ()
    found: list[int] = []
    for name in names:
        if not (name.isascii() and name.isdigit()):
            continue
        try:
            text = root.read(f"/proc/{name}/maps")
        except KernelFileError:
            # gone, or a kernel thread, or not ours to see
            continue
        if "/secretmem" in text:
            found.append(int(name))
    return tuple(sorted(found))


def _number(root: KernelRoot, path: str, default: int = 0) -> int:
    text = root.try_read(path)
    if text is None:
        return default
    if not text.strip():
        raise malformed(path, "a number", text)
    return unsigned(text.strip(), path)


def _reasons(root: KernelRoot, disk: str | None, lockdown: str) -> tuple[str, ...]:
    if disk is None:
        return ("this kernel has no hibernation (CONFIG_HIBERNATION)",)
    reasons = [
        text
        for word, text in _BARRING_WORDS.items()
        if word in (root.try_read("/proc/cmdline") or "").split()
    ]
    if lockdown in ("integrity", "confidentiality"):
        reasons.append(f"kernel lockdown ({lockdown}); Secure Boot switches it on")
    if reasons:
        return tuple(reasons)
    if "disabled" in parse_selection(disk).options:
        return ("the kernel says [disabled]; perhaps a process holds secret memory (memfd_secret)",)
    state = root.try_read(f"{POWER}/state")
    if state is not None and "disk" not in state.split():
        return (f"{POWER}/state does not offer disk",)
    return ()
