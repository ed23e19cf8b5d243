# SPDX-License-Identifier: LGPL-2.1-or-later
"""Recipes, disks, wheels and mirrors of the lab: what needs neither root nor a network."""

from __future__ import annotations

import os
import struct
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bench.lab import host
from bench.lab.disks import WorkFolder, copy_sparse, grow, make_swap
from bench.lab.errors import LabError
from bench.lab.install import console_scripts
from bench.lab.recipe import RECIPES, requirements
from bench.lab.storage import Storage, parse_first_page


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


def test_a_disk_grows_to_whole_mib_and_never_shrinks(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.write_bytes(b"begin")
    grow(disk, (3 << 20) + 1)
    assert disk.stat().st_size == 4 << 20
    assert disk.stat().st_blocks * 512 < 1 << 20
    grow(disk, 1 << 20)
    assert disk.stat().st_size == 4 << 20
    assert disk.read_bytes().startswith(b"begin")


MIB = 1 << 20
NO_SWAP = {"swap_bytes": 0, "swap_file": False}
SWAP_DISK = {"swap_bytes": 8 * MIB, "swap_file": False}
SWAP_FILE = {"swap_bytes": 8 * MIB, "swap_file": True}


@pytest.mark.parametrize(
    ("wanted", "disks_mib", "words"),
    [
        ({**SWAP_DISK, "root_bytes": None}, [4, 8], ["resume=/dev/vdb"]),
        ({**NO_SWAP, "root_bytes": 6 * MIB}, [6, None], ["noresume", "systemd.swap=no"]),
        (
            {**SWAP_FILE, "root_bytes": None},
            [12, None],
            ["resume=/dev/vda", "systemd.swap=no"],
        ),
        (
            {**SWAP_FILE, "root_bytes": 6 * MIB},
            [14, None],
            ["resume=/dev/vda", "systemd.swap=no"],
        ),
    ],
)
def test_a_guest_gets_its_disks_and_its_kernel_is_told_where_swap_is(
    tmp_path: Path, wanted: dict[str, Any], disks_mib: list[int | None], words: list[str]
) -> None:
    image = tmp_path / "image"
    image.touch()
    os.truncate(image, 4 * MIB)
    storage = Storage(**wanted)
    disks = storage.make_disks(image, tmp_path)
    assert [None if disk is None else disk.stat().st_size // MIB for disk in disks] == disks_mib
    assert storage.kernel_words() == words


def test_a_swap_file_has_to_have_a_size() -> None:
    with pytest.raises(LabError, match="0 bytes"):
        Storage(root_bytes=None, swap_bytes=0, swap_file=True)


def test_the_first_page_of_a_file_is_read_from_filefrag() -> None:
    text = """Filesystem type is: ef53
File size of /swapfile is 4294967296 (1048576 blocks of 4096 bytes)
 ext:     logical_offset:        physical_offset: length:   expected: flags:
   0:        0..       0:     100352..    100352:      1:
   1:        1..   32766:     100353..    133118:  32766:             unwritten
"""
    assert parse_first_page(text) == 100352
    with pytest.raises(LabError, match="no first extent"):
        parse_first_page("Filesystem type is: ef53\n/swapfile: 0 extents found\n")


def test_a_dead_owners_folder_is_removed_and_a_living_ones_is_not(tmp_path: Path) -> None:
    living = WorkFolder(tmp_path)
    dead = tmp_path / "guest-dead"
    dead.mkdir()
    (dead / ".lock").touch()
    (dead / "swap.img").touch()
    unlike = WorkFolder(tmp_path, prefix="rig-")
    assert dead.exists()  # not one of its kind
    other = WorkFolder(tmp_path)
    assert living.path.exists()
    assert unlike.path.exists()
    assert not dead.exists()
    for folder in (living, unlike, other):
        folder.close()
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
