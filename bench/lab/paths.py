# SPDX-License-Identifier: LGPL-2.1-or-later
"""Where the lab keeps what it builds."""

from __future__ import annotations

import os
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]


def cache_root() -> Path:
    """The folder of everything that can be built again: ``HIBPREP_CACHE``, or under XDG's."""
    own = os.environ.get("HIBPREP_CACHE")
    if own:
        return Path(own).resolve()
    shared = os.environ.get("XDG_CACHE_HOME")
    base = Path(shared) if shared else Path.home() / ".cache"
    return (base / "hibprep").resolve()


def images_root() -> Path:
    """One folder per built guest image."""
    return cache_root() / "images"


def qemu_root() -> Path:
    """QEMU of our own, and the answers of trial boots."""
    return cache_root() / "qemu"


def work_root() -> Path:
    """The disks and consoles of guests that run now."""
    return cache_root() / "work"
