# SPDX-License-Identifier: LGPL-2.1-or-later
from __future__ import annotations

import itertools
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hibprep.noticerules import (
    DEFAULTS,
    LEAST_SECONDS,
    Deed,
    Rule,
    actions,
    hibernates,
    needed_seconds,
    share,
    shares,
    until_asleep,
)
from hibprep.notices import Notice, NoticeKind, ProviderName

from .conftest import Golden

AT = datetime(2026, 11, 22, 14, 4, tzinfo=UTC)
MEMORY = (Deed.PREPARE, Deed.HIBERNATE)

RULES = st.builds(
    Rule,
    deed=st.sampled_from(Deed),
    reason=st.just("[[on]] 1"),
    kinds=st.lists(st.sampled_from(NoticeKind), min_size=1, unique=True).map(tuple),
    providers=st.lists(st.sampled_from(ProviderName), unique=True).map(tuple),
    timeout_seconds=st.one_of(st.none(), st.floats(0.001, 1000)),
)
LISTS = st.lists(RULES, min_size=1, max_size=6).map(tuple)
NOTICES = st.builds(
    Notice,
    kind=st.sampled_from(NoticeKind),
    source=st.sampled_from(ProviderName),
    id=st.just("1"),
)


def rule(deed: Deed, **fields: float) -> Rule:
    return replace(Rule(deed=deed, reason="a test", kinds=tuple(NoticeKind)), **fields)  # type: ignore[arg-type]


@given(LISTS, st.floats(0.001, 100_000))
def test_never_more_time_than_there_is(rules: tuple[Rule, ...], left: float) -> None:
    found = shares(rules, left)
    assert len(found) == len(rules)
    # a hibernation has all that is left: what follows it comes after the resume, or in its place
    others = [
        one.seconds or 0.0
        for each, one in zip(rules, found, strict=True)
        if each.deed is not Deed.HIBERNATE
    ]
    assert sum(others) <= left * 1.000001
    for each, one in zip(rules, found, strict=True):
        assert one.seconds is not None
        assert 0 <= one.seconds <= left * 1.000001
        if each.timeout_seconds is not None and each.deed is not Deed.HIBERNATE:
            assert one.seconds <= each.timeout_seconds
        if each.deed not in MEMORY:
            assert one.seconds > 0  # what is quick is always begun
            assert not one.skip
        elif each.deed is Deed.PREPARE and not one.skip:
            assert one.seconds >= LEAST_SECONDS or each.timeout_seconds is not None


@given(LISTS, st.floats(0.001, 100_000))
def test_what_follows_a_preparation_has_its_time(rules: tuple[Rule, ...], left: float) -> None:
    first, following = replace(rules[0], deed=Deed.PREPARE, timeout_seconds=None), rules[1:]
    one = share((first, *following), left)
    if one.skip:
        assert left - needed_seconds(following) < LEAST_SECONDS
        assert one.seconds == 0
    else:
        assert one.seconds == left - needed_seconds(following)


@given(LISTS, st.floats(-100_000, 0))
def test_a_deadline_in_the_past(rules: tuple[Rule, ...], left: float) -> None:
    for each, one in zip(rules, shares(rules, left), strict=True):
        if each.deed in MEMORY:
            assert one.skip == "no time is left for it"
            assert one.seconds == 0
        else:
            assert not one.skip
            assert one.seconds == each.needs_seconds


@given(LISTS)
def test_without_a_time_each_has_its_own(rules: tuple[Rule, ...]) -> None:
    for each, one in zip(rules, shares(rules, None), strict=True):
        assert not one.skip
        if each.timeout_seconds is not None:
            assert one.seconds == each.timeout_seconds
        elif each.deed in MEMORY:
            assert one.seconds is None
        else:
            assert one.seconds is not None


@given(NOTICES, LISTS)
def test_the_order_of_the_file_is_kept_and_nothing_else_is_done(
    notice: Notice, rules: tuple[Rule, ...]
) -> None:
    rules = tuple(replace(each, reason=f"{n:03}") for n, each in enumerate(rules))
    found = actions(notice, rules)
    places = [each.reason for each in found]
    assert places == sorted(places)
    for each in rules:
        fits = notice.kind in each.kinds and (not each.providers or notice.source in each.providers)
        assert (each in found) is fits


def test_a_made_up_notice_is_one_of_the_provider_that_is_here() -> None:
    notice = Notice(kind=NoticeKind.HIBERNATE, source=ProviderName.SIMULATED, id="1")
    assert [each.deed for each in actions(notice, (), ProviderName.AWS)] == [Deed.ASIDE]
    assert [each.deed for each in actions(notice, (), ProviderName.GCP)] == [Deed.PREPARE]
    assert [each.deed for each in actions(notice, ())] == [Deed.PREPARE]
    real = replace(notice, source=ProviderName.AZURE)
    assert [each.deed for each in actions(real, (), ProviderName.AWS)] == [Deed.PREPARE]


def test_one_rule_of_the_administrator_ends_all_defaults() -> None:
    notice = Notice(kind=NoticeKind.REBALANCE, source=ProviderName.AWS, id="1")
    assert actions(notice, ()) == (DEFAULTS[2],)
    other = Rule(deed=Deed.ASIDE, reason="[[on]] 1", kinds=(NoticeKind.STOP,))
    assert actions(notice, (other,)) == ()


@pytest.mark.parametrize("kind", NoticeKind)
@pytest.mark.parametrize("source", ProviderName)
def test_each_kind_of_each_provider_has_one_default(kind: NoticeKind, source: ProviderName) -> None:
    assert len(actions(Notice(kind=kind, source=source, id="1"), ())) == 1


def test_the_defaults(golden: Golden) -> None:
    lines = [
        f"{source:10} {kind:10} {each.deed:8} {each.reason}"
        for source, kind in itertools.product(ProviderName, NoticeKind)
        for each in actions(Notice(kind=kind, source=source, id="1"), ())
    ]
    golden("notice-defaults.txt", "\n".join(lines) + "\n")


def test_a_share_that_was_said() -> None:
    rules = (rule(Deed.PREPARE, keep_seconds=45.0), rule(Deed.RUN), rule(Deed.WEBHOOK))
    assert share(rules, 120.0).seconds == 75.0
    assert share((rule(Deed.PREPARE), *rules[1:]), 120.0).seconds == 85.0
    assert share((rule(Deed.PREPARE, timeout_seconds=20.0), *rules[1:]), 120.0).seconds == 20.0
    words = share(rules, 45.2).skip
    assert words == "of the 45 s that are left, 45 s are for what follows"


def test_where_time_is_short_each_of_the_quick_has_its_part() -> None:
    rules = (rule(Deed.RUN, timeout_seconds=60.0), rule(Deed.RUN, timeout_seconds=20.0))
    assert [each.seconds for each in shares(rules, 8.0)] == [6.0, 2.0]
    assert [each.seconds for each in shares(rules, 100.0)] == [60.0, 20.0]


def test_what_follows_a_hibernation_takes_no_time_from_it() -> None:
    rules = (rule(Deed.RUN), rule(Deed.HIBERNATE), rule(Deed.RUN))
    assert until_asleep(rules) == rules[:1]
    assert until_asleep(rules[1:]) == ()
    assert share(rules[1:], 25.0).seconds == 25.0


def test_whether_a_hibernation_follows() -> None:
    assert hibernates((rule(Deed.RUN), rule(Deed.HIBERNATE)))
    assert not hibernates((rule(Deed.RUN), rule(Deed.ASIDE)))
    assert not hibernates(())
