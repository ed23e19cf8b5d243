# SPDX-License-Identifier: LGPL-2.1-or-later
"""One at a time, between processes, with a deadline."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.lab.errors import LabError


@contextmanager
def hold(
    path: Path, what: str, say: Callable[[str], None], timeout: float = 1800
) -> Iterator[None]:
    """Hold the lock of a file; the kernel lets go of it when its holder dies."""
    deadline = time.monotonic() + timeout
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        told = False
        while not _take(descriptor):
            if not told:
                say(f"{what}: somebody else is at it; waiting")
                told = True
            if time.monotonic() > deadline:
                raise LabError(
                    f"{what}: {path} has been locked for {timeout:.0f} s",
                    f"see who holds it: fuser -v {path}",
                )
            time.sleep(0.2)
        yield
    finally:
        os.close(descriptor)


def _take(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
