# SPDX-License-Identifier: LGPL-2.1-or-later
"""Azure's scheduled events, from a faithful server on this machine and from everything that may go
wrong."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hibprep.clock import SystemClock
from hibprep.events import NoticeGiven, NoticeWithdrawn, Signal
from hibprep.noticebook import NoticeBook
from hibprep.notices import Notice, NoticeKind, ProviderName
from hibprep.signals.cloud import azure, azureforms
from hibprep.signals.cloud.azure import Azure
from hibprep.signals.cloud.base import (
    AnswerError,
    Link,
    NoAnswerError,
    NotHereError,
    Reply,
    Watch,
)
from hibprep.signals.cloud.link import HttpLink
from hibprep.signals.cloud.skew import deadline_at_seconds, reading
from hibprep.signals.cloud.source import Cloud
from tests.cloud.azure_server import EVENTS, AzureServer, document, event, in_words
from tests.cloud.server import (
    CAPTIVE,
    NOT_FOUND,
    Answer,
    ServerClock,
    json_text,
    redirect,
    status,
)
from tests.cloud.whatever import Patience, Same, altered, read, texts
from tests.listening import listening, only, until_told
from tests.waiting import GENEROUS_SECONDS

SOON = datetime(2026, 3, 1, 12, 15, tzinfo=UTC)
ID = "C7061BAC-AFDC-4513-B24B-AA5F13A16123"
OTHER = "0B5BA81C-20C6-4B4E-9D3C-6DB4A2F5B9F7"


@pytest.fixture
def server() -> Iterator[AzureServer]:
    with AzureServer() as made:
        yield made


@pytest.fixture
def link(server: AzureServer) -> Iterator[Link]:
    made = HttpLink(server.place)
    yield made
    made.close()


def watch(link: Link) -> Watch:
    (only,) = Azure(link).watches()
    return only


def told(text: str, preempted: NoticeKind = NoticeKind.TERMINATE) -> tuple[Notice, ...]:
    return azureforms.scheduled(text, "vm_0", preempted).notices


# --- what is told ---------------------------------------------------------------------------------


def test_nothing_is_scheduled(server: AzureServer, link: Link) -> None:
    place = watch(link)
    look = place.look()
    assert (place.name, place.pause_seconds) == ("scheduledevents", 5.0)
    assert look.notices == ()
    assert look.words == "200: nothing is scheduled here"
    assert look.now is not None
    # never the whole document of the machine, which has its user data in it
    assert {each.path.partition("?")[0] for each in server.asked} == {
        "/metadata/instance/compute/name",
        "/metadata/instance/compute/evictionPolicy",
        EVENTS,
    }
    assert all(each.headers["metadata"] == "true" for each in server.asked)


@pytest.mark.parametrize(
    ("event_type", "kind"),
    [
        ("Freeze", NoticeKind.FREEZE),
        ("Reboot", NoticeKind.REBOOT),
        ("Redeploy", NoticeKind.REBOOT),
        ("Terminate", NoticeKind.TERMINATE),
        ("Preempt", NoticeKind.TERMINATE),
    ],
)
def test_scheduled(server: AzureServer, link: Link, event_type: str, kind: NoticeKind) -> None:
    server.schedule(event(event_type, SOON))
    look = watch(link).look()
    (notice,) = look.notices
    assert (notice.kind, notice.source, notice.id) == (kind, ProviderName.AZURE, ID)
    assert (notice.at, notice.begun, notice.lead_seconds) == (SOON, False, None)
    assert notice.acknowledge == ID
    assert notice.text.startswith(
        f"{event_type} (Platform): Host server is undergoing maintenance."
    )
    assert look.words == f"200: {kind}"


@pytest.mark.parametrize(
    ("policy", "kind"),
    [
        ("Deallocate", NoticeKind.STOP),
        ("deallocate", NoticeKind.STOP),
        ("Delete", NoticeKind.TERMINATE),
        ("", NoticeKind.TERMINATE),
        (None, NoticeKind.TERMINATE),
    ],
)
def test_eviction_policy(
    server: AzureServer, link: Link, policy: str | None, kind: NoticeKind
) -> None:
    if policy is None:
        del server.compute["evictionPolicy"]
    else:
        server.compute["evictionPolicy"] = policy
    server.schedule(event("Preempt", SOON))
    place = watch(link)
    (notice,) = place.look().notices
    assert notice.kind is kind
    # whoever may be preempted has to look more often
    assert place.pause_seconds == (5.0 if policy == "" else 2.0)


def test_from_announcement_to_end(server: AzureServer, link: Link) -> None:
    place = watch(link)
    server.schedule(event("Freeze", SOON, DurationInSeconds=5))
    (scheduled,) = place.look().notices
    server.start(ID)
    (started,) = place.look().notices
    assert (scheduled.id, scheduled.begun) == (started.id, False)
    # nobody's consent is needed any more
    assert (started.at, started.begun, started.acknowledge) == (None, True, "")
    server.schedule()
    assert place.look().notices == ()


def test_called_off(server: AzureServer, link: Link) -> None:
    place = watch(link)
    server.schedule(event("Reboot", SOON), event("Freeze", SOON, EventId=OTHER))
    assert len(place.look().notices) == 2
    server.schedule(event("Freeze", SOON, EventId=OTHER))
    (left,) = place.look().notices
    assert left.id == OTHER


def test_others_are_told_of_and_not_meant(server: AzureServer, link: Link) -> None:
    server.schedule(
        event("Reboot", SOON, Resources=["vm_1", "vm_00"]),
        event("Nonsense", SOON, Resources=["vm_2"], EventId=7, NotBefore={}),
    )
    look = watch(link).look()
    assert look.notices == ()
    assert look.words == "200: nothing is scheduled here; 2 for other machines alone"


def test_together_with_others(server: AzureServer, link: Link) -> None:
    server.compute["name"] = "VM_0"  # Azure does not distinguish
    server.schedule(
        event("Freeze", SOON, Resources=["vm_1", "vm_0"], DurationInSeconds=5, Description="")
    )
    (notice,) = watch(link).look().notices
    assert notice.text == "Freeze (Platform), for 5 s, together with 1 other machine"


def test_by_a_user() -> None:
    (notice,) = told(document(event("Redeploy", SOON, EventSource="User", Description="moved")))
    assert notice.text == (
        "Redeploy (User): moved; it starts anew on another host, with an empty temporary disk"
    )


def test_the_example_of_the_documentation() -> None:
    text = """
    { "DocumentIncarnation":  2,
      "Events":  [ {
         "EventId":  "C7061BAC-AFDC-4513-B24B-AA5F13A16123",
         "EventStatus":  "Scheduled", "EventType":  "Freeze",
         "ResourceType":  "VirtualMachine", "Resources":  [ "WestNO_0", "WestNO_1" ],
         "NotBefore":  "Mon, 11 Apr 2026 22:26:58 GMT",
         "Description":  "Virtual machine is being paused because of a memory-preserving Live\
 Migration operation.",
         "EventSource":  "Platform", "DurationInSeconds":  5 } ] }"""
    (notice,) = azureforms.scheduled(text, "WestNO_1", NoticeKind.STOP).notices
    # it was a Saturday, and the time is what counts
    assert notice.at == datetime(2026, 4, 11, 22, 26, 58, tzinfo=UTC)


@pytest.mark.parametrize(
    "written",
    [
        "Sun, 01 Mar 2026 12:15:00 GMT",
        "2026-03-01T12:15:00Z",
        "2026-03-01T12:15:00",
        "2026-03-01T12:15:00+00:00",
        "2026-03-01T12:15:00.1234567Z",
        "2026-03-01T12:15:00.123456",
    ],
)
def test_ways_to_write_a_time(written: str) -> None:
    (notice,) = told(document(event("Reboot", SOON, NotBefore=written)))
    assert notice.at == SOON


@pytest.mark.parametrize(
    "written",
    [
        7,
        [],
        "soon",
        "2026-03-01T12:15:00+01:00",
        "2026-13-01T12:15:00Z",
        "2026-03-01T12:15:00Z\n",
        "Sun, 31 Feb 2026 12:15:00 GMT",
        "Sun, 01 Mar 2026 12:15:00 CET",
    ],
)
def test_what_is_no_time(written: object) -> None:
    with pytest.raises(AnswerError):
        told(document(event("Reboot", SOON, NotBefore=written)))


@pytest.mark.parametrize(
    ("event_type", "seconds"),
    [("Freeze", 900), ("Reboot", 900), ("Redeploy", 600), ("Preempt", 30), ("Terminate", 300)],
)
@pytest.mark.parametrize("written", ["", None])
def test_without_a_time_the_least_notice_counts(
    event_type: str, seconds: float, written: str | None
) -> None:
    (notice,) = told(document(event(event_type, SOON, NotBefore=written)))
    assert (notice.at, notice.lead_seconds, notice.begun) == (None, seconds, False)


def test_types_that_are_not_known(server: AzureServer, link: Link) -> None:
    server.schedule(
        event("Levitate", SOON),
        event("Reboot", SOON, EventId=OTHER, ResourceType="Disk"),
        event("Freeze", SOON, EventId="2"),
    )
    look = watch(link).look()
    assert [notice.kind for notice in look.notices] == [NoticeKind.FREEZE]
    assert look.words == "200: freeze; 2 of a kind that is not known"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "null",
        "[]",
        "{}",
        '{"DocumentIncarnation": 1}',
        '{"Events": []}',
        '{"DocumentIncarnation": "1", "Events": []}',
        '{"DocumentIncarnation": true, "Events": []}',
        '{"DocumentIncarnation": 1, "Events": {}}',
        '{"DocumentIncarnation": 1, "Events": [7]}',
        '{"DocumentIncarnation": 1, "Events": [{}]}',
        document(event("Reboot", SOON, Resources="vm_0")),
        document(event("Reboot", SOON, EventId="")),
        document(event("Reboot", SOON, EventId="a b")),
        document(event("Reboot", SOON, EventStatus="Completed")),
        document(event("Reboot", SOON, EventType=None)),
        document(event("Reboot", SOON), event("Freeze", SOON)),
        document(*(event("Freeze", SOON, EventId=str(n)) for n in range(1001))),
        document(event("Freeze", SOON, Resources=["vm_0"] * 1001)),
    ],
)
def test_what_is_no_list_of_events(text: str) -> None:
    with pytest.raises(AnswerError):
        told(text)


@pytest.mark.parametrize("name", ["", "a b", "<html>", "a/b", "x" * 129, "vm\r\n"])
def test_what_is_no_name(name: str) -> None:
    with pytest.raises(AnswerError):
        azureforms.machine_name(name)


# --- time -----------------------------------------------------------------------------------------


@dataclass
class Stopped(ServerClock):
    """Its time stands still."""

    at: datetime = SOON

    def now(self) -> datetime:
        return self.at


@pytest.mark.parametrize("off", [timedelta(minutes=-5), timedelta(0), timedelta(minutes=5)])
def test_a_clock_that_is_off(server: AzureServer, link: Link, off: timedelta) -> None:
    server.clock = Stopped(at=SOON + off)
    server.schedule(event("Preempt", server.clock.now() + timedelta(seconds=30)))
    look = watch(link).look()
    (notice,) = look.notices
    read_at = reading(look.now, SOON, 1000.0)
    # by up to a second less, as a Date header does not tell more
    assert deadline_at_seconds(notice, read_at) == 1029.0


def test_a_time_that_has_passed(server: AzureServer, link: Link) -> None:
    server.clock = Stopped(at=SOON)
    server.schedule(event("Reboot", SOON - timedelta(hours=1)))
    look = watch(link).look()
    (notice,) = look.notices
    assert (notice.at, notice.begun) == (SOON - timedelta(hours=1), False)
    deadline = deadline_at_seconds(notice, reading(look.now, SOON, 5000.0))
    assert deadline is not None
    assert deadline < 5000.0


@dataclass
class Noting(Link):
    """Notes how long each request for events may take; answers as it is told, or not at all."""

    replies: list[Reply | None]
    seconds: list[float] = field(default_factory=list)

    def request(
        self,
        method: str,  # noqa: ARG002 - as a link has them
        path: str,
        *,
        headers: object = None,  # noqa: ARG002
        body: bytes | None = None,  # noqa: ARG002
        timeout_seconds: float = 2.0,
    ) -> Reply:
        if not path.startswith(EVENTS):
            return Reply(200, b"vm_0")
        self.seconds.append(timeout_seconds)
        reply = self.replies.pop(0)
        if reply is None:
            raise NoAnswerError("nothing came")
        return reply


def test_how_long_an_answer_is_waited_for() -> None:
    good, busy = Reply(200, document().encode()), Reply(503, b"")
    replies = [None, good, good, None, None, busy, None, None, None, None, None, None, good, good]
    link = Noting(list(replies))
    place = watch(link)
    for reply in replies:
        if reply is good:
            place.look()
        else:
            with pytest.raises(NoAnswerError):
                place.look()
    first, usual = azure.FIRST_SECONDS, azure.USUAL_SECONDS
    assert first >= 120 > usual
    assert link.seconds == [
        first, first, usual, usual, 2 * usual, 4 * usual,
        usual, 2 * usual, 4 * usual, 8 * usual, 16 * usual, first, first, usual,
    ]  # fmt: skip


def test_the_first_question_takes_its_time(server: AzureServer, link: Link) -> None:
    server.enabling_seconds = 0.5
    server.schedule(event("Freeze", SOON))
    assert len(watch(link).look().notices) == 1


# --- saying that we are ready ---------------------------------------------------------------------


def test_acknowledge(server: AzureServer, link: Link) -> None:
    cloud = Azure(link)
    place = watch(link)
    server.schedule(event("Freeze", SOON), event("Reboot", SOON, EventId=OTHER))
    freeze, _ = place.look().notices
    cloud.acknowledge(freeze)
    asked = server.asked[-1]
    assert (asked.method, asked.path) == ("POST", f"{EVENTS}?api-version=2020-07-01")
    assert asked.headers["content-type"] == "application/json"
    assert json.loads(asked.body) == {"StartRequests": [{"EventId": ID}]}
    begun = {notice.id: notice.begun for notice in place.look().notices}
    assert begun == {ID: True, OTHER: False}
    # two machines may say so
    cloud.acknowledge(freeze)


def test_acknowledging_what_is_gone(server: AzureServer, link: Link) -> None:
    server.schedule(event("Freeze", SOON))
    (notice,) = watch(link).look().notices
    server.schedule()
    with pytest.raises(AnswerError, match="400"):
        Azure(link).acknowledge(notice)


def test_nothing_to_acknowledge(server: AzureServer, link: Link) -> None:
    server.schedule(event("Freeze", SOON, EventStatus="Started", NotBefore=""))
    (notice,) = watch(link).look().notices
    before = len(server.asked)
    with pytest.raises(NotHereError, match="has begun"):
        Azure(link).acknowledge(notice)
    assert len(server.asked) == before


def test_acknowledging_where_it_is_not_possible(server: AzureServer, link: Link) -> None:
    server.schedule(event("Freeze", SOON))
    (notice,) = watch(link).look().notices
    for answer, problem in (
        (status(403), NotHereError),
        (status(503), NoAnswerError),
        (status(500), NoAnswerError),
        (status(404), AnswerError),
        (redirect(server.elsewhere.url), AnswerError),
    ):
        server.script.append(answer)
        with pytest.raises(problem):
            Azure(link).acknowledge(notice)
    assert server.elsewhere.asked == []


async def through_the_poller(server: AzureServer, link: Link, path: Path) -> list[Signal]:
    """From the announcement through our consent to the end; all that was told."""

    async def soon(seconds: float) -> None:
        await asyncio.sleep(min(seconds, 0.01))

    book = NoticeBook(str(path))
    cloud = Cloud(SystemClock(), book, lambda: Azure(link), sleep=soon)
    async with listening(cloud) as told:
        server.schedule(event("Freeze", SOON), event("Reboot", SOON, Resources=["vm_1"]))
        (given,) = await until_told(lambda: only(NoticeGiven, told), "it is announced")
        await cloud.acknowledge(given.notice)
        await until_told(lambda: len(only(NoticeGiven, told)) == 2, "it has begun")
        server.schedule()
        await until_told(lambda: only(NoticeWithdrawn, told), "it is over")
        return list(told)


def test_through_the_poller(server: AzureServer, link: Link, tmp_path: Path) -> None:
    told = asyncio.run(through_the_poller(server, link, tmp_path))
    scheduled, started = only(NoticeGiven, told)
    assert (scheduled.notice.begun, started.notice.begun) == (False, True)
    assert only(NoticeWithdrawn, told) == [NoticeWithdrawn(started.notice, over=True)]


# --- what may go wrong ----------------------------------------------------------------------------

WRONG = [
    (status(400), AnswerError),
    (status(401), NotHereError),
    (status(403), NotHereError),
    (NOT_FOUND, AnswerError),
    (status(405), AnswerError),
    (status(410), NoAnswerError),
    (status(429), NoAnswerError),
    (status(500), NoAnswerError),
    (status(503), NoAnswerError),
    (Answer(status=204), AnswerError),
    (CAPTIVE, AnswerError),
    (Answer(body=b"\xff\xfe\x00"), AnswerError),
    (Answer(body=b"x" * (1 << 20)), AnswerError),
    (Answer(body=b"[" * 100_000), AnswerError),
    (json_text(document(event("Reboot", SOON))[:-20]), AnswerError),
    (Answer(body=b'{"Document', length=500, cut=True), AnswerError),
    (Answer(silent=True), NoAnswerError),
    (Answer(body=document().encode(), delay_seconds=GENEROUS_SECONDS), NoAnswerError),
    (Answer(body=document().encode(), byte_seconds=0.05), NoAnswerError),
]


@pytest.mark.parametrize(("answer", "problem"), WRONG)
def test_what_may_go_wrong_with_a_look(
    server: AzureServer, link: Link, answer: Answer, problem: type[Exception]
) -> None:
    patience = Patience(link)
    place = watch(patience)
    server.schedule(event("Reboot", SOON))
    server.script.append(answer)
    if answer.delay_seconds or answer.byte_seconds:
        patience.seconds = 0.3
    with pytest.raises(problem) as caught:
        place.look()
    patience.seconds = GENEROUS_SECONDS
    assert "<html" not in str(caught.value).lower()
    # and then all is well again
    assert len(place.look().notices) == 1


@pytest.mark.parametrize("code", [301, 302, 303, 307, 308])
def test_redirects_are_not_followed(server: AzureServer, link: Link, code: int) -> None:
    place = watch(link)
    server.always = redirect(f"{server.elsewhere.url}{EVENTS}", code)
    with pytest.raises(AnswerError):
        place.look()
    with pytest.raises(AnswerError):
        watch(link)
    assert server.elsewhere.asked == []


def test_a_portal_that_answers_everything(server: AzureServer, link: Link) -> None:
    place = watch(link)
    server.always = CAPTIVE
    with pytest.raises(AnswerError):
        watch(link)
    with pytest.raises(AnswerError):
        place.look()
    server.always = Answer(body=b"OK")
    # a word might be a name, and is no list
    with pytest.raises(AnswerError):
        watch(link).look()


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        (status(400), NotHereError),
        (status(401), NotHereError),
        (status(403), NotHereError),
        (NOT_FOUND, NotHereError),
        (status(410), NoAnswerError),
        (status(429), NoAnswerError),
        (status(503), NoAnswerError),
        (CAPTIVE, AnswerError),
        (Answer(body=b"\xff"), AnswerError),
        (Answer(silent=True), NoAnswerError),
    ],
)
def test_whether_this_is_azure(
    server: AzureServer, link: Link, answer: Answer, problem: type[Exception]
) -> None:
    server.script.append(answer)
    with pytest.raises(problem):
        watch(link)


@pytest.mark.parametrize(
    ("answer", "problem"), [(status(429), NoAnswerError), (status(503), NoAnswerError)]
)
def test_the_eviction_policy_is_asked_for_again(
    server: AzureServer, link: Link, answer: Answer, problem: type[Exception]
) -> None:
    server.compute["evictionPolicy"] = "Deallocate"
    server.script.extend([Answer(body=b"vm_0"), answer])
    with pytest.raises(problem):
        watch(link)
    server.schedule(event("Preempt", SOON))
    (notice,) = watch(link).look().notices
    assert notice.kind is NoticeKind.STOP


def test_a_service_that_comes_later() -> None:
    with AzureServer(listens=False) as server:
        link = HttpLink(server.place)
        with pytest.raises(NoAnswerError):
            watch(link)
        server.appear()
        assert watch(link).look().notices == ()
        link.close()


def test_a_service_that_goes_away_in_between(server: AzureServer, link: Link) -> None:
    place = watch(link)
    place.look()
    server.hang_up()
    server.schedule(event("Freeze", SOON))
    for _ in range(2):  # the connection that was kept may be noticed to be gone only then
        try:
            look = place.look()
        except NoAnswerError:
            continue
        break
    assert len(look.notices) == 1


def problem(function: Callable[[], object]) -> Exception | None:
    """What of ours it raises; None when it does not."""
    try:
        function()
    except (AnswerError, NoAnswerError, NotHereError) as error:
        return error
    return None


# --- anything at all ------------------------------------------------------------------------------

MOMENTS = st.datetimes(
    datetime(1900, 1, 1),  # noqa: DTZ001 - hypothesis adds the zone
    timezones=st.just(UTC),
)
FIELDS = (
    "DocumentIncarnation", "Events", "EventId", "EventType", "EventStatus", "Resources",
    "ResourceType", "NotBefore", "vm_0", "Scheduled", "Started", "VirtualMachine", "Freeze",
    "Preempt", "",
)  # fmt: skip


@given(texts(*FIELDS))
def test_any_text_at_all(text: str) -> None:
    read(told, text)
    read(azureforms.machine_name, text)
    assert azureforms.preemption(text) in (NoticeKind.STOP, NoticeKind.TERMINATE)


@given(altered(event("Freeze", SOON), *FIELDS), st.integers())
def test_any_event_at_all(written: str, incarnation: int) -> None:
    text = f'{{"DocumentIncarnation": {incarnation}, "Events": [{written}]}}'
    for notice in read(told, text) or ():
        assert "vm_0" in json.loads(written)["Resources"]
        assert notice.text.isprintable()
        assert len(notice.text) < 400
        assert notice.id.isprintable()
        assert notice.at is None or notice.at.utcoffset() == timedelta(0)
        assert notice.begun or notice.at is not None or notice.lead_seconds is not None


@given(st.integers(100, 599), st.binary(max_size=200))
def test_any_answer_at_all(code: int, body: bytes) -> None:
    link = Same(Reply(code, body))
    error = problem(lambda: watch(link))
    assert len(body) < 4 or body.decode(errors="replace") not in str(error)
    place = watch(Noting([Reply(code, body)]))
    with pytest.raises((AnswerError, NoAnswerError, NotHereError)):
        place.look()


@given(MOMENTS)
def test_every_time_is_read_as_it_is_written(at: datetime) -> None:
    whole = at.replace(microsecond=0)
    (notice,) = told(document(event("Reboot", at, NotBefore=in_words(at))))
    assert notice.at == whole
    (notice,) = told(document(event("Reboot", at, NotBefore=at.isoformat())))
    assert notice.at == whole
