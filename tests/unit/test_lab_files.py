# SPDX-License-Identifier: LGPL-2.1-or-later
"""Recipes, disks, wheels and mirrors of the lab: what needs neither root nor a network."""

from __future__ import annotations

import os
import struct
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from bench.lab import host
from bench.lab.disks import WorkFolder, copy_sparse, make_swap
from bench.lab.errors import LabError
from bench.lab.install import console_scripts
from bench.lab.recipe import RECIPES, requirements


def test_the_key_changes_with_the_recipe_and_only_then() -> None:
    recipe = RECIPES["trixie"]
    assert recipe.key() == replace(recipe).key()
    assert recipe.key() != replace(recipe, packages=(*recipe.packages, "strace")).key()
    assert len({item.key() for item in RECIPES.values()}) == len(RECIPES)


def test_a_foreign_kernel_names_its_suite() -> None:
    assert RECIPES["backports"].install[-1] == "linux-image-cloud-amd64/trixie-backports"
    assert RECIPES["backports"].suites == ("trixie", "trixie-backports")


def test_requirements_come_from_the_project(tmp_path: Path) -> None:
    project = tmp_path / "pyproject.toml"
    project.write_text('[project]\nname = "x"\ndependencies = ["b>=2", "a"]\n')
    assert requirements(project) == ("a", "b>=2")


def test_a_sparse_copy_is_equal_and_sparse(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    with source.open("wb") as stream:
        stream.write(b"begin")
        stream.seek(32 << 20)
        stream.write(os.urandom(100_000))
        stream.truncate(64 << 20)
    copy_sparse(source, target)
    assert target.read_bytes() == source.read_bytes()
    assert target.stat().st_blocks * 512 < 4 << 20


def test_a_swap_disk_has_the_header_that_mkswap_writes(tmp_path: Path) -> None:
    path = tmp_path / "swap"
    make_swap(path, (64 << 20) + 100)
    header = path.read_bytes()[:4096]
    assert path.stat().st_size == 64 << 20
    assert header[4086:] == b"SWAPSPACE2"
    assert struct.unpack_from("<III", header, 1024) == (1, (64 << 20) // 4096 - 1, 0)
    assert not any(header[:1024])


def test_a_dead_owners_folder_is_removed_and_a_living_ones_is_not(tmp_path: Path) -> None:
    living = WorkFolder(tmp_path)
    dead = tmp_path / "guest-dead"
    dead.mkdir()
    (dead / ".lock").touch()
    (dead / "swap.img").touch()
    other = WorkFolder(tmp_path)
    assert living.path.exists()
    assert not dead.exists()
    living.close()
    other.close()
    assert list(tmp_path.iterdir()) == []


def _wheel(path: Path, entry_points: str | None) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("toy/__init__.py", "")
        if entry_points is not None:
            archive.writestr("toy-1.dist-info/entry_points.txt", entry_points)
    return path


def test_a_wheels_commands_are_made_into_scripts(tmp_path: Path) -> None:
    wheel = _wheel(tmp_path / "toy.whl", "[console_scripts]\nToy-tool = toy.cli:main\n")
    scripts = console_scripts(wheel)
    assert "from toy.cli import main" in next(iter(scripts.values()))
    compile(next(iter(scripts.values())), "script", "exec")


def test_a_wheel_without_commands_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LabError, match="declares no command"):
        console_scripts(_wheel(tmp_path / "toy.whl", None))


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        (
            "sources.list.d/debian.sources",
            (
                "Types: deb\n# a comment: with a colon\nURIs: http://mirror.test/debian/\n"
                "Suites: bookworm\n\nTypes: deb\nURIs: http://mirror.test/debian-security\n"
            ),
            "http://mirror.test/debian",
        ),
        (
            "sources.list",
            (
                "# deb http://no.test/debian x main\ndeb-src http://no.test/debian x main\n"
                "deb [arch=amd64 signed-by=/k.gpg] https://mirror.test/debian bookworm main\n"
            ),
            "https://mirror.test/debian",
        ),
    ],
)
def test_the_mirror_is_the_machines_own(
    tmp_path: Path, name: str, text: str, expected: str
) -> None:
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    assert host.mirror(tmp_path) == expected


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (
            "sources.list.d/off.sources",
            "Enabled: no\nTypes: deb\nURIs: http://no.test/debian\n",
        ),
        ("sources.list", "deb http://other.test/ubuntu noble main\n"),
    ],
)
def test_without_a_debian_mirror_it_says_so(tmp_path: Path, name: str, text: str) -> None:
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    with pytest.raises(LabError, match="no Debian mirror"):
        host.mirror(tmp_path)
