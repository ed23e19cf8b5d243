# SPDX-License-Identifier: LGPL-2.1-or-later
"""Builds the project's wheel for guests to install, and tells one code from another."""

from __future__ import annotations

import ast
import hashlib
import os
import shutil
import sys
import tempfile
from pathlib import Path

from bench.lab.errors import LabError
from bench.lab.paths import REPOSITORY, cache_root
from bench.lab.process import run_logged

_DAY_SECONDS = 86400.0


def build_wheel(project: Path = REPOSITORY) -> Path:
    """The wheel of the working tree as it is now; in the cache, in a folder of its content, so that
    two trees that are measured at a time do not get each other's. Those of other days are removed.
    """
    target = cache_root() / "wheel"
    target.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".wheel-", dir=target) as name:
        place = Path(name)
        log = target / "build.log"
        log.unlink(missing_ok=True)
        run_logged(
            [
                *(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-input"),
                *("--disable-pip-version-check", f"--wheel-dir={place}", str(project)),
            ],
            log,
            timeout=300,
            remedy="the build needs pip, and hatchling from a package index that pip knows",
        )
        built = list(place.glob("*.whl"))
        if len(built) != 1:
            raise LabError(f"{project}: expected one wheel, found {[x.name for x in built]}")
        digest = hashlib.sha256(built[0].read_bytes()).hexdigest()[:16]
        wheel = target / digest / built[0].name
        wheel.parent.mkdir(exist_ok=True)
        built[0].replace(wheel)
    _prune(target, wheel.parent)
    return wheel


def _prune(target: Path, kept: Path) -> None:
    """Remove the folders that nobody has built into for a day."""
    os.utime(kept)
    oldest = kept.stat().st_mtime - _DAY_SECONDS
    for folder in target.iterdir():
        if folder.is_dir() and not folder.name.startswith(".") and folder.stat().st_mtime < oldest:
            shutil.rmtree(folder, ignore_errors=True)


def code_key(project: Path = REPOSITORY) -> str:
    """Of the code that is measured: samples of other code are not mixed with its own.

    As the interpreter sees it, docstrings left out: words are no reason to measure again.
    """
    digest = hashlib.sha256()
    package = project / "hibprep"
    for path in sorted(package.rglob("*.py")):
        tree = ast.parse(path.read_text())
        for node in ast.walk(tree):
            body = getattr(node, "body", None)
            if isinstance(body, list) and body and _is_text(body[0]):
                del body[0]
        digest.update(f"{path.relative_to(package)}\0{ast.dump(tree)}\0".encode())
    return digest.hexdigest()[:12]


def _is_text(node: ast.AST) -> bool:
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    )
