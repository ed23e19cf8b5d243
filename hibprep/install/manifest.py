# SPDX-License-Identifier: LGPL-2.1-or-later
"""What is put, and where: every file of hibprep outside its own package."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from hibprep.install.layout import Layout
from hibprep.install.program import Program

RESOURCES = Path(__file__).parents[1] / "resources"
# In a wheel the hooks are among the resources; a checkout has them at its top.
_HOOKS = (RESOURCES / "hooks", Path(__file__).parents[2] / "hooks")

SERVICE = "hibprep.service"


class Extra(StrEnum):
    """What is put only when it is asked for by name."""

    LOGIND_DELAY = "logind-delay"


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


def extra_paths(layout: Layout) -> dict[Extra, str]:
    """Where each extra goes."""
    return {source.extra: _place(source.place, layout) for source in SOURCES if source.extra}


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
