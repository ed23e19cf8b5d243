# SPDX-License-Identifier: LGPL-2.1-or-later
"""EC2's notices, from a faithful server on this machine and from everything that may go wrong."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest

from hibprep.notices import Notice, NoticeKind, ProviderName
from hibprep.signals.cloud import aws
from hibprep.signals.cloud.aws import Aws
from hibprep.signals.cloud.base import AnswerError, Look, NoAnswerError, NotHereError, Watch
from hibprep.signals.cloud.link import HttpLink
from tests.cloud import aws_server as at
from tests.cloud.aws_server import AwsServer, event, utc
from tests.cloud.server import CAPTIVE, Answer, json_text, redirect, status, text
from tests.cloud.whatever import Patience
from tests.fakes.clock import HandClock

SOON = datetime(2026, 3, 1, 12, 2, tzinfo=UTC)
LATER = SOON + timedelta(minutes=5)


@pytest.fixture
def server() -> Iterator[AwsServer]:
    with AwsServer() as made:
        yield made


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


@pytest.fixture
def cloud(server: AwsServer, clock: HandClock) -> Iterator[Aws]:
    link = HttpLink(server.place)
    yield Aws(link, clock)
    link.close()


def watch(cloud: Aws, name: str) -> Watch:
    return next(each for each in cloud.watches() if each.name == name)


def kinds(look: Look) -> list[NoticeKind]:
    return [notice.kind for notice in look.notices]


# --- what is looked at ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("life_cycle", "spot"),
    [
        (text("spot"), True),
        (text("spot\n"), True),
        (text("on-demand"), False),
        (text("scheduled"), False),
        (text("capacity-block"), False),
        (at.XHTML_404, True),
    ],
)
def test_life_cycle_decides_what_is_looked_at(
    server: AwsServer, cloud: Aws, life_cycle: Answer, *, spot: bool
) -> None:
    server.tell(at.LIFE_CYCLE, life_cycle)
    names = [each.name for each in cloud.watches()]
    always = [at.TARGET, at.SCHEDULED, at.CONFIGURED]
    assert names == ([at.ACTION, at.REBALANCE, *always] if spot else always)


def test_pauses(cloud: Aws) -> None:
    pauses = {each.name: each.pause_seconds for each in cloud.watches()}
    assert pauses[at.ACTION] == pauses[at.REBALANCE] == 5.0
    assert pauses[at.TARGET] == 15.0
    assert pauses[at.SCHEDULED] == 60.0


def test_nothing_is_announced(server: AwsServer, cloud: Aws) -> None:
    for each in cloud.watches():
        look = each.look()
        assert look.notices == ()
        assert "nothing is announced" in look.words or each.name == at.CONFIGURED
        assert look.now is not None
    assert server.tokens_asked() == 1


# --- what is told ---------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [NoticeKind.STOP, NoticeKind.TERMINATE, NoticeKind.HIBERNATE])
def test_interruption(server: AwsServer, cloud: Aws, kind: NoticeKind) -> None:
    place = watch(cloud, at.ACTION)
    server.interrupt(kind, SOON)
    assert place.look().notices == (
        Notice(
            kind=kind,
            source=ProviderName.AWS,
            id=f"spot-{kind}-20260301T120200Z",
            at=SOON,
            begun=kind is NoticeKind.HIBERNATE,
            text=f"spot interruption: {kind}",
        ),
    )


def test_termination_time_is_the_same_notice(server: AwsServer, cloud: Aws) -> None:
    place = watch(cloud, at.ACTION)
    server.interrupt("terminate", server.clock.now() + timedelta(minutes=2))
    by_action = place.look()
    server.withdraw(at.ACTION)
    assert place.look().notices == by_action.notices


def test_termination_time_is_asked_where_the_action_cannot_be_read(
    server: AwsServer, cloud: Aws
) -> None:
    place = watch(cloud, at.ACTION)
    server.tell(at.ACTION, json_text('{"action": "dissolve", "time": "2026-03-01T12:02:00Z"}'))
    with pytest.raises(AnswerError):
        place.look()
    server.tell(at.TERMINATION, text(utc(server.clock.now())))
    assert kinds(place.look()) == [NoticeKind.TERMINATE]


@pytest.mark.parametrize("value", ["", "none", "(not a time)", "2026-03-01", "marked 12:02"])
def test_termination_time_that_is_none(server: AwsServer, cloud: Aws, value: str) -> None:
    server.tell(at.TERMINATION, text(value))
    assert watch(cloud, at.ACTION).look().notices == ()


@pytest.mark.parametrize(
    ("ago_seconds", "told"), [(-120, True), (0, True), (100, True), (140, False), (864000, False)]
)
def test_termination_that_has_failed(
    server: AwsServer, cloud: Aws, ago_seconds: int, *, told: bool
) -> None:
    server.clock.off = timedelta(minutes=5)
    then = server.clock.now() - timedelta(seconds=ago_seconds)
    server.tell(at.TERMINATION, text(utc(then)))
    look = watch(cloud, at.ACTION).look()
    assert (kinds(look) == [NoticeKind.TERMINATE]) == told
    # without its clock nobody can say that it is past
    server.clock.tells = False
    look = watch(cloud, at.ACTION).look()
    assert kinds(look) == [NoticeKind.TERMINATE]
    assert look.now is None


def test_rebalance(server: AwsServer, cloud: Aws) -> None:
    place = watch(cloud, at.REBALANCE)
    server.tell(at.REBALANCE, json_text('{"noticeTime": "2020-10-27T08:22:00Z"}'))
    (notice,) = place.look().notices
    assert (notice.kind, notice.id) == (NoticeKind.REBALANCE, "rebalance-20201027T082200Z")
    assert (notice.at, notice.begun, notice.lead_seconds) == (None, False, None)


def test_a_time_that_is_told_anew_is_the_same_notice(server: AwsServer, cloud: Aws) -> None:
    action, rebalance = watch(cloud, at.ACTION), watch(cloud, at.REBALANCE)
    first: list[Notice] = []
    for seconds in (0, 5, 10):
        moved = SOON + timedelta(seconds=seconds)
        server.interrupt("stop", moved)
        server.tell(at.REBALANCE, json_text(f'{{"noticeTime": "{utc(moved)}"}}'))
        (stop,), (risk,) = action.look().notices, rebalance.look().notices
        first = first or [stop, risk]
        assert [stop.id, risk.id] == [notice.id for notice in first]
        assert stop.at == moved
    server.withdraw(at.ACTION)
    assert action.look().notices == ()
    server.interrupt("stop", SOON + timedelta(hours=1))
    (again,) = action.look().notices
    assert again.id != first[0].id


def test_another_action_is_another_notice(server: AwsServer, cloud: Aws) -> None:
    place = watch(cloud, at.ACTION)
    server.interrupt("stop", SOON)
    (stop,) = place.look().notices
    server.interrupt("hibernate", SOON)
    (hibernate,) = place.look().notices
    assert (stop.id, hibernate.id) == (
        "spot-stop-20260301T120200Z",
        "spot-hibernate-20260301T120200Z",
    )


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("instance-reboot", NoticeKind.REBOOT),
        ("system-reboot", NoticeKind.REBOOT),
        ("system-maintenance", NoticeKind.REBOOT),
        ("instance-retirement", NoticeKind.STOP),
        ("instance-stop", NoticeKind.STOP),
    ],
)
def test_scheduled_event(server: AwsServer, cloud: Aws, code: str, kind: NoticeKind) -> None:
    server.schedule(event(LATER, Code=code, EventId="instance-event-1"))
    assert watch(cloud, at.SCHEDULED).look().notices == (
        Notice(
            kind=kind,
            source=ProviderName.AWS,
            id="instance-event-1",
            at=LATER,
            text=f"{code}: scheduled reboot",
        ),
    )


def test_two_scheduled_events_at_once_and_one_that_is_withdrawn(
    server: AwsServer, cloud: Aws
) -> None:
    place = watch(cloud, at.SCHEDULED)
    reboot = event(LATER, EventId="instance-event-1")
    stop = event(LATER, EventId="instance-event-2", Code="instance-stop")
    server.schedule(reboot, stop)
    assert kinds(place.look()) == [NoticeKind.REBOOT, NoticeKind.STOP]
    for state in ("canceled", "completed"):
        server.schedule(reboot | {"State": state, "Description": "[Canceled] reboot"}, stop)
        assert kinds(place.look()) == [NoticeKind.STOP]
    server.schedule()
    assert place.look().notices == ()


@pytest.mark.parametrize("off_minutes", [0, -5, 5])
def test_a_scheduled_event_becomes_a_notice_when_it_is_near(
    server: AwsServer, cloud: Aws, off_minutes: int
) -> None:
    place = watch(cloud, at.SCHEDULED)
    server.clock.off = timedelta(minutes=off_minutes)
    now = server.clock.now()
    near = event(now + timedelta(minutes=14), EventId="instance-event-1")
    far = event(now + timedelta(days=9), EventId="instance-event-2", Code="instance-stop")
    late = event(now - timedelta(minutes=30), EventId="instance-event-3")
    server.schedule(near, far, late)
    look = place.look()
    assert [notice.id for notice in look.notices] == ["instance-event-1", "instance-event-3"]
    when = now + timedelta(days=9)
    assert look.words == f"200: reboot, reboot; stop not before {when:%Y-%m-%d %H:%M} UTC"
    server.clock.off += timedelta(days=9)
    ids = [notice.id for notice in place.look().notices]
    assert ids == ["instance-event-1", "instance-event-2", "instance-event-3"]


def test_a_scheduled_event_is_near_by_our_clock_where_the_server_tells_no_time(
    server: AwsServer, cloud: Aws, clock: HandClock
) -> None:
    place = watch(cloud, at.SCHEDULED)
    server.clock.tells = False
    server.schedule(event(clock.now() + timedelta(hours=1)))
    assert place.look().notices == ()
    clock.go_on(2700)
    assert len(place.look().notices) == 1


def test_an_event_of_a_new_kind_hides_no_other(server: AwsServer, cloud: Aws) -> None:
    server.schedule(
        event(LATER, EventId="instance-event-1", Code="host-repaint"),
        event(LATER, EventId="instance-event-2"),
    )
    look = watch(cloud, at.SCHEDULED).look()
    assert [notice.id for notice in look.notices] == ["instance-event-2"]
    assert look.words == "200: reboot; 1 of a kind that is not known"


@pytest.mark.parametrize(
    ("state", "kind"),
    [
        ("InService", None),
        ("Standby", None),
        ("Detached", None),
        ("Warmed:Running", None),
        ("Terminated", NoticeKind.TERMINATE),
        ("Warmed:Terminated", NoticeKind.TERMINATE),
        ("Warmed:Stopped", NoticeKind.STOP),
        ("Warmed:Hibernated", NoticeKind.HIBERNATE),
    ],
)
def test_target_state(server: AwsServer, cloud: Aws, state: str, kind: NoticeKind | None) -> None:
    server.tell(at.TARGET, text(state))
    look = watch(cloud, at.TARGET).look()
    assert kinds(look) == ([kind] if kind else [])
    assert all(notice.begun and notice.at is None for notice in look.notices)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (text("true"), "200: launched with hibernation"),
        (text("false"), "200: launched without hibernation"),
        (at.XHTML_404, "404: it is not told"),
    ],
)
def test_hibernation_configured(server: AwsServer, cloud: Aws, answer: Answer, words: str) -> None:
    server.tell(at.CONFIGURED, answer)
    look = watch(cloud, at.CONFIGURED).look()
    assert (look.words, look.notices) == (words, ())


def test_nothing_is_acknowledged(cloud: Aws) -> None:
    notice = Notice(kind=NoticeKind.STOP, source=ProviderName.AWS, id="1")
    with pytest.raises(NotHereError, match="acknowledge"):
        cloud.acknowledge(notice)


# --- tokens ---------------------------------------------------------------------------------------


def test_a_token_is_asked_for_once_and_renewed_early(
    server: AwsServer, cloud: Aws, clock: HandClock
) -> None:
    place = watch(cloud, at.ACTION)
    for _ in range(3):
        place.look()
    assert server.tokens_asked() == 1
    for seconds, tokens in ((21600 - 61, 1), (2, 2), (21600 - 61, 2)):
        clock.go_on(seconds)
        server.seconds += seconds
        place.look()
        assert server.tokens_asked() == tokens
    # no request was refused for it
    assert {each.headers.get("x-aws-ec2-metadata-token", "") for each in server.asked} == {
        "",
        *server.given,
    }


@pytest.mark.parametrize("how", ["ended", "forgotten"])
def test_a_token_that_is_refused_is_renewed_once(server: AwsServer, cloud: Aws, how: str) -> None:
    """The machine slept by a clock of its own, or has come to another host."""
    place = watch(cloud, at.REBALANCE)
    place.look()
    if how == "ended":
        server.seconds += 21600
    else:
        server.forget_tokens()
    before = len(server.asked)
    place.look()
    asked = [path.partition(" ")[0] for path in server.paths()[before:]]
    assert asked == ["GET", "PUT", "GET"]


def test_a_token_that_is_refused_again_is_no_endless_matter(server: AwsServer, cloud: Aws) -> None:
    place = watch(cloud, at.REBALANCE)
    before = len(server.asked)
    server.script.extend([status(401), text("A" * 56, **{at.TTL: "60"}), status(401)])
    with pytest.raises(AnswerError, match="401"):
        place.look()
    assert len(server.asked) == before + 3


def test_a_token_that_cannot_be_renewed_early_goes_on_while_it_holds(
    server: AwsServer, cloud: Aws, clock: HandClock
) -> None:
    place = watch(cloud, at.REBALANCE)
    clock.go_on(21600 - 30)
    server.script.append(status(503))
    place.look()
    clock.go_on(31)
    server.script.append(status(503))
    with pytest.raises(NoAnswerError):
        place.look()
    place.look()


def test_a_token_that_holds_for_a_short_time_is_used_for_most_of_it(
    server: AwsServer, cloud: Aws, clock: HandClock
) -> None:
    server.script.append(text("A" * 56, **{at.TTL: "10"}))
    server.script.append(text("spot"))
    places = cloud.watches()
    clock.go_on(8)
    server.script.append(at.XHTML_404)
    places[1].look()
    assert server.tokens_asked() == 1
    clock.go_on(1)
    places[1].look()
    assert server.tokens_asked() == 2


def test_all_watches_share_one_token(server: AwsServer, cloud: Aws) -> None:
    places = cloud.watches()
    for times in (1, 2, 3):
        together = threading.Barrier(2 * len(places))

        def look(place: Watch, together: threading.Barrier = together) -> Look:
            together.wait(timeout=30)
            return place.look()

        with ThreadPoolExecutor(2 * len(places)) as pool:
            looks = list(pool.map(look, [*places, *places]))
        assert all(each.notices == () for each in looks)
        assert server.tokens_asked() == times
        server.forget_tokens()


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (status(400), AnswerError),
        (status(403), NotHereError),
        (status(404), NotHereError),
        (status(405), NotHereError),
        (status(501), NotHereError),
        (status(429), NoAnswerError),
        (status(500), NoAnswerError),
        (status(503), NoAnswerError),
        (redirect("http://192.0.2.1/latest/api/token"), AnswerError),
        (CAPTIVE, AnswerError),
        (Answer(body=CAPTIVE.body, headers={at.TTL: "21600"}), AnswerError),
        (text("A" * 56), AnswerError),
        (text("A" * 56, **{at.TTL: "0"}), AnswerError),
        (text("A" * 56, **{at.TTL: "21601"}), AnswerError),
        (text("A" * 56, **{at.TTL: "-1"}), AnswerError),
        (text("A" * 56, **{at.TTL: "a while"}), AnswerError),
        (text("", **{at.TTL: "21600"}), AnswerError),
        (text("OK", **{at.TTL: "21600"}), AnswerError),
        (text("A" * 28 + "\r\n" + "B" * 28, **{at.TTL: "21600"}), AnswerError),
        (text("A" * 2000, **{at.TTL: "21600"}), AnswerError),
        (Answer(body=b"\xff" * 56, headers={at.TTL: "21600"}), AnswerError),
    ],
)
def test_what_is_no_token(
    server: AwsServer, cloud: Aws, answer: Answer, error: type[Exception]
) -> None:
    server.script.append(answer)
    with pytest.raises(error):
        cloud.watches()
    assert server.paths() == [f"PUT {at.TOKEN}"]
    # and it is tried again
    assert cloud.watches()


def test_a_time_that_is_too_long_for_the_service(server: AwsServer, cloud: Aws) -> None:
    server.longest_seconds = 3600
    with pytest.raises(AnswerError, match="400"):
        cloud.watches()


def test_the_server_refuses_what_the_real_one_refuses(server: AwsServer) -> None:
    link = HttpLink(server.place)
    for seconds in ("", "0", "21601", "-1", "1.5"):
        headers = {at.TTL: seconds} if seconds else {}
        assert link.request("PUT", at.TOKEN, headers=headers).status == 400
    for token in ("", "A" * 56):
        headers = {"X-aws-ec2-metadata-token": token} if token else {}
        assert link.request("GET", at.DATA + at.LIFE_CYCLE, headers=headers).status == 401
    link.close()


# --- troubles -------------------------------------------------------------------------------------

BODY = '{"action": "terminate", "time": "2026-03-01T12:02:00Z"}'
TROUBLES = {
    "off": (status(403), NotHereError),
    "too often": (status(429), NoAnswerError),
    "broken": (status(500), NoAnswerError),
    "overloaded": (status(503), NoAnswerError),
    "unknown status": (Answer(status=299, body=BODY.encode()), AnswerError),
    "no content": (Answer(status=204), AnswerError),
    "moved": (redirect("http://127.0.0.1:9/"), AnswerError),
    "late": (Answer(body=BODY.encode(), delay_seconds=20), NoAnswerError),
    "byte by byte": (Answer(body=BODY.encode(), byte_seconds=0.1), NoAnswerError),
    "cut": (Answer(body=BODY[:20].encode(), length=len(BODY)), AnswerError),
    "hung up": (Answer(silent=True), NoAnswerError),
    "huge": (Answer(body=b"[" + b" " * (1 << 20) + b"]"), AnswerError),
    "deep": (Answer(body=b"[" * 100_000), AnswerError),
    "no text": (Answer(body=b"\xff\xfe" + BODY.encode("utf-16-le")), AnswerError),
    "cut json": (text(BODY[:-2]), AnswerError),
    "other json": (text('{"time": {"action": ["terminate"]}}'), AnswerError),
    "no object": (text('"terminate"'), AnswerError),
    "not a number": (text('{"action": NaN, "time": Infinity}'), AnswerError),
    "captive": (CAPTIVE, AnswerError),
}


@pytest.mark.parametrize("trouble", TROUBLES)
@pytest.mark.parametrize("item", [at.ACTION, at.REBALANCE, at.TARGET, at.SCHEDULED])
def test_troubles_of_one_item(server: AwsServer, item: str, trouble: str) -> None:
    answer, error = TROUBLES[trouble]
    link = HttpLink(server.place)
    patience = Patience(link)
    place = watch(Aws(patience), item)
    fine = server.items.get(item)
    server.tell(item, answer)
    if answer.delay_seconds or answer.byte_seconds:
        patience.seconds = 0.2
    with pytest.raises(error):
        place.look()
    patience.seconds = 30.0
    if fine is None:
        server.withdraw(item)
    else:
        server.tell(item, fine)
    assert place.look().notices == ()
    link.close()


def test_redirects_are_not_followed(server: AwsServer, cloud: Aws) -> None:
    places = cloud.watches()
    server.always = redirect(f"{server.elsewhere.url}/latest/meta-data/spot/instance-action")
    for code in (301, 302, 303, 307, 308):
        server.always = redirect(f"{server.elsewhere.url}/", code)
        for each in places:
            with pytest.raises(AnswerError, match=str(code)):
                each.look()
    assert server.elsewhere.asked == []


@pytest.mark.parametrize(
    "answer",
    [
        CAPTIVE,
        text("OK"),
        text("success"),
        json_text("{}"),
        json_text('{"status": "login"}'),
        Answer(status=200),
        Answer(status=204),
        text("A" * 56),
        Answer(body=CAPTIVE.body, headers={at.TTL: "21600", "Content-Type": "text/html"}),
    ],
)
def test_a_captive_portal_gives_no_token_and_no_notice(
    server: AwsServer, cloud: Aws, answer: Answer
) -> None:
    server.always = answer
    with pytest.raises(AnswerError):
        cloud.watches()
    # it comes in between
    server.always = None
    places = cloud.watches()
    server.always = answer
    for each in places:
        try:
            look = each.look()
        except AnswerError:
            continue
        assert look.notices == ()


def test_a_service_that_is_switched_off(server: AwsServer, cloud: Aws) -> None:
    places = cloud.watches()
    server.off = True
    for each in places:
        with pytest.raises(NotHereError, match="switched off"):
            each.look()
    with pytest.raises(NotHereError, match="--http-endpoint enabled"):
        cloud.watches()
    server.off = False
    assert all(each.look().notices == () for each in places)


def test_a_service_that_appears_after_a_while() -> None:
    with AwsServer(listens=False) as server:
        link = HttpLink(server.place)
        cloud = Aws(link)
        with pytest.raises(NoAnswerError):
            cloud.watches()
        server.appear()
        assert len(cloud.watches()) == 5
        link.close()


def test_a_service_that_is_started_anew(server: AwsServer, cloud: Aws) -> None:
    place = watch(cloud, at.REBALANCE)
    place.look()
    server.forget_tokens()
    server.hang_up()
    try:
        place.look()
    except NoAnswerError:
        # the connection may have looked alive still
        place.look()


def test_notices_that_come_together(server: AwsServer, cloud: Aws) -> None:
    places = cloud.watches()
    server.interrupt("terminate", SOON)
    server.tell(at.REBALANCE, json_text(f'{{"noticeTime": "{utc(SOON)}"}}'))
    server.tell(at.TARGET, text("Terminated"))
    server.schedule(event(LATER))
    told = [notice for each in places for notice in each.look().notices]
    assert [notice.kind for notice in told] == [
        NoticeKind.TERMINATE,
        NoticeKind.REBALANCE,
        NoticeKind.TERMINATE,
        NoticeKind.REBOOT,
    ]
    assert len({notice.id for notice in told}) == 4


@pytest.mark.parametrize("minutes", [-5, 5])
def test_a_clock_that_is_off_is_told(server: AwsServer, cloud: Aws, minutes: int) -> None:
    server.clock.off = timedelta(minutes=minutes)
    place = watch(cloud, at.ACTION)
    server.interrupt("stop", server.clock.now() + timedelta(seconds=120))
    look = place.look()
    assert look.now is not None
    assert look.notices[0].at is not None
    left = (look.notices[0].at - look.now).total_seconds()
    # whole seconds on both sides, and a machine that was busy in between
    assert 60 <= left <= 121


def test_a_deadline_in_the_past_is_told_as_it_is(server: AwsServer, cloud: Aws) -> None:
    past = datetime(2017, 9, 18, 8, 22, tzinfo=UTC)
    server.interrupt("stop", past)
    assert watch(cloud, at.ACTION).look().notices[0].at == past


def test_no_address_but_the_documented_one() -> None:
    assert (aws.PLACE.address, aws.PLACE.port, aws.PLACE.host) == ("169.254.169.254", 80, "")
