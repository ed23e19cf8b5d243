# SPDX-License-Identifier: LGPL-2.1-or-later
"""Would the image be found again: what the boot loader will tell the next kernel, what the
initramfs knows, against where the image goes. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from hibprep.checks.finding import Finding, Severity, best_area, parameters, set_resume
from hibprep.fitting import resume_area
from hibprep.system.bootloader import Loader, LoaderKind, Words
from hibprep.system.efi import HIBERNATE_LOCATION
from hibprep.system.initramfs import Initramfs, InitramfsKind

if TYPE_CHECKING:
    from hibprep.facts import CheckFacts, Place
    from hibprep.model import SwapArea

EFI_SYSTEMD = 255  # from here on systemd leaves word of the image in an EFI variable
REMAKE = {
    InitramfsKind.TOOLS: "update-initramfs -u",
    InitramfsKind.DRACUT: "dracut --force",
    InitramfsKind.MKINITCPIO: "mkinitcpio -P",
}


def findings(facts: CheckFacts) -> Iterator[Finding]:
    """What disagrees."""
    yield from _location(facts)
    area = image_area(facts)
    if area is None:
        return
    yield from _running(facts, area)
    for loader in facts.boot.loaders:
        yield from _loader(facts, loader, area)
    yield from _initramfs(facts, area)


def image_area(facts: CheckFacts) -> SwapArea | None:
    """Where the image goes, or would go once a resume device were named."""
    area = resume_area(facts.snapshot)
    return area if area is not None else best_area(facts)


def leads_to(place: Place | None, area: SwapArea) -> bool:
    """Whether an image on `area` is found there. What cannot be told is believed."""
    if place is None:
        return False
    if area.device and place.device != area.device:
        return False
    if not area.is_file:
        return place.offset_pages == 0
    return area.offset_pages is None or place.offset_pages == area.offset_pages


def place_told(facts: CheckFacts, line: Words) -> Place | None:
    """Where a kernel with that command line would look."""
    return (facts.boot.places or {}).get(line.words)


def is_told(facts: CheckFacts, area: SwapArea) -> bool:
    """Whether a boot loader will tell the next kernel of `area`."""
    return any(
        leads_to(place_told(facts, line), area)
        for loader in facts.boot.loaders
        for line in loader.entries[:1]
    )


def needs_telling(facts: CheckFacts, area: SwapArea) -> bool:
    """Whether nothing but the command line says where the image is."""
    boot = facts.boot
    if facts.efi and facts.systemd.version >= EFI_SYSTEMD and _has_systemd(boot.initramfs):
        return False
    initramfs = boot.initramfs
    if initramfs is None or initramfs.kind is not InitramfsKind.TOOLS:
        return True
    if area.is_file:
        return True  # an offset reaches the kernel by its command line alone
    # without a word it looks for the largest swap partition when it is made
    return not leads_to(boot.by_itself, area) and initramfs.resume not in ("", "auto")


def _has_systemd(initramfs: Initramfs | None) -> bool:
    """Those of dracut and most of mkinitcpio's have it, and with it what reads the EFI variable."""
    return initramfs is not None and initramfs.kind is not InitramfsKind.TOOLS


def _words(place: Place) -> str:
    offset = f" resume_offset={place.offset_pages}" if place.offset_pages else ""
    return f"resume={place.word}{offset}" + ("" if place.device else " (there is no such device)")


def _running(facts: CheckFacts, area: SwapArea) -> Iterator[Finding]:
    place = facts.boot.command_line
    power = facts.snapshot.power
    if place is None:
        return
    if not power.resume_device:
        initramfs = facts.boot.initramfs
        remake = REMAKE[initramfs.kind] if initramfs else "make it anew with what resumes in it"
        why = f": {initramfs.lacks}" if initramfs and initramfs.lacks else ""
        yield Finding(
            Severity.WARNING,
            "resume-not-taken",
            f"this boot was told {_words(place)}, and yet the kernel has no resume device: its "
            f"initramfs did not set it{why}",
            remake,
        )
    elif not leads_to(place, area):
        yield Finding(
            Severity.WARNING,
            "resume-changed",
            f"this boot was told {_words(place)}; the resume device has been another since: "
            f"{area.path} takes the image",
            f"write what lasts into the boot loader: {set_resume(area)}",
        )


