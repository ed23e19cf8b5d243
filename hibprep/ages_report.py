# SPDX-License-Identifier: LGPL-2.1-or-later
"""What of each age a plan lets go, what stays, and what that costs, for a person. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from hibprep.model import AgeShare
from hibprep.page import Block, seconds, size

_UNITS = ((86400, "d"), (3600, "h"), (60, "min"))


def ages_block(ages: Sequence[AgeShare]) -> Block:
    """One row an age, from the oldest; what stays is told with the time that it costs."""
    below = (None, *(share.at_least_seconds for share in ages))
    return Block(
        "By age, as the multi-gen LRU knows it (the time is what it takes longer for what stays)",
        tuple(
            (
                _words(share.at_least_seconds, edge),
                _size(share.anon_goes_bytes),
                _size(share.anon_stays_bytes),
                _size(share.file_goes_bytes),
                _size(share.file_stays_bytes),
                seconds(share.hibernate_seconds),
                seconds(share.resume_seconds),
            )
            for share, edge in zip(ages, below, strict=False)
        ),
        (
            "idle for",
            "anon goes",
            "stays",
            "cache goes",
            "stays",
            "to hibernate",
            "to resume",
        ),
        frozenset(range(1, 7)),
    )


def ages_notes(ages: Sequence[AgeShare]) -> tuple[str, ...]:
    """The same in one sentence."""
    if not ages:
        return ()
    goes = sum(share.anon_goes_bytes + share.file_goes_bytes for share in ages)
    stays = sum(share.anon_stays_bytes + share.file_stays_bytes for share in ages)
    hibernate = sum(share.hibernate_seconds for share in ages)
    resume = sum(share.resume_seconds for share in ages)
    words = (
        f"of what programs and files have in memory {size(goes)} go, the oldest first, and "
        f"{size(stays)} stay in the image: {seconds(hibernate)} of the hibernation and "
        f"{seconds(resume)} of the resume are for them"
    )
    return (words,)


def _words(least: float, below: float | None) -> str:
    if not least:
        return "not known" if below is None else f"under {_span(below)}"
    return f"{_span(least)} and more" if below is None else f"{_span(least)} to {_span(below)}"


def _span(value: float) -> str:
    for unit_seconds, name in _UNITS:
        if value >= unit_seconds and value % unit_seconds == 0:
            return f"{value / unit_seconds:.0f} {name}"
    return f"{value:.0f} s"


def _size(value_bytes: int) -> str:
    return size(value_bytes) if value_bytes else "-"
