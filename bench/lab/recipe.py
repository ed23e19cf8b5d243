# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the guest images are made of."""

from __future__ import annotations

import ast
import hashlib
import json
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType

from bench.lab.paths import REPOSITORY

_BASE_PACKAGES = (
    "systemd",
    "systemd-sysv",
    "dbus",
    "libpam-systemd",
    "udev",
    "python3",
    "kmod",
    "e2fsprogs",
    "procps",
    "util-linux",
    "initramfs-tools",
    "lz4",
)

# What the Debian package of hibprep asks for, and a reader for its manual.
_OF_THE_PACKAGE = (
    "python3-click",
    "python3-dbus-next",
    "python3-humanize",
    "python3-pydantic",
    "python3-pyudev",
    "python3-rich",
    "python3-urllib3",
    "man-db",
)

GiB = 1 << 30


@dataclass(frozen=True)
class Recipe:
    """Everything that decides what is in an image, apart from the lab's own code."""

    name: str
    suite: str
    kernel_package: str = "linux-image-cloud-amd64"
    # A second suite to take the kernel from; None for the suite's own.
    kernel_suite: str | None = None
    packages: tuple[str, ...] = _BASE_PACKAGES
    disk_bytes: int = 4 * GiB

    @property
    def suites(self) -> tuple[str, ...]:
        """The suites that the package manager gets to see."""
        return (self.suite,) if self.kernel_suite is None else (self.suite, self.kernel_suite)

    @property
    def install(self) -> tuple[str, ...]:
        """The packages to ask for, the kernel with the suite it must come from."""
        kernel = self.kernel_package
        if self.kernel_suite is not None:
            kernel = f"{kernel}/{self.kernel_suite}"
        return (*self.packages, kernel)

    def key(self) -> str:
        """A hash that changes whenever an image built now would differ from an older one."""
        digest = hashlib.sha256()
        digest.update(json.dumps(asdict(self), sort_keys=True).encode())
        digest.update("\n".join(requirements()).encode())
        for name in ("agent.py", "fixups.py"):
            # As the interpreter sees it: a comment or a line break is no reason to build again.
            code = ast.parse(Path(__file__).with_name(name).read_text())
            digest.update(ast.dump(code).encode())
        return digest.hexdigest()[:16]


def requirements(project: Path = REPOSITORY / "pyproject.toml") -> tuple[str, ...]:
    """What hibprep needs from PyPI, as its pyproject.toml says."""
    with project.open("rb") as stream:
        found = tomllib.load(stream)["project"]["dependencies"]
    return tuple(sorted(str(item) for item in found))


RECIPES: Mapping[str, Recipe] = MappingProxyType(
    {
        recipe.name: recipe
        for recipe in (
            Recipe(name="bookworm", suite="bookworm"),
            Recipe(name="trixie", suite="trixie"),
            Recipe(name="backports", suite="trixie", kernel_suite="trixie-backports"),
            # For hibprep as a Debian package, on Debian's own libraries.
            Recipe(name="packaged", suite="trixie", packages=(*_BASE_PACKAGES, *_OF_THE_PACKAGE)),
            # With a program for others' sake; it is started at boot, as Debian does it.
            Recipe(name="redis", suite="trixie", packages=(*_BASE_PACKAGES, "redis-server")),
            # With QEMU's guest agent, which udev starts where there is a port for it.
            Recipe(name="agent", suite="trixie", packages=(*_BASE_PACKAGES, "qemu-guest-agent")),
        )
    }
)
