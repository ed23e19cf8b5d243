# SPDX-License-Identifier: LGPL-2.1-or-later
"""Readers of what is configured outside the kernel."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hibprep.kernel.root import KernelRoot
from hibprep.setup import texts
from hibprep.system import blocks, units
from hibprep.system.bootloader import (
    LoaderKind,
    Words,
    find_loaders,
    parse_entry,
    parse_grub,
    parse_grub_settings,
)
from hibprep.system.initramfs import InitramfsKind, parse_tools, read_initramfs
from tests.fakes.configured import ROOT_UUID, SWAP_UUID, install, link, write

WORDS = st.text(st.characters(codec="ascii", categories=["L", "N"], include_characters="=-_/."))


def test_words_for_devices(tmp_path: Path) -> None:
    root = install(tmp_path)
    link(tmp_path, "/dev/mapper/swap", "../vda2")
    for word in (
        f"UUID={SWAP_UUID}",
        f'"UUID={SWAP_UUID}"',
        "/dev/vda2",
        "254:2",
        "/dev/mapper/swap",
    ):
        assert blocks.number_of(root, word) == "254:2", word
    for word in ("UUID=other", "/dev/sdz", "/etc/passwd", "swap", "", "UUID=", "LVM=x", "a:b"):
        assert blocks.number_of(root, word) == "", word
    assert blocks.uuid_of(root, "254:1") == ROOT_UUID
    assert blocks.uuid_of(root, "9:9") == ""
    assert blocks.name_of(root, "254:2") == "/dev/vda2"
    assert blocks.name_of(root, "") == ""


def test_grub_settings_are_read_as_shell() -> None:
    main = (
        "# GRUB_CMDLINE_LINUX=no\nGRUB_CMDLINE_LINUX_DEFAULT='quiet splash' # said\n"
        'GRUB_CMDLINE_LINUX="a"\nexport GRUB_CMDLINE_LINUX="$GRUB_CMDLINE_LINUX b"\n'
        'GRUB_CMDLINE_LINUX+=" c"\nGRUB_CMDLINE_LINUX="unfinished\n'
    )
    drop_in = 'GRUB_CMDLINE_LINUX="${GRUB_CMDLINE_LINUX} resume=/d"\n'
    found = parse_grub_settings(
        (("/etc/default/grub", main), ("/etc/default/grub.d/x.cfg", drop_in))
    )
    assert found.words == ("a", "b", "c", "resume=/d", "quiet", "splash")
    assert found.path == "/etc/default/grub.d/x.cfg"
    assert found.value("resume") == "/d"
    assert found.value("resume_offset") is None


def test_grub_menus() -> None:
    text = (
        "menuentry 'Debian' {\n\tlinux\t/boot/vmlinuz-6 root=/dev/vda ro resume=/dev/x\n}\n"
        "  linuxefi /vmlinuz quiet resume=/dev/y\n\tlinux /vmlinuz single resume=/dev/z\n"
        "echo 'Loading Linux'\n"
    )
    assert [line.value("resume") for line in parse_grub(text, "x")] == ["/dev/x", "/dev/y"]


def test_loader_entries() -> None:
    entry = parse_entry(
        "title x\nlinux /a\noptions root=a\noptions $kernelopts b\n", "x", {"kernelopts": "k"}
    )
    assert entry is not None
    assert entry.words == ("root=a", "k", "b")
    assert parse_entry("title x\nefi /shell.efi\noptions root=a\n", "x") is None
    assert parse_entry("linux /a\noptions single\n", "x") is None


@pytest.mark.parametrize(
    ("loader", "kind"),
    [
        ("grub", LoaderKind.GRUB),
        ("grub-plain", LoaderKind.GRUB),
        ("grub-entries", LoaderKind.GRUB_ENTRIES),
        ("systemd-boot", LoaderKind.SYSTEMD_BOOT),
    ],
)
def test_the_loader_that_booted(tmp_path: Path, loader: str, kind: LoaderKind) -> None:
    (found,) = find_loaders(install(tmp_path, loader=loader))
    assert found.kind is kind
    assert found.booted
    assert found.drop_ins is (loader == "grub")
    assert found.entries


def test_two_loaders_the_one_that_booted_first(tmp_path: Path) -> None:
    root = install(tmp_path, loader="systemd-boot")
    write(tmp_path, "/boot/grub/grub.cfg", "linux /vmlinuz quiet\n")
    assert [loader.booted for loader in find_loaders(root)] == [True, False]
    assert find_loaders(root)[0].kind is LoaderKind.SYSTEMD_BOOT


def test_unified_kernels_are_noticed(tmp_path: Path) -> None:
    root = install(tmp_path, loader="systemd-boot")
    write(tmp_path, "/efi/EFI/Linux/debian.efi", "MZ")
    assert find_loaders(root)[0].unified


def test_no_loader(tmp_path: Path) -> None:
    assert find_loaders(install(tmp_path, loader="none")) == ()


def test_initramfs_tools() -> None:
    said = parse_tools(
        (
            ("/a", "RESUME=auto\n"),
            ("/b", f"# RESUME=none\nRESUME=UUID={SWAP_UUID} resume_offset=7\n"),
        )
    )
    assert said == (f"UUID={SWAP_UUID}", "7", "/b")
    assert parse_tools((("/a", 'RESUME="/dev/x"\n'),))[0] == "/dev/x"
    assert parse_tools((("/a", "RESUME='\n"),)) == ("", "", "")


def test_what_is_left_of_another_initramfs_is_not_taken_for_it(tmp_path: Path) -> None:
    root = install(tmp_path, initramfs="dracut")
    write(tmp_path, "/etc/initramfs-tools/conf.d/resume", "RESUME=none\n")
    found = read_initramfs(root)
    assert found is not None
    assert found.kind is InitramfsKind.DRACUT


def test_dracut_without_what_resumes(tmp_path: Path) -> None:
    root = install(tmp_path, initramfs="dracut")
    write(tmp_path, "/etc/dracut.conf.d/a.conf", 'omit_dracutmodules+=" plymouth resume "\n')
    found = read_initramfs(root)
    assert found is not None
    assert not found.reads_images
    assert "/etc/dracut.conf.d/a.conf" in found.lacks


@pytest.mark.parametrize(
    ("hooks", "reads"),
    [("base udev", False), ("base udev resume", True), ("base systemd", True)],
)
def test_mkinitcpio(tmp_path: Path, hooks: str, *, reads: bool) -> None:
    root = install(tmp_path, initramfs="mkinitcpio")
    write(tmp_path, "/etc/mkinitcpio.conf", f"# HOOKS=(resume)\nHOOKS=({hooks})\n")
    found = read_initramfs(root)
    assert found is not None
    assert found.reads_images is reads


def test_the_version_of_systemd(tmp_path: Path) -> None:
    root = KernelRoot(tmp_path)
    assert units.version(root) == 0
    write(tmp_path, "/usr/lib/x86_64-linux-gnu/systemd/libsystemd-core-257.so", "")
    assert units.version(root) == 0
    write(tmp_path, "/usr/lib/x86_64-linux-gnu/systemd/libsystemd-shared-257.so", "")
    assert units.version(root) == 257


def test_drop_ins_of_a_service(tmp_path: Path) -> None:
    root = KernelRoot(tmp_path)
    write(
        tmp_path, "/usr/lib/systemd/system/a.service.d/x.conf", "[Service]\nEnvironment=A=1 B=2\n"
    )
    write(tmp_path, "/etc/systemd/system/a.service.d/y.conf", '[Service]\nEnvironment="B=3 4"\n')
    write(tmp_path, "/etc/systemd/system/service.d/a.conf", "[Service]\nEnvironment=A=0\n")
    found = units.environment(root, "a.service")
    assert {name: said.value for name, said in found.items()} == {"A": "1", "B": "3 4"}
    # a name in a higher directory hides the lower ones; an empty value forgets what was before
    write(tmp_path, "/etc/systemd/system/a.service.d/x.conf", "[Service]\nEnvironment=\n")
    write(tmp_path, "/etc/systemd/system/a.service.d/y.conf", "[Service]\nEnvironment='\n")
    assert units.environment(root, "a.service") == {}


# --- and the texts that are written ---------------------------------------------------------------


@settings(deadline=None)
@given(st.lists(WORDS), st.lists(WORDS))
def test_what_is_written_for_grub_is_read_back(before: list[str], parameters: list[str]) -> None:
    plain = [word for word in before if word]
    told = tuple(word for word in parameters if word)
    given_text = f'GRUB_CMDLINE_LINUX="{" ".join(plain)}"\n'
    drop_in = texts.grub_drop_in(told)
    for sources in (
        (("/etc/default/grub", given_text), ("/etc/default/grub.d/hibprep.cfg", drop_in)),
        (("/etc/default/grub", texts.with_grub_setting(given_text, told)),),
    ):
        assert parse_grub_settings(sources).words == (*plain, *told)


def test_words_take_the_place_of_those_of_their_names() -> None:
    line = "root=x resume=old resume_offset=1 quiet"
    assert texts.with_words(line, ("resume=new",)) == "root=x quiet resume=new"
    entry = "title a\noptions root=x resume=old\nlinux /l\noptions quiet resume_offset=5\n"
    written = parse_entry(texts.with_entry_words(entry, ("resume=n", "resume_offset=2")), "x")
    assert written is not None
    assert written.words == ("root=x", "quiet", "resume=n", "resume_offset=2")
    bare = parse_entry(texts.with_entry_words("linux /l\n", ("resume=n",)), "x")
    assert bare == Words("x", ("resume=n",))


def test_a_kernel_command_line_for_kernel_install() -> None:
    running = "BOOT_IMAGE=/vmlinuz root=x initrd=\\a quiet"
    assert texts.kernel_cmdline(None, running, ("resume=n",)) == "root=x quiet resume=n\n"
    assert texts.kernel_cmdline("root=y\n", running, ("resume=n",)) == "root=y resume=n\n"


@pytest.mark.parametrize("path", ["/swapfile", "/a b/c\td", "/x#y", "/back\\slash"])
def test_fstab_lines(path: str) -> None:
    text = texts.with_fstab_line("UUID=x / ext4 defaults 0 1", path)
    assert text.splitlines()[0] == "UUID=x / ext4 defaults 0 1"
    fields = text.splitlines()[-1].split()
    assert len(fields) == 6
    assert fields[1:4] == ["none", "swap", "sw"]
    assert texts.fstab_has(text, path)
    assert not texts.fstab_has("# " + text.replace("\n", "\n# "), path)
