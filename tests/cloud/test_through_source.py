# SPDX-License-Identifier: LGPL-2.1-or-later
"""From a metadata service on this machine to the daemon's signals, by the real poller and link."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from pathlib import Path

from hibprep.clock import SystemClock
from hibprep.events import NoticeGiven, NoticeWithdrawn
from hibprep.noticebook import NoticeBook
from hibprep.notices import NoticeKind
from hibprep.signals.cloud.aws import Aws
from hibprep.signals.cloud.base import Link, Provider
from hibprep.signals.cloud.gcp import Gcp
from hibprep.signals.cloud.link import HttpLink
from hibprep.signals.cloud.source import Cloud
from tests.cloud import aws_server, gcp_server
from tests.cloud.aws_server import AwsServer
from tests.cloud.gcp_server import GcpServer
from tests.cloud.server import json_text
from tests.listening import listening, only, until_told


def source_of(provider: Provider, folder: Path) -> Cloud:
    return Cloud(SystemClock(), NoticeBook(str(folder)), lambda: provider)


def test_what_compute_engine_announces_and_withdraws(tmp_path: Path) -> None:
    """A look waits for news, so that nothing has to be waited for here but what is told."""

    async def life(server: GcpServer, link: Link) -> None:
        cloud = source_of(Gcp(link, rest=lambda _: None), tmp_path)
        async with listening(cloud) as told:
            await until_told(lambda: len(server.waiting()) >= 2, "both values are waited for")
            server.tell(gcp_server.MAINTENANCE, gcp_server.MIGRATE)
            await until_told(lambda: only(NoticeGiven, told), "the notice is told")
            (given,) = only(NoticeGiven, told)
            assert given.notice.kind is NoticeKind.MIGRATE
            assert given.deadline_at_seconds is not None
            left = given.deadline_at_seconds - SystemClock().monotonic()
            assert 0 < left <= 60
            server.tell(gcp_server.PREEMPTED, "TRUE")
            server.tell(gcp_server.MAINTENANCE, "NONE")
            await until_told(lambda: only(NoticeWithdrawn, told), "it is withdrawn")
            await until_told(lambda: len(only(NoticeGiven, told)) == 2, "the other is told")
            assert only(NoticeGiven, told)[1].notice.kind is NoticeKind.STOP
            # lets go of the requests that wait
            server.hang_up()

    with GcpServer() as server:
        link = HttpLink(server.place)
        asyncio.run(life(server, link))
        link.close()


def test_what_ec2_announces_by_a_clock_of_its_own(tmp_path: Path) -> None:
    async def life(server: AwsServer, link: Link) -> None:
        async with listening(source_of(Aws(link), tmp_path)) as told:
            await until_told(lambda: len(only(NoticeGiven, told)) == 2, "both notices are told")
            by_kind = {given.notice.kind: given for given in only(NoticeGiven, told)}
            assert by_kind[NoticeKind.REBALANCE].deadline_at_seconds is None
            at_seconds = by_kind[NoticeKind.STOP].deadline_at_seconds
            assert at_seconds is not None
            assert 60 < at_seconds - SystemClock().monotonic() <= 120

    with AwsServer() as server:
        server.clock.off = timedelta(minutes=5)
        server.interrupt("stop", server.clock.now() + timedelta(seconds=120))
        server.tell(
            aws_server.REBALANCE,
            json_text('{"noticeTime": "2020-10-27T08:22:00Z"}'),
        )
        link = HttpLink(server.place)
        asyncio.run(life(server, link))
        link.close()
