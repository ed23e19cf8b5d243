# SPDX-License-Identifier: LGPL-2.1-or-later
"""A token is in no text that anybody sees, whatever goes wrong; nor is what was answered."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable, Iterator
from datetime import UTC, datetime

import pytest

from hibprep.errors import HibprepError
from hibprep.signals.cloud.aws import Aws
from hibprep.signals.cloud.base import Look, Reply, Watch
from hibprep.signals.cloud.link import HttpLink
from hibprep.signals.cloud.tokens import Token
from tests.cloud import aws_server as at
from tests.cloud.aws_server import AwsServer
from tests.cloud.server import CAPTIVE, Answer, redirect, status, text
from tests.cloud.whatever import Patience

MARK = "what-nobody-may-read"
TROUBLES = (
    *(status(code) for code in (400, 401, 403, 404, 429, 500, 503)),
    *(Answer(status=code, body=MARK.encode()) for code in (200, 401, 418)),
    redirect(f"http://192.0.2.1/{MARK}"),
    CAPTIVE,
    text(MARK, **{at.TTL: MARK}),
    text(f'{{"action": "{MARK}", "time": "{MARK}"}}'),
    Answer(body=MARK.encode() + b"\xff"),
    Answer(body=MARK.encode(), length=9000),
    Answer(body=MARK.encode() * 20_000),
    Answer(body=MARK.encode(), byte_seconds=0.2),
    Answer(silent=True),
)


def parts(thing: object, seen: set[int]) -> Iterator[object]:
    """It and all of ours that it is made of."""
    if id(thing) in seen or not type(thing).__module__.startswith("hibprep"):
        return
    seen.add(id(thing))
    yield thing
    names = getattr(thing, "__slots__", None) or vars(thing)
    for name in names:
        yield from parts(getattr(thing, name), seen)


def said(ask: Callable[[], object]) -> str:
    """All that can be read of a call, however it ends."""
    try:
        return repr(ask())
    except HibprepError as error:
        whole = "".join(traceback.format_exception(error))
        return f"{error} {error!r} {error.args} {error.message} {error.remedy} {whole}"


@pytest.fixture
def server() -> Iterator[AwsServer]:
    with AwsServer() as made:
        yield made


def test_no_token_and_no_answer_is_ever_to_be_read(
    server: AwsServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    link = HttpLink(server.place)
    patience = Patience(link)
    cloud = Aws(patience)
    read = [said(cloud.watches)]
    server.interrupt("terminate", datetime(2026, 3, 1, tzinfo=UTC))
    places = cloud.watches()
    asks: list[Callable[[], object]] = [cloud.watches]
    asks += [place.look for place in places]
    for ask in asks:
        for trouble in TROUBLES:
            patience.seconds = 0.1 if trouble.byte_seconds else 30.0
            server.always = trouble
            read.append(said(ask))
            # the same in place of a token
            server.always = None
            server.forget_tokens()
            server.script.extend([status(401), trouble])
            read.append(said(ask))
            server.script.clear()
    patience.seconds = 30.0
    looks: list[Look | Watch] = [place.look() for place in places]
    everything = [part for each in (cloud, *places, *looks) for part in parts(each, set())]
    read += [f"{part!r} {part}" for part in everything]
    read.append(caplog.text)

    held = {part.value for part in everything if isinstance(part, Token)}
    assert held == {server.given[-1]}, "the walk has not come to where the token is"
    assert len(server.given) > len(asks)
    whole = "\n".join(read)
    assert MARK not in whole
    for token in server.given:
        assert token not in whole
        assert token[:20] not in whole
    link.close()


def test_an_answer_is_shown_without_its_body() -> None:
    assert MARK not in repr(Reply(200, MARK.encode()))


def test_a_token_goes_to_the_service_alone(server: AwsServer) -> None:
    link = HttpLink(server.place)
    places = Aws(link).watches()
    for code in (301, 302, 303, 307, 308):
        server.always = redirect(f"{server.elsewhere.url}/{code}", code)
        for place in places:
            said(place.look)
    assert server.elsewhere.asked == []
    # and there in a header of its own, not in the address
    assert all(token not in each.path for token in server.given for each in server.asked)
    link.close()
