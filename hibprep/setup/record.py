# SPDX-License-Identifier: LGPL-2.1-or-later
"""The changes that were made, in `/var/lib/hibprep/setup/`, one JSON file for each plan that was
carried out; `hibprep setup undo` works from them."""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field

from hibprep.errors import HibprepError, KernelFileError
from hibprep.kernel.durable import replace_durably
from hibprep.kernel.root import KernelRoot, translate
from hibprep.setup import files
from hibprep.setup.changes import Group

DIRECTORY = "/var/lib/hibprep/setup"
_VERSION = 1
_ENDING = ".json"


@dataclass(slots=True)
class Record:
    """What one plan has changed so far."""

    name: str
    when: str  # ISO 8601, UTC
    groups: list[Group] = field(default_factory=list)
    version: int = _VERSION


@contextlib.contextmanager
def locked(root: KernelRoot) -> Iterator[None]:
    """Hold this while something is changed: one at a time."""
    where = root.path(DIRECTORY)
    try:
        where.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(where, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise translate(DIRECTORY, error) from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise HibprepError(
                "another hibprep is changing this machine", "wait for its end"
            ) from None
        yield
    finally:
        os.close(descriptor)


def path_of(name: str) -> str:
    """Where the record of that name is."""
    return f"{DIRECTORY}/{name}{_ENDING}"


def save(root: KernelRoot, record: Record) -> None:
    """Write it through to the disk."""
    text = json.dumps(dataclasses.asdict(record), indent=1)
    path = path_of(record.name)
    try:
        replace_durably(root.path(path), text.encode())
    except OSError as error:
        raise translate(path, error) from error


def forget(root: KernelRoot, name: str) -> None:
    """Nothing of it is changed any more."""
    files.put_back(root, files.Kept(path_of(name), None), 0o600)


def names(root: KernelRoot) -> tuple[str, ...]:
    """The plans that have changed something, the latest last."""
    try:
        found = root.listdir(DIRECTORY)
    except KernelFileError:
        return ()
    paths = [name for name in found if name.endswith(_ENDING) and not name.startswith(".")]
    paths.sort(key=lambda name: root.path(f"{DIRECTORY}/{name}").stat().st_mtime_ns)
    return tuple(name.removesuffix(_ENDING) for name in paths)


def load(root: KernelRoot, name: str) -> Record:
    """The record of that name; HibprepError when there is none or it makes no sense."""
    from pydantic import TypeAdapter, ValidationError  # noqa: PLC0415 - it takes 80 ms

    try:
        return TypeAdapter(Record).validate_json(root.read(path_of(name)))
    except ValidationError:
        raise HibprepError(f"{path_of(name)}: is no record of hibprep's") from None
