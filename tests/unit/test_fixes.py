# SPDX-License-Identifier: LGPL-2.1-or-later
from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hibprep.check import findings, gather
from hibprep.clock import SystemClock
from hibprep.errors import HibprepError
from hibprep.fixes import Fix, fixes_for
from hibprep.kernel.knobs import selected
from hibprep.kernel.root import KernelRoot
from hibprep.model import Limits
from hibprep.setup.carry import Undone, carry_out, undo
from tests.fakes.configured import (
    GIB,
    RELEASE,
    ROOT_UUID,
    SWAP_UUID,
    FakeTools,
    install,
    snapshot,
    write,
)
from tests.fakes.state import FakeSwap


def machine(top: Path, *, resume_device: str = "254:2", **changes: Any) -> KernelRoot:  # noqa: ANN401
    swaps = [FakeSwap("/dev/vda2", 16 * GIB, device="254:2")]
    return install(top, swaps=swaps, resume_device=resume_device, **changes)


def named(root: KernelRoot) -> set[str]:
    found = findings(gather(root, Limits(), is_root=True))
    return {item.name for item in found if item.remedy}


def offered(root: KernelRoot) -> dict[str, Fix]:
    facts = gather(root, Limits(), is_root=True)
    return {fix.name: fix for fix in fixes_for(root, facts, findings(facts))}


def slow_freezer(top: Path) -> KernelRoot:
    root = machine(top)
    write(top, "/sys/power/pm_freeze_timeout", "1000\n")
    return root


def forbidden(top: Path) -> KernelRoot:
    root = machine(top)
    write(top, "/etc/systemd/sleep.conf", "[Sleep]\nAllowHibernation=no\n")
    return root


def never_off(top: Path) -> KernelRoot:
    root = machine(top)
    write(top, "/sys/power/disk", "platform shutdown [test_resume]\n")
    return root


def not_told(top: Path) -> KernelRoot:
    return machine(top, initramfs="dracut", loader="grub")


def looks_nowhere(top: Path) -> KernelRoot:
    root = machine(top, command_line=f"root=UUID={ROOT_UUID} ro")
    write(top, "/etc/initramfs-tools/conf.d/resume", "RESUME=none\n")
    FakeTools(root).run(("update-initramfs", "-u"), 1)
    os.utime(top / "etc/initramfs-tools/conf.d/resume", (0, 0))
    return root


def settled(top: Path) -> dict[str, tuple[int, str]]:
    """`snapshot`, without the line ends that a rendered /sys is padded with; and such an ordinary
    file keeps the chosen word alone, not the list of those that there are to choose from."""
    found = {path: (mode, text.rstrip("\n")) for path, (mode, text) in snapshot(top).items()}
    mode, text = found["sys/power/disk"]
    found["sys/power/disk"] = (mode, selected(text))
    return found


CASES = [
    ("fix-freeze-timeout", slow_freezer, "freeze-timeout"),
    ("fix-allow-hibernation", forbidden, "disabled"),
    ("fix-disk-mode", never_off, "disk-mode"),
    ("fix-resume", not_told, "boot-mismatch"),
    ("fix-initramfs", looks_nowhere, "initramfs-resume"),
]


@pytest.mark.parametrize(("name", "make", "finding"), CASES, ids=[case[0] for case in CASES])
def test_what_is_offered_mends_it_and_can_be_undone(
    tmp_path: Path, name: str, make: Callable[[Path], KernelRoot], finding: str
) -> None:
    root = make(tmp_path)
    before = settled(tmp_path)
    assert finding in named(root)
    fix = offered(root)[name]
    assert finding in fix.findings
    assert fix.title
    tools = FakeTools(root)
    carry_out(name, fix.steps, tools, SystemClock())
    assert finding not in named(root)
    assert name not in offered(root)
    assert undo(name, tools) == []
    assert settled(tmp_path) == before


WITH_PROGRAMS = [case for case in CASES if case[0] in ("fix-resume", "fix-initramfs")]


