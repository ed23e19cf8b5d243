# SPDX-License-Identifier: LGPL-2.1-or-later
"""Keeping this process in memory: whoever empties memory must not wait for its own pages when it is
told to stop (mlockall(2))."""

from __future__ import annotations

import ctypes
import os

_MCL_CURRENT = 1
_MCL_FUTURE = 2
_MCL_ONFAULT = 4  # since 4.4: only what was touched, so that thread stacks cost what they use


def lock_memory() -> str:
    """Lock what this process has and will have; returns why that could not be, or "".

    Needs CAP_IPC_LOCK or a large enough RLIMIT_MEMLOCK. Children do not inherit it.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mlockall(_MCL_CURRENT | _MCL_FUTURE | _MCL_ONFAULT) == 0:
        return ""
    return f"mlockall: {os.strerror(ctypes.get_errno())}"
