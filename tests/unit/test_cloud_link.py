# SPDX-License-Identifier: LGPL-2.1-or-later
"""The way to a metadata service, against whatever may answer there."""

from __future__ import annotations

import gzip
import logging
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hibprep.errors import ConfigError
from hibprep.signals.cloud.base import AnswerError, NoAnswerError, Reply
from hibprep.signals.cloud.link import MOST_BYTES, HttpLink, Place, date_of, is_allowed, text_of
from tests.cloud.server import CAPTIVE, NOT_FOUND, Answer, MetadataServer, redirect, status, text
from tests.descriptors import descriptors

SECRET = "c2VjcmV0"  # noqa: S105 - one of nobody's
SHORT_SECONDS = 0.2


@pytest.fixture
def server() -> Iterator[MetadataServer]:
    with MetadataServer() as found:
        yield found


@pytest.fixture
def link(server: MetadataServer) -> Iterator[HttpLink]:
    found = HttpLink(server.place)
    yield found
    found.close()


def test_an_answer_is_handed_over_as_it_is(server: MetadataServer, link: HttpLink) -> None:
    server.script.append(Answer(status=418, body=b"tea", headers={"ETag": "1f", "X-Two": "Zwei"}))
    reply = link.request("PUT", "/latest?a=b", headers={"X-Token": SECRET}, body=b"{}")
    assert (reply.status, reply.body) == (418, b"tea")
    assert reply.headers["etag"] == "1f"
    assert reply.headers["x-two"] == "Zwei"
    (asked,) = server.asked
    assert (asked.method, asked.path, asked.body) == ("PUT", "/latest?a=b", b"{}")
    assert asked.headers["x-token"] == SECRET
    assert asked.headers["host"] == f"127.0.0.1:{server.port}"


def test_a_name_goes_into_the_host_header_and_nowhere_else(server: MetadataServer) -> None:
    link = HttpLink(Place("127.0.0.1", server.port, "metadata.google.internal"))
    link.request("GET", "/")
    link.close()
    assert server.asked[0].headers["host"] == "metadata.google.internal"


def test_one_connection_serves_all_requests(server: MetadataServer, link: HttpLink) -> None:
    server.always = NOT_FOUND
    for _ in range(20):
        link.request("GET", "/")
    assert server.connections == 1


def test_many_threads_may_ask_at_once(
    server: MetadataServer, link: HttpLink, caplog: pytest.LogCaptureFixture
) -> None:
    server.always = text("yes")
    replies: list[Reply] = []

    def ask() -> None:
        replies.append(link.request("GET", "/", timeout_seconds=30.0))

    threads = [threading.Thread(target=ask) for _ in range(12)]
    with server.hold():
        for thread in threads:
            thread.start()
        server.wait_asked(len(threads))
    for thread in threads:
        thread.join()
    assert [reply.body for reply in replies] == [b"yes"] * len(threads)
    assert not caplog.records


@pytest.mark.parametrize("code", [400, 401, 403, 404, 405, 429, 500, 502, 503, 504])
def test_every_status_is_an_answer(server: MetadataServer, link: HttpLink, code: int) -> None:
    server.script.append(status(code))
    assert link.request("GET", "/").status == code
    assert len(server.asked) == 1  # and nothing is asked again by itself


def test_retry_after_is_left_to_the_poller(server: MetadataServer, link: HttpLink) -> None:
    server.script.append(Answer(status=503, headers={"Retry-After": "3600"}))
    assert link.request("GET", "/").status == 503
    assert len(server.asked) == 1


@pytest.mark.parametrize("code", [301, 302, 303, 307, 308])
def test_a_redirect_is_an_answer_and_nobody_else_is_asked(
    server: MetadataServer, link: HttpLink, code: int
) -> None:
    server.always = redirect(f"{server.elsewhere.url}/stolen", code)
    reply = link.request("GET", "/", headers={"X-Token": SECRET})
    assert reply.status == code
    assert server.elsewhere.asked == []
    assert len(server.asked) == 1


