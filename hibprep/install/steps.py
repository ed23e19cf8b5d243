# SPDX-License-Identifier: LGPL-2.1-or-later
"""Pure: what is done with each file, from what is to be there, what is there, and what was put.

What hibprep did not put, or what has changed since, is somebody's own and stays as it is.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import PurePosixPath

from hibprep.install.manifest import Item

Digests = Mapping[str, frozenset[str]]


class There(StrEnum):
    """What is at a path."""

    NOTHING = "nothing"
    FILE = "file"
    LINK = "a symbolic link"
    OTHER = "something that is no file"
    OUTSIDE = "a directory that leads out of the root"


@dataclass(frozen=True, slots=True)
class Found:
    """What is at one path, and the digest of its content where it is a file."""

    there: There = There.NOTHING
    digest: str = ""


NOTHING = Found()


class Action(StrEnum):
    """What becomes of one path."""

    WRITE = "write"
    REPLACE = "replace"
    REMOVE = "remove"
    SAME = "same"  # it is there already
    KEEP = "keep"  # it is not ours to change
    GONE = "gone"  # it is to be taken away and is away


@dataclass(frozen=True, slots=True)
class Step:
    """What becomes of one path and why. `short` of what was wanted: something is in the way."""

    path: str
    action: Action
    reason: str = ""
    short: bool = False


@dataclass(frozen=True, slots=True)
class Plan:
    """Every step, in the order of the paths; the directories to make, or to take away if empty;
    and what is on record afterwards."""

    steps: tuple[Step, ...]
    directories: tuple[str, ...]
    recorded: Digests
    recorded_directories: tuple[str, ...]

    @property
    def short(self) -> bool:
        """Whether anything was in the way."""
        return any(step.short for step in self.steps)

    def acted_on(self, *actions: Action) -> tuple[str, ...]:
        """The paths with one of these actions."""
        return tuple(step.path for step in self.steps if step.action in actions)


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What the steps are decided on, beside what is wanted."""

    found: Mapping[str, Found]  # a path that is not among them is not there
    recorded: Digests = field(default_factory=dict)  # what was put, and is not known to be gone
    recorded_directories: tuple[str, ...] = ()  # made by us, parents first
    directories: frozenset[str] = frozenset()  # those of the wanted files that are there
    packaged: Collection[str] = frozenset()  # belongs to a package of the distribution

    def at(self, path: str) -> Found:
        """What is at `path`."""
        return self.found.get(path, NOTHING)


def to_install(
    items: Iterable[tuple[Item, str]], surroundings: Surroundings, record_path: str
) -> Plan:
    """Everything for these files, each with the digest of its content, to be there. `record_path`
    is where it will be recorded, "" for nowhere."""
    steps: list[Step] = []
    recorded: dict[str, frozenset[str]] = {}
    wanted = {item.path: (item, digest) for item, digest in items}
    for path in sorted({*wanted, *surroundings.recorded}):
        put = surroundings.recorded.get(path, frozenset())
        if path not in wanted:
            steps.append(_take_away(path, put, surroundings, "no longer part of hibprep"))
            continue
        item, digest = wanted[path]
        step = _put(item, digest, put, surroundings)
        steps.append(step)
        if step.action in {Action.WRITE, Action.REPLACE} or (step.action is Action.SAME and put):
            recorded[path] = frozenset({digest})
        elif put and path not in surroundings.packaged:
            recorded[path] = put
    written = [step.path for step in steps if step.action is Action.WRITE]
    if recorded and record_path:
        written.append(record_path)
    made = _missing_parents(written, surroundings.directories)
    # sorted, parents come first
    all_made = tuple(sorted({*surroundings.recorded_directories, *made}))
    return Plan(tuple(steps), made, recorded, all_made)


def to_uninstall(surroundings: Surroundings) -> Plan:
    """Everything that was put taken away, and nothing else."""
    steps = tuple(
        _take_away(path, put, surroundings, "")
        for path, put in sorted(surroundings.recorded.items())
    )
    return Plan(steps, tuple(reversed(surroundings.recorded_directories)), {}, ())


def _put(item: Item, digest: str, put: frozenset[str], surroundings: Surroundings) -> Step:
    path = item.path
    if path in surroundings.packaged:
        return Step(path, Action.SAME, "it belongs to the package of the distribution")
    found = surroundings.at(path)
    if found.there is There.NOTHING:
        return Step(path, Action.WRITE)
    if found.there is not There.FILE:
        return Step(path, Action.KEEP, f"in the way: {found.there}", short=True)
    if found.digest == digest:
        return Step(path, Action.SAME, "" if put else "it was there before")
    if found.digest in put:
        return Step(path, Action.REPLACE)
    if not put:
        return Step(path, Action.KEEP, "in the way: not put by hibprep install", short=True)
    if digest in put:
        return Step(path, Action.KEEP, "changed since it was put; nothing is new in ours")
    where = f": {item.source}" if item.source else ""
    return Step(path, Action.KEEP, f"changed since it was put; ours is newer{where}", short=True)


def _take_away(path: str, put: frozenset[str], surroundings: Surroundings, why: str) -> Step:
    if path in surroundings.packaged:
        return Step(path, Action.GONE, "it belongs to the package of the distribution")
    found = surroundings.at(path)
    if found.there is There.NOTHING:
        return Step(path, Action.GONE, "it is not there any more")
    if found.there is There.FILE and found.digest in put:
        return Step(path, Action.REMOVE, why)
    return Step(path, Action.KEEP, "changed since it was put", short=True)


def _missing_parents(paths: Iterable[str], there: frozenset[str]) -> tuple[str, ...]:
    """The directories that the paths need and that are not there, parents first."""
    missing = {
        str(parent)
        for path in paths
        for parent in PurePosixPath(path).parents
        if str(parent) not in there and str(parent) != "/"
    }
    return tuple(sorted(missing))
