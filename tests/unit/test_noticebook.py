# SPDX-License-Identifier: LGPL-2.1-or-later
"""Which notices are new, changed and withdrawn, and what of that outlives the daemon."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hibprep.history import STATE_DIRECTORY
from hibprep.noticebook import (
    FILE_NAME,
    MOST_CHARACTERS,
    MOST_NOTICES,
    Changes,
    NoticeBook,
    compare,
    from_text,
    merged,
    to_text,
)
from hibprep.notices import Key, Notice, NoticeKind, ProviderName, key_of

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
SOON = NOW + timedelta(minutes=2)
STOP = Notice(kind=NoticeKind.STOP, source=ProviderName.AWS, id="stop-1", at=SOON)
FREEZE = Notice(
    kind=NoticeKind.FREEZE,
    source=ProviderName.AZURE,
    id="F7D9",
    at=NOW + timedelta(minutes=15),
    acknowledge="F7D9",
    text="Host server is undergoing maintenance.",
)

NOTICES = st.builds(
    Notice,
    kind=st.sampled_from(NoticeKind),
    source=st.sampled_from([ProviderName.AWS, ProviderName.AZURE]),
    id=st.sampled_from(["a", "b", "c"]) | st.text(max_size=20),
    at=st.none() | st.datetimes(timezones=st.just(UTC)),
    begun=st.booleans(),
    lead_seconds=st.none() | st.floats(0, 1e6),
    acknowledge=st.sampled_from(["", "x"]),
    text=st.text(max_size=30),
)
PLACES = st.sampled_from(["aws: spot", "aws: rebalance", "azure: events"])
PAGES = st.dictionaries(PLACES, st.lists(NOTICES, min_size=1, max_size=4).map(tuple))


def moved(notice: Notice, **fields: object) -> Notice:
    return replace(notice, **fields)  # type: ignore[arg-type]


# --- what is new ----------------------------------------------------------------------------------


def test_a_notice_is_given_once(tmp_path: Path) -> None:
    book = NoticeBook(str(tmp_path))
    assert book.told("spot", [STOP], NOW) == Changes(given=(STOP,))
    assert not book.told("spot", [STOP], NOW)
    assert book.holding() == (STOP,)


def test_two_notices_at_once_come_with_the_most_urgent_first(tmp_path: Path) -> None:
    book = NoticeBook(str(tmp_path))
    assert book.told("events", [FREEZE, STOP], NOW).given == (STOP, FREEZE)


def test_another_time_is_a_change_and_other_words_are_none(tmp_path: Path) -> None:
    book = NoticeBook(str(tmp_path))
    book.told("events", [FREEZE], NOW)
    assert not book.told("events", [moved(FREEZE, text="Other words.")], NOW)
    later = moved(FREEZE, at=FREEZE.at + timedelta(minutes=1) if FREEZE.at else None)
    assert book.told("events", [later], NOW) == Changes(changed=(later,))
    begun = moved(later, begun=True, at=None)
    assert book.told("events", [begun], NOW) == Changes(changed=(begun,))


def test_what_is_told_of_no_more_is_withdrawn_or_over(tmp_path: Path) -> None:
    book = NoticeBook(str(tmp_path))
    begun = moved(FREEZE, id="begun", begun=True)
    untimed = Notice(kind=NoticeKind.REBALANCE, source=ProviderName.AWS, id="r")
    book.told("events", [STOP, FREEZE, begun, untimed], NOW)
    changes = book.told("events", [], SOON)
    assert changes == Changes(withdrawn=(FREEZE, untimed), over=(begun, STOP))
    assert book.holding() == ()


def test_what_two_places_tell_of_holds_until_neither_does(tmp_path: Path) -> None:
    book = NoticeBook(str(tmp_path))
    sooner = moved(STOP, at=NOW + timedelta(seconds=30))
    assert book.told("time", [STOP], NOW).given == (STOP,)
    assert book.told("action", [sooner], NOW).changed == (sooner,)
    for _ in range(3):  # and neither telling is news again
        assert not book.told("time", [STOP], NOW)
        assert not book.told("action", [sooner], NOW)
    assert book.told("action", [], NOW) == Changes(changed=(STOP,))
    assert book.told("time", [], NOW) == Changes(withdrawn=(STOP,))


def test_places_that_are_not_looked_at_any_more_hold_nothing(tmp_path: Path) -> None:
    book = NoticeBook(str(tmp_path))
    book.told("aws: spot", [STOP], NOW)
    book.told("azure: events", [FREEZE], NOW)
    assert book.only(["azure: events"], NOW) == Changes(withdrawn=(STOP,))
    assert book.holding() == (FREEZE,)


@given(st.lists(st.tuples(PLACES, st.lists(NOTICES, max_size=4)), max_size=12))
def test_the_changes_add_up_to_what_holds(looks: list[tuple[str, list[Notice]]]) -> None:
    """Whoever hears of the changes alone knows what holds; nothing is given twice in between."""
    book = NoticeBook("/nowhere")
    known: dict[object, Notice] = {}
    for place, notices in looks:
        changes = book.told(place, notices, NOW)
        for notice in changes.given:
            assert key_of(notice) not in known
            known[key_of(notice)] = notice
        for notice in changes.changed:
            assert key_of(notice) in known
            known[key_of(notice)] = notice
        for notice in (*changes.withdrawn, *changes.over):
            del known[key_of(notice)]
        assert {key_of(each) for each in book.holding()} == set(known)
        for notice in book.holding():
            assert _matter(known[key_of(notice)]) == _matter(notice)
        assert not book.told(place, notices, NOW)  # the same once more is no news


def _matter(notice: Notice) -> tuple[object, ...]:
    return (notice.kind, notice.at, notice.begun, notice.lead_seconds, notice.acknowledge)


@given(PAGES, PAGES)
def test_what_came_in_which_order_makes_no_difference(
    pages: dict[str, tuple[Notice, ...]], others: dict[str, tuple[Notice, ...]]
) -> None:
    backwards = dict(reversed(pages.items()))
    assert merged(pages) == merged(backwards)
    assert compare(merged(pages), merged(others), NOW) == compare(
        merged(backwards), merged(others), NOW
    )


# --- what is kept ---------------------------------------------------------------------------------


def saved(book: NoticeBook) -> None:
    assert book.write(book.text()) == ""


def test_after_a_restart_nothing_is_told_again(tmp_path: Path) -> None:
    book = NoticeBook(str(tmp_path))
    book.told("events", [STOP, FREEZE], NOW)
    saved(book)
    again = NoticeBook(str(tmp_path))
    assert again.load() == ""
    assert again.holding() == (STOP, FREEZE)
    assert not again.told("events", [STOP, FREEZE], NOW)
    assert again.told("events", [FREEZE], NOW) == Changes(withdrawn=(STOP,))


def test_after_a_restart_what_is_half_done_is_told_again(tmp_path: Path) -> None:
    book = NoticeBook(str(tmp_path))
    book.told("events", [STOP, FREEZE], NOW)
    book.at_work(key_of(STOP), ())
    book.at_work(key_of(STOP), ("prepare", "run"))
    book.at_work(key_of(FREEZE), ())
    book.ended(key_of(FREEZE))
    saved(book)
    again = NoticeBook(str(tmp_path))
    assert again.load() == ""
    assert again.holding() == (FREEZE,)
    assert again.behind(key_of(STOP)) == ("prepare", "run")
    saved(again)  # and ends before it is told again
    third = NoticeBook(str(tmp_path))
    assert third.load() == ""
    assert third.told("events", [STOP, FREEZE], NOW) == Changes(given=(STOP,))
    assert third.behind(key_of(STOP)) == ("prepare", "run")
    third.ended(key_of(STOP))
    assert third.behind(key_of(STOP)) == ()


def test_what_was_made_up_is_forgotten(tmp_path: Path) -> None:
    book = NoticeBook(str(tmp_path))
    book.at_work((ProviderName.SIMULATED, "1"), ("run",))
    saved(book)
    again = NoticeBook(str(tmp_path))
    assert again.load() == ""
    assert again.behind((ProviderName.SIMULATED, "1")) == ()


@given(
    PAGES,
    st.dictionaries(
        st.tuples(st.sampled_from(ProviderName), st.text(max_size=20)),
        st.lists(st.text(max_size=20), max_size=4).map(tuple),
        max_size=5,
    ),
)
def test_what_is_kept_is_what_was_told(
    pages: dict[str, tuple[Notice, ...]], work: dict[Key, tuple[str, ...]]
) -> None:
    found, at_work = from_text(to_text(pages, work))
    assert at_work == work
    assert {place: set(said) for place, said in found.items()} == {
        place: set(said) for place, said in pages.items()
    }


def test_it_is_for_root_alone(tmp_path: Path) -> None:
    book = NoticeBook(str(tmp_path))
    saved(book)
    assert book.path == tmp_path / STATE_DIRECTORY / FILE_NAME
    assert book.path.stat().st_mode & 0o777 == 0o600


def test_it_does_not_grow_without_end(tmp_path: Path) -> None:
    book = NoticeBook(str(tmp_path))
    many = [
        moved(STOP, id=f"{at:05}", at=SOON + timedelta(seconds=at), text="x" * 1000)
        for at in range(5000)
    ]
    long = moved(FREEZE, text="y" * (MOST_CHARACTERS + 1), at=NOW)
    book.told("events", [*reversed(many), long], NOW)
    saved(book)
    assert book.path.stat().st_size < MOST_NOTICES * (MOST_CHARACTERS + 300)
    again = NoticeBook(str(tmp_path))
    again.load()
    assert again.holding() == tuple(many[:MOST_NOTICES])
    # what was not kept is told of again
    assert len(again.told("events", [*many, long], NOW).given) == 5001 - MOST_NOTICES


@pytest.mark.parametrize(
    "content",
    [
        b"", b"{", b"[]", b"null", b"7", b"\xff\xfe", b"[" * 100_000, b" " * (2 << 20),
        b'{"version":2,"notices":[]}', b'{"version":1}', b'{"version":1,"notices":{}}',
        b'{"version":1,"notices":[7]}', b'{"version":1,"notices":[{}]}',
        b'{"version":1,"notices":[]}', b'{"version":1,"notices":[],"work":{}}',
        b'{"version":1,"notices":[],"work":[7]}', b'{"version":1,"notices":[],"work":[{}]}',
    ],
)  # fmt: skip
def test_a_file_that_is_broken_counts_as_empty(tmp_path: Path, content: bytes) -> None:
    book = NoticeBook(str(tmp_path))
    book.path.parent.mkdir(parents=True)
    book.path.write_bytes(content)
    assert "counts as empty" in book.load()
    assert book.holding() == ()
    book.told("events", [STOP], NOW)
    saved(book)
    again = NoticeBook(str(tmp_path))
    assert again.load() == ""
    assert again.holding() == (STOP,)


@given(st.data())
def test_any_field_may_be_broken(data: st.DataObject) -> None:
    document = json.loads(to_text({"events": (FREEZE,)}))
    field = data.draw(st.sampled_from(sorted(document["notices"][0])))
    values = st.none() | st.booleans() | st.floats() | st.text() | st.lists(st.integers())
    document["notices"][0][field] = data.draw(values)
    try:
        pages, _ = from_text(json.dumps(document))
    except ValueError:
        return
    for said in pages.values():
        for notice in said:
            assert notice.at is None or notice.at.utcoffset() == timedelta(0)
    compare({}, merged(pages), NOW)  # and it can be worked with


@given(st.text(max_size=200) | st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
        st.sampled_from(["version", "notices", "place", "kind", "work", "behind"]),
        inner, max_size=4,
    ),
).map(json.dumps))  # fmt: skip
def test_any_text_is_a_book_or_none(text: str) -> None:
    try:
        from_text(text)
    except ValueError:
        return
    assert json.loads(text)["version"] == 1


def test_a_file_that_cannot_be_read_or_written_is_said(tmp_path: Path) -> None:
    book = NoticeBook(str(tmp_path))
    book.path.mkdir(parents=True)
    assert "Is a directory" in book.load()
    book.told("events", [STOP], NOW)
    assert str(book.path) in book.write(book.text())
    assert book.holding() == (STOP,)  # and nothing else comes of it


def test_without_a_file_nothing_is_said(tmp_path: Path) -> None:
    assert NoticeBook(str(tmp_path)).load() == ""
