# SPDX-License-Identifier: LGPL-2.1-or-later
"""Builds the Debian package with Debian's own tools, in a root file system of the release that it
is for: older ones have neither pydantic 2 nor a hatchling that can read the project, and the result
does not depend on what else is on this machine."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
import tomllib
from datetime import UTC, datetime
from email.utils import format_datetime
from pathlib import Path

from bench.lab import host, images
from bench.lab.images import Progress
from bench.lab.locks import hold
from bench.lab.paths import REPOSITORY, cache_root
from bench.lab.process import run_logged

SUITE = "trixie"
# Beside what the package itself says that its build depends on.
TOOLS = ("build-essential", "lintian", "man-db")
PARTS = ("CHANGELOG.md", "LICENSE", "README.md", "hibprep", "hooks", "pyproject.toml")
RULES = "packaging/debian"

_BINDS = (Path("/proc"), Path("/dev"))
_ENVIRONMENT = {
    "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
    "LC_ALL": "C.UTF-8",
    "HOME": "/nonexistent",
    "DEB_BUILD_OPTIONS": "nocheck",
}


def project_version(project: Path = REPOSITORY) -> str:
    """The version that the project says it is."""
    with (project / "pyproject.toml").open("rb") as stream:
        return str(tomllib.load(stream)["project"]["version"])


def build_depends(control: str) -> tuple[str, ...]:
    """The packages in the field Build-Depends, without versions."""
    field = control.partition("\nBuild-Depends:\n")[2].split("\n\n", 1)[0]
    lines = [line.strip(" ,") for line in field.splitlines() if line.startswith(" ")]
    # a virtual package that says which level of compatibility is wanted
    names = ["debhelper" if line.startswith("debhelper-compat") else line for line in lines]
    return tuple(name.split(" ", 1)[0] for name in names)


def build_deb(
    output: Path, say: Progress, *, version: str | None = None, project: Path = REPOSITORY
) -> Path:
    """The package of the working tree as it is now, checked by lintian, in the folder `output`.

    `version`: another than the project's own, for trying an upgrade.
    """
    host.require(say)
    host.require_keys(SUITE, say)
    output.mkdir(parents=True, exist_ok=True)
    folder = _folder(project)
    with hold(folder.with_name(f".{folder.name}.lock"), "the Debian package", say):
        _make_root(folder, project, say)
        with tempfile.TemporaryDirectory(prefix="build-", dir=folder / "rootfs/tmp") as name:
            source = Path(name) / "hibprep"
            _copy(project, source)
            if version is not None:
                _set_version(source / "debian/changelog", version)
            built = _build(source, folder, say)
            shutil.copyfile(built, output / built.name)
            return output / built.name


def _folder(project: Path) -> Path:
    digest = hashlib.sha256("\n".join(_packages(project)).encode()).hexdigest()[:16]
    return cache_root() / "debian" / f"{SUITE}-{digest}"


def _packages(project: Path) -> tuple[str, ...]:
    return (*TOOLS, *build_depends((project / RULES / "control").read_text()))


def _make_root(folder: Path, project: Path, say: Progress) -> None:
    if (folder / "complete").exists():
        return
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    log = folder / "build.log"
    images.debootstrap((SUITE,), _packages(project), folder / "rootfs", log, say)
    (folder / "complete").touch()


def _build(source: Path, folder: Path, say: Progress) -> Path:
    log = folder / "package.log"
    log.unlink(missing_ok=True)
    inside = Path("/") / source.relative_to(folder / "rootfs")
    say("building the Debian package")
    _run(folder, log, 600, "dpkg-buildpackage", "-b", "-us", "-uc", directory=inside)
    (built,) = source.parent.glob("*.deb")
    (changes,) = source.parent.glob("*.changes")
    say("looking at it with lintian")
    lintian = ("lintian", "--allow-root", "--info", "--fail-on=error", changes.name)
    _run(folder, log, 300, *lintian, directory=inside.parent)
    return built


def _copy(project: Path, source: Path) -> None:
    """What the package is made from, and nothing that lies about beside it."""
    source.mkdir()
    ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
    for part in PARTS:
        if (project / part).is_dir():
            shutil.copytree(project / part, source / part, ignore=ignored)
        else:
            shutil.copyfile(project / part, source / part)
    shutil.copytree(project / RULES, source / "debian")


def _set_version(changelog: Path, version: str) -> None:
    text = changelog.read_text()
    signature = next(line for line in text.splitlines() if line.startswith(" -- "))
    person = signature.removeprefix(" -- ").split("  ", 1)[0]
    entry = (
        f"hibprep ({version}) unstable; urgency=medium\n\n  * Built to try an upgrade.\n\n"
        f" -- {person}  {format_datetime(datetime.now(UTC))}\n\n"
    )
    changelog.write_text(entry + text)


def _run(folder: Path, log: Path, timeout: float, *argv: str, directory: Path) -> None:
    run_logged(
        ["env", f"--chdir={directory}", *argv],
        log,
        timeout=timeout,
        root=folder / "rootfs",
        binds=_BINDS,
        environment=_ENVIRONMENT,
        remedy=f"all it said is in {log}",
    )