def test_no_proxy_is_asked(
    server: MetadataServer, link: HttpLink, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, server.elsewhere.url)
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    other = HttpLink(server.place)
    other.request("GET", "/")
    other.close()
    link.request("GET", "/")
    assert server.elsewhere.asked == []
    assert len(server.asked) == 2


# --- answers that are broken ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "answer",
    [
        Answer(body=b'{"action":"st', length=100),
        Answer(body=b"", length=100),
        Answer(raw=b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n40\r\nabc"),
        Answer(raw=b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nnonsense\r\n"),
        Answer(body=b"no gzip at all", headers={"Content-Encoding": "gzip"}),
    ],
    ids=["truncated", "empty", "truncated chunk", "no chunk", "no gzip"],
)
def test_a_broken_answer_is_none(server: MetadataServer, link: HttpLink, answer: Answer) -> None:
    server.script.append(answer)
    with pytest.raises(AnswerError):
        link.request("GET", "/")
    server.script.append(text("whole"))
    assert link.request("GET", "/").body == b"whole"  # nothing of it is left in the connection


@pytest.mark.parametrize(
    "answer",
    [
        Answer(body=b"x" * (MOST_BYTES + 1)),
        Answer(body=b"x" * (2 * MOST_BYTES), length=1 << 40),
        Answer(body=b"x" * (MOST_BYTES + 1), chunked=True),
        Answer(body=gzip.compress(bytes(64 << 20)), headers={"Content-Encoding": "gzip"}),
    ],
    ids=["huge", "said to be huge", "huge chunk", "unpacks to 64 MiB"],
)
def test_a_huge_answer_is_refused(server: MetadataServer, link: HttpLink, answer: Answer) -> None:
    server.script.append(answer)
    with pytest.raises(AnswerError, match="longer than"):
        link.request("GET", "/")
    server.script.append(text("small"))
    assert link.request("GET", "/").body == b"small"


@pytest.mark.parametrize("chunked", [False, True])
def test_the_longest_answer_is_taken(
    server: MetadataServer, link: HttpLink, *, chunked: bool
) -> None:
    server.script.append(Answer(body=b"x" * MOST_BYTES, chunked=chunked))
    assert len(link.request("GET", "/").body) == MOST_BYTES


def test_an_answer_that_is_no_text(server: MetadataServer, link: HttpLink) -> None:
    server.script.append(Answer(body=b"\xff\xfe\x00t"))
    reply = link.request("GET", "/")
    with pytest.raises(AnswerError, match="no text"):
        text_of(reply)


@pytest.mark.parametrize(
    "raw", [b"", b"\r\n\r\n", b"SSH-2.0-OpenSSH_9.9\r\n", b"HTTP/1.1 abc\r\n\r\n"]
)
def test_who_does_not_speak_http_gives_no_answer(
    server: MetadataServer, link: HttpLink, raw: bytes
) -> None:
    server.script.append(Answer(raw=raw))
    with pytest.raises(NoAnswerError):
        link.request("GET", "/")


HEADS = st.sampled_from(
    [
        b"HTTP/1.1 200 OK\r\n", b"HTTP/1.0 200\r\n", b"HTTP/9.9 999 X\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\n", b"Content-Length: 5\r\n", b"Content-Length: 5, 6\r\n",
        b"Content-Length: -1\r\n", b"Content-Length: \xd9\xa3\r\n",
        b"Transfer-Encoding: chunked\r\n", b"Content-Encoding: gzip\r\n",
        b"Content-Encoding: deflate, gzip\r\n", b"Location: http://[\r\n",
        b"Connection: close\r\n", b"Date: never\r\n", b": nothing\r\n", b" folded\r\n", b"\r\n",
        b"0\r\n\r\n", b"5\r\nhello\r\n",
    ]
)  # fmt: skip


@given(parts=st.lists(HEADS | st.binary(max_size=40), max_size=12))
def test_whatever_comes_is_a_reply_or_an_error_of_ours(parts: list[bytes]) -> None:
    server, link = FUZZED
    server.script.append(Answer(raw=b"".join(parts)))
    try:
        reply = link.request("GET", "/")
    except (NoAnswerError, AnswerError):
        return
    assert len(reply.body) <= MOST_BYTES
    date_of(reply)


FUZZED: tuple[MetadataServer, HttpLink]


@pytest.fixture(autouse=True, scope="module")
def _fuzzed() -> Iterator[None]:
    """One server for all the examples of a property."""
    global FUZZED  # noqa: PLW0603 - hypothesis and fixtures of a function do not go together
    with MetadataServer() as found:
        FUZZED = found, HttpLink(found.place)
        yield
        FUZZED[1].close()


# --- answers that do not come ---------------------------------------------------------------------


def test_a_service_that_hangs_is_given_up(server: MetadataServer, link: HttpLink) -> None:
    with server.hold(), pytest.raises(NoAnswerError):
        link.request("GET", "/", timeout_seconds=SHORT_SECONDS)


@pytest.mark.parametrize(
    "answer",
    [
        Answer(body=b"x" * 10_000, byte_seconds=SHORT_SECONDS / 20),
        Answer(headers={"X-Long": "x" * 10_000}, head_byte_seconds=SHORT_SECONDS / 20),
        Answer(raw=b"HTTP/1.1 100 Continue\r\n\r\n" * 1000, delay_seconds=SHORT_SECONDS / 2),
    ],
    ids=["body", "head", "interim answers alone"],
)
def test_an_answer_that_comes_byte_by_byte_is_given_up(
    server: MetadataServer, link: HttpLink, answer: Answer
) -> None:
    """Each byte comes well within the time-out, and all of them would take minutes."""
    server.script.append(answer)
    with pytest.raises(NoAnswerError):
        link.request("GET", "/", timeout_seconds=SHORT_SECONDS)


def test_an_answer_that_comes_byte_by_byte_and_in_time(
    server: MetadataServer, link: HttpLink
) -> None:
    server.script.append(Answer(body=b"slowly", byte_seconds=0.001, head_byte_seconds=0.001))
    assert link.request("GET", "/", timeout_seconds=30.0).body == b"slowly"


def test_the_time_of_one_answer_is_not_taken_from_the_next(
    server: MetadataServer, link: HttpLink
) -> None:
    server.always = Answer(body=b"x", delay_seconds=SHORT_SECONDS * 0.6)
    for _ in range(4):
        assert link.request("GET", "/", timeout_seconds=SHORT_SECONDS * 5).status == 200
    assert server.connections == 1


def test_a_connection_that_ends_without_an_answer(server: MetadataServer, link: HttpLink) -> None:
    server.script.append(Answer(silent=True))
    with pytest.raises(NoAnswerError):
        link.request("GET", "/")


def test_a_service_that_appears_only_after_a_while() -> None:
    with MetadataServer(listens=False) as server:
        link = HttpLink(server.place)
        for _ in range(3):
            with pytest.raises(NoAnswerError):
                link.request("GET", "/")
        server.appear()
        assert link.request("GET", "/").status == 404
        link.close()


def test_a_service_that_was_started_anew(server: MetadataServer, link: HttpLink) -> None:
    link.request("GET", "/")
    server.hang_up()
    assert link.request("GET", "/").status == 404
    assert server.connections == 2


def test_a_captive_portal_is_an_answer_like_others(server: MetadataServer, link: HttpLink) -> None:
    """That it is no notice is for those who read it."""
    server.always = CAPTIVE
    reply = link.request("PUT", "/latest/api/token")
    assert reply.status == 200
    assert text_of(reply).startswith("<!DOCTYPE html>")


# --- what is never told ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "answer",
    [
        Answer(raw=f"{SECRET}\r\n\r\n".encode()),
        Answer(body=SECRET.encode(), length=100),
        Answer(body=SECRET.encode() * MOST_BYTES),
        Answer(body=SECRET.encode(), headers={"Content-Encoding": "gzip"}),
        Answer(silent=True),
    ],
    ids=["no HTTP", "truncated", "huge", "no gzip", "silent"],
)
def test_errors_have_no_secrets(
    server: MetadataServer, link: HttpLink, answer: Answer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    server.script.append(answer)
    with pytest.raises((NoAnswerError, AnswerError)) as told:
        link.request("GET", f"/data?token={SECRET}", headers={"X-Token": SECRET})
    assert SECRET not in f"{told.value!s}{told.value!r}{caplog.text}"
    assert told.value.__cause__ is None
    assert told.value.__context__ is None or told.value.__suppress_context__


def test_the_log_has_no_headers(
    server: MetadataServer, link: HttpLink, caplog: pytest.LogCaptureFixture
) -> None:
    """urllib3 warns of those that it cannot read, and quotes what comes after them."""
    caplog.set_level(logging.INFO)
    answer = f"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nno header\r\nX-Token: {SECRET}\r\n\r\n"
    server.script.append(Answer(raw=answer.encode()))
    link.request("GET", "/")
    assert SECRET not in caplog.text


# --- where it may go ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "address",
    ["169.254.169.254", "169.254.0.23", "100.100.100.200", "127.0.0.1", "::1", "fd00:ec2::254",
     "fd20:ce::254", "fe80::a9fe:a9fe"],
)  # fmt: skip
def test_addresses_of_metadata_services(address: str) -> None:
    assert is_allowed(address)
    HttpLink(Place(address)).close()


