# SPDX-License-Identifier: LGPL-2.1-or-later
"""The undo record: what is written is read again, and what is not one is told."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hibprep.guests.errors import RecordMalformedError
from hibprep.guests.record import NAMESPACE, Owner, Record, from_xml, to_xml

KIB = 1024
WORDS = st.text("0123456789abcdefABCDEF-:.+_", max_size=40)
NUMBERS = st.integers(0, 2**40)

RECORDS = st.builds(
    Record,
    original_bytes=st.integers(1, 2**40).map(lambda kib: kib * KIB),
    set_bytes=NUMBERS.map(lambda kib: kib * KIB),
    stats_period_seconds=st.integers(0, 2**31),
    reserve_bytes=NUMBERS.map(lambda kib: kib * KIB),
    limit_seconds=NUMBERS,
    written=WORDS,
    owner=st.builds(Owner, host=WORDS, boot=WORDS, pid=NUMBERS, start=NUMBERS),
)
WELL = to_xml(Record(original_bytes=640 * KIB))


@given(RECORDS)
def test_there_and_back(record: Record) -> None:
    assert from_xml(to_xml(record)) == record


@given(st.integers(1, 2**50))
def test_never_less_than_it_had(original: int) -> None:
    assert from_xml(to_xml(Record(original_bytes=original))).original_bytes >= original


def test_with_the_namespace_as_virsh_shows_it() -> None:
    there = WELL.replace("<prepared", f'<hibprep:prepared xmlns:hibprep="{NAMESPACE}"')
    assert from_xml(there).original_bytes == 640 * KIB


def test_what_a_later_version_adds_is_left_alone() -> None:
    assert from_xml(WELL.replace("<prepared", '<prepared more="x"')) == from_xml(WELL)


@pytest.mark.parametrize(
    ("xml", "said"),
    [
        ("", "it is not XML"),
        ("<prepared", "it is not XML"),
        ("<other/>", "it is not <prepared>"),
        ("<prepared/>", "original-kib is missing"),
        (WELL.replace('"640"', '"0"'), "original-kib is 0"),
        (WELL.replace('"640"', '"-640"'), "original-kib is '-640'"),
        (WELL.replace('"640"', '"9999999999999999999"'), "original-kib is '999"),
        (WELL.replace('"640"', '"9999999999999999"'), "original-kib is 999"),
        (WELL.replace('pid="0"', 'pid="x"'), "pid is 'x'"),
        (WELL.replace('written=""', 'written="&lt;x&gt;"'), "written is '<x>'"),
        (WELL + " " * 70_000, "it has 70"),
    ],
)
def test_what_is_wrong_is_said(xml: str, said: str) -> None:
    with pytest.raises(RecordMalformedError, match="cannot be read") as caught:
        from_xml(xml)
    assert said in caught.value.message


@given(st.text(max_size=200) | RECORDS.map(to_xml).flatmap(
    lambda xml: st.integers(0, len(xml)).map(lambda at: xml[:at] + xml[at + 1 :])
))  # fmt: skip
def test_anything_else_is_a_typed_error(xml: str) -> None:
    try:
        record = from_xml(xml)
    except RecordMalformedError:
        return
    assert record.original_bytes > 0
