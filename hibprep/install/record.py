# SPDX-License-Identifier: LGPL-2.1-or-later
"""The record of what was put: digests of every file, and the directories that were made for them.

It is written before the first file is, so that after a crash in between everything can still be
taken away. Until the files are written it has the digests of both versions.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field

from hibprep.errors import HibprepError, KernelFileMissing
from hibprep.history import STATE_DIRECTORY
from hibprep.kernel.root import KernelRoot

PATH = f"/{STATE_DIRECTORY}/installed.json"
_VERSION = 1


@dataclass(frozen=True, slots=True)
class Record:
    """What was put, by path without the root, and the directories made, parents first."""

    files: Mapping[str, frozenset[str]] = field(default_factory=dict)
    directories: tuple[str, ...] = ()


def load(root: KernelRoot) -> Record:
    """The record below `root`, empty when there is none. HibprepError when it makes no sense: what
    it told of cannot be told from others' files then. KernelFileDenied when one has to be root."""
    try:
        text = root.read(PATH)
    except KernelFileMissing:
        return Record()
    try:
        return _parse(text)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise HibprepError(
            f"{root.path(PATH)} cannot be understood ({error})",
            "move it away; what was installed is taken for somebody else's then",
        ) from error


def _parse(text: str) -> Record:
    document = json.loads(text)
    if document["version"] != _VERSION:
        raise ValueError(f"version {document['version']}")
    return Record(
        {_path(name): frozenset(map(str, put)) for name, put in document["files"].items()},
        tuple(_path(name) for name in document["directories"]),
    )


def document(record: Record, version: str) -> bytes:
    """The record as a file; `version` is that of the hibprep which puts the files."""
    value = {
        "version": _VERSION,
        "hibprep": version,
        "files": {path: sorted(put) for path, put in sorted(record.files.items())},
        "directories": list(record.directories),
    }
    return json.dumps(value, indent=1).encode() + b"\n"


def _path(name: object) -> str:
    # what is listed here is removed as root
    if not isinstance(name, str) or not name.startswith("/") or ".." in name.split("/"):
        raise ValueError(f"{name!r} is no absolute path")
    return name