@pytest.mark.parametrize(
    "address",
    ["metadata.google.internal", "localhost", "", "8.8.8.8", "10.0.0.1", "192.168.0.1",
     "100.100.100.201", "169.253.169.254", "::", "fd00::1", "169.254.169.254/32",
     "2852039166", "127.1"],
)  # fmt: skip
def test_no_other_address_is_ever_asked(address: str) -> None:
    assert not is_allowed(address)
    with pytest.raises(ConfigError, match="no link-local address"):
        HttpLink(Place(address))


def test_nothing_is_left_open() -> None:
    before = descriptors()
    with MetadataServer() as server:
        link = HttpLink(server.place)
        server.script += [text("whole"), Answer(body=b"x", length=9), Answer(silent=True)]
        link.request("GET", "/")
        for _ in range(2):
            with pytest.raises((AnswerError, NoAnswerError)):
                link.request("GET", "/")
        link.close()
    assert descriptors() == before


# --- the server's clock ---------------------------------------------------------------------------


def test_the_date_header_is_the_servers_clock(server: MetadataServer, link: HttpLink) -> None:
    server.clock.off = timedelta(minutes=-5)
    told = date_of(link.request("GET", "/"))
    assert told is not None
    assert timedelta(seconds=290) < datetime.now(tz=UTC) - told < timedelta(seconds=310 + 30)
    server.clock.tells = False
    assert date_of(link.request("GET", "/")) is None


@pytest.mark.parametrize(
    "date",
    ["", "now", "Fri, 31 Dec 9999 23:59:59 -2359",
     "Mon, 99 Jan 2026 00:00:00 GMT", "Mon, 01 Jan 2026 00:00:00 +99999999999", "1 2 3 4 5 6"],
)  # fmt: skip
def test_what_is_no_date_tells_no_time(date: str) -> None:
    assert date_of(Reply(200, b"", {"date": date})) is None


@given(st.text(max_size=60) | st.text("Mon, Jan0123456789:+-GMT", max_size=40))
def test_any_date_header_can_be_read_or_is_none(date: str) -> None:
    found = date_of(Reply(200, b"", {"date": date}))
    assert found is None or found.utcoffset() == timedelta(0)
