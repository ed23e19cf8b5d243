# SPDX-License-Identifier: LGPL-2.1-or-later
"""What goes into the Debian package, as far as it can be told without building it."""

from __future__ import annotations

import tomllib
from pathlib import Path

from bench.lab import debian
from bench.lab.recipe import RECIPES, requirements
from hibprep import __version__

TOP = Path(__file__).parents[2]
RULES = TOP / debian.RULES


def test_the_versions_agree() -> None:
    assert debian.project_version() == __version__
    assert (RULES / "changelog").read_text().startswith(f"hibprep ({__version__}) ")


def test_the_later_version_goes_on_top(tmp_path: Path) -> None:
    changelog = tmp_path / "changelog"
    before = (RULES / "changelog").read_text()
    changelog.write_text(before)
    debian._set_version(changelog, "9.9")
    text = changelog.read_text()
    assert text.startswith("hibprep (9.9) unstable; urgency=medium\n\n  * ")
    assert text.endswith(before)
    signature = text.splitlines()[4]
    assert signature.startswith(f" -- {before.splitlines()[4][4:].split('  ')[0]}  ")


def test_what_the_build_needs_is_read_from_the_package_itself() -> None:
    needed = debian.build_depends((RULES / "control").read_text())
    assert {"debhelper", "python3-hatchling", "python3-pydantic"} <= set(needed)
    assert all(name.replace("-", "").replace("3", "").isalpha() for name in needed)


def test_every_requirement_is_a_package_in_the_build_and_in_the_guest() -> None:
    """The command line imports them all when its manual is made."""
    names = {line.split(">")[0].split(";")[0].strip() for line in requirements()}
    packages = {f"python3-{name}" for name in names - {"dbus-fast"}}
    assert packages <= set(debian.build_depends((RULES / "control").read_text()))
    assert packages <= set(RECIPES["packaged"].packages)


def test_a_source_is_what_the_project_is_made_of(tmp_path: Path) -> None:
    source = tmp_path / "hibprep"
    debian._copy(TOP, source)
    project = tomllib.loads((source / "pyproject.toml").read_text())
    wheel = project["tool"]["hatch"]["build"]["targets"]["wheel"]
    for name in (*wheel["only-include"], project["project"]["readme"], "debian/control"):
        assert (source / name).exists()
    assert (source / "debian/rules").stat().st_mode & 0o111
    assert not list(source.rglob("__pycache__"))
