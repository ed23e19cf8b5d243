# SPDX-License-Identifier: LGPL-2.1-or-later
"""Installing below a root: what was there before is there after, whatever happened in between."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hibprep.install import carry
from hibprep.install.manifest import GENERATED
from hibprep.install.steps import Action

from .installing import FISH, ONE, PLACES, TWO, changed_times, paths, put, take, tree

OFTEN = settings(max_examples=60, deadline=None)


# --- what somebody may do ------------------------------------------------------------------------


def write_own(place: Path) -> None:
    place.write_text("somebody's own\n")


def write_ours(place: Path) -> None:
    place.write_text("one\n")


def link(place: Path) -> None:
    place.symlink_to("/dev/null")


def folder(place: Path) -> None:
    place.mkdir()
    (place / "more").write_text("within\n")


def leave(place: Path) -> None:
    pass


DEEDS: dict[str, Callable[[Path], None]] = {
    "own": write_own,
    "ours": write_ours,
    "link": link,
    "folder": folder,
    "parent": leave,
}
surroundings = st.dictionaries(st.sampled_from(PLACES), st.sampled_from(sorted(DEEDS)))
edits = st.dictionaries(st.sampled_from(PLACES), st.sampled_from(["own", "link", "away"]))


@contextmanager
def machine(before: Mapping[str, str]) -> Iterator[Path]:
    """A root in which somebody has been before."""
    with tempfile.TemporaryDirectory() as name:
        top = Path(name)
        for path, deed in before.items():
            place = top / path.lstrip("/")
            place.parent.mkdir(parents=True, exist_ok=True)
            DEEDS[deed](place)
        yield top


def edit(top: Path, path: str, how: str) -> None:
    place = top / path.lstrip("/")
    place.unlink()
    if how != "away":
        DEEDS[how](place)


# --- properties ----------------------------------------------------------------------------------


@OFTEN
@given(surroundings)
def test_uninstall_leaves_what_was_there_before(before: Mapping[str, str]) -> None:
    with machine(before) as top:
        was = tree(top)
        put(top)
        done = take(top)
        assert tree(top) == was
        assert done.whole


@OFTEN
@given(surroundings, st.booleans())
def test_installing_twice_is_installing_once(before: Mapping[str, str], upgrade: bool) -> None:  # noqa: FBT001
    with machine(before) as top:
        first = put(top)
        if upgrade:
            first = put(top, TWO)
        was, times = tree(top), changed_times(top)
        again = put(top, TWO if upgrade else ONE)
        assert tree(top) == was
        assert changed_times(top) == times  # not even written again
        assert not paths(again, Action.WRITE, Action.REPLACE, Action.REMOVE)
        assert again.whole == first.whole


@OFTEN
@given(surroundings, edits)
def test_what_somebody_has_changed_is_kept(
    before: Mapping[str, str], after: Mapping[str, str]
) -> None:
    with machine(before) as top:
        was = tree(top)
        ours = paths(put(top), Action.WRITE)
        touched = {path: how for path, how in after.items() if path in ours}
        for path, how in touched.items():
            edit(top, path, how)
        theirs = {path for path, how in touched.items() if how != "away"}
        edited = tree(top)

        upgraded = put(top, TWO)
        now = tree(top)
        for path in theirs:
            assert now[path.lstrip("/")] == edited[path.lstrip("/")]
        told = paths(upgraded, Action.KEEP)
        assert theirs <= told
        for path in ours - theirs:
            name = path.lstrip("/")
            if path == FISH:
                assert name not in now  # no longer part of it
            elif path in {GENERATED["bash"], GENERATED["hibprep.8"]}:
                assert now[name][1] == b"two\n"
            else:
                assert name in now

        removed = take(top)
        left = tree(top)
        # the fish file was given up as somebody's own when it was no longer part
        assert paths(removed, Action.KEEP) == theirs - {FISH}
        assert removed.whole == (not theirs - {FISH})
        for path in theirs:
            assert left.pop(path.lstrip("/")) == edited[path.lstrip("/")]
        parents = {str(parent) for path in theirs for parent in Path(path.lstrip("/")).parents}
        assert {
            name: each for name, each in left.items() if name not in parents or name in was
        } == (was)


@OFTEN
@given(surroundings, st.integers(0, 14), st.booleans())
def test_an_end_in_the_middle_harms_nothing(
    before: Mapping[str, str],
    at: int,
    upgrade: bool,  # noqa: FBT001
) -> None:
    """However far it came: it can be taken away, and it can be gone on with."""
    with machine(before) as top, pytest.MonkeyPatch.context() as patch:
        was = tree(top)
        if upgrade:
            put(top)
        real, left = carry._write, iter(range(at))

        def write(place: Path, content: bytes, mode: int) -> None:
            if next(left, None) is None:
                raise OSError(28, "No space left on device")
            real(place, content, mode)

        patch.setattr(carry, "_write", write)
        with suppress(OSError):
            put(top, TWO)
        patch.undo()
        if at % 2:
            put(top, TWO)
            assert not paths(put(top, TWO), Action.WRITE, Action.REPLACE, Action.REMOVE)
        take(top)
        assert tree(top) == was
