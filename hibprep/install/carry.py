# SPDX-License-Identifier: LGPL-2.1-or-later
"""Looks at the files below a root and carries a plan out on them."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import stat
from collections.abc import Iterable, Mapping
from pathlib import Path

from hibprep import __version__
from hibprep.history import STATE_DIRECTORY
from hibprep.install import record as records
from hibprep.install.manifest import Item
from hibprep.install.record import Record
from hibprep.install.steps import Action, Found, Plan, Surroundings, There
from hibprep.kernel.root import KernelRoot

_DPKG_LIST = "/var/lib/dpkg/info/hibprep.list"
_STATE_MODE = 0o700  # as StateDirectoryMode= of the unit has it
_RUN_TIME = "/run/hibprep"


def digest(content: bytes) -> str:
    """What tells one content from another."""
    return hashlib.sha256(content).hexdigest()


def look(root: KernelRoot, wanted: Iterable[str], record: Record) -> Surroundings:
    """What is there of the wanted files, and of those on record."""
    paths = {*wanted, *record.files, records.PATH}
    parents = {str(parent) for path in paths for parent in Path(path).parents}
    listed = (root.try_read(_DPKG_LIST) or "").splitlines()
    return Surroundings(
        found={path: _found(root, path) for path in paths},
        recorded=record.files,
        recorded_directories=record.directories,
        directories=frozenset(parent for parent in parents if root.is_dir(parent)),
        # man pages of a package are compressed
        packaged=frozenset(paths & {line.removesuffix(".gz") for line in listed}),
    )


def install(root: KernelRoot, plan: Plan, items: Iterable[Item], *, recording: bool) -> None:
    """Write the files of the plan; without `recording` nothing tells afterwards whose they are."""
    by_path = {item.path: item for item in items}
    changed = plan.acted_on(Action.WRITE, Action.REPLACE)
    if recording and changed:
        own = [x for x in plan.directories if records.PATH.startswith(f"{x}/")]
        both = _both(records.load(root).files, plan.recorded)
        _make(root, own)
        try:
            _save(root, Record(both, plan.recorded_directories))
        except OSError:
            _take_empty(root, reversed(own))
            raise
    _make(root, plan.directories)
    for path in changed:
        item = by_path[path]
        place = root.path(path)
        # whoever has made a hook not executable means it
        mode = stat.S_IMODE(place.stat().st_mode) if place.exists() else item.mode
        _write(place, item.content, mode)
    _remove(root, plan)
    if recording:
        _keep(root, Record(plan.recorded, plan.recorded_directories))


def uninstall(root: KernelRoot, plan: Plan) -> None:
    """Take away the files of the plan, the record, and the directories that are empty then."""
    _remove(root, plan)
    root.path(records.PATH).unlink(missing_ok=True)
    _take_empty(root, plan.directories)


def purge(root: KernelRoot) -> tuple[str, ...]:
    """Take away what hibprep itself has kept; returns the directories that were there."""
    gone = tuple(place for place in (f"/{STATE_DIRECTORY}", _RUN_TIME) if root.is_dir(place))
    for place in gone:
        shutil.rmtree(root.path(place))
    return gone


def _found(root: KernelRoot, path: str) -> Found:
    place = root.path(path)
    if not root.is_real and not place.parent.resolve().is_relative_to(root.prefix.resolve()):
        return Found(There.OUTSIDE)
    try:
        status = place.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return Found()
    if stat.S_ISLNK(status.st_mode):
        return Found(There.LINK)
    if not stat.S_ISREG(status.st_mode):
        return Found(There.OTHER)
    return Found(There.FILE, digest(place.read_bytes()))


def _make(root: KernelRoot, directories: Iterable[str]) -> None:
    for directory in directories:
        path = root.path(directory)
        with contextlib.suppress(FileExistsError):
            path.mkdir()
            # whatever the umask is
            path.chmod(_STATE_MODE if directory == f"/{STATE_DIRECTORY}" else 0o755)


def _take_empty(root: KernelRoot, directories: Iterable[str]) -> None:
    for directory in directories:
        with contextlib.suppress(OSError):  # somebody else has put something there, or it is gone
            root.path(directory).rmdir()


def _both(
    before: Mapping[str, frozenset[str]], after: Mapping[str, frozenset[str]]
) -> dict[str, frozenset[str]]:
    nothing: frozenset[str] = frozenset()
    return {
        path: before.get(path, nothing) | after.get(path, nothing) for path in {*before, *after}
    }


def _remove(root: KernelRoot, plan: Plan) -> None:
    for path in plan.acted_on(Action.REMOVE):
        root.path(path).unlink(missing_ok=True)


def _keep(root: KernelRoot, record: Record) -> None:
    """The record as it is to be, written only if it differs: installing twice changes nothing."""
    place = root.path(records.PATH)
    if not record.files and not record.directories:
        place.unlink(missing_ok=True)
    elif not place.exists() or place.read_bytes() != records.document(record, __version__):
        _save(root, record)


def _save(root: KernelRoot, record: Record) -> None:
    _write(root.path(records.PATH), records.document(record, __version__), 0o600)


def _write(place: Path, content: bytes, mode: int) -> None:
    """Replace the file as a whole: who reads it meanwhile sees the one or the other."""
    temporary = place.with_name(f".{place.name}.hibprep-new")
    temporary.unlink(missing_ok=True)
    descriptor = os.open(
        temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600
    )
    try:
        with open(descriptor, "wb") as file:  # noqa: PTH123 - a descriptor
            file.write(content)
            os.fchmod(file.fileno(), mode)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(place)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
