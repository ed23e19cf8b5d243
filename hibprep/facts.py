# SPDX-License-Identifier: LGPL-2.1-or-later
"""What `hibprep check` judges, and how it is read: the kernel's state, systemd's settings, what
logind answers, the boot loader and the initramfs."""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from hibprep import rates as known_rates
from hibprep.errors import KernelFileError
from hibprep.fitting import fit as judge_fit
from hibprep.kernel.cgroup import find_cgroup2
from hibprep.kernel.power import secretmem_users
from hibprep.kernel.process import name_of
from hibprep.kernel.snapshot import read_snapshot
from hibprep.model import Cgroup, Fit, Limits, Plan, Rates, Snapshot, SwapArea
from hibprep.system import blocks, efi, graphics, units
from hibprep.system.bootloader import Loader, find_loaders
from hibprep.system.initramfs import Initramfs, read_initramfs

if TYPE_CHECKING:
    from collections.abc import Mapping

    from hibprep.bus.permission import Permission
    from hibprep.kernel.root import KernelRoot

HIBERNATE_UNITS = ("sleep.target", "hibernate.target", "systemd-hibernate.service")
OTHER_SLEEP_UNITS = (
    "hybrid-sleep.target",
    "systemd-hybrid-sleep.service",
    "suspend-then-hibernate.target",
    "systemd-suspend-then-hibernate.service",
)
_LOGIND = "systemd-logind.service"
_BYPASS = "SYSTEMD_BYPASS_HIBERNATION_MEMORY_CHECK"
UNCOMPRESSED = ("nocompress", "hibernate=nocompress")


@dataclass(frozen=True, slots=True)
class Place:
    """A device, and where on it, as something names it."""

    word: str  # as it is written
    device: str  # "MAJ:MIN"; "" when there is no such device
    offset_pages: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class BootFacts:
    """How an image would be found again. Every `Place` is by the words it stands for."""

    loaders: tuple[Loader, ...] = ()
    initramfs: Initramfs | None = None
    command_line: Place | None = None  # that of the running kernel
    places: Mapping[tuple[str, ...], Place | None] | None = None  # by command line
    by_itself: Place | None = None  # where the initramfs looks without being told
    location: efi.Location | None = None
    location_device: str = ""  # the device that it means


@dataclass(frozen=True, slots=True, kw_only=True)
class SystemdFacts:
    """What systemd's files say."""

    version: int = 0  # 0: not known
    mode: units.Setting | None = None  # HibernateMode=
    not_allowed: tuple[units.Setting, ...] = ()  # other sleeps' Allow…=no
    masked: tuple[tuple[str, str], ...] = ()  # directory and unit, of other sleeps
    bypass: units.Setting | None = None  # logind's own check of the room is switched off
    permission: Permission | None = None  # None: not asked, on purpose


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckFacts:
    """Everything that is judged."""

    snapshot: Snapshot
    fit: Fit
    command_line: tuple[str, ...] = ()
    efi: bool = False  # systemd can leave the image's place in an EFI variable
    resume_name: str = ""  # /dev/… of the resume device
    cgroup_memory: bool = True
    cgroup_reason: str = ""
    protected: tuple[Cgroup, ...] = ()  # with memory.min or memory.low
    secretmem: tuple[tuple[int, str], ...] = ()  # pid, name
    barred_by_systemd: tuple[str, ...] = ()  # what in systemd's configuration says no
    unseen: tuple[str, ...] = ()  # what could not be read, in words
    fits: tuple[tuple[SwapArea, Fit], ...] = ()  # of every area, were it the resume device
    plan: Plan | None = None  # what a preparation would do
    rates: Rates = field(default_factory=Rates)
    systemd: SystemdFacts = SystemdFacts()
    boot: BootFacts = BootFacts()
    forgotten: tuple[tuple[str, str], ...] = ()  # path of a swap area, why its key does not last
    nvidia: graphics.Nvidia | None = None
    freezing: units.Setting | None = None  # whether user sessions are frozen
    video_bytes: int = 0


def gather(
    root: KernelRoot,
    limits: Limits,
    *,
    is_root: bool,
    rates: Mapping[str, float] | None = None,
    plan: Plan | None = None,
) -> CheckFacts:
    """Read what is judged. What may not be read is named in the result; what has to be there
    (memory and swap) raises KernelFileError. `rates` are those that are configured."""
    found = find_cgroup2(root)
    snapshot = read_snapshot(root, found.tree)
    words = tuple((root.try_read("/proc/cmdline") or "").split())
    if any(word in words for word in UNCOMPRESSED):
        limits = replace(limits, swap_reserve_ratio=1.0)
    protected: tuple[Cgroup, ...] = ()
    if found.tree is not None:
        protected = tuple(
            item for item in found.tree.walk() if item.min_bytes > 0 or item.low_bytes > 0
        )
    settings = units.sleep_settings(root)
    return CheckFacts(
        snapshot=snapshot,
        fit=judge_fit(snapshot, limits),
        command_line=words,
        efi=root.exists("/sys/firmware/efi"),
        resume_name=blocks.name_of(root, snapshot.power.resume_device),
        cgroup_memory=found.tree is not None,
        cgroup_reason=found.reason,
        protected=protected,
        secretmem=tuple((pid, name_of(root, pid)) for pid in secretmem_users(root)),
        barred_by_systemd=_barred(root, settings),
        unseen=_unseen(snapshot, is_root=is_root),
        fits=fits_of(snapshot, limits),
        plan=plan,
        rates=known_rates.combine(known_rates.load(root), rates or {}),
        systemd=_systemd(root, settings),
        boot=_boot(root, words),
        forgotten=_forgotten(root, snapshot),
        nvidia=graphics.read_nvidia(root),
        freezing=graphics.session_freezing(root),
        video_bytes=graphics.video_memory_bytes(root),
    )


