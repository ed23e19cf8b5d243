# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the lab needs of the machine it runs on, and putting it there."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

from bench.lab.errors import LabError

# command -> Debian package that brings it
TOOLS = {"mmdebstrap": "mmdebstrap", "mke2fs": "e2fsprogs"}

Say = Callable[[str], None]


def require(say: Say) -> None:
    """Check that images can be built and guests run here; install Debian packages that lack."""
    if os.geteuid() != 0:
        raise LabError("the lab builds root file systems and must run as root", "run it with sudo")
    if platform.machine() != "x86_64":
        raise LabError(
            f"the lab's guests are x86-64; this machine is {platform.machine()}",
            "run it on an x86-64 machine",
        )
    os.environ["PATH"] = os.environ.get("PATH", "") + ":/usr/local/sbin:/usr/sbin:/sbin"
    missing = sorted({package for tool, package in TOOLS.items() if shutil.which(tool) is None})
    if missing:
        apt_install(missing, say)


def require_keys(suite: str, say: Say) -> None:
    """Have the archive keys of the suite: an older release may not know them yet."""
    keys = Path("/usr/share/keyrings")
    if not any(keys.glob(f"debian-archive-{suite}-*")):
        apt_install(["debian-archive-keyring"], say)


def apt_install(packages: list[str], say: Say) -> None:
    """Install Debian packages on this machine, saying so first."""
    names = " ".join(packages)
    remedy = f"as root: apt-get update && apt-get install {names}"
    if shutil.which("apt-get") is None:
        raise LabError(f"needed and not here: {names}; and there is no apt-get", remedy)
    say(f"installing Debian packages on this machine: {names}")
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for argv in (
        ["apt-get", "-q", "update"],
        ["apt-get", "-q", "-y", "install", "--no-install-recommends", *packages],
    ):
        done = subprocess.run(
            argv,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=900,
            check=False,
        )
        if done.returncode != 0:
            said = (done.stdout + done.stderr).decode(errors="replace").strip()
            raise LabError(f"{' '.join(argv)} failed:\n{said[-1500:]}", remedy)


def mirror(sources: Path = Path("/etc/apt")) -> str:
    """The Debian mirror that this machine is set up with."""
    for uri in _uris(sources):
        parts = urlsplit(uri)
        if parts.scheme in {"http", "https", "file"} and parts.path.rstrip("/").endswith("/debian"):
            return uri.rstrip("/")
    raise LabError(
        f"no Debian mirror in {sources}/sources.list or {sources}/sources.list.d",
        "the guests are built from the mirror that this machine uses: add one for Debian",
    )


def _uris(sources: Path) -> Iterator[str]:
    for path in sorted(sources.glob("sources.list.d/*.sources")):
        for stanza in path.read_text(errors="replace").split("\n\n"):
            fields = dict(
                line.split(":", 1)
                for line in stanza.splitlines()
                if ":" in line and not line.startswith(("#", " "))
            )
            enabled = fields.get("Enabled", "yes").strip().lower() not in {"no", "false"}
            if enabled and "deb" in fields.get("Types", "").split():
                yield from fields.get("URIs", "").split()
    for path in [sources / "sources.list", *sorted(sources.glob("sources.list.d/*.list"))]:
        if not path.exists():
            continue
        for line in path.read_text(errors="replace").splitlines():
            words = line.split("#", 1)[0].split()
            if words[:1] != ["deb"]:
                continue
            # options in brackets may be split over several words
            yield next((word for word in words[1:] if "://" in word), "")
