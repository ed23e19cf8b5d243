# SPDX-License-Identifier: LGPL-2.1-or-later
"""The steps that tell the next kernel where an image is: boot loader and initramfs. Pure but for
looking which programs and files there are."""

from __future__ import annotations

from dataclasses import dataclass

from hibprep.errors import NotPossibleError
from hibprep.kernel.root import KernelRoot
from hibprep.setup import texts
from hibprep.setup.programs import find
from hibprep.setup.steps import INITRAMFS_SECONDS, Configure, FileText, Run, Step
from hibprep.system.bootloader import (
    COMMAND_LINE,
    GRUB_DEFAULT,
    GRUB_DROP_INS,
    KERNEL_CMDLINE,
    Loader,
    LoaderKind,
    Words,
)
from hibprep.system.initramfs import DRACUT_DROP_INS, TOOLS_RESUME, Initramfs, InitramfsKind

_OUR_GRUB = f"{GRUB_DROP_INS}/hibprep.cfg"
_OUR_DRACUT = f"{DRACUT_DROP_INS}/hibprep-resume.conf"
_MKCONFIGS = ("grub-mkconfig", "grub2-mkconfig")


@dataclass(frozen=True, slots=True, kw_only=True)
class BootSteps:
    """The steps, and what is left for a person to do, in words."""

    steps: tuple[Step, ...] = ()
    by_hand: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def boot_steps(
    root: KernelRoot,
    loaders: tuple[Loader, ...],
    initramfs: Initramfs | None,
    parameters: tuple[str, ...],
) -> BootSteps:
    """Have the next boot's kernel be told `parameters`.

    Raises NotPossibleError when another place is named there already: that is somebody's choice.
    """
    steps: list[Step] = []
    by_hand: list[str] = []
    for loader in loaders:
        _refuse_another(loader, parameters)
        found = _loader_step(root, loader, parameters)
        if isinstance(found, str):
            by_hand.append(found)
        else:
            steps.append(found)
        if loader.unified:
            by_hand.append(
                "make the unified kernel images anew, which carry their command line in "
                "themselves: kernel-install add-all"
            )
    if not loaders:
        by_hand.append(
            "no boot loader was found whose configuration is understood; have yours pass to the "
            f"kernel: {' '.join(parameters)}"
        )
    notes: list[str] = []
    made = _initramfs_step(root, initramfs)
    if isinstance(made, str):
        (by_hand if made.startswith("add ") else notes).append(made)
    elif made is not None:
        steps.append(made)
    return BootSteps(steps=tuple(steps), by_hand=tuple(by_hand), notes=tuple(notes))


def tools_step(root: KernelRoot, device: str) -> Configure:
    """Have initramfs-tools look on a swap partition by itself."""
    return Configure(
        title="have the initramfs look for an image there",
        files=(FileText(path=TOOLS_RESUME, text=texts.tools_resume(device)),),
        program=(find(root, "update-initramfs") or "update-initramfs", "-u"),
        seconds=INITRAMFS_SECONDS,
    )


def _refuse_another(loader: Loader, parameters: tuple[str, ...]) -> None:
    """What of ours is there is written anew. Of words for GRUB the last ones count, and those of
    others may come after ours; elsewhere words of one name take each other's place."""
    if any(line.path == _OUR_GRUB for line in loader.settings):
        return
    for line in (*loader.settings, *loader.entries):
        said = line.value("resume")
        if said is None:
            continue
        if loader.kind is LoaderKind.GRUB or f"resume={said}" != parameters[0]:
            raise NotPossibleError(
                f"{line.path} names resume={said} already",
                "hibprep check says whether that will do; else take it away there first",
            )


def _loader_step(
    root: KernelRoot, loader: Loader, parameters: tuple[str, ...]
) -> Configure | Run | str:
    if loader.kind is LoaderKind.SYSTEMD_BOOT:
        return _systemd_boot(root, loader, parameters)
    if loader.kind is LoaderKind.GRUB_ENTRIES:
        grubby = find(root, "grubby")
        words = " ".join(parameters)
        if not grubby:
            return f"have GRUB's entries pass to the kernel: {words}"
        return Run(
            title="have GRUB's entries name the resume device",
            program=(grubby, "--update-kernel=ALL", f"--args={words}"),
            undo=(grubby, "--update-kernel=ALL", "--remove-args=resume resume_offset"),
            seconds=INITRAMFS_SECONDS,
            undo_seconds=INITRAMFS_SECONDS,
        )
    return _grub(root, loader, parameters)


def _grub(root: KernelRoot, loader: Loader, parameters: tuple[str, ...]) -> Configure | str:
    update = find(root, "update-grub")
    mkconfig = next(filter(None, (find(root, name) for name in _MKCONFIGS)), "")
    if not update and not mkconfig:
        return f"make {loader.config} pass to the kernel: {' '.join(parameters)}"
    if loader.drop_ins:
        file = FileText(path=_OUR_GRUB, text=texts.grub_drop_in(parameters))
    else:
        text = root.try_read(GRUB_DEFAULT) or ""
        file = FileText(path=GRUB_DEFAULT, text=texts.with_grub_setting(text, parameters))
    return Configure(
        title="have GRUB name the resume device",
        files=(file,),
        program=(update,) if update else (mkconfig, "-o", loader.config),
        outputs=(loader.config, f"{loader.config}.new"),  # what grub-mkconfig writes to first
    )


def _systemd_boot(root: KernelRoot, loader: Loader, parameters: tuple[str, ...]) -> Configure:
    """The entries that are there, and the file that later ones are made from."""
    running = root.try_read(COMMAND_LINE) or ""
    files = [
        FileText(
            path=KERNEL_CMDLINE,
            text=texts.kernel_cmdline(root.try_read(KERNEL_CMDLINE), running, parameters),
        )
    ]
    here = Words(COMMAND_LINE, tuple(running.split())).value("root")
    for entry in loader.entries:
        if entry.value("root") == here:  # another system's entries are not ours to change
            text = root.read(entry.path)
            files.append(FileText(path=entry.path, text=texts.with_entry_words(text, parameters)))
    return Configure(title="have systemd-boot's entries name the resume device", files=tuple(files))


def _initramfs_step(root: KernelRoot, initramfs: Initramfs | None) -> Configure | str | None:
    """What the initramfs needs to take what the kernel is told; or words."""
    if initramfs is None:
        return None
    if initramfs.kind is InitramfsKind.TOOLS:
        return "the initramfs needs no change: initramfs-tools goes by the kernel command line"
    if initramfs.kind is InitramfsKind.DRACUT:
        return Configure(
            title="have the initramfs read an image",
            files=(FileText(path=_OUR_DRACUT, text=texts.dracut_drop_in()),),
            program=(find(root, "dracut") or "dracut", "--force", "--regenerate-all"),
            seconds=INITRAMFS_SECONDS,
        )
    if initramfs.reads_images:
        return None
    return "add resume to HOOKS in /etc/mkinitcpio.conf after udev, then run: mkinitcpio -P"
