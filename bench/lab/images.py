# SPDX-License-Identifier: LGPL-2.1-or-later
"""Builds guest images and keeps them: one folder per recipe and key, complete or not there."""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from bench.lab import fixups, host
from bench.lab.errors import LabError
from bench.lab.locks import hold
from bench.lab.paths import images_root
from bench.lab.process import run_logged
from bench.lab.recipe import RECIPES, Recipe, requirements

Progress = Callable[[str], None]

_NETWORK = "is there a network, and does the Debian mirror of this machine's apt sources answer?"
_INODES = 98304
_JOURNAL_MEGABYTES = 32


@dataclass(frozen=True)
class Image:
    """A guest ready to be booted. Its files are never written to."""

    root: Path
    kernel: Path
    initrd: Path
    recipe: Recipe
    kernel_release: str
    build_seconds: float


def _silent(_: str) -> None:
    pass


def folder(recipe: Recipe) -> Path:
    """Where the image of the recipe as it is now is kept."""
    return images_root() / f"{recipe.name}-{recipe.key()}"


def find(recipe: Recipe) -> Image | None:
    """The image of the recipe as it is now, if it was built already."""
    place = folder(recipe)
    try:
        facts = json.loads((place / "image.json").read_text())
    except FileNotFoundError:
        return None
    return Image(
        root=place / "root.img",
        kernel=place / "vmlinuz",
        initrd=place / "initrd",
        recipe=recipe,
        kernel_release=str(facts["kernel_release"]),
        build_seconds=float(facts["build_seconds"]),
    )


def build(recipe: Recipe | str, progress: Progress | None = None) -> Image:
    """The recipe's image: from the cache, or built now (a minute or two)."""
    say = progress or _silent
    if isinstance(recipe, str):
        if recipe not in RECIPES:
            raise LabError(f"no recipe is called {recipe}", f"one of: {', '.join(RECIPES)}")
        recipe = RECIPES[recipe]
    found = find(recipe)
    if found is not None:
        return found
    host.require(say)
    host.require_keys(recipe.suite, say)
    with hold(_lock(recipe.name), recipe.name, say):
        found = find(recipe)  # another builder may have made it while we waited for the lock
        if found is None:
            _build(recipe, say)
            found = find(recipe)
    if found is None:
        raise LabError(f"{recipe.name}: the sources of the lab changed during the build", "again")
    return found


def clean(*, every: bool = False) -> list[Path]:
    """Remove images that no recipe stands for any more, or all; returns what was removed."""
    current = set() if every else {folder(recipe) for recipe in RECIPES.values()}
    removed = []
    for place in sorted(images_root().glob("*")):
        if place not in current and place.is_dir():
            name = place.name.lstrip(".").rpartition("-")[0]
            with hold(_lock(name), name, _silent):
                shutil.rmtree(place, ignore_errors=True)
            removed.append(place)
    return removed


def _lock(name: str) -> Path:
    return images_root() / f".{name}.lock"


def _build(recipe: Recipe, say: Progress) -> None:
    started = time.monotonic()
    place = folder(recipe)
    for leftover in images_root().glob(f".{recipe.name}-*.partial"):
        shutil.rmtree(leftover, ignore_errors=True)
    partial = Path(
        tempfile.mkdtemp(prefix=f".{recipe.name}-", suffix=".partial", dir=images_root())
    )
    log = partial / "build.log"
    rootfs = partial / "rootfs"
    try:
        debootstrap(recipe.suites, recipe.install, rootfs, log, say)
        say(f"{recipe.name}: setting up the guest")
        fixups.apply(rootfs, requirements(), log)
        release = _take_kernel(rootfs, partial)
        say(f"{recipe.name}: writing the disk image")
        _make_disk(rootfs, partial / "root.img", recipe.disk_bytes, log)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    shutil.rmtree(rootfs)
    spent = time.monotonic() - started
    facts = {"kernel_release": release, "build_seconds": round(spent, 1)}
    (partial / "image.json").write_text(json.dumps(facts) + "\n")
    partial.rename(place)
    say(f"{recipe.name}: built in {spent:.0f} s, Linux {release}")


def debootstrap(
    suites: tuple[str, ...], packages: tuple[str, ...], rootfs: Path, log: Path, say: Progress
) -> None:
    """Unpack a minimal Debian with the packages into rootfs."""
    mirror = host.mirror()
    say(f"unpacking Debian {' + '.join(suites)} from {mirror}")
    command = [
        *("mmdebstrap", "--mode=root", "--format=directory", "--variant=minbase"),
        f"--include={','.join(packages)}",
        '--aptopt=Acquire::Languages "none"',
        '--aptopt=Acquire::Retries "3"',
        "--dpkgopt=path-exclude=/usr/share/doc/*",
        "--dpkgopt=path-exclude=/usr/share/man/*",
        "--dpkgopt=path-exclude=/usr/share/locale/*",
        *(suites[0], str(rootfs)),
        *(f"deb {mirror} {suite} main" for suite in suites),
    ]
    run_logged(command, log, timeout=1200, remedy=_NETWORK)


def _take_kernel(rootfs: Path, place: Path) -> str:
    kernels = sorted((rootfs / "boot").glob("vmlinuz-*"))
    if len(kernels) != 1:
        raise LabError(f"expected one kernel in the image, found {[k.name for k in kernels]}")
    release = kernels[0].name.removeprefix("vmlinuz-")
    shutil.copyfile(kernels[0], place / "vmlinuz")
    shutil.copyfile(rootfs / f"boot/initrd.img-{release}", place / "initrd")
    # QEMU loads both directly; the guest's disk need not hold them too.
    for name in (f"vmlinuz-{release}", f"initrd.img-{release}"):
        (rootfs / "boot" / name).unlink()
    return release


def _make_disk(rootfs: Path, disk: Path, size_bytes: int, log: Path) -> None:
    with disk.open("xb") as stream:
        stream.truncate(size_bytes)
    command = [
        *("mke2fs", "-q", "-F", "-t", "ext4", "-L", "hibprep-root", "-m", "0"),
        *("-N", str(_INODES), "-J", f"size={_JOURNAL_MEGABYTES}"),
        # Not left to the guest, whose kernel would write it in the background of a measurement.
        *("-E", "lazy_itable_init=0,lazy_journal_init=0,root_owner=0:0"),
        *("-d", str(rootfs), str(disk)),
    ]
    run_logged(command, log, timeout=300)
