# SPDX-License-Identifier: LGPL-2.1-or-later
"""What EC2 may say, by table, and whatever anybody may say in its place."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from hibprep.notices import NoticeKind, ProviderName
from hibprep.signals.cloud import awsforms, forms
from hibprep.signals.cloud.aws import Aws
from hibprep.signals.cloud.base import AnswerError, NoAnswerError, NotHereError, Reply
from tests.cloud.aws_server import event, in_words, utc
from tests.cloud.server import PAGE
from tests.cloud.whatever import Same, altered, read, texts

WORDS = (
    "action", "time", "noticeTime", "terminate", "hibernate", "stop", "NotBefore", "Code",
    "EventId", "State", "active", "canceled", "system-reboot", "spot", "on-demand", "true", "false",
    "Terminated", "InService", "Warmed:Hibernated", "A" * 56, "21600",
)  # fmt: skip
ACTION = {"action": "stop", "time": "2017-09-18T08:22:00Z"}
MOMENTS = st.integers(-30_000_000_000, 253_402_300_799).map(
    lambda seconds: datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=seconds)
)
READERS: tuple[Callable[[str], object], ...] = (
    awsforms.instance_action,
    awsforms.termination_time,
    awsforms.rebalance,
    awsforms.scheduled,
    awsforms.target_state,
    awsforms.is_spot,
    awsforms.yes_or_no,
    awsforms.token,
    awsforms.token_seconds,
    forms.utc_time,
    forms.mail_time,
    forms.document,
)


@given(MOMENTS)
def test_times_are_read_as_they_are_written(moment: datetime) -> None:
    assert forms.utc_time(utc(moment)) == moment
    assert forms.mail_time(in_words(moment)) == moment
    assert forms.mail_time(f"Mon, {in_words(moment)}") == moment
    assert awsforms.termination_time(utc(moment)) == moment


@pytest.mark.parametrize(
    "text",
    [
        "",
        "2017-09-18",
        "2017-09-18T08:22Z",
        "2017-09-18T08:22:00",
        "2017-09-18T08:22:00+00:00",
        "2017-09-18T08:22:00Z ",
        "2017-13-18T08:22:00Z",
        "2017-02-29T08:22:00Z",
        "2017-09-18T24:00:00Z",
        "2017-09-18T08:22:60Z",
        "0000-01-01T00:00:00Z",
        "٢٠١٧-09-18T08:22:00Z",
        "21 Jan 2019 09:00:43",
        "21 Jan 2019 09:00:43 CET",
        "21 jan 2019 09:00:43 GMT",
        "21 Mai 2019 09:00:43 GMT",
        "0 Jan 2019 09:00:43 GMT",
        "31 Feb 2019 09:00:43 GMT",
        "21 Jan 19 09:00:43 GMT",
    ],
)
def test_what_is_no_time(text: str) -> None:
    for reader in (forms.utc_time, forms.mail_time):
        with pytest.raises(AnswerError):
            reader(text)


def test_a_day_of_one_digit() -> None:
    assert forms.mail_time("3 Mar 2026 12:00:00 GMT") == datetime(2026, 3, 3, 12, tzinfo=UTC)


@pytest.mark.parametrize("said", [PAGE.decode(), "{}", "<ok>", "x" * 65, "two\nlines", "\x1b[2J"])
def test_a_page_is_no_termination_time_either(said: str) -> None:
    with pytest.raises(AnswerError):
        awsforms.termination_time(said)


@pytest.mark.parametrize(
    "change",
    [
        {"Code": 7},
        {"Code": ""},
        {"Code": None},
        {"EventId": ""},
        {"EventId": "two words"},
        {"EventId": "x" * 200},
        {"EventId": "\x1b[2J"},
        {"NotBefore": None},
        {"NotBefore": "2019-01-21T09:00:43Z"},
        {"State": "Active"},
        {"State": ["active"]},
        {"State": None},
    ],
)
def test_what_is_no_scheduled_event(change: dict[str, object]) -> None:
    whole = event(datetime(2026, 3, 1, tzinfo=UTC))
    assert awsforms.scheduled(json.dumps([whole])).notices
    with pytest.raises(AnswerError):
        awsforms.scheduled(json.dumps([{**whole, **change}]))


def test_scheduled_events_that_cannot_be() -> None:
    whole = event(datetime(2026, 3, 1, tzinfo=UTC))
    for events in (whole, [whole, whole], [whole] * 101, [[whole]], "active", None):
        with pytest.raises(AnswerError):
            awsforms.scheduled(json.dumps(events))


def test_words_for_people_are_harmless() -> None:
    odd = event(datetime(2026, 3, 1, tzinfo=UTC), Description="a\x1b[2J\nb\u202e " + "c" * 500)
    (notice,) = awsforms.scheduled(json.dumps([odd])).notices
    assert notice.text.isprintable()
    assert len(notice.text) < 250
    assert notice.text.startswith("system-reboot: a [2J b ccc")


@given(texts(*WORDS))
@example("1" * 5000)
@example("[" * 100_000)
@example('{"a":' * 5000)
@example("NaN")
@example("\ud800")
def test_whatever_is_said_no_reader_fails_otherwise(text: str) -> None:
    for reader in READERS:
        read(reader, text)


@given(altered(ACTION, *WORDS))
def test_an_action_that_is_odd(text: str) -> None:
    told = read(awsforms.instance_action, text)
    if told is not None:
        (notice,) = told.notices
        assert notice.source is ProviderName.AWS
        assert notice.at is not None
        assert notice.begun == (notice.kind is NoticeKind.HIBERNATE)


@given(altered(event(datetime(2026, 3, 1, tzinfo=UTC)), *WORDS))
def test_an_event_that_is_odd(text: str) -> None:
    told = read(awsforms.scheduled, f"[{text}]")
    if told is not None:
        for notice in told.notices:
            assert 0 < len(notice.id) <= 128
            assert notice.text.isprintable()


STATUSES = st.sampled_from((200, 200, 200, 204, 301, 302, 400, 401, 403, 404, 429, 500, 503)) | (
    st.integers(100, 999)
)
REPLIES = st.builds(
    Reply,
    STATUSES,
    texts(*WORDS).map(lambda text: text.encode(errors="surrogatepass")) | st.binary(max_size=100),
    st.dictionaries(
        st.sampled_from(("x-aws-ec2-metadata-token-ttl-seconds", "date", "content-type")),
        st.sampled_from(("21600", "1", "Sun, 01 Mar 2026 12:00:00 GMT", "text/html")) | st.text(),
        max_size=3,
    ),
)


@given(REPLIES)
@example(Reply(200, PAGE))
@example(Reply(200, b"A" * 56, {"x-aws-ec2-metadata-token-ttl-seconds": "60"}))
@example(Reply(200, b"Terminated", {"x-aws-ec2-metadata-token-ttl-seconds": "60"}))
def test_one_answer_to_everything_is_never_a_notice(reply: Reply) -> None:
    """Whoever answers all questions alike is no metadata service."""
    link = Same(reply)
    cloud = Aws(link)
    with pytest.raises((AnswerError, NoAnswerError, NotHereError)) as caught:
        cloud.watches()
    assert "AAAA" not in str(caught.value)
    assert all(asked == "PUT /latest/api/token" for asked in link.asked) or reply.status == 200
