# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the next boot's kernel will be told: GRUB's configuration and what it is made from (GRUB's
manual, "Simple configuration"), boot loader entries (the UAPI group's Boot Loader Specification,
kernel-install(8)).
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from enum import StrEnum

from hibprep.errors import KernelFileError
from hibprep.kernel.root import KernelRoot
from hibprep.system.efi import loader_info

COMMAND_LINE = "/proc/cmdline"
GRUB_DEFAULT = "/etc/default/grub"
GRUB_DROP_INS = "/etc/default/grub.d"
KERNEL_CMDLINE = "/etc/kernel/cmdline"
_GRUB_CONFIGS = ("/boot/grub/grub.cfg", "/boot/grub2/grub.cfg")
_GRUB_ENVIRONMENTS = ("/boot/grub/grubenv", "/boot/grub2/grubenv")
_ESPS = ("/boot", "/efi", "/boot/efi")
_MKCONFIGS = ("/usr/sbin/grub-mkconfig", "/usr/bin/grub-mkconfig", "/usr/sbin/grub2-mkconfig")

_LINUX = re.compile(r"\s*linux(?:16|efi)?\s+\S+(.*)")
_ASSIGNMENT = re.compile(r"\s*(?:export\s+)?(GRUB_CMDLINE_LINUX(?:_DEFAULT)?)(\+?=)(.*)", re.ASCII)
_VARIABLE = re.compile(r"\$\{?(\w+)\}?", re.ASCII)
_RECOVERY = frozenset({"single", "recovery", "rescue", "emergency"})


class LoaderKind(StrEnum):
    """The boot loaders whose configuration is understood."""

    GRUB = "grub"
    GRUB_ENTRIES = "grub with loader entries"  # Fedora's: GRUB reads the entries, grubby edits them
    SYSTEMD_BOOT = "systemd-boot"


@dataclass(frozen=True, slots=True)
class Words:
    """A kernel command line, and the file that it is in."""

    path: str
    words: tuple[str, ...]

    def value(self, name: str) -> str | None:
        """What `name=` is set to, the last time; None when it is not there."""
        found = [word.partition("=")[2] for word in self.words if word.startswith(f"{name}=")]
        return found[-1] if found else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Loader:
    """A boot loader that is configured here."""

    kind: LoaderKind
    booted: bool  # this boot came from it
    entries: tuple[Words, ...]  # what kernels will be told, the first that is offered first
    config: str = ""  # the file that the loader reads first
    settings: tuple[Words, ...] = ()  # what the entries are made from when they are made anew
    drop_ins: bool = False  # GRUB: whether /etc/default/grub.d is read
    unified: bool = False  # kernels that carry their command line in themselves, which is not read


def find_loaders(root: KernelRoot) -> tuple[Loader, ...]:
    """All that are configured, the one that started this boot first."""
    words = (root.try_read(COMMAND_LINE) or "").split()
    by_grub = any(word.startswith("BOOT_IMAGE=") for word in words)  # GRUB puts it there
    info = loader_info(root)
    loaders = []
    grub = _grub(root, booted=by_grub)
    if grub is not None:
        loaders.append(grub)
    if grub is None or grub.kind is LoaderKind.GRUB:
        boot = _systemd_boot(root, booted=info.startswith("systemd-boot") and not by_grub)
        if boot is not None:
            loaders.append(boot)
    return tuple(sorted(loaders, key=lambda loader: not loader.booted))


# --- GRUB -----------------------------------------------------------------------------------------


def parse_grub(text: str, path: str) -> tuple[Words, ...]:
    """The kernels of a grub.cfg, but for those that boot to be repaired."""
    found = []
    for line in text.splitlines():
        match = _LINUX.match(line)
        if match and "/" in line:
            words = tuple(match[1].split())
            if not _RECOVERY & set(words):
                found.append(Words(path, words))
    return tuple(found)


