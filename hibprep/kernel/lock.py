# SPDX-License-Identifier: LGPL-2.1-or-later
"""One hibprep at a time: flock(2) on a file in the run-time directory, given back by the kernel
however the owner ends."""

from __future__ import annotations

import fcntl
import os
from types import TracebackType
from typing import Self

from hibprep.errors import HibprepError
from hibprep.kernel.root import KernelRoot, translate

_NAME = "lock"
_DIGITS = 32


class LockedError(HibprepError):
    """Another hibprep is at work."""


class RunLock:
    """The lock, held from `acquire` to `release` or as a context manager. A forked child that
    keeps the descriptor holds it too."""

    def __init__(
        self,
        root: KernelRoot,
        directory: str = "/run/hibprep",
        *,
        name: str = _NAME,
        who: str = "another hibprep is at work",
    ) -> None:
        self._root = root
        self._directory = directory
        self._path = f"{directory}/{name}"
        self._who = who
        self._descriptor = -1

    def acquire(self) -> None:
        """Take it or raise; never waits."""
        if self._descriptor >= 0:
            return
        try:
            self._root.path(self._directory).mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor = os.open(
                self._root.path(self._path), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600
            )
        except OSError as error:
            raise translate(self._path, error) from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        except BlockingIOError:
            owner = os.pread(descriptor, _DIGITS, 0).decode(errors="replace").strip()
            os.close(descriptor)
            raise LockedError(
                f"{self._who} (pid {owner or 'not known yet'})",
                "wait until it has ended, or stop it with SIGTERM",
            ) from None
        except OSError as error:
            os.close(descriptor)
            raise translate(self._path, error) from error
        self._descriptor = descriptor

    def release(self) -> None:
        """Give it back. The file stays: removing it would let two owners hold two files."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def __enter__(self) -> Self:
        self.acquire()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.release()
