# SPDX-License-Identifier: LGPL-2.1-or-later
from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable

import pytest

from hibprep.model import Ending, Freed, Stage, Target, TargetKind
from hibprep.page import Block, Page, render, seconds, size
from hibprep.report import (
    capabilities_page,
    history_page,
    plan_page,
    report_page,
    target_words,
    to_json,
)

from .examples import CAPABILITIES, GIB, PLAN, REPORT

PAGES = {
    "plan": plan_page(PLAN),
    "plan-empty": plan_page(dataclasses.replace(PLAN, steps=(), limits=(), knobs=(), ages=())),
    "report": report_page(REPORT),
    "report-interrupted": report_page(
        dataclasses.replace(
            REPORT,
            ending=Ending.INTERRUPTED,
            reason="interrupted by SIGINT",
            after=REPORT.before,
            steps=(),
        )
    ),
    "backends": capabilities_page(CAPABILITIES),
    "history": history_page((REPORT,), ("1 line left out",)),
    "history-empty": history_page(()),
}


@pytest.mark.parametrize("name", PAGES)
def test_plain_lines(name: str, golden: Callable[[str, str], None]) -> None:
    golden(f"{name}.txt", render(PAGES[name]))


@pytest.mark.parametrize("name", PAGES)
def test_tables(name: str, golden: Callable[[str, str], None]) -> None:
    text = render(PAGES[name], terminal=True, color=False, width=120)
    golden(f"{name}.table", "\n".join(line.rstrip() for line in text.splitlines()) + "\n")


@pytest.mark.parametrize(("name", "value"), [("plan", PLAN), ("report", REPORT)])
def test_json(name: str, value: object, golden: Callable[[str, str], None]) -> None:
    golden(f"{name}.json", to_json(value) + "\n")


def test_colour_only_when_asked() -> None:
    page = Page("[bold]not markup[/bold]", (Block("A", (("[red]x", "1"),), ("n", "v")),))
    assert "\x1b[" in render(page, terminal=True, color=True, width=80)
    plain = render(page, terminal=True, color=False, width=80)
    assert "\x1b" not in plain
    assert "[bold]not markup[/bold]" in plain
    assert "[red]x" in plain


def test_json_has_bytes_as_integers_and_text_for_enums() -> None:
    document = json.loads(to_json(REPORT))
    assert document["freed"]["anon_bytes"] == 2 * GIB
    assert document["freed"]["reclaimed_bytes"] == REPORT.freed.reclaimed_bytes
    assert document["ending"] == "done"
    assert document["target"] == {"kind": "size", "size_bytes": 2 * GIB, "seconds": 0.0}
    assert document["fit_after"]["ok"] is False
    assert json.loads(to_json(CAPABILITIES))[0]["features"] == ["swappiness"]


def test_json_has_no_words_for_infinity() -> None:
    assert json.loads(to_json({"a": math.inf, Stage.ANON: (math.nan, 1.5)})) == {
        "a": None,
        "anon": [None, 1.5],
    }


def test_words() -> None:
    assert size(Freed(file_bytes=100 << 20).reclaimed_bytes) == "100.0 MiB"
    assert seconds(math.inf) == "unknown"
    assert seconds(1200) == "20 min"
    assert [target_words(Target(kind, GIB, 7.5)) for kind in TargetKind] == [
        "the kernel's image_size",
        "an image of 1.0 GiB",
        "the smallest image possible",
        "a hibernation within 7.5 s",
    ]
