# SPDX-License-Identifier: LGPL-2.1-or-later
"""What is put, and where: every file of hibprep outside its own package."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from hibprep.install.layout import Layout
from hibprep.install.program import Program
from hibprep.kernel.root import KernelRoot

RESOURCES = Path(__file__).parents[1] / "resources"
# In a wheel the hooks are among the resources; a checkout has them at its top.
_HOOKS = (RESOURCES / "hooks", Path(__file__).parents[2] / "hooks")

SERVICE = "hibprep.service"


class Extra(StrEnum):
    """What is put only when it is asked for by name, or where its sign is found."""

    LOGIND_DELAY = "logind-delay"
    LIBVIRT = "libvirt"
    VDSM = "vdsm"


# Where one of these is, the extra is put without being asked for: it tells the daemon, and no more.
_SIGNS = {Extra.LIBVIRT: ("/usr/sbin/libvirtd", "/usr/sbin/virtqemud")}

# Where vdsm looks for hooks, and at what it runs ours (docs/libvirt-hooks.md).
_VDSM_HOOKS = "/usr/libexec/vdsm/hooks"
_VDSM_POINTS = (
    "before_vm_migrate_source",
    "before_vm_hibernate",
    "after_vm_migrate_destination",
    "after_vm_dehibernate",
)


@dataclass(frozen=True, slots=True)
class Source:
    """A file of the project and its place. `{systemd}` and the like are the layout's."""

    name: str  # below resources/, or hooks/…
    place: str
    program: bool = False  # is executable
    adapted: bool = False  # names the program, its Python or its package
    extra: Extra | None = None


SOURCES = (
    Source(SERVICE, "{systemd}/system/hibprep.service", adapted=True),
    Source("hibprep-presleep.service", "{systemd}/system/hibprep-presleep.service", adapted=True),
    Source(
        "hooks/systemd-sleep/hibprep", "{systemd}/system-sleep/hibprep", program=True, adapted=True
    ),
    Source("org.hibprep.Manager1.conf", "/usr/share/dbus-1/system.d/org.hibprep.Manager1.conf"),
    Source("hibprep.toml", "/etc/hibprep/hibprep.toml"),
    Source(
        "logind-delay.conf", "/etc/systemd/logind.conf.d/hibprep.conf", extra=Extra.LOGIND_DELAY
    ),
    Source(
        "hooks/libvirt/qemu",
        "/etc/libvirt/hooks/qemu.d/50-hibprep",
        program=True,
        adapted=True,
        extra=Extra.LIBVIRT,
    ),
    Source(
        "hibprep-guests.service",
        "{systemd}/system/hibprep-guests.service",
        adapted=True,
        extra=Extra.LIBVIRT,
    ),
    *(
        Source(
            "hooks/vdsm/hibprep",
            f"{_VDSM_HOOKS}/{point}/50_hibprep",
            program=True,
            adapted=True,
            extra=Extra.VDSM,
        )
        for point in _VDSM_POINTS
    ),
    Source("hooks/vdsm/sudoers", "/etc/sudoers.d/50_hibprep", extra=Extra.VDSM),
)

# What is made from the command line itself and from hand-written text: name -> place.
GENERATED = {
    "hibprep.8": "/usr/share/man/man8/hibprep.8",
    "hibprep.toml.5": "/usr/share/man/man5/hibprep.toml.5",
    "bash": "/usr/share/bash-completion/completions/hibprep",
    "zsh": "{zsh}/_hibprep",
    "fish": "/usr/share/fish/vendor_completions.d/hibprep.fish",
}


@dataclass(frozen=True, slots=True)
class Item:
    """One file that is to be there: an absolute path without the root, and all of its content."""

    path: str
    content: bytes
    mode: int = 0o644
    source: str = ""  # the file it was taken from, where that is the same text


def source_file(name: str) -> Path | None:
    """Where a source is in this installation; None when it is not part of it."""
    if not name.startswith("hooks/"):
        candidates = [RESOURCES / name]
    else:
        candidates = [place / name.removeprefix("hooks/") for place in _HOOKS]
    return next((path for path in candidates if path.is_file()), None)


def extra_paths(layout: Layout) -> dict[Extra, tuple[str, ...]]:
    """Where the files of each extra go."""
    return {
        extra: tuple(_place(source.place, layout) for source in SOURCES if source.extra is extra)
        for extra in Extra
    }


def fitting_extras(root: KernelRoot) -> frozenset[Extra]:
    """Those that belong on the system below `root` without being asked for."""
    return frozenset(
        extra for extra, signs in _SIGNS.items() if any(root.exists(sign) for sign in signs)
    )


def items(
    layout: Layout,
    program: Program,
    generated: Mapping[str, str],
    extras: frozenset[Extra] = frozenset(),
) -> tuple[tuple[Item, ...], tuple[str, ...]]:
    """Every file that is to be there, by path; and the names of sources that are not to be had."""
    found: list[Item] = []
    missing: list[str] = []
    for source in SOURCES:
        if source.extra is not None and source.extra not in extras:
            continue
        file = source_file(source.name)
        if file is None:
            missing.append(source.name)
            continue
        content = file.read_bytes()
        if source.adapted:
            content = program.adapt(content.decode()).encode()
        found.append(
            Item(
                _place(source.place, layout),
                content,
                0o755 if source.program else 0o644,
                "" if source.adapted else str(file),
            )
        )
    for name, text in generated.items():
        found.append(Item(_place(GENERATED[name], layout), text.encode()))
    return tuple(sorted(found, key=lambda item: item.path)), tuple(missing)


def _place(template: str, layout: Layout) -> str:
    return template.format(systemd=layout.systemd, zsh=layout.zsh)
