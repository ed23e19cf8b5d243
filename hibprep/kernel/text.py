# SPDX-License-Identifier: LGPL-2.1-or-later
"""Numbers and escapes as kernel files write them (Documentation/filesystems/seq_file.rst).

Python's `int` takes more than the kernel ever prints ("1_000", "٣"), so every parser goes through
here and fails with the file's name instead of believing it.
"""

from __future__ import annotations

import re

from hibprep.errors import KernelFileMalformed

# 20 digits hold every 64-bit number
_UNSIGNED = re.compile(r"[0-9]{1,20}", re.ASCII)
_SIGNED = re.compile(r"-?[0-9]{1,20}", re.ASCII)
_HEXADECIMAL = re.compile(r"[0-9a-f]{1,16}", re.ASCII | re.IGNORECASE)
_DECIMAL_FRACTION = re.compile(r"[0-9]{1,20}(\.[0-9]{1,9})?", re.ASCII)
_ESCAPE = re.compile(r"\\([0-3][0-7]{2})", re.ASCII)
_SHOWN = 40


def malformed(path: str, what: str, text: str) -> KernelFileMalformed:
    """The error for `text` where `what` was expected."""
    shown = text if len(text) <= _SHOWN else text[:_SHOWN] + "…"
    return KernelFileMalformed(path, f"expected {what}, found {shown!r}")


def unsigned(text: str, path: str) -> int:
    """A number that cannot be negative."""
    if not _UNSIGNED.fullmatch(text):
        raise malformed(path, "a number", text)
    return int(text)


def signed(text: str, path: str) -> int:
    """A number."""
    if not _SIGNED.fullmatch(text):
        raise malformed(path, "a number", text)
    return int(text)


def hexadecimal(text: str, path: str) -> int:
    """A number in hexadecimal digits, without 0x."""
    if not _HEXADECIMAL.fullmatch(text):
        raise malformed(path, "a hexadecimal number", text)
    return int(text, 16)


def fraction(text: str, path: str) -> float:
    """A number that may have decimals."""
    if not _DECIMAL_FRACTION.fullmatch(text):
        raise malformed(path, "a number", text)
    return float(text)


def unescape(text: str) -> str:
    r"""A path as seq_path() mangles it (`\040` for a space), as it is.

    The escapes stand for bytes, so that they are put together before they are decoded.
    """
    if "\\" not in text:
        return text
    raw = _ESCAPE.sub(lambda match: chr(int(match[1], 8)), text.encode().decode("latin-1"))
    return raw.encode("latin-1").decode(errors="replace")
