# SPDX-License-Identifier: LGPL-2.1-or-later
"""Editing configuration files as text (fstab(5), GRUB's /etc/default/grub, kernel-install(8),
loader entries, initramfs.conf(5), tmpfiles.d(5), sleep.conf.d(5)). Pure."""

from __future__ import annotations

import re

MARK = "# written by hibprep"
_RESUME_WORDS = ("resume=", "resume_offset=")
# what a boot loader puts on the running kernel's command line for itself
_LOADER_WORDS = ("BOOT_IMAGE=", "initrd=")


def fstab_escape(path: str) -> str:
    """A path as fstab(5) has it: blanks and the like in octal."""
    return re.sub(r"[\s\\#]", lambda found: f"\\{ord(found[0]):03o}", path)


def with_fstab_line(text: str, path: str) -> str:
    """The file with a line for a swap file, at its end."""
    start = text if not text or text.endswith("\n") else f"{text}\n"
    return f"{start}{MARK}\n{fstab_escape(path)} none swap sw 0 0\n"


def fstab_has(text: str, path: str) -> bool:
    """Whether there is a line for that path."""
    return any(
        line.split()[:1] in ([path], [fstab_escape(path)])
        for line in text.splitlines()
        if not line.lstrip().startswith("#")
    )


def resume_parameters(device: str, offset: str) -> tuple[str, ...]:
    """What the kernel is told; `offset` "" for a partition."""
    return (f"resume={device}", *((f"resume_offset={offset}",) if offset else ()))


def grub_drop_in(parameters: tuple[str, ...]) -> str:
    """A file for /etc/default/grub.d."""
    words = " ".join(("$GRUB_CMDLINE_LINUX", *parameters))
    return f'{MARK}: where a hibernation image is\nGRUB_CMDLINE_LINUX="{words}"\n'


def with_grub_setting(text: str, parameters: tuple[str, ...]) -> str:
    """/etc/default/grub, where drop-ins are not read: it is shell, so that the last line wins."""
    start = text if not text or text.endswith("\n") else f"{text}\n"
    return start + grub_drop_in(parameters)


def with_words(line: str, parameters: tuple[str, ...]) -> str:
    """A command line with the parameters in the place of those of their names."""
    kept = [word for word in line.split() if not word.startswith(_RESUME_WORDS)]
    return " ".join((*kept, *parameters))


def kernel_cmdline(text: str | None, running: str, parameters: tuple[str, ...]) -> str:
    """/etc/kernel/cmdline; without one, kernel-install takes the running kernel's."""
    words = text
    if words is None:
        words = " ".join(word for word in running.split() if not word.startswith(_LOADER_WORDS))
    return with_words(words, parameters) + "\n"


def with_entry_words(text: str, parameters: tuple[str, ...]) -> str:
    """A loader entry whose options end with the parameters."""
    lines = text.splitlines()
    places = [index for index, line in enumerate(lines) if line.split(None, 1)[:1] == ["options"]]
    for index in places:
        key, _, words = lines[index].strip().partition(" ")
        lines[index] = f"{key} {with_words(words, ())}".rstrip()
    if places:
        lines[places[-1]] += " " + " ".join(parameters)
    else:
        lines.append("options " + " ".join(parameters))
    return "\n".join(lines) + "\n"


def tools_resume(device: str) -> str:
    """The file conf.d/resume of initramfs-tools."""
    return f"{MARK}: the swap partition that a hibernation image is on\nRESUME={device}\n"


def dracut_drop_in() -> str:
    """A file for /etc/dracut.conf.d; the blanks are dracut's own convention."""
    return f'{MARK}: what reads a hibernation image\nadd_dracutmodules+=" resume "\n'


def freeze_timeout_tmpfiles(path: str, milliseconds: int) -> str:
    """A file for tmpfiles.d, which writes it at every boot."""
    return f"{MARK}: how long processes may take to freeze\nw {path} - - - - {milliseconds}\n"


def allow_hibernation() -> str:
    """A file for sleep.conf.d."""
    return f"{MARK}\n[Sleep]\nAllowHibernation=yes\n"
