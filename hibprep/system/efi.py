# SPDX-License-Identifier: LGPL-2.1-or-later
"""EFI variables that tell of hibernation and of the boot loader (Linux's efivarfs: four bytes of
attributes, then the value; the Boot Loader Interface of systemd; systemd-hibernate-resume(8)).
"""

from __future__ import annotations

import json
from dataclasses import dataclass

from hibprep.kernel.root import KernelRoot

DIRECTORY = "/sys/firmware/efi/efivars"
HIBERNATE_LOCATION = f"{DIRECTORY}/HibernateLocation-8cf2644b-4b0b-428f-9387-6d876050dc67"
_LOADER_INFO = f"{DIRECTORY}/LoaderInfo-4a67b082-0a4c-41cf-b6c7-440b29bb8c4f"
_ATTRIBUTES_BYTES = 4


@dataclass(frozen=True, slots=True)
class Location:
    """Where systemd left word of an image: it takes the word back when the image was read."""

    uuid: str  # of the swap partition, or of the file system that holds the swap file
    offset_pages: int
    kernel: str


def hibernate_location(root: KernelRoot) -> Location | None:
    """What the variable says; None when there is none, or none that can be understood."""
    try:
        found = json.loads(_text(root, HIBERNATE_LOCATION))
        return Location(
            str(found["uuid"]), int(found.get("offset", 0)), str(found.get("kernelVersion", ""))
        )
    except (ValueError, TypeError, KeyError, AttributeError):
        return None


def loader_info(root: KernelRoot) -> str:
    """The name and version of the boot loader, from those that say so; else ""."""
    return _text(root, _LOADER_INFO)


def _text(root: KernelRoot, path: str) -> str:
    # what is expected there is ASCII in UTF-16, which is valid UTF-8 as well
    raw = (root.try_read(path) or "").encode()
    return raw[_ATTRIBUTES_BYTES:].decode("utf-16-le", errors="replace").rstrip("\0")
