# SPDX-License-Identifier: LGPL-2.1-or-later
"""What one run on guests works with: the time, the stop flag, and who it is."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace

from hibprep.clock import Clock, SystemClock
from hibprep.guests.record import Owner
from hibprep.guests.waiting import Stopping, Uninterrupted
from hibprep.kernel.knobs import BOOT_ID
from hibprep.kernel.process import start_time
from hibprep.kernel.root import KernelRoot


@dataclass(frozen=True, slots=True)
class Means:
    """`busy` says whether somebody else who is still there is at work under that name; `calm` is
    the stop flag while things are put back, which nobody raises."""

    clock: Clock
    stop: Stopping
    owner: Owner
    busy: Callable[[Owner], bool]
    calm: Stopping

    def calmly(self) -> Means:
        """The same, and not to be stopped."""
        return replace(self, stop=self.calm)


def real_means(root: KernelRoot, host_uuid: str, stop: Stopping) -> Means:
    """Those of this process. `host_uuid` is that of the libvirt host."""
    mine = Owner(
        host=host_uuid,
        boot=_boot(root),
        pid=os.getpid(),
        start=start_time(root, os.getpid()) or 0,
    )

    def busy(owner: Owner) -> bool:
        # of a process on another machine nobody here can tell; its time limit is for that
        return (
            owner != replace(mine, host=owner.host)
            and owner.boot == mine.boot
            and start_time(root, owner.pid) == owner.start
        )

    return Means(SystemClock(), stop, mine, busy, Uninterrupted())


def _boot(root: KernelRoot) -> str:
    return (root.try_read(BOOT_ID) or "").strip()
