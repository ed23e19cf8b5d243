# SPDX-License-Identifier: LGPL-2.1-or-later
"""Power, swap areas and cgroups, read from fake kernels."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from hibprep.errors import KernelFileMissing, UsageError
from hibprep.kernel.cgroup import CgroupTree, find_cgroup2
from hibprep.kernel.power import read_power, secretmem_users
from hibprep.kernel.process import pageout_ranges
from hibprep.kernel.psi import read_pressure, try_pressure
from hibprep.kernel.root import KernelRoot
from hibprep.kernel.snapshot import read_snapshot
from hibprep.kernel.swaps import read_swaps
from tests.fakes.machine import FakeMachine, FakeRoot
from tests.fakes.state import GIB, MIB, AnonSet, FakeCgroup, FakeSwap


def put(root: Path, files: dict[str, str]) -> KernelRoot:
    for path, text in files.items():
        target = root / path.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)
    return KernelRoot(root)


def tree_of(machine: FakeMachine) -> CgroupTree:
    tree = find_cgroup2(FakeRoot(machine)).tree
    assert tree is not None
    return tree


POWER = {
    "/sys/power/disk": "platform [shutdown] reboot\n",
    "/sys/power/state": "freeze mem disk\n",
    "/sys/power/image_size": "1645903872\n",
    "/sys/power/resume": "254:2\n",
    "/sys/power/resume_offset": "34816\n",
    "/sys/power/pm_freeze_timeout": "20000\n",
    "/proc/cmdline": "root=/dev/vda1\n",
}


def test_power(tmp_path: Path) -> None:
    power = read_power(put(tmp_path, POWER))
    assert power.available
    assert power.image_size_bytes == 1645903872
    assert (power.resume_device, power.resume_offset_pages) == ("254:2", 34816)
    assert (power.disk_mode, power.disk_modes) == ("shutdown", ("platform", "shutdown", "reboot"))
    assert power.freeze_timeout_seconds == 20.0


def test_an_unset_resume_device_is_empty(tmp_path: Path) -> None:
    assert read_power(put(tmp_path, POWER | {"/sys/power/resume": "0:0\n"})).resume_device == ""


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"/proc/cmdline": "ro nohibernate"}, "nohibernate"),
        ({"/proc/cmdline": "ro hibernate=no"}, "hibernate=no"),
        ({"/proc/cmdline": "ro noresume"}, "noresume"),
        ({"/sys/kernel/security/lockdown": "none [integrity] confidentiality"}, "lockdown"),
        ({"/sys/power/disk": "[disabled]\n"}, "memfd_secret"),
        ({"/sys/power/state": "freeze mem\n"}, "/sys/power/state"),
    ],
)
def test_what_forbids_hibernation_is_named(
    tmp_path: Path, change: dict[str, str], word: str
) -> None:
    power = read_power(put(tmp_path, POWER | change))
    assert not power.available
    assert word in power.disabled_by[0]


def test_a_known_reason_is_not_blamed_on_secret_memory(tmp_path: Path) -> None:
    files = POWER | {"/proc/cmdline": "nohibernate", "/sys/power/disk": "[disabled]\n"}
    assert len(read_power(put(tmp_path, files)).disabled_by) == 1


def test_a_kernel_without_hibernation(tmp_path: Path) -> None:
    assert "CONFIG_HIBERNATION" in read_power(KernelRoot(tmp_path)).disabled_by[0]


def test_users_of_secret_memory(tmp_path: Path) -> None:
    line = "7f0000000000-7f0000100000 rw-s 00000000 00:0e 5 /secretmem (deleted)\n"
    root = put(tmp_path, {"/proc/7/maps": line, "/proc/8/maps": "", "/proc/self/maps": line})
    assert secretmem_users(root) == (7,)


SWAP_HEADER = "Filename Type Size Used Priority\n"


def test_an_encrypted_swap_device(tmp_path: Path) -> None:
    root = put(
        tmp_path,
        {
            "/proc/swaps": SWAP_HEADER + "/dev/mapper/vg-swap partition 1000 0 -2\n",
            "/dev/dm-1": "",
            "/sys/class/block/dm-1/dev": "253:1\n",
            "/sys/class/block/dm-1/dm/uuid": "LVM-abc\n",
            "/sys/class/block/dm-1/slaves/dm-0/x": "",
            "/sys/class/block/dm-0/dm/uuid": "CRYPT-LUKS2-abc\n",
        },
    )
    (tmp_path / "dev/mapper").mkdir()
    (tmp_path / "dev/mapper/vg-swap").symlink_to("../dm-1")
    (area,) = read_swaps(root)
    assert (area.device, area.encrypted) == ("253:1", True)


def test_a_plain_partition_and_one_with_a_slash_in_its_name(tmp_path: Path) -> None:
    root = put(
        tmp_path,
        {
            "/proc/swaps": SWAP_HEADER
            + "/dev/vda2 partition 1000 0 -2\n/dev/cciss/c0d0p1 partition 1000 0 -3\n",
            "/sys/class/block/vda2/dev": "254:2\n",
            "/sys/class/block/cciss!c0d0p1/dev": "104:1\n",
        },
    )
    plain, odd = read_swaps(root)
    assert (plain.device, plain.encrypted) == ("254:2", False)
    assert odd.device == "104:1"


@pytest.mark.parametrize(("members", "device"), [(["vdb"], "254:16"), (["vdb", "vdc"], "")])
def test_a_swap_file_on_btrfs(tmp_path: Path, members: list[str], device: str) -> None:
    files = {
        "/proc/swaps": SWAP_HEADER + "/home/swap file 1000 0 -2\n",
        "/proc/self/mountinfo": "28 1 0:40 /@ /home rw - btrfs /dev/vdb rw\n",
        "/sys/class/block/vdb/dev": "254:16\n",
    }
    root = put(tmp_path, files | {f"/sys/fs/btrfs/uuid/devices/{name}": "" for name in members})
    (area,) = read_swaps(root)
    assert (area.device, area.offset_pages) == (device, None)


def test_v1_and_hybrid_hosts_have_no_tree() -> None:
    found = find_cgroup2(FakeRoot(FakeMachine(cgroup_version=1)))
    assert found.tree is None
    assert "cgroup v1" in found.reason
    assert "not mounted" in find_cgroup2(FakeRoot(FakeMachine(cgroup_version=0))).reason


def test_the_root_has_no_limits_and_its_memory_is_put_together() -> None:
    machine = FakeMachine(cgroups=[FakeCgroup("/a", anon=[AnonSet(GIB)], file_bytes=MIB)])
    root = tree_of(machine).read("/")
    assert (root.path, root.current_bytes, root.swap_max_bytes) == ("/", GIB + MIB, None)


def test_walk_skips_what_vanishes() -> None:
    machine = FakeMachine(cgroups=[FakeCgroup("/a/b", file_bytes=MIB), FakeCgroup("/c")])
    seen = []
    for cgroup in tree_of(machine).walk():
        seen.append(cgroup.path)
        if cgroup.path == "/a":
            machine.remove_cgroup("/a/b")
    assert seen == ["/", "/a", "/c"]


@pytest.mark.parametrize("text", ["/a/b", "a/b", "a//b/", "/sys/fs/cgroup/a/b", "./a/b"])
def test_paths_as_people_give_them(text: str) -> None:
    machine = FakeMachine(cgroups=[FakeCgroup("/a/b")])
    assert tree_of(machine).validate(text) == "/a/b"


@pytest.mark.parametrize("text", ["", " ", "/a/../b", "..", "a\nb", "a\0"])
def test_paths_that_are_refused(text: str) -> None:
    with pytest.raises(UsageError):
        tree_of(FakeMachine()).validate(text)


def test_a_cgroup_that_is_not_there() -> None:
    with pytest.raises(KernelFileMissing, match="no cgroup /nope"):
        tree_of(FakeMachine()).validate("nope")


def test_protection_is_bounded_by_the_parent_and_by_use() -> None:
    machine = FakeMachine(
        cgroups=[
            FakeCgroup("/a", min_bytes=64 * MIB),
            FakeCgroup("/a/b", anon=[AnonSet(GIB)], min_bytes=GIB),
            FakeCgroup("/c", anon=[AnonSet(MIB)], min_bytes=GIB),
            FakeCgroup("/d/e", anon=[AnonSet(GIB)], min_bytes=GIB),
        ]
    )
    assert tree_of(machine).protected_bytes() == 64 * MIB + MIB
    tree = CgroupTree(FakeRoot(machine), "/sys/fs/cgroup", recursive_protection=False)
    assert tree.protected_bytes() == 64 * MIB + MIB


def test_without_recursive_protection_unclaimed_protection_is_none() -> None:
    machine = FakeMachine(
        cgroups=[
            FakeCgroup("/a", min_bytes=64 * MIB),
            FakeCgroup("/a/b", anon=[AnonSet(GIB)], min_bytes=MIB),
        ]
    )
    tree = CgroupTree(FakeRoot(machine), "/sys/fs/cgroup", recursive_protection=False)
    assert tree.protected_bytes() == MIB
    assert tree_of(machine).protected_bytes() == 64 * MIB


def test_memory_that_may_not_be_swapped() -> None:
    machine = FakeMachine(
        cgroups=[
            FakeCgroup("/a", anon=[AnonSet(GIB), AnonSet(MIB, shmem=True)], swap_max_bytes=0),
            FakeCgroup("/b", anon=[AnonSet(GIB)], swap_max_bytes=GIB // 2),
            FakeCgroup("/c", anon=[AnonSet(GIB)]),
        ]
    )
    assert tree_of(machine).swap_barred_bytes() == GIB + MIB + GIB // 2


def test_two_thousand_cgroups_are_walked_quickly(tmp_path: Path) -> None:
    groups = [FakeCgroup(f"/s{n % 20}.slice/u{n}.service", file_bytes=MIB) for n in range(2000)]
    FakeMachine(cgroups=groups, psi=False).render(tmp_path)
    tree = find_cgroup2(KernelRoot(tmp_path)).tree
    assert tree is not None
    tree.swap_barred_bytes()
    begun = time.monotonic()
    assert tree.protected_bytes() == 0
    assert tree.swap_barred_bytes() == 0
    assert time.monotonic() - begun < 0.5  # the rest is for busy machines


def test_processes_of_a_subtree() -> None:
    machine = FakeMachine(cgroups=[FakeCgroup("/a", pids=[7, 0]), FakeCgroup("/a/b", pids=[3])])
    assert tree_of(machine).pids("/a") == (3, 7)


def test_pageout_takes_no_stack() -> None:
    machine = FakeMachine(cgroups=[FakeCgroup("/a", anon=[AnonSet(MIB)], pids=[7])])
    assert pageout_ranges(FakeRoot(machine), 7) == ((0x7F0000000000, MIB),)


def test_locked_memory_is_not_paged_out(tmp_path: Path) -> None:
    maps = "1000-2000 rw-p 00000000 00:00 0 \n3000-4000 rw-p 00000000 00:00 0 [anon:x]\n"
    smaps = "1000-2000 rw-p 00000000 00:00 0 \nVmFlags: rd wr lo \n"
    root = put(
        tmp_path,
        {"/proc/7/maps": maps, "/proc/7/smaps": smaps, "/proc/7/status": "VmLck:\t  4 kB\n"},
    )
    assert pageout_ranges(root, 7) == ((0x3000, 0x1000),)


def test_pressure_that_is_not_there() -> None:
    root = FakeRoot(FakeMachine(psi=False))
    assert try_pressure(root, "memory") is None
    with pytest.raises(KernelFileMissing, match="CONFIG_PSI"):
        read_pressure(root, "memory")


def test_a_snapshot_of_a_rendered_tree_is_that_of_the_machine(tmp_path: Path) -> None:
    machine = FakeMachine(
        cgroups=[FakeCgroup("/a", anon=[AnonSet(GIB, idle_seconds=100)], min_bytes=MIB)],
        swaps=[
            FakeSwap("/dev/vda2", 4 * GIB, used_bytes=MIB, device="254:2"),
            FakeSwap("/dev/zram0", GIB, is_zram=True, used_bytes=3 * MIB, device="252:0"),
        ],
        resume_device="254:2",
    )
    machine.render(tmp_path)
    static = read_snapshot(KernelRoot(tmp_path))
    assert static == read_snapshot(FakeRoot(machine))
    assert static.zram_used_bytes == MIB
    assert static.swaps[0].device == static.power.resume_device
    assert static.protected_bytes == MIB
    assert static.lru_gen_enabled
    assert static.cpus == 4
