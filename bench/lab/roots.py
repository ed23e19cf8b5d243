# SPDX-License-Identifier: LGPL-2.1-or-later
"""Root file systems of our own, for programs that this machine lacks or has in too old a version.

Nothing is installed on the machine itself: no service of it is started, none is touched.
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from bench.lab import host
from bench.lab.images import Progress, debootstrap
from bench.lab.locks import hold


def key_of(suite: str, packages: tuple[str, ...]) -> str:
    """A hash that changes whenever a root made now would differ from an older one."""
    return hashlib.sha256(repr((suite, packages)).encode()).hexdigest()[:16]


def build(
    parent: Path,
    suite: str,
    packages: tuple[str, ...],
    *,
    what: str,
    finish: Callable[[Path], str],
    progress: Progress,
) -> Path:
    """A folder of `parent` with a `rootfs` that has the packages; from the cache, or made now.

    ``finish`` gets the new rootfs, does what is left to be done, and returns which version of the
    program it has: kept in the file `version` beside it.
    """
    place = parent / key_of(suite, packages)
    parent.mkdir(parents=True, exist_ok=True)
    with hold(parent / ".lock", what, progress):
        if not place.exists():
            host.require(progress)
            host.require_keys(suite, progress)
            progress(f"making a root file system with {what}")
            for leftover in parent.glob(".root-*"):  # of a builder that was killed
                shutil.rmtree(leftover, ignore_errors=True)
            partial = Path(tempfile.mkdtemp(prefix=".root-", dir=parent))
            try:
                rootfs = partial / "rootfs"
                debootstrap((suite,), packages, rootfs, partial / "build.log", progress)
                (partial / "version").write_text(finish(rootfs))
                partial.rename(place)
            except BaseException:
                shutil.rmtree(partial, ignore_errors=True)
                raise
    return place
