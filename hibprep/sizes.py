# SPDX-License-Identifier: LGPL-2.1-or-later
"""Sizes as people write them, the same on the command line and in the configuration.

Not pydantic's ByteSize: it reads a bare M as 10^6, "1..2M" as 1 and knows bits.
"""

from __future__ import annotations

import re
from decimal import Decimal

LARGEST_BYTES = 2**63 - 1  # what the kernel's own counters can hold
SIZE_WORDS = "a size such as 512M, 1.5GiB or 2 GB"

_SHOWN_CHARACTERS = 60
_NEGATIVE = re.compile(r"-\s*[0-9.]")
_SIZE = re.compile(
    r"([0-9]{1,40})\s*b?|([0-9]{1,40}(?:\.[0-9]{1,40})?)\s*([kmgtpe])(i?b|i)?", re.IGNORECASE
)


def parse_size(value: object) -> int:
    """A size in bytes from a number or from text; ValueError says what is wrong and allowed.

    K, M, G, T alone are powers of 1024, as the kernel, systemd and the core utilities read them;
    so are KiB, MiB …; kB, MB, GB are powers of 1000.
    """
    text = str(value).strip()
    if _NEGATIVE.match(text):
        raise ValueError(f"{shorten(text)} is negative; give {SIZE_WORDS}")
    match = _SIZE.fullmatch(text)
    if match is None:
        raise ValueError(f"{shorten(repr(value))} is not {SIZE_WORDS}")
    plain, number, prefix, rest = match.groups()
    if plain:
        size = int(plain)
    else:
        base = 1000 if rest in {"b", "B"} else 1024
        size = int(Decimal(number) * base ** ("kmgtpe".index(prefix.lower()) + 1))
    if size > LARGEST_BYTES:
        raise ValueError(f"{shorten(text)} is more than any machine has; give {SIZE_WORDS}")
    return size


def shorten(text: str) -> str:
    """What a person typed, for an error that has to stay one readable line."""
    line = " ".join(text.split())
    return line if len(line) <= _SHOWN_CHARACTERS else f"{line:.{_SHOWN_CHARACTERS}}…"
