# SPDX-License-Identifier: LGPL-2.1-or-later
"""The metadata service of the guests (`tests/vm/metadata.py`) as hibprep's providers find it: so
that a run in a guest fails for what it is about."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from hibprep.notices import Notice, NoticeKind
from hibprep.signals.cloud.aws import Aws
from hibprep.signals.cloud.azure import Azure
from hibprep.signals.cloud.base import Provider
from hibprep.signals.cloud.link import HttpLink, Place
from tests.vm import metadata

PROVIDERS: dict[str, Callable[[HttpLink], Provider]] = {"aws": Aws, "azure": Azure}
WORDS = {"aws": "terminate", "azure": "Preempt"}


@contextmanager
def served(name: str, folder: Path) -> Iterator[HttpLink]:
    service = metadata.SERVICES[name](folder / "state")
    with metadata.Server(("127.0.0.1", 0), service, folder / "asked") as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        link = HttpLink(Place("127.0.0.1", int(server.server_address[1])))
        try:
            yield link
        finally:
            link.close()
            server.shutdown()
            thread.join(30)


def notices(provider: Provider) -> list[Notice]:
    """All that is told, one for each id: two places may tell of the same thing."""
    found = {notice.id: notice for watch in provider.watches() for notice in watch.look().notices}
    return list(found.values())


@pytest.mark.parametrize("name", PROVIDERS)
def test_what_is_announced_is_told_until_it_is_withdrawn(name: str, tmp_path: Path) -> None:
    with served(name, tmp_path) as link:
        provider = PROVIDERS[name](link)
        assert notices(provider) == []
        announced = metadata.announce(tmp_path / "state", WORDS[name], 120)
        (notice,) = notices(provider)
        assert notice.kind in (NoticeKind.TERMINATE, NoticeKind.STOP)
        assert notice.at == announced.at
        assert not notice.begun
        metadata.withdraw(tmp_path / "state")
        assert notices(provider) == []
    assert "404" in (tmp_path / "asked").read_text() or name == "azure"


def test_ec2_tells_of_a_risk_beside_what_follows(tmp_path: Path) -> None:
    with served("aws", tmp_path) as link:
        provider = Aws(link)
        metadata.announce(tmp_path / "state", "rebalance", 0)
        assert {notice.kind for notice in notices(provider)} == {NoticeKind.REBALANCE}
        metadata.announce(tmp_path / "state", "stop", 120)
        kinds = {notice.kind for notice in notices(provider)}
        assert kinds == {NoticeKind.REBALANCE, NoticeKind.STOP}


def test_azure_tells_that_it_has_begun_under_the_same_id(tmp_path: Path) -> None:
    with served("azure", tmp_path) as link:
        provider = Azure(link)
        metadata.announce(tmp_path / "state", "Preempt", 120)
        (before,) = notices(provider)
        provider.acknowledge(before)
        (begun,) = notices(provider)
        assert begun.begun
        assert begun.id == before.id


@pytest.mark.parametrize("seconds", ["0", "21601", "x", ""])
def test_ec2_gives_no_token_for_a_time_that_is_none(seconds: str, tmp_path: Path) -> None:
    with served("aws", tmp_path) as link:
        headers = {"X-aws-ec2-metadata-token-ttl-seconds": seconds}
        assert link.request("PUT", "/latest/api/token", headers=headers).status == 400


def test_ec2_answers_nothing_without_a_token(tmp_path: Path) -> None:
    with served("aws", tmp_path) as link:
        path = "/latest/meta-data/spot/instance-action"
        assert link.request("GET", path).status == 401
        bad = {"X-aws-ec2-metadata-token": "x" * 56}
        assert link.request("GET", path, headers=bad).status == 401


@pytest.mark.parametrize(
    ("path", "headers"),
    [
        ("/metadata/scheduledevents?api-version=2020-07-01", {}),
        ("/metadata/scheduledevents", {"Metadata": "true"}),
    ],
)
def test_azure_wants_its_header_and_a_version(
    path: str, headers: dict[str, str], tmp_path: Path
) -> None:
    with served("azure", tmp_path) as link:
        assert link.request("GET", path, headers=headers).status == 400
