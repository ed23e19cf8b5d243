# SPDX-License-Identifier: LGPL-2.1-or-later
"""Which descriptors this process has open, to compare before and after."""

from __future__ import annotations

import gc
import os


def descriptors() -> set[str]:
    """Their numbers, that of the directory that was read for it among them."""
    gc.collect()  # dbus-next leaves the socket of a connection that fails to the garbage collector
    return set(os.listdir("/proc/self/fd"))  # noqa: PTH208 - names are what is wanted
