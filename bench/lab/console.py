# SPDX-License-Identifier: LGPL-2.1-or-later
"""Reads what the kernel says about a hibernation on the serial console."""

from __future__ import annotations

import re
from dataclasses import dataclass, fields
from typing import Final


@dataclass(frozen=True)
class ConsoleFacts:
    """What the kernel printed about one hibernation; None where it printed nothing.

    6.1 does not tell the compressed size nor zero pages. 7.x tells neither what was to be copied
    nor what was (compiled out where PM_DEBUG is not set): go by ``wrote_bytes``, the uncompressed
    size of the image with its metadata, which all of them tell.
    """

    allocated_pages: int | None = None
    allocated_bytes: int | None = None
    allocate_seconds: float | None = None
    need_to_copy_pages: int | None = None
    copied_pages: int | None = None
    zero_pages: int | None = None
    image_compressed_bytes: int | None = None
    wrote_bytes: int | None = None
    write_seconds: float | None = None
    read_bytes: int | None = None
    read_seconds: float | None = None
    failure: str | None = None

    def merged(self, other: ConsoleFacts) -> ConsoleFacts:
        """These facts, with those of ``other`` where these say nothing."""
        return ConsoleFacts(
            **{
                field.name: getattr(other, field.name)
                if getattr(self, field.name) is None
                else getattr(self, field.name)
                for field in fields(self)
            }
        )


_NUMBERS: Final = re.compile(
    r"PM: (?:hibernation: )?(?:"
    r"Allocated (?P<allocated_pages>\d+) pages for snapshot"
    r"|Allocated (?P<allocated_kbytes>\d+) kbytes in (?P<allocate_seconds>\d+\.\d+) seconds"
    r"|Need to copy (?P<need_to_copy_pages>\d+) pages"
    r"|Image created \((?P<copied_pages>\d+) pages copied(?:, (?P<zero_pages>\d+) zero pages)?\)"
    r"|Image size after compression: (?P<image_compressed_kbytes>\d+) kbytes"
    r"|Wrote (?P<wrote_kbytes>\d+) kbytes in (?P<write_seconds>\d+\.\d+) seconds"
    r"|Read (?P<read_kbytes>\d+) kbytes in (?P<read_seconds>\d+\.\d+) seconds"
    r")"
)

_FAILURE: Final = re.compile(
    r"(?:"
    r"PM: (?:hibernation: )?(?:Image saving failed: -?\d+|Image loading failed: -?\d+"
    r"|Image mismatch.*|Failed to load image, recovering\.?|Not enough free memory"
    r"|Image allocation is \d+ pages short|Cannot find swap device, try swapon -a"
    r"|Not enough free swap|Cannot get swap writer|Some devices failed to .*"
    r"|Error -?\d+ .*)"
    r"|Freezing (?:of tasks|user space processes|remaining freezable tasks) (?:failed|aborted).*"
    r"|PM: (?:[^\n]*\b)?(?:failed to|error)\b[^\n]*"
    r")",
    re.IGNORECASE,
)

_STAMP: Final = re.compile(r"^\[\s*\d+\.\d+\]\s*")


def parse_console(text: str) -> ConsoleFacts:
    """The facts of the last hibernation in the text; the first failure named after it began."""
    found: dict[str, int | float | str] = {}
    for raw in text.splitlines():
        line = _STAMP.sub("", raw.strip())
        match = _NUMBERS.search(line)
        if match is not None:
            for name, value in match.groupdict().items():
                if value is None:
                    continue
                if name.endswith("_kbytes"):
                    found[name.removesuffix("_kbytes") + "_bytes"] = int(value) * 1024
                elif name.endswith("_seconds"):
                    found[name] = float(value)
                else:
                    found[name] = int(value)
            continue
        failure = _FAILURE.search(line)
        if failure is not None and "failure" not in found:
            found["failure"] = failure.group(0).strip()
    return ConsoleFacts(**found)  # type: ignore[arg-type]  # by suffix, as above
