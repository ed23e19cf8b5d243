# SPDX-License-Identifier: LGPL-2.1-or-later
"""Installing below a root, for tests: two versions of hibprep, and looking at the root."""

from __future__ import annotations

import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hibprep.install.changes import Changes, Wish, install, uninstall
from hibprep.install.manifest import GENERATED, SOURCES
from hibprep.install.program import Program
from hibprep.install.steps import Action
from hibprep.kernel.root import KernelRoot

ONE = dict.fromkeys(GENERATED, "one\n")
# A later version: some texts are others, one file is no longer part of it.
TWO = {name: "two\n" for name in GENERATED if name != "fish"}
TEMPLATES = [source.place for source in SOURCES if source.extra is None] + list(GENERATED.values())
PLACES = [
    place.format(systemd="/usr/lib/systemd", zsh="/usr/share/zsh/site-functions")
    for place in TEMPLATES
]
FISH = GENERATED["fish"]

Tree = dict[str, tuple[int, object]]


def tree(top: Path) -> Tree:
    """Everything below: mode, and content or where a link leads."""
    found: Tree = {}
    for path in sorted(top.rglob("*")):
        status = path.lstat()
        content: object = None
        if stat.S_ISLNK(status.st_mode):
            content = str(path.readlink())
        elif stat.S_ISREG(status.st_mode):
            content = path.read_bytes()
        found[str(path.relative_to(top))] = (stat.S_IMODE(status.st_mode), content)
    return found


def changed_times(top: Path) -> dict[str, int]:
    return {str(path): path.lstat().st_mtime_ns for path in top.rglob("*")}


def put(top: Path, generated: Mapping[str, str] = ONE, **wish: Any) -> Changes:  # noqa: ANN401
    return install(KernelRoot(top), Program(), generated, Wish(**wish), run=never)


def take(top: Path, **options: Any) -> Changes:  # noqa: ANN401
    given_options = {"purge": False, "dry_run": False, **options}
    return uninstall(KernelRoot(top), run=never, **given_options)


def never(argv: tuple[str, ...]) -> str:
    raise AssertionError(f"{argv} was run")


def paths(changes: Changes, *actions: Action) -> set[str]:
    return {step.path for step in changes.files if step.action in actions}
