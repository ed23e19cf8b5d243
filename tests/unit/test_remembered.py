# SPDX-License-Identifier: LGPL-2.1-or-later
"""Looks on top of each other, against a plain account of which look saw a page last."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hibprep import remembered
from hibprep.ranges import Range, ordered, total_bytes
from hibprep.remembered import (
    GAP_BYTES,
    MOST_LOOKS,
    Record,
    Remembered,
    Seen,
    Who,
    from_text,
    merged,
    pack,
    to_text,
    unpack,
)

PAGE = 4096
# so far apart that no gap is joined
STEP = GAP_BYTES + 2 * PAGE
ANNA, BERT, CARL = Who(1, 10), Who(2, 10), Who(3, 10)
PLACES = st.sets(st.integers(0, 30), max_size=12)


def ranges_of(places: set[int]) -> tuple[Range, ...]:
    return tuple(ordered((place * STEP, place * STEP + PAGE) for place in places))


def places_of(ranges: Sequence[Range]) -> set[int]:
    return {start // STEP for start, _ in ranges}


def seen(places: set[int], files: set[int] | None = None) -> Seen:
    return Seen(
        name="anna",
        cgroup="/user.slice",
        anon=ranges_of(places),
        files=None if files is None else ranges_of(files),
    )


def look(
    earlier: Record | None,
    found: dict[Who, Seen],
    *,
    boot: str = "boot",
    name: str = "a look",
    alive: frozenset[Who] = frozenset({ANNA, BERT, CARL}),
    complete: bool = True,
) -> Record:
    return merged(
        earlier, found, boot=boot, taken="2026-01-01T00:00:00+00:00", look=name, alive=alive,
        complete=complete,
    )  # fmt: skip


@settings(deadline=None)
@given(st.lists(st.dictionaries(st.sampled_from([ANNA, BERT]), PLACES), max_size=MOST_LOOKS))
def test_every_page_is_in_the_latest_look_that_saw_it(history: list[dict[Who, set[int]]]) -> None:
    record: Record | None = None
    last: dict[tuple[Who, int], int] = {}
    for number, places in enumerate(history):
        record = look(record, {who: seen(set(found)) for who, found in places.items()})
        for who, found in places.items():
            last.update({(who, place): number for place in found})
    if record is None:
        return
    assert len(record.looks) == len(history)
    told = {
        (who, place): len(history) - 1 - index
        for who, one in record.processes.items()
        for index, part in enumerate(one.anon)
        for place in places_of(part)
    }
    assert told == last
    for one in record.processes.values():
        assert len(one.anon) == len(record.looks)


@settings(deadline=None)
@given(st.lists(PLACES, min_size=MOST_LOOKS + 1, max_size=3 * MOST_LOOKS))
def test_with_too_many_looks_no_page_is_forgotten_and_no_two_change_places(
    history: list[set[int]],
) -> None:
    record: Record | None = None
    last: dict[int, int] = {}
    for number, places in enumerate(history):
        record = look(record, {ANNA: seen(places)}, name=str(number))
        last.update(dict.fromkeys(places, number))
    assert record is not None
    assert len(record.looks) == MOST_LOOKS
    assert record.looks[0] == str(len(history) - 1)
    anon = record.processes[ANNA].anon if last else ()
    told = {place: index for index, part in enumerate(anon) for place in places_of(part)}
    assert told.keys() == last.keys()
    assert sum(map(total_bytes, anon)) == len(last) * PAGE
    for one, when in last.items():
        for other, then in last.items():
            if when > then:
                assert told[one] <= told[other]


def test_looking_again_at_an_idle_machine_keeps_what_it_was_used_for() -> None:
    record = look(None, {ANNA: seen(set(range(30)))}, name="before")
    record = look(record, {ANNA: seen(set(range(10)))}, name="the warm")
    for number in range(3 * MOST_LOOKS):
        record = look(record, {ANNA: seen({0})}, name=str(number))
    tiers = [places_of(part) for part in record.processes[ANNA].anon]
    assert set(range(1, 10)) in tiers
    assert set(range(10, 30)) in tiers
    assert tiers.index(set(range(1, 10))) < tiers.index(set(range(10, 30)))


def test_a_process_that_has_ended_is_forgotten() -> None:
    record = look(None, {ANNA: seen({1}), BERT: seen({2})})
    record = look(record, {BERT: seen({2})}, alive=frozenset({BERT}))
    assert set(record.processes) == {BERT}


def test_one_that_the_budget_did_not_reach_is_not() -> None:
    record = look(None, {ANNA: seen({1}), BERT: seen({2})})
    record = look(record, {BERT: seen({3})}, complete=False)
    assert places_of(record.processes[ANNA].anon[1]) == {1}
    assert record.processes[ANNA].name == "anna"
    assert not record.complete


def test_a_number_that_was_used_again_is_another_process() -> None:
    record = look(None, {Who(1, 10): seen({1})})
    again = Who(1, 99)
    record = look(record, {again: seen({5})}, alive=frozenset({again}))
    assert set(record.processes) == {again}
    assert places_of(record.processes[again].anon[0]) == {5}
    assert not record.processes[again].anon[1]


def test_another_boot_begins_anew() -> None:
    record = look(None, {ANNA: seen({1})}, boot="one")
    record = look(record, {BERT: seen({2})}, boot="two")
    assert set(record.processes) == {BERT}
    assert record.looks == ("a look",)


def test_files_of_this_preparation_and_of_the_one_before() -> None:
    record = look(None, {ANNA: seen({0}, {1, 2, 3})})
    record = look(record, {ANNA: seen({0})})  # a look that did not look for files
    assert [places_of(part) for part in record.processes[ANNA].files] == [{1, 2, 3}]
    record = look(record, {ANNA: seen({0}, {1})})
    assert [places_of(part) for part in record.processes[ANNA].files] == [{1}, {2, 3}]
    record = look(record, {ANNA: seen({0}, {9})})
    assert [places_of(part) for part in record.processes[ANNA].files] == [{9}, {1}]


def test_it_stays_small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remembered, "MOST_RANGES", 10)
    record = look(None, {ANNA: seen(set(range(8))), BERT: seen(set(range(8))), CARL: seen({1})})
    assert set(record.processes) == {ANNA, CARL}
    assert not record.complete
    monkeypatch.setattr(remembered, "MOST_RANGES_OF_ONE", 2)
    (one,) = look(None, {ANNA: seen({0, 1, 20})}).processes.values()
    assert len(one.anon[0]) <= 2
    assert total_bytes(one.anon[0]) >= 3 * PAGE


# --- as text --------------------------------------------------------------------------------------

RANGES = st.sets(st.integers(0, 1 << 30), max_size=20).map(
    lambda pages: tuple(ordered((page * PAGE, (page + 1) * PAGE) for page in pages))
)


@settings(deadline=None)
@given(RANGES)
def test_numbers_are_ranges_again(ranges: tuple[Range, ...]) -> None:
    assert unpack(pack(ranges, PAGE), PAGE) == ranges


@settings(deadline=None)
@given(
    st.builds(
        Record,
        boot=st.text(max_size=5),
        taken=st.text(max_size=5),
        looks=st.lists(st.text(max_size=5), max_size=3).map(tuple),
        complete=st.booleans(),
        processes=st.dictionaries(
            st.builds(Who, st.integers(1, 1 << 22), st.integers(0, 1 << 62)),
            st.builds(
                Remembered,
                name=st.text(max_size=15),
                cgroup=st.text(max_size=15),
                anon=st.lists(RANGES, max_size=3).map(tuple),
                files=st.lists(RANGES, max_size=2).map(tuple),
            ),
            max_size=3,
        ),
    )
)
def test_a_record_survives_the_disk(record: Record) -> None:
    assert from_text(to_text(record, PAGE), PAGE) == record


@pytest.mark.parametrize(
    "numbers", [[1], [1, 0], [-1, 1], [1.5, 1], ["1", 1], [1, 2, 3], [None, 1]]
)
def test_what_are_no_pages(numbers: list[object]) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - any will do, the caller takes them alike
        unpack(numbers, PAGE)


@settings(deadline=None)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(
                    ["version", "boot", "taken", "looks", "complete", "processes", "pid", "anon"]
                ),
                inner,
            )
        ),
        max_leaves=12,
    )
)
def test_any_text_is_a_record_or_is_refused(value: object) -> None:
    if isinstance(value, dict):
        value["version"] = 1
    with contextlib.suppress(ValueError):
        from_text(json.dumps(value), PAGE)


def test_a_later_version_is_refused() -> None:
    record = look(None, {ANNA: seen({1})})
    document = json.loads(to_text(record, PAGE))
    with pytest.raises(ValueError, match="version 2"):
        from_text(json.dumps(document | {"version": 2}), PAGE)
