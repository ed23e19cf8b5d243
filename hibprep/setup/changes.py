# SPDX-License-Identifier: LGPL-2.1-or-later
"""What was changed, as it is kept on disk, and how each change is taken back.

A record is written before the change that it tells of, so that what a killed run has left can be
undone as well.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol

from hibprep.errors import HibprepError
from hibprep.kernel.knobs import equivalent
from hibprep.kernel.root import KernelRoot
from hibprep.kernel.swapfile import Made
from hibprep.kernel.swaps import SWAPS, parse_swaps
from hibprep.setup import files


class Tools(Protocol):
    """What steps are carried out with. Each raises HibprepError."""

    root: KernelRoot

    def run(self, program: tuple[str, ...], seconds: float, below_root: str = "") -> None:
        """Run a program, unless it would act on another machine than the root's."""

    def make_swap_file(self, path: str, size_bytes: int, *, is_btrfs: bool) -> Made:
        """See `hibprep.kernel.swapfile.make`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FileChanged:
    """A file was given another content, or was made."""

    kind: Literal["file"] = "file"
    path: str
    before: str | None  # base64; None: there was none
    mode: int
    written: str  # digest
    directories: tuple[str, ...] = ()  # made for it, the outermost first


@dataclass(frozen=True, slots=True, kw_only=True)
class MadeAnew:
    """A program made files from those that were changed: it has to run once more."""

    kind: Literal["again"] = "again"
    program: tuple[str, ...]
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Ran:
    """A program was run that this one undoes."""

    kind: Literal["program"] = "program"
    undo: tuple[str, ...]
    seconds: float
    swaps_to: str = ""  # only while that is in use as swap


@dataclass(frozen=True, slots=True, kw_only=True)
class SwapFileMade:
    """A swap file was made."""

    kind: Literal["swap-file"] = "swap-file"
    path: str


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelSet:
    """A setting of the running kernel was changed."""

    kind: Literal["kernel"] = "kernel"
    path: str
    before: str
    after: str


Change = FileChanged | MadeAnew | Ran | SwapFileMade | KernelSet


@dataclass(slots=True)
class Group:
    """The changes of one step."""

    title: str
    changes: list[Change] = field(default_factory=list)


class LeftAlone(HibprepError):
    """Somebody else has changed it since: that is no failure, and will not be otherwise later."""


@dataclass(slots=True)
class Left:
    """What could not be undone, in words; `again` when another try may do better."""

    words: list[str] = field(default_factory=list)
    again: bool = False

    def add(self, error: HibprepError | OSError) -> None:
        """One thing more."""
        self.words.append(str(error))
        self.again = self.again or not isinstance(error, LeftAlone)


def take_back(
    group: Group, tools: Tools, left: Left, outputs: Mapping[str, files.Kept] | None = None
) -> None:
    """Undo the changes of a step, the last first; what cannot be is added to `left`.

    `outputs` are files that a program made, as they were; without them the program runs again, once
    the files that it works from are back.
    """
    for change in reversed(group.changes):
        try:
            _undo(change, tools)
        except (HibprepError, OSError) as error:
            left.add(error)
    for kept in (outputs or {}).values():
        try:
            files.put_back(tools.root, kept, 0o644)
        except (HibprepError, OSError) as error:
            left.add(error)
    for change in group.changes:
        if isinstance(change, MadeAnew) and not outputs:
            try:
                tools.run(change.program, change.seconds)
            except (HibprepError, OSError) as error:
                left.add(error)


def _undo(change: Change, tools: Tools) -> None:
    root = tools.root
    if isinstance(change, FileChanged):
        _restore(change, root)
    elif isinstance(change, Ran):
        if not change.swaps_to or _in_use(change.swaps_to, root):
            tools.run(change.undo, change.seconds)
    elif isinstance(change, SwapFileMade):
        if _in_use(change.path, root):
            raise HibprepError(f"{change.path}: is still in use as swap", f"swapoff {change.path}")
        files.put_back(root, files.Kept(change.path, None), 0o600)
    elif isinstance(change, KernelSet) and equivalent(root.read(change.path), change.after):
        root.write(change.path, change.before)


def _restore(change: FileChanged, root: KernelRoot) -> None:
    now = files.keep(root, change.path)
    before = None if change.before is None else base64.b64decode(change.before)
    if now.data == before:
        pass  # it was not written yet, or is back already
    elif now.data is not None and files.digest(now.data) != change.written:
        raise LeftAlone(f"{change.path}: was changed since, and is left as it is")
    else:
        files.put_back(root, files.Kept(change.path, before), change.mode)
    for directory in reversed(change.directories):
        try:
            root.path(directory).rmdir()
        except OSError:
            return  # there is more in it by now


def _in_use(path: str, root: KernelRoot) -> bool:
    text = root.try_read(SWAPS)
    return text is not None and any(area.path == path for area in parse_swaps(text))
