# SPDX-License-Identifier: LGPL-2.1-or-later
from __future__ import annotations

import dataclasses
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hibprep.check import CheckFacts, Finding, Severity, findings, gather, possible
from hibprep.fitting import fit
from hibprep.kernel.root import KernelRoot
from hibprep.model import Cgroup, Limits, Snapshot
from tests.fakes.machine import FakeMachine

from .examples import DISK, FIT, GIB, MIB, POWER, SNAPSHOT, UNFIT, ZRAM

FILE = replace(DISK, path="/swapfile", is_file=True, offset_pages=38912)


def facts(snapshot: Snapshot = SNAPSHOT, **changes: Any) -> CheckFacts:  # noqa: ANN401
    values = {"snapshot": snapshot, "fit": FIT, "resume_name": "/dev/vda2", **changes}
    return CheckFacts(**values)


def power(**changes: Any) -> Snapshot:  # noqa: ANN401
    return replace(SNAPSHOT, power=replace(POWER, **changes))


def swaps(*areas: Any, **changes: Any) -> Snapshot:  # noqa: ANN401
    return replace(SNAPSHOT, swaps=areas, power=replace(POWER, **changes))


def named(found: tuple[Finding, ...], name: str) -> Finding:
    (one,) = [item for item in found if item.name == name]
    return one


def test_all_is_well() -> None:
    found = findings(facts())
    assert {item.severity for item in found} == {Severity.OK}
    assert possible(found)


def test_the_worst_comes_first() -> None:
    found = findings(facts(swaps(), unseen=("x",), cgroup_memory=False))
    order = [list(Severity).index(item.severity) for item in found]
    assert order == sorted(order)


CASES: list[tuple[str, CheckFacts, Severity, str, str]] = [
    # name, facts, severity, in the text, in the remedy
    ("no-swap", facts(swaps()), Severity.ERROR, "no place", "hibprep setup swap"),
    ("only-zram", facts(swaps(ZRAM)), Severity.ERROR, "memory itself", "hibprep setup swap"),
    (
        "resume-unset",
        facts(power(resume_device="")),
        Severity.ERROR,
        "nothing would read the image on /dev/vda2 back",
        "resume=UUID=$(blkid -s UUID -o value /dev/vda2) in GRUB_CMDLINE_LINUX",
    ),
    (
        "resume-unset",
        facts(power(resume_device=""), efi=True),
        Severity.WARNING,
        "EFI variable",
        "update-grub",
    ),
    (
        "resume-unset",
        facts(swaps(FILE, resume_device="")),
        Severity.ERROR,
        "/swapfile",
        "resume=UUID=$(findmnt -no UUID -T /swapfile) resume_offset=38912",
    ),
    (
        "resume-offset",
        facts(swaps(FILE, resume_offset_pages=5)),
        Severity.ERROR,
        "5 pages, but /swapfile begins at 38912",
        "resume_offset=38912",
    ),
    (
        "resume-other",
        facts(power(resume_device="8:1"), resume_name="/dev/sda1"),
        Severity.ERROR,
        "/dev/sda1 is the resume device, but it is not in use as swap; /dev/vda2 is",
        "swapon /dev/sda1; or add resume=",
    ),
    (
        "resume-inactive",
        facts(swaps(), fit=fit(swaps(), Limits())),
        Severity.ERROR,
        "/dev/vda2 is the resume device",
        "swapon /dev/vda2",
    ),
    (
        "zram-first",
        facts(swaps(DISK, ZRAM)),
        Severity.WARNING,
        "/dev/zram0 (priority 100) is filled before /dev/vda2 (priority -2)",
        "swapoff /dev/vda2 && swapon --priority 101 /dev/vda2",
    ),
    ("too-small", facts(fit=UNFIT), Severity.ERROR, "3.0 GiB needed", "hibprep prepare"),
    (
        "systemd-fit",
        facts(fit=replace(FIT, systemd_ok=False)),
        Severity.ERROR,
        "2.0 GiB needed on /dev/vda2",
        "hibprep prepare",
    ),
    (
        "small",
        facts(swaps(replace(DISK, size_bytes=2 * GIB))),
        Severity.WARNING,
        "/dev/vda2 has 2.0 GiB",
        "> /sys/power/image_size",
    ),
    (
        "lockdown",
        facts(power(available=False, lockdown="integrity")),
        Severity.ERROR,
        "kernel lockdown (integrity)",
        "Secure Boot",
    ),
    (
        "disabled",
        facts(power(available=False), command_line=("quiet", "nohibernate")),
        Severity.ERROR,
        "nohibernate on the kernel command line",
        "take nohibernate away",
    ),
    (
        "disabled",
        facts(power(available=False, disabled_by=("this kernel has no hibernation",))),
        Severity.ERROR,
        "this kernel has no hibernation",
        "/sys/power/disk",
    ),
    (
        "disabled",
        facts(barred_by_systemd=("/etc/systemd/sleep.conf: AllowHibernation=no",)),
        Severity.ERROR,
        "sleep.conf: AllowHibernation=no",
        "set AllowHibernation=yes in /etc/systemd/sleep.conf",
    ),
    (
        "disabled",
        facts(barred_by_systemd=("/etc/systemd/system masks hibernate.target",)),
        Severity.ERROR,
        "masks hibernate.target",
        "systemctl unmask hibernate.target",
    ),
    (
        "secretmem",
        facts(power(available=False), secretmem=((42, "gpg"),)),
        Severity.ERROR,
        "process 42 (gpg)",
        "kill 42",
    ),
    (
        "no-cgroup2",
        facts(cgroup_memory=False, cgroup_reason="it is in cgroup v1"),
        Severity.WARNING,
        "it is in cgroup v1",
        "systemd.unified_cgroup_hierarchy=1",
    ),
    (
        "memory-min",
        facts(protected=(Cgroup(path="/user.slice", current_bytes=GIB, min_bytes=1 << 63),)),
        Severity.WARNING,
        "1.0 GiB of cgroup /user.slice",
        "systemctl set-property --runtime user.slice MemoryMin=0",
    ),
    (
        "memory-low",
        facts(protected=(Cgroup(path="/a/box", current_bytes=GIB, low_bytes=MIB),)),
        Severity.INFO,
        "1.0 MiB of cgroup /a/box",
        "echo 0 > /sys/fs/cgroup/a/box/memory.low",
    ),
    (
        "laptop-mode",
        facts(replace(SNAPSHOT, laptop_mode=5)),
        Severity.WARNING,
        "vm.laptop_mode is 5",
        "sysctl vm.laptop_mode=0",
    ),
    (
        "damon-stat",
        facts(replace(SNAPSHOT, damon_stat=True)),
        Severity.INFO,
        "DAMON_STAT clears the accessed bits",
        "echo N > /sys/module/damon_stat/parameters/enabled",
    ),
    (
        "not-encrypted",
        facts(swaps(replace(DISK, encrypted=False))),
        Severity.WARNING,
        "in clear",
        "cryptsetup",
    ),
    (
        "encryption-unknown",
        facts(swaps(replace(DISK, encrypted=None))),
        Severity.INFO,
        "/dev/vda2",
        "lsblk -s",
    ),
    (
        "freeze-timeout",
        facts(power(freeze_timeout_seconds=1.0)),
        Severity.WARNING,
        "1 s to freeze",
        "echo 20000 > /sys/power/pm_freeze_timeout",
    ),
    (
        "disk-mode",
        facts(power(disk_mode="test_resume")),
        Severity.WARNING,
        "would not power off",
        "echo platform > /sys/power/disk",
    ),
    ("not-seen", facts(unseen=("not root: x",)), Severity.INFO, "not root", "sudo hibprep check"),
]


