# SPDX-License-Identifier: LGPL-2.1-or-later
"""`hibprep guest save` with a real libvirtd: the file is smaller, and the guest goes on from it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bench.lab.rig import Rig
from bench.lab.workload_client import Workload
from hibprep.errors import ExitCode
from tests.libvirt.checks import CACHE_MIB, assert_as_before, fill_cache
from tests.libvirt.commands import guest_command

if TYPE_CHECKING:
    from tests.libvirt.rig_guest import RigGuest

MIB = 1 << 20


def saved_bytes(guest: RigGuest, rig: Rig, *words: str) -> int:
    """Save it as it is typed, and start it as anybody would: how large the file was."""
    guest.resident.close()
    ended = guest_command(rig.a, "save", guest.name, *words)
    assert ended.code is ExitCode.DONE, str(ended)
    assert ended.report["where"] == "file"
    (path,) = (rig.a.folder / "config/libvirt").rglob("*.save")
    # what was written: the image may have holes
    size = path.stat().st_blocks * 512
    guest.domain.create()
    assert guest.arrived(rig.a) == guest.identity  # no other one was booted
    return size


def test_the_file_is_smaller_and_the_guest_goes_on(guest: RigGuest, rig: Rig) -> None:
    program = Workload(
        guest.resident, cold_bytes=48 * MIB, warm_bytes=16 * MIB, tmpfs_bytes=8 * MIB
    )
    program.start()
    pid = program.pid
    guest.wait_for_agent()
    fill_cache(guest)
    full = guest.actual_bytes()
    as_it_is = saved_bytes(guest, rig, "--no-prepare")
    assert_as_before(guest, full)
    guest.wait_for_agent()
    prepared = saved_bytes(guest, rig, "--thorough")
    print(f"saved: {as_it_is >> 20} MiB as it is, {prepared >> 20} MiB prepared")  # noqa: T201
    assert prepared < as_it_is - CACHE_MIB * MIB // 2
    assert guest.actual_bytes() < full  # nobody has given it back yet
    undone = guest_command(rig.a, "undo", guest.name)
    assert undone.code is ExitCode.DONE, str(undone)
    assert_as_before(guest, full)
    assert program.pid == pid
    assert program.verify()["ok"]
