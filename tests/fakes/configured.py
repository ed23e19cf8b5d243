# SPDX-License-Identifier: LGPL-2.1-or-later
"""The file system of an installed machine, and programs that change it as the real ones would."""

from __future__ import annotations

import os
import signal
import stat
from dataclasses import dataclass, field
from pathlib import Path

from hibprep.errors import HibprepError
from hibprep.kernel.root import KernelRoot
from hibprep.kernel.swapfile import Made
from hibprep.system.bootloader import parse_grub_settings
from tests.fakes.machine import FakeMachine
from tests.fakes.state import FakeSwap

GIB = 1 << 30
ROOT_UUID = "0a1b2c3d-0000-4000-8000-00000000aaaa"
SWAP_UUID = "0a1b2c3d-0000-4000-8000-00000000bbbb"
OFFSET = 38912
RELEASE = "6.12.0"
SWAPS_HEADER = "Filename\tType\tSize\tUsed\tPriority\n"

_SBIN = (
    *("mkswap", "swapon", "swapoff", "chcon", "update-grub", "grub-mkconfig", "grubby"),
    *("update-initramfs", "dracut", "mkinitcpio"),
)
_GRUB_DEFAULT = """\
GRUB_DEFAULT=0
GRUB_CMDLINE_LINUX_DEFAULT="quiet"
GRUB_CMDLINE_LINUX=""
"""
_ENTRY = f"""\
title Debian
version {RELEASE}
linux /machine/{RELEASE}/linux
initrd /machine/{RELEASE}/initrd.img
options root=UUID={ROOT_UUID} ro quiet
"""


def write(top: Path, path: str, text: str, mode: int = 0o644) -> None:
    """A file of that tree."""
    where = top / path.lstrip("/")
    where.parent.mkdir(parents=True, exist_ok=True)
    where.write_text(text)
    where.chmod(mode)


def link(top: Path, path: str, target: str) -> None:
    """A symbolic link of that tree."""
    where = top / path.lstrip("/")
    where.parent.mkdir(parents=True, exist_ok=True)
    where.unlink(missing_ok=True)
    where.symlink_to(target)


def install(
    top: Path,
    *,
    loader: str = "grub",  # grub, grub-plain (no drop-ins), grub-entries, systemd-boot, none
    initramfs: str = "initramfs-tools",  # dracut, mkinitcpio, none
    kind: str = "ext4",
    swaps: list[FakeSwap] | None = None,
    resume_device: str = "",
    command_line: str | None = None,
) -> KernelRoot:
    """A machine of 8 GiB, its root file system on vda1 and perhaps swap on vda2."""
    line = f"root=UUID={ROOT_UUID} ro quiet" if command_line is None else command_line
    if loader.startswith("grub"):
        line = f"BOOT_IMAGE=/boot/vmlinuz-{RELEASE} {line}"
    machine = FakeMachine(swaps=swaps or [], resume_device=resume_device, command_line=line)
    machine.render(top)
    mount = f"30 1 254:1 / / rw,relatime - {kind} /dev/vda1 rw\n"
    mountinfo = top / "proc/self/mountinfo"
    mountinfo.write_text(mountinfo.read_text() + mount)
    for number, name, uuid in (("254:1", "vda1", ROOT_UUID), ("254:2", "vda2", SWAP_UUID)):
        write(top, f"/sys/class/block/{name}/dev", f"{number}\n")
        write(top, f"/sys/dev/block/{number}/uevent", f"DEVNAME={name}\n")
        write(top, f"/dev/{name}", "")
        link(top, f"/dev/disk/by-uuid/{uuid}", f"../../{name}")
    write(top, "/etc/fstab", f"UUID={ROOT_UUID} / {kind} errors=remount-ro 0 1\n")
    write(top, "/proc/sys/kernel/osrelease", f"{RELEASE}\n")
    for name in _SBIN:
        write(top, f"/usr/sbin/{name}", "", 0o755)
    _install_loader(top, loader)
    _install_initramfs(top, initramfs)
    return KernelRoot(top)


def _install_loader(top: Path, loader: str) -> None:
    if loader.startswith("grub"):
        write(top, "/etc/default/grub", _GRUB_DEFAULT)
        sources = ". /etc/default/grub\n" + (
            "for x in /etc/default/grub.d/*.cfg ; do . $x ; done\n" if loader == "grub" else ""
        )
        write(top, "/usr/sbin/grub-mkconfig", sources, 0o755)
        FakeTools(KernelRoot(top)).run(("update-grub",), 1)
    if loader == "grub-entries":
        write(top, "/boot/grub/grub.cfg", "insmod blscfg\nblscfg\n")
        write(top, "/boot/loader/entries/fedora.conf", _ENTRY)
    if loader == "systemd-boot":
        write(top, "/efi/loader/loader.conf", "timeout 3\n")
        write(top, f"/efi/loader/entries/machine-{RELEASE}.conf", _ENTRY)
        other = "title Other\nlinux /other/linux\noptions root=/dev/vdz1\n"
        write(top, "/efi/loader/entries/other.conf", other)
        info = b"\x07\0\0\0" + "systemd-boot 257.1\0".encode("utf-16-le")
        where = top / "sys/firmware/efi/efivars"
        where.mkdir(parents=True)
        (where / "LoaderInfo-4a67b082-0a4c-41cf-b6c7-440b29bb8c4f").write_bytes(info)


