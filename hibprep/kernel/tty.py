# SPDX-License-Identifier: LGPL-2.1-or-later
"""Terminals: when somebody last typed at one.

The kernel sets a terminal's atime when input is read from it, to the whole second and no more often
than every 8 s (tty_update_time() in drivers/tty/tty_io.c). It is a time of day: whoever sets the
clock moves it, so it is turned into CLOCK_MONOTONIC once and remembered until there is new input.
"""

from __future__ import annotations

import fcntl
import os
import re
import stat
from collections.abc import Collection
from dataclasses import dataclass

from hibprep.clock import Clock
from hibprep.kernel.root import KernelRoot

# names as logind has them, below /dev: "tty2", "pts/3", "ttyS0"
_NAME = re.compile(r"[A-Za-z0-9_:.-]+(?:/[A-Za-z0-9_:-][A-Za-z0-9_:.-]*)?")
_CONSOLE = re.compile(r"tty[0-9]+")
_KDGETMODE = 0x4B3B  # ioctl_console(2)
_KD_TEXT = 0


def read_tty_atime(root: KernelRoot, tty: str) -> float | None:
    """When input was last read from `tty` ("tty2", "pts/3"), in seconds since 1970; None when there
    is no such terminal, or it may not be looked at."""
    name = tty.removeprefix("/dev/")
    if not _NAME.fullmatch(name) or name.startswith("."):
        return None
    try:
        status = root.path(f"/dev/{name}").lstat()
    except OSError:
        return None
    if root.is_real and not stat.S_ISCHR(status.st_mode):
        return None
    return status.st_atime


def shows_graphics(root: KernelRoot, tty: str) -> bool:
    """Whether virtual console `tty` is in the hands of a graphical program (startx, or a Wayland
    compositor started by hand): its session is one of type tty all the same, and what is typed no
    longer comes in through the terminal. False when it cannot be told."""
    name = tty.removeprefix("/dev/")
    if not _CONSOLE.fullmatch(name):
        return False
    try:
        descriptor = os.open(
            root.path(f"/dev/{name}"), os.O_RDONLY | os.O_NOCTTY | os.O_NONBLOCK | os.O_CLOEXEC
        )
    except OSError:
        return False
    try:
        answer = fcntl.ioctl(descriptor, _KDGETMODE, bytes(4))
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return int.from_bytes(answer, "little") != _KD_TEXT


@dataclass(frozen=True, slots=True)
class _Look:
    atime: float
    input_at_seconds: float
    looked_at_seconds: float


class TtyInput:
    """When there was last input on terminals, in seconds of CLOCK_MONOTONIC."""

    def __init__(self, root: KernelRoot, clock: Clock) -> None:
        self._root = root
        self._clock = clock
        self._looks: dict[str, _Look] = {}

    def last_at_seconds(self, tty: str) -> float | None:
        """For `tty`; None when it cannot be told.

        Never in the future and never before 0; the same until there is input, however the clock is
        set meanwhile; and then no earlier than the last time it was looked at without any.
        """
        atime = read_tty_atime(self._root, tty)
        if atime is None:
            self._looks.pop(tty, None)
            return None
        now = self._clock.monotonic()
        before = self._looks.get(tty)
        if before is not None and before.atime == atime:
            at = before.input_at_seconds
        else:
            earliest = 0.0 if before is None else before.looked_at_seconds
            at = min(now, max(earliest, now - (self._clock.now().timestamp() - atime)))
        self._looks[tty] = _Look(atime, at, now)
        return at

    def forget_all_but(self, ttys: Collection[str]) -> None:
        """A terminal that comes back is another one."""
        for tty in self._looks.keys() - set(ttys):
            del self._looks[tty]
