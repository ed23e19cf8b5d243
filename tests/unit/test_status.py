# SPDX-License-Identifier: LGPL-2.1-or-later
from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hibprep.errors import HibprepError
from hibprep.status import NoticeStatus, SourceStatus, Status
from tests.fakes.host import STATUS

NOTICE = NoticeStatus(
    kind="stop",
    source="aws",
    id="stop-1",
    text="soon",
    deadline="2026-11-22T14:04:00+00:00",
    seconds_left=112.5,
    progress="at work",
    doing="run",
    done=("prepare: done",),
    todo=("hibernate",),
)


@pytest.mark.parametrize(
    "status",
    [
        Status(),
        STATUS,
        Status(notices=(NOTICE, NoticeStatus(kind="", source="", id="")), notices_total=2),
    ],
)
def test_it_comes_back_as_it_was(status: Status) -> None:
    assert Status.from_json(status.to_json()) == status
    assert "\n" not in status.to_json()


def test_what_is_new_is_left_out_and_what_is_missing_has_its_default() -> None:
    text = json.dumps({"version": 1, "phase": "ready", "mood": "good", "sources": [{"name": "x"}]})
    assert Status.from_json(text) == Status(
        phase="ready", sources=(SourceStatus("x", works=False),)
    )


def test_a_number_that_json_has_no_word_for() -> None:
    status = Status(prediction={"hibernate_seconds": math.inf, "resume_seconds": 2.0})
    assert json.loads(status.to_json())["prediction"]["hibernate_seconds"] is None
    assert Status.from_json(status.to_json()).prediction == {"resume_seconds": 2.0}


@pytest.mark.parametrize("version", [2, "1", None, True, 1.0])
def test_another_version(version: object) -> None:
    with pytest.raises(HibprepError, match=r"this program reads version 1: restart hibprep"):
        Status.from_plain({"version": version})


@pytest.mark.parametrize(
    ("field", "value", "place"),
    [
        ("phase", 1, "phase"),
        ("done_stages", "sync", "done_stages"),
        ("done_stages", ["sync", 2], r"done_stages\[1\]"),
        ("progress", [], "progress"),
        ("progress", {"stage": []}, r"progress\.stage"),
        ("prediction", {"hibernate_seconds": "4"}, r"prediction\.hibernate_seconds"),
        ("prediction", {"hibernate_seconds": True}, r"prediction\.hibernate_seconds"),
        ("swap", {"total_bytes": 1.5}, r"swap\.total_bytes"),
        ("fit_ok", "yes", "fit_ok"),
        ("sources", [{"name": 7}], r"sources\[0\]\.name"),
        ("written_today_bytes", None, "written_today_bytes"),
        ("notices", [7], r"notices\[0\]"),
        ("notices", [{"kind": 7}], r"notices\[0\]\.kind"),
        ("notices", [{"seconds_left": "soon"}], r"notices\[0\]\.seconds_left"),
        ("notices", [{"done": [1]}], r"notices\[0\]\.done\[0\]"),
        ("notices_total", 1.5, "notices_total"),
    ],
)
def test_a_value_of_another_type(field: str, value: object, place: str) -> None:
    with pytest.raises(HibprepError, match=f"not understood: {place} is "):
        Status.from_plain({"version": 1, field: value})


@given(
    st.one_of(
        st.text(),
        st.dictionaries(
            st.sampled_from([*Status.__dataclass_fields__, "x"]),
            st.recursive(
                st.one_of(st.none(), st.booleans(), st.integers(), st.text()),
                lambda inner: st.one_of(st.lists(inner), st.dictionaries(st.text(), inner)),
            ),
        ).map(lambda document: json.dumps(document | {"version": 1})),
    )
)
def test_any_text_is_a_status_or_one_clear_line(text: str) -> None:
    status, wrong = None, ""
    try:
        status = Status.from_json(text)
    except HibprepError as error:
        wrong = str(error)
    assert (status is None) == bool(wrong)
    assert "\n" not in wrong
    if status is not None:
        assert Status.from_json(status.to_json()) == status
