# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a host may say to its guest: by table, and whatever anybody may write into the port."""

from __future__ import annotations

import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from hibprep.model import Target, TargetKind
from hibprep.signals.channel_lines import (
    ABLE,
    LARGEST_ID,
    LONGEST_LINE_BYTES,
    Asked,
    LineError,
    Lines,
    parse,
)
from hibprep.signals.demand import Demand


def line(**document: object) -> bytes:
    return json.dumps({"v": 1, "id": 7} | document).encode()


def prepare(**fields: object) -> Demand:
    return Demand(do="prepare", who="the host", **fields)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("said", "asked"),
    [
        (line(do="hello"), Asked(id=7, do="hello")),
        (line(do="status"), Asked(id=7, do="status")),
        (line(do="compact"), Asked(id=7, do="compact")),
        (line(do="stop"), Asked(id=7, do="stop", demand=Demand(do="stop", who="the host"))),
        (line(do="prepare"), Asked(id=7, do="prepare", demand=prepare())),
        (
            line(do="prepare", target="min", timeout_seconds=20, compact=True),
            Asked(
                id=7,
                do="prepare",
                demand=prepare(target=Target(TargetKind.MIN), timeout_seconds=20.0),
                compact=True,
            ),
        ),
        (
            line(do="prepare", target=1 << 30, compact=False),
            Asked(id=7, do="prepare", demand=prepare(target=Target(TargetKind.SIZE, 1 << 30))),
        ),
        (line(id=LARGEST_ID, do="hello"), Asked(id=LARGEST_ID, do="hello")),
    ],
)
def test_requests(said: bytes, asked: Asked) -> None:
    assert parse(said) == asked


@pytest.mark.parametrize(
    ("said", "number", "place", "words"),
    [
        (b"hello", None, "", "not a JSON document"),
        (b"[1]", None, "", "not a JSON object"),
        (b'{"v":1,"do":"hello"}', None, "id", "missing"),
        (line(id="7", do="hello"), None, "id", "whole number"),
        (line(id=True, do="hello"), None, "id", "whole number"),
        (line(id=-1, do="hello"), None, "id", "whole number"),
        (line(id=LARGEST_ID + 1, do="hello"), None, "id", "whole number"),
        (line(v=2, do="hello"), 7, "v", "speaks version 1"),
        (line(v=True, do="hello"), 7, "v", "speaks version 1"),
        (line(), 7, "do", "missing"),
        (line(do="presleep"), 7, "do", "hello, status, prepare, stop, compact"),
        (line(do="swapin"), 7, "do", "swapin"),
        (line(do="hello", who="me"), 7, "who", "no field"),
        (line(do="compact", compact=True), 7, "compact", "no field"),
        (line(do="prepare", wait=True), 7, "wait", "no field"),
        (line(do="prepare", within=3), 7, "within", "no field"),
        (line(do="prepare", target="all"), 7, "target", "image_size, min"),
        (line(do="prepare", timeout_seconds="3"), 7, "timeout_seconds", "number of seconds"),
        (line(do="prepare", compact=1), 7, "compact", "true or false"),
    ],
)
def test_what_is_wrong_is_said_with_its_place(
    said: bytes, number: int | None, place: str, words: str
) -> None:
    with pytest.raises(LineError, match=words) as caught:
        parse(said)
    assert (caught.value.number, caught.value.place) == (number, place)


likely = st.builds(
    lambda number, do, rest: json.dumps({"v": 1, "id": number, "do": do} | rest).encode(),
    st.one_of(st.integers(), st.just("7"), st.booleans()),
    st.sampled_from([*ABLE, "prepare", "swapin", 3]),
    st.dictionaries(
        st.sampled_from(["target", "timeout_seconds", "compact", "v", "who"]),
        st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.just("min")),
        max_size=3,
    ),
)


@given(st.one_of(st.binary(max_size=64), likely, likely))
@example(b'{"v":1,"id":1,"do":"prepare","target":1}')
def test_a_line_is_a_request_or_an_error(said: bytes) -> None:
    asked: Asked | None = None
    try:
        asked = parse(said)
    except LineError as error:
        wrong = str(error)
    else:
        wrong = ""
    if wrong or asked is None:
        assert 0 < len(wrong) < 250
        assert wrong.isprintable()
        return
    document = json.loads(said)
    assert (document["v"], document["id"], document["do"]) == (1, asked.id, asked.do)
    assert (asked.demand is not None) == (asked.do in ("prepare", "stop"))


# --- lines ----------------------------------------------------------------------------------------


@given(st.lists(st.binary(max_size=12)), st.binary(max_size=6), st.data())
def test_lines_do_not_depend_on_how_they_come(
    parts: list[bytes], rest: bytes, data: st.DataObject
) -> None:
    wanted = [part.replace(b"\n", b"") for part in parts]
    whole = b"".join(part + b"\n" for part in wanted) + rest.replace(b"\n", b"")
    lines, at = Lines(), 0
    found: list[bytes | None] = []
    while at < len(whole):
        size = data.draw(st.integers(1, len(whole) - at))
        found += lines.feed(whole[at : at + size])
        at += size
    assert found == [each for each in wanted if each.strip()]


@pytest.mark.parametrize("size", [1, 4096, LONGEST_LINE_BYTES, 3 * LONGEST_LINE_BYTES])
def test_a_line_that_is_too_long_is_one_that_is_not_there(size: int) -> None:
    whole = (
        b"a" * LONGEST_LINE_BYTES
        + b"\n"
        + b"b" * (LONGEST_LINE_BYTES + 1)
        + b"\nc\n"
        + b"d" * (3 * LONGEST_LINE_BYTES)
        + b"\ne\n"
    )
    lines = Lines()
    found: list[bytes | None] = []
    for at in range(0, len(whole), size):
        found += lines.feed(whole[at : at + size])
        assert len(lines._rest) <= LONGEST_LINE_BYTES
    assert found == [b"a" * LONGEST_LINE_BYTES, None, b"c", None, b"e"]
