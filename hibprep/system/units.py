# SPDX-License-Identifier: LGPL-2.1-or-later
"""systemd's own files: sleep.conf (sleep.conf.d(5)), units that are masked, what drop-ins put into
a service's environment (systemd.unit(5), systemd.exec(5)), its version.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from hibprep.errors import KernelFileError
from hibprep.kernel.root import KernelRoot

CONF_DIRECTORIES = (  # the later wins
    "/usr/lib/systemd",
    "/usr/local/lib/systemd",
    "/run/systemd",
    "/etc/systemd",
)
UNIT_DIRECTORIES = (  # likewise
    "/lib/systemd/system",
    "/usr/lib/systemd/system",
    "/usr/local/lib/systemd/system",
    "/run/systemd/system",
    "/etc/systemd/system",
)
_MASKS = ("/run/systemd/system", "/etc/systemd/system")
_LIBRARIES = (
    "/usr/lib/systemd",
    "/lib/systemd",
    "/usr/lib64/systemd",
    "/usr/lib/x86_64-linux-gnu/systemd",
    "/usr/lib/aarch64-linux-gnu/systemd",
)
_SHARED = re.compile(r"libsystemd-shared-([0-9]{3})\b.*\.so", re.ASCII)
_NO = frozenset({"no", "n", "false", "f", "off", "0"})
_YES = frozenset({"yes", "y", "true", "t", "on", "1"})


@dataclass(frozen=True, slots=True)
class Setting:
    """A value, and the file that it is from."""

    value: str
    path: str


def is_no(text: str) -> bool:
    """Whether systemd would read it as false."""
    return text.strip().lower() in _NO


def is_yes(text: str) -> bool:
    """Whether systemd would read it as true."""
    return text.strip().lower() in _YES


def sleep_settings(root: KernelRoot) -> dict[str, Setting]:
    """The settings of sleep.conf that are in force: one main file, the highest of the directories;
    then drop-ins sorted by name, where a name in a higher directory hides the lower ones."""
    main = ""
    drop_ins: dict[str, str] = {}
    for directory in CONF_DIRECTORIES:
        if root.exists(f"{directory}/sleep.conf"):
            main = f"{directory}/sleep.conf"
        drop_ins |= _confs(root, f"{directory}/sleep.conf.d")
    found: dict[str, Setting] = {}
    for path in (main, *(drop_ins[name] for name in sorted(drop_ins))):
        for key, value in _assignments(root, path, "Sleep") if path else ():
            found[key] = Setting(value, path)
    return found


def masked(root: KernelRoot, units: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Those of `units` that are masked, and in which directory."""
    for unit in units:
        for directory in reversed(_MASKS):
            if root.readlink(f"{directory}/{unit}") == "/dev/null":
                yield directory, unit
                break


def environment(root: KernelRoot, unit: str) -> dict[str, Setting]:
    """The variables that drop-ins give a service."""
    drop_ins: dict[str, str] = {}
    # of one name, the drop-in for this service goes before that for all of its type
    for kind in ("service", unit):
        for directory in UNIT_DIRECTORIES:
            drop_ins |= _confs(root, f"{directory}/{kind}.d")
    found: dict[str, Setting] = {}
    for name in sorted(drop_ins):
        for key, value in _assignments(root, drop_ins[name], "Service"):
            if key != "Environment":
                continue
            if not value:
                found = {}
            for word in _words(value):
                variable, equals, text = word.partition("=")
                if equals:
                    found[variable] = Setting(text, drop_ins[name])
    return found


def is_enabled(root: KernelRoot, unit: str, wanted_by: str) -> bool:
    """Whether starting `wanted_by` starts `unit` too."""
    return any(
        root.exists(f"{directory}/{wanted_by}.{kind}/{unit}")
        or root.readlink(f"{directory}/{wanted_by}.{kind}/{unit}") is not None
        for directory in UNIT_DIRECTORIES
        for kind in ("wants", "requires")
    )


def version(root: KernelRoot) -> int:
    """The version of systemd, from the name of its library; 0 when it is not known."""
    for directory in _LIBRARIES:
        for name in _listed(root, directory):
            match = _SHARED.fullmatch(name)
            if match:
                return int(match[1])
    return 0


def _confs(root: KernelRoot, directory: str) -> dict[str, str]:
    names = _listed(root, directory)
    return {name: f"{directory}/{name}" for name in names if name.endswith(".conf")}


def _listed(root: KernelRoot, directory: str) -> list[str]:
    try:
        return root.listdir(directory)
    except KernelFileError:
        return []


def _assignments(root: KernelRoot, path: str, section: str) -> Iterator[tuple[str, str]]:
    here = ""
    for line in (root.try_read(path) or "").splitlines():
        text = line.strip()
        if text.startswith("[") and text.endswith("]"):
            here = text[1:-1]
        elif here == section and text[:1] not in ("#", ";"):
            key, equals, value = text.partition("=")
            if equals:
                yield key.strip(), value.strip()


def _words(text: str) -> list[str]:
    try:
        return shlex.split(text)
    except ValueError:
        return []
