# SPDX-License-Identifier: LGPL-2.1-or-later
"""What `hibprep check` finds on the sleep path: logind, room after a preparation, the next boot."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hibprep.bus.permission import Permission
from hibprep.bus.sessions import InhibitorFacts
from hibprep.check import CheckFacts, Finding, Severity, findings, gather, possible
from hibprep.checks.manners import freeze_seconds_needed, freeze_seconds_wanted
from hibprep.facts import BootFacts, Place, SystemdFacts, fits_of
from hibprep.kernel.root import KernelRoot
from hibprep.model import Limits, Rates, Snapshot
from hibprep.system.bootloader import Loader, LoaderKind, Words
from hibprep.system.efi import Location
from hibprep.system.graphics import Nvidia
from hibprep.system.initramfs import Initramfs, InitramfsKind
from hibprep.system.units import Setting
from tests.fakes.configured import OFFSET, ROOT_UUID, SWAP_UUID, install, link, write
from tests.fakes.state import FakeSwap

from .examples import DISK, FIT, GIB, PLAN, POWER, SNAPSHOT, UNFIT, ZRAM

FILE = replace(DISK, path="/swapfile", is_file=True, device="254:1", offset_pages=OFFSET)
ON_DISK = Place("UUID=swap", "254:2")
IN_FILE = Place("UUID=root", "254:1", OFFSET)
ELSEWHERE = Place("UUID=gone", "")
NVIDIA = Nvidia(
    preserves=True,
    by_notifiers=False,
    temporary="/srv/video",
    temporary_in_memory=False,
    services=("nvidia-hibernate.service", "nvidia-resume.service"),
)
NO_FREEZE = Setting("false", "/usr/lib/systemd/system/systemd-hibernate.service.d/10-nvidia.conf")


def facts(snapshot: Snapshot = SNAPSHOT, **changes: Any) -> CheckFacts:  # noqa: ANN401
    values = {"snapshot": snapshot, "fit": FIT, "resume_name": "/dev/vda2", **changes}
    return CheckFacts(**values)


def in_file(**changes: Any) -> Snapshot:  # noqa: ANN401
    power = replace(POWER, resume_device="254:1", resume_offset_pages=OFFSET)
    return replace(SNAPSHOT, swaps=(FILE,), power=replace(power, **changes))


def logind(answer: str, *inhibitors: InhibitorFacts) -> SystemdFacts:
    return SystemdFacts(permission=Permission({"Hibernate": answer}, inhibitors))


def inhibitor(mode: str = "block", what: str = "sleep", **changes: Any) -> InhibitorFacts:  # noqa: ANN401
    values = {"who": "backup", "why": "a backup runs", "pid": 42, **changes}
    return InhibitorFacts(what=frozenset(what.split(":")), mode=mode, **values)


def boot(
    *entries: Place | None,
    settings: Place | str | None = "as the entries",
    kind: LoaderKind = LoaderKind.GRUB,
    booted: bool = True,
    initramfs: Initramfs | None = None,
    **more: Any,  # noqa: ANN401
) -> BootFacts:
    """A boot loader whose kernels are told these places, and is made from settings that say
    `settings`."""
    lines = [Words(f"/boot/entry{number}", (f"entry{number}",)) for number, _ in enumerate(entries)]
    places: dict[tuple[str, ...], Place | None] = {
        line.words: place for line, place in zip(lines, entries, strict=True)
    }
    made_from = Words("/etc/default/grub", ("settings",))
    places[made_from.words] = entries[0] if isinstance(settings, str) else settings
    loader = Loader(kind=kind, booted=booted, entries=tuple(lines), settings=(made_from,))
    return BootFacts(loaders=(loader,), places=places, initramfs=initramfs, **more)


def tools(**changes: Any) -> Initramfs:  # noqa: ANN401
    values = {"kind": InitramfsKind.TOOLS, "path": "/etc/initramfs-tools/conf.d/resume", **changes}
    return Initramfs(**values)


CASES: list[tuple[str, CheckFacts, Severity, str, str]] = [
    # name, facts, severity, in the text, in the remedy
    ("logind", facts(systemd=logind("yes")), Severity.OK, "would hibernate now", ""),
    (
        "logind",
        facts(systemd=logind("na")),
        Severity.ERROR,
        "not possible here (na)",
        "hibprep hibernate --direct",
    ),
    ("logind", facts(systemd=logind("no")), Severity.WARNING, "this user may not", "sudo"),
    ("logind", facts(systemd=logind("challenge")), Severity.INFO, "password", "sudo"),
    (
        "logind",
        facts(systemd=logind("inhibitor-blocked")),
        Severity.WARNING,
        "answers inhibitor-blocked",
        "systemd-inhibit --list",
    ),
    (
        "logind",
        facts(systemd=SystemdFacts(permission=Permission(unasked="no connection"))),
        Severity.INFO,
        "could not be asked: no connection",
        "--direct",
    ),
    (
        "inhibited",
        facts(systemd=logind("yes", inhibitor(), inhibitor("delay"), inhibitor(what="idle"))),
        Severity.WARNING,
        "backup (process 42) keeps the machine from sleeping: a backup runs",
        "--check-inhibitors=no",
    ),
    (
        "inhibited",
        facts(systemd=logind("yes", inhibitor("block-weak", "shutdown:sleep", why=""))),
        Severity.WARNING,
        "backup (process 42) keeps the machine from sleeping",
        "ps 42",
    ),
    (
        "other-sleep",
        facts(systemd=SystemdFacts(not_allowed=(Setting("AllowHybridSleep=no", "/x.conf"),))),
        Severity.INFO,
        "/x.conf says AllowHybridSleep=no",
        "if that sleep is wanted",
    ),
    (
        "other-sleep",
        facts(systemd=SystemdFacts(masked=(("/etc/systemd/system", "hybrid-sleep.target"),))),
        Severity.INFO,
        "masks hybrid-sleep.target",
        "systemctl unmask hybrid-sleep.target",
    ),
    (
        "other-sleep",
        facts(
            systemd=SystemdFacts(permission=Permission({"Hibernate": "yes", "HybridSleep": "na"}))
        ),
        Severity.INFO,
        "logind says that hybrid-sleep is not possible here",
        "",
    ),
    (
        "uncompressed",
        facts(command_line=("quiet", "hibernate=nocompress")),
        Severity.INFO,
        "hibernate=nocompress on the kernel command line",
        "take hibernate=nocompress away",
    ),
    (
        "hibernate-mode",
        facts(systemd=SystemdFacts(mode=Setting("reboot", "/etc/systemd/sleep.conf"))),
        Severity.WARNING,
        "HibernateMode=reboot",
        "platform shutdown in /etc/systemd/sleep.conf",
    ),
    (
        "systemd-fit",
        facts(
            fit=replace(FIT, systemd_ok=False, systemd_has_bytes=GIB),
            systemd=SystemdFacts(bypass=Setting("1", "/etc/x.conf")),
        ),
        Severity.INFO,
        "/etc/x.conf switches that check off",
        "(1.0 GiB more are needed as it is now)",
    ),
    (
        "too-small",
        facts(fit=UNFIT, plan=replace(PLAN, fit_after=UNFIT)),
        Severity.ERROR,
        "3.0 GiB needed",
        "more swap: hibprep setup swap (1.0 GiB more",
    ),
    (
        "prepared",
        facts(plan=PLAN),
        Severity.OK,
        "an image of 2.0 GiB instead of 3.0 GiB; systemd needs 2.0 GiB of 8.0 GiB free",
        "",
    ),
    (
        "prepared",
        facts(fit=UNFIT, plan=PLAN),
        Severity.INFO,
        "both would accept",
        "hibprep prepare",
    ),
    (
        "prepared",
        facts(plan=replace(PLAN, fit_after=UNFIT)),
        Severity.WARNING,
        "may not fit in what is left of /dev/vda2",
        "hibprep setup swap",
    ),
    (
        "other-device",
        facts(fits=((DISK, FIT), (replace(DISK, path="/dev/vdb1"), UNFIT))),
        Severity.INFO,
        "/dev/vdb1 is not the resume device; it would not do: the image may not fit",
        "",
    ),
    (
        "other-device",
        facts(fits=((replace(DISK, path="/dev/vdb1"), FIT),)),
        Severity.INFO,
        "it would do as well",
        "",
    ),
    ("video-memory", facts(video_bytes=GIB), Severity.INFO, "1.0 GiB of video memory", "close"),
    (
        "random-key",
        facts(forgotten=(("/dev/vda2", "its key comes from /dev/urandom at every boot"),)),
        Severity.ERROR,
        "its key comes from /dev/urandom",
        "cryptsetup luksFormat",
    ),
    (
        "offset-unknown",
        facts(replace(in_file(), swaps=(replace(FILE, offset_pages=None),))),
        Severity.INFO,
        f"({OFFSET} pages)",
        "map-swapfile",
    ),
    (
        "freeze-timeout",
        facts(
            replace(SNAPSHOT, memory=replace(SNAPSHOT.memory, total_bytes=256 * GIB)),
            rates=Rates(disk_write_bytes_per_second=100e6),
        ),
        Severity.WARNING,
        "256.0 GiB of memory and a swap device of 95.4 MiB/s want about 32 s",
        "echo 40000 > /sys/power/pm_freeze_timeout",
    ),
    # --- the next boot ---
    ("boot", facts(boot=boot(ON_DISK)), Severity.OK, "looks for the image on /dev/vda2", ""),
    ("boot", facts(in_file(), boot=boot(IN_FILE)), Severity.OK, "on /swapfile", ""),
    (
        "boot-mismatch",
        facts(boot=boot(None)),
        Severity.ERROR,
        "/boot/entry0 has no resume=, but the image goes to /dev/vda2",
        "resume=UUID=$(blkid",
    ),
    (
        "boot-mismatch",
        facts(boot=boot(ELSEWHERE)),
        Severity.ERROR,
        "resume=UUID=gone (there is no such device)",
        "update-grub",
    ),
    (
        "boot-mismatch",
        facts(in_file(), boot=boot(replace(IN_FILE, offset_pages=5))),
        Severity.ERROR,
        "resume=UUID=root resume_offset=5, but the image goes to /swapfile",
        f"resume_offset={OFFSET}",
    ),
    (
        "boot-mismatch",
        facts(boot=boot(ELSEWHERE, settings=ON_DISK)),
        Severity.ERROR,
        "the next boot would not find it",
        "the settings are right; run: update-grub",
    ),
    (
        "boot-mismatch",
        facts(boot=boot(ON_DISK, ELSEWHERE)),
        Severity.WARNING,
        "(1 of 2 entries), but the image goes to /dev/vda2: after a hibernation a boot by that",
        "",
    ),
    (
        "boot-mismatch",
        facts(boot=boot(None, booted=False)),
        Severity.WARNING,
        "has no resume=",
        "",
    ),
    (
        "boot-mismatch",
        facts(boot=boot(None, kind=LoaderKind.SYSTEMD_BOOT)),
        Severity.ERROR,
        "has no resume=",
        "/etc/kernel/cmdline and run: kernel-install",
    ),
    (
        "boot-mismatch",
        facts(boot=boot(None, kind=LoaderKind.GRUB_ENTRIES)),
        Severity.ERROR,
        "has no resume=",
        "grubby --update-kernel=ALL",
    ),
    (
        "boot-stale",
        facts(boot=boot(ON_DISK, settings=None)),
        Severity.WARNING,
        "is right as it is, and will not be once it is made anew",
        "/etc/default/grub",
    ),
    (
        "unified-kernel",
        facts(
            boot=BootFacts(
                loaders=(
                    Loader(kind=LoaderKind.SYSTEMD_BOOT, booted=True, entries=(), unified=True),
                )
            )
        ),
        Severity.INFO,
        "carry their command line in themselves",
        "bootctl list",
    ),
    (
        "resume-not-taken",
        facts(
            replace(SNAPSHOT, power=replace(POWER, resume_device="")),
            boot=BootFacts(
                command_line=ON_DISK,
                initramfs=Initramfs(
                    kind=InitramfsKind.DRACUT, reads_images=True, lacks="it was left out"
                ),
            ),
        ),
        Severity.WARNING,
        "its initramfs did not set it: it was left out",
        "dracut --force",
    ),
    (
        "resume-unset",
        facts(replace(SNAPSHOT, power=replace(POWER, resume_device="")), boot=boot(ON_DISK)),
        Severity.ERROR,
        "no resume device is set",
        "reboot: the boot loader names it already",
    ),
    (
        "resume-changed",
        facts(boot=BootFacts(command_line=ELSEWHERE)),
        Severity.WARNING,
        "this boot was told resume=UUID=gone",
        "what lasts",
    ),
    (
        "efi-location",
        facts(
            boot=BootFacts(location=Location("abc", 7, "6.12.1"), location_device="254:2"),
        ),
        Severity.WARNING,
        "UUID=abc, offset 7, of Linux 6.12.1 (where the next one would go too)",
        "systemd-hibernate-clear.service",
    ),
    # --- the initramfs ---
    (
        "initramfs-resume",
        facts(boot=boot(ON_DISK, initramfs=tools(resume="none"))),
        Severity.INFO,
        "RESUME=none: the initramfs looks for no image by itself; the kernel command line goes",
        "update-initramfs -u",
    ),
    (
        "initramfs-resume",
        facts(boot=BootFacts(initramfs=tools(resume="none"))),
        Severity.WARNING,
        "RESUME=none",
        "--fix",
    ),
    (
        "initramfs-resume",
        facts(boot=BootFacts(initramfs=tools(resume="UUID=gone"), by_itself=ELSEWHERE)),
        Severity.WARNING,
        "says resume=UUID=gone (there is no such device), but the image goes to /dev/vda2",
        "--fix",
    ),
    (
        "initramfs-resume",
        facts(
            boot=BootFacts(
                initramfs=Initramfs(
                    kind=InitramfsKind.DRACUT, reads_images=False, lacks="/x leaves out resume"
                )
            )
        ),
        Severity.ERROR,
        "cannot read an image back: /x leaves out resume",
        "dracut --force",
    ),
    (
        "initramfs-old",
        facts(boot=BootFacts(initramfs=tools(resume="auto", is_older=True))),
        Severity.WARNING,
        "was changed after the running kernel's initramfs was made",
        "update-initramfs -u",
    ),
    # --- NVIDIA ---
    (
        "nvidia-memory",
        facts(nvidia=replace(NVIDIA, preserves=False)),
        Severity.WARNING,
        "does not keep video memory",
        "NVreg_PreserveVideoMemoryAllocations=1",
    ),
    (
        "nvidia-tmpfs",
        facts(nvidia=replace(NVIDIA, temporary="/memory", temporary_in_memory=True)),
        Severity.WARNING,
        "in /memory, which is in memory itself",
        "NVreg_TemporaryFilePath",
    ),
    (
        "nvidia-services",
        facts(nvidia=replace(NVIDIA, services=("nvidia-resume.service",))),
        Severity.WARNING,
        "does not start nvidia-hibernate.service",
        "systemctl enable nvidia-hibernate.service",
    ),
    (
        "nvidia-freeze",
        facts(nvidia=NVIDIA, systemd=SystemdFacts(version=256)),
        Severity.WARNING,
        "systemd 256 freezes user sessions",
        "SYSTEMD_SLEEP_FREEZE_USER_SESSIONS=false",
    ),
    (
        "nvidia-freeze",
        facts(nvidia=NVIDIA, systemd=SystemdFacts(version=257), freezing=NO_FREEZE),
        Severity.INFO,
        "10-nvidia.conf keeps user sessions running",
        "",
    ),
]


@pytest.mark.parametrize(
    ("name", "given", "severity", "text", "remedy"), CASES, ids=[case[0] for case in CASES]
)
def test_findings(name: str, given: CheckFacts, severity: Severity, text: str, remedy: str) -> None:
    (one,) = [item for item in findings(given) if item.name == name]
    assert one.severity is severity
    assert text in one.text
    assert remedy in one.remedy


QUIET: list[tuple[str, CheckFacts]] = [
    # what is not to be found
    ("nvidia-freeze", facts(nvidia=NVIDIA, systemd=SystemdFacts(version=252))),
    (
        "nvidia-services",
        facts(nvidia=replace(NVIDIA, by_notifiers=True, services=())),
    ),
    (
        "nvidia-freeze",
        facts(nvidia=replace(NVIDIA, by_notifiers=True), systemd=SystemdFacts(version=258)),
    ),
    ("freeze-timeout", facts()),
    # initramfs-tools finds the largest swap partition by itself …
    ("boot-mismatch", facts(boot=boot(None, initramfs=tools()))),
    (
        "boot-mismatch",
        facts(boot=boot(None, initramfs=tools(resume="UUID=swap"), by_itself=ON_DISK)),
    ),
    # … and systemd in the initramfs the place in the EFI variable
    (
        "boot-mismatch",
        facts(
            efi=True,
            systemd=SystemdFacts(version=255),
            boot=boot(None, initramfs=Initramfs(kind=InitramfsKind.DRACUT)),
        ),
    ),
    # of a key that is forgotten, what is swapped out beside the image is no matter
    (
        "random-key",
        facts(
            replace(SNAPSHOT, swaps=(DISK, replace(DISK, path="/dev/dm-0", device="253:0"))),
            forgotten=(("/dev/dm-0", "its key comes from /dev/urandom"),),
        ),
    ),
    ("initramfs-resume", facts(in_file(), boot=boot(IN_FILE, initramfs=tools(resume="none")))),
    ("hibernate-mode", facts(systemd=SystemdFacts(mode=Setting("platform shutdown", "/x")))),
]


@pytest.mark.parametrize(("name", "given"), QUIET, ids=[case[0] for case in QUIET])
def test_no_finding(name: str, given: CheckFacts) -> None:
    assert name not in {item.name for item in findings(given)}


NOT_BY_ITSELF: list[tuple[str, CheckFacts]] = [
    # systemd before 255; a swap file, whose offset reaches the kernel by its command line alone
    (
        "older systemd",
        facts(
            efi=True,
            systemd=SystemdFacts(version=252),
            boot=boot(None, initramfs=Initramfs(kind=InitramfsKind.DRACUT)),
        ),
    ),
    ("swap file", facts(in_file(), boot=boot(None, initramfs=tools()))),
    ("none", facts(boot=boot(None, initramfs=tools(resume="none")))),
]


@pytest.mark.parametrize(
    "given", [case[1] for case in NOT_BY_ITSELF], ids=[case[0] for case in NOT_BY_ITSELF]
)
def test_the_initramfs_does_not_find_it_by_itself(given: CheckFacts) -> None:
    assert "boot-mismatch" in {item.name for item in findings(given)}
    assert not possible(findings(given))


def test_many_inhibitors_are_counted() -> None:
    many = [inhibitor(pid=number) for number in range(5)]
    found = [f for f in findings(facts(systemd=logind("yes", *many))) if f.name == "inhibited"]
    assert len(found) == 4
    assert found[-1].text == "and 2 more programs like it"


def test_the_freezer_is_given_more_the_more_memory_there_is() -> None:
    assert freeze_seconds_wanted(facts()) == 20
    assert freeze_seconds_needed(facts()) < 6
    big = facts(replace(SNAPSHOT, memory=replace(SNAPSHOT.memory, total_bytes=1024 * GIB)))
    assert freeze_seconds_wanted(big) >= freeze_seconds_needed(big) > 100
    slow = facts(rates=Rates(disk_write_bytes_per_second=5e6))
    assert freeze_seconds_wanted(slow) == 30


def test_every_device_is_judged_as_if_it_were_the_resume_device() -> None:
    tiny = replace(DISK, path="/dev/vdb1", device="254:17", size_bytes=GIB // 8)
    found = fits_of(replace(SNAPSHOT, swaps=(DISK, ZRAM, tiny)), Limits())
    assert [area.path for area, _ in found] == ["/dev/vda2", "/dev/vdb1"]
    assert [fit.resume_path for _, fit in found] == ["/dev/vda2", "/dev/vdb1"]
    assert [fit.kernel_ok for _, fit in found] == [True, False]
    without_device = replace(DISK, device="")
    ((_, fit),) = fits_of(replace(SNAPSHOT, swaps=(without_device,)), Limits())
    assert fit.resume_path == "/dev/vda2"


# --- from files to findings -----------------------------------------------------------------------


def named(root: KernelRoot) -> dict[str, Finding]:
    found = findings(gather(root, Limits(), is_root=True))
    return {item.name: item for item in found}


def swap_on_vda2() -> list[FakeSwap]:
    return [FakeSwap("/dev/vda2", 16 * GIB, device="254:2")]


@pytest.mark.parametrize("loader", ["grub", "grub-plain", "grub-entries", "systemd-boot"])
def test_a_boot_loader_that_says_nothing(tmp_path: Path, loader: str) -> None:
    root = install(
        tmp_path, loader=loader, initramfs="none", swaps=swap_on_vda2(), resume_device="254:2"
    )
    found = named(root)
    assert found["boot-mismatch"].severity is Severity.ERROR
    assert found["boot-mismatch"].text.startswith(
        "/boot/grub/grub.cfg" if loader in ("grub", "grub-plain") else "/"
    )


def test_all_is_right_from_the_boot_loader_to_the_kernel(tmp_path: Path) -> None:
    line = f"root=UUID={ROOT_UUID} ro resume=UUID={SWAP_UUID}"
    root = install(
        tmp_path, loader="systemd-boot", swaps=swap_on_vda2(), resume_device="254:2",
        command_line=line,
    )  # fmt: skip
    entry = tmp_path / "efi/loader/entries/machine-6.12.0.conf"
    entry.write_text(f"linux /x\noptions {line}\n")
    (tmp_path / "efi/loader/entries/other.conf").unlink()
    write(tmp_path, "/etc/kernel/cmdline", line + "\n")
    found = named(root)
    assert found["boot"].severity is Severity.OK
    assert not {"boot-mismatch", "boot-stale", "resume-changed", "resume-unset"} & set(found)


def test_uncompressed_images_are_judged_as_such(tmp_path: Path) -> None:
    small = [FakeSwap("/dev/vda2", 1 * GIB, device="254:2")]
    texts = []
    for name, line in (("a", "quiet"), ("b", "quiet hibernate=nocompress")):
        root = install(
            tmp_path / name, swaps=small, resume_device="254:2", command_line=line, loader="none"
        )
        texts.append(gather(root, Limits(), is_root=True).fit.kernel_needs_bytes)
    assert texts[1] > 1.5 * texts[0]


def test_a_key_that_is_forgotten_is_found_by_its_mapper_name(tmp_path: Path) -> None:
    swaps = [FakeSwap("/dev/dm-0", 16 * GIB, device="253:0")]
    root = install(tmp_path, swaps=swaps, resume_device="253:0", loader="none")
    write(tmp_path, "/sys/class/block/dm-0/dm/name", "cryptswap\n")
    write(tmp_path, "/etc/crypttab", "cryptswap /dev/vda2 /dev/urandom swap,cipher=aes\n")
    assert named(root)["random-key"].severity is Severity.ERROR
    write(
        tmp_path, "/etc/crypttab", "cryptswap /dev/vda2 none luks\n# x /dev/y /dev/urandom swap\n"
    )
    assert "random-key" not in named(root)


def test_the_efi_variable(tmp_path: Path) -> None:
    root = install(tmp_path, swaps=swap_on_vda2(), resume_device="254:2", loader="none")
    where = tmp_path / "sys/firmware/efi/efivars"
    where.mkdir(parents=True)
    variable = where / "HibernateLocation-8cf2644b-4b0b-428f-9387-6d876050dc67"
    text = f'{{"uuid":"{SWAP_UUID}","offset":0,"kernelVersion":"6.12.1"}}\0'
    variable.write_bytes(b"\x07\0\0\0" + text.encode("utf-16-le"))
    assert "where the next one would go too" in named(root)["efi-location"].text
    variable.write_bytes(b"\x07\0\0\0" + "{}".encode("utf-16-le"))
    assert "efi-location" not in named(root)


def test_an_initramfs_that_is_older_than_its_settings(tmp_path: Path) -> None:
    import os  # noqa: PLC0415 - for the times of two files

    root = install(tmp_path, swaps=swap_on_vda2(), resume_device="254:2")
    write(tmp_path, "/etc/initramfs-tools/conf.d/resume", f"RESUME=UUID={SWAP_UUID}\n")
    image = tmp_path / "boot/initrd.img-6.12.0"
    os.utime(image, (1, 1))
    assert "initramfs-old" in named(root)
    os.utime(tmp_path / "etc/initramfs-tools/conf.d/resume", (0, 0))
    found = named(root)
    assert "initramfs-old" not in found
    assert "initramfs-resume" not in found


def test_sleep_settings_and_masks(tmp_path: Path) -> None:
    root = install(tmp_path, swaps=swap_on_vda2(), resume_device="254:2", loader="none")
    write(
        tmp_path,
        "/etc/systemd/sleep.conf",
        "[Other]\nAllowHibernation=no\n[Sleep]\nAllowHybridSleep=no\nHibernateMode=suspend\n",
    )
    link(tmp_path, "/etc/systemd/system/suspend-then-hibernate.target", "/dev/null")
    write(
        tmp_path,
        "/etc/systemd/system/systemd-logind.service.d/x.conf",
        '[Service]\nEnvironment="SYSTEMD_BYPASS_HIBERNATION_MEMORY_CHECK=1" OTHER=2\n',
    )
    gathered = gather(root, Limits(), is_root=True)
    assert gathered.systemd.bypass is not None
    assert gathered.systemd.permission is None  # another root's logind is not ours to ask
    found = named(root)
    assert "disabled" not in found
    assert found["hibernate-mode"].severity is Severity.WARNING
    texts = [item.text for item in findings(gathered) if item.name == "other-sleep"]
    assert len(texts) == 2


def test_nvidia_and_its_drop_in(tmp_path: Path) -> None:
    root = install(tmp_path, swaps=swap_on_vda2(), resume_device="254:2", loader="none")
    write(
        tmp_path,
        "/proc/driver/nvidia/params",
        'PreserveVideoMemoryAllocations: 1\nTemporaryFilePath: "/var/tmp"\n',
    )
    write(tmp_path, "/usr/lib/x86_64-linux-gnu/systemd/libsystemd-shared-257.so", "")
    found = named(root)
    assert found["nvidia-services"].severity is Severity.WARNING
    assert "systemd 257" in found["nvidia-freeze"].text
    for unit in ("nvidia-hibernate.service", "nvidia-resume.service"):
        link(tmp_path, f"/etc/systemd/system/systemd-hibernate.service.wants/{unit}", f"../{unit}")
    write(
        tmp_path,
        "/usr/lib/systemd/system/systemd-hibernate.service.d/10-nvidia.conf",
        "[Service]\nEnvironment=SYSTEMD_SLEEP_FREEZE_USER_SESSIONS=false\n",
    )
    found = named(root)
    assert "nvidia-services" not in found
    assert found["nvidia-freeze"].severity is Severity.INFO


def test_video_memory(tmp_path: Path) -> None:
    root = install(tmp_path, swaps=swap_on_vda2(), resume_device="254:2", loader="none")
    write(tmp_path, "/sys/class/drm/card1/device/mem_info_vram_used", f"{GIB}\n")
    write(tmp_path, "/sys/class/drm/card1-HDMI-A-1/status", "connected\n")
    assert "1.0 GiB" in named(root)["video-memory"].text
