# SPDX-License-Identifier: LGPL-2.1-or-later
"""The ports between a guest and its host (drivers/char/virtio_console.c), seen from the guest.

A port has a name that the host gave it, in /sys/class/virtio-ports/*/name. One process may have it
open. As long as nobody has it open on the host, reading is at its end at once (no error, no wait),
and poll(2) tells of that for ever (POLLIN and POLLHUP): whoever waits must wait for changes alone.
"""

from __future__ import annotations

import os

from hibprep.errors import KernelFileDenied, KernelFileMissing
from hibprep.kernel.root import KernelRoot, translate

CLASS = "/sys/class/virtio-ports"
_CHUNK_BYTES = 1 << 12  # the driver hands out a buffer at a time, and they are pages


def find_port(root: KernelRoot, name: str) -> str | None:
    """The device node of the port of that name, None where there is none."""
    try:
        nodes = root.listdir(CLASS)
    except (KernelFileMissing, KernelFileDenied):
        return None  # no driver, or no such device
    for node in nodes:
        if (root.try_read(f"{CLASS}/{node}/name") or "").strip() == name:
            return f"/dev/{node}"
    return None


class Port:
    """A port that is open, and never waits. Raises KernelFileError where it cannot be opened: it
    is another process's (EBUSY), or gone."""

    def __init__(self, root: KernelRoot, path: str) -> None:
        try:
            self._descriptor = os.open(
                root.path(path), os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY
            )
        except OSError as error:
            raise translate(path, error) from error

    def fileno(self) -> int:
        """Its descriptor, to wait on."""
        return self._descriptor

    def read(self) -> bytes | None:
        """What has come; None when nothing has, empty when nobody is at the other end. OSError
        when it is gone (ENODEV)."""
        try:
            return os.read(self._descriptor, _CHUNK_BYTES)
        except BlockingIOError:
            return None

    def write(self, data: bytes) -> int:
        """So many bytes were taken, perhaps none. OSError as `read`."""
        try:
            return os.write(self._descriptor, data)
        except BlockingIOError:
            return 0

    def close(self) -> None:
        """Give it back."""
        os.close(self._descriptor)
