# SPDX-License-Identifier: LGPL-2.1-or-later
"""A guest that takes memory while its balloon is inflated: nothing of it is ever killed for it."""

from __future__ import annotations

import pytest

from bench.lab import Guest, build
from bench.qmpdomain import QmpDomain, device_arguments
from hibprep.guests.means import real_means
from hibprep.guests.prepare import Options, prepare
from hibprep.guests.undo import UndoEnding, undo
from hibprep.guests.waiting import Uninterrupted
from hibprep.kernel.root import KernelRoot

MIB = 1 << 20
RUNS = 50
UNIT = "taking.service"
# 160 MiB within two seconds or so, more than the reserve; held until it is told to end
_TAKE = """
import mmap, signal, time
held = []
for _ in range(32):
    held.append(mmap.mmap(-1, 5 << 20))
    held[-1].write(b"x" * (5 << 20))
    time.sleep(0.05)
signal.pause()
"""


def oom_kills(guest: Guest) -> int:
    counters = dict(line.split() for line in guest.read("/proc/vmstat").splitlines())
    return int(counters["oom_kill"])


@pytest.mark.timeout(2400)
def test_no_kill_in_fifty_runs_with_the_guest_allocating_meanwhile() -> None:
    with Guest(
        build("trixie", print),
        memory_bytes=512 * MIB,
        swap_bytes=256 * MIB,
        qemu_arguments=device_arguments(reporting=False),
    ) as guest:
        guest.start()
        domain = QmpDomain(guest, reporting=False)
        means = real_means(KernelRoot(), "test", Uninterrupted())
        before = oom_kills(guest)
        for _ in range(RUNS):
            take = ["systemd-run", f"--unit={UNIT}", "--collect", "--quiet"]
            guest.run([*take, "/usr/bin/python3", "-I", "-S", "-c", _TAKE], check=True)
            report = prepare(domain, Options(), means, lambda _: None)
            active = guest.run(["systemctl", "is-active", UNIT]).text.strip()
            assert active == "active", (report, guest.console_tail())
            assert undo(domain, means).ending is UndoEnding.DONE
            assert domain.memory_stats().actual_bytes == guest.memory_bytes
            guest.run(["systemctl", "stop", UNIT], check=True)
        assert oom_kills(guest) == before
