# SPDX-License-Identifier: LGPL-2.1-or-later
"""The lab's command line, as far as it goes without a guest."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from click.testing import CliRunner

from bench.__main__ import main
from bench.lab import images
from bench.lab.cli import size
from bench.lab.errors import LabError
from bench.lab.recipe import RECIPES


@pytest.mark.parametrize(
    ("text", "expected"),
    [("4096", 4096), ("2G", 2 << 30), ("1.5M", 3 << 19), ("512MiB", 512 << 20), ("0", 0)],
)
def test_sizes(text: str, expected: int) -> None:
    assert size(text) == expected


def test_a_bad_size_is_one_clear_line() -> None:
    result = CliRunner().invoke(main, ["lab", "boot", "trixie", "--memory", "2X"])
    assert result.exit_code == 2
    assert "--memory" in result.output
    assert "512M" in result.output


def test_list_and_clean_of_an_empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HIBPREP_CACHE", str(tmp_path))
    listed = CliRunner().invoke(main, ["lab", "list"])
    assert listed.exit_code == 0
    assert "trixie-backports" in listed.output
    cleaned = CliRunner().invoke(main, ["lab", "clean"])
    assert cleaned.exit_code == 0
    assert "nothing to remove" in cleaned.output


def test_clean_keeps_what_is_current(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HIBPREP_CACHE", str(tmp_path))
    current = images.folder(RECIPES["trixie"])
    old = current.with_name("trixie-0123456789abcdef")
    for place in (current, old):
        place.mkdir(parents=True)
    assert images.clean() == [old]
    assert current.exists()
    assert images.clean(every=True) == [current]


def test_an_unknown_recipe_names_the_known_ones() -> None:
    with pytest.raises(LabError, match="bookworm, trixie, backports"):
        images.build("sid")


def test_building_without_root_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HIBPREP_CACHE", str(tmp_path))
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(LabError, match="must run as root"):
        images.build("trixie")
