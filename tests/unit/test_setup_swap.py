# SPDX-License-Identifier: LGPL-2.1-or-later
from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hibprep.clock import SystemClock
from hibprep.errors import HibprepError, KernelFileMissing, NotPossibleError, UsageError
from hibprep.fitting import SYSTEMD_RATIO, WORST_RATIO, image_needs_bytes
from hibprep.kernel.root import KernelRoot
from hibprep.predict import target_pages
from hibprep.setup import record, swap
from hibprep.setup.carry import Undone, carry_out, undo
from hibprep.setup.sizing import swap_size
from hibprep.setup.steps import OFFSET as PLACEHOLDER
from hibprep.setup.steps import Step, details
from tests.fakes.configured import (
    GIB,
    OFFSET,
    RELEASE,
    ROOT_UUID,
    SWAP_UUID,
    FakeTools,
    install,
    snapshot,
)
from tests.fakes.state import FakeSwap

from .strategies import snapshots

LOADERS = ("grub", "grub-plain", "grub-entries", "systemd-boot", "none")
INITRAMFSES = ("initramfs-tools", "dracut", "mkinitcpio", "none")
PARAMETERS = f"resume=UUID={ROOT_UUID} resume_offset={OFFSET}"
KILLED = """
import sys
from hibprep.clock import SystemClock
from hibprep.kernel.root import KernelRoot
from hibprep.setup.carry import carry_out
from tests.fakes.configured import FakeTools
from tests.unit.test_setup_swap import steps_of, WITH_ROOM
root = KernelRoot(sys.argv[1])
tools = FakeTools(root, fail_at=int(sys.argv[2]), fail_after=sys.argv[3] == "after")
carry_out("swap", steps_of(root, **WITH_ROOM), tools, SystemClock())
"""
WITH_ROOM = {"available_bytes": 40 * GIB, "disk_bytes": 100 * GIB}


