# SPDX-License-Identifier: LGPL-2.1-or-later
"""Servers, links, providers and the poller together: what is told of all that befalls a service."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

from hibprep.events import NoticeGiven, NoticeWithdrawn, Signal, SourceChanged
from hibprep.noticebook import NoticeBook
from hibprep.notices import NoticeKind, ProviderName
from hibprep.signals.cloud.aws import Aws
from hibprep.signals.cloud.base import Link, Provider
from hibprep.signals.cloud.gcp import Gcp
from hibprep.signals.cloud.link import HttpLink
from hibprep.signals.cloud.source import Cloud
from tests.cloud.aws_server import ACTION, REBALANCE, AwsServer, utc
from tests.cloud.gcp_server import PREEMPTED, GcpServer
from tests.cloud.pauses import Pauses
from tests.cloud.server import CAPTIVE, MetadataServer, json_text, redirect, status
from tests.fakes.clock import HandClock
from tests.listening import only, until_told

# our clock stands still at some time long ago, and the server's is the real one
OURS_SECONDS = 1000.0
SLOW_SECONDS = 30.0  # what a busy machine may need between two lines


class Rig:
    """A poller over a real link."""

    def __init__(
        self,
        folder: Path,
        server: MetadataServer,
        make: Callable[[Link], Provider],
        *,
        rests: bool = True,  # until a test goes on
    ) -> None:
        self.link = HttpLink(server.place)
        clock = HandClock(OURS_SECONDS)
        self.pauses = Pauses(clock)
        provider = make(self.link)
        book = NoticeBook(str(folder))
        sleep = self.pauses.sleep if rests else asyncio.sleep
        self.cloud = Cloud(clock, book, lambda: provider, sleep=sleep)
        self.told: list[Signal] = []

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        task = asyncio.create_task(self.cloud.run(self.told.append))
        try:
            yield
        finally:
            task.cancel()
            await asyncio.wait((task,))
            self.link.close()

    def works(self) -> bool:
        return any(each.works for each in only(SourceChanged, self.told))

    def given(self) -> list[NoticeKind]:
        return [each.notice.kind for each in only(NoticeGiven, self.told)]

    def withdrawn(self) -> list[NoticeKind]:
        return [each.notice.kind for each in only(NoticeWithdrawn, self.told)]


def test_a_spot_instance_from_boot_to_a_notice_that_is_withdrawn(tmp_path: Path) -> None:
    """The metadata comes late, the server's clock is months and minutes off ours, a portal and a
    redirect come in between, and two notices at once."""

    async def check(server: AwsServer) -> None:
        rig = Rig(tmp_path, server, Aws)
        async with rig.running():
            for _ in range(4):
                await rig.pauses.all_rest()
                rig.pauses.go_on()
            assert [each.works for each in only(SourceChanged, rig.told)] == [False]
            server.appear()
            await until_told(_going_on(rig, rig.works), "it is found")
            places = len(rig.cloud.states())
            await rig.pauses.all_rest(places)
            assert rig.cloud.provider is ProviderName.AWS
            assert rig.given() == []

            at = datetime.now(tz=UTC) + timedelta(seconds=120)
            server.interrupt("stop", at)
            server.tell(REBALANCE, json_text(f'{{"noticeTime":"{utc(at)}"}}'))
            await rig.pauses.round(places)
            assert sorted(rig.given()) == [NoticeKind.REBALANCE, NoticeKind.STOP]
            (stop,) = (
                each for each in only(NoticeGiven, rig.told) if each.notice.kind is NoticeKind.STOP
            )
            assert stop.deadline_at_seconds is not None
            now = rig.pauses.clock.monotonic()
            assert now - 60 + 120 - SLOW_SECONDS < stop.deadline_at_seconds < now + 120

            for trouble in (CAPTIVE, redirect(server.elsewhere.url), status(503), status(429)):
                server.always = trouble
                for _ in range(3):
                    await rig.pauses.round(places)
            server.always = None
            server.forget_tokens()
            await rig.pauses.round(places)
            assert len(rig.given()) == 2
            assert rig.withdrawn() == []
            assert len(rig.cloud.notices()) == 2

            server.withdraw(ACTION)
            await rig.pauses.round(places)
            assert rig.withdrawn() == [NoticeKind.STOP]
            assert [each.notice.kind for each in rig.cloud.notices()] == [NoticeKind.REBALANCE]
        assert server.elsewhere.asked == []

    with AwsServer(listens=False) as server:
        asyncio.run(check(server))


def test_a_captive_portal_is_never_believed(tmp_path: Path) -> None:
    async def check(server: AwsServer) -> None:
        rig = Rig(tmp_path, server, Aws)
        server.always = CAPTIVE
        async with rig.running():
            for _ in range(12):
                await rig.pauses.all_rest()
                rig.pauses.go_on()
            assert rig.given() == []
            assert not rig.works()
            # nothing of its page was taken for a token
            assert not any("x-aws-ec2-metadata-token" in asked.headers for asked in server.asked)
            server.always = None
            server.interrupt("terminate", datetime.now(tz=UTC) + timedelta(seconds=120))
            await until_told(_going_on(rig, rig.given), "the notice is told")
            assert rig.given() == [NoticeKind.TERMINATE]

    with AwsServer() as server:
        asyncio.run(check(server))


def _going_on(rig: Rig, condition: Callable[[], object]) -> Callable[[], bool]:
    """The condition, with all pauses ended that have begun meanwhile."""

    def found() -> bool:
        if condition():
            return True
        if rig.pauses.any_rests():
            rig.pauses.go_on()
        return False

    return found


def test_a_preemption_is_told_as_it_is_decided(tmp_path: Path) -> None:
    """The look waits for news, and no pause is between."""

    async def check(server: GcpServer) -> None:
        rig = Rig(tmp_path, server, Gcp, rests=False)
        async with rig.running():
            await until_told(lambda: PREEMPTED in server.waiting(), "news are waited for")
            assert rig.given() == []
            server.tell(PREEMPTED, "TRUE")
            await until_told(rig.given, "the notice is told")
            (given,) = only(NoticeGiven, rig.told)
            assert given.notice.source is ProviderName.GCP

    with GcpServer() as server:
        asyncio.run(check(server))