@pytest.mark.parametrize(
    ("name", "given", "severity", "text", "remedy"), CASES, ids=[case[0] for case in CASES]
)
def test_findings(name: str, given: CheckFacts, severity: Severity, text: str, remedy: str) -> None:
    one = named(findings(given), name)
    assert one.severity is severity
    assert text in one.text
    assert remedy in one.remedy
    assert possible(findings(given)) is not any(
        item.severity is Severity.ERROR for item in findings(given)
    )


def test_many_protected_cgroups_are_counted() -> None:
    many = tuple(Cgroup(path=f"/{n}", current_bytes=n, min_bytes=MIB) for n in range(8))
    texts = [item.text for item in findings(facts(protected=many)) if item.name == "memory-min"]
    assert len(texts) == 4
    assert texts[-1] == "and 5 more cgroups like them"


def fake_root(tmp_path: Path) -> KernelRoot:
    FakeMachine().render(tmp_path)
    files = {
        "proc/swaps": "Filename\tType\tSize\tUsed\tPriority\n/dev/vda2 partition 8388604 0 -2\n",
        "proc/cmdline": "quiet nohibernate\n",
        "proc/42/maps": "7f0000000000-7f0000001000 rw-s 0 00:01 1 /secretmem (deleted)\n",
        "proc/42/comm": "gpg\n",
        "sys/dev/block/254:2/uevent": "MAJOR=254\nDEVNAME=vda2\n",
        "sys/power/resume": "254:2\n",
        "sys/power/disk": "[disabled]\n",
        "usr/lib/systemd/sleep.conf": "[Sleep]\n#AllowHibernation=no\n",
        "etc/systemd/sleep.conf.d/90-no.conf": "[Sleep]\nAllowHibernation = off\n",
        "usr/lib/systemd/sleep.conf.d/10-yes.conf": "[Sleep]\nAllowHibernation=yes\n",
    }
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    mask = tmp_path / "etc/systemd/system/hibernate.target"
    mask.parent.mkdir(parents=True)
    mask.symlink_to("/dev/null")
    return KernelRoot(tmp_path)


def test_gather(tmp_path: Path) -> None:
    found = gather(fake_root(tmp_path), Limits(), is_root=False)
    assert found.command_line == ("quiet", "nohibernate")
    assert found.resume_name == "/dev/vda2"
    assert found.secretmem == ((42, "gpg"),)
    assert found.barred_by_systemd == (
        "/etc/systemd/sleep.conf.d/90-no.conf: AllowHibernation=no",
        "/etc/systemd/system masks hibernate.target",
    )
    assert found.unseen
    assert found.cgroup_memory
    assert not possible(findings(found))
    assert dataclasses.is_dataclass(found.fit)