def fits_of(snapshot: Snapshot, limits: Limits) -> tuple[tuple[SwapArea, Fit], ...]:
    """Both fits for each area that could take the image, were it the resume device."""
    found = []
    for area in snapshot.swaps:
        if area.is_zram:
            continue
        # without a device of its own (btrfs on several disks) it is told from the others by name
        power = replace(
            snapshot.power,
            resume_device=area.device or area.path,
            resume_offset_pages=area.offset_pages or 0,
        )
        swaps = tuple(
            replace(each, device=area.device or area.path) if each == area else each
            for each in snapshot.swaps
        )
        found.append((area, judge_fit(replace(snapshot, power=power, swaps=swaps), limits)))
    return tuple(found)


def _unseen(snapshot: Snapshot, *, is_root: bool) -> tuple[str, ...]:
    if is_root:
        return ()
    unseen = ["not root: secret memory of other people's processes"]
    if snapshot.lru_gen_enabled and not snapshot.generations:
        unseen.append("not root: the ages of memory (debugfs)")
    return tuple(unseen)


def _barred(root: KernelRoot, settings: Mapping[str, units.Setting]) -> tuple[str, ...]:
    said = settings.get("AllowHibernation")
    no = [f"{said.path}: AllowHibernation=no"] if said and units.is_no(said.value) else []
    masks = [f"{place} masks {unit}" for place, unit in units.masked(root, HIBERNATE_UNITS)]
    return (*no, *masks)


def _systemd(root: KernelRoot, settings: Mapping[str, units.Setting]) -> SystemdFacts:
    permission = None
    # another root's logind is not the one that runs here
    if root.is_real:
        from hibprep.bus.permission import ask  # noqa: PLC0415 - the D-Bus library takes 90 ms

        permission = ask(os.environ.get("DBUS_SYSTEM_BUS_ADDRESS"))
    bypass = units.environment(root, _LOGIND).get(_BYPASS)
    return SystemdFacts(
        version=units.version(root),
        mode=settings.get("HibernateMode"),
        not_allowed=tuple(
            units.Setting(f"{name}=no", said.path)
            for name in ("AllowSuspendThenHibernate", "AllowHybridSleep")
            if (said := settings.get(name)) is not None and units.is_no(said.value)
        ),
        masked=tuple(units.masked(root, OTHER_SLEEP_UNITS)),
        bypass=bypass if bypass is not None and units.is_yes(bypass.value) else None,
        permission=permission,
    )


def place_of(root: KernelRoot, resume: str | None, offset: str | None) -> Place | None:
    """What `resume=` and `resume_offset=` mean; None without the former."""
    if not resume:
        return None
    number = int(offset) if offset and offset.isascii() and offset.isdecimal() else 0
    return Place(resume, blocks.number_of(root, resume), number)


def _boot(root: KernelRoot, words: tuple[str, ...]) -> BootFacts:
    loaders = find_loaders(root)
    lines = {words} | {
        line.words for loader in loaders for line in (*loader.entries, *loader.settings)
    }
    places = {
        line: place_of(root, _value(line, "resume"), _value(line, "resume_offset"))
        for line in lines
    }
    initramfs = read_initramfs(root)
    by_itself = None
    if initramfs is not None and initramfs.resume not in ("", "auto", "none"):
        by_itself = place_of(root, initramfs.resume, initramfs.resume_offset)
    location = efi.hibernate_location(root)
    return BootFacts(
        loaders=loaders,
        initramfs=initramfs,
        command_line=places[words],
        places=places,
        by_itself=by_itself,
        location=location,
        location_device=blocks.number_of(root, f"UUID={location.uuid}") if location else "",
    )


def _value(words: tuple[str, ...], name: str) -> str | None:
    found = [word.partition("=")[2] for word in words if word.startswith(f"{name}=")]
    return found[-1] if found else None


def _forgotten(root: KernelRoot, snapshot: Snapshot) -> tuple[tuple[str, str], ...]:
    try:
        names = blocks.forgotten_keys(root)
    except KernelFileError:
        return ()
    if not names:
        return ()
    found = []
    for area in snapshot.swaps:
        name = "" if area.is_file else blocks.mapper_name(root, area.path)
        if name in names:
            found.append((area.path, f"{names[name]} at every boot (/etc/crypttab, {name})"))
    return tuple(found)
