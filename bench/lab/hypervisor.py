# SPDX-License-Identifier: LGPL-2.1-or-later
"""libvirtd and QEMU in a root file system of their own, for the rig.

Not those of this machine: a daemon that it has stays as it is, and none is started or enabled by an
installation. And Debian 12's QEMU would not do (see `qemu`). Only the client library is this
machine's; libvirt's protocol lets any version talk to any other.
"""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

from bench.lab import roots
from bench.lab.errors import LabError
from bench.lab.images import Progress
from bench.lab.paths import cache_root

# An ordinary user, for a daemon that is root's is the system's: it wants cgroups, and would meet
# another one in /run. Debian gives the ids from 65000 on to nobody (Policy, 9.2.2).
UID = 65321
USER = "hibprep-rig"

_SUITE = "trixie"
_PACKAGES = (
    *("libvirt-daemon", "libvirt-daemon-driver-qemu", "libvirt-clients"),
    *("qemu-system-x86", "seabios", "ipxe-qemu"),
    "python3",  # for hooks
)
_DAEMON = "/usr/sbin/libvirtd"
_EMULATOR = "/usr/bin/qemu-system-x86_64"


@dataclass(frozen=True)
class Hypervisor:
    """A root file system with libvirtd, QEMU and a user to run them. ``versions``: in words."""

    root: Path
    versions: str
    daemon: str = _DAEMON
    emulator: str = _EMULATOR


def find(progress: Progress) -> Hypervisor:
    """From the cache, or made now (a minute)."""
    place = roots.build(
        cache_root() / "libvirt",
        _SUITE,
        _PACKAGES,
        what="libvirtd and QEMU",
        finish=_finish,
        progress=progress,
    )
    return Hypervisor(place / "rootfs", (place / "version").read_text())


def _finish(rootfs: Path) -> str:
    # libvirt looks up the name of whoever it runs as.
    with (rootfs / "etc/passwd").open("a") as users:
        users.write(f"{USER}:x:{UID}:{UID}::/nonexistent:/usr/sbin/nologin\n")
    with (rootfs / "etc/group").open("a") as groups:
        groups.write(f"{USER}:x:{UID}:\n")
    libvirt = _version(rootfs, _DAEMON, r"libvirtd \(libvirt\) (\S+)")
    qemu = _version(rootfs, _EMULATOR, r"version (\S+)")
    return f"libvirt {libvirt}, QEMU {qemu}"


def _version(rootfs: Path, program: str, pattern: str) -> str:
    done = subprocess.run(
        ["chroot", str(rootfs), program, "--version"],
        capture_output=True,
        timeout=60,
        check=False,
        text=True,
    )
    match = re.search(pattern, done.stdout)
    if match is None:
        said = (done.stdout + done.stderr).strip()[:500]
        raise LabError(f"{program} --version ended with {done.returncode}: {said}")
    return match.group(1)
