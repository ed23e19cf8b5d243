# SPDX-License-Identifier: LGPL-2.1-or-later
"""When Alibaba Cloud and Tencent Cloud take a spot instance away: from faithful servers on this
machine, and from everything that may go wrong."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hibprep.notices import Notice, NoticeKind, ProviderName
from hibprep.signals.cloud import alibaba, openstack, tencent
from hibprep.signals.cloud.alibaba import Alibaba
from hibprep.signals.cloud.base import (
    AnswerError,
    Link,
    NoAnswerError,
    NotHereError,
    Provider,
    Reply,
    Watch,
)
from hibprep.signals.cloud.link import HttpLink, Place, is_allowed
from hibprep.signals.cloud.openstack import Openstack
from hibprep.signals.cloud.skew import deadline_at_seconds, reading
from hibprep.signals.cloud.tencent import Tencent
from tests.cloud.server import (
    CAPTIVE,
    NOT_FOUND,
    Answer,
    MetadataServer,
    ServerClock,
    redirect,
    status,
    text,
)
from tests.cloud.termination_servers import DATA, INSTANCE, AlibabaServer, TencentServer
from tests.cloud.whatever import Patience, Same, read, texts
from tests.fakes.clock import HandClock
from tests.waiting import GENEROUS_SECONDS

SOON = datetime(2026, 3, 1, 20, 5, tzinfo=UTC)  # in China it is the next day then
Server = AlibabaServer | TencentServer


@dataclass
class Cloud:
    """A provider, its server and the link between them."""

    server: Server
    link: Link
    clock: HandClock

    @property
    def provider(self) -> Provider:
        if isinstance(self.server, AlibabaServer):
            return Alibaba(self.link, self.clock)
        return Tencent(self.link)

    def watch(self) -> Watch:
        (only,) = self.provider.watches()
        return only


@pytest.fixture(params=[AlibabaServer, TencentServer])
def cloud(request: pytest.FixtureRequest) -> Iterator[Cloud]:
    make: Callable[[], Server] = request.param
    with make() as server:
        link = HttpLink(server.place)
        yield Cloud(server, link, HandClock())
        link.close()


@pytest.fixture
def server() -> Iterator[AlibabaServer]:
    with AlibabaServer() as made:
        yield made


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


@pytest.fixture
def link(server: AlibabaServer) -> Iterator[Link]:
    made = HttpLink(server.place)
    yield made
    made.close()


def watch(provider: Provider) -> Watch:
    (only,) = provider.watches()
    return only


# --- what is told ---------------------------------------------------------------------------------


def test_nothing_is_announced(cloud: Cloud) -> None:
    place = cloud.watch()
    look = place.look()
    assert (place.name, place.pause_seconds) == (cloud.server.TIME, 5.0)
    assert (look.notices, look.words) == ((), "404: nothing is announced")
    assert look.now is not None


def test_taken_away(cloud: Cloud) -> None:
    place = cloud.watch()
    cloud.server.take_away(SOON)
    look = place.look()
    assert look.words == "200: terminate"
    assert look.notices == (
        Notice(
            kind=NoticeKind.TERMINATE,
            source=cloud.provider.name,
            id="spot-terminate-20260301T200500Z",
            at=SOON,
            text="the spot instance is taken away",
        ),
    )


def test_withdrawn_and_announced_again(cloud: Cloud) -> None:
    place = cloud.watch()
    cloud.server.take_away(SOON)
    (first,) = place.look().notices
    cloud.server.take_away(SOON + timedelta(minutes=1))
    (moved,) = place.look().notices
    # another time, and not another notice
    assert (moved.id, moved.at) == (first.id, SOON + timedelta(minutes=1))
    cloud.server.keep()
    assert place.look().notices == ()
    cloud.server.take_away(SOON + timedelta(hours=1))
    (second,) = place.look().notices
    assert second.id != first.id


def test_an_answer_that_is_empty(server: AlibabaServer, link: Link) -> None:
    place = watch(Alibaba(link))
    server.items[server.TIME] = ""
    look = place.look()
    assert (look.notices, look.words) == ((), "200: nothing is announced")


@dataclass
class Stopped(ServerClock):
    """Its time stands still."""

    at: datetime = SOON

    def now(self) -> datetime:
        return self.at


@pytest.mark.parametrize("off", [timedelta(minutes=-5), timedelta(0), timedelta(minutes=5)])
@pytest.mark.parametrize("left", [300, -600])
def test_a_clock_that_is_off(cloud: Cloud, off: timedelta, left: int) -> None:
    place = cloud.watch()
    cloud.server.clock = Stopped(at=SOON + off)
    cloud.server.take_away(SOON + off + timedelta(seconds=left))
    look = place.look()
    (notice,) = look.notices
    assert deadline_at_seconds(notice, reading(look.now, SOON, 1000.0)) == 1000.0 + left - 1


def test_the_example_of_tencents_documentation() -> None:
    assert tencent.termination_time("2018-08-18 12:05:33") == datetime(
        2018, 8, 18, 4, 5, 33, tzinfo=UTC
    )


@pytest.mark.parametrize(
    "written",
    ["", "2018-08-18T12:05:33", "2018-08-18 12:05:33Z", "2018-13-18 12:05:33",
     "0001-01-01 07:59:59", "2018-08-18 24:00:00", "2018-08-18 12:05:33\n"],
)  # fmt: skip
def test_what_is_no_time_of_tencents(written: str) -> None:
    with pytest.raises(AnswerError):
        tencent.termination_time(written)


@pytest.mark.parametrize(
    "written", ["2018-08-18 12:05:33", "2018-08-18T12:05:33", "none", "1535000000"]
)
def test_what_is_no_time_of_alibabas(written: str) -> None:
    with pytest.raises(AnswerError):
        alibaba.termination_time(written)


def test_nothing_to_acknowledge(cloud: Cloud) -> None:
    cloud.server.take_away(SOON)
    (notice,) = cloud.watch().look().notices
    before = len(cloud.server.asked)
    with pytest.raises(NotHereError):
        cloud.provider.acknowledge(notice)
    assert len(cloud.server.asked) == before


# --- what may go wrong ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        (Answer(status=204), AnswerError),
        (status(400), AnswerError),
        (status(429), NoAnswerError),
        (status(500), NoAnswerError),
        (status(503), NoAnswerError),
        (CAPTIVE, AnswerError),
        (Answer(body=b"\xff\xfe\x00"), AnswerError),
        (Answer(body=b"2" * (1 << 20)), AnswerError),
        (text("{}"), AnswerError),
        (text("2026-03-01"), AnswerError),
        (Answer(body=b"2026-03-01T20:", length=20, cut=True), AnswerError),
        (Answer(silent=True), NoAnswerError),
        (Answer(body=b"2026-03-01T20:05:00Z", delay_seconds=GENEROUS_SECONDS), NoAnswerError),
        (Answer(body=b"2026-03-01T20:05:00Z", byte_seconds=0.05), NoAnswerError),
    ],
)
def test_what_may_go_wrong_with_a_look(
    cloud: Cloud, answer: Answer, problem: type[Exception]
) -> None:
    patience = Patience(cloud.link)
    place = replace(cloud, link=patience).watch()
    cloud.server.take_away(SOON)
    cloud.server.script.append(answer)
    if answer.delay_seconds or answer.byte_seconds:
        patience.seconds = 0.3
    with pytest.raises(problem) as caught:
        place.look()
    patience.seconds = GENEROUS_SECONDS
    assert "<html" not in str(caught.value).lower()
    assert len(place.look().notices) == 1


@pytest.mark.parametrize("code", [301, 302, 303, 307, 308])
def test_redirects_are_not_followed(cloud: Cloud, code: int) -> None:
    place = cloud.watch()
    cloud.server.always = redirect(f"{cloud.server.elsewhere.url}/", code)
    for ask in (place.look, cloud.watch):
        with pytest.raises(AnswerError):
            ask()
    assert cloud.server.elsewhere.asked == []


def test_a_portal_that_answers_everything(cloud: Cloud) -> None:
    place = cloud.watch()
    for always in (CAPTIVE, text("OK"), text("")):
        cloud.server.always = always
        with pytest.raises(AnswerError):
            cloud.watch()
    cloud.server.always = CAPTIVE
    with pytest.raises(AnswerError):
        place.look()


@pytest.mark.parametrize("answer", [NOT_FOUND, status(403), status(401)])
def test_a_machine_of_somebody_else(cloud: Cloud, answer: Answer) -> None:
    cloud.server.always = answer
    with pytest.raises((NotHereError, AnswerError)) as caught:
        cloud.watch()
    if isinstance(cloud.server, TencentServer):
        assert isinstance(caught.value, NotHereError)


@pytest.mark.parametrize(
    "instance", ["i-0abc", "ins-0abc", "OK", "i-", "ins-", "I-0ABC", "i-a b", "i-a\r\nX: y"]
)
def test_only_the_providers_own_ids(cloud: Cloud, instance: str) -> None:
    right = "i-0abc" if isinstance(cloud.server, AlibabaServer) else "ins-0abc"
    cloud.server.items[INSTANCE] = instance
    if instance == right:
        assert cloud.watch().look().notices == ()
        return
    with pytest.raises(AnswerError):
        cloud.watch()


def test_no_instance_at_all(cloud: Cloud) -> None:
    del cloud.server.items[INSTANCE]
    with pytest.raises(NotHereError):
        cloud.watch()


@pytest.mark.parametrize("make", [AlibabaServer, TencentServer])
def test_a_service_that_comes_later(make: Callable[..., Server]) -> None:
    with make(listens=False) as server:
        link = HttpLink(server.place)
        later = Cloud(server, link, HandClock())
        with pytest.raises(NoAnswerError):
            later.watch()
        server.appear()
        assert later.watch().look().notices == ()
        link.close()


def test_tencent_is_asked_by_its_name_and_at_its_address() -> None:
    assert Place("169.254.0.23", 80, "metadata.tencentyun.com") == tencent.PLACE
    assert Place("100.100.100.200") == alibaba.PLACE
    assert is_allowed(tencent.PLACE.address)
    assert is_allowed(alibaba.PLACE.address)


# --- Alibaba Cloud's tokens -----------------------------------------------------------------------


def test_one_token_serves_for_long(server: AlibabaServer, link: Link, clock: HandClock) -> None:
    place = watch(Alibaba(link, clock))
    for _ in range(5):
        place.look()
        clock.go_on(600)
        server.seconds += 600
    assert server.tokens_asked() == 1
    assert server.asked[0].headers[server.TTL] == "21600"


def test_tokens_are_renewed_before_their_end(
    server: AlibabaServer, link: Link, clock: HandClock
) -> None:
    place = watch(Alibaba(link, clock))
    for _ in range(10):
        clock.go_on(21_590)
        server.seconds += 21_590
        place.look()
    assert server.tokens_asked() == 11
    # no request was ever made with one that had ended
    assert [each.method for each in server.asked] == ["PUT", "GET"] * 11


@pytest.mark.parametrize("refuses", [401, 403])
def test_a_token_that_is_refused_is_renewed_once(
    server: AlibabaServer, link: Link, clock: HandClock, refuses: int
) -> None:
    server.refuses = refuses
    place = watch(Alibaba(link, clock))
    server.take_away(SOON)
    server.forget_tokens()
    assert len(place.look().notices) == 1
    assert server.tokens_asked() == 2
    server.script.extend([status(refuses), text("A" * 40), status(refuses)])
    with pytest.raises((AnswerError, NotHereError)):
        place.look()


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        (status(400), AnswerError),
        (status(403), NotHereError),
        (NOT_FOUND, NotHereError),
        (status(405), NotHereError),
        (status(429), NoAnswerError),
        (status(503), NoAnswerError),
        (CAPTIVE, AnswerError),
        (text("OK"), AnswerError),
        (text("A" * 40 + "\r\nX-Other: 1"), AnswerError),
        (text("A" * 2000), AnswerError),
        (Answer(body=b"\xff" * 40), AnswerError),
    ],
)
def test_what_is_given_for_a_token(
    server: AlibabaServer, link: Link, answer: Answer, problem: type[Exception]
) -> None:
    server.script.append(answer)
    with pytest.raises(problem):
        watch(Alibaba(link))
    assert len(server.asked) == 1


def test_a_metadata_service_that_is_switched_off(server: AlibabaServer, link: Link) -> None:
    place = watch(Alibaba(link))
    server.off = True
    with pytest.raises(NotHereError, match="HttpEndpoint"):
        place.look()
    with pytest.raises(NotHereError, match="HttpEndpoint"):
        watch(Alibaba(link))
    server.off = False
    assert place.look().notices == ()


def test_tokens_are_in_no_text(server: AlibabaServer, link: Link) -> None:
    provider = Alibaba(link)
    place = watch(provider)
    server.take_away(SOON)
    seen = [repr(provider), repr(place), repr(place.look()), repr(vars(provider))]
    for answer in (
        CAPTIVE,
        status(403),
        status(400),
        redirect(server.elsewhere.url),
        Answer(silent=True),
        Answer(body=b"A", length=9, cut=True),
    ):
        server.always = answer
        for ask in (place.look, provider.watches):
            with pytest.raises((AnswerError, NoAnswerError, NotHereError)) as caught:
                ask()
            seen += [repr(caught.value), *traceback.format_exception(caught.value)]
    assert server.given
    for token in server.given:
        assert not any(token in each for each in seen)
    assert server.elsewhere.asked == []


# --- OpenStack ------------------------------------------------------------------------------------


def test_openstack_says_what_to_do_instead() -> None:
    with MetadataServer() as server:
        link = HttpLink(server.place)
        provider = Openstack(link)
        assert provider.name is ProviderName.OPENSTACK
        notice = Notice(kind=NoticeKind.STOP, source=provider.name, id="1")
        for ask in (provider.watches, lambda: provider.acknowledge(notice)):
            with pytest.raises(NotHereError, match="no notice") as caught:
                ask()
            assert 'notices.provider = "command"' in caught.value.remedy
            assert "on the host" in caught.value.remedy
        assert server.asked == []
        link.close()
    assert is_allowed(openstack.PLACE.address)


# --- anything at all ------------------------------------------------------------------------------

MOMENTS = st.datetimes(
    datetime(1900, 1, 1),  # noqa: DTZ001 - hypothesis adds the zone
    timezones=st.just(UTC),
)


@given(texts("i-0", "ins-3g445roi"))
def test_any_text_at_all(written: str) -> None:
    for reader in (
        alibaba.termination_time,
        tencent.termination_time,
        alibaba.is_instance,
        tencent.is_instance,
        alibaba.token,
    ):
        read(reader, written)


@given(st.integers(100, 599), st.binary(max_size=200))
def test_any_answer_at_all(code: int, body: bytes) -> None:
    same = Same(Reply(code, body))
    for provider in (Alibaba(same, HandClock()), Tencent(same)):
        with pytest.raises((AnswerError, NoAnswerError, NotHereError)) as caught:
            watch(provider).look()
        assert len(body) < 4 or body.decode(errors="replace") not in str(caught.value)


@given(MOMENTS)
def test_every_time_is_read_as_it_is_written(at: datetime) -> None:
    whole = at.replace(microsecond=0)
    if whole.year < 9999:  # in China it may be the year 10000 then
        local = whole + timedelta(hours=8)
        assert tencent.termination_time(f"{local:%Y-%m-%d %H:%M:%S}") == whole
    assert alibaba.termination_time(f"{whole:%Y-%m-%dT%H:%M:%SZ}") == whole


def test_the_paths_are_those_of_the_documentation(cloud: Cloud) -> None:
    cloud.watch().look()
    assert cloud.server.paths()[-2:] == [
        f"GET {DATA}{INSTANCE}",
        f"GET {DATA}{cloud.server.TIME}",
    ]
