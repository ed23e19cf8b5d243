# SPDX-License-Identifier: LGPL-2.1-or-later
"""From generations to ages: nothing is lost, and what is said of an age is true."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from hibprep.coldness import AgeRow, CgroupAges, histogram
from hibprep.kernel.lrugen import read_generations
from hibprep.model import Generation, GenerationList
from tests.fakes.machine import FakeMachine, FakeRoot
from tests.fakes.state import GIB, MIB, PAGE, AnonSet, FakeCgroup, FakeSwap

AGES = st.floats(0, 1e6)
PAGES = st.integers(0, 1 << 24)
PATHS = st.sampled_from(["/", "/user.slice", "/user.slice/app.service", "/system.slice"])


@st.composite
def lists(draw: st.DrawFn) -> GenerationList:
    ages = sorted(draw(st.lists(AGES, max_size=4)), reverse=True)
    first = draw(st.integers(0, 1 << 40))
    return GenerationList(
        memcg_id=draw(st.integers(1, 1 << 50)),
        path=draw(PATHS),
        node=draw(st.integers(0, 3)),
        generations=tuple(
            Generation(
                sequence=first + index,
                age_seconds=age,
                anon_pages=draw(PAGES),
                file_pages=draw(PAGES),
            )
            for index, age in enumerate(ages)
        ),
    )


MANY = st.lists(lists(), max_size=8)


@given(MANY, st.none() | AGES)
def test_sums_are_conserved(entries: list[GenerationList], known: float | None) -> None:
    found = histogram(entries, PAGE, known_seconds=known)
    assert [each.path for each in found] == list(dict.fromkeys(each.path for each in entries))
    for ages in found:
        own = [
            generation
            for entry in entries
            if entry.path == ages.path
            for generation in entry.generations
        ]
        assert ages.anon_bytes == PAGE * sum(each.anon_pages for each in own)
        assert ages.file_bytes == PAGE * sum(each.file_pages for each in own)


@given(MANY, AGES, AGES)
def test_older_is_never_more(entries: list[GenerationList], one: float, other: float) -> None:
    younger, older = sorted((one, other))
    for ages in histogram(entries, PAGE):
        for evictable in (False, True):
            more = ages.older_than(younger, evictable=evictable)
            less = ages.older_than(older, evictable=evictable)
            assert less[0] <= more[0]
            assert less[1] <= more[1]
        all_of_it = ages.older_than(0.0, evictable=False)
        assert all_of_it == (ages.anon_bytes, ages.file_bytes)
        assert ages.older_than(younger)[0] <= ages.older_than(younger, evictable=False)[0]
        assert ages.used_within(younger)[0] <= ages.used_within(older)[0]


@given(MANY, st.none() | AGES)
def test_rows_are_in_order_and_the_youngest_two_stay(
    entries: list[GenerationList], known: float | None
) -> None:
    for ages in histogram(entries, PAGE, known_seconds=known):
        least = [row.at_least_seconds for row in ages.rows]
        assert least == sorted(least, reverse=True)
        for row in ages.rows:
            assert row.at_most_seconds is None or row.at_least_seconds <= row.at_most_seconds
            assert known is None or row.at_least_seconds <= known
        own = [each.generations for each in entries if each.path == ages.path]
        assert sum(row.anon_bytes for row in ages.rows if row.evictable) == PAGE * sum(
            each.anon_pages for generations in own for each in generations[:-2]
        )


@st.composite
def histories(draw: st.DrawFn) -> list[tuple[str, float]]:
    """What happens, and how many seconds later the next thing does."""
    deeds = st.sampled_from(["touch 0", "touch 1", "touch 2", "touch 3", "age", "age"])
    return draw(st.lists(st.tuples(deeds, st.integers(1, 100).map(float)), max_size=30))


@given(histories())
def test_what_is_said_of_an_age_is_true(history: list[tuple[str, float]]) -> None:
    sets = [AnonSet((1 << number) * MIB, idle_seconds=50.0 * number) for number in range(4)]
    fake = FakeMachine(
        total_bytes=4 * GIB,
        cgroups=[FakeCgroup("/a", anon=sets)],
        swaps=[FakeSwap("/dev/vdb", 8 * GIB)],
        generation_ages_seconds=(200.0, 100.0),
    )
    cgroup = fake.cgroup("/a")
    for deed, passes in history:
        if deed == "age":
            fake.age(cgroup, cgroup.max_generation)
        else:
            sets[int(deed[-1])].last_used = fake.now
        fake.advance(passes)
    (ages,) = (
        each for each in histogram(read_generations(FakeRoot(fake)), PAGE) if each.path == "/a"
    )
    looked = fake.now - ages.looked_seconds
    for each in sets:
        # every size is a bit of its own, so a sum tells who is in it
        (row,) = (row for row in ages.rows if row.anon_bytes // MIB & each.size_bytes // MIB)
        if each.last_used <= looked:
            idle = fake.now - each.last_used
            assert idle >= row.at_least_seconds - 0.001
            assert row.at_most_seconds is None or idle <= row.at_most_seconds + 0.001


def test_an_example() -> None:
    entry = GenerationList(
        memcg_id=7,
        path="/a",
        node=0,
        generations=tuple(
            Generation(sequence=sequence, age_seconds=age, anon_pages=anon, file_pages=file)
            for sequence, age, anon, file in (
                (5, 400.0, 10, 40),
                (6, 300.0, 20, 0),
                (7, 60.0, 30, 1),
                (8, 5.0, 4, 2),
            )
        ),
    )
    (ages,) = histogram([entry], 1)

    def row(
        at_least: float, at_most: float | None, anon: int, file: int, *, evictable: bool
    ) -> AgeRow:
        return AgeRow(
            at_least_seconds=at_least,
            at_most_seconds=at_most,
            anon_bytes=anon,
            file_bytes=file,
            evictable=evictable,
        )

    assert ages == CgroupAges(
        path="/a",
        rows=(
            row(300.0, None, 10, 40, evictable=True),
            row(60.0, 300.0, 20, 0, evictable=True),
            row(5.0, 60.0, 30, 1, evictable=False),
            row(0.0, 5.0, 4, 2, evictable=False),
        ),
        looked_seconds=5.0,
    )
    assert ages.older_than(60.0) == (30, 40)
    assert ages.older_than(61.0) == (10, 40)
    assert ages.older_than(5.0) == (30, 40)
    assert ages.older_than(5.0, evictable=False) == (60, 41)
    assert ages.used_within(60.0) == (34, 3)


def test_nodes_are_taken_together_and_keep_their_own_edges() -> None:
    def node(number: int, youngest_age: float) -> GenerationList:
        return GenerationList(
            memcg_id=7,
            path="/a",
            node=number,
            generations=tuple(
                Generation(sequence=sequence, age_seconds=age, anon_pages=3, file_pages=0)
                for sequence, age in enumerate((100.0, 50.0, youngest_age))
            ),
        )

    (same,) = histogram([node(0, 10.0), node(1, 10.0)], 1)
    assert [row.anon_bytes for row in same.rows] == [6, 6, 6]
    (apart,) = histogram([node(0, 10.0), node(1, 20.0)], 1)
    assert [(row.at_least_seconds, row.anon_bytes) for row in apart.rows] == [
        (50.0, 6),
        (20.0, 3),
        (10.0, 3),
        (0.0, 3),
        (0.0, 3),
    ]
    assert apart.looked_seconds == 20.0


def test_the_oldest_of_a_kind_has_no_upper_edge() -> None:
    """Page cache may be there for longer than anonymous memory, or the other way round."""
    entry = GenerationList(
        memcg_id=7,
        path="/a",
        node=0,
        generations=tuple(
            Generation(sequence=sequence, age_seconds=age, anon_pages=anon, file_pages=5)
            for sequence, age, anon in ((1, 90.0, 0), (2, 60.0, 5), (3, 30.0, 5))
        ),
    )
    (ages,) = histogram([entry], 1)
    assert [row.at_most_seconds for row in ages.rows] == [None, None, 30.0]


def test_what_was_before_it_was_switched_on_is_not_known() -> None:
    entry = GenerationList(
        memcg_id=7,
        path="/a",
        node=0,
        generations=tuple(
            Generation(sequence=sequence, age_seconds=age, anon_pages=5, file_pages=0)
            for sequence, age in enumerate((900.0, 900.0, 10.0, 5.0))
        ),
    )
    (ages,) = histogram([entry], 1, known_seconds=12.0)
    assert [(row.at_least_seconds, row.at_most_seconds) for row in ages.rows] == [
        (12.0, None),
        (10.0, None),
        (5.0, 10.0),
        (0.0, 5.0),
    ]
