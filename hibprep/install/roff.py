# SPDX-License-Identifier: LGPL-2.1-or-later
"""Pure: text in the language of man pages (man(7), groff_char(7))."""

from __future__ import annotations

import re
from collections.abc import Iterable

_CODE = re.compile(r"`([^`\n]+)`")
_ESCAPES = {
    "\\": r"\e",
    '"': r"\(dq",
    "-": r"\-",
    "'": r"\(aq",
    "`": r"\(ga",
    "^": r"\(ha",
    "~": r"\(ti",
}
# Those that occur; what is not ASCII depends on the terminal's fonts otherwise.
_CHARACTERS = {"…": r"\&...", "×": r"\(mu", "÷": r"\(di", "−": r"\(mi", "→": r"\(->", "–": r"\(en"}


def escape(text: str) -> str:
    """The text as it is, whatever is in it."""
    escaped = "".join(_ESCAPES.get(each, _CHARACTERS.get(each, each)) for each in text)
    # a line that begins with a control character would be a request
    return re.sub(r"^\.", r"\\&.", escaped, flags=re.MULTILINE)


def prose(text: str) -> str:
    """The text with what is in backquotes set in bold."""
    parts = _CODE.split(text)
    return "".join(
        rf"\fB{escape(part)}\fR" if index % 2 else escape(part) for index, part in enumerate(parts)
    )


def section(title: str) -> str:
    """A heading."""
    return f'.SH "{escape(title.upper())}"'


def subsection(title: str) -> str:
    """A heading below a heading."""
    return f'.SS "{escape(title)}"'


def entry(tags: Iterable[str], text: str) -> str:
    """Terms, and below them what they mean."""
    first, *more = (rf"\fB{escape(tag)}\fR" for tag in tags)
    lines = [".TP", first]
    for tag in more:
        lines += [".TQ", tag]
    return "\n".join([*lines, *(prose(line) for line in text.splitlines() if line.strip())])


def paragraph(text: str) -> str:
    """A paragraph of prose."""
    return "\n".join([".PP", *(prose(line.strip()) for line in text.splitlines() if line.strip())])


def title(name: str, number: int, version: str) -> str:
    """The first lines of a page, which say its licence too."""
    return (
        '.\\" SPDX-License-Identifier: LGPL-2.1-or-later\n'
        '.\\" Made by hibprep install.\n'
        f'.TH "{escape(name.upper())}" "{number}" "" "hibprep {version}" "hibprep"\n'
        ".nh\n.ad l"
    )
