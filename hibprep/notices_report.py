# SPDX-License-Identifier: LGPL-2.1-or-later
"""What is known of notices: who gives them, what is looked at, what was said last. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from hibprep.page import Block, Page, seconds
from hibprep.status import NoticeStatus, read_notices


@dataclass(frozen=True, slots=True)
class Watched:
    """One place, and what it said last; `at` is "" as long as it has not been looked at."""

    name: str
    words: str
    at: str = ""
    failures: int = 0  # on end


@dataclass(frozen=True, slots=True, kw_only=True)
class NoticesReport:
    """`provider` is "" as long as nobody is known to give any; `reason` says how, or why not."""

    provider: str = ""
    works: bool = False
    reason: str = ""
    watches: tuple[Watched, ...] = ()
    notices: tuple[NoticeStatus, ...] = ()


def from_plain(value: object) -> NoticesReport:
    """What the daemon answers. Raises HibprepError for notices that are not understood; of the
    rest, what is not there is empty."""
    plain = value if isinstance(value, Mapping) else {}
    watches = plain.get("watches")
    return NoticesReport(
        provider=_text(plain, "provider"),
        works=plain.get("works") is True,
        reason=_text(plain, "reason"),
        watches=tuple(
            Watched(_text(each, "name"), _text(each, "words"), _text(each, "at"), _count(each))
            for each in (watches if isinstance(watches, list) else ())
            if isinstance(each, Mapping)
        ),
        notices=read_notices(plain.get("notices", ()), "notices"),
    )


def _text(plain: Mapping[str, object], key: str) -> str:
    value = plain.get(key)
    return value if isinstance(value, str) else ""


def _count(plain: Mapping[str, object]) -> int:
    value = plain.get("failures")
    return value if isinstance(value, int) else 0


# --- for a person ---------------------------------------------------------------------------------


def notices_page(report: NoticesReport) -> Page:
    """All of it."""
    return Page(
        headline(report),
        (
            Block(
                "Looked at",
                tuple((each.name, each.at or "-", _said(each)) for each in report.watches),
                ("place", "when", "said"),
            ),
            notices_block(report.notices),
        ),
    )


def headline(report: NoticesReport) -> str:
    """Who gives notices, in one sentence."""
    if not report.works:
        return f"No notices come: {report.reason}."
    now = len([each for each in report.notices if each.progress in ("", "at work", "done")])
    announced = {0: "nothing is announced", 1: "one notice"}.get(now, f"{now} notices")
    return f"Notices come from {report.provider}: {announced}."


def notices_block(notices: tuple[NoticeStatus, ...]) -> Block:
    """What is announced, and what is done for it."""
    return Block(
        "Notices",
        tuple((each.kind, each.source, _when(each), _does(each)) for each in notices),
        ("kind", "from", "when", "what is done"),
    )


def _said(watched: Watched) -> str:
    times = f" ({watched.failures} times on end)" if watched.failures > 1 else ""
    return watched.words + times


def _when(notice: NoticeStatus) -> str:
    if notice.seconds_left is None:
        return notice.deadline or "no time is told"
    if notice.seconds_left <= 0:
        return f"{notice.deadline} (now or past)".strip()
    return f"{notice.deadline} (in {seconds(notice.seconds_left)})".strip()


def _does(notice: NoticeStatus) -> str:
    """done; now: this; then: that."""
    parts = list(notice.done)
    if notice.doing:
        parts.append(f"now: {notice.doing}")
    if notice.todo:
        parts.append(f"then: {', '.join(notice.todo)}")
    if notice.progress in ("withdrawn", "over"):
        parts.append(notice.progress)
    return "; ".join(parts) or "-"