def _install_initramfs(top: Path, initramfs: str) -> None:
    if initramfs == "initramfs-tools":
        write(top, "/usr/share/initramfs-tools/init", "")
        write(top, "/etc/initramfs-tools/initramfs.conf", "MODULES=most\n")
        (top / "etc/initramfs-tools/conf.d").mkdir()
        FakeTools(KernelRoot(top)).run(("update-initramfs", "-u"), 1)
    elif initramfs == "dracut":
        write(top, "/etc/dracut.conf", "")
        (top / "etc/dracut.conf.d").mkdir()
        FakeTools(KernelRoot(top)).run(("dracut", "--force"), 1)
    elif initramfs == "mkinitcpio":
        write(top, "/etc/mkinitcpio.conf", "HOOKS=(base udev block filesystems)\n")


Snapshot = dict[str, tuple[int, str]]


def snapshot(top: Path) -> Snapshot:
    """Every file, link and directory with its mode and content. Left out are hibprep's own state,
    and cgroups, which a plan asks to reclaim nothing in order to learn what they understand."""
    found: Snapshot = {}
    for path in sorted(top.rglob("*")):
        name = path.relative_to(top).as_posix()
        if name.startswith(("var", "run/hibprep", "sys/fs/cgroup")):
            continue
        mode = path.lstat().st_mode
        if stat.S_ISLNK(mode):
            found[name] = (mode, str(path.readlink()))
        else:
            found[name] = (mode, "" if path.is_dir() else path.read_bytes().decode("latin-1"))
    return found


@dataclass
class FakeTools:
    """Programs that act on the tree. The `fail_at`-th thing that they are asked fails: before or
    after it did its work, or the whole process is killed then."""

    root: KernelRoot
    fail_at: int = -1
    fail_after: bool = False
    error: BaseException | None = None  # None: killed
    asked: list[tuple[str, ...]] = field(default_factory=list)
    pieces: int = 1
    skipped: list[str] = field(default_factory=list)

    def run(self, program: tuple[str, ...], seconds: float, below_root: str = "") -> None:
        assert seconds > 0
        assert not below_root or below_root in program
        self._ask(program, lambda: self._act(program))

    def make_swap_file(self, path: str, size_bytes: int, *, is_btrfs: bool) -> Made:
        def act() -> None:
            descriptor = os.open(self.root.path(path), os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            os.write(descriptor, f"{size_bytes} {is_btrfs}".encode())
            os.close(descriptor)

        try:
            self._ask(("make", path), act)
        except BaseException:
            self.root.path(path).unlink(missing_ok=True)  # as the real one promises
            raise
        return Made(OFFSET, self.pieces)

    def _ask(self, what: tuple[str, ...], act: object) -> None:
        number = len(self.asked)
        self.asked.append(what)
        if number == self.fail_at and not self.fail_after:
            self._fail()
        act()  # type: ignore[operator]
        if number == self.fail_at:
            self._fail()

    def _fail(self) -> None:
        if self.error is None:
            os.kill(os.getpid(), signal.SIGKILL)
            signal.pause()
        assert self.error is not None
        raise self.error

    def _act(self, program: tuple[str, ...]) -> None:
        name, *words = program
        name = name.rpartition("/")[2]
        top = self.root.prefix
        if name == "mkswap":
            where = self.root.path(words[-1])
            where.write_bytes(where.read_bytes() + b" SWAPSPACE2")
        elif name == "swapon":
            self._swap_on(words[-1])
        elif name == "swapoff":
            self._swap_off(words[-1])
        elif name in ("update-grub", "grub-mkconfig"):
            sources = [top / "etc/default/grub", *sorted((top / "etc/default").glob("grub.d/*"))]
            texts = tuple((str(path), path.read_text()) for path in sources)
            told = " ".join(parse_grub_settings(texts).words)
            kernel = f"/boot/vmlinuz-{RELEASE} root=UUID={ROOT_UUID} ro"
            lines = f"\tlinux\t{kernel} {told}\n\tlinux\t{kernel} single\n"
            write(top, "/boot/grub/grub.cfg", f"menuentry 'Debian' {{\n{lines}}}\n")
        elif name in ("update-initramfs", "dracut"):
            places = (*top.glob("etc/initramfs-tools/conf.d/*"), *top.glob("etc/dracut.conf.d/*"))
            text = "".join(path.read_text() for path in sorted(places))
            write(top, f"/boot/initrd.img-{RELEASE}", f"made from: {text}")
        elif name == "grubby":
            self._grubby(words[-1])
        elif name != "chcon":
            raise AssertionError(program)

    def _swap_on(self, path: str) -> None:
        swaps = self.root.path("/proc/swaps")
        size = int(self.root.path(path).read_text().split()[0]) // 1024 - 4
        swaps.write_text(swaps.read_text() + f"{path} file {size} 0 -2\n")

    def _swap_off(self, path: str) -> None:
        swaps = self.root.path("/proc/swaps")
        lines = swaps.read_text().splitlines(keepends=True)
        if not any(line.startswith(f"{path} ") for line in lines):
            raise HibprepError(f"swapoff: {path}: Invalid argument")
        swaps.write_text("".join(line for line in lines if not line.startswith(f"{path} ")))

    def _grubby(self, word: str) -> None:
        where = self.root.path("/boot/loader/entries/fedora.conf")
        text = where.read_text().rstrip("\n")
        if word.startswith("--args="):
            text += " " + word.removeprefix("--args=")
        else:
            text = text.partition(" resume=")[0]
        where.write_text(text + "\n")
