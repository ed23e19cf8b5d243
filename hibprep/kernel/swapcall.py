# SPDX-License-Identifier: LGPL-2.1-or-later
"""swapon(2) and swapoff(2), which Python has no functions for."""

from __future__ import annotations

import ctypes
import errno
import os

from hibprep.kernel.root import KernelRoot

# include/linux/swap.h
_PREFER = 0x8000
_LARGEST_PRIORITY = 0x7FFF


def swap_off(root: KernelRoot, path: str) -> None:
    """Have everything in the area read back into memory, and give it up. A signal ends that: then
    the area is in use again as before. Raises OSError."""
    _call(root, "swapoff", path)


def swap_on(root: KernelRoot, path: str, priority: int) -> None:
    """Use the area with that priority, 0 or above (those below are the kernel's to give). Raises
    OSError."""
    if not 0 <= priority <= _LARGEST_PRIORITY:
        raise ValueError(f"{priority} is no priority that can be asked for")
    _call(root, "swapon", path, _PREFER | priority)


def _call(root: KernelRoot, name: str, path: str, *flags: int) -> None:
    if not root.is_real:  # of a tree that is not this machine's
        raise OSError(errno.EXDEV, "belongs to another root", path)
    function = getattr(ctypes.CDLL(None, use_errno=True), name)
    function.restype = ctypes.c_int
    function.argtypes = (ctypes.c_char_p, *(ctypes.c_int for _ in flags))
    if function(os.fsencode(path), *flags):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), path)
