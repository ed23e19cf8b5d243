# SPDX-License-Identifier: LGPL-2.1-or-later
"""`/proc/zoneinfo` (Documentation/filesystems/proc.rst, Documentation/mm/physical_memory.rst).

What the kernel prints as `high` is high_wmark_pages(), which has the watermark boost in it since
there is one (5.0), whether or not a `boost` line says so; it is taken as it stands.
"""

from __future__ import annotations

import re

from hibprep.kernel.root import KernelRoot
from hibprep.kernel.text import malformed, unsigned
from hibprep.model import Zone

ZONEINFO = "/proc/zoneinfo"

_HEADER = re.compile(r"Node ([0-9]{1,10}), zone +(\S+)", re.ASCII)
_FIELDS = frozenset({"high", "spanned", "present", "managed"})
_REQUIRED = ("free", "high", "spanned", "present", "managed")


def parse_zoneinfo(text: str) -> tuple[Zone, ...]:
    """The populated zones, in the file's order."""
    zones: list[Zone] = []
    # split() of the whole on the headers would be dearer than it looks: 128 CPUs make 9000 lines
    header: re.Match[str] | None = None
    values: dict[str, int] = {}
    protection: tuple[int, ...] = ()
    for line in text.splitlines():
        found = _HEADER.match(line)
        if found:
            _finish(header, values, protection, zones)
            header, values, protection = found, {}, ()
            continue
        words = line.split()
        if not words:
            continue
        key = words[0]
        if key in _FIELDS and len(words) == 2:  # noqa: PLR2004 - a name and its value
            values[key] = unsigned(words[1], ZONEINFO)
        elif key == "count:" and len(words) == 2:  # noqa: PLR2004
            values["count"] = values.get("count", 0) + unsigned(words[1], ZONEINFO)
        elif key == "pages":
            if len(words) != 3 or words[1] != "free":  # noqa: PLR2004 - pages free N
                raise malformed(ZONEINFO, '"pages free N"', line)
            values["free"] = unsigned(words[2], ZONEINFO)
        elif key == "protection:":
            protection = _protection(line)
    _finish(header, values, protection, zones)
    if not zones:
        raise malformed(ZONEINFO, "a populated zone", text)
    return tuple(zones)


def read_zoneinfo(root: KernelRoot) -> tuple[Zone, ...]:
    """As it is now."""
    return parse_zoneinfo(root.read(ZONEINFO))


def _protection(line: str) -> tuple[int, ...]:
    _, opening, rest = line.partition("(")
    inside, closing, _ = rest.partition(")")
    if not opening or not closing:
        raise malformed(ZONEINFO, "protection: (…)", line)
    return tuple(unsigned(word.strip(), ZONEINFO) for word in inside.split(",") if word.strip())


def _finish(
    header: re.Match[str] | None,
    values: dict[str, int],
    protection: tuple[int, ...],
    zones: list[Zone],
) -> None:
    if header is None:
        return
    for name in _REQUIRED:
        if name not in values:
            raise malformed(ZONEINFO, f"{name!r} in every zone", header[0])
    if not values["present"]:
        return
    zones.append(
        Zone(
            node=unsigned(header[1], ZONEINFO),
            name=header[2],
            present_pages=values["present"],
            managed_pages=values["managed"],
            spanned_pages=values["spanned"],
            free_pages=values["free"],
            high_pages=values["high"],
            protection_pages=protection,
            per_cpu_pages=values.get("count", 0),
        )
    )