def _loader(facts: CheckFacts, loader: Loader, area: SwapArea) -> Iterator[Finding]:
    if loader.unified:
        yield Finding(
            Severity.INFO,
            "unified-kernel",
            "unified kernel images carry their command line in themselves; it was not read",
            "bootctl list shows it; kernel-install makes them anew from /etc/kernel/cmdline",
        )
    if not loader.entries:
        return
    wrong = [line for line in loader.entries if not leads_to(place_told(facts, line), area)]
    settings = [line for line in loader.settings if not leads_to(place_told(facts, line), area)]
    silent = [line for line in wrong if place_told(facts, line) is None]
    if silent and not needs_telling(facts, area):
        wrong = [line for line in wrong if line not in silent]
        settings = [line for line in settings if place_told(facts, line) is not None]
    if wrong:
        yield _misled(facts, loader, wrong, area, settings_right=not settings)
    elif settings:
        yield Finding(
            Severity.WARNING,
            "boot-stale",
            f"{loader.entries[0].path} is right as it is, and will not be once it is made anew: "
            f"{_said(facts, settings[0])}",
            f"add {parameters(area)} in {settings[0].path}",
        )
    else:
        yield Finding(
            Severity.OK, "boot", f"the next boot ({loader.kind}) looks for the image on {area.path}"
        )


def _said(facts: CheckFacts, line: Words) -> str:
    place = place_told(facts, line)
    return f"{line.path} says {_words(place)}" if place else f"{line.path} has no resume="


def _misled(
    facts: CheckFacts, loader: Loader, wrong: list[Words], area: SwapArea, *, settings_right: bool
) -> Finding:
    """The first entry is the one that is booted unless somebody chooses another."""
    first = wrong[0] is loader.entries[0]
    more = "" if len(loader.entries) == 1 else f" ({len(wrong)} of {len(loader.entries)} entries)"
    text = (
        f"{_said(facts, wrong[0])}{more}, but the image goes to {area.path}: after a hibernation "
        f"{'the next boot' if first else 'a boot by that entry'} would not find it"
    )
    if loader.settings and settings_right and loader.kind is LoaderKind.GRUB:
        remedy = "the settings are right; run: update-grub"
    elif loader.kind is LoaderKind.GRUB_ENTRIES:
        remedy = f'grubby --update-kernel=ALL --args="{parameters(area)}"'
    elif loader.kind is LoaderKind.SYSTEMD_BOOT:
        remedy = (
            f"add {parameters(area)} in /etc/kernel/cmdline and run: kernel-install add-all; "
            "hibprep check --fix offers to, where it can"
        )
    else:
        remedy = set_resume(area)
    severity = Severity.ERROR if loader.booted and first else Severity.WARNING
    return Finding(severity, "boot-mismatch", text, remedy)


def _initramfs(facts: CheckFacts, area: SwapArea) -> Iterator[Finding]:
    initramfs = facts.boot.initramfs
    if initramfs is None:
        return
    remake = REMAKE[initramfs.kind]
    if not initramfs.reads_images:
        yield Finding(
            Severity.ERROR,
            "initramfs-resume",
            f"the initramfs cannot read an image back: {initramfs.lacks}",
            f"put it back, then run: {remake}",
        )
    told = is_told(facts, area) or leads_to(facts.boot.command_line, area)
    if not area.is_file:
        yield from _looks_elsewhere(facts, initramfs, area, told=told)
    if initramfs.is_older:
        yield Finding(
            Severity.WARNING,
            "initramfs-old",
            f"{initramfs.path} was changed after the running kernel's initramfs was made: it may "
            "still have what was there before",
            remake,
        )


def _looks_elsewhere(
    facts: CheckFacts, initramfs: Initramfs, area: SwapArea, *, told: bool
) -> Iterator[Finding]:
    """What initramfs-tools does without a word on the command line, which goes before."""
    remedy = f"hibprep check --fix offers to write it, and: {REMAKE[initramfs.kind]}"
    but = "; the kernel command line goes before it" if told else ""
    severity = Severity.INFO if told else Severity.WARNING
    place = facts.boot.by_itself
    if initramfs.resume == "none":
        text = f"{initramfs.path} says RESUME=none: the initramfs looks for no image by itself{but}"
        yield Finding(severity, "initramfs-resume", text, remedy)
    elif place is not None and not leads_to(place, area):
        text = f"{initramfs.path} says {_words(place)}, but the image goes to {area.path}{but}"
        yield Finding(severity, "initramfs-resume", text, remedy)


def _location(facts: CheckFacts) -> Iterator[Finding]:
    """The variable goes when an image was read; there now, it is left from one that was not."""
    location = facts.boot.location
    if location is None:
        return
    area = image_area(facts)
    here = area is not None and facts.boot.location_device == area.device
    yield Finding(
        Severity.WARNING,
        "efi-location",
        f"the firmware still has word of an image on UUID={location.uuid}, offset "
        f"{location.offset_pages}"
        + (f", of Linux {location.kernel}" if location.kernel else "")
        + (" (where the next one would go too)" if here else "")
        + ": one that was never read back",
        f"systemctl start systemd-hibernate-clear.service (systemd 256); or: chattr -i "
        f"{HIBERNATE_LOCATION} && rm {HIBERNATE_LOCATION}",
    )