def parse_grub_settings(texts: tuple[tuple[str, str], ...]) -> Words:
    """What /etc/default/grub and the files after it (path and text each) say that kernels are
    told. They are shell; assignments are all that is understood of it."""
    values: dict[str, str] = {}
    said = GRUB_DEFAULT
    for path, text in texts:
        for line in text.splitlines():
            match = _ASSIGNMENT.fullmatch(line)
            if not match:
                continue
            name, operator, raw = match.groups()
            try:
                value = " ".join(shlex.split(raw, comments=True))
            except ValueError:
                continue
            value = _VARIABLE.sub(lambda found: values.get(found[1], ""), value)
            values[name] = f"{values.get(name, '')} {value}" if operator == "+=" else value
            if "resume" in value:
                said = path
    both = (values.get(name, "") for name in ("GRUB_CMDLINE_LINUX", "GRUB_CMDLINE_LINUX_DEFAULT"))
    return Words(said, tuple(" ".join(both).split()))


def _grub(root: KernelRoot, *, booted: bool) -> Loader | None:
    path = next((each for each in _GRUB_CONFIGS if root.exists(each)), "")
    if not path:
        return None
    text = root.try_read(path) or ""
    by_entries = "blscfg" in text and bool(_names(root, "/boot/loader/entries"))
    sources = [GRUB_DEFAULT, *_paths(root, GRUB_DROP_INS, ".cfg")]
    texts = tuple((each, root.try_read(each) or "") for each in sources)
    mkconfig = next((root.try_read(each) for each in _MKCONFIGS if root.exists(each)), "") or ""
    return Loader(
        kind=LoaderKind.GRUB_ENTRIES if by_entries else LoaderKind.GRUB,
        booted=booted,
        entries=_entries(root, "/boot") if by_entries else parse_grub(text, path),
        config=path,
        settings=(parse_grub_settings(texts),) if root.exists(GRUB_DEFAULT) else (),
        # Debian's and its descendants': GRUB's own reads /etc/default/grub alone
        drop_ins="default/grub.d" in mkconfig,
    )


# --- entries --------------------------------------------------------------------------------------


def parse_entry(text: str, path: str, variables: dict[str, str] | None = None) -> Words | None:
    """A loader entry of type 1; None when it starts no Linux."""
    words: list[str] = []
    linux = False
    for line in text.splitlines():
        key, _, value = line.strip().partition(" ")
        linux = linux or key == "linux"
        if key == "options":
            given = _VARIABLE.sub(lambda found: (variables or {}).get(found[1], ""), value)
            words += given.split()
    return Words(path, tuple(words)) if linux and not _RECOVERY & set(words) else None


def _systemd_boot(root: KernelRoot, *, booted: bool) -> Loader | None:
    for esp in _ESPS:
        there = root.exists(f"{esp}/EFI/systemd") or root.exists(f"{esp}/loader/loader.conf")
        if not there:
            continue
        entries = tuple(entry for each in _ESPS for entry in _entries(root, each))
        unified = any(_paths(root, f"{each}/EFI/Linux", ".efi") for each in _ESPS)
        text = root.try_read(KERNEL_CMDLINE)
        return Loader(
            kind=LoaderKind.SYSTEMD_BOOT,
            booted=booted,
            entries=entries,
            settings=() if text is None else (Words(KERNEL_CMDLINE, tuple(text.split())),),
            unified=unified,
        )
    return None


def _entries(root: KernelRoot, esp: str) -> tuple[Words, ...]:
    variables = {}
    for path in _GRUB_ENVIRONMENTS:
        for line in (root.try_read(path) or "").splitlines():
            name, equals, value = line.partition("=")
            if equals:
                variables[name] = value
    found = (
        parse_entry(root.try_read(path) or "", path, variables)
        for path in reversed(_paths(root, f"{esp}/loader/entries", ".conf"))
    )
    return tuple(entry for entry in found if entry is not None)


def _paths(root: KernelRoot, directory: str, ending: str) -> list[str]:
    return [f"{directory}/{name}" for name in _names(root, directory) if name.endswith(ending)]


def _names(root: KernelRoot, directory: str) -> list[str]:
    try:
        return root.listdir(directory)
    except KernelFileError:
        return []
