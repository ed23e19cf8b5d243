# SPDX-License-Identifier: LGPL-2.1-or-later
"""Builds the project's wheel for guests to install, and tells one code from another."""

from __future__ import annotations

import ast
import hashlib
import shutil
import sys
import tempfile
from pathlib import Path

from bench.lab.errors import LabError
from bench.lab.paths import REPOSITORY, cache_root
from bench.lab.process import run_logged


def build_wheel(project: Path = REPOSITORY) -> Path:
    """The wheel of the working tree as it is now; in the cache, replaced by the next one."""
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
        wheel = target / built[0].name
        shutil.move(built[0], wheel)
    return wheel


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
