# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the initramfs knows of resuming: initramfs-tools (initramfs.conf(5)), dracut
(dracut.conf(5)), mkinitcpio.conf(5).
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from enum import StrEnum

from hibprep.errors import KernelFileError
from hibprep.kernel.root import KernelRoot

RELEASE = "/proc/sys/kernel/osrelease"
TOOLS = "/etc/initramfs-tools"
TOOLS_RESUME = f"{TOOLS}/conf.d/resume"
DRACUT_DROP_INS = "/etc/dracut.conf.d"
_DRACUT_DIRECTORIES = ("/usr/lib/dracut/dracut.conf.d", DRACUT_DROP_INS)
_MKINITCPIO = "/etc/mkinitcpio.conf"
_IMAGES = ("/boot/initrd.img-{}", "/boot/initramfs-{}.img", "/boot/initrd-{}")

_SETTING = re.compile(r"\s*(?:export\s+)?(RESUME|resume_offset)=(.*)", re.ASCII)
_MODULES = re.compile(r"\s*(add|omit|force_add)?_?dracutmodules\+?=(.*)", re.ASCII)
_HOOKS = re.compile(r"\s*HOOKS\+?=\((.*)\)", re.ASCII)


class InitramfsKind(StrEnum):
    """The programs that make one."""

    TOOLS = "initramfs-tools"
    DRACUT = "dracut"
    MKINITCPIO = "mkinitcpio"


@dataclass(frozen=True, slots=True, kw_only=True)
class Initramfs:
    """How the initramfs of this machine is made."""

    kind: InitramfsKind
    resume: str = ""  # the device that it looks on by itself; "" when the command line must say it
    resume_offset: str = ""
    path: str = ""  # the file that says so
    reads_images: bool = True  # it resumes at all, when told where
    lacks: str = ""  # why not, when it does not
    is_older: bool = False  # than the settings that it is made from


def read_initramfs(root: KernelRoot) -> Initramfs | None:
    """The one that is configured here; None when none is known."""
    # its settings stay behind when it is taken away for another
    if root.is_dir("/usr/share/initramfs-tools"):
        return _tools(root)
    if root.exists("/etc/dracut.conf") or root.is_dir("/usr/lib/dracut"):
        return _dracut(root)
    if root.exists(_MKINITCPIO):
        return _mkinitcpio(root)
    return None


def parse_tools(texts: tuple[tuple[str, str], ...]) -> tuple[str, str, str]:
    """RESUME, resume_offset and the file that said RESUME, of files (path and text each) that are
    read one after the other, as shell."""
    resume = offset = said = ""
    for path, text in texts:
        for line in text.splitlines():
            for match in (_SETTING.match(part) for part in _parts(line)):
                if match and match[1] == "RESUME":
                    resume, said = match[2], path
                elif match:
                    offset = match[2]
    return resume, offset, said


def _parts(line: str) -> list[str]:
    """The words of a line; several assignments may be on one."""
    try:
        return shlex.split(line, comments=True)
    except ValueError:
        return []


def _tools(root: KernelRoot) -> Initramfs:
    paths = [f"{TOOLS}/initramfs.conf", *_listed(root, f"{TOOLS}/conf.d")]
    resume, offset, said = parse_tools(tuple((path, root.try_read(path) or "") for path in paths))
    return Initramfs(
        kind=InitramfsKind.TOOLS,
        resume=resume,
        resume_offset=offset,
        path=said,
        is_older=bool(said) and _is_older(root, said),
    )


def _dracut(root: KernelRoot) -> Initramfs:
    paths = ["/etc/dracut.conf"]
    for directory in _DRACUT_DIRECTORIES:
        paths += [path for path in _listed(root, directory) if path.endswith(".conf")]
    lacks = path_of = ""
    for path in paths:
        for line in (root.try_read(path) or "").splitlines():
            match = _MODULES.match(line)
            if not match:
                continue
            names = " ".join(_parts(match[2])).split()
            if match[1] == "omit" and "resume" in names:
                lacks, path_of = f"{path} leaves out dracut's module resume", path
            elif match[1] in ("add", "force_add") and "resume" in names:
                path_of = path
    return Initramfs(
        kind=InitramfsKind.DRACUT,
        path=path_of,
        reads_images=not lacks,
        lacks=lacks,
        is_older=bool(path_of) and _is_older(root, path_of),
    )


def _mkinitcpio(root: KernelRoot) -> Initramfs:
    hooks: list[str] = []
    for path in (_MKINITCPIO, *_listed(root, f"{_MKINITCPIO}.d")):
        for line in (root.try_read(path) or "").splitlines():
            match = _HOOKS.match(line)
            if match:
                hooks = [*(hooks if "+=" in line else []), *_parts(match[1])]
    reads = bool({"resume", "systemd"} & set(hooks))
    return Initramfs(
        kind=InitramfsKind.MKINITCPIO,
        path=_MKINITCPIO,
        reads_images=reads,
        lacks="" if reads else f"HOOKS of {_MKINITCPIO} has neither resume nor systemd in it",
    )


def _is_older(root: KernelRoot, path: str) -> bool:
    """Whether the running kernel's initramfs was made before `path` was last changed."""
    release = (root.try_read(RELEASE) or "").strip()
    for image in _IMAGES:
        try:
            made = root.path(image.format(release)).stat().st_mtime
            return made < root.path(path).stat().st_mtime
        except OSError:
            continue
    return False


def _listed(root: KernelRoot, directory: str) -> list[str]:
    try:
        return [f"{directory}/{name}" for name in root.listdir(directory)]
    except KernelFileError:
        return []