@pytest.fixture(autouse=True)
def _room(monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk with room, whatever the one is like that the tests run on."""
    real = os.statvfs

    def statvfs(path: Any) -> Any:  # noqa: ANN401
        found = list(real(path))
        found[0], found[1] = 4096, 4096
        found[2] = 100 * GIB // 4096
        found[3] = found[4] = 40 * GIB // 4096
        return os.statvfs_result(found)

    monkeypatch.setattr(os, "statvfs", statvfs)


def steps_of(root: KernelRoot, **facts: Any) -> tuple[Step, ...]:  # noqa: ANN401
    return plan_of(root, **facts).steps


def plan_of(root: KernelRoot, size_bytes: int | None = None, **facts: Any) -> swap.SwapPlan:  # noqa: ANN401
    return swap.plan(root, replace(swap.gather(root, "/swapfile"), **facts), size_bytes)


# --- how large ------------------------------------------------------------------------------------


@settings(deadline=None)
@given(snapshots())
def test_the_size_is_enough_for_the_worst(given_snapshot: Any) -> None:  # noqa: ANN401
    found = swap_size(given_snapshot)
    memory, page = given_snapshot.memory, given_snapshot.page_size
    image_size = given_snapshot.power.image_size_bytes or memory.total_bytes * 2 // 5
    image = min(memory.total_bytes, target_pages(given_snapshot, image_size) * page)
    # all that is not in the image swapped out, and then the image, uncompressed at worst
    assert found.size_bytes >= memory.total_bytes - image + image_needs_bytes(image, WORST_RATIO)
    # systemd would accept even if all of memory were active and anonymous
    assert memory.total_bytes <= SYSTEMD_RATIO * found.size_bytes
    assert found.size_bytes < 1.3 * memory.total_bytes + GIB
    assert found.size_bytes % given_snapshot.page_size == 0


# --- what would be done ---------------------------------------------------------------------------


def test_debian_with_grub(tmp_path: Path) -> None:
    root = install(tmp_path)
    plan = plan_of(root)
    titles = [step.title for step in plan.steps]
    assert titles == [
        "make the swap file",
        "give it a swap signature",
        "swap to it",
        "swap to it after every boot",
        "have GRUB name the resume device",
    ]
    assert 8 * GIB < plan.size_bytes < 10 * GIB
    assert plan.by_hand == ()
    carry_out("swap", plan.steps, FakeTools(root), SystemClock())
    drop_in = (tmp_path / "etc/default/grub.d/hibprep.cfg").read_text()
    assert f'GRUB_CMDLINE_LINUX="$GRUB_CMDLINE_LINUX {PARAMETERS}"' in drop_in
    menu = (tmp_path / "boot/grub/grub.cfg").read_text().splitlines()
    assert menu[1].endswith(f"{PARAMETERS} quiet")
    assert (tmp_path / "etc/fstab").read_text().splitlines()[-1] == "/swapfile none swap sw 0 0"
    assert "/swapfile file " in (tmp_path / "proc/swaps").read_text()
    assert (tmp_path / "swapfile").stat().st_mode & 0o777 == 0o600


def test_grub_without_drop_ins(tmp_path: Path) -> None:
    root = install(tmp_path, loader="grub-plain")
    carry_out("swap", steps_of(root), FakeTools(root), SystemClock())
    text = (tmp_path / "etc/default/grub").read_text()
    assert text.startswith("GRUB_DEFAULT=0\n")
    assert text.endswith(f'GRUB_CMDLINE_LINUX="$GRUB_CMDLINE_LINUX {PARAMETERS}"\n')
    assert PARAMETERS in (tmp_path / "boot/grub/grub.cfg").read_text()


def test_grub_with_loader_entries(tmp_path: Path) -> None:
    root = install(tmp_path, loader="grub-entries", initramfs="dracut")
    tools = FakeTools(root)
    carry_out("swap", steps_of(root), tools, SystemClock())
    assert (tmp_path / "boot/loader/entries/fedora.conf").read_text().endswith(f"{PARAMETERS}\n")
    assert undo("swap", tools) == []
    assert "resume" not in (tmp_path / "boot/loader/entries/fedora.conf").read_text()


def test_systemd_boot(tmp_path: Path) -> None:
    root = install(tmp_path, loader="systemd-boot")
    carry_out("swap", steps_of(root), FakeTools(root), SystemClock())
    line = f"root=UUID={ROOT_UUID} ro quiet {PARAMETERS}\n"
    assert (tmp_path / "etc/kernel/cmdline").read_text() == line
    entry = (tmp_path / f"efi/loader/entries/machine-{RELEASE}.conf").read_text()
    assert entry.endswith(f"options {line}")
    # another system's entry is left alone
    assert "resume" not in (tmp_path / "efi/loader/entries/other.conf").read_text()


def test_dracut(tmp_path: Path) -> None:
    root = install(tmp_path, initramfs="dracut")
    carry_out("swap", steps_of(root), FakeTools(root), SystemClock())
    assert 'add_dracutmodules+=" resume "' in (tmp_path / f"boot/initrd.img-{RELEASE}").read_text()


def test_what_is_left_to_do_by_hand_is_said(tmp_path: Path) -> None:
    plan = plan_of(install(tmp_path, loader="none", initramfs="mkinitcpio"))
    assert f"resume_offset={PLACEHOLDER}" in plan.by_hand[0]
    assert "mkinitcpio -P" in plan.by_hand[1]


def test_btrfs_has_no_copy_on_write(tmp_path: Path) -> None:
    root = install(tmp_path, kind="btrfs")
    first = plan_of(root).steps[0]
    assert "no copy-on-write" in details(first)[0]
    assert "snapshot" in plan_of(root).notes[-1]


def test_selinux_has_it_labelled(tmp_path: Path) -> None:
    root = install(tmp_path)
    programs = [details(step)[0] for step in steps_of(root, selinux=True)]
    assert programs[1] == "run /usr/sbin/chcon -t swapfile_t /swapfile"


def test_the_offset_is_filled_in_once_it_is_known(tmp_path: Path) -> None:
    last = steps_of(install(tmp_path))[-1]
    assert any("(known once the file is there)" in line for line in details(last))
    assert any(f"resume_offset={OFFSET}" in line for line in details(last, str(OFFSET)))
    assert not any(PLACEHOLDER in line for line in details(last))


def test_nothing_is_changed_by_planning(tmp_path: Path) -> None:
    root = install(tmp_path)
    before = snapshot(tmp_path)
    plan_of(root)
    assert snapshot(tmp_path) == before
    assert not (tmp_path / "var").exists()


# --- refusals -------------------------------------------------------------------------------------


REFUSALS: list[tuple[dict[str, Any], dict[str, Any], str]] = [
    # how the machine is installed, what else is there, what is said
    ({}, {"is_there": True}, "/swapfile is there already"),
    ({}, {"fstab": "/swapfile none swap sw 0 0\n"}, "/etc/fstab has a line for /swapfile"),
    ({}, {"available_bytes": 4 * GIB}, "that are free there"),
    ({}, {"directory_is_there": False}, "no such directory"),
    ({}, {"directory_is_ours": False}, "others than root can replace it"),
    ({"kind": "overlay"}, {}, "would be on overlay"),
    ({"kind": "tmpfs"}, {}, "would be on tmpfs"),
    ({"kind": "btrfs"}, {"device": ""}, "on several disks"),
    ({}, {"device": "0:27"}, "on one that is not known"),
    ({}, {"uuid": "", "device": "254:9", "source": "x"}, "has no name"),
    (
        {"swaps": [FakeSwap("/dev/vda2", 16 * GIB, device="254:2")], "resume_device": "254:2"},
        {},
        "/dev/vda2 is the resume device already",
    ),
    (
        {"swaps": [FakeSwap("/dev/vda2", 16 * GIB, device="254:2")]},
        {},
        "/dev/vda2 (16.0 GiB) would do",
    ),
]


@pytest.mark.parametrize(("installed", "facts", "words"), REFUSALS, ids=[r[2] for r in REFUSALS])
def test_refused(
    tmp_path: Path, installed: dict[str, Any], facts: dict[str, Any], words: str
) -> None:
    root = install(tmp_path, **installed)
    with pytest.raises(NotPossibleError) as caught:
        plan_of(root, **facts)
    assert words in caught.value.message
    assert caught.value.remedy


def test_small_swap_beside_it_is_no_reason_to_refuse(tmp_path: Path) -> None:
    small = FakeSwap("/dev/vda2", GIB, device="254:2")
    plan = plan_of(install(tmp_path, swaps=[small], resume_device="254:2"))
    assert plan.steps
    zram = FakeSwap("/dev/zram0", 16 * GIB, priority=100, is_zram=True, device="252:0")
    assert plan_of(install(tmp_path / "other", swaps=[zram])).steps


def test_who_asks_for_a_size_wants_another_one(tmp_path: Path) -> None:
    large = FakeSwap("/dev/vda2", 16 * GIB, device="254:2")
    plan = plan_of(install(tmp_path, swaps=[large]), 2 * GIB + 5)
    assert plan.size_bytes == 2 * GIB
    assert "less than what a full machine may need" in plan.notes[-1]


@pytest.mark.parametrize("text", ["GRUB_CMDLINE_LINUX", "GRUB_CMDLINE_LINUX_DEFAULT"])
def test_another_resume_device_is_somebody_s_choice(tmp_path: Path, text: str) -> None:
    root = install(tmp_path)
    where = tmp_path / "etc/default/grub"
    where.write_text(where.read_text() + f'{text}="quiet resume=UUID={SWAP_UUID}"\n')
    with pytest.raises(NotPossibleError) as caught:
        plan_of(root)
    assert f"/etc/default/grub names resume=UUID={SWAP_UUID} already" in str(caught.value)


def test_what_is_needed_is_named_when_it_is_missing(tmp_path: Path) -> None:
    root = install(tmp_path)
    (tmp_path / "usr/sbin/mkswap").unlink()
    with pytest.raises(NotPossibleError, match="mkswap is not installed"):
        plan_of(root)


def test_a_directory_of_others_is_seen(tmp_path: Path) -> None:
    root = install(tmp_path)
    (tmp_path / "srv/deep").mkdir(parents=True)
    assert swap.gather(root, "/srv/deep/swapfile").directory_is_ours
    (tmp_path / "srv").chmod(0o1777)
    assert not swap.gather(root, "/srv/deep/swapfile").directory_is_ours
    assert swap.gather(root, "/swapfile").directory_is_ours


def test_what_could_not_be_undone_is_told_of_an_interruption_too(tmp_path: Path) -> None:
    root = install(tmp_path)

    class Stubborn(FakeTools):
        def run(self, program: tuple[str, ...], seconds: float, below_root: str = "") -> None:
            if program[0].endswith("swapoff"):
                raise HibprepError("swapoff: will not")
            super().run(program, seconds, below_root)

    tools = Stubborn(root, fail_at=3, error=KeyboardInterrupt())
    with pytest.raises(Undone, match="interrupted; undone but for: swapoff: will not"):
        carry_out("swap", steps_of(root), tools, SystemClock())


@pytest.mark.parametrize("path", ["swapfile", "/", "/a/../b", "/a//b", "/a\nb"])
def test_odd_paths(tmp_path: Path, path: str) -> None:
    with pytest.raises(UsageError):
        swap.gather(install(tmp_path), path)


def test_tiny_sizes(tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        plan_of(install(tmp_path), 4096)


# --- undone on failure ----------------------------------------------------------------------------


def asked(top: Path, **installed: Any) -> int:  # noqa: ANN401
    """How many things the tools are asked when all goes well."""
    root = install(top, **installed)
    tools = FakeTools(root)
    carry_out("swap", steps_of(root), tools, SystemClock())
    return len(tools.asked)


@pytest.mark.parametrize("initramfs", ["initramfs-tools", "dracut"])
@pytest.mark.parametrize("loader", LOADERS)
@pytest.mark.parametrize("fail_after", [False, True], ids=["before", "after"])
def test_a_failure_at_any_step_leaves_the_tree_as_it_was(
    tmp_path: Path, loader: str, initramfs: str, *, fail_after: bool
) -> None:
    layout: dict[str, Any] = {"loader": loader, "initramfs": initramfs}
    steps = asked(tmp_path / "well", **layout)
    assert steps >= 3
    for number in range(steps):
        top = tmp_path / str(number)
        root = install(top, **layout)
        before = snapshot(top)
        tools = FakeTools(root, fail_at=number, fail_after=fail_after, error=HibprepError("no"))
        with pytest.raises(Undone) as caught:
            carry_out("swap", steps_of(root), tools, SystemClock())
        assert "everything is as it was before" in str(caught.value)
        assert snapshot(top) == before
        assert record.names(root) == ()


@pytest.mark.parametrize("loader", LOADERS)
def test_a_file_that_cannot_be_written(
    tmp_path: Path, loader: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk is full for one write of a configuration file; undoing then works again."""
    from hibprep.setup import files  # noqa: PLC0415 - the module whose function is replaced

    real = files.write
    writes = 0
    fail_at = -1

    def write(root: KernelRoot, path: str, data: bytes, mode: int) -> None:
        nonlocal writes
        if not path.startswith(record.DIRECTORY):
            writes += 1
            if writes == fail_at:
                raise OSError(28, "No space left on device")
        real(root, path, data, mode)

    monkeypatch.setattr(files, "write", write)
    asked(tmp_path / "well", loader=loader)
    total, count = writes, 0
    for number in range(1, total + 1):
        top = tmp_path / str(number)
        root = install(top, loader=loader)
        before = snapshot(top)
        writes, fail_at = 0, number
        with pytest.raises(Undone):
            carry_out("swap", steps_of(root), FakeTools(root), SystemClock())
        assert snapshot(top) == before
        count += 1
    assert count >= 1


@settings(deadline=None, max_examples=40)
@given(
    loader=st.sampled_from(LOADERS),
    initramfs=st.sampled_from(INITRAMFSES),
    number=st.integers(0, 8),
    fail_after=st.booleans(),
    error=st.sampled_from(
        [HibprepError("no"), OSError(5, "Input/output error"), KeyboardInterrupt()]
    ),
    fstab=st.text(st.characters(codec="utf-8", exclude_characters="\0\r")),
)
def test_whatever_ends_it(
    *,
    tmp_path_factory: pytest.TempPathFactory,
    loader: str,
    initramfs: str,
    number: int,
    fail_after: bool,
    error: BaseException,
    fstab: str,
) -> None:
    top = tmp_path_factory.mktemp("machine")
    root = install(top, loader=loader, initramfs=initramfs)
    (top / "etc/fstab").write_text("# " + fstab.replace("\n", "\n# "))
    before = snapshot(top)
    tools = FakeTools(root, fail_at=number, fail_after=fail_after, error=error)
    try:
        carry_out("swap", steps_of(root), tools, SystemClock())
    except (Undone, KeyboardInterrupt):
        assert snapshot(top) == before
        assert record.names(root) == ()
    else:
        assert number >= len(tools.asked)
        assert undo("swap", FakeTools(root)) == []
        assert snapshot(top) == before


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("loader", ["grub", "systemd-boot"])
def test_sigkill_at_any_step_can_be_undone(tmp_path: Path, loader: str, when: str) -> None:
    steps = asked(tmp_path / "well", loader=loader)
    for number in range(steps):
        top = tmp_path / str(number)
        root = install(top, loader=loader)
        before = snapshot(top)
        done = subprocess.run(
            [sys.executable, "-c", KILLED, str(top), str(number), when],
            check=False,
            capture_output=True,
            text=True,
            cwd=Path(__file__).parents[2],
            timeout=60,
        )
        assert done.returncode == -9, done.stderr
        assert record.names(root) == ("swap",)
        # a second try says what to do first
        with pytest.raises(HibprepError, match="hibprep setup undo swap"):
            carry_out("swap", (), FakeTools(root), SystemClock())
        assert undo("swap", FakeTools(root)) == []
        assert snapshot(top) == before


def test_what_cannot_be_undone_is_said_and_kept_on_record(tmp_path: Path) -> None:
    root = install(tmp_path)

    class Stubborn(FakeTools):
        def run(self, program: tuple[str, ...], seconds: float, below_root: str = "") -> None:
            if program[0].endswith(("swapoff", "update-grub")):
                raise HibprepError(f"{program[0]}: will not")
            super().run(program, seconds, below_root)

    with pytest.raises(Undone) as caught:
        carry_out("swap", steps_of(root), Stubborn(root), SystemClock())
    assert "undone but for" in str(caught.value)
    assert "swapoff: will not" in str(caught.value)
    # a file in use is not taken away from under the kernel
    assert (tmp_path / "swapfile").exists()
    assert record.names(root) == ("swap",)
    assert undo("swap", FakeTools(root)) == []
    assert not (tmp_path / "swapfile").exists()


def test_what_an_admin_changed_since_is_left_alone(tmp_path: Path) -> None:
    root = install(tmp_path)
    carry_out("swap", steps_of(root), FakeTools(root), SystemClock())
    fstab = tmp_path / "etc/fstab"
    fstab.write_text(fstab.read_text() + "/dev/sdz1 /data ext4 defaults 0 2\n")
    left = undo("swap", FakeTools(root))
    assert left == ["/etc/fstab: was changed since, and is left as it is"]
    assert fstab.read_text().endswith("/dev/sdz1 /data ext4 defaults 0 2\n")
    assert not (tmp_path / "swapfile").exists()
    assert record.names(root) == ()


def test_a_file_that_somebody_made_meanwhile_is_not_taken_away(tmp_path: Path) -> None:
    root = install(tmp_path)
    steps = steps_of(root)
    (tmp_path / "swapfile").write_text("theirs")
    with pytest.raises(Undone):
        carry_out("swap", steps, FakeTools(root), SystemClock())
    assert (tmp_path / "swapfile").read_text() == "theirs"


def test_owner_mode_and_links_stay(tmp_path: Path) -> None:
    root = install(tmp_path)
    fstab = tmp_path / "etc/fstab"
    fstab.chmod(0o640)
    fstab.rename(tmp_path / "etc/fstab.real")
    fstab.symlink_to("fstab.real")
    carry_out("swap", steps_of(root), FakeTools(root), SystemClock())
    assert fstab.is_symlink()
    assert fstab.read_text().endswith("/swapfile none swap sw 0 0\n")
    assert (tmp_path / "etc/fstab.real").stat().st_mode & 0o777 == 0o640


def test_one_at_a_time(tmp_path: Path) -> None:
    root = install(tmp_path)
    with (
        record.locked(root),
        pytest.raises(HibprepError, match="another hibprep"),
        record.locked(root),
    ):
        pass


def test_a_record_that_makes_no_sense(tmp_path: Path) -> None:
    root = install(tmp_path)
    with record.locked(root):
        root.path(record.path_of("swap")).write_text("{}")
    with pytest.raises(HibprepError, match="no record"):
        undo("swap", FakeTools(root))
    with pytest.raises(KernelFileMissing):
        undo("other", FakeTools(root))
