# SPDX-License-Identifier: LGPL-2.1-or-later
"""Whatever a service might answer, for properties; and links for tests."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from hypothesis import strategies as st

from hibprep.signals.cloud.base import AnswerError, Link, Reply

Value = TypeVar("Value")

# times as they are written, and almost so
_TIMES = (
    "2017-09-18T08:22:00Z",
    "2017-09-18T08:22:00.123Z",
    "2017-13-18T08:22:00Z",
    "0000-00-00T00:00:00Z",
    "2017-09-18T08:22:60Z",
    "2017-09-18 08:22:00",
    "21 Jan 2019 09:00:43 GMT",
    "Mon, 19 Sep 2016 18:29:47 GMT",
    "31 Feb 2019 09:00:43 GMT",
    "21 Jänner 2019 09:00:43 GMT",
    "٢١ Jan 2019 09:00:43 GMT",
)


def values(*words: str) -> st.SearchStrategy[object]:
    """What may be in a JSON document; these words and times are in it more often than others."""
    leaves = (
        st.none()
        | st.booleans()
        | st.integers()
        | st.floats()
        | st.text(max_size=40)
        | st.sampled_from((*_TIMES, *words))
    )
    keys = st.sampled_from(words) | st.text(max_size=10)
    return st.recursive(
        leaves,
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(keys, inner, max_size=6),
        max_leaves=20,
    )


def texts(*words: str) -> st.SearchStrategy[str]:
    """What may be in an answer: text, documents, and documents that are broken off."""
    documents = values(*words).map(json.dumps)
    cut = st.tuples(documents, st.integers(0, 60)).map(lambda pair: pair[0][: pair[1]])
    deep = st.integers(1, 20_000).map(lambda depth: "[" * depth)
    return st.text(max_size=200) | documents | cut | deep | st.sampled_from((*_TIMES, *words))


def altered(document: Mapping[str, object], *words: str) -> st.SearchStrategy[str]:
    """A document that is right but for some of its fields."""
    changes = st.dictionaries(st.sampled_from(list(document)), values(*words), max_size=3)
    return changes.map(lambda fields: json.dumps({**document, **fields}))


def read(reader: Callable[[str], Value], text: str) -> Value | None:
    """What `reader` makes of it; None where it refuses, in words of its own."""
    try:
        return reader(text)
    except AnswerError as error:
        refusal = error
    assert len(text) < 12 or text not in str(refusal)
    assert refusal.__cause__ is None
    return None


@dataclass
class Same(Link):
    """The same answer to every request."""

    reply: Reply
    asked: list[str] = field(default_factory=list)

    def request(
        self,
        method: str,
        path: str,
        *,
        headers: Mapping[str, str] | None = None,  # noqa: ARG002 - of the protocol
        body: bytes | None = None,  # noqa: ARG002 - as above
        timeout_seconds: float = 2.0,  # noqa: ARG002 - as above
    ) -> Reply:
        self.asked.append(f"{method} {path}")
        return self.reply


@dataclass
class Patience(Link):
    """Another link, with a time-out of the test's."""

    link: Link
    seconds: float = 30.0

    def request(
        self,
        method: str,
        path: str,
        *,
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
        timeout_seconds: float = 2.0,  # noqa: ARG002 - of the protocol
    ) -> Reply:
        return self.link.request(
            method, path, headers=headers, body=body, timeout_seconds=self.seconds
        )
