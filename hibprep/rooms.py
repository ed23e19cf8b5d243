# SPDX-License-Identifier: LGPL-2.1-or-later
"""What only some machines have beside a person and their memory: guests, and a cloud around it.
Each room has a source of signals, and somebody who takes care of what it tells. What they need is
imported where they are: it would be in every daemon's memory for nothing."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import asdict, replace
from datetime import timedelta
from typing import TYPE_CHECKING

from hibprep.clock import Clock
from hibprep.errors import NotPossibleError
from hibprep.events import Signal, SourceName, SourceState
from hibprep.notices import Notice, NoticeKind, ProviderName
from hibprep.signals.base import Source
from hibprep.status import Status

if TYPE_CHECKING:
    from hibprep.guestcare import GuestCare
    from hibprep.noticecare import NoticeCare
    from hibprep.noticerules import Rule
    from hibprep.parts import Parts
    from hibprep.signals.cloud.source import Cloud

OFF = "off"


class Rooms:
    """All methods are called on the event loop."""

    def __init__(self, prefix: str, parts: Parts, clock: Clock) -> None:
        self.sources: tuple[Source, ...] = ()
        self._guest_care: GuestCare | None = None
        self._notice_care: NoticeCare | None = None
        self._cloud: Cloud | None = None
        self._clock = clock
        config = parts.config()
        if config.guests.enabled:
            from hibprep.guestcare import guest_care  # noqa: PLC0415

            self.sources, self._guest_care = guest_care(parts.machine.root, prefix, config, clock)
        if config.notices.provider != OFF:
            self._notice_care, self._cloud = _notice_care(prefix, parts, clock)
            self.sources = (*self.sources, self._cloud)

    def hear(self, signal: Signal) -> None:
        """What any source has told."""
        if self._guest_care is not None:
            self._guest_care.hear(signal)
        if self._notice_care is not None:
            self._notice_care.hear(signal)

    def close(self) -> None:
        """Begin nothing more."""
        if self._guest_care is not None:
            self._guest_care.close()
        if self._notice_care is not None:
            self._notice_care.close()

    def shown(self, status: Status) -> Status:
        """`status` with what is known here."""
        if self._notice_care is None or self._cloud is None:
            return status
        shown = self._notice_care.shown(self._cloud.notices())
        return replace(status, notices=shown, notices_total=self._notice_care.heard)

    def notices(self, sources: Mapping[SourceName, SourceState]) -> dict[str, object]:
        """What is known of notices, for `hibprep notices`. Raises NotPossibleError where they are
        switched off."""
        from hibprep.notices_report import NoticesReport, Watched  # noqa: PLC0415

        care, cloud = self._for_notices()
        source = sources.get(SourceName.CLOUD, SourceState())
        report = NoticesReport(
            provider=str(cloud.provider or ""),
            works=source.works,
            reason=source.reason,
            watches=tuple(
                Watched(
                    each.name,
                    each.words,
                    "" if each.at is None else each.at.isoformat(timespec="seconds"),
                    each.failures,
                )
                for each in cloud.states()
            ),
            notices=care.shown(cloud.notices()),
        )
        return asdict(report)

    def simulate(self, kind: NoticeKind, seconds: float | None, who: str) -> str:
        """Tell of a made-up notice as of any other; its id. Raises NotPossibleError where notices
        are switched off, and NoAnswerError when the daemon has just started."""
        _, cloud = self._for_notices()
        notice = Notice(
            kind=kind,
            source=ProviderName.SIMULATED,
            id=secrets.token_hex(4),
            at=None if seconds is None else self._clock.now() + timedelta(seconds=seconds),
            text=f"made up by {who}",
        )
        cloud.simulate(notice, seconds)
        return notice.id

    def _for_notices(self) -> tuple[NoticeCare, Cloud]:
        if self._notice_care is None or self._cloud is None:
            raise NotPossibleError(
                "notices are switched off", "set notices.provider, and restart hibprep.service"
            )
        return self._notice_care, self._cloud


def _notice_care(prefix: str, parts: Parts, clock: Clock) -> tuple[NoticeCare, Cloud]:
    from hibprep.noticebook import NoticeBook  # noqa: PLC0415
    from hibprep.noticecare import NoticeCare  # noqa: PLC0415
    from hibprep.noticehands import NoticeHands  # noqa: PLC0415
    from hibprep.noticeprovider import provider_of  # noqa: PLC0415
    from hibprep.signals.cloud.source import Cloud  # noqa: PLC0415

    settings = parts.config().notices
    cloud = Cloud(
        clock,
        NoticeBook(prefix),
        lambda: provider_of(parts.machine.root, settings),
        poll_seconds=settings.poll_seconds or 0.0,
    )
    hands = NoticeHands(parts, cloud)

    def rules() -> tuple[Rule, ...]:
        return parts.config().notice_rules()

    return NoticeCare(hands, rules, clock, cloud.work, changed=parts.changed), cloud