@pytest.mark.parametrize(("name", "make", "_"), WITH_PROGRAMS, ids=[c[0] for c in WITH_PROGRAMS])
def test_a_failure_leaves_things_as_they_were(
    tmp_path: Path, name: str, make: Callable[[Path], KernelRoot], _: str
) -> None:
    root = make(tmp_path)
    fix = offered(root)[name]
    before = snapshot(tmp_path)
    for number in range(sum(bool(getattr(step, "program", ())) for step in fix.steps)):
        tools = FakeTools(root, fail_at=number, error=HibprepError("no"))
        with pytest.raises(Undone):
            carry_out(name, fix.steps, tools, SystemClock())
        assert snapshot(tmp_path) == before


def test_nothing_is_offered_to_a_good_machine(tmp_path: Path) -> None:
    assert offered(machine(tmp_path)) == {}


def test_who_forbids_it_last_is_not_overruled(tmp_path: Path) -> None:
    root = machine(tmp_path)
    write(tmp_path, "/etc/systemd/sleep.conf.d/zzz.conf", "[Sleep]\nAllowHibernation=no\n")
    assert "disabled" in named(root)
    assert "fix-allow-hibernation" not in offered(root)


def test_what_only_a_reboot_mends_is_not_offered(tmp_path: Path) -> None:
    root = not_told(tmp_path)
    write(tmp_path, "/sys/power/resume", "0:0\n")
    carry_out("fix-resume", offered(root)["fix-resume"].steps, FakeTools(root), SystemClock())
    assert "resume-unset" in named(root)
    assert offered(root) == {}


def test_masks_are_told_and_not_taken_away(tmp_path: Path) -> None:
    root = machine(tmp_path)
    (tmp_path / "etc/systemd/system").mkdir(parents=True)
    (tmp_path / "etc/systemd/system/hibernate.target").symlink_to("/dev/null")
    assert "disabled" in named(root)
    assert offered(root) == {}


def test_another_resume_device_is_not_overruled(tmp_path: Path) -> None:
    root = machine(tmp_path, initramfs="dracut")
    where = tmp_path / "etc/default/grub"
    where.write_text(where.read_text() + f'GRUB_CMDLINE_LINUX="resume=UUID={ROOT_UUID}"\n')
    FakeTools(root).run(("update-grub",), 1)
    assert "boot-mismatch" in named(root)
    assert "fix-resume" not in offered(root)


def test_a_menu_without_kernels_is_made_anew_as_well(tmp_path: Path) -> None:
    """GRUB makes one in containers and on loop devices."""
    root = not_told(tmp_path)
    write(tmp_path, "/boot/grub/grub.cfg", "# no kernel was found\n")
    write(tmp_path, "/sys/power/resume", "0:0\n")
    before = snapshot(tmp_path)
    steps = offered(root)["fix-resume"].steps
    with pytest.raises(Undone):
        carry_out(
            "fix-resume",
            steps,
            FakeTools(root, fail_at=0, fail_after=True, error=HibprepError("no")),
            SystemClock(),
        )
    assert snapshot(tmp_path) == before
    carry_out("fix-resume", steps, FakeTools(root), SystemClock())
    assert f"resume=UUID={SWAP_UUID}" in (tmp_path / "boot/grub/grub.cfg").read_text()


def test_a_boot_loader_that_cannot_be_changed_is_no_offer(tmp_path: Path) -> None:
    root = machine(tmp_path, initramfs="dracut")
    for name in ("update-grub", "grub-mkconfig"):
        (tmp_path / "usr/sbin" / name).unlink()
    assert "fix-resume" not in offered(root)


def test_the_next_boot_is_told_of_a_swap_partition(tmp_path: Path) -> None:
    root = not_told(tmp_path)
    carry_out("fix-resume", offered(root)["fix-resume"].steps, FakeTools(root), SystemClock())
    menu = (tmp_path / "boot/grub/grub.cfg").read_text()
    assert f"resume=UUID={SWAP_UUID}" in menu
    assert "resume_offset" not in menu
    assert "resume" in (tmp_path / f"boot/initrd.img-{RELEASE}").read_text()
