# SPDX-License-Identifier: LGPL-2.1-or-later
"""Compute Engine's notices, from a faithful server on this machine and from everything that may go
wrong."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from hibprep.clock import SystemClock
from hibprep.notices import Notice, NoticeKind, ProviderName
from hibprep.signals.cloud import gcp, gcpforms
from hibprep.signals.cloud.base import (
    AnswerError,
    Look,
    NoAnswerError,
    NotHereError,
    Reply,
    Watch,
)
from hibprep.signals.cloud.gcp import Gcp
from hibprep.signals.cloud.link import HttpLink
from tests.cloud import gcp_server as at
from tests.cloud.gcp_server import FLAVOR, GcpServer
from tests.cloud.server import CAPTIVE, PAGE, Answer, redirect, status, text
from tests.cloud.whatever import Patience, Same, read, texts
from tests.waiting import GENEROUS_SECONDS

WORDS = (*gcpforms._MAINTENANCE, "TRUE", "FALSE", "preemptible", "preemptionNoticeDuration", "120s")


@dataclass
class Rests:
    """The rests that were taken, none of which takes any time."""

    seconds: list[float] = field(default_factory=list)

    def __call__(self, seconds: float) -> None:
        self.seconds.append(seconds)


@pytest.fixture
def server() -> Iterator[GcpServer]:
    with GcpServer() as made:
        yield made


@pytest.fixture
def rests() -> Rests:
    return Rests()


@pytest.fixture
def cloud(server: GcpServer, rests: Rests) -> Iterator[Gcp]:
    link = HttpLink(server.place)
    yield Gcp(link, rest=rests)
    link.close()


def watch(cloud: Gcp, name: str) -> Watch:
    return next(each for each in cloud.watches() if each.name == name)


@contextmanager
def looking(server: GcpServer, place: Watch) -> Iterator[Future[Look]]:
    """A look that waits for news, from when the server has got it."""
    with ThreadPoolExecutor(1) as pool:
        before = len(server.asked)
        future = pool.submit(place.look)
        server.wait_asked(before + 1)
        yield future


# --- what is looked at ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("preemptible", "names"),
    [
        ("TRUE", [at.PREEMPTED, at.MAINTENANCE]),
        (True, [at.PREEMPTED, at.MAINTENANCE]),
        (None, [at.PREEMPTED, at.MAINTENANCE]),
        ("FALSE", [at.MAINTENANCE]),
        (False, [at.MAINTENANCE]),
    ],
)
def test_scheduling_decides_what_is_looked_at(
    server: GcpServer, cloud: Gcp, preemptible: object, names: list[str]
) -> None:
    if preemptible is None:
        del server.scheduling["preemptible"]
    else:
        server.scheduling["preemptible"] = preemptible
    places = cloud.watches()
    assert [each.name for each in places] == names
    assert all(each.pause_seconds == 0 for each in places)


def test_nothing_is_announced(server: GcpServer, cloud: Gcp) -> None:
    for each in cloud.watches():
        look = each.look()
        assert (look.notices, look.words) == ((), "200: nothing is announced")
        assert look.now is not None
    assert {each.headers["host"] for each in server.asked} == {"metadata.google.internal"}
    assert {each.headers["metadata-flavor"] for each in server.asked} == {"Google"}


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        ("MIGRATE_ON_HOST_MAINTENANCE", NoticeKind.MIGRATE),
        ("TERMINATE_ON_HOST_MAINTENANCE", NoticeKind.STOP),
        ("SHUTDOWN_ON_HOST_MAINTENANCE", NoticeKind.STOP),
    ],
)
def test_maintenance(server: GcpServer, cloud: Gcp, value: str, kind: NoticeKind) -> None:
    server.tell(at.MAINTENANCE, value)
    assert watch(cloud, at.MAINTENANCE).look().notices == (
        Notice(
            kind=kind,
            source=ProviderName.GCP,
            id=f"maintenance-{value}",
            lead_seconds=60.0,
            text=value,
        ),
    )


@pytest.mark.parametrize(
    ("told", "seconds"),
    [
        (None, 30.0),
        ("120s", 120.0),
        ("120", 120.0),
        (120, 120.0),
        ({"seconds": "120", "nanos": 0}, 120.0),
        ({"seconds": 120}, 120.0),
        ("0s", 30.0),
        ({"seconds": "0"}, 30.0),
        ({"nanos": 5}, 30.0),
        ("soon", 30.0),
        (True, 30.0),
        ([120], 30.0),
    ],
)
def test_preemption_and_how_long_before_it_is_told(
    server: GcpServer, cloud: Gcp, told: object, seconds: float
) -> None:
    if told is not None:
        server.scheduling["preemptionNoticeDuration"] = told
    server.tell(at.PREEMPTED, "TRUE")
    assert watch(cloud, at.PREEMPTED).look().notices == (
        Notice(
            kind=NoticeKind.STOP,
            source=ProviderName.GCP,
            id="preempted",
            lead_seconds=seconds,
            text="preempted",
        ),
    )


def test_a_machine_that_is_deleted_when_it_is_preempted(server: GcpServer, cloud: Gcp) -> None:
    server.scheduling["instanceTerminationAction"] = "DELETE"
    server.tell(at.PREEMPTED, "TRUE")
    (notice,) = watch(cloud, at.PREEMPTED).look().notices
    assert notice.kind is NoticeKind.TERMINATE


def test_nothing_is_acknowledged(cloud: Gcp) -> None:
    with pytest.raises(NotHereError, match="acknowledge"):
        cloud.acknowledge(Notice(kind=NoticeKind.STOP, source=ProviderName.GCP, id="1"))


# --- waiting for news -----------------------------------------------------------------------------


def test_a_look_takes_until_the_value_changes(server: GcpServer, cloud: Gcp, rests: Rests) -> None:
    place = watch(cloud, at.MAINTENANCE)
    place.look()
    with looking(server, place) as future:
        assert server.waiting() == [at.MAINTENANCE]
        assert "&timeout_sec=20" in server.asked[-1].path
        assert f"&last_etag={at.version('NONE')}" in server.asked[-1].path
        assert not future.done()
        server.tell(at.MAINTENANCE, at.MIGRATE)
        look = future.result(GENEROUS_SECONDS)
    assert [notice.kind for notice in look.notices] == [NoticeKind.MIGRATE]
    with looking(server, place) as future:
        server.tell(at.MAINTENANCE, "NONE")
        assert future.result(GENEROUS_SECONDS).notices == ()
    assert set(rests.seconds) <= {gcp.CHANGED_REST_SECONDS}


def test_a_wait_without_news_is_begun_anew(server: GcpServer, cloud: Gcp) -> None:
    place = watch(cloud, at.PREEMPTED)
    place.look()
    server.longest_wait_seconds = 1.1
    assert place.look().notices == ()
    server.longest_wait_seconds = GENEROUS_SECONDS
    with looking(server, place) as future:
        server.tell(at.PREEMPTED, "TRUE")
        assert len(future.result(GENEROUS_SECONDS).notices) == 1
    assert server.waiting() == [at.PREEMPTED] * 2


def test_both_values_are_waited_for_at_once(server: GcpServer, cloud: Gcp) -> None:
    preempted, maintenance = cloud.watches()
    preempted.look()
    maintenance.look()
    with looking(server, preempted) as first, looking(server, maintenance) as second:
        with server.change():
            server.values[at.PREEMPTED] = "TRUE"
            server.values[at.MAINTENANCE] = at.TERMINATE
        told = [*first.result(GENEROUS_SECONDS).notices, *second.result(GENEROUS_SECONDS).notices]
    assert [notice.kind for notice in told] == [NoticeKind.STOP, NoticeKind.STOP]
    assert len({notice.id for notice in told}) == 2


def test_a_server_that_does_not_wait_is_not_asked_without_end(
    server: GcpServer, cloud: Gcp, rests: Rests
) -> None:
    place = watch(cloud, at.PREEMPTED)
    server.waits = False
    for _ in range(4):
        place.look()
    assert rests.seconds == [gcp.REST_SECONDS] * 2
    server.tell(at.PREEMPTED, "TRUE")
    assert len(place.look().notices) == 1


@pytest.mark.parametrize("headers", [FLAVOR, FLAVOR | {"ETag": ""}, FLAVOR | {"ETag": "a b\u00e9"}])
def test_a_value_without_a_version_cannot_be_waited_for(
    server: GcpServer, cloud: Gcp, rests: Rests, headers: dict[str, str]
) -> None:
    place = watch(cloud, at.PREEMPTED)
    server.always = Answer(body=b"FALSE", headers=headers)
    for _ in range(3):
        place.look()
    assert rests.seconds == [gcp.REST_SECONDS] * 2
    assert server.waiting() == []


def test_a_key_that_there_is_not(server: GcpServer, cloud: Gcp, rests: Rests) -> None:
    place = watch(cloud, at.MAINTENANCE)
    del server.values[at.MAINTENANCE]
    for _ in range(2):
        look = place.look()
        assert (look.notices, look.words) == ((), "404: there is no such value")
    assert rests.seconds == [gcp.ABSENT_REST_SECONDS]
    server.tell(at.MAINTENANCE, at.MIGRATE)
    assert len(place.look().notices) == 1


def test_what_is_known_outlives_a_trouble(server: GcpServer, cloud: Gcp) -> None:
    place = watch(cloud, at.MAINTENANCE)
    place.look()
    server.script.append(status(503))
    with pytest.raises(NoAnswerError, match="503"):
        place.look()
    server.tell(at.MAINTENANCE, at.MIGRATE)
    assert len(place.look().notices) == 1
    assert server.waiting() == [at.MAINTENANCE] * 2


# --- troubles -------------------------------------------------------------------------------------

TROUBLES = {
    "concealed": (Answer(status=403, headers=FLAVOR), NotHereError),
    "somebody else's no": (status(403), AnswerError),
    "too often": (Answer(status=429, headers=FLAVOR), NoAnswerError),
    "worked at": (Answer(status=503, headers=FLAVOR), NoAnswerError),
    "overloaded": (status(503), NoAnswerError),
    "broken": (status(500), NoAnswerError),
    "somebody else's 404": (status(404), AnswerError),
    "token wanted": (status(401), AnswerError),
    "moved": (redirect("http://127.0.0.1:9/"), AnswerError),
    "late": (Answer(body=b"TRUE", headers=FLAVOR, delay_seconds=20), NoAnswerError),
    "byte by byte": (Answer(body=b"TRUE" * 99, headers=FLAVOR, byte_seconds=0.1), NoAnswerError),
    "cut": (Answer(body=b"TRUE", headers=FLAVOR, length=9), AnswerError),
    "hung up": (Answer(silent=True), NoAnswerError),
    "huge": (Answer(body=b"TRUE" + b" " * (1 << 20), headers=FLAVOR), AnswerError),
    "no text": (Answer(body=b"\xff\xfeT\x00", headers=FLAVOR), AnswerError),
    "another case": (Answer(body=b"true", headers=FLAVOR), AnswerError),
    "a document": (Answer(body=b'{"preempted":"TRUE"}', headers=FLAVOR), AnswerError),
    "empty": (Answer(headers=FLAVOR), AnswerError),
    "captive": (CAPTIVE, AnswerError),
    "captive and flattering": (Answer(body=PAGE, headers=FLAVOR), AnswerError),
    "somebody else's TRUE": (text("TRUE"), AnswerError),
    "another flavor": (Answer(body=b"TRUE", headers={"Metadata-Flavor": "Amazon"}), AnswerError),
}


@pytest.mark.parametrize("trouble", TROUBLES)
@pytest.mark.parametrize("key", [at.PREEMPTED, at.MAINTENANCE])
def test_troubles_of_one_value(server: GcpServer, key: str, trouble: str) -> None:
    answer, error = TROUBLES[trouble]
    link = HttpLink(server.place)
    patience = Patience(link)
    place = watch(Gcp(patience, rest=Rests()), key)
    server.always = answer
    if answer.delay_seconds or answer.byte_seconds:
        patience.seconds = 0.2
    with pytest.raises(error):
        place.look()
    patience.seconds = GENEROUS_SECONDS
    server.always = None
    assert place.look().notices == ()
    link.close()


# a document is what is asked for then
@pytest.mark.parametrize("trouble", [name for name in TROUBLES if name != "a document"])
def test_troubles_at_the_start(server: GcpServer, trouble: str) -> None:
    answer, error = TROUBLES[trouble]
    link = HttpLink(server.place)
    patience = Patience(link)
    if answer.delay_seconds or answer.byte_seconds:
        patience.seconds = 0.2
    server.always = answer
    with pytest.raises(error):
        Gcp(patience).watches()
    patience.seconds = GENEROUS_SECONDS
    server.always = None
    assert len(Gcp(patience).watches()) == 2
    link.close()


def test_redirects_are_not_followed(server: GcpServer, cloud: Gcp) -> None:
    places = cloud.watches()
    for code in (301, 302, 303, 307, 308):
        server.always = redirect(f"{server.elsewhere.url}/", code)
        for each in places:
            with pytest.raises(AnswerError, match=str(code)):
                each.look()
    assert server.elsewhere.asked == []


def test_a_server_that_appears_after_a_while(rests: Rests) -> None:
    with GcpServer(listens=False) as server:
        link = HttpLink(server.place)
        cloud = Gcp(link, rest=rests)
        with pytest.raises(NoAnswerError):
            cloud.watches()
        server.appear()
        assert len(cloud.watches()) == 2
        link.close()


@pytest.mark.parametrize("minutes", [-5, 5])
def test_a_clock_that_is_off_is_told(server: GcpServer, cloud: Gcp, minutes: int) -> None:
    server.clock.off = timedelta(minutes=minutes)
    look = watch(cloud, at.PREEMPTED).look()
    assert look.now is not None
    assert abs(look.now - server.clock.now()) < timedelta(seconds=GENEROUS_SECONDS)
    server.clock.tells = False
    assert watch(cloud, at.PREEMPTED).look().now is None


def test_the_server_refuses_what_the_real_one_refuses(server: GcpServer) -> None:
    link = HttpLink(server.place)
    path = f"{at.INSTANCE}{at.PREEMPTED}"
    assert link.request("GET", path).status == 403
    assert link.request("GET", path, headers={"Metadata-Flavor": "google"}).status == 403
    assert link.request("GET", path, headers={"X-Forwarded-For": "a"} | FLAVOR).status == 403
    assert link.request("GET", path, headers=FLAVOR).status == 200
    link.close()


def test_no_address_but_the_documented_one() -> None:
    assert (gcp.PLACE.address, gcp.PLACE.port) == ("169.254.169.254", 80)
    assert gcp.PLACE.host == "metadata.google.internal"


# --- whatever is said -----------------------------------------------------------------------------


@given(texts(*WORDS))
@example(json.dumps({"preemptible": [], "preemptionNoticeDuration": {"seconds": {}}}))
@example("[" * 100_000)
def test_whatever_is_said_no_reader_fails_otherwise(said: str) -> None:
    read(gcpforms.scheduling, said)
    told = read(lambda text: gcpforms.preempted(text, gcpforms.Scheduling()), said)
    assert not told or said == "TRUE"
    events = read(gcpforms.maintenance_event, said)
    assert not events or said in gcpforms._MAINTENANCE
    assert gcpforms.etag(said) in (said, "")


@given(
    st.sampled_from((200, 204, 302, 401, 403, 404, 503)) | st.integers(100, 999),
    texts(*WORDS),
    st.dictionaries(st.sampled_from(("metadata-flavor", "etag", "date")), st.text(), max_size=3),
)
def test_who_does_not_say_google_tells_nothing(
    code: int, said: str, headers: dict[str, str]
) -> None:
    if headers.get("metadata-flavor") == "Google":
        return
    link = Same(Reply(code, said.encode(errors="surrogatepass"), headers))
    with pytest.raises((AnswerError, NoAnswerError)):
        Gcp(link).watches()
    value = gcp._Value(link, at.MAINTENANCE, gcpforms.maintenance_event, SystemClock(), Rests())
    with pytest.raises((AnswerError, NoAnswerError)):
        value.look()
