# SPDX-License-Identifier: LGPL-2.1-or-later
"""What `hibprep check` judges, and how it is read: the kernel's state and systemd's settings."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hibprep.errors import KernelFileError
from hibprep.fitting import fit as judge_fit
from hibprep.kernel.cgroup import find_cgroup2
from hibprep.kernel.power import secretmem_users
from hibprep.kernel.process import name_of
from hibprep.kernel.snapshot import read_snapshot

if TYPE_CHECKING:
    from hibprep.kernel.root import KernelRoot
    from hibprep.model import Cgroup, Fit, Limits, Snapshot

SLEEP_CONF_DIRECTORIES = (
    "/usr/lib/systemd",
    "/usr/local/lib/systemd",
    "/run/systemd",
    "/etc/systemd",
)
UNIT_DIRECTORIES = ("/etc/systemd/system", "/run/systemd/system")
HIBERNATE_UNITS = ("sleep.target", "hibernate.target", "systemd-hibernate.service")


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


def gather(root: KernelRoot, limits: Limits, *, is_root: bool) -> CheckFacts:
    """Read what is judged. What may not be read is named in the result; what has to be there
    (memory and swap) raises KernelFileError."""
    found = find_cgroup2(root)
    snapshot = read_snapshot(root, found.tree)
    protected: tuple[Cgroup, ...] = ()
    if found.tree is not None:
        protected = tuple(
            item for item in found.tree.walk() if item.min_bytes > 0 or item.low_bytes > 0
        )
    unseen = []
    if not is_root:
        unseen.append("not root: secret memory of other people's processes")
        if snapshot.lru_gen_enabled and not snapshot.generations:
            unseen.append("not root: the ages of memory (debugfs)")
    return CheckFacts(
        snapshot=snapshot,
        fit=judge_fit(snapshot, limits),
        command_line=tuple((root.try_read("/proc/cmdline") or "").split()),
        efi=root.exists("/sys/firmware/efi"),
        resume_name=_device_name(root, snapshot.power.resume_device),
        cgroup_memory=found.tree is not None,
        cgroup_reason=found.reason,
        protected=protected,
        secretmem=tuple((pid, name_of(root, pid)) for pid in secretmem_users(root)),
        barred_by_systemd=(*_sleep_conf(root), *_masked(root)),
        unseen=tuple(unseen),
    )


def _device_name(root: KernelRoot, number: str) -> str:
    if not number:
        return ""
    for line in (root.try_read(f"/sys/dev/block/{number}/uevent") or "").splitlines():
        key, _, value = line.partition("=")
        if key == "DEVNAME":
            return f"/dev/{value}"
    return ""


def _sleep_conf(root: KernelRoot) -> Iterator[str]:
    """AllowHibernation= as sleep.conf.d(5) has it: one main file, the highest of the directories;
    then drop-ins sorted by name, where a name in a higher directory hides the lower ones."""
    main = ""
    drop_ins: dict[str, str] = {}
    for directory in SLEEP_CONF_DIRECTORIES:
        if root.exists(f"{directory}/sleep.conf"):
            main = f"{directory}/sleep.conf"
        try:
            names = root.listdir(f"{directory}/sleep.conf.d")
        except KernelFileError:
            names = []
        drop_ins |= {
            name: f"{directory}/sleep.conf.d/{name}" for name in names if name.endswith(".conf")
        }
    no = ""
    for path in (main, *(drop_ins[name] for name in sorted(drop_ins))):
        for line in (root.try_read(path) or "").splitlines() if path else ():
            key, _, value = line.partition("=")
            if key.strip() == "AllowHibernation":
                no = path if value.strip().lower() in ("no", "n", "false", "f", "off", "0") else ""
    if no:
        yield f"{no}: AllowHibernation=no"


def _masked(root: KernelRoot) -> Iterator[str]:
    for unit in HIBERNATE_UNITS:
        for directory in UNIT_DIRECTORIES:
            if root.readlink(f"{directory}/{unit}") == "/dev/null":
                yield f"{directory} masks {unit}"
                break
